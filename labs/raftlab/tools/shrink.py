"""The cutting room of ``raftlab shrink``: a failing run, made as short as it gets while the same rule stays broken.

A failing test becomes a scenario first (:mod:`raftlab.runs.scenario_recorder`), then commands are taken out, in halves,
quarters, ... down to single ones (delta debugging), servers are taken away, preemption is switched off and waits
are shortened, for as long as the run still fails in the same way.
A test that cannot be written as a scenario, or fails by an expectation of
its own, gets the second best: the seed whose failing run is the shortest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from raftlab.explain.failure import Failure
from raftlab.runs import names
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario, ScenarioPlayer
from raftlab.runs.scenario_commands import Command
from raftlab.runs.scenario_recorder import ScenarioRecorder
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo

# Every shortened text is tried with its own seed and this many others: another seed may have what one has lost.
OTHER_SEEDS = 2
# ... and the shortest steps, which are the last hope, with more.
MORE_SEEDS = 5
# How many seeds of a test are tried for one that fails sooner.
SEEDS = 40
_FEWEST_SERVERS = 2


def sort_of(failure: Failure) -> tuple[str, str]:
    """What must stay the same: the kind of failure, and the broken rule (or, where no rule is, the place)."""
    return failure.kind, failure.rule.name if failure.rule else failure.where


@dataclass(frozen=True, slots=True)
class Played:
    """A scenario that failed: up to where it was played, how, and with how many events."""

    scenario: Scenario
    failure: Failure
    events: int


def play(impl: Implementation, each: Scenario) -> Played | None:
    """Make the run. ``None`` when it passes."""
    run = Run(impl, names.info_of(each), "sim", each.seed, each.preempt)
    player = ScenarioPlayer(each)
    failure = run.play(player.play)
    if failure is None:
        return None
    # The commands that were not begun do not matter.
    return Played(each.with_commands(each.commands[: player.begun]), failure, len(run.events))


@dataclass(frozen=True, slots=True)
class Shrunk:
    """What came of it. ``scenario`` is ``None`` when the run could not be written as one; ``why`` says why, and ``seed``
    is then that of the shortest failing run of the test."""

    scenario: Scenario | None
    failure: Failure
    seed: int
    events: int
    before: tuple[int, int]  # commands and events of the run one began with; commands 0: unknown
    why: str = ""
    tried: int = 0


class NotFailing(ValueError):
    """There is nothing to shrink: the run passes."""


class Shrinker:
    """One search. ``seconds`` is how long it may take, by the wall clock; ``tell`` hears of each step forward."""

    def __init__(self, impl: Implementation, seconds: float, tell: Callable[[str], None] = lambda text: None) -> None:
        self._impl = impl
        self._until = time.monotonic() + seconds
        self._tell = tell
        self._sort: tuple[str, str] = ("", "")
        self._seen: set[Scenario] = set()
        self.tried = 0

    # --- from a test ---

    def test(self, info: TestInfo, seed: int, preempt: bool) -> Shrunk:
        """Shrink a failing run of a test. Raises :class:`NotFailing`."""
        taped, first, events = self._record(info, seed, preempt)
        if first is None:
            raise NotFailing(f"{info.name}@{seed} passes; there is nothing to shrink")
        self._sort = sort_of(first)
        why = taped.cannot
        if not why:
            told = taped.scenario(info.lab, info.name, seed, preempt)
            again = self._fails(told, OTHER_SEEDS * 4)
            if again is not None:
                return self._shrunk(again, (len(told.commands), events))
            why = "what failed is an expectation of the test's own script"
        best_seed, shown, fewest = self._other_seeds(info, seed, preempt, (first, events))
        return Shrunk(None, shown, best_seed, fewest, (0, events), why, self.tried)

    def _record(self, info: TestInfo, seed: int, preempt: bool) -> tuple[ScenarioRecorder, Failure | None, int]:
        run = Run(self._impl, info, "sim", seed, preempt, kind=ScenarioRecorder)
        self.tried += 1
        failure = run.play(catalogue.script_of(info))
        taped = run.made
        assert isinstance(taped, ScenarioRecorder)
        return taped, failure, len(run.events)

    def _other_seeds(
        self, info: TestInfo, seed: int, preempt: bool, first: tuple[Failure, int]
    ) -> tuple[int, Failure, int]:
        best = (first[1], seed, first[0])
        for other in range(SEEDS):
            if time.monotonic() > self._until:
                break
            _, failure, events = self._record(info, other, preempt)
            if failure is not None and sort_of(failure) == self._sort and events < best[0]:
                best = (events, other, failure)
                self._tell(f"seed {other} fails within {events} events")
        return best[1], best[2], best[0]

    # --- a scenario ---

    def scenario(self, told: Scenario) -> Shrunk:
        """Shrink a failing scenario. Raises :class:`NotFailing`."""
        self.tried += 1
        played = play(self._impl, told)
        if played is None:
            raise NotFailing(f"{told.name}@{told.seed} passes; there is nothing to shrink")
        self._sort = sort_of(played.failure)
        return self._shrunk(played, (len(told.commands), played.events))

    def _shrunk(self, played: Played, before: tuple[int, int]) -> Shrunk:
        best = self._shorten(played)
        told = replace(best.scenario.tidied(), expected=names.expected(best.failure))
        return Shrunk(told, best.failure, told.seed, best.events, before, tried=self.tried)

    def _fails(self, told: Scenario, others: int = OTHER_SEEDS) -> Played | None:
        """The run, if it fails in the way that is wanted, with its own seed or with one of some others."""
        if told in self._seen:
            return None
        self._seen.add(told)
        seeds = [told.seed, *[seed for seed in range(others + 1) if seed != told.seed][:others]]
        for seed in seeds:
            if time.monotonic() > self._until:
                return None
            self.tried += 1
            played = play(self._impl, replace(told, seed=seed))
            if played is not None and sort_of(played.failure) == self._sort:
                return played
        return None

    def _shorten(self, best: Played) -> Played:
        """All that can be done, again and again, until nothing helps."""
        # What frees the other attempts comes first.
        if best.scenario.preempt:
            best = self._fails(replace(best.scenario, preempt=False)) or best
        while True:
            before = best
            best = self._take_out(best)
            best = self._fewer_servers(best)
            best = self._simpler(best)
            if best.scenario == before.scenario or time.monotonic() > self._until:
                return best

    def _take_out(self, best: Played) -> Played:
        """Without some of the commands: half of them, a quarter, ... and at last each one by itself."""
        size = max(1, len(best.scenario.commands) // 2)
        while True:
            others = MORE_SEEDS if size == 1 else OTHER_SEEDS
            start = len(best.scenario.commands)
            while start > 0:
                # From the end: what comes late depends on what came before, and not the other way round.
                start = max(0, min(start, len(best.scenario.commands)) - size)
                commands = best.scenario.commands
                kept = joined([*commands[:start], *commands[start + size :]])
                shorter = self._fails(best.scenario.with_commands(kept), others)
                if shorter is not None:
                    best = shorter
                    self._tell(f"{len(best.scenario.commands)} commands, {best.events} events")
            if size == 1:
                return best
            size //= 2

    def _fewer_servers(self, best: Played) -> Played:
        for servers in range(_FEWEST_SERVERS, best.scenario.servers):
            members = min(best.scenario.members, servers)
            fewer = self._fails(replace(best.scenario, servers=servers, members=members))
            if fewer is not None:
                self._tell(f"{servers} servers")
                return fewer
        return best

    def _simpler(self, best: Played) -> Played:
        """Each command by itself, in simpler words."""
        for number in range(len(best.scenario.commands) - 1, -1, -1):
            if number >= len(best.scenario.commands):
                continue
            for simpler in best.scenario.commands[number].simpler():
                commands = list(best.scenario.commands)
                commands[number] = simpler
                if found := self._fails(best.scenario.with_commands(commands)):
                    best = found
                    break
        return best


def joined(commands: Sequence[Command]) -> list[Command]:
    """The same run with fewer commands, as far as one can do the work of two neighbours."""
    found: list[Command] = []
    for command in commands:
        merged = found[-1].merged(command) if found else None
        if merged is None:
            found.append(command)
        else:
            found[-1] = merged
    return found
