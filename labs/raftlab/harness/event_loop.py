"""The judge's loop: one heap of due things, one place where every event and effect passes.

The switch carries each message through the network (and holds, drops, duplicates it as the test asked), keeps what
servers stored, counts, writes the trace and shows every event to the referee. It is single-threaded and the same in
both worlds. Suites do not use it directly; :mod:`raftlab.harness.cluster` is the harness they are written against.
"""

from __future__ import annotations

import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

import msgspec

from raftlab.explain.failure import Failure, LabFailure
from raftlab.harness.network import Network
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
    Trace,
)  # fmt: skip
from raftlab.messages import codec, protocol
from raftlab.referee.base import Message
from raftlab.referee.referee import Referee
from raftlab.seeds import derive
from raftlab.worlds.base import HostLost, World

# How many due messages are handed to the world at a time.
_BATCH = 32
# A server that sends more than this within a second of the lab's time has run wild: everything is kept for the trace,
# so the machine's memory would be next. A busy but sane Raft stays below a tenth of either.
_FLOOD_RPCS = 10_000
_FLOOD_BYTES = 64 * 1024 * 1024


class _Due(msgspec.Struct, order=True):
    """Something that is to happen at its time: a message arrives, or a function of the harness is called.

    Ordered by ``when`` and, among those due at the same time, by ``sequence``, which no two have in common.
    """

    when: float
    sequence: int
    kind: str
    """``"request"`` or ``"reply"`` (of ``rpc``), or ``"call"``."""
    rpc: Rpc | None
    data: bytes | None
    """A reply as its sender encoded it; ``None``: the caller learns that there is no reply."""
    call: Callable[[], None] | None = None


Answerer = Callable[[Rpc], Message | None]


class Hold:
    """Messages kept back by :meth:`EventLoop.hold`. ``leg`` is ``"request"`` or ``"reply"``."""

    def __init__(self, event_loop: EventLoop, leg: str, wanted: Callable[[Rpc], bool], most: int | None) -> None:
        self._event_loop = event_loop
        self._leg = leg
        self._wanted = wanted
        self._most = most
        self.messages: list[tuple[Rpc, bytes]] = []

    def takes(self, leg: str, rpc: Rpc) -> bool:
        full = self._most is not None and len(self.messages) >= self._most
        return leg == self._leg and not full and self._wanted(rpc)

    def keep(self, rpc: Rpc, data: bytes) -> None:
        self.messages.append((rpc, data))
        self._event_loop.trace.add(HoldEvent(self._event_loop.now, "hold", rpc.id, self._leg))

    def release(self) -> None:
        """Let everything held travel on, from now, and hold nothing more."""
        self.stop()
        kept, self.messages = self.messages, []
        for rpc, data in kept:
            self._event_loop.trace.add(HoldEvent(self._event_loop.now, "release", rpc.id, self._leg))
            if self._leg == "request":
                self._event_loop.route_request(rpc, self._event_loop.now)
            else:
                self._event_loop.route_reply(rpc, data, self._event_loop.now)

    def drop(self) -> None:
        """Lose everything held (the callers are told that there is no reply) and hold nothing more."""
        self.stop()
        kept, self.messages = self.messages, []
        for rpc, _ in kept:
            self._event_loop.fail(rpc, self._event_loop.now, self._leg, "dropped by the test")

    def stop(self) -> None:
        with contextlib.suppress(ValueError):
            self._event_loop.holds.remove(self)


class ServerState:
    """What the judge knows of one server: whether it runs, which life it is in, what it stored."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.incarnation = 0
        self.up = False
        self.ready = False
        self.paused = False
        self.scripted_server: Answerer | None = None
        self.state = b""
        self.snapshot = b""
        self.saves = 0
        self.rate = 1.0
        # Armed by the harness's `crash_at`: asked at each effect, answers "before", "after" or "" (no crash here).
        self.boundary: Callable[[protocol.Effect], str] | None = None

    @property
    def running(self) -> bool:
        """Up, and not paused."""
        return self.up and not self.paused


class EventLoop:
    """The loop over one run. ``now`` is the lab's time in seconds."""

    def __init__(self, world: World, network: Network, referee: Referee, servers: int, seed: int) -> None:
        self.world = world
        self.network = network
        self.referee = referee
        self.trace = Trace()
        self.server_states = [ServerState(number) for number in range(servers)]
        self.holds: list[Hold] = []
        self.rpcs: Counter[tuple[int, str]] = Counter()
        self.rpc_bytes: Counter[tuple[int, str]] = Counter()
        self.advice: dict[str, None] = {}  # an ordered set
        self.on_apply: Callable[[int, Any], None] = lambda server, msg: None
        self._seed = seed
        self._waits = random.Random(derive(seed, "waits"))
        self._due: list[_Due] = []
        self._sequence = 0
        self._last_rpc = 0
        self.rpcs_by_id: dict[int, Rpc] = {}
        self._inside: defaultdict[int, dict[int, Rpc]] = defaultdict(dict)  # arrived at a server, not answered
        self._last_call = 0
        self._calls: dict[int, tuple[int, str]] = {}
        self._results: dict[int, Any] = {}
        self._untold: dict[int, Callable[[], None]] = {}  # calls whose result nobody asks for, and what follows
        self._crashed_now: set[int] = set()
        self._bursts: dict[int, tuple[float, int, int]] = {}  # of each server: since when, how many RPCs, bytes

    @property
    def now(self) -> float:
        return self.world.now()

    # --- the loop ---

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let the cluster live until ``until`` or until ``done()``. Returns whether ``done()`` held."""
        while True:
            if done is not None and done():
                return True
            if self.now >= until:
                return False
            self._step(until)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call ``call`` when the lab's time is ``when``."""
        self._sequence += 1
        heappush(self._due, _Due(when, self._sequence, "call", None, None, call))

    def reseed(self, seed: int) -> None:
        """From now on chance takes another course (sim): in the network, in the servers and between their threads."""
        self._seed = seed
        self._waits.seed(derive(seed, "waits"))
        self.network.reseed(derive(seed, "network"))
        self.world.send_event(protocol.Reseed(derive(seed, "host")))

    def _push(self, when: float, kind: str, rpc: Rpc, data: bytes | None) -> None:
        self._sequence += 1
        heappush(self._due, _Due(when, self._sequence, kind, rpc, data))

    def _step(self, until: float) -> None:
        """Hand the world what is due next, wait, and take in what happened."""
        heap = self._due
        batch: list[_Due] = []
        events: list[tuple[float, protocol.Event]] = []
        limit = until
        while heap and heap[0].when <= limit and len(batch) < _BATCH:
            due = heap[0]
            if self._is_ours(due):
                # The test's own doing happens between steps, exactly when it is due.
                if batch or due.when > self.now:
                    limit = max(due.when, self.now)
                    break
                heappop(heap)
                self._do(due)
                return
            heappop(heap)
            event = self._event_of(due)
            if event is not None:
                batch.append(due)
                events.append((due.when, event))
        if heap and heap[0].when < limit:
            # The batch is full. Nobody lives past what they have not been handed yet.
            limit = max(heap[0].when, self.now)
        try:
            stepped = self.world.wait(limit, events)
        except HostLost as lost:
            raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None
        for due in batch[stepped.consumed :]:
            heappush(heap, due)
        self._crashed_now.clear()
        arrived = 0
        for when, effect in stepped.effects:
            while arrived < stepped.consumed and batch[arrived].when <= when:
                self._arrived(batch[arrived])
                arrived += 1
            self._take(when, effect)
        for due in batch[arrived : stepped.consumed]:
            self._arrived(due)

    def _is_ours(self, due: _Due) -> bool:
        """Whether the judge handles this itself: a call of the test's, or a message to a puppet."""
        rpc = due.rpc
        if rpc is None:
            return True
        return self.server_states[rpc.dst if due.kind == "request" else rpc.src].scripted_server is not None

    def _do(self, due: _Due) -> None:
        if due.call is not None:
            due.call()
        elif self._event_of(due) is not None:
            if due.kind == "reply":
                self._arrived(due)
            else:
                self._ask_scripted_server(due)

    # --- messages ---

    def _event_of(self, due: _Due) -> protocol.Event | None:
        """The message as an event for its server, or None when the connection is gone by now."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            if not self.server_states[rpc.dst].up or not self.network.open(rpc.src, rpc.dst):
                self._unreachable(rpc, due.when, "request")
                return None
            return protocol.Request(rpc.dst, rpc.id, rpc.method, rpc.payload)
        server_state = self.server_states[rpc.src]
        if rpc.done or not server_state.up or server_state.incarnation != rpc.src_incarnation:
            return None
        if due.data is not None and not self.network.open(rpc.dst, rpc.src):
            # The connection is checked again at the last moment: a reply never crosses a cut made meanwhile.
            self._unreachable(rpc, due.when, "reply")
            return None
        return protocol.Reply(rpc.src, rpc.caller_rpc, due.data)

    def _arrived(self, due: _Due) -> None:
        """A message is in its server's hands: write it down."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            self.trace.add(ArriveEvent(due.when, "arrive", rpc.dst, rpc.src, rpc.id, rpc.method))
            rpc.dst_incarnation = self.server_states[rpc.dst].incarnation
            self._inside[rpc.dst][rpc.id] = rpc
            if self.server_states[rpc.dst].scripted_server is None:
                self.referee.arrived(rpc.dst, rpc.src, rpc.method, rpc.args)
        elif not rpc.done:
            rpc.done = True
            if due.data is not None and self.server_states[rpc.src].scripted_server is not None:
                rpc.reply = codec.decode_plain(due.data)
            self.trace.add(ReplyEvent(due.when, "reply", rpc.src, rpc.dst, rpc.id, rpc.method, due.data))

    def send(self, src: int, caller_rpc: int, dst: int, method: str, payload: bytes, when: float) -> Rpc:
        """A call leaves ``src`` (a server's, or a puppet's)."""
        self._last_rpc += 1
        rpc = Rpc(self._last_rpc, src, self.server_states[src].incarnation, caller_rpc, dst, method, payload)
        rpc.args = self._plain(src, payload)
        self.rpcs_by_id[rpc.id] = rpc
        self.rpcs[src, method] += 1
        self.rpc_bytes[src, method] += len(payload)
        self.trace.add(OutgoingEvent(when, "send", src, dst, rpc.id, method, payload))
        if self.server_states[src].scripted_server is None:
            self._count_burst(src, len(payload), when)
            self.referee.sent(src, dst, method, rpc.args)
        if not self._held("request", rpc, payload):
            self.route_request(rpc, when)
        return rpc

    def _count_burst(self, server: int, size: int, when: float) -> None:
        since, rpcs, sent = self._bursts.get(server, (when, 0, 0))
        if when > since + 1.0:
            since, rpcs, sent = when, 0, 0
        self._bursts[server] = (since, rpcs + 1, sent + size)
        if rpcs > _FLOOD_RPCS or sent > _FLOOD_BYTES:
            text = f"expected S{server} to send a few messages, but within a second it sent {rpcs:,} ({sent:,} bytes)"
            raise LabFailure(Failure("flood", text))

    def _plain(self, server: int, payload: bytes) -> Message:
        try:
            message = codec.decode_plain(payload)
        except msgspec.DecodeError:
            message = {}
        if type(message.get("term")) is not int:
            text = f"S{server} sent a message without a whole number for term"
            raise LabFailure(Failure("bad-message", text))
        return message

    def _held(self, leg: str, rpc: Rpc, data: bytes) -> bool:
        for hold in self.holds:
            if hold.takes(leg, rpc):
                hold.keep(rpc, data)
                return True
        return False

    def route_request(self, rpc: Rpc, when: float) -> None:
        """Send a request on its way through the network, from ``when``."""
        src, dst = rpc.src, rpc.dst
        if not self.server_states[dst].up or not self.network.open(src, dst):
            self._unreachable(rpc, when, "request")
            return
        delays = self.network.request_delays(src, dst)
        if not delays:
            self.fail(rpc, when, "request", "by the network")
        for delay in delays:
            self._push(when + delay, "request", rpc, None)

    def route_reply(self, rpc: Rpc, data: bytes, when: float) -> None:
        """Send a reply on its way back, from ``when``."""
        if not self.network.open(rpc.dst, rpc.src):
            self._unreachable(rpc, when, "reply")
            return
        delays = self.network.reply_delays(rpc.dst, rpc.src)
        if not delays:
            self.fail(rpc, when, "reply", "by the network")
        for delay in delays:
            self._push(when + delay, "reply", rpc, data)

    def _unreachable(self, rpc: Rpc, when: float, leg: str) -> None:
        server_state = self.server_states[rpc.dst if leg == "request" else rpc.src]
        why = "the link is cut" if server_state.up else "the server is down"
        self.trace.add(LostEvent(when, "lost", rpc.id, leg, why))
        self._push(when + self.network.give_up_after(rpc.src, rpc.dst), "reply", rpc, None)

    def fail(self, rpc: Rpc, when: float, leg: str, why: str) -> None:
        """Lose the message; the caller learns soon that there is no reply (but not why)."""
        self.trace.add(LostEvent(when, "lost", rpc.id, leg, why))
        self._push(when + self.network.loss_noticed_after(rpc.src, rpc.dst), "reply", rpc, None)

    def _ask_scripted_server(self, due: _Due) -> None:
        rpc, when = due.rpc, due.when
        assert rpc is not None
        scripted_server = self.server_states[rpc.dst].scripted_server
        assert scripted_server is not None
        self.trace.add(ArriveEvent(when, "arrive", rpc.dst, rpc.src, rpc.id, rpc.method))
        reply = scripted_server(rpc)
        if reply is None:
            self.fail(rpc, when, "request", "the puppet does not answer")
            return
        self._answered(rpc, protocol.encode(reply), when)

    def _answered(self, rpc: Rpc, data: bytes, when: float) -> None:
        self.rpc_bytes[rpc.src, rpc.method] += len(data)
        self.trace.add(OutgoingEvent(when, "answer", rpc.dst, rpc.src, rpc.id, rpc.method, data))
        reply = self._plain(rpc.dst, data)
        if self.server_states[rpc.dst].scripted_server is None:
            self.referee.answered(rpc.dst, rpc.src, rpc.method, rpc.args, reply)
        rpc.answers += 1
        if not self._held("reply", rpc, data):
            self.route_reply(rpc, data, when)

    # --- effects ---

    def _take(self, when: float, effect: protocol.Effect) -> None:
        """One effect of a server, in its order. Those behind a crash within the step never happened."""
        server = effect.server
        if server in self._crashed_now or not 0 <= server < len(self.server_states):
            return
        server_state = self.server_states[server]
        if not server_state.up:
            return
        if server_state.boundary is not None:
            side = server_state.boundary(effect)
            if side == "before":
                self.crash(server, when)
                return
            if side == "after":
                self._happen(server_state, when, effect)
                self.crash(server, when)
                return
        self._happen(server_state, when, effect)

    def _happen(self, server_state: ServerState, when: float, effect: protocol.Effect) -> None:
        server = server_state.number
        match effect:
            case protocol.Send():
                if not 0 <= effect.target < len(self.server_states):
                    raise LabFailure(Failure("bad-peer", f"S{server} called peers[{effect.target}], which is nobody"))
                self.send(server, effect.caller_rpc, effect.target, effect.method, effect.payload, when)
            case protocol.Answer():
                # Two copies of a request make two answers: the flight stays known until its server crashes.
                rpc = self.rpcs_by_id.get(effect.judge_rpc)
                if rpc is not None and rpc.dst == server and rpc.dst_incarnation == server_state.incarnation:
                    self._inside[server].pop(rpc.id, None)
                    self._answered(rpc, effect.payload, when)
            case protocol.Save():
                server_state.state = effect.state
                if effect.snapshot is not None:
                    server_state.snapshot = effect.snapshot
                server_state.saves += 1
                self.referee.saved(server)
                self.trace.add(SaveEvent(when, "save", server, len(effect.state), len(effect.snapshot or b"")))
            case protocol.Apply():
                self.trace.add(ApplyEvent(when, "apply", server, effect.payload))
                try:
                    msg = codec.decode_apply(effect.payload)
                except msgspec.DecodeError as exc:
                    raise LabFailure(
                        Failure("bad-apply", f"S{server} put something odd into apply_ch: {exc}")
                    ) from None
                self.referee.applied(server, msg)
                self.on_apply(server, msg)
            case protocol.Result():
                owner, method = self._calls.pop(effect.call, (-1, ""))
                if owner == server:
                    self.trace.add(CallEvent(when, "result", server, effect.call, method, effect.payload))
                    then = self._untold.pop(effect.call, None)
                    if then is not None:
                        then()
                    else:
                        self._results[effect.call] = effect.payload
            case protocol.Down():
                self.crash(server, when)
            case protocol.LogLine():
                self.trace.add(LogLineEvent(when, "line", server, effect.topic, effect.text))
            case protocol.Ready():
                server_state.ready = True
                self.trace.add(ServerEvent(when, "ready", server))
            case protocol.Advice():
                self.trace.add(FindingEvent(when, "advice", server, effect.kind, effect.text, effect.where))
                self.advice.setdefault(f"{effect.where}: {effect.text}")
            case protocol.Fault():
                self.trace.add(FindingEvent(when, "fault", server, effect.kind, effect.text, effect.where))
                failure = LabFailure(Failure(effect.kind, effect.text, where=effect.where, detail=effect.detail))
                failure.servers = frozenset((server,))
                raise failure

    # --- servers ---

    def boot(self, server: int, members: list[int]) -> None:
        """Start a server's next life, with what its former one stored."""
        server_state = self.server_states[server]
        server_state.incarnation += 1
        server_state.up, server_state.ready, server_state.paused, server_state.boundary = True, False, False, None
        self.trace.add(BootEvent(self.now, "boot", server, server_state.incarnation))
        if server_state.scripted_server is not None:
            return
        self.referee.booted(server, server_state.incarnation)
        seed = derive(self._seed, "server", server, server_state.incarnation)
        self.world.boot(
            protocol.Boot(
                server,
                server_state.incarnation,
                len(self.server_states),
                members,
                server_state.state,
                server_state.snapshot,
                seed,
                server_state.rate,
            )
        )

    def crash(self, server: int, when: float | None = None) -> None:
        """Nothing of this life of ``server`` happens any more."""
        server_state = self.server_states[server]
        when = self.now if when is None else when
        server_state.up = server_state.ready = False
        server_state.boundary = None
        self._crashed_now.add(server)
        self.trace.add(ServerEvent(when, "crash", server))
        self.world.kill(server)
        for rpc in self._inside.pop(server, {}).values():
            rpc.dst_incarnation = 0
            self._unreachable(rpc, when, "request")
        self._calls = {call: (owner, name) for call, (owner, name) in self._calls.items() if owner != server}

    # --- harness calls ---

    def call(self, server: int, method: str, args: list[Any], patience: float) -> Any:
        """Call a method of the server's ``Raft`` and wait for its result, for at most ``patience`` seconds of the lab's
        time. Returns the decoded result; raises :class:`LabFailure` when there is none in time."""
        number = self.begin_call(server, method, args)
        if not self.run(self.now + patience, lambda: number in self._results or number not in self._calls):
            text = f"expected S{server}.{method}() to return at once, but after {patience:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        return self.result(number)

    def begin_call(self, server: int, method: str, args: list[Any]) -> int:
        """Begin a call; :meth:`result` has its outcome once it is there."""
        self._last_call += 1
        data = codec.encode_value(args)
        self._calls[self._last_call] = (server, method)
        self.trace.add(CallEvent(self.now, "call", server, self._last_call, method, data))
        self.world.send_event(protocol.Call(server, self._last_call, method, data))
        return self._last_call

    def tell(self, server: int, method: str, args: list[Any], then: Callable[[], None]) -> None:
        """Call a method of the server's ``Raft`` without waiting, its result of no interest. Once it is there,
        ``then()``."""
        self._untold[self.begin_call(server, method, args)] = then

    def pending(self, number: int) -> bool:
        return number in self._calls

    def result(self, number: int) -> Any:
        """The decoded result of a call, ``None`` while there is none or when its server crashed."""
        data = self._results.pop(number, None)
        return None if data is None else codec.decode_value(data)
