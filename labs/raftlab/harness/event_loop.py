"""The judge's event loop: it delivers all messages between servers and handles all their effects, in chronological order.

It sends each message through the network (and holds, drops or duplicates it as the test asked), stores what servers save,
counts RPCs, writes the trace and shows everything to the referee. It is single-threaded and the same in both worlds. Suites
do not use it directly; they are written against :mod:`raftlab.harness.cluster`.
"""

from __future__ import annotations

import contextlib
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
)
from raftlab.messages import codec, protocol
from raftlab.referee.base import Message
from raftlab.referee.referee import Referee
from raftlab.seeds import derive
from raftlab.worlds.base import HostLost, World

# Maximum number of due messages that are passed to the world at a time.
_BATCH = 32
# A server that sends more RPCs or bytes than this within a second of the lab's time is out of control. The trace keeps
# everything, so such a run would exhaust the machine's memory. A busy but correct Raft stays below a tenth of either.
_FLOOD_RPCS = 10_000
_FLOOD_BYTES = 64 * 1024 * 1024


class _Due(msgspec.Struct, order=True):
    """What happens at a given time: a message arrives, or a function of the harness is called.

    Sorted by ``when`` and, at the same time, by ``sequence``, which is unique.
    """

    when: float
    sequence: int
    kind: str
    """``"request"`` or ``"reply"`` (of ``rpc``), or ``"call"``."""
    rpc: Rpc | None
    data: bytes | None
    """The reply, encoded. ``None``: the call returns ``None``."""
    call: Callable[[], None] | None = None


# Plays a server: gets a request and returns the reply's fields, or None for no reply.
Answerer = Callable[[Rpc], Message | None]


class Hold:
    """Messages that a test keeps back, see :meth:`raftlab.harness.cluster.Cluster.hold`.

    Attributes:
        messages: what is held now: each RPC with its encoded request or reply, the oldest first.
    """

    def __init__(self, event_loop: EventLoop, leg: str, wanted: Callable[[Rpc], bool], most: int | None) -> None:
        self._event_loop = event_loop
        self._leg = leg
        self._wanted = wanted
        self._most = most
        self.messages: list[tuple[Rpc, bytes]] = []

    def matches(self, leg: str, rpc: Rpc) -> bool:
        """Whether this message must be held."""
        full = self._most is not None and len(self.messages) >= self._most
        return leg == self._leg and not full and self._wanted(rpc)

    def add(self, rpc: Rpc, data: bytes) -> None:
        """Hold a message."""
        self.messages.append((rpc, data))
        self._event_loop.trace.add(HoldEvent(self._event_loop.now, "hold", rpc.id, self._leg))

    def release(self) -> None:
        """Send everything held on its way, starting now, and stop holding."""
        for rpc, data in self._take_all():
            self._event_loop.trace.add(HoldEvent(self._event_loop.now, "release", rpc.id, self._leg))
            if self._leg == "request":
                self._event_loop.route_request(rpc, self._event_loop.now)
            else:
                self._event_loop.route_reply(rpc, data, self._event_loop.now)

    def deliver(self, when: float) -> None:
        """Deliver everything held at ``when`` (seconds), without loss or further delay, and stop holding."""
        for rpc, data in self._take_all():
            self._event_loop.trace.add(HoldEvent(self._event_loop.now, "release", rpc.id, self._leg))
            self._event_loop.deliver(when, rpc, None if self._leg == "request" else data)

    def drop(self) -> None:
        """Lose everything held, so that the calls return ``None``, and stop holding."""
        for rpc, _ in self._take_all():
            self._event_loop.fail(rpc, self._event_loop.now, self._leg, "dropped by the test")

    def stop(self) -> None:
        """Hold no further messages. Those that are held stay held."""
        with contextlib.suppress(ValueError):
            self._event_loop.holds.remove(self)

    def _take_all(self) -> list[tuple[Rpc, bytes]]:
        self.stop()
        held, self.messages = self.messages, []
        return held


class ServerState:
    """What the judge knows of one server.

    Attributes:
        number: the server's number, from 0.
        incarnation: how many times it has started.
        up: whether it is running, possibly paused.
        ready: whether ``Raft()`` has returned in this incarnation.
        paused: whether its threads are stopped (sim).
        scripted_server: answers requests in its place, if the test plays this server.
        state: what ``persister.save`` stored last.
        snapshot: the snapshot that ``persister.save`` stored last.
        saves: how many saves there were, in all incarnations.
        rate: local seconds per second of the lab's time.
        crash_trigger: set by ``Cluster.crash_at``. Called with each effect; returns ``"before"`` or ``"after"`` to crash
            the server at this effect, else ``""``.
    """

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
        self.crash_trigger: Callable[[protocol.Effect], str] | None = None

    @property
    def running(self) -> bool:
        """Up, and not paused."""
        return self.up and not self.paused


class EventLoop:
    """The loop of one run.

    Args:
        world: where the servers run.
        network: decides what happens to each message.
        referee: is shown every message and effect, and raises ``LabFailure`` when a rule is broken.
        servers: how many servers there are.
        seed: the seed of the run.

    Attributes:
        trace: every event so far.
        server_states: one for each server, by number.
        holds: the active holds. The first that matches a message gets it.
        rpcs: how many RPCs each server has sent, by server and method.
        rpc_bytes: bytes of these requests and of the replies to them, by the server that called, and method.
        advice: advice on the student's code so far, in order (a dict used as an ordered set).
        on_apply: called with the server and the :class:`raftlab.api.ApplyMsg` of each ``apply_ch.put``.
        rpcs_by_id: every RPC so far, by its number in the trace.
    """

    def __init__(self, world: World, network: Network, referee: Referee, servers: int, seed: int) -> None:
        self.world = world
        self.network = network
        self.referee = referee
        self.trace = Trace()
        self.server_states = [ServerState(number) for number in range(servers)]
        self.holds: list[Hold] = []
        self.rpcs: Counter[tuple[int, str]] = Counter()
        self.rpc_bytes: Counter[tuple[int, str]] = Counter()
        self.advice: dict[str, None] = {}
        self.on_apply: Callable[[int, Any], None] = lambda server, msg: None
        self.rpcs_by_id: dict[int, Rpc] = {}
        self._seed = seed
        self._due: list[_Due] = []  # a heap
        self._last_sequence = 0
        self._last_rpc = 0
        self._in_handlers: defaultdict[int, dict[int, Rpc]] = defaultdict(dict)  # arrived at a server, not answered
        self._last_call = 0
        self._calls: dict[int, tuple[int, str]] = {}  # without a result yet: the server and the method
        self._results: dict[int, Any] = {}
        self._callbacks: dict[int, Callable[[], None]] = {}  # by call: called instead of keeping its result
        self._crashed_in_step: set[int] = set()
        self._bursts: dict[int, tuple[float, int, int]] = {}  # by server: since when, how many RPCs, how many bytes

    @property
    def now(self) -> float:
        """The lab's time in seconds."""
        return self.world.now()

    # --- the loop ---

    def run(self, until: float, done: Callable[[], bool] | None = None) -> bool:
        """Let time pass for the servers.

        Args:
            until: the latest time at which to return, in seconds.
            done: return as soon as this returns true; it is called after every step.

        Returns:
            Whether ``done()`` was true.

        Raises:
            LabFailure: a rule is broken, or the student's code failed.
        """
        while True:
            if done is not None and done():
                return True
            if self.now >= until:
                return False
            self._step(until)

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call ``call`` when the lab's time is ``when``."""
        self._last_sequence += 1
        heappush(self._due, _Due(when, self._last_sequence, "call", None, None, call))

    def reseed(self, seed: int) -> None:
        """From now on, draw the decisions of the network, the servers and the thread scheduler from another seed (sim)."""
        self._seed = seed
        self.network.reseed(derive(seed, "network"))
        self.world.send_event(protocol.Reseed(derive(seed, "host")))

    def deliver(self, when: float, rpc: Rpc, reply: bytes | None) -> None:
        """Deliver a request, or its ``reply``, at ``when``, whatever the network's conditions are."""
        self._push(when, "request" if reply is None else "reply", rpc, reply)

    def _push(self, when: float, kind: str, rpc: Rpc, data: bytes | None) -> None:
        self._last_sequence += 1
        heappush(self._due, _Due(when, self._last_sequence, kind, rpc, data))

    def _step(self, until: float) -> None:
        """Pass the next due messages to the world, wait, and handle what happened."""
        heap = self._due
        batch: list[_Due] = []
        events: list[tuple[float, protocol.Event]] = []
        limit = until
        while heap and heap[0].when <= limit and len(batch) < _BATCH:
            due = heap[0]
            if self._is_for_judge(due):
                # What the test does happens between steps, exactly when it is due.
                if batch or due.when > self.now:
                    limit = max(due.when, self.now)
                    break
                heappop(heap)
                self._handle_due(due)
                return
            if due.when > self.now and not self._can_arrive(due):
                # Whether it is lost is decided when it is due: before that, the test may heal the link.
                limit = due.when
                break
            heappop(heap)
            event = self._event_of(due)
            if event is not None:
                batch.append(due)
                events.append((due.when, event))
        if heap and heap[0].when < limit:
            # The batch is full. No server may run past a message that has not been passed on yet.
            limit = max(heap[0].when, self.now)
        try:
            result = self.world.wait(limit, events)
        except HostLost as lost:
            raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None
        for due in batch[result.consumed :]:
            heappush(heap, due)
        self._crashed_in_step.clear()
        arrived = 0
        for when, effect in result.effects:
            while arrived < result.consumed and batch[arrived].when <= when:
                self._arrived(batch[arrived])
                arrived += 1
            self._handle_effect(when, effect)
        for due in batch[arrived : result.consumed]:
            self._arrived(due)

    def _is_for_judge(self, due: _Due) -> bool:
        """Whether the judge handles this itself: a call, or a message to a scripted server."""
        rpc = due.rpc
        if rpc is None:
            return True
        return self.server_states[rpc.dst if due.kind == "request" else rpc.src].scripted_server is not None

    def _can_arrive(self, due: _Due) -> bool:
        """Whether a message would reach its server if it were due now."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            return self.server_states[rpc.dst].up and self.network.open(rpc.src, rpc.dst)
        return due.data is None or rpc.done or self.network.open(rpc.dst, rpc.src)

    def _handle_due(self, due: _Due) -> None:
        if due.call is not None:
            due.call()
        elif self._event_of(due) is not None:
            if due.kind == "reply":
                self._arrived(due)
            else:
                self._ask_scripted_server(due)

    # --- messages ---

    def _event_of(self, due: _Due) -> protocol.Event | None:
        """The message as an event for its server, or ``None`` if it can no longer be delivered."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            if not self._can_arrive(due):
                self._unreachable(rpc, due.when, "request")
                return None
            return protocol.Request(rpc.dst, rpc.id, rpc.method, rpc.payload)
        server_state = self.server_states[rpc.src]
        if rpc.done or not server_state.up or server_state.incarnation != rpc.src_incarnation:
            return None
        if not self._can_arrive(due):
            # The link is checked again on arrival: a reply never crosses a link that was cut meanwhile.
            self._unreachable(rpc, due.when, "reply")
            return None
        return protocol.Reply(rpc.src, rpc.caller_rpc, due.data)

    def _arrived(self, due: _Due) -> None:
        """Record that a message has reached its server."""
        rpc = due.rpc
        assert rpc is not None
        if due.kind == "request":
            self.trace.add(ArriveEvent(due.when, "arrive", rpc.dst, rpc.src, rpc.id, rpc.method))
            rpc.dst_incarnation = self.server_states[rpc.dst].incarnation
            self._in_handlers[rpc.dst][rpc.id] = rpc
            if self.server_states[rpc.dst].scripted_server is None:
                self.referee.arrived(rpc.dst, rpc.src, rpc.method, rpc.args)
        elif not rpc.done:
            rpc.done = True
            if due.data is not None and self.server_states[rpc.src].scripted_server is not None:
                rpc.reply = codec.decode_plain(due.data)
            self.trace.add(ReplyEvent(due.when, "reply", rpc.src, rpc.dst, rpc.id, rpc.method, due.data))

    def send(self, src: int, caller_rpc: int, dst: int, method: str, payload: bytes, when: float) -> Rpc:
        """Send a request from a real or a scripted server.

        Args:
            src: the calling server.
            caller_rpc: the caller's own number for the call.
            dst: the called server.
            method: the name of the handler.
            payload: the encoded arguments.
            when: the time of the call, in seconds.

        Returns:
            The RPC, which is updated as it travels.

        Raises:
            LabFailure: the message has no term, the server sends far too much, or the referee sees a broken rule.
        """
        self._last_rpc += 1
        rpc = Rpc(self._last_rpc, src, self.server_states[src].incarnation, caller_rpc, dst, method, payload)
        rpc.args = self._decoded(src, payload)
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

    def _decoded(self, server: int, payload: bytes) -> Message:
        """A message of ``server`` as a plain dict. Fails if it has no int ``term``."""
        try:
            message = codec.decode_plain(payload)
        except msgspec.DecodeError:
            message = {}
        if type(message.get("term")) is not int:
            text = f"S{server} sent a message whose field term is missing or not an int"
            raise LabFailure(Failure("bad-message", text))
        return message

    def _held(self, leg: str, rpc: Rpc, data: bytes) -> bool:
        for hold in self.holds:
            if hold.matches(leg, rpc):
                hold.add(rpc, data)
                return True
        return False

    def route_request(self, rpc: Rpc, when: float) -> None:
        """Let a request enter the network at time ``when``."""
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
        server_state = self.server_states[rpc.dst if leg == "request" else rpc.src]
        why = "the link is cut" if server_state.up else "the server is down"
        self.trace.add(LostEvent(when, "lost", rpc.id, leg, why))
        self._push(when + self.network.give_up_after(rpc.src, rpc.dst), "reply", rpc, None)

    def fail(self, rpc: Rpc, when: float, leg: str, why: str) -> None:
        """Lose a message: its call soon returns ``None``, which does not tell the caller why.

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
        reply = self._decoded(rpc.dst, data)
        if self.server_states[rpc.dst].scripted_server is None:
            self.referee.answered(rpc.dst, rpc.src, rpc.method, rpc.args, reply)
        if not self._held("reply", rpc, data):
            self.route_reply(rpc, data, when)

    # --- effects ---

    def _handle_effect(self, when: float, effect: protocol.Effect) -> None:
        """Handle one effect. Effects that follow a crash of their server in the same step never happened."""
        server = effect.server
        if server in self._crashed_in_step or not 0 <= server < len(self.server_states):
            return
        server_state = self.server_states[server]
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
                if not 0 <= effect.target < len(self.server_states):
                    raise LabFailure(
                        Failure("bad-peer", f"S{server} called peers[{effect.target}], but there is no such server")
                    )
                self.send(server, effect.caller_rpc, effect.target, effect.method, effect.payload, when)
            case protocol.Answer():
                # Two copies of a request have two answers, so the RPC is remembered until its server crashes.
                rpc = self.rpcs_by_id.get(effect.judge_rpc)
                if rpc is not None and rpc.dst == server and rpc.dst_incarnation == server_state.incarnation:
                    self._in_handlers[server].pop(rpc.id, None)
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
                        Failure("bad-apply", f"S{server} put something other than an ApplyMsg into apply_ch: {exc}")
                    ) from None
                self.referee.applied(server, msg)
                self.on_apply(server, msg)
            case protocol.Result():
                owner, method = self._calls.pop(effect.call, (-1, ""))
                if owner == server:
                    self.trace.add(CallEvent(when, "result", server, effect.call, method, effect.payload))
                    callback = self._callbacks.pop(effect.call, None)
                    if callback is not None:
                        callback()
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
        """Start a server's next incarnation with what the earlier ones saved.

        Args:
            server: the server; it must be down.
            members: the servers that vote initially.
        """
        server_state = self.server_states[server]
        server_state.incarnation += 1
        server_state.up, server_state.ready, server_state.paused, server_state.crash_trigger = True, False, False, None
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
        """End this incarnation of ``server``: its later effects never happen.

        Args:
            server: the server.
            when: the time of the crash in seconds; ``None``: now.
        """
        server_state = self.server_states[server]
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
            args: its JSON-like positional arguments.
            patience: how long to wait, in seconds of the lab's time.

        Returns:
            The result; ``None`` if the server crashed meanwhile.

        Raises:
            LabFailure: there is no result in time, or a rule is broken meanwhile.
        """
        number = self.begin_call(server, method, args)
        if not self.run(self.now + patience, lambda: number in self._results or number not in self._calls):
            text = f"expected S{server}.{method}() to return at once, but after {patience:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        return self.result(number)

    def begin_call(self, server: int, method: str, args: list[Any], callback: Callable[[], None] | None = None) -> int:
        """Call a method of the server's ``Raft`` without waiting.

        Args:
            server: the server.
            method: the method's name.
            args: its JSON-like positional arguments.
            callback: called once the method has returned; its result is then discarded.

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
        """Whether a call may still return: it has not, and its server has not crashed."""
        return number in self._calls

    def result(self, number: int) -> Any:
        """Return and forget the decoded result of a call; ``None`` if there is none yet or its server crashed."""
        data = self._results.pop(number, None)
        return None if data is None else codec.decode_value(data)
