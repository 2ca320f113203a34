"""Lab 3A: client writes during which a fault happens at a chosen step.

handouts/clients.md has the eight steps of a write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.harness.clerks import ClientOperation, token
from raftlab.harness.cluster import Cluster
from raftlab.harness.event_loop import Hold
from raftlab.harness.message_filters import entries
from raftlab.harness.rpc import Rpc
from raftlab.harness.trace import OutgoingEvent
from raftlab.referee.base import Message

# Seconds to wait for the moment at which a fault happens. If that moment does not come, because this service works in
# another way, the write goes on without the fault.
_FAULT_LIMIT = 2.0
# Seconds that a crashed server stays down if it must be back before the others elect a leader.
_SOON = 0.05


class WritePath:
    """Writes of clerk C0, each with a fault. C1 reads what became of them.

    Half of the writes, drawn at random, are appends to "x". The others are swaps in "y", whose answer must be True no matter
    how often the request is repeated.

    Args:
        c: a cluster of three servers and at least two clerks.
        step: a text that says what happens in the step; messages show it.

    Attributes:
        leader: the leader when the present write began.
        followers: the other servers.
        operation: the present write.
    """

    def __init__(self, c: Cluster, step: str) -> None:
        self.c = c
        self.step = step
        self.leader = 0
        self.followers: list[int] = []
        self.operation: ClientOperation
        self._writer, self._reader = c.clerks[:2]
        self._case = ""
        self._values: dict[str, str] = {"x": "", "y": ""}  # the value that each key should have
        self._next: tuple[str, str, str] = (
            "",
            "",
            "",
        )  # the op and the key of the present write, and the key's value after it
        self._written = 0
        self._holds: list[Hold] = []
        self._writer.swap("y", None, "")
        self._reader.get("x")

    @contextlib.contextmanager
    def write(self, case: str) -> Iterator[None]:
        """A write with a fault. The ``with`` block arms the fault, calls :meth:`begin` and waits. After the block, all
        servers work again, and the write must have been carried out exactly once.

        Args:
            case: the fault, as a clause.
        """
        c = self.c
        self._case = case
        c.note(f"{self.step}: {case}")
        self.leader = c.settled_leader()
        self.followers = [server for server in range(c.size) if server != self.leader]
        # Let the clerk find the leader, and wait until the servers have nothing to do.
        self._writer.get("x")
        applied = c.event_loop.referee.applies.last_applied
        c.wait_for(_FAULT_LIMIT, lambda: len({applied.get(server) for server in range(c.size)}) == 1)
        yield
        self._let_go()
        if sum(c.server_state(server).up for server in range(c.size)) <= c.size // 2:
            c.start_all()
        self._writer.finish(self.operation)
        c.start_all()
        c.heal()
        self.check()

    def begin(self) -> None:
        """Let C0 begin its write."""
        self._written += 1
        new = token("C0", self._written)
        if self.c.random.random() < 0.5:
            self._next = ("append", "x", self._values["x"] + new)
            self.operation = self._writer.begin("append", "x", new)
        else:
            self._next = ("swap", "y", new)
            self.operation = self._writer.begin("swap", "y", self._values["y"], new)

    def check(self) -> None:
        """Require that the present write was carried out exactly once."""
        op, key, wanted = self._next
        text = f"expected {self.operation.describe()} to be carried out exactly once, but"
        fault = f"The fault was: {self._case} ({self.step})"
        if op == "swap":
            answer = self.operation.result
            self.c.expect(answer is True, f"{text} it returned {answer}. {fault}", rules.EXACTLY_ONCE)
        value = self._reader.get(key)
        text = f"{text} {key!r} is {short(value)}, not {short(wanted)}. {fault}"
        self.c.expect(value == wanted, text, rules.EXACTLY_ONCE)
        self._values[key] = wanted

    # --- faults ---

    def crash_at(
        self, server: int, kind: str, nth: int = 1, side: str = "before", method: str = "",
        when: Callable[[Message], bool] | None = None,
    ) -> None:  # fmt: skip
        """Begin the write and let ``server`` crash at an effect, as ``Cluster.crash_at`` does."""
        self.c.crash_at(server, kind, nth, side, method, when)
        self.begin()
        self.wait_for_crash(server)

    def wait_for_crash(self, server: int) -> None:
        """Wait until ``server`` has crashed. The server may come back at once, or only after the others have done the
        write."""
        c = self.c
        c.wait_for(_FAULT_LIMIT, lambda: not c.server_state(server).up or self.operation.done)
        if not c.server_state(server).up and c.random.random() < 0.5:
            c.sleep(_SOON)
            c.restart(server)

    def crash(self, *servers: int) -> None:
        """Crash servers now."""
        for server in servers:
            self.c.crash(server)

    def hold(
        self, method: str, leg: str, src: int | None = None, dst: int | None = None,
        when: Callable[[Message], bool] | None = None, most: int | None = None,
    ) -> Hold:  # fmt: skip
        """Hold messages as ``Cluster.hold`` does, until the end of the present write at most."""
        hold = self.c.hold(method, src, dst, leg, when, most)
        self._holds.append(hold)
        return hold

    def hold_request(self) -> Hold:
        """Hold C0's next request to the leader."""
        return self.hold("client_request", "request", self._writer.number, self.leader, most=1)

    def hold_reply(self) -> Hold:
        """Hold the leader's next reply to C0."""
        return self.hold("client_request", "reply", self._writer.number, self.leader, most=1)

    def hold_entries(self, leg: str) -> Hold:
        """Hold the leader's AppendEntries with entries, or the replies to them."""
        return self.hold("append_entries", leg, src=self.leader, when=entries)

    def wait_for(self, done: Callable[[], object], seconds: float = _FAULT_LIMIT) -> None:
        """Wait until ``done()`` or until the write is done, for at most ``seconds``."""
        self.c.wait_for(seconds, lambda: bool(done()) or self.operation.done)

    def deliver_twice(self, hold: Hold) -> None:
        """Deliver what is held, and a copy 10 ms later."""
        c = self.c
        for rpc, _ in hold.messages:
            c.event_loop.deliver(c.now + 0.01, rpc, None)
        hold.deliver(c.now)

    def request(self) -> Rpc:
        """A request of the present write, or of the last one; preferably a request to the leader."""
        requests = self._requests()
        text = f"expected a request for {self.operation.describe()}, but none came"
        self.c.expect(bool(requests), text, rules.STATUSES)
        return next((rpc for rpc in requests if rpc.dst == self.leader), requests[0])

    def asked_again(self) -> bool:
        """Whether the leader has been sent the present write more than once."""
        return sum(rpc.dst == self.leader for rpc in self._requests()) > 1

    def _requests(self) -> list[Rpc]:
        """The requests of the present write, or of the last one, the newest first."""
        found = []
        for event in reversed(self.c.event_loop.trace.events):
            if event.time < self.operation.call:
                break
            if isinstance(event, OutgoingEvent) and event.kind == "send" and event.server == self._writer.number:
                found.append(self.c.event_loop.rpcs_by_id[event.id])
        return found

    def _let_go(self) -> None:
        """From now on, no message is held, and no server is going to crash."""
        for hold in self._holds:
            hold.drop()
        self._holds.clear()
        for server in range(self.c.size):
            if self.c.virtual and self.c.server_state(server).up:
                self.c.crash_at(server, "save", nth=0)
