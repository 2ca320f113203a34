"""A session of `raftlab play`: a run in the simulator that continues step by step and can be rewound.

A session is recorded as a scenario, whose commands are the user's actions and the waits between them. To rewind, the session
begins a new run and repeats the commands up to the chosen moment. The same seed and the same commands give the same run, so
a saved session replays exactly, with the same trace hash.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from raftlab import labs
from raftlab.explain.failure import Failure, LabFailure
from raftlab.harness import trace
from raftlab.harness.cluster import Cluster, ServiceOptions
from raftlab.labs import Feature
from raftlab.runs import names
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario
from raftlab.runs.scenario_commands import (
    BadScenario,
    Catch,
    Command,
    Finish,
    Hold,
    Idle,
    Leader,
    NoLeader,
    Playback,
    SameTerm,
    Wait,
    parse_line,
)

# If the run has to stop at the next event, it advances by this many microseconds at a time. A message takes at least ten
# times as long (raftlab.harness.network.MIN_DELAY), so the message has hardly left its sender when the run stops.
_STRIDE_US = 50
# A step that finds no event ends after this many microseconds.
_STEP_US = 1_000_000
# The maximum length of a session, in seconds of the lab's time. In a longer session, the busiest correct Raft might reach a
# quota (raftlab.harness.quotas) or the limit on CPU time (raftlab.worlds.sim_world). Both are limits for tests, which are
# shorter.
MOST_S = 900.0
# The number of wall-clock seconds after which advance() returns, so that the page can show what has happened so far.
BUDGET_S = 0.1

# For each command, the feature of the lab's servers without which the command makes no sense.
_NEEDS: dict[str, Feature] = {
    "propose": "log", "agree": "log", "slow-service": "log", "restart": "durable", "crash-at": "durable",
    "fail-saves": "durable", "snapshots": "snapshots", "snapshot": "snapshots", "members": "membership",
    "transfer": "transfer", "op": "service", "finish": "service", "load": "service", "stop-clerks": "service",
    "idle": "service", "history": "service",
}  # fmt: skip
# From lab 3A on, the student's own service replaces the judge's, and operations of clerks replace proposals.
_NOT_WITH_SERVICE = frozenset({"propose", "agree", "slow-service", "snapshots", "snapshot"})
# Commands that let time pass and change nothing, so that a wait can replace them.
_WATCHES = (Wait, Leader, NoLeader, SameTerm, Finish, Idle)
# Events at which the page begins to show time in slow motion, or at which the user may want to act.
_TO_STOP_AT = frozenset({"send", "answer", "crash", "fault", "call"})


_Course = tuple[tuple[Command, ...], int]
"""What was done in a session: the commands, and the microseconds that have passed since the last command."""


class Refused(ValueError):
    """An action that cannot be taken. The message is a sentence for the user."""


@dataclass(slots=True)
class Step:
    """A command that the session has carried out.

    Attributes:
        command: the command.
        began: when it began, in seconds of the lab's time.
        ended: when it ended.
        cut: the directions that are cut afterwards.
        off: the servers that are off the network afterwards.
        unreliable: whether the network loses messages afterwards.
    """

    command: Command
    began: float
    ended: float = 0.0
    cut: list[tuple[int, int]] = field(default_factory=list)
    off: list[int] = field(default_factory=list)
    unreliable: bool = False


class Session:
    """One session.

    Args:
        impl: the submission.
        scenario: the lab, the seed, the number of servers and so on, and the commands to begin with. If it names no
            schedule, the session adds the schedule that the run uses, so that a saved session does not depend on how a seed
            determines the schedule.
        read: reads the submission again, for :meth:`reload`. It may raise :class:`Refused`.

    Attributes:
        failure: how the run has ended; ``None`` if it has not ended.
        steps: the commands so far, without the wait since the last command.
        generation: how many times a new run has replaced the previous one.
        impl: the submission. The code that ends the session must close it.
    """

    def __init__(
        self, impl: Implementation, scenario: Scenario, read: Callable[[], Implementation] | None = None
    ) -> None:
        self.impl = impl
        self._read = read
        self.failure: Failure | None = None
        self.steps: list[Step] = []
        self.generation = 0
        self._scenario = scenario.with_commands(())
        self._lab = labs.find(scenario.lab)
        self._run: Run | None = None
        self._cluster: Cluster | None = None
        self._playback: Playback | None = None
        self._base = 0.0  # when the last command ended
        self._waited_us = 0  # microseconds since then
        self._lines: list[bytes] = []  # the events as JSON, as far as they have been encoded
        # For each generation from 1 on: how many events at the beginning are the same as in the run before it.
        self._kept: list[int] = []
        self._undone: _Course | None = None
        self._rest: _Course | None = None  # the course that reload() could not repeat to its end because of a failure
        self._begin((scenario.commands, 0))

    # --- what the page asks for ---

    @property
    def now(self) -> float:
        """The lab's time in seconds."""
        return self._base if self._cluster is None else self._cluster.now

    @property
    def info(self) -> dict[str, Any]:
        """What stays the same during a session: the lab, its features, the servers, the seed."""
        scenario = self._scenario
        return {
            "lab": scenario.lab, "title": self._lab.title, "features": sorted(self._lab.features), "name": scenario.name,
            "servers": scenario.servers, "clerks": scenario.clerks, "seed": scenario.seed,
            "schedule": scenario.schedule or "", "members": scenario.members, "impl": str(self.impl.path),
        }  # fmt: skip

    @property
    def cluster(self) -> Cluster:
        """The run's cluster. Raises :class:`Refused` if the servers could not be started."""
        if self._cluster is None:
            raise Refused("the servers could not be started")
        return self._cluster

    def events(self, since: int, generation: int) -> tuple[int, list[bytes]]:
        """The events that a page does not have yet.

        Args:
            since: how many events the page has.
            generation: the generation of the run that these events come from.

        Returns:
            How many of its events the page must keep, and the events that follow these, as JSON.
        """
        lines = self._encoded()
        if not 0 <= generation <= self.generation:
            since = 0
        first = min([since, len(lines), *self._kept[max(0, generation) :]])
        return first, lines[first:]

    def in_flight(self) -> list[list[Any]]:
        """Every message in flight: the RPC's number, the leg, and when the message is due."""
        if self._cluster is None:
            return []
        return [[rpc.id, leg, when] for when, leg, rpc in self._cluster.event_loop.in_flight()]

    def held(self) -> dict[str, list[list[Any]]]:
        """For each hold, the RPC's number and the leg of every message that it holds."""
        if self._playback is None:
            return {}
        return {name: [[rpc.id, hold.leg] for rpc, _ in hold.messages] for name, hold in self._playback.holds.items()}

    @property
    def can_undo(self) -> bool:
        """Whether :meth:`undo` can bring something back."""
        return self._undone is not None

    def hash(self) -> str:
        """The trace hash of the run so far."""
        return "" if self._cluster is None else self._cluster.event_loop.trace.hash()

    def scenario(self) -> Scenario:
        """The session so far as a scenario, with the failure that it ended with, if any."""
        commands, waited_us = self._course
        commands = (*commands, _wait(waited_us)) if waited_us else commands
        return replace(self._scenario, commands=commands, expected=names.expected(self.failure))

    # --- what the user does ---

    def advance(self, until: float, stop: bool, within: float = BUDGET_S) -> None:
        """Let time pass for the servers.

        Args:
            until: the time at which to stop, in seconds of the lab's time.
            stop: whether to return soon after a message was sent, so that the page can show the message in slow motion.
            within: the number of wall-clock seconds after which to return.

        Raises:
            Refused: the session has reached its maximum length, :data:`MOST_S`.
        """
        if self.failure is not None or not math.isfinite(until):
            return
        self._require_time()
        wanted = math.ceil((until - self._base) * 1e6 - 1e-3)
        deadline = time.monotonic() + within
        while self._waited_us < wanted and self.failure is None and time.monotonic() < deadline:
            before = len(self.cluster.event_loop.trace.events)
            # If there is no need to stop at messages, the time is divided into parts of 0.01 s, so that the page stays
            # responsive even if the servers compute a lot.
            self._wait(min(wanted, self._waited_us + (_STRIDE_US if stop else 10_000)))
            if stop and self._has_new(before, _TO_STOP_AT):
                return

    def step(self) -> None:
        """Let time pass until just after the next event, for at most one second of the lab's time. Raises :class:`Refused`
        like :meth:`advance`."""
        if self.failure is None:
            self._require_time()
        end = self._waited_us + _STEP_US
        while self.failure is None and self._waited_us < end:
            before = len(self.cluster.event_loop.trace.events)
            self._wait(self._waited_us + _STRIDE_US)
            if self._has_new(before):
                return

    def act(self, line: str, past: float | None = None) -> None:
        """Carry out a scenario command.

        Args:
            line: the command. In ``hold`` and ``catch``, the name of the hold may be ``?``, which is replaced by a new name.
            past: an earlier moment to which to rewind before carrying out the command, in seconds; ``None``: now.

        Raises:
            Refused: the run has ended, or the command makes no sense in this lab or at this moment.
        """
        words = line.split()
        new_hold = words[:1] in (["hold"], ["catch"]) and words[1:2] == ["?"]
        if new_hold:
            words[1] = "h1"
        try:
            command = parse_line(" ".join(words))
        except BadScenario as exc:
            raise Refused(str(exc)) from None
        if past is not None:
            self.rewind(past)
        try:
            if self.failure is not None:
                raise Refused("the run has ended: go back to a moment before its end first")
            self._require_sense(command)
            if isinstance(command, Hold | Catch) and new_hold:
                command = replace(command, hold=self._new_hold())
            self._carry_out(command)
        except Refused:
            if past is not None:
                self.undo()
            raise
        self._rest = None

    def rewind(self, when: float) -> None:
        """Go back to an earlier moment, and remove what was done after that moment. :meth:`undo` restores what was removed.

        Args:
            when: the moment, in seconds of the lab's time. If a command was in progress then, the session continues after
                the end of that command, or before the command if the run failed during it. A command that only lets time
                pass is replaced by a wait until ``when``.
        """
        self._undone = self._course
        self._begin(self._until(when))

    def undo(self) -> None:
        """Restore what the last :meth:`rewind` removed. A second ``undo`` restores what was done since that rewind.

        Raises:
            Refused: there was no rewind.
        """
        if self._undone is None:
            raise Refused("there is nothing to bring back")
        undone, self._undone = self._undone, self._course
        self._begin(undone)

    def reload(self) -> None:
        """Read the student's code again, and repeat the session with the new code. Raises :class:`Refused` if the code
        cannot be used."""
        if self._read is None:
            raise Refused("this code cannot be loaded again")
        wanted = self._rest or self._course
        impl = self._read()
        self.close()
        self.impl.close()
        self.impl = impl
        self._begin(wanted)
        self._rest = None if self.failure is None else wanted

    def close(self) -> None:
        """End the run's processes. Safe to call twice."""
        if self._run is not None:
            self._run.close()

    # --- the run ---

    @property
    def _course(self) -> _Course:
        return tuple(step.command for step in self.steps), self._waited_us

    def _begin(self, course: _Course) -> None:
        """Begin a new run and repeat ``course`` in it."""
        commands, waited_us = course
        old = self._encoded()
        self.close()
        scenario = self._scenario
        self._run = Run(self.impl, names.info_of(scenario), "sim", scenario.seed, scenario.schedule)
        self._scenario = replace(scenario, schedule=self._run.schedule)
        self.failure = self._playback = self._rest = None
        self.steps = []
        self._base, self._waited_us = 0.0, 0
        members = range(scenario.members) if scenario.members else None
        service: ServiceOptions = {"clerks": scenario.clerks, "max_state": scenario.max_state or None}
        if scenario.max_sessions:
            service["max_sessions"] = scenario.max_sessions
        try:
            self._run.cluster(scenario.servers, start=scenario.started, members=members, **service)
        except LabFailure as error:
            self._fail(error)
        self._cluster = self._run.started_cluster
        self._lines = []
        if self._cluster is not None:
            self._playback = Playback(self._cluster, self._lab)
            self._base = self._cluster.now
        for command in commands:
            if self.failure is None:
                self._carry_out(command)
        if self.failure is None and waited_us:
            self._wait(waited_us)
        new = self._encoded()
        same = next((number for number, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), None)
        if old or self.generation:
            self._kept.append(min(len(old), len(new)) if same is None else same)
            self.generation += 1

    def _carry_out(self, command: Command) -> None:
        if self._waited_us:
            self.steps.append(self._noted(Step(_wait(self._waited_us), self._base)))
        self._base, self._waited_us = self.now, 0
        step = Step(command, self._base)
        assert self._playback is not None
        try:
            command.run(self._playback)
        except LabFailure as error:
            self._fail(error)
        except BadScenario as exc:
            raise Refused(str(exc)) from None
        self._base = self.now
        self.steps.append(self._noted(step))

    def _noted(self, step: Step) -> Step:
        """Add to ``step`` its end and the state of the network after it. Returns the step."""
        network = self.cluster.network
        step.ended = self.now
        step.cut, step.off = network.cuts, network.disconnected
        step.unreliable = network.loses
        return step

    def _wait(self, waited_us: int) -> None:
        """Wait until ``waited_us`` microseconds have passed since the last command. A replay computes the end in the same
        way, so it waits until exactly the same moment."""
        self._waited_us = waited_us
        try:
            self.cluster.event_loop.run(self._base + float(_seconds(waited_us)))
        except LabFailure as error:
            self._fail(error)

    def _fail(self, error: LabFailure) -> None:
        assert self._run is not None
        self.failure = self._run.with_events(error)
        self._run.close()

    def _has_new(self, before: int, kinds: frozenset[str] | None = None) -> bool:
        """Whether an event (of one of ``kinds``, if given) has been added since there were ``before`` events."""
        events = self.cluster.event_loop.trace.events
        return len(events) > before and (kinds is None or any(event.kind in kinds for event in events[before:]))

    def _encoded(self) -> list[bytes]:
        """Every event so far as JSON."""
        if self._cluster is not None:
            events = self._cluster.event_loop.trace.events
            self._lines += map(trace.json_line, events[len(self._lines) :])
        return self._lines

    def _until(self, when: float) -> _Course:
        """The commands and the wait that :meth:`rewind` keeps when it goes back to ``when``."""
        kept: tuple[Command, ...] = ()
        for step in self.steps:
            if step.began > when:
                return kept, 0
            if isinstance(step.command, _WATCHES) and step.ended > when:
                return kept, round((when - step.began) * 1e6)
            if self.failure is not None and step is self.steps[-1] and not self._waited_us:
                return kept, 0  # the command with which the run ended
            kept += (step.command,)
        return kept, max(0, min(self._waited_us, round((when - self._base) * 1e6)))

    def _new_hold(self) -> str:
        taken = {step.command.hold for step in self.steps if isinstance(step.command, Hold | Catch)}
        return next(name for number in range(1, len(taken) + 2) if (name := f"h{number}") not in taken)

    def _is_on_its_way(self, command: Catch) -> bool:
        assert self._playback is not None
        link = self._playback.server(command.src), self._playback.server(command.dst)
        found = [
            rpc
            for _, leg, rpc in self.cluster.event_loop.in_flight()
            if leg == command.leg and (rpc.src, rpc.dst) == link and command.method in ("", rpc.method)
        ]
        return 0 < int(command.nth or 1) <= len(found)

    def _require_time(self) -> None:
        if self.now >= MOST_S:
            raise Refused(f"a session lasts for at most {MOST_S:.0f} s of the lab's time: go back, or begin another")

    def _require_sense(self, command: Command) -> None:
        """Raise :class:`Refused` if the command makes no sense in this lab or at this moment."""
        need = _NEEDS.get(command.name)
        if need is not None and not self._lab.has(need):
            *names, last = (lab for lab in labs.LABS if labs.LABS[lab].has(need))
            if not names:
                which = f"lab {last}"
            elif last == list(labs.LABS)[-1]:
                which = f"lab {names[0]} and later ones"
            else:  # labs 3 lack some features of labs 2
                which = f"labs {names[0]} to {last}"
            raise Refused(f"{command.name} is for {which}, and this is lab {self._lab.name}")
        if self._lab.has("service") and command.name in _NOT_WITH_SERVICE:
            raise Refused(f"{command.name} is not for lab {self._lab.name}: let a clerk carry out an operation instead")
        if isinstance(command, Catch) and not self._is_on_its_way(command):
            raise Refused("that message is not on its way any more")
        down = [state.number for state in self.cluster.event_loop.server_states if not state.up]
        if command.name in ("check", "start") and down and not self._lab.has("durable"):
            text = f"S{down[0]} has crashed, and servers of lab {self._lab.name} save nothing, so it cannot restart"
            raise Refused(f"{text}: go back to a moment before the crash first")


def _seconds(microseconds: int) -> str:
    """The number of seconds in the notation of scenarios, such as ``0.0025``."""
    return f"{microseconds / 1e6:.6f}".rstrip("0").rstrip(".")


def _wait(microseconds: int) -> Wait:
    return Wait(_seconds(microseconds))
