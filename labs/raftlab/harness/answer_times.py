"""Checks how long servers take to answer client_request (labs 3A and 3B): at most 2 s by the server's clock.

A clerk's call has no timeout of its own, so a clerk whose request is never answered waits for ever. The trace shows when
each request arrived and when it was answered. A server that crashes need not answer. While a server is paused or still being
constructed, no time is counted.
"""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raftlab.explain import rules
from raftlab.harness.trace import ArriveEvent, OutgoingEvent, RateEvent, ServerEvent
from raftlab.participants import name_of

if TYPE_CHECKING:
    from raftlab.harness.cluster import Cluster

METHOD = "client_request"
# Seconds within which a server must answer, by its own clock (from the handout of lab 3A).
ANSWER_LIMIT = 2.0
# Seconds added to the limit in the simulator, where only the student's own waits take time. A service that gives up at the
# limit may look at the clock only at intervals, and the simulator may preempt its thread, each time for up to 0.03 s.
SLACK_SIM = 0.5
# Seconds added to the limit on the real network. There a service that waits until the limit may not get a processor for
# some seconds. On the real network this check only has to find waits that never end.
SLACK_REAL = 4.0


@dataclass(slots=True)
class _Request:
    """A request that its server has not answered yet.

    Attributes:
        rpc: the number of its RPC in the trace.
        counted_until: the lab's time, in seconds, up to which ``waited`` has been counted.
        rate: the lowest rate of the server's clock since the request arrived, because a wait that has begun does not become
            shorter when the clock becomes faster.
        waited: how long the request has waited, in seconds of the server's clock.
    """

    rpc: int
    counted_until: float
    rate: float
    waited: float = 0.0


@dataclass(slots=True)
class _Server:
    """The state of a server at some event of the trace."""

    ready: bool = False
    paused: bool = False
    rate: float = 1.0
    requests: deque[_Request] = field(default_factory=deque)

    def count(self, until: float) -> None:
        """Count the waiting time of all requests up to ``until``. Since the last call, the server's state must not have
        changed."""
        for request in self.requests:
            if self.ready and not self.paused:
                request.waited += (until - request.counted_until) * request.rate
            request.counted_until = until

    def set_rate(self, rate: float) -> None:
        self.rate = rate
        for request in self.requests:
            request.rate = min(request.rate, rate)

    def take(self, rpc: int) -> _Request | None:
        """Remove and return the oldest request of this RPC. There are two if the network duplicated the request."""
        found = next((request for request in self.requests if request.rpc == rpc), None)
        if found is not None:
            self.requests.remove(found)
        return found


def answered_in_time(c: Cluster) -> None:
    """Wait for the answers to every client_request that has arrived, and fail the test if one took too long."""
    limit = ANSWER_LIMIT + (SLACK_SIM if c.virtual else SLACK_REAL)
    c.wait_for(limit + 0.1, lambda: not c.event_loop.in_handlers(METHOD))
    servers: defaultdict[int, _Server] = defaultdict(_Server)
    for event in c.event_loop.trace.events:
        if isinstance(event, ArriveEvent):
            if event.method == METHOD:
                server = servers[event.server]
                server.requests.append(_Request(event.id, event.time, server.rate))
        elif isinstance(event, OutgoingEvent):
            if event.method == METHOD and event.kind == "answer":
                server = servers[event.server]
                server.count(event.time)
                request = server.take(event.id)
                if request is not None and request.waited > limit:
                    _fail(c, event.server, request, f"it took {request.waited:.1f} s")
        elif isinstance(event, (ServerEvent, RateEvent)):
            server = servers[event.server]
            server.count(event.time)
            if isinstance(event, RateEvent):
                server.set_rate(event.rate)
            elif event.kind == "crash":
                servers[event.server] = _Server(rate=server.rate)
            elif event.kind == "ready":
                server.ready = True
            else:
                server.paused = event.kind == "pause"
    for number, server in servers.items():
        server.count(c.now)
        for request in server.requests:
            if request.waited > limit:
                _fail(c, number, request, f"after {request.waited:.1f} s it has not")


def _fail(c: Cluster, server: int, request: _Request, observed: str) -> None:
    rpc = c.event_loop.rpcs_by_id[request.rpc]
    args = rpc.args
    what = f"{args['op']} of {name_of(rpc.src)} (session {args['client_id']}, serial {args['serial']})"
    text = f"expected {name_of(server)} to answer the {what} within {ANSWER_LIMIT:.0f} s, but {observed}"
    c.fail(text, rules.ANSWERED_IN_TIME, [server, rpc.src])
