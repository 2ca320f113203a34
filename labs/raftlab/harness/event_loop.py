"""The judge's event loop: it delivers all messages between servers and handles all their effects, in chronological order.

The loop sends each message through the network (and holds, drops or duplicates the message if the test asked for that),
stores what servers save, counts RPCs, writes the trace and shows everything to the referee. It is single-threaded and the
same in both worlds. Suites do not use it directly; they are written against :mod:`raftlab.harness.cluster`.
"""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Any

import msgspec

from raftlab import participants
from raftlab.explain import races
from raftlab.explain.failure import Failure, LabFailure, shortened
from raftlab.harness.network import MIN_DELAY, Network
from raftlab.harness.observations import most_frequent
from raftlab.harness.quotas import Quotas, shorten
from raftlab.harness.rpc import Rpc
from raftlab.harness.trace import (
    ApplyEvent,
    ArriveEvent,
    BootEvent,
    CallEvent,
    FindingEvent,
    HoldEvent,
    LogLineEvent,
    LostEvent,
    OutgoingEvent,
    ReplyEvent,
    SaveEvent,
    ServerEvent,
    SnapshotEvent,
    Trace,
)
from raftlab.messages import codec, paper, protocol
from raftlab.messages.saved_state import SavedState
from raftlab.participants import name_of
from raftlab.referee.base import Message
from raftlab.referee.referee import Referee
from raftlab.safe_text import one_line
from raftlab.seeds import derive
from raftlab.worlds.base import HostLost, UsesTooMuch, World

# Maximum number of due messages that are passed to the world in a step.
_BATCH = 32
# If a request has more bytes than this, its decoded fields are not kept, because they take many times as much memory. They
# are decoded again if anyone reads them.
_LONG_PAYLOAD = 20_000


class _Due(msgspec.Struct, order=True):
    """Something that is due at a given time: a message arrives, or a function of the harness is called.

    Sorted by ``when``; ties are broken by ``sequence``, which is unique.
    """

    when: float
    sequence: int
    kind: str
    """``"request"`` or ``"reply"`` (of ``rpc``), or ``"call"`` (of ``call``)."""
    rpc: Rpc | None
    data: bytes | None
    """The encoded reply; ``None`` if the RPC returns ``None`` to its caller."""
    call: Callable[[], None] | None = None


# Plays a server: takes a request and returns the reply's fields, or None for no reply.
Answerer = Callable[[Rpc], Message | None]


class Hold:
    """Messages that a test keeps back, see :meth:`raftlab.harness.cluster.Cluster.hold`.

    Attributes:
        leg: which of an RPC's two messages is held: ``"request"`` or ``"reply"``.
        messages: the messages held now: each RPC with its encoded request or reply, oldest first.
    """

    def __init__(self, event_loop: EventLoop, leg: str, wanted: Callable[[Rpc], bool], most: int | None) -> None:
        self._event_loop = event_loop
        self.leg = leg
        self._wanted = wanted
        self._most = most
        self.messages: list[tuple[Rpc, bytes]] = []

    def matches(self, leg: str, rpc: Rpc) -> bool:
        """Whether this message must be held."""
        full = self._most is not None and len(self.messages) >= self._most
        return leg == self.leg and not full and self._wanted(rpc)

    def add(self, rpc: Rpc, data: bytes, when: float) -> None:
        """Hold a message from ``when`` (seconds) on. The loop's own time may already be a little later than ``when``,
        because a step can cover several events."""
        self.messages.append((rpc, data))
        self._event_loop.trace.add(HoldEvent(when, "hold", rpc.id, self.leg))

    def release(self) -> None:
        """Let all held messages enter the network now, and stop holding."""
        for rpc, data in self._take_all():
            self._event_loop.trace.add(HoldEvent(self._event_loop.now, "release", rpc.id, self.leg))
            if self.leg == "request":
                self._event_loop.route_request(rpc, self._event_loop.now)
            else:
                self._event_loop.route_reply(rpc, data, self._event_loop.now)

    def deliver(self, when: float) -> None:
        """Stop holding, and let all held messages arrive at ``when`` (seconds), without loss or further delay."""
        for rpc, data in self._take_all():
            self._event_loop.trace.add(HoldEvent(self._event_loop.now, "release", rpc.id, self.leg))
            self._event_loop.deliver(when, rpc, None if self.leg == "request" else data)

    def drop(self) -> None:
        """Stop holding, and lose all held messages: their calls return ``None``."""
        for rpc, _ in self._take_all():
            self._event_loop.fail(rpc, self._event_loop.now, self.leg, "dropped by the test")

    def stop(self) -> None:
        """Hold no further messages. Messages that are already held stay held."""
        with contextlib.suppress(ValueError):
            self._event_loop.holds.remove(self)

    def _take_all(self) -> list[tuple[Rpc, bytes]]:
        self.stop()
        held, self.messages = self.messages, []
        return held


class ServiceSettings(msgspec.Struct, frozen=True):
    """The arguments of every ``KVServer`` of a run (handouts/lab-3a.md)."""

    max_state: int | None
    """A service takes a snapshot when the saved state has more bytes than this; ``None`` if it need not take any."""
    max_sessions: int


class ServerState:
    """The judge's knowledge of one server or clerk.

    Attributes:
        number: the number of the server (from 0) or clerk (:mod:`raftlab.participants`).
        incarnation: how many times it has started.
        up: whether it is running, possibly paused.
        ready: whether ``Raft()`` has returned in this incarnation.
        paused: whether its threads are stopped (sim).
        disk_fails: whether the judge has let a save of this incarnation fail.
        scripted_server: answers requests for this server, if the test plays it; else ``None``.
        snapshot: the snapshot that ``persister.save`` stored last.
        saves: the number of saves and appends in all incarnations.
        rate: seconds of the server's clock per second of the lab's time.
        crash_trigger: set by ``Cluster.crash_at``. It is called with each effect, and returns ``"before"`` or ``"after"``
            to crash the server before or after this effect, else ``""``.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.incarnation = 0
        self.up = False
        self.ready = False
        self.paused = False
        self.disk_fails = False
        self.scripted_server: Answerer | None = None
        self._state = SavedState()
        self.snapshot = b""
        self.saves = 0
        self.rate = 1.0
        self.crash_trigger: Callable[[protocol.Effect], str] | None = None

    @property
    def running(self) -> bool:
        """Up, and not paused."""
        return self.up and not self.paused

    @property
    def state(self) -> bytes:
        """What ``persister.save`` stored last, and everything that ``persister.append`` has added since."""
        return self._state.read()

    @property
    def state_size(self) -> int:
        """The size of :attr:`state` in bytes."""
        return self._state.size

    def save(self, state: bytes) -> None:
        """Replace the saved state."""
        self._state.replace(state)
        self.saves += 1

    def append(self, data: bytes) -> None:
        """Add to the end of the saved state."""
        self._state.append(data)
        self.saves += 1


class EventLoop:
    """The loop of one run.

    Args:
        world: where the servers run.
        network: decides what happens to each message.
        referee: gets every message and effect, and raises ``LabFailure`` when a rule is broken.
        servers: how many servers there are.
        seed: the seed of the run.
        clerks: how many clerks there are (lab 3A).

    Attributes:
        trace: every event so far.
        server_states: one for each server, by number.
        states: one for each server and clerk, by number.
        holds: the active holds. The first hold that matches a message keeps the message.
        rpcs: how many RPCs have been sent, by caller and method.
        rpc_bytes: the size of these requests and of the replies to them, in bytes, by caller and method.
        advice: advice on the student's code so far, in order (a dict used as an ordered set).
        findings: what the race detector found so far, by key.
        on_apply: called with the server and the :class:`raftlab.api.ApplyMsg` of each ``apply_ch.put``.
        rpcs_by_id: every RPC so far, by its number in the trace.
        put_waits: whether each ``apply_ch.put`` waits for :meth:`take`, on servers that boot from now on.
        service_settings: the arguments of each ``KVServer``; ``None`` if there is no ``KVServer``, because the judge plays
            the services.
    """

    def __init__(
        self, world: World, network: Network, referee: Referee, servers: int, seed: int, clerks: int = 0
    ) -> None:
        self.world = world
        self.network = network
        self.referee = referee
        self.trace = Trace()
        self.server_states = [ServerState(number) for number in range(servers)]
        self.states = {state.number: state for state in self.server_states}
        for number in range(clerks):
            self.states[participants.clerk(number)] = ServerState(participants.clerk(number))
        self.holds: list[Hold] = []
        self.rpcs: Counter[tuple[int, str]] = Counter()
        self.rpc_bytes: Counter[tuple[int, str]] = Counter()
        self.advice: dict[str, None] = {}
        self.findings: dict[str, races.Finding] = {}
        self.on_apply: Callable[[int, Any], None] = lambda server, msg: None
        self.rpcs_by_id: dict[int, Rpc] = {}
        self.put_waits = False
        self.service_settings: ServiceSettings | None = None
        self._seed = seed
        self._due: list[_Due] = []  # a heap
        self._arrived_last = 0  # how many messages arrived in the last step
        self._last_sequence = 0
        self._last_rpc = 0
        self._in_handlers: defaultdict[int, dict[int, Rpc]] = defaultdict(dict)  # by server: arrived, not answered yet
        self._last_call = 0
        self._calls: dict[int, tuple[int, str]] = {}  # calls that have no result yet: the server and the method
        self._results: dict[int, tuple[int, bytes]] = {}
        self._callbacks: dict[int, Callable[[], None]] = {}  # by call: run when it returns; its result is not kept
        self._crashed_in_step: set[int] = set()
        self._quotas = Quotas(lambda server, since: most_frequent(self.trace.events, server, since))

    @property
    def now(self) -> float:
        """The lab's time in seconds."""
        return self.world.now()

    # --- the loop ---

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass for the servers.

        Args:
            until: the latest time at which to return, in seconds.
            done: called at the beginning and after every step; ``run`` returns as soon as ``done`` returns true.

        Returns:
            Whether ``done()`` was true.

        Raises:
            LabFailure: a rule is broken, or the student's code failed.
        """
        while True:
            if done is not None and done():
                return True
            if self.world.now() >= until:
                return False
            self._step(until)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call ``call`` when the lab's time is ``when``."""
        self._last_sequence += 1
        heappush(self._due, _Due(when, self._last_sequence, "call", None, None, call))

    def reseed(self, seed: int) -> None:
        """From now on, use another seed for the random choices of the network, the servers and the thread scheduler
        (sim)."""
        self._seed = seed
        self.network.reseed(derive(seed, "network"))
        self.world.send_event(protocol.Reseed(derive(seed, "host")))

    def deliver(self, when: float, rpc: Rpc, reply: bytes | None) -> None:
        """Deliver a message of ``rpc`` at ``when``: its ``reply`` or, if that is ``None``, its request. The network neither
        delays nor loses the message, but a cut link still stops it."""
        self._push(when, "request" if reply is None else "reply", rpc, reply)

    def in_flight(self) -> list[tuple[float, str, Rpc]]:
        """The messages in flight, in the order in which they will arrive: for each, the time at which it is due,
        ``"request"`` or ``"reply"``, and its RPC."""
        return [(due.when, due.kind, due.rpc) for due in sorted(self._due) if due.rpc is not None and _is_message(due)]

    def take_back(self, leg: str, wanted: Callable[[Rpc], bool], nth: int) -> tuple[Rpc, bytes] | None:
        """Remove a message from the network before it arrives.

        Args:
            leg: ``"request"`` or ``"reply"``.
            wanted: returns whether an RPC matches.
            nth: which of the matching messages to remove, counted from 1 in the order in which they would arrive.

        Returns:
            The RPC and the encoded message; ``None`` if there are fewer than ``nth`` such messages.
        """
        found = [
            due
            for due in sorted(self._due)
            if due.rpc is not None and due.kind == leg and _is_message(due) and wanted(due.rpc)
        ]
        if not 1 <= nth <= len(found):
            return None
        taken = found[nth - 1]
        self._due.remove(taken)
        heapify(self._due)
        assert taken.rpc is not None
        return taken.rpc, taken.rpc.payload if taken.data is None else taken.data

    def _push(self, when: float, kind: str, rpc: Rpc, data: bytes | None) -> None:
        self._last_sequence += 1
        heappush(self._due, _Due(when, self._last_sequence, kind, rpc, data))

    def _step(self, until: float) -> None:
        """Let time pass until a server has done something, at most up to ``until``, and handle what happened.

        A step also ends when the judge itself has something to do or to decide.
        """
        began = self.world.now()
        heap = self._due
        if heap and heap[0].when <= began and self._is_for_judge(heap[0]):
            # The judge acts between steps, exactly when its action is due.
            self._handle_due(heappop(heap))
            return
        arrived: list[_Due] = []
        effects: list[tuple[float, protocol.Effect]] = []
        # Usually few messages arrive before the world returns, and those that do not arrive are encoded again in the next
        # step. So the first batch is small: two more messages than arrived in the last step.
        size = self._arrived_last + 2 if self.world.virtual else _BATCH
        while True:
            room = _BATCH - len(arrived)
            batch, events, limit = self._take_due(began, until, min(size, room), room)
            more = size <= len(batch) < room
            try:
                result = self.world.wait(limit, events)
            except HostLost as lost:
                raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None
            if result.findings:
                for found in result.findings:
                    self._note(found)
            for due in batch[result.consumed :]:
                heappush(heap, due)
            arrived += batch[: result.consumed]
            effects += result.effects
            if (
                not more
                or result.consumed < len(batch)
                or any(type(effect) in protocol.URGENT for _, effect in effects)
            ):
                break
            # The whole batch has arrived, and the step is not over: continue with a larger batch.
            if effects:
                until = min(until, effects[0][0] + MIN_DELAY)
            if result.now >= until:
                break
            size *= 2
        self._arrived_last = len(arrived)
        self._handle_step(arrived, effects)

    def _take_due(
        self, began: float, until: float, enough: int, most: int
    ) -> tuple[list[_Due], list[tuple[float, protocol.Event]], float]:
        """Remove from the heap the next messages to pass to the world.

        Args:
            began: when the step began, in seconds.
            until: the latest time up to which the servers may run, in seconds.
            enough: the number of messages to take. Messages due at the same time as the last one are taken too.
            most: the maximum number of messages.

        Returns:
            The messages; their events, with times; and the time up to which the servers may run.
        """
        heap, limit = self._due, until
        batch: list[_Due] = []
        events: list[tuple[float, protocol.Event]] = []
        while heap and len(batch) < most:
            due = heap[0]
            when = due.when
            if when > limit or (len(batch) >= enough and when > max(began, batch[-1].when)):
                break
            if self._is_for_judge(due):
                limit = max(when, began)
                break
            arrives = self._can_arrive(due)
            if when > began and not arrives:
                # Until the message is due, do not count it as lost: the test may still heal the link.
                limit = when
                break
            event = self._event_of(heappop(heap), arrives)
            if event is not None:
                batch.append(due)
                events.append((when, event))
        if heap and heap[0].when < limit:
            # No server may run past the time of a message that has not been passed to the world yet.
            limit = max(heap[0].when, began)
        return batch, events, limit

    def _handle_step(self, messages: list[_Due], effects: list[tuple[float, protocol.Effect]]) -> None:
        """Handle the messages that arrived in a step and the effects of the step, in order of time."""
        self._crashed_in_step.clear()
        arrived = 0
        for when, effect in effects:
            while arrived < len(messages) and messages[arrived].when <= when:
                self._arrived(messages[arrived])
                arrived += 1
            try:
                self._handle_effect(when, effect)
            except LabFailure:
                raise
            except Exception as exc:
                raise _blamed_on(effect.server, exc) from exc
        for due in messages[arrived:]:
            self._arrived(due)

    def _note(self, found: protocol.Finding) -> None:
        """Keep a finding of the race detector. Findings come from the process that runs student code, so their number and
        size are limited."""
        if found.kind in races.KINDS and len(self.findings) < races.MAX_FINDINGS:
            key, text = one_line(found.key, races.MAX_KEY), one_line(found.text, races.MAX_TEXT)
            self.findings.setdefault(key, races.Finding(found.kind, key, text))

    def _is_for_judge(self, due: _Due) -> bool:
        """Whether the judge handles this itself: a function call, or a message to a scripted server."""
        rpc = due.rpc
        if rpc is None:
            return True
        return self.states[rpc.dst if due.kind == "request" else rpc.src].scripted_server is not None

    def _can_arrive(self, due: _Due) -> bool:
        """Whether a message would reach its server if it were due now."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            return self.states[rpc.dst].up and self.network.open(rpc.src, rpc.dst)
        return due.data is None or rpc.done or self.network.open(rpc.dst, rpc.src)

    def _handle_due(self, due: _Due) -> None:
        if due.call is not None:
            due.call()
        elif self._event_of(due, self._can_arrive(due)) is not None:
            if due.kind == "reply":
                self._arrived(due)
            else:
                self._ask_scripted_server(due)

    def in_handlers(self, method: str) -> list[Rpc]:
        """The RPCs of this method that have arrived at a server and have not been answered yet. Those that a crash ended are
        left out."""
        return [rpc for rpcs in self._in_handlers.values() for rpc in rpcs.values() if rpc.method == method]

    # --- messages ---

    def _event_of(self, due: _Due, arrives: bool) -> protocol.Event | None:
        """The event that delivers the message to its server; ``None`` if it can no longer be delivered. ``arrives`` is the
        result of :meth:`_can_arrive`."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            if not arrives:
                self._unreachable(rpc, due.when, "request")
                return None
            return protocol.Request(rpc.dst, rpc.id, rpc.method, rpc.payload)
        server_state = self.states[rpc.src]
        if rpc.done or not server_state.up or server_state.incarnation != rpc.src_incarnation:
            return None
        if not arrives:
            # The link is checked again on arrival, because it may have been cut while the reply was in flight.
            self._unreachable(rpc, due.when, "reply")
            return None
        return protocol.Reply(rpc.src, rpc.caller_rpc, due.data)

    def _arrived(self, due: _Due) -> None:
        """Record that a message has reached its server, unless the server crashed earlier in the same step."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            if not self.states[rpc.dst].up:
                self._unreachable(rpc, due.when, "request")
                return
            self.trace.add(ArriveEvent(due.when, "arrive", rpc.dst, rpc.src, rpc.id, rpc.method))
            rpc.dst_incarnation = self.states[rpc.dst].incarnation
            self._in_handlers[rpc.dst][rpc.id] = rpc
            if self.states[rpc.dst].scripted_server is None and rpc.method in paper.RAFT_FIELDS:
                self.referee.arrived(rpc.dst, rpc.src, rpc.method, rpc.args)
        elif not rpc.done and self.states[rpc.src].up:
            rpc.done = True
            if due.data is not None and self.states[rpc.src].scripted_server is not None:
                rpc.reply = paper.decode_reply(rpc.method, due.data)
            if self.states[rpc.dst].scripted_server is None:
                rpc.forget_args()
            self.trace.add(ReplyEvent(due.when, "reply", rpc.src, rpc.dst, rpc.id, rpc.method, due.data))

    def send(self, src: int, caller_rpc: int, dst: int, method: str, payload: bytes, when: float) -> Rpc:
        """Send a request from a real or a scripted server.

        Args:
            src: the caller.
            caller_rpc: the caller's own number for the RPC.
            dst: the called server.
            method: the name of the handler.
            payload: the encoded arguments.
            when: the time of the call, in seconds.

        Returns:
            The RPC, which is updated whenever something happens to it.

        Raises:
            LabFailure: the message lacks a field, the server sends far too much, or a rule is broken.
        """
        self._last_rpc += 1
        caller = self.states[src]
        scripted = caller.scripted_server is not None
        rpc = Rpc(self._last_rpc, src, caller.incarnation, caller_rpc, dst, method, payload, scripted)
        try:
            args = rpc.args
        except paper.BadMessage as exc:
            raise _bad_message(src, method, exc) from None
        size = len(payload)
        self.rpcs_by_id[rpc.id] = rpc
        self.rpcs[src, method] += 1
        self.rpc_bytes[src, method] += size
        self.trace.add(OutgoingEvent(when, "send", src, dst, rpc.id, method, payload))
        if not scripted:
            self._quotas.message(src, "request", size, when)
            if method in paper.RAFT_FIELDS:
                self.referee.sent(src, dst, method, args)
        if size > _LONG_PAYLOAD:
            rpc.forget_args()
        if not self.holds or not self._held("request", rpc, payload, when):
            self.route_request(rpc, when)
        return rpc

    def _held(self, leg: str, rpc: Rpc, data: bytes, when: float) -> bool:
        for hold in self.holds:
            if hold.matches(leg, rpc):
                hold.add(rpc, data, when)
                return True
        return False

    def route_request(self, rpc: Rpc, when: float) -> None:
        """Let a request enter the network at time ``when``."""
        src, dst = rpc.src, rpc.dst
        if not self.states[dst].up or not self.network.open(src, dst):
            self._unreachable(rpc, when, "request")
            return
        delays = self.network.request_delays(src, dst)
        if not delays:
            self.fail(rpc, when, "request", "by the network")
        for delay in delays:
            self._push(when + delay, "request", rpc, None)

    def route_reply(self, rpc: Rpc, data: bytes, when: float) -> None:
        """Let a reply enter the network at time ``when``."""
        if not self.network.open(rpc.dst, rpc.src):
            self._unreachable(rpc, when, "reply")
            return
        delays = self.network.reply_delays(rpc.dst, rpc.src)
        if not delays:
            self.fail(rpc, when, "reply", "by the network")
        for delay in delays:
            self._push(when + delay, "reply", rpc, data)

    def _unreachable(self, rpc: Rpc, when: float, leg: str) -> None:
        server_state = self.states[rpc.dst if leg == "request" else rpc.src]
        why = "the link is cut" if server_state.up else "the server is down"
        self.trace.add(LostEvent(when, "lost", rpc.id, leg, why))
        self._push(when + self.network.give_up_after(rpc.src, rpc.dst), "reply", rpc, None)

    def fail(self, rpc: Rpc, when: float, leg: str, why: str) -> None:
        """Lose a message. Its call soon returns ``None``; the caller does not learn the reason.

        Args:
            rpc: the RPC that the message belongs to.
            when: the time of the loss, in seconds.
            leg: ``"request"`` or ``"reply"``.
            why: the reason, for the trace.
        """
        self.trace.add(LostEvent(when, "lost", rpc.id, leg, why))
        self._push(when + self.network.loss_noticed_after(rpc.src, rpc.dst), "reply", rpc, None)

    def _ask_scripted_server(self, due: _Due) -> None:
        rpc, when = due.rpc, due.when
        assert rpc is not None
        scripted_server = self.states[rpc.dst].scripted_server
        assert scripted_server is not None
        self.trace.add(ArriveEvent(when, "arrive", rpc.dst, rpc.src, rpc.id, rpc.method))
        try:
            reply = scripted_server(rpc)
            data = protocol.encode(reply)
        except LabFailure:
            raise
        except Exception as exc:
            raise _blamed_on(rpc.src, exc) from exc
        if reply is None:
            self.fail(rpc, when, "request", "the lab, which plays this server, does not answer")
            return
        self._answered(rpc, data, when)

    def _answered(self, rpc: Rpc, data: bytes, when: float) -> None:
        self.rpc_bytes[rpc.src, rpc.method] += len(data)
        self.trace.add(OutgoingEvent(when, "answer", rpc.dst, rpc.src, rpc.id, rpc.method, data))
        try:
            reply = paper.decode_reply(rpc.method, data)
        except paper.BadMessage as exc:
            raise _bad_message(rpc.dst, f"reply to {rpc.method}", exc) from None
        if self.states[rpc.dst].scripted_server is None:
            self._quotas.message(rpc.dst, "answer", len(data), when)
            if rpc.method in paper.RAFT_FIELDS:
                self.referee.answered(rpc.dst, rpc.src, rpc.method, rpc.args, reply)
        if not self.holds or not self._held("reply", rpc, data, when):
            self.route_reply(rpc, data, when)

    # --- effects ---

    def _handle_effect(self, when: float, effect: protocol.Effect) -> None:
        """Handle one effect, unless its server has crashed earlier in the same step or is down."""
        server = effect.server
        if server in self._crashed_in_step or server not in self.states:
            return
        server_state = self.states[server]
        if not server_state.up:
            return
        if server_state.crash_trigger is not None:
            side = server_state.crash_trigger(effect)
            if side == "before":
                self.crash(server, when)
                return
            if side == "after":
                self._perform(server_state, when, effect)
                self.crash(server, when)
                return
        self._perform(server_state, when, effect)

    def _perform(self, server_state: ServerState, when: float, effect: protocol.Effect) -> None:
        server = server_state.number
        match effect:
            case protocol.Send():
                if not 0 <= effect.target < len(self.server_states):  # a clerk cannot be called
                    raise LabFailure(
                        Failure(
                            "bad-peer", f"{name_of(server)} called peers[{effect.target}], but there is no such server"
                        )
                    )
                self.send(server, effect.caller_rpc, effect.target, effect.method, effect.payload, when)
            case protocol.Answer():
                # A duplicated request is answered twice, so the RPC must stay known after the first answer.
                rpc = self.rpcs_by_id.get(effect.judge_rpc)
                if rpc is not None and rpc.dst == server and rpc.dst_incarnation == server_state.incarnation:
                    self._in_handlers[server].pop(rpc.id, None)
                    self._answered(rpc, effect.payload, when)
            case protocol.Save():
                snapshot = server_state.snapshot if effect.snapshot is None else effect.snapshot
                self._quotas.save(server, len(effect.state) + len(snapshot), when)
                server_state.save(effect.state)
                server_state.snapshot = snapshot
                self.referee.saved(server)
                self.trace.add(SaveEvent(when, "save", server, len(effect.state), len(effect.snapshot or b"")))
            case protocol.Append():
                size = server_state.state_size + len(effect.data)
                self._quotas.save(server, size + len(server_state.snapshot), when)
                server_state.append(effect.data)
                self.referee.saved(server)
                self.trace.add(SaveEvent(when, "save", server, size, 0))
            case protocol.Apply():
                self._quotas.message(server, "entry", len(effect.payload), when)
                self.trace.add(ApplyEvent(when, "apply", server, effect.payload))
                try:
                    msg = codec.decode_apply(effect.payload)
                except msgspec.DecodeError as exc:
                    raise LabFailure(
                        Failure(
                            "bad-apply", f"{name_of(server)} put something other than an ApplyMsg into apply_ch: {exc}"
                        )
                    ) from None
                self.referee.applied(server, msg)
                self.on_apply(server, msg)
            case protocol.SnapshotTaken():
                self._quotas.save(server, len(effect.data), when)
                if self.referee.applies.service_took(effect.index, effect.data):
                    self._quotas.kept(len(effect.data))
                self.trace.add(SnapshotEvent(when, "snapshot", server, effect.index, len(effect.data)))
            case protocol.Result():
                owner, method = self._calls.pop(effect.call, (-1, ""))
                if owner == server:
                    self._quotas.result(server, method, effect.payload)
                    self.trace.add(CallEvent(when, "result", server, effect.call, method, effect.payload))
                    self._results[effect.call] = server, effect.payload
                    callback = self._callbacks.pop(effect.call, None)
                    if callback is not None:
                        callback()
                        self._results.pop(effect.call, None)
            case protocol.Down():
                if not server_state.disk_fails:
                    # A server may not crash when it likes, because little is demanded of a server that has crashed.
                    raise LabFailure(
                        Failure("host-died", f"{name_of(server)} said that its disk failed, but it did not fail")
                    )
                self.crash(server, when)
            case protocol.LogLine():
                text = self._quotas.line(effect)
                if text is not None:
                    self.trace.add(LogLineEvent(when, "line", server, effect.topic, text))
            case protocol.Ready():
                if not server_state.ready:
                    server_state.ready = True
                    self.trace.add(ServerEvent(when, "ready", server))
            case protocol.Advice() if self._quotas.advice():
                shorten(effect)
                self.trace.add(FindingEvent(when, "advice", server, effect.kind, effect.text, effect.where))
                self.advice.setdefault(f"{effect.where}: {effect.text}")
            case protocol.Fault():
                shorten(effect)
                self.trace.add(FindingEvent(when, "fault", server, effect.kind, effect.text, effect.where))
                failure = LabFailure(Failure(effect.kind, effect.text, where=effect.where, detail=effect.detail))
                failure.servers = frozenset((server,))
                raise failure

    # --- servers ---

    def boot(self, server: int, members: list[int]) -> None:
        """Start the next incarnation of a server or a clerk. A server gets what its earlier incarnations saved last.

        Args:
            server: the server or clerk; it must be down.
            members: the servers that vote initially.
        """
        server_state = self.states[server]
        server_state.incarnation += 1
        server_state.up, server_state.ready, server_state.paused, server_state.crash_trigger = True, False, False, None
        server_state.disk_fails = False
        self.trace.add(BootEvent(self.now, "boot", server, server_state.incarnation))
        if server_state.scripted_server is not None:
            return
        clerk = participants.is_clerk(server)
        if not clerk:
            self.referee.booted(server, server_state.incarnation)
        settings = self.service_settings
        role = "clerk" if clerk else "raft" if settings is None else "service"
        seed = derive(self._seed, "server", server, server_state.incarnation)
        boot = protocol.Boot(
            server,
            server_state.incarnation,
            len(self.server_states),
            members,
            server_state.state,
            server_state.snapshot,
            seed,
            server_state.rate,
            self.put_waits,
            role,
            None if settings is None else settings.max_state,
            0 if settings is None else settings.max_sessions,
            derive(seed, "client") >> 11 if clerk else 0,  # a number that JSON can hold
        )
        try:
            self.world.boot(boot)
        except UsesTooMuch as lost:
            raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None

    def take(self, server: int, index: int = 0, data: bytes = b"") -> None:
        """Let one ``put`` of this server return: the one that has waited longest. If ``index`` is not 0, the service first
        calls ``snapshot(index, data)`` in the thread of that ``put``."""
        if self.states[server].up:
            self.world.send_event(protocol.Taken(server, index, data))

    def fail_saves(self, server: int, count: int) -> None:
        """Let the next ``count`` saves or appends of a server raise ``OSError``."""
        if count > 0:
            self.states[server].disk_fails = True
        self.world.send_event(protocol.FailSaves(server, count))

    def crash(self, server: int, when: float | None = None) -> None:
        """End the current incarnation of ``server`` and discard its later effects.

        Args:
            server: the server.
            when: the time of the crash in seconds; ``None``: now.
        """
        server_state = self.states[server]
        when = self.now if when is None else when
        server_state.up = server_state.ready = False
        server_state.crash_trigger = None
        self._crashed_in_step.add(server)
        self.trace.add(ServerEvent(when, "crash", server))
        self.world.kill(server)
        for rpc in self._in_handlers.pop(server, {}).values():
            rpc.dst_incarnation = 0
            self._unreachable(rpc, when, "request")
        self._calls = {call: (owner, name) for call, (owner, name) in self._calls.items() if owner != server}

    # --- harness calls ---

    def call(self, server: int, method: str, args: list[Any], patience: float) -> Any:
        """Call a method of the server's ``Raft`` and wait for its result.

        Args:
            server: the server.
            method: the method's name.
            args: the positional arguments, JSON-like.
            patience: how long to wait, in seconds of the lab's time.

        Returns:
            The result; ``None`` if the server crashed before the method returned.

        Raises:
            LabFailure: the method did not return in time, or a rule was broken before it returned.
        """
        number = self.begin_call(server, method, args)
        if not self.run(self.now + patience, lambda: number in self._results or number not in self._calls):
            raise self.no_answer(server, method, patience)
        return self.result(number)

    def no_answer(self, server: int, method: str, patience: float) -> LabFailure:
        """The failure of a call that has not returned for ``patience`` seconds of the lab's time."""
        text = f"expected {name_of(server)}.{method}() to return at once, but after {patience:.0f} s it has not"
        threads = self.world.threads(server)
        own = next((line.strip() for line in threads.splitlines() if "for a lock that it took itself" in line), "")
        if own:
            text = f"{text}: {shortened(own, 200)}"
        return LabFailure(Failure("no-answer", text, detail=threads))

    def begin_call(self, server: int, method: str, args: list[Any], callback: Callable[[], None] | None = None) -> int:
        """Call a method of the server's ``Raft`` without waiting.

        Args:
            server: the server.
            method: the method's name.
            args: the positional arguments, JSON-like.
            callback: called once the method has returned. After that the method's result is discarded.

        Returns:
            The call's number, for :meth:`pending` and :meth:`result`.
        """
        self._last_call += 1
        number = self._last_call
        data = codec.encode_value(args)
        self._calls[number] = (server, method)
        if callback is not None:
            self._callbacks[number] = callback
        self.trace.add(CallEvent(self.now, "call", server, number, method, data))
        self.world.send_event(protocol.Call(server, number, method, data))
        return number

    def pending(self, number: int) -> bool:
        """Whether a call may still return: it has not returned, and its server has not crashed."""
        return number in self._calls

    def result(self, number: int) -> Any:
        """Return and forget the decoded result of a call; ``None`` if there is none yet or its server crashed."""
        server, data = self._results.pop(number, (-1, None))
        if data is None:
            return None
        try:
            value = codec.decode_value(data)
        except msgspec.DecodeError as exc:
            raise LabFailure(
                Failure("bad-result", f"{name_of(server)} returned a value that cannot be read: {exc}")
            ) from None
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, int) and abs(part) > paper.MAX_INT:
                text = f"{name_of(server)} returned a value that cannot be read: {part} is too large"
                raise LabFailure(Failure("bad-result", text))
        return value


def _is_message(due: _Due) -> bool:
    """Whether this is a request, or a reply that the caller is still waiting for. The ``None`` with which a failed RPC
    returns is not a message."""
    rpc = due.rpc
    return rpc is not None and (due.kind == "request" or (due.data is not None and not rpc.done))


def _bad_message(server: int, what: str, problem: paper.BadMessage) -> LabFailure:
    return LabFailure(Failure("bad-message", f"{name_of(server)} sent a message that {problem} ({what})"))


def _blamed_on(server: int, error: Exception) -> LabFailure:
    """The failure for an error in the judge's code, raised while it handled what ``server`` sent. The failure counts against
    the submission. Otherwise a submission could keep its failing runs from being counted by sending something that the judge
    cannot handle."""
    text = f"{name_of(server)} sent something that the lab cannot handle ({type(error).__name__})"
    return LabFailure(Failure("bad-message", text, detail="".join(traceback.format_exception(error))))
