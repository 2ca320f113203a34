"""The cluster that tests are written against: what a test can do to its servers, and what it may expect from them.

A test is a script: ``c = cluster(3)``, then lines such as ``c.disconnect(leader)`` and ``c.one_leader()``. Time passes only
inside calls that wait (``sleep``, ``one_leader``, ``agree``, ...), never between two lines. All times are seconds of the
lab's time: virtual in sim, real in rpyc. The same script runs in both worlds, except where a method says "sim only".

An expectation that is not met raises :class:`~raftlab.explain.failure.LabFailure`, which says what was expected, what was
observed and which rule is broken. Every method that lets time pass also raises it if the referee sees a broken rule or the
student's code fails meanwhile.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any, NoReturn

from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure, Rule, short
from raftlab.harness.event_loop import EventLoop, Hold, ServerState
from raftlab.harness.network import MIN_DELAY, RELIABLE, UNRELIABLE, Network
from raftlab.harness.rpc import Rpc
from raftlab.harness.scripted_server import ScriptedServer
from raftlab.harness.service import Service
from raftlab.harness.trace import OutgoingEvent, RateEvent, ServerEvent, TextEvent
from raftlab.messages import codec, protocol
from raftlab.referee.base import Message
from raftlab.referee.referee import Referee
from raftlab.seeds import derive
from raftlab.worlds.base import World

# Seconds within which a new leader must be elected (the limit of the 6.824 lab).
ELECTION_LIMIT = 5.0
# Seconds that start(), get_state() and Raft() may take. They should return at once, but code that holds a lock across a call
# to a dead server (advice, not a failure) can have to wait for two such calls of 7 s each.
CALL_PATIENCE = 15.0
INIT_PATIENCE = 15.0
# Seconds after which a leader must still lead to be accepted as the leader.
SETTLE = 0.15


class SimOnly(RuntimeError):
    """A method that only the simulator supports was called on the real network. Mark the test ``networks=("sim",)``."""


class Cluster:
    """The servers of one run, the network between them, and the test's means to control both.

    Args:
        world: where the servers run.
        lab: the name of the lab, such as ``"2B"``, which determines the referee's rules.
        seed: the seed of the run.
        servers: how many servers there are, 1 to 25.
        scripted: the servers that the test plays itself.
        members: the servers that vote initially; ``None`` means all. Lab 2E changes them, see
            :mod:`raftlab.harness.membership`.

    Attributes:
        size: how many servers there are.
        members: the servers that vote initially, sorted.
        network: the state of every link.
        event_loop: the judge's loop.
        service: the services above Raft, which take snapshots.
        random: for the test's own random choices.
    """

    def __init__(
        self, world: World, lab: str, seed: int, servers: int, scripted: Collection[int] = (),
        members: Collection[int] | None = None,
    ) -> None:  # fmt: skip
        if not 1 <= servers <= 25:
            raise ValueError(f"a cluster has 1 to 25 servers, not {servers}")
        self.size = servers
        self.members = sorted(range(servers) if members is None else members)
        self.network = Network(servers, derive(seed, "network"))
        self.event_loop = EventLoop(
            world, self.network, Referee(lab, servers, bool(scripted), self.members), servers, seed
        )
        self.service = Service(self.event_loop, self.event_loop.referee.applies, derive(seed, "service"))
        self.random = random.Random(derive(seed, "test"))
        self._world = world
        self._has_led = False  # whether any start() has returned is_leader = True
        self._scripted: dict[int, ScriptedServer] = {}
        for number in scripted:
            self._scripted[number] = self.event_loop.server_states[number].scripted_server = ScriptedServer(
                self.event_loop, number, self.reply_to
            )

    # --- time ---

    @property
    def now(self) -> float:
        """The lab's time in seconds."""
        return self.event_loop.now

    def sleep(self, seconds: float) -> None:
        """Let ``seconds`` pass."""
        self.event_loop.run(self.now + seconds)

    def wait_for(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Let time pass until ``done()`` is true, for at most ``seconds``. Returns whether it became true."""
        return self.event_loop.run(self.now + seconds, done)

    def note(self, text: str) -> None:
        """Write a step of the test into the trace."""
        self.event_loop.trace.add(TextEvent(self.now, "note", text))

    # --- servers ---

    @property
    def real_servers(self) -> list[int]:
        """All servers, up or down, except those that the test plays."""
        return [
            server_state.number
            for server_state in self.event_loop.server_states
            if server_state.scripted_server is None
        ]

    def server_state(self, server: int) -> ServerState:
        """What the judge knows of a server: its incarnation, what it saved, whether it is up."""
        return self.event_loop.server_states[server]

    def scripted_server(self, server: int) -> ScriptedServer:
        """The server with this number, which the test plays."""
        return self._scripted[server]

    @property
    def scripted(self) -> list[ScriptedServer]:
        """All servers that the test plays."""
        return list(self._scripted.values())

    def start_all(self) -> None:
        """Start every server that is down, and wait until each ``Raft()`` has returned."""
        for server in range(self.size):
            if not self.server_state(server).up:
                self.event_loop.boot(server, self.members)
        self._until_ready(self.real_servers)

    def crash(self, server: int) -> None:
        """Crash a server. What it saved survives."""
        if self.server_state(server).up:
            self.event_loop.crash(server)

    def restart(self, server: int) -> None:
        """Restart a server with what it saved, crashing it first if it is up, and connect it to the network."""
        self.crash(server)
        self.network.connect(server)
        self.event_loop.boot(server, self.members)
        self._until_ready([server])

    def _until_ready(self, servers: Collection[int]) -> None:
        server_states = [self.server_state(server) for server in servers]
        if not self.wait_for(
            INIT_PATIENCE, lambda: all(server_state.ready or not server_state.up for server_state in server_states)
        ):
            late = ", ".join(f"S{server_state.number}" for server_state in server_states if not server_state.ready)
            text = f"expected Raft(...) to return within {INIT_PATIENCE:.0f} s, but it has not on {late}"
            raise LabFailure(Failure("init-hangs", text))

    def crash_at(self, server: int, kind: str, nth: int = 1, side: str = "before", method: str = "") -> None:
        """Crash a server at a given effect (sim only). Its later effects never happen.

        Args:
            server: the server.
            kind: which effects count: ``"save"``, ``"send"``, ``"answer"`` or ``"apply"``.
            nth: crash at the nth such effect from now on, counted from 1; 0 cancels an earlier call.
            side: ``"before"`` or ``"after"`` the effect.
            method: count only sends that call this method; empty means all.
        """
        self._sim_only("crash_at")
        kinds: dict[str, type] = {
            "save": protocol.Save,
            "send": protocol.Send,
            "answer": protocol.Answer,
            "apply": protocol.Apply,
        }
        wanted = kinds[kind]
        if side not in ("before", "after"):
            raise ValueError(f"side is 'before' or 'after', not {side!r}")
        seen = 0

        def crash_trigger(effect: protocol.Effect) -> str:
            nonlocal seen
            if not isinstance(effect, wanted) or (method and getattr(effect, "method", "") != method):
                return ""
            seen += 1
            return side if seen == nth else ""

        self.server_state(server).crash_trigger = crash_trigger

    def pause(self, server: int) -> None:
        """Stop a server's threads (sim only). Messages to it wait until :meth:`resume`."""
        self._sim_only("pause")
        self.server_state(server).paused = True
        self.event_loop.trace.add(ServerEvent(self.now, "pause", server))
        self._world.send_event(protocol.Pause(server))

    def resume(self, server: int) -> None:
        """Let a paused server continue (sim only)."""
        self._sim_only("resume")
        self.server_state(server).paused = False
        self.event_loop.trace.add(ServerEvent(self.now, "resume", server))
        self._world.send_event(protocol.Resume(server))

    def clock_rate(self, server: int, rate: float) -> None:
        """Let a server's clock run ``rate`` times as fast as the lab's (sim only), also after restarts. Waits that have
        already begun are not affected."""
        self._sim_only("clock_rate")
        self.server_state(server).rate = rate
        self.event_loop.trace.add(RateEvent(self.now, "rate", server, rate))
        self._world.send_event(protocol.ClockRate(server, rate))

    def slow_service(self, server: int, seconds: float) -> None:
        """From now on each ``apply_ch.put`` of a server takes ``seconds``, until it restarts."""
        self.note(f"from now on S{server}'s service takes {seconds} s for each entry")
        self._world.send_event(protocol.SlowApply(server, seconds))

    def fail_saves(self, server: int, count: int = 1) -> None:
        """The next ``count`` saves of a server raise ``OSError``."""
        self.note(f"the next {count} saves of S{server} fail")
        self._world.send_event(protocol.FailSaves(server, count))

    def _sim_only(self, what: str) -> None:
        if not self._world.virtual:
            raise SimOnly(f"{what} needs the simulator; mark the test networks=('sim',)")

    # --- the network ---

    def _net(self, text: str) -> None:
        self.event_loop.trace.add(TextEvent(self.now, "net", text))

    def disconnect(self, server: int) -> None:
        """Cut a server off from all others. It keeps running."""
        self.network.disconnect(server)
        self._net(f"S{server} is off the network")

    def connect(self, server: int) -> None:
        """Undo :meth:`disconnect`."""
        self.network.connect(server)
        self._net(f"S{server} is on the network")

    def partition(self, *groups: Iterable[int]) -> None:
        """Let only servers of the same group reach each other. A server in no group is isolated."""
        named = [sorted(group) for group in groups]
        self.network.partition(named)
        self._net("partition " + " | ".join(" ".join(f"S{server}" for server in group) for group in named))

    def cut(self, src: int, dst: int) -> None:
        """Cut one direction: nothing from ``src`` reaches ``dst``, neither its requests nor its replies."""
        self.network.cut(src, dst)
        self._net(f"cut S{src}→S{dst}")

    def mend(self, src: int, dst: int) -> None:
        """Undo :meth:`cut`."""
        self.network.mend(src, dst)
        self._net(f"mended S{src}→S{dst}")

    def heal(self) -> None:
        """Open every link and connect every server."""
        self.network.heal()
        self._net("healed")

    def unreliable(self, on: bool = True, **changes: Any) -> None:
        """Delay and lose messages on every link.

        Args:
            on: ``True``: as :data:`raftlab.harness.network.UNRELIABLE` says; ``False``: as ``RELIABLE`` says.
            changes: other values for some fields of :class:`raftlab.harness.network.Conditions`, such as
                ``duplicate=0.1``.
        """
        self.network.conditions = replace(UNRELIABLE if on else RELIABLE, **changes)
        self._net("unreliable" if on else "reliable")

    def hold(
        self, method: str = "", src: int | None = None, dst: int | None = None, leg: str = "request",
        when: Callable[[Message], bool] | None = None, most: int | None = None,
    ) -> Hold:  # fmt: skip
        """Keep back matching messages until the hold is released or dropped.

        Args:
            method: hold only RPCs of this method; empty means all.
            src: hold only RPCs in which this server is the caller (for requests and replies alike).
            dst: hold only RPCs in which this server is called (for requests and replies alike).
            leg: ``"request"`` or ``"reply"``.
            when: given the request's fields, returns whether to hold the RPC.
            most: hold at most this many messages; ``None`` means no limit.

        Returns:
            The hold, with the messages that it holds.
        """

        def wanted(rpc: Rpc) -> bool:
            return (
                (not method or rpc.method == method)
                and (src is None or rpc.src == src)
                and (dst is None or rpc.dst == dst)
                and (when is None or when(rpc.args))
            )

        hold = Hold(self.event_loop, leg, wanted, most)
        self.event_loop.holds.append(hold)
        return hold

    @contextlib.contextmanager
    def at_once(self, server: int, *held: Hold) -> Iterator[None]:
        """Deliver to ``server``, at one instant, every request that is sent to it in the ``with`` block and every message of
        the holds in ``held``. On the real network the messages leave one right after the other."""
        requests = self.hold(dst=server)
        yield
        when = self.now + MIN_DELAY
        for hold in (*held, requests):
            hold.deliver(when)

    def reply_to(self, rpc: Rpc, patience: float = CALL_PATIENCE) -> Message:
        """Wait up to ``patience`` seconds for the reply to a scripted server's call, and return its fields. Fails if none
        arrives."""
        self.wait_for(patience, lambda: rpc.done)
        if rpc.reply is None:
            self.fail(f"expected S{rpc.dst} to answer {rpc.method}, but no reply came in {patience:.0f} s")
        return rpc.reply

    # --- terms and leaders ---

    def get_state(self, server: int) -> tuple[int, bool]:
        """``(term, is_leader)`` of one server."""
        return self.states([server])[server]

    def states(self, servers: Collection[int]) -> dict[int, tuple[int, bool]]:
        """Call ``get_state()`` of several servers at the same moment.

        Returns:
            ``(term, is_leader)`` by server, without those that are down or paused.
        """
        calls = {
            server: self.event_loop.begin_call(server, "get_state", [])
            for server in servers
            if self.server_state(server).running
        }
        answered = self.wait_for(CALL_PATIENCE, lambda: not any(map(self.event_loop.pending, calls.values())))
        if not answered:
            server = next(server for server, number in calls.items() if self.event_loop.pending(number))
            text = f"expected S{server}.get_state() to return at once, but after {CALL_PATIENCE:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        states = {}
        for server, number in calls.items():
            state = self.event_loop.result(number)
            if state is None and not self.server_state(server).up:
                continue
            if not (isinstance(state, list) and [type(part) for part in state] == [int, bool]):
                raise LabFailure(
                    Failure(
                        "bad-result",
                        f"expected get_state() to return (term, is_leader), but S{server} returned {state!r}",
                    )
                )
            self.event_loop.referee.observed(server, *state)
            states[server] = (state[0], state[1])
        return states

    def connected(self) -> list[int]:
        """The real servers that are up, not paused and on the network."""
        return [
            server
            for server in self.real_servers
            if self.server_state(server).running and self.network.connected(server)
        ]

    def leader_now(self, among: Collection[int] | None = None) -> int | None:
        """The leader with the highest term among ``among`` (default: the connected servers) at this moment, if any."""
        states = self.states(self.connected() if among is None else among)
        leading = [(term, server) for server, (term, leads) in states.items() if leads]
        return max(leading)[1] if leading else None

    def one_leader(self, among: Collection[int] | None = None, within: float = ELECTION_LIMIT) -> int:
        """Wait until a server leads, and still leads :data:`SETTLE` seconds later.

        Args:
            among: the servers to ask; ``None``: those that are connected.
            within: fail if there is no leader after this many seconds.

        Returns:
            The leader with the highest term.
        """
        deadline = self.now + within
        before: int | None = None
        while True:
            leader = self.leader_now(among)
            if leader is not None and leader == before:
                return leader
            if self.now >= deadline and before is None:
                self.fail(
                    f"expected a leader within {within:.0f} s, but there is none",
                    rules.LIVENESS,
                    hint=self.first_hint(),
                )
            if self.now >= deadline + 1.0:
                self.fail(
                    f"expected a stable leader within {within:.0f} s, but the leaders keep changing", rules.LIVENESS
                )
            before = leader
            self.sleep(SETTLE)

    def settled_leader(self, within: float = ELECTION_LIMIT + 2.0) -> int:
        """Wait until exactly one connected server leads and all others are in its term, so that no deposed leader remains
        among them. Fails after ``within`` seconds. Returns the leader."""
        deadline = self.now + within
        self.one_leader()
        while True:
            states = self.states(self.connected())
            leading = [server for server, (_, leads) in states.items() if leads]
            if len(leading) == 1 and len({term for term, _ in states.values()}) == 1:
                return leading[0]
            if self.now >= deadline:
                seen = ", ".join(f"S{server}: {term}" for server, (term, _) in states.items())
                lead = ", ".join(f"S{server}" for server in leading) + (" leads" if len(leading) == 1 else " lead")
                lead = lead if leading else "no server leads"
                text = f"expected one leader and all servers in its term, but {lead} and the terms are {seen}"
                self.fail(text, rules.TERMS_AGREE)
            self.sleep(SETTLE)

    def first_hint(self) -> str:
        """A hint about the first step, if no server has requested a vote yet; else empty."""
        if self.rpc_count(method="request_vote"):
            return ""
        if self.size == 1:
            return "A candidate votes for itself, and here that is a majority: count the votes at once, too."
        return "No server has called request_vote yet. Begin with step 1 of the handout: the election timer."

    def no_leader(self, among: Collection[int] | None = None) -> None:
        """Fail if one of ``among`` (default: the connected servers) leads at this moment."""
        leader = self.leader_now(among)
        if leader is not None:
            self.fail(f"expected no leader without a majority, but S{leader} leads", rules.MAJORITY, [leader])

    def agreed_term(self, among: Collection[int] | None = None, within: float = ELECTION_LIMIT) -> int:
        """Wait up to ``within`` seconds until all of ``among`` (default: the connected servers) are in one term. Returns
        that term."""
        deadline = self.now + within
        while True:
            states = self.states(self.connected() if among is None else among)
            terms = {term for term, _ in states.values()}
            if len(terms) == 1:
                return terms.pop()
            if self.now >= deadline:
                seen = ", ".join(f"S{server}: {term}" for server, (term, _) in states.items())
                self.fail(f"expected all servers to be in one term, but the terms are {seen}", rules.TERMS_AGREE)
            self.sleep(SETTLE)

    # --- commands ---

    def propose(self, server: int, command: Any) -> tuple[int, int, bool]:
        """Call ``start(command)`` on one server.

        Returns:
            ``(index, term, is_leader)``; ``(-1, -1, False)`` if the server is down or paused.
        """
        return self.propose_together(server, [command])[0]

    def propose_together(self, server: int, commands: Iterable[Any]) -> list[tuple[int, int, bool]]:
        """Call ``start`` on one server with several commands at the same moment. Returns what :meth:`propose` returns, for
        each command in order."""
        if not self.server_state(server).running:
            return [(-1, -1, False) for _ in commands]
        calls = [self.event_loop.begin_call(server, "start", [command]) for command in commands]
        if not self.wait_for(CALL_PATIENCE, lambda: not any(map(self.event_loop.pending, calls))):
            text = f"expected S{server}.start() to return at once, but after {CALL_PATIENCE:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        return [self._started(server, self.event_loop.result(call)) for call in calls]

    def _started(self, server: int, result: Any) -> tuple[int, int, bool]:
        if result is None and not self.server_state(server).up:
            return -1, -1, False  # the server crashed meanwhile
        if not (isinstance(result, list) and [type(part) for part in result] == [int, int, bool]):
            text = f"expected start() to return (index, term, is_leader), but S{server} returned {result!r}"
            raise LabFailure(Failure("bad-result", text))
        if result[2]:
            self._has_led = True
            self.event_loop.referee.led(server, result[1])
        return result[0], result[1], result[2]

    def committed(self, index: int) -> tuple[int, Any]:
        """How many servers have applied ``index``, and the command there (``None`` if there is none)."""
        applies = self.event_loop.referee.applies
        value = applies.values.get(index)
        return len(applies.servers_at.get(index, ())), None if value is None else value[1]

    def agree(
        self, command: Any, servers: int, retry: bool = True, within: float = 10.0, among: Collection[int] | None = None
    ) -> int:
        """Propose a command to the leader and wait until it is applied.

        Args:
            command: a JSON-like value.
            servers: how many servers must apply it.
            retry: propose it again if it is not applied within 2 s, for example because its leader was deposed.
            within: fail after this many seconds.
            among: the servers that may lead; ``None``: those that are connected.

        Returns:
            The index at which the command was applied.
        """
        deadline = self.now + within
        proposals = 0
        before = self._indexes_of(command)
        while self.now < deadline:
            for server in self.connected() if among is None else sorted(among):
                index, _, is_leader = self.propose(server, command)
                if not is_leader:
                    continue
                proposals += 1
                if self.wait_for(2.0, lambda at=index: self._has(at, command, servers)):  # type: ignore[misc]
                    return index
                if proposals == 1 and (elsewhere := self._indexes_of(command) - before - {index}):
                    # The command was proposed only once, so this is the entry whose index start() returned.
                    text = f"expected {short(command)} at index {index}, as start() returned, but it is at {min(elsewhere)}"
                    self.fail(text, rules.AGREEMENT, hint="start() returns the index that the command will have.")
                if not retry:
                    self._no_agreement(command, servers, 2.0)
            self.sleep(0.05)
        return self._no_agreement(command, servers, within)

    def _has(self, index: int, command: Any, servers: int) -> bool:
        count, value = self.committed(index)
        return count >= servers and bool(value == command)

    def _indexes_of(self, command: Any) -> set[int]:
        values = self.event_loop.referee.applies.values
        return {index for index, value in values.items() if value == ("command", command)}

    def _no_agreement(self, command: Any, servers: int, within: float) -> NoReturn:
        by = f"{servers} server{'s' if servers > 1 else ''}"
        text = f"expected {short(command)} to be applied by {by} within {within:.0f} s, but it was not"
        self.fail(text, rules.AGREEMENT, hint=self._agreement_hint())

    def _agreement_hint(self) -> str:
        """A hint about the first step, if no server has accepted a command yet; else empty."""
        if self._has_led:
            return ""
        return "No start() has returned is_leader = True yet. Begin with step 1 of the handout of lab 2B."

    def ask_members(self, server: int, members: Collection[int]) -> int:
        """Call ``change_membership(members)`` on one server without waiting (lab 2E). Returns the call's number in the event
        loop. :mod:`raftlab.harness.membership` waits for answers."""
        self.event_loop.referee.change_requested(server, frozenset(members))
        return self.event_loop.begin_call(server, "change_membership", [sorted(members)])

    def take_snapshots(self, every: int = 10, size: int = 0) -> None:
        """From now on the services take a snapshot after every ``every`` entries, with ``size`` random bytes (lab 2D)."""
        self.service.every, self.service.size = every, size

    def snapshot_of(self, index: int) -> bytes:
        """The services' snapshot of everything up to ``index``, for scripted servers to send."""
        return self.service.snapshot_of(index)

    def call_snapshot(self, server: int, index: int) -> None:
        """Call ``snapshot(index, ...)`` on one server, in addition to its service's calls, and wait until it returns."""
        self.event_loop.call(server, "snapshot", [index, self.snapshot_of(index)], CALL_PATIENCE)

    # --- counters ---

    def rpc_count(self, server: int | None = None, method: str = "") -> int:
        """How many RPCs a server (default: all) has sent so far, of one method (default: all)."""
        return self._count(self.event_loop.rpcs, server, method)

    def rpc_bytes(self, server: int | None = None, method: str = "") -> int:
        """Bytes in the RPCs that :meth:`rpc_count` counts, requests and replies. A reply counts for the caller."""
        return self._count(self.event_loop.rpc_bytes, server, method)

    def replies(self, server: int, method: str) -> list[tuple[Message, Message]]:
        """The fields of every request of this method that ``server`` has answered so far, and of its reply."""
        return [
            (self.event_loop.rpcs_by_id[event.id].args, codec.decode_plain(event.message))
            for event in self.event_loop.trace.events
            if isinstance(event, OutgoingEvent)
            and event.kind == "answer"
            and event.server == server
            and event.method == method
        ]

    @staticmethod
    def _count(counts: dict[tuple[int, str], int], server: int | None, method: str) -> int:
        return sum(
            number
            for (caller, called), number in counts.items()
            if (server is None or caller == server) and (not method or called == method)
        )

    # --- verdicts ---

    def fail(
        self, text: str, rule: Rule | None = None, servers: Collection[int] | None = None, hint: str = ""
    ) -> NoReturn:
        """Fail the test.

        Args:
            text: what was expected and what was observed, in one sentence.
            rule: the rule that is broken, if there is one.
            servers: show the last events of these servers only; ``None`` means all.
            hint: advice for the student.

        Raises:
            LabFailure: always.
        """
        failure = LabFailure(Failure("assertion", text, rule, hint=hint))
        failure.servers = None if servers is None else frozenset(servers)
        raise failure

    def expect(
        self, holds: bool, text: str, rule: Rule | None = None, servers: Collection[int] | None = None, hint: str = ""
    ) -> None:
        """Call :meth:`fail` unless ``holds``."""
        if not holds:
            self.fail(text, rule, servers, hint)
