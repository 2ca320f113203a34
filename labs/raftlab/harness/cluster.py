"""The cluster that tests are written against: what a test can do to its servers, and what it may expect from them.

A test is a script: ``c = cluster(3)``, then lines such as ``c.disconnect(leader)`` and ``c.one_leader()``. Time passes only
inside calls that wait (``sleep``, ``one_leader``, ``agree``, ...), never between two lines. All times are seconds of the
lab's time: virtual in sim, real in rpyc. The same script runs in both worlds, except where a method says "sim only".

An expectation that is not met raises :class:`~raftlab.explain.failure.LabFailure`, which says what was expected, what was
observed and which rule is broken. Every method that lets time pass also raises ``LabFailure`` if, during that time, the
referee sees a broken rule or the student's code fails.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NoReturn, TypedDict, Unpack

from raftlab import labs, participants
from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure, Rule, short
from raftlab.harness import history_check, observations, reads_check
from raftlab.harness.answer_times import answered_in_time
from raftlab.harness.clerks import ClerkHandle, ClientOperation, Load, token
from raftlab.harness.event_loop import EventLoop, Hold, ServerState, ServiceSettings
from raftlab.harness.network import RELIABLE, UNRELIABLE, Network
from raftlab.harness.observations import Accepted, Observation
from raftlab.harness.rpc import Rpc
from raftlab.harness.scripted_server import ScriptedServer
from raftlab.harness.service import Service
from raftlab.harness.trace import OutgoingEvent, RateEvent, ServerEvent, TextEvent
from raftlab.labs import Feature
from raftlab.messages import paper, protocol
from raftlab.participants import name_of
from raftlab.referee.base import Message
from raftlab.referee.referee import Referee
from raftlab.seeds import derive
from raftlab.worlds.base import World

# Seconds within which a new leader must be elected (the limit of the 6.824 lab).
ELECTION_LIMIT = 5.0
# Seconds that start(), get_state() and Raft() may take. They should return at once. But code that holds a lock during an RPC
# gets advice, not a failure. In such code, a call may have to wait for two RPCs to dead servers, which take up to 7 s
# each.
CALL_PATIENCE = 15.0
INIT_PATIENCE = 15.0
# A server counts as the leader only if it still leads this many seconds later.
SETTLE = 0.15


# The maximum number of sessions that a service keeps, unless the test sets another limit. No test that uses this default
# has as many clients.
MAX_SESSIONS = 100


class ServiceOptions(TypedDict, total=False):
    """What a cluster of lab 3 has besides its servers."""

    clerks: int
    """How many clerks there are; they are called C0, C1, ..."""
    scripted_clerks: int
    """The number of further clerks, which the test plays itself."""
    max_state: int | None
    """The argument of every ``KVServer``, in bytes; ``None`` (the default) if a service need not take snapshots."""
    max_sessions: int
    """The argument of every ``KVServer``; :data:`MAX_SESSIONS` by default."""
    long_waits: bool
    """Whether a call to a server that cannot be reached takes up to 7 s to fail (as in lab 2) instead of up to 0.1 s."""
    features: Collection[Feature]
    """Features of Raft beyond the lab's own, such as ``membership`` or ``pre_vote``. The test needs them, and the referee
    checks their rules."""


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
        members: the servers that vote initially; ``None`` means all. The tests of lab 2E change the members later, see
            :mod:`raftlab.harness.membership`.
        service: the clerks, and the arguments of ``KVServer`` (lab 3A).

    Attributes:
        size: how many servers there are.
        members: the servers that vote initially, sorted.
        network: the state of every link.
        event_loop: the judge's loop.
        service: the judge's own services above Raft, which take snapshots (before lab 3A).
        clerks: the student's clerks, C0, C1, ... (lab 3A).
        scripted_clerks: the clerks that the test plays; their numbers follow those of ``clerks``.
        history: every operation of every clerk so far, in the order in which they began.
        reads: whether replies name the index at which the value was read (lab 3B).
        clock_rates: all rates that the clocks of servers have had so far.
        random: for the test's own random choices.
    """

    def __init__(
        self, world: World, lab: str, seed: int, servers: int, scripted: Collection[int] = (),
        members: Collection[int] | None = None, **service: Unpack[ServiceOptions],
    ) -> None:  # fmt: skip
        if not 1 <= servers <= 25:
            raise ValueError(f"a cluster has 1 to 25 servers, not {servers}")
        self.size = servers
        self.members = sorted(range(servers) if members is None else members)
        clerks, scripted_clerks = service.get("clerks", 0), service.get("scripted_clerks", 0)
        clerk_numbers = [participants.clerk(index) for index in range(clerks + scripted_clerks)]
        self.network = Network(servers, derive(seed, "network"), clerk_numbers)
        features = service.get("features", ())
        referee = Referee(lab, servers, bool(scripted), self.members, features, lambda: self.event_loop.now)
        self.event_loop = EventLoop(world, self.network, referee, servers, seed, len(clerk_numbers))
        if labs.find(lab).has("service"):
            self.event_loop.service_settings = ServiceSettings(
                service.get("max_state"), service.get("max_sessions", MAX_SESSIONS)
            )
            self.network.long_waits = service.get("long_waits", False)
        self.service = Service(self.event_loop, self.event_loop.referee.applies, derive(seed, "service"))
        self.random = random.Random(derive(seed, "test"))
        self._world = world
        self.reads = labs.find(lab).has("reads")
        self._has_led = False  # whether any start() has returned is_leader = True
        self._scripted: dict[int, ScriptedServer] = {}
        for number in scripted:
            self._scripted[number] = self._script(number)
        self.clerks = [ClerkHandle(self, index) for index in range(clerks)]
        self.scripted_clerks = [self._script(number) for number in clerk_numbers[clerks:]]
        self.history: list[ClientOperation] = []
        self._loads: list[Load] = []  # a clerk is in at most one of them
        self.clock_rates = {1.0}
        self._tokens: dict[str, int] = {}

    def _script(self, number: int) -> ScriptedServer:
        """Let the test play this server or clerk."""
        scripted = ScriptedServer(self.event_loop, number, self.reply_to)
        self.server_state(number).scripted_server = scripted
        return scripted

    # --- time ---

    @property
    def now(self) -> float:
        """The lab's time in seconds."""
        return self.event_loop.now

    @property
    def virtual(self) -> bool:
        """Whether time is virtual: true in the simulator, false on the real network."""
        return self._world.virtual

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
        """What the judge knows about a server or clerk: its incarnation, what it saved, whether it is up."""
        return self.event_loop.states[server]

    def scripted_server(self, server: int) -> ScriptedServer:
        """The server with this number, which the test plays."""
        return self._scripted[server]

    @property
    def scripted(self) -> list[ScriptedServer]:
        """All servers that the test plays."""
        return list(self._scripted.values())

    def start_all(self) -> None:
        """Start every server and clerk that is down, and wait until each ``Raft()``, ``KVServer()`` and ``Clerk()`` has
        returned."""
        for number, state in self.event_loop.states.items():
            if not state.up:
                self.event_loop.boot(number, self.members)
        self._until_ready([*self.real_servers, *(clerk.number for clerk in self.clerks)])

    def crash(self, server: int) -> None:
        """Crash a server or a clerk. A server keeps what it saved. If a clerk crashes, its operation never returns."""
        if self.server_state(server).up:
            self.event_loop.crash(server)
        for clerk in self.clerks:
            if clerk.number == server:
                clerk.operation = None

    def restart(self, server: int) -> None:
        """Crash a server if it is up, restart it with what it saved, and connect it to the network. A clerk is replaced by a
        new clerk with another client_id."""
        self.crash(server)
        self.network.connect(server)
        self.event_loop.boot(server, self.members)
        self._until_ready([server])

    def _until_ready(self, servers: Collection[int]) -> None:
        server_states = [self.server_state(server) for server in servers]
        if not self.wait_for(
            INIT_PATIENCE, lambda: all(server_state.ready or not server_state.up for server_state in server_states)
        ):
            late = [server_state.number for server_state in server_states if not server_state.ready]
            servers_only = "Raft(...)" if self.event_loop.service_settings is None else "Raft(...) and KVServer(...)"
            what = "Clerk(...)" if all(map(participants.is_clerk, late)) else servers_only
            names = ", ".join(map(name_of, late))
            text = f"expected {what} to return within {INIT_PATIENCE:.0f} s, but it has not on {names}"
            raise LabFailure(Failure("init-hangs", text, detail=self.event_loop.world.threads(late[0])))

    def crash_at(
        self, server: int, kind: str, nth: int = 1, side: str = "before", method: str = "",
        when: Callable[[Message], bool] | None = None,
    ) -> None:  # fmt: skip
        """Crash a server at a given effect (sim only). Its later effects never happen.

        Args:
            server: the server.
            kind: which effects count: ``"save"`` (this includes appends), ``"send"``, ``"answer"`` or ``"apply"``.
            nth: crash at the nth such effect from now on, counted from 1; 0 cancels an earlier ``crash_at``.
            side: ``"before"`` or ``"after"`` the effect.
            method: count only sends and answers of this method; empty means all.
            when: called with the request's fields, or with an empty dictionary for saves and applies; returns whether the
                effect counts.
        """
        self._sim_only("crash_at")
        kinds: dict[str, type | tuple[type, ...]] = {
            "save": (protocol.Save, protocol.Append),
            "send": protocol.Send,
            "answer": protocol.Answer,
            "apply": protocol.Apply,
        }
        wanted = kinds[kind]
        if side not in ("before", "after"):
            raise ValueError(f"side is 'before' or 'after', not {side!r}")
        seen = 0

        def counts(effect: protocol.Effect) -> bool:
            if not isinstance(effect, wanted):
                return False
            if not method and when is None:
                return True
            called, fields = self._request_of(effect)
            return (not method or called == method) and (when is None or when(fields()))

        def crash_trigger(effect: protocol.Effect) -> str:
            nonlocal seen
            if not counts(effect):
                return ""
            seen += 1
            return side if seen == nth else ""

        self.server_state(server).crash_trigger = crash_trigger

    def _request_of(self, effect: protocol.Effect) -> tuple[str, Callable[[], Message]]:
        """The method of the RPC that a send or an answer belongs to, and a function that decodes the request. The method is
        ``""`` for other effects and unknown RPCs."""
        if isinstance(effect, protocol.Send):
            return effect.method, lambda: paper.decode_request(effect.method, effect.payload)
        rpc = self.event_loop.rpcs_by_id.get(effect.judge_rpc) if isinstance(effect, protocol.Answer) else None
        return ("", dict) if rpc is None else (rpc.method, lambda: rpc.args)

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
        """Let a server's clock run ``rate`` times as fast as the lab's, also after restarts (sim only). Waits that have
        already begun are not affected."""
        self._sim_only("clock_rate")
        self.server_state(server).rate = rate
        self.clock_rates.add(rate)
        self.event_loop.trace.add(RateEvent(self.now, "rate", server, rate))
        self._world.send_event(protocol.ClockRate(server, rate))

    def slow_service(self, server: int, seconds: float) -> None:
        """Let each ``apply_ch.put`` of a server take ``seconds``, until the server restarts."""
        self.note(f"from now on S{server}'s service takes {seconds} s for each entry")
        self._world.send_event(protocol.SlowApply(server, seconds))

    def fail_saves(self, server: int, count: int = 1) -> None:
        """Let the next ``count`` saves or appends of a server raise ``OSError``."""
        self.note(f"the next save of S{server} fails" if count == 1 else f"the next {count} saves of S{server} fail")
        self.event_loop.fail_saves(server, count)

    def _sim_only(self, what: str) -> None:
        if not self._world.virtual:
            raise SimOnly(f"{what} needs the simulator; mark the test networks=('sim',)")

    # --- the network ---

    def _net(self, text: str) -> None:
        self.event_loop.trace.add(TextEvent(self.now, "net", text))

    def disconnect(self, server: int) -> None:
        """Cut a server off from all others. It keeps running."""
        self.network.disconnect(server)
        self._net(f"{name_of(server)} is off the network")

    def connect(self, server: int) -> None:
        """Undo :meth:`disconnect`."""
        self.network.connect(server)
        self._net(f"{name_of(server)} is on the network")

    def partition(self, *groups: Iterable[int]) -> None:
        """Let only members of the same group reach each other. A server in no group is isolated; a clerk in no group reaches
        all servers."""
        named = [sorted(group) for group in groups]
        self.network.partition(named)
        self._net("partition " + " | ".join(" ".join(map(name_of, group)) for group in named))

    def cut(self, src: int, dst: int) -> None:
        """Cut one direction: neither requests nor replies of ``src`` reach ``dst``."""
        self.network.cut(src, dst)
        self._net(f"cut {name_of(src)}→{name_of(dst)}")

    def mend(self, src: int, dst: int) -> None:
        """Undo :meth:`cut`."""
        self.network.mend(src, dst)
        self._net(f"mended {name_of(src)}→{name_of(dst)}")

    def heal(self) -> None:
        """Open every link and connect every server."""
        self.network.heal()
        self._net("healed")

    def unreliable(self, on: bool = True, **changes: Any) -> None:
        """Delay and lose messages on every link.

        Args:
            on: ``True`` sets :data:`raftlab.harness.network.UNRELIABLE`, ``False`` sets ``RELIABLE``.
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
            when: called with the request's fields; returns whether to hold the message.
            most: hold at most this many messages; ``None`` means no limit.

        Returns:
            The hold. Its ``messages`` are the messages that it keeps back.
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

    def catch(self, src: int, dst: int, leg: str = "request", method: str = "", nth: int = 1) -> Hold:
        """Keep back one message that is in flight, until the hold is released or dropped. If there is no such message, the
        hold is empty.

        Args:
            src: the caller of the RPC (for requests and replies alike).
            dst: the server that is called (for requests and replies alike).
            leg: ``"request"`` or ``"reply"``.
            method: catch only a message of this method; empty means any.
            nth: which of the matching messages, counted from 1 in the order in which they would arrive.
        """
        hold = Hold(self.event_loop, leg, lambda rpc: False, None)
        taken = self.event_loop.take_back(
            leg, lambda rpc: (rpc.src, rpc.dst) == (src, dst) and method in ("", rpc.method), nth
        )
        if taken is not None:
            hold.add(*taken, self.now)
        return hold

    @contextlib.contextmanager
    def at_once(self, server: int, *held: Hold) -> Iterator[None]:
        """At the end of the ``with`` block, deliver at one instant every request that was sent to ``server`` in the block,
        and every message of the holds in ``held``. Calls that begin in the block (:meth:`ask_start`, ...) are made at the
        same instant. On the real network, the messages and calls leave one right after the other."""
        requests = self.hold(dst=server)
        yield
        for hold in (*held, requests):
            hold.deliver(self.now)

    def reply_to(self, rpc: Rpc, patience: float = CALL_PATIENCE) -> Message:
        """Wait up to ``patience`` seconds for the reply to a scripted server's call, and return its fields. Fails if none
        arrives."""
        self.wait_for(patience, lambda: rpc.done)
        if rpc.reply is None:
            self.fail(f"expected S{rpc.dst} to answer {rpc.method}, but no reply came in {patience:.0f} s")
        return rpc.reply

    # --- terms and leaders ---

    def get_state(self, server: int) -> tuple[int, bool]:
        """``(term, is_leader)`` of one server. Fails if it is not running."""
        states = self.states([server])
        if server not in states:
            what = "has ended" if not self.server_state(server).up else "is paused"
            self.fail(f"expected S{server} to say its term and whether it leads, but it {what}", servers=[server])
        return states[server]

    def states(self, servers: Collection[int]) -> dict[int, tuple[int, bool]]:
        """Call ``get_state()`` of several servers at the same moment.

        Returns:
            ``(term, is_leader)`` by server, without those that are down or paused.
        """
        calls = {server: self.begin_get_state(server) for server in servers if self.server_state(server).running}
        answered = self.wait_for(CALL_PATIENCE, lambda: not any(map(self.event_loop.pending, calls.values())))
        if not answered:
            server = next(server for server, number in calls.items() if self.event_loop.pending(number))
            raise self.event_loop.no_answer(server, "get_state", CALL_PATIENCE)
        states = {}
        for server, number in calls.items():
            state = self._state(server, number)
            if state is None:
                continue
            self.event_loop.referee.observed(server, *state)
            states[server] = state
        return states

    def begin_get_state(self, server: int) -> int:
        """Call ``get_state()`` of one server without waiting. Returns the call's number, for :meth:`get_state_results`."""
        return self.event_loop.begin_call(server, "get_state", [])

    def get_state_results(self, server: int, calls: Collection[int]) -> list[tuple[int, bool]]:
        """Wait until these calls of ``get_state`` have returned. Returns their results; a call that a crash ended has none.
        The referee does not judge the results."""
        self._until_returned(server, "get_state", calls)
        states = [self._state(server, call) for call in calls]
        return [state for state in states if state is not None]

    def _state(self, server: int, call: int) -> tuple[int, bool] | None:
        """The result of a call of ``get_state`` that has ended; ``None`` if the server crashed."""
        state = self.event_loop.result(call)
        if state is None and not self.server_state(server).up:
            return None
        if not (isinstance(state, list) and [type(part) for part in state] == [int, bool]):
            text = f"expected get_state() to return (term, is_leader), but S{server} returned {short(state)}"
            raise LabFailure(Failure("bad-result", text))
        return state[0], state[1]

    def connected(self) -> list[int]:
        """The real servers that are up, not paused and on the network."""
        return [
            server
            for server in self.real_servers
            if self.server_state(server).running and self.network.connected(server)
        ]

    def leader_now(self, among: Collection[int] | None = None) -> int | None:
        """The server of ``among`` (default: the connected servers) that leads at this moment, if any. If several lead, the
        one in the highest term."""
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
        since = self.now
        deadline = since + within
        before: int | None = None
        while True:
            leader = self.leader_now(among)
            if leader is not None and leader == before:
                return leader
            if self.now >= deadline and before is None and leader is None:
                self.fail(
                    f"expected a leader within {within:.0f} s, but there is none",
                    rules.LIVENESS,
                    hint=self.first_hint(),
                    observed=self.why_no_leader(since, among),
                )
            if self.now >= deadline + 1.0:
                self.fail(
                    f"expected a stable leader within {within:.0f} s, but the leaders keep changing",
                    rules.LIVENESS,
                    # The sentence already says that the leaders change. So only add the elections to the events shown.
                    observed=Observation(about=self.why_no_leader(since, among).about),
                )
            before = leader
            self.sleep(SETTLE)

    def settled_leader(self, within: float = ELECTION_LIMIT + 2.0) -> int:
        """Wait until exactly one connected server leads and all other connected servers are in its term, so that none of
        them is a deposed leader. Fails after ``within`` seconds. Returns the leader."""
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

    def why_no_leader(self, since: float, among: Collection[int] | None = None) -> Observation:
        """Why none of ``among`` (default: the connected servers) has become the leader, from what was observed of the
        elections since ``since`` (seconds)."""
        servers = self.connected() if among is None else among
        return observations.election(self.event_loop.trace.events, self.now, since, servers, len(self.members))

    def why_not_handed_over(self, since: float, leader: int, target: int) -> Observation:
        """What was observed of a transfer from ``leader`` to ``target`` that began at ``since`` (seconds)."""
        return observations.transfer(self.event_loop.trace.events, self.now, since, leader, target, len(self.members))

    def campaigns_seen(self, server: int, since: float) -> Observation:
        """What was observed of the elections that ``server`` began from ``since`` (seconds) on."""
        return observations.campaigns(self.event_loop.trace.events, since, server)

    def disturbance_seen(self, server: int, since: float) -> Observation:
        """Which servers, from ``since`` (seconds) on, adopted a term from a vote request of ``server`` although there was a
        leader."""
        return observations.disturbed(self.event_loop.trace.events, since, server)

    def marks_seen(self, server: int, term: int, flag: str) -> Observation:
        """Whether ``server`` set ``flag`` in its vote requests of ``term``. If it did, which servers refused the
        requests."""
        return observations.marked(self.event_loop.trace.events, server, term, flag)

    def first_hint(self) -> str:
        """A hint about the first steps of lab 2A, if no server has requested a vote yet; else empty."""
        if self.rpc_count(method="request_vote") or self.rpc_count(method="pre_vote"):
            return ""
        if self.size == 1:
            return "A candidate votes for itself, and here that is a majority: count the votes at once, too."
        if any(observations.last_terms(self.event_loop.trace.events).values()):
            return "The election timer works: a server has raised its term. Go on with step 2 of the handout: ask for votes."
        return "No server has called request_vote yet. Begin with step 1 of the handout: the election timer."

    def first_hint_of_service(self) -> str:
        """A hint about the first step of lab 3A, if no request of a clerk has been answered yet; else empty."""
        answered = any(
            isinstance(event, OutgoingEvent) and event.kind == "answer" and event.method == "client_request"
            for event in self.event_loop.trace.events
        )
        return (
            "" if answered else "No client_request has been answered yet. Begin with step 1 of the handout of lab 3A."
        )

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
            ``(index, term, is_leader)``; ``(-1, -1, False)`` if the server is down or paused. A leader that is handing
            over its leadership accepts no command and returns ``(-1, term, True)`` (lab 2G).
        """
        return self.propose_together(server, [command])[0]

    def propose_together(self, server: int, commands: Iterable[Any]) -> list[tuple[int, int, bool]]:
        """Call ``start`` on one server with several commands at the same moment. Returns the results in the order of the
        commands, each in the form that :meth:`propose` returns."""
        if not self.server_state(server).running:
            return [(-1, -1, False) for _ in commands]
        return self.started(server, [self.ask_start(server, command) for command in commands])

    def ask_start(self, server: int, command: Any) -> int:
        """Call ``start(command)`` on one server without waiting. Returns the call's number, for :meth:`started`."""
        return self.event_loop.begin_call(server, "start", [command])

    def started(self, server: int, calls: Collection[int]) -> list[tuple[int, int, bool]]:
        """Wait until these calls of ``start`` have returned. Returns their results in order, each in the form that
        :meth:`propose` returns."""
        self._until_returned(server, "start", calls)
        return [self._started(server, self.event_loop.result(call)) for call in calls]

    def _until_returned(self, server: int, method: str, calls: Collection[int]) -> None:
        if not self.wait_for(CALL_PATIENCE, lambda: not any(map(self.event_loop.pending, calls))):
            raise self.event_loop.no_answer(server, method, CALL_PATIENCE)

    def _started(self, server: int, result: Any) -> tuple[int, int, bool]:
        answer = self._triple(server, "start", "index", result)
        if answer[2]:
            self._has_led = True
            self.event_loop.referee.led(server, answer[1])
        return answer

    def _triple(self, server: int, method: str, first: str, result: Any) -> tuple[int, int, bool]:
        """The result of a method that returns (``first``, term, is_leader); ``(-1, -1, False)`` if the server crashed."""
        if result is None and not self.server_state(server).up:
            return -1, -1, False
        if not (isinstance(result, list) and [type(part) for part in result] == [int, int, bool]):
            text = f"expected {method}() to return ({first}, term, is_leader), but S{server} returned {short(result)}"
            raise LabFailure(Failure("bad-result", text))
        return result[0], result[1], result[2]

    def committed(self, index: int) -> tuple[int, Any]:
        """The number of servers that have applied ``index``, and the command there (``None`` if there is none)."""
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
            retry: propose the command again if it is not applied within 2 s, for example because the leader was deposed.
            within: fail after this many seconds.
            among: the servers that may lead; ``None``: those that are connected.

        Returns:
            The index at which the command was applied.
        """
        since = self.now
        deadline = since + within
        accepted: list[Accepted] = []
        before = self._indexes_of(command)
        while self.now < deadline:
            for server in self.connected() if among is None else sorted(among):
                index, term, is_leader = self.propose(server, command)
                if not is_leader or index == -1:
                    continue
                accepted.append(Accepted(server, self.now, index, term))
                if self.wait_for(2.0, lambda at=index: self._has(at, command, servers)):  # type: ignore[misc]
                    return index
                if len(accepted) == 1 and (elsewhere := self._indexes_of(command) - before - {index}):
                    # The command was proposed only once, so it must be applied at the index that start() returned.
                    text = f"expected {short(command)} at index {index}, as start() returned, but it is at {min(elsewhere)}"
                    self.fail(text, rules.AGREEMENT)
                if not retry:
                    self._no_agreement(command, servers, 2.0, since, accepted)
            self.sleep(0.05)
        return self._no_agreement(command, servers, within, since, accepted)

    def _has(self, index: int, command: Any, servers: int) -> bool:
        count, value = self.committed(index)
        return count >= servers and bool(value == command)

    def _indexes_of(self, command: Any) -> set[int]:
        values = self.event_loop.referee.applies.values
        return {index for index, value in values.items() if value == ("command", command)}

    def _no_agreement(
        self, command: Any, servers: int, within: float, since: float, accepted: Sequence[Accepted]
    ) -> NoReturn:
        by = f"{servers} server{'s' if servers > 1 else ''}"
        text = f"expected {short(command)} to be applied by {by} within {within:.0f} s, but it was not"
        observed = self.why_not_applied(since, accepted)
        self.fail(text, rules.AGREEMENT, hint=self._agreement_hint(), observed=observed)

    def why_not_applied(self, since: float, accepted: Sequence[Accepted]) -> Observation:
        """Why a command has not been applied, from what was observed from ``since`` (seconds) on. ``accepted`` contains the
        calls of ``start`` for this command that returned ``is_leader = True``, in order."""
        return observations.agreement(
            self.event_loop.trace.events,
            self.now,
            since,
            accepted,
            self.connected(),
            len(self.members),
            self.event_loop.referee.applies.last_applied,
            self._scripted,
        )

    def why_behind(self, since: float, index: int, among: Collection[int] | None = None) -> Observation:
        """Why one of ``among`` (default: the connected servers) has not applied ``index``, judging by the messages sent to
        it from ``since`` (seconds) on."""
        applied = self.event_loop.referee.applies.last_applied
        late = [who for who in (self.connected() if among is None else among) if applied.get(who, 0) < index]
        if not late:
            return Observation()
        return observations.lagging(self.event_loop.trace.events, since, late[0], index, applied.get(late[0], 0))

    def _agreement_hint(self) -> str:
        """A hint about the first step of lab 2B if servers have sent AppendEntries, but no ``start()`` has returned
        ``is_leader = True`` yet; else empty."""
        if self._has_led or not self.rpc_count(method="append_entries"):
            return ""
        return "No start() has returned is_leader = True yet. Begin with step 1 of the handout of lab 2B."

    def ask_members(self, server: int, members: Collection[int]) -> int:
        """Call ``change_membership(members)`` on one server without waiting (lab 2E). Returns the call's number in the event
        loop. The functions of :mod:`raftlab.harness.membership` also wait for the result."""
        self.event_loop.referee.change_requested(server, frozenset(members))
        return self.event_loop.begin_call(server, "change_membership", [sorted(members)])

    def transfer(self, server: int, target: int) -> tuple[int, int, bool]:
        """Call ``transfer_leadership(target)`` on one server (lab 2G).

        Returns:
            ``(target or leader, term, is_leader)``; ``(-1, -1, False)`` if the server is down or paused.
        """
        if not self.server_state(server).running:
            return -1, -1, False
        return self.transferred(server, [self.ask_transfer(server, target)])[0]

    def ask_transfer(self, server: int, target: int) -> int:
        """Like :meth:`transfer`, without waiting. Returns the call's number, for :meth:`transferred`."""
        self.event_loop.referee.transfer_requested(server, target)
        return self.event_loop.begin_call(server, "transfer_leadership", [target])

    def transferred(self, server: int, calls: Collection[int]) -> list[tuple[int, int, bool]]:
        """Wait until these calls of ``transfer_leadership`` have returned. Returns their results in order, each in the form
        that :meth:`transfer` returns."""
        self._until_returned(server, "transfer_leadership", calls)
        answers = []
        for call in calls:
            answer = self._triple(server, "transfer_leadership", "target", self.event_loop.result(call))
            if answer[2]:
                self.event_loop.referee.led(server, answer[1])
            answers.append(answer)
        return answers

    def take_snapshots(self, every: int = 10, size: int = 0) -> None:
        """Let the services take a snapshot after every ``every`` entries from now on, with ``size`` random bytes (lab
        2D)."""
        self.service.every, self.service.size = every, size

    def snapshot_of(self, index: int) -> bytes:
        """The services' snapshot of everything up to ``index``, for a scripted server to send."""
        return self.service.snapshot_of(index)

    def call_snapshot(self, server: int, index: int) -> None:
        """Call ``snapshot(index, ...)`` on one server, in addition to its service's calls, and wait until it returns."""
        self.event_loop.call(server, "snapshot", [index, self.snapshot_of(index)], CALL_PATIENCE)

    def ask_snapshot(self, server: int, index: int) -> int:
        """Like :meth:`call_snapshot`, without waiting. Returns the call's number, for :meth:`snapshots_taken`."""
        return self.event_loop.begin_call(server, "snapshot", [index, self.snapshot_of(index)])

    def snapshots_taken(self, server: int, calls: Collection[int]) -> None:
        """Wait until these calls of ``snapshot`` have returned."""
        self._until_returned(server, "snapshot", calls)
        for call in calls:
            self.event_loop.result(call)

    def raft_has(self, method: str) -> bool:
        """Whether the student's Raft has this method, which belongs to another lab. This lab does not require it."""
        server = next(server for server in self.real_servers if self.server_state(server).running)
        return bool(self.event_loop.call(server, protocol.HAS_METHOD, [method], CALL_PATIENCE))

    def read_index(self, server: int) -> int:
        """Call ``read_index()`` on one server's Raft and wait for the result (lab 3B): -1 if Raft returns no index or the
        server crashes."""
        return self.found_read_index(server, self.ask_read_index(server))

    def ask_read_index(self, server: int) -> int:
        """Like :meth:`read_index`, without waiting. Returns the call's number, for :meth:`found_read_index`."""
        return self.event_loop.begin_call(server, "read_index", [])

    def found_read_index(self, server: int, call: int) -> int:
        """Wait until this call of ``read_index`` has returned. Returns the index, as :meth:`read_index` does."""
        if not self.wait_for(CALL_PATIENCE, lambda: not self.event_loop.pending(call)):
            text = f"expected S{server}.read_index() to return within 2 s, but after {CALL_PATIENCE:.0f} s it has not"
            raise LabFailure(Failure("no-answer", text))
        index = self.event_loop.result(call)
        if index is None and not self.server_state(server).up:
            return -1
        if type(index) is not int:
            text = f"expected S{server}.read_index() to return an index or -1, but it returned {short(index)}"
            raise LabFailure(Failure("bad-result", text))
        return index

    # --- counters ---

    def rpc_count(self, server: int | None = None, method: str = "") -> int:
        """The number of RPCs that ``server`` (default: all servers) has sent so far. If ``method`` is not empty, only RPCs
        of that method count."""
        return self._count(self.event_loop.rpcs, server, method)

    def rpc_bytes(self, server: int | None = None, method: str = "") -> int:
        """The bytes in the requests and replies of the RPCs that :meth:`rpc_count` counts. A reply counts for the caller."""
        return self._count(self.event_loop.rpc_bytes, server, method)

    def replies(self, server: int, method: str) -> list[tuple[Message, Message]]:
        """For every request of this method that ``server`` has answered so far: its fields, and the fields of the reply."""
        return [
            (self.event_loop.rpcs_by_id[event.id].args, paper.decode_reply(method, event.message))
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

    # --- clerks (lab 3A) ---

    def clerk(self, number: int) -> ClerkHandle:
        """The student's clerk whose number as a participant is ``number``."""
        return self.clerks[number - participants.FIRST_CLERK]

    def begin_operation(
        self, clerk: int, op: str, key: str, args: tuple[Any, ...], read: str = "log"
    ) -> ClientOperation:
        """Let a clerk begin an operation; see :meth:`raftlab.harness.clerks.ClerkHandle.begin`."""
        return self.clerk(clerk).start(op, key, args, read)

    def finish_operation(self, clerk: int, within: float) -> None:
        """Wait for the operation of a clerk, and fail the test unless it succeeds within ``within`` seconds."""
        operation = self.clerk(clerk).operation
        if operation is not None:
            self.clerk(clerk).wait_for(operation, within)

    def keep_busy(self, clerks: Sequence[int], keys: Sequence[str], mix: Sequence[str], most: int, seed: int) -> Load:
        """Let clerks carry out one operation after another; see :class:`raftlab.harness.clerks.Load`. If some of them belong
        to an earlier load, that load continues without them."""
        chosen = [self.clerk(number) for number in clerks]
        load = Load(self, chosen, keys, mix, most, seed)
        self._loads = [*(earlier for earlier in self._loads if earlier.release(chosen)), load]
        load.begin()
        return load

    def stop_clerks(self) -> None:
        """Let no clerk begin another operation of :meth:`keep_busy`."""
        for load in self._loads:
            load.stop()

    def clerks_idle(self, within: float) -> None:
        """Wait until every clerk has carried out all of its operations, and fail the test unless that takes at most
        ``within`` seconds."""

        def busy() -> ClerkHandle | None:
            return next(filter(None, (load.busy() for load in self._loads)), None)

        if self._loads and not self.wait_for(within, lambda: busy() is None):
            answered_in_time(self)  # if a server has not answered in time, fail with that reason instead
            clerk = busy()
            operation = None if clerk is None else clerk.operation
            what = "the clerks' operations" if operation is None else operation.describe()
            text = f"expected {what} to return within {within:.0f} s, but it has not"
            observed = (
                None
                if clerk is None
                else observations.answers_to(self.event_loop.trace.events, clerk.number, self.now - within)
            )
            self.fail(text, rules.PROGRESS, hint=self.first_hint_of_service(), observed=observed)

    def check_history(self) -> None:
        """Fail the test unless the operations so far were carried out exactly once and are linearizable, every read (lab 3B)
        shows what its kind promises, and every request was answered in time."""
        history_check.check_history(self)
        if self.reads:
            reads_check.check_reads(self)
        answered_in_time(self)

    def stale_reads(self) -> str:
        """A sentence about an operation that fits into no linearizable order of the history so far; empty if all fit."""
        return history_check.unplaced(self.history)

    def next_token(self, clerk: ClerkHandle) -> str:
        """A value that nobody has written yet."""
        number = self._tokens[clerk.name] = self._tokens.get(clerk.name, 0) + 1
        return token(clerk.name, number)

    # --- verdicts ---

    def fail(
        self, text: str, rule: Rule | None = None, servers: Collection[int] | None = None, hint: str = "",
        observed: Observation | None = None,
    ) -> NoReturn:  # fmt: skip
        """Fail the test.

        Args:
            text: what was expected and what was observed, in one sentence.
            rule: the rule that is broken, if any.
            servers: show the last events of these servers only; ``None`` means all.
            hint: the next step of the handout, for students who have not finished the lab.
            observed: what was observed while the test waited; it is appended to the sentence.

        Raises:
            LabFailure: always.
        """
        observed = observed or Observation()
        failure = LabFailure(Failure("assertion", observed.after(text), rule, hint=hint))
        failure.servers = None if servers is None else frozenset(servers)
        failure.about = observed.about
        raise failure

    def expect(
        self, holds: bool, text: str, rule: Rule | None = None, servers: Collection[int] | None = None, hint: str = "",
        observe: Callable[[], Observation] = Observation,
    ) -> None:  # fmt: skip
        """Call :meth:`fail` unless ``holds``, with the result of ``observe()`` as ``observed``."""
        if not holds:
            self.fail(text, rule, servers, hint, observe())
