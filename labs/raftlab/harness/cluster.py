"""The harness that suites are written against: a cluster of servers, what a test can do to it, and what it may expect.

A test is a script: ``cluster(3)``, then lines such as ``c.disconnect(leader)`` and ``c.one_leader()``. Nothing happens
between two lines; time passes only inside calls that wait (``sleep``, ``one_leader``, ``agree``, ...), in seconds of
the lab's time: virtual in sim, real in rpyc. The same script runs in both worlds, except where a method says sim only.

An expectation that is not met raises :class:`~raftlab.explain.failure.LabFailure` with what was expected, what was seen and
the rule behind it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from typing import Any, NoReturn

from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure, Rule, short
from raftlab.harness.event_loop import EventLoop, Hold, ServerState
from raftlab.harness.network import RELIABLE, UNRELIABLE, Network
from raftlab.harness.rpc import Rpc
from raftlab.harness.scripted_server import ScriptedServer
from raftlab.harness.service import Service
from raftlab.harness.trace import OutgoingEvent, RateEvent, ServerEvent, TextEvent
from raftlab.messages import codec, protocol
from raftlab.referee.base import Message
from raftlab.referee.referee import Referee
from raftlab.seeds import derive
from raftlab.worlds.base import World

# A new leader must be there within this many seconds (the original's limit).
ELECTION_LIMIT = 5.0
# How long Raft() may take, and how long start() and get_state() may: they must return at once. The limit is that of
# a student who holds a lock across a call to a dead server (advice, no failure): 7 s, and some.
CALL_PATIENCE = 15.0
INIT_PATIENCE = 15.0
# A leader counts as found when it still leads this much later.
SETTLE = 0.15


class SimOnly(RuntimeError):
    """The method asked for exists only in the sim world. A test that uses it must say so (``networks=("sim",)``)."""


class Cluster:
    """``servers`` servers, started by :meth:`start_all`. Those in ``puppets`` are played by the test. ``members`` vote in
    the beginning: all, unless a test of lab 2E says who (:mod:`raftlab.harness.membership` has the rest of that lab)."""

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
        self._has_led = False  # some start() was taken
        self._scripted: dict[int, ScriptedServer] = {}
        for number in scripted:
            self._scripted[number] = self.event_loop.server_states[number].scripted_server = ScriptedServer(
                self.event_loop, number, self.reply_to
            )

    # --- time ---

    @property
    def now(self) -> float:
        return self.event_loop.now

    def sleep(self, seconds: float) -> None:
        """Let the cluster live for ``seconds``."""
        self.event_loop.run(self.now + seconds)

    def wait_for(self, seconds: float, done: Callable[[], bool]) -> bool:
        """Let the cluster live until ``done()``, for at most ``seconds``. Returns whether it came true."""
        return self.event_loop.run(self.now + seconds, done)

    def note(self, text: str) -> None:
        """Write a step of the script into the trace."""
        self.event_loop.trace.add(TextEvent(self.now, "note", text))

    # --- servers ---

    @property
    def everybody(self) -> list[int]:
        """The real servers (not the puppets), up or down."""
        return [
            server_state.number
            for server_state in self.event_loop.server_states
            if server_state.scripted_server is None
        ]

    def server_state(self, server: int) -> ServerState:
        return self.event_loop.server_states[server]

    def scripted_server(self, server: int) -> ScriptedServer:
        return self._scripted[server]

    @property
    def scripted(self) -> list[ScriptedServer]:
        return list(self._scripted.values())

    def start_all(self) -> None:
        for server in range(self.size):
            if not self.server_state(server).up:
                self.event_loop.boot(server, self.members)
        self._until_ready(self.everybody)

    def crash(self, server: int) -> None:
        """End a server without a word; what it saved stays."""
        if self.server_state(server).up:
            self.event_loop.crash(server)

    def restart(self, server: int) -> None:
        """Start a crashed server again (or crash and start it) with what it saved, connected."""
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
            text = f"expected Raft(...) to return, but after {INIT_PATIENCE:.0f} s it has not on {late}"
            raise LabFailure(Failure("init-hangs", text))

    def crash_at(self, server: int, kind: str, nth: int = 1, side: str = "before", method: str = "") -> None:
        """Arm a crash (sim only) before or after the ``nth`` effect of ``kind`` from now: ``"save"``, ``"send"``,
        ``"answer"`` or ``"apply"``; ``method`` picks sends by method. The rest of the step never happens. With ``nth=0`` a
        crash that was armed is called off."""
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

        def boundary(effect: protocol.Effect) -> str:
            nonlocal seen
            if not isinstance(effect, wanted) or (method and getattr(effect, "method", "") != method):
                return ""
            seen += 1
            return side if seen == nth else ""

        self.server_state(server).boundary = boundary

    def pause(self, server: int) -> None:
        """Stop a server's threads (sim only); messages to it wait until :meth:`resume`."""
        self._sim_only("pause")
        self.server_state(server).paused = True
        self.event_loop.trace.add(ServerEvent(self.now, "pause", server))
        self._world.send_event(protocol.Pause(server))

    def resume(self, server: int) -> None:
        self._sim_only("resume")
        self.server_state(server).paused = False
        self.event_loop.trace.add(ServerEvent(self.now, "resume", server))
        self._world.send_event(protocol.Resume(server))

    def clock_rate(self, server: int, rate: float) -> None:
        """Let a server's clock run ``rate`` times as fast (sim only), also after restarts. Waits that have begun keep
        their end."""
        self._sim_only("clock_rate")
        self.server_state(server).rate = rate
        self.event_loop.trace.add(RateEvent(self.now, "rate", server, rate))
        self._world.send_event(protocol.ClockRate(server, rate))

    def slow_service(self, server: int, seconds: float) -> None:
        """From now on ``apply_ch.put`` takes so long on a server, in this life."""
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
        self.network.disconnect(server)
        self._net(f"S{server} is off the network")

    def connect(self, server: int) -> None:
        self.network.connect(server)
        self._net(f"S{server} is on the network")

    def partition(self, *groups: Iterable[int]) -> None:
        """Only servers of the same group reach each other; a server in no group is alone."""
        named = [sorted(group) for group in groups]
        self.network.partition(named)
        self._net("partition " + " | ".join(" ".join(f"S{server}" for server in group) for group in named))

    def cut(self, src: int, dst: int) -> None:
        """Cut one direction: nothing from ``src`` reaches ``dst``, neither its requests nor its replies."""
        self.network.cut(src, dst)
        self._net(f"cut S{src}→S{dst}")

    def mend(self, src: int, dst: int) -> None:
        self.network.mend(src, dst)
        self._net(f"mended S{src}→S{dst}")

    def heal(self) -> None:
        """Open every link and connect every server."""
        self.network.heal()
        self._net("healed")

    def unreliable(self, on: bool = True, **changes: Any) -> None:
        """Delay, lose (and with ``duplicate=0.1`` repeat) messages as :data:`raftlab.harness.network.UNRELIABLE` says."""
        self.network.conditions = replace(UNRELIABLE if on else RELIABLE, **changes)
        self._net("unreliable" if on else "reliable")

    def hold(
        self, method: str = "", src: int | None = None, dst: int | None = None, leg: str = "request",
        when: Callable[[Message], bool] | None = None, most: int | None = None,
    ) -> Hold:  # fmt: skip
        """Keep back matching messages (at most ``most``) until the hold is released or dropped. ``src`` is the caller
        and ``dst`` the callee also for replies; ``when`` looks at the request's fields."""

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

    def reply_to(self, rpc: Rpc, patience: float = CALL_PATIENCE) -> Message:
        """The reply to a puppet's call. Fails when none comes within ``patience`` seconds."""
        self.wait_for(patience, lambda: rpc.done)
        if rpc.reply is None:
            self.fail(f"expected S{rpc.dst} to answer {rpc.method}, but no reply came in {patience:.0f} s")
        return rpc.reply

    # --- what servers say ---

    def get_state(self, server: int) -> tuple[int, bool]:
        """``(term, is_leader)`` of one server."""
        return self.states([server])[server]

    def states(self, servers: Collection[int]) -> dict[int, tuple[int, bool]]:
        """``get_state()`` of several servers, asked at the same moment, but for those that are down or paused."""
        asked = {
            server: self.event_loop.begin_call(server, "get_state", [])
            for server in servers
            if self.server_state(server).running
        }
        answered = self.wait_for(CALL_PATIENCE, lambda: not any(map(self.event_loop.pending, asked.values())))
        if not answered:
            server = next(server for server, number in asked.items() if self.event_loop.pending(number))
            text = f"expected S{server}.get_state() to return at once, but after {CALL_PATIENCE:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        found = {}
        for server, number in asked.items():
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
            found[server] = (state[0], state[1])
        return found

    def connected(self) -> list[int]:
        """The real servers that are up, not paused and on the network."""
        return [
            server for server in self.everybody if self.server_state(server).running and self.network.connected(server)
        ]

    def leader_now(self, among: Collection[int] | None = None) -> int | None:
        """The leader of the newest term among the connected servers (or ``among``) at this moment, if there is one."""
        states = self.states(self.connected() if among is None else among)
        leading = [(term, server) for server, (term, leads) in states.items() if leads]
        return max(leading)[1] if leading else None

    def one_leader(self, among: Collection[int] | None = None, within: float = ELECTION_LIMIT) -> int:
        """Wait until one of the connected servers (or of ``among``) leads, and still does a moment later."""
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
                self.fail(f"expected one leader to last within {within:.0f} s, but they change", rules.LIVENESS)
            before = leader
            self.sleep(SETTLE)

    def settled_leader(self, within: float = ELECTION_LIMIT + 2.0) -> int:
        """Wait until one connected server leads and all the others are in its term, so that no leader of the past is
        left among them."""
        deadline = self.now + within
        self.one_leader()
        while True:
            states = self.states(self.connected())
            leading = [server for server, (_, leads) in states.items() if leads]
            if len(leading) == 1 and len({term for term, _ in states.values()}) == 1:
                return leading[0]
            if self.now >= deadline:
                seen = ", ".join(f"S{server}: {term}" for server, (term, _) in states.items())
                text = f"expected one leader and all servers in its term, but S{leading} lead and the terms are {seen}"
                self.fail(text, rules.TERMS_AGREE)
            self.sleep(SETTLE)

    def first_hint(self) -> str:
        """What to do first, for somebody whose servers have not yet asked for a single vote; else nothing."""
        if self.rpc_count(method="request_vote"):
            return ""
        if self.size == 1:
            return "A candidate votes for itself, and here that is a majority: count the votes when an election begins, too."
        return "Nobody has called request_vote yet. Begin with step 1 of the handout: the election timer."

    def no_leader(self, among: Collection[int] | None = None) -> None:
        """No connected server (or none of ``among``) leads at this moment."""
        leader = self.leader_now(among)
        if leader is not None:
            self.fail(f"expected no leader without a majority, but S{leader} leads", rules.MAJORITY, [leader])

    def agreed_term(self, among: Collection[int] | None = None, within: float = ELECTION_LIMIT) -> int:
        """The term that all connected servers (or ``among``) are in; they have ``within`` seconds to agree."""
        deadline = self.now + within
        while True:
            states = self.states(self.connected() if among is None else among)
            terms = {term for term, _ in states.values()}
            if len(terms) == 1:
                return terms.pop()
            if self.now >= deadline:
                seen = ", ".join(f"S{server}: {term}" for server, (term, _) in states.items())
                self.fail(f"expected all servers to be in one term, but they are in {seen}", rules.TERMS_AGREE)
            self.sleep(SETTLE)

    # --- commands ---

    def propose(self, server: int, command: Any) -> tuple[int, int, bool]:
        """``start(command)`` on one server: ``(index, term, is_leader)``. One that is down or paused does not lead."""
        return self.propose_together(server, [command])[0]

    def propose_together(self, server: int, commands: Iterable[Any]) -> list[tuple[int, int, bool]]:
        """``start`` on one server with several commands at the same moment; what each said, in their order."""
        if not self.server_state(server).running:
            return [(-1, -1, False) for _ in commands]
        calls = [self.event_loop.begin_call(server, "start", [command]) for command in commands]
        if not self.wait_for(CALL_PATIENCE, lambda: not any(map(self.event_loop.pending, calls))):
            text = f"expected S{server}.start() to return at once, but after {CALL_PATIENCE:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        return [self._started(server, self.event_loop.result(call)) for call in calls]

    def _started(self, server: int, result: Any) -> tuple[int, int, bool]:
        if result is None and not self.server_state(server).up:
            return -1, -1, False  # it went down meanwhile
        if not (isinstance(result, list) and [type(part) for part in result] == [int, int, bool]):
            text = f"expected start() to return (index, term, is_leader), but S{server} returned {result!r}"
            raise LabFailure(Failure("bad-result", text))
        if result[2]:
            self._has_led = True
            self.event_loop.referee.led(server, result[1])
        return result[0], result[1], result[2]

    def committed(self, index: int) -> tuple[int, Any]:
        """How many servers have applied ``index``, and the command there (``None`` if nobody has)."""
        applies = self.event_loop.referee.applies
        value = applies.values.get(index)
        return len(applies.servers_at.get(index, ())), None if value is None else value[1]

    def agree(
        self, command: Any, servers: int, retry: bool = True, within: float = 10.0, among: Collection[int] | None = None
    ) -> int:
        """Have ``command`` committed by at least ``servers`` servers, and return its index. Whoever leads (``among`` the
        given ones) is asked; with ``retry``, asked again when the command was lost with its leader."""
        deadline = self.now + within
        asked = 0
        there = self._indexes_of(command)
        while self.now < deadline:
            for server in self.connected() if among is None else sorted(among):
                index, _, is_leader = self.propose(server, command)
                if not is_leader:
                    continue
                asked += 1
                if self.wait_for(2.0, lambda at=index: self._has(at, command, servers)):  # type: ignore[misc]
                    return index
                if asked == 1 and (elsewhere := self._indexes_of(command) - there - {index}):
                    # Nobody else has been given it, so this is the very entry that start() spoke of.
                    said = f"expected {short(command)} at index {index}, as start() said, but it is at {min(elsewhere)}"
                    self.fail(said, rules.AGREEMENT, hint="start() returns the index that the command will have.")
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
        said = f"expected {short(command)} to be applied by {by} within {within:.0f} s, but it was not"
        self.fail(said, rules.AGREEMENT, hint=self._agreement_hint())

    def _agreement_hint(self) -> str:
        """What to do first, for somebody whose leaders refuse every command; else nothing."""
        if self._has_led:
            return ""
        return "No start() has said yet that it leads. Begin with step 1 of the handout of lab 2B."

    def ask_members(self, server: int, members: Collection[int]) -> int:
        """Begin ``change_membership(members)`` on one server (2E), without waiting. Returns the call's number, for
        ``pending`` of the event loop. :mod:`raftlab.harness.membership` waits for answers."""
        self.event_loop.referee.change_requested(server, frozenset(members))
        return self.event_loop.begin_call(server, "change_membership", [sorted(members)])

    def take_snapshots(self, every: int = 10, size: int = 0) -> None:
        """From now on the services take a snapshot every so many entries, of ``size`` bytes or a little more (2D)."""
        self.service.every, self.service.size = every, size

    def snapshot_of(self, index: int) -> bytes:
        """The services' snapshot of everything up to ``index``, for puppets that send it."""
        return self.service.snapshot_of(index)

    def call_snapshot(self, server: int, index: int) -> None:
        """``snapshot(index, ...)`` on one server, besides those that its service calls, until it returns."""
        self.event_loop.call(server, "snapshot", [index, self.snapshot_of(index)], CALL_PATIENCE)

    # --- counters ---

    def rpc_count(self, server: int | None = None, method: str = "") -> int:
        """RPCs sent so far, of one server or of all, of one method or of all."""
        return self._count(self.event_loop.rpcs, server, method)

    def rpc_bytes(self, server: int | None = None, method: str = "") -> int:
        """Bytes of requests and their answers so far, by the server that asked."""
        return self._count(self.event_loop.rpc_bytes, server, method)

    def replies(self, server: int, method: str) -> list[tuple[Message, Message]]:
        """Every request of that method that a server has answered so far, and its reply."""
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
            n
            for (who, what), n in counts.items()
            if (server is None or who == server) and (not method or what == method)
        )

    # --- verdicts ---

    def fail(
        self, text: str, rule: Rule | None = None, servers: Collection[int] | None = None, hint: str = ""
    ) -> NoReturn:
        """End the test: ``text`` says in one sentence what was expected and what was seen."""
        failure = LabFailure(Failure("assertion", text, rule, hint=hint))
        failure.servers = None if servers is None else frozenset(servers)
        raise failure

    def expect(
        self, holds: bool, text: str, rule: Rule | None = None, servers: Collection[int] | None = None, hint: str = ""
    ) -> None:
        """Go on if ``holds``, else :meth:`fail`."""
        if not holds:
            self.fail(text, rule, servers, hint)
