"""`raftlab shrink`: make a failing run as short as possible while it still fails in the same way.

A failing test is first written as a scenario (:mod:`raftlab.runs.scenario_recorder`). Then commands are removed, in
halves, quarters, ... down to single ones (delta debugging); servers are removed; preemption is switched off; and
commands are simplified. Each change is kept only if the run still fails in the same way.

If a test cannot be written as a scenario, or if an expectation in the test's own script fails, the command instead searches
for the seed whose failing run is shortest.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from raftlab.command_line import FAILED, PASSED
from raftlab.explain import render
from raftlab.explain.failure import Failure
from raftlab.runs import names, together
from raftlab.runs.names import NamedRun
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import Scenario, ScenarioPlayer
from raftlab.runs.scenario_commands import Command
from raftlab.runs.scenario_recorder import ScenarioRecorder
from raftlab.safe_text import printable
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.tools.arguments import OUTPUT_FOLDER, Target, add_submission, add_time_limit, seconds, submission
from raftlab.tools.printing import count, show_progress
from raftlab.tools.replay import add_run

# Every shortened scenario is tried with its own seed and with this many other seeds, because the shorter run may
# fail only with another seed.
OTHER_SEEDS = 2
# The number of other seeds when a single command is removed. That is done last, and is worth more attempts.
OTHER_SEEDS_FOR_ONE = 5
# The number of seeds that are tried if a test cannot be written as a scenario.
TEST_SEEDS = 40
_FEWEST_SERVERS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_submission(parser)
    add_time_limit(parser, "stop searching after this time, such as 30s, 5m or 1h (default: 60s)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help=f"write the scenario to this file (default: a file in {OUTPUT_FOLDER}/)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Shrink the run. Returns the exit code."""
    named = names.named(arguments.name, "sim", arguments.schedule)
    out: Path = arguments.out or OUTPUT_FOLDER / f"{named.info.name}-{named.seed}.txt"
    return shrink(named, submission(arguments, named.info.lab), seconds(arguments), out)


def shrink(named: NamedRun, target: Target, seconds: float, out: Path) -> int:
    """Search for a shorter run that fails in the same way, and print it.

    Args:
        named: The failing run.
        target: The submission and its sandbox.
        seconds: How long to search, by the wall clock.
        out: Where to write the scenario, if the run can be written as one.

    Returns:
        0 if the run passes, otherwise 1.

    Raises:
        OSError: ``out`` cannot be written.
    """
    warm = target.implementation()
    shrinker = Shrinker(warm, seconds, show_progress)
    try:
        if named.scenario is not None:
            shrunk = shrinker.scenario(named.scenario)
        else:
            shrunk = shrinker.test(named.info, named.seed, named.schedule)
    except NotFailing as exc:
        print(exc)
        return PASSED
    finally:
        warm.close()
    show_progress()
    if shrunk.scenario is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(shrunk.scenario.text(), encoding="utf-8")
    print(printable(_report(shrunk, named, target.path, out)))
    return FAILED


@dataclass(frozen=True, slots=True)
class FailedRun:
    """A failing run of a scenario.

    Attributes:
        scenario: The scenario up to the last command that was started.
        failure: How the run failed.
        events: The number of events in the run.
    """

    scenario: Scenario
    failure: Failure
    events: int


def play(impl: Implementation, scenario: Scenario) -> FailedRun | None:
    """Perform the run. Returns ``None`` if it passes."""
    run = Run(impl, names.info_of(scenario), "sim", scenario.seed, scenario.schedule)
    answer = together.make(run, scenario)
    if answer is None:
        player = ScenarioPlayer(scenario)
        failure, begun, events = run.play(player.play), player.begun, len(run.events)
    else:
        failure, begun, events = answer.record.failure, answer.begun, answer.events
    if failure is None:
        return None
    made = replace(scenario, schedule=run.schedule, commands=scenario.commands[:begun])
    return FailedRun(made, failure, events)


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The shortest failing run that was found.

    Attributes:
        scenario: The run as a scenario; ``None`` if it cannot be written as one.
        failure: How the run fails.
        seed: The run's seed.
        events: The number of events in the run.
        commands_before: The number of commands before shrinking; 0 without a scenario.
        events_before: The number of events before shrinking.
        tried: The number of runs that the search performed.
        why_not: Why there is no scenario, as a clause; empty if there is one.
    """

    scenario: Scenario | None
    failure: Failure
    seed: int
    events: int
    commands_before: int
    events_before: int
    tried: int
    why_not: str = ""


class NotFailing(ValueError):
    """The run passes, so there is nothing to shrink. The message is a sentence."""


class Shrinker:
    """One search. ``tried`` counts the runs so far."""

    def __init__(
        self, impl: Implementation, seconds: float, progress: Callable[[str], None] = lambda text: None
    ) -> None:
        """
        Args:
            impl: The submission.
            seconds: How long the search may take, by the wall clock.
            progress: Called with a text about each success.
        """
        self._impl = impl
        self._deadline = time.monotonic() + seconds
        self._progress = progress
        self._wanted: tuple[str, str] = ("", "")  # every shortened run must have this signature
        self._seen: set[Scenario] = set()
        self.tried = 0

    # --- from a test ---

    def test(self, info: TestInfo, seed: int, schedule: str | None = None) -> Shrunk:
        """Shrink a failing run of a test. Raises :class:`NotFailing`."""
        recorder, used, failure, events = self._record(info, seed, schedule)
        if failure is None:
            raise NotFailing(f"{info.name}@{seed} passes; there is nothing to shrink")
        self._wanted = _signature(failure)
        why_not = recorder.cannot
        if not why_not:
            scenario = recorder.scenario(info.lab, info.name, seed, used)
            again = self._fails(scenario, OTHER_SEEDS * 4)
            if again is not None:
                return self._shrink(again, len(scenario.commands), events)
            why_not = "an expectation in the test's own script failed"
        best_seed, best_failure, fewest = self._shortest_seed(info, seed, schedule, failure, events)
        return Shrunk(None, best_failure, best_seed, fewest, 0, events, self.tried, why_not)

    def _record(
        self, info: TestInfo, seed: int, schedule: str | None
    ) -> tuple[ScenarioRecorder, str, Failure | None, int]:
        """Perform a test's run. Returns its recorder, the schedule it used, its failure and its number of events."""
        run = Run(self._impl, info, "sim", seed, schedule, cluster_class=ScenarioRecorder)
        self.tried += 1
        failure = run.play(catalogue.script_of(info))
        recorder = run.started_cluster
        assert isinstance(recorder, ScenarioRecorder)
        return recorder, run.schedule, failure, len(run.events)

    def _shortest_seed(
        self, info: TestInfo, seed: int, schedule: str | None, failure: Failure, events: int
    ) -> tuple[int, Failure, int]:
        """Of the seeds whose runs fail in the same way, the seed whose run has the fewest events. Returns the seed, the
        failure and the number of events."""
        best = (seed, failure, events)
        for other in range(TEST_SEEDS):
            if time.monotonic() > self._deadline:
                break
            _, _, failed, number = self._record(info, other, schedule)
            if failed is not None and _signature(failed) == self._wanted and number < best[2]:
                best = (other, failed, number)
                self._progress(f"seed {other} fails within {number} events")
        return best

    # --- from a scenario ---

    def scenario(self, scenario: Scenario) -> Shrunk:
        """Shrink a failing scenario. Raises :class:`NotFailing`."""
        self.tried += 1
        failed = play(self._impl, scenario)
        if failed is None:
            raise NotFailing(f"{scenario.name}@{scenario.seed} passes; there is nothing to shrink")
        self._wanted = _signature(failed.failure)
        return self._shrink(failed, len(scenario.commands), failed.events)

    def _shrink(self, failed: FailedRun, commands: int, events: int) -> Shrunk:
        best = self._shortest(failed)
        scenario = replace(best.scenario.tidied(), expected=names.expected(best.failure))
        return Shrunk(scenario, best.failure, scenario.seed, best.events, commands, events, self.tried)

    def _fails(self, scenario: Scenario, others: int = OTHER_SEEDS) -> FailedRun | None:
        """The first run that fails in the wanted way, with the scenario's own seed or with one of the others. ``None``
        if there is none, or if the scenario has been tried before."""
        if scenario in self._seen:
            return None
        self._seen.add(scenario)
        seeds = [scenario.seed, *[seed for seed in range(others + 1) if seed != scenario.seed][:others]]
        for seed in seeds:
            if time.monotonic() > self._deadline:
                return None
            self.tried += 1
            failed = play(self._impl, replace(scenario, seed=seed))
            if failed is not None and _signature(failed.failure) == self._wanted:
                return failed
        return None

    def _shortest(self, best: FailedRun) -> FailedRun:
        """Try all changes repeatedly, until none makes the run shorter."""
        # Begin with the changes after which other changes are more likely to succeed.
        if best.scenario.schedule != "none":
            best = self._fails(replace(best.scenario, schedule="none")) or best
        while True:
            before = best
            best = self._with_fewer_commands(best)
            best = self._with_fewer_servers(best)
            best = self._with_simpler_commands(best)
            if best.scenario == before.scenario or time.monotonic() > self._deadline:
                return best

    def _with_fewer_commands(self, best: FailedRun) -> FailedRun:
        """Remove half of the commands, then a quarter, ... and finally each command by itself."""
        size = max(1, len(best.scenario.commands) // 2)
        while True:
            others = OTHER_SEEDS_FOR_ONE if size == 1 else OTHER_SEEDS
            start = len(best.scenario.commands)
            while start > 0:
                # Begin at the end, because later commands depend on earlier ones, but not the other way round.
                start = max(0, min(start, len(best.scenario.commands)) - size)
                commands = best.scenario.commands
                remaining = merged([*commands[:start], *commands[start + size :]])
                shorter = self._fails(best.scenario.with_commands(remaining), others)
                if shorter is not None:
                    best = shorter
                    self._progress(f"{len(best.scenario.commands)} commands, {best.events} events")
            if size == 1:
                return best
            size //= 2

    def _with_fewer_servers(self, best: FailedRun) -> FailedRun:
        for servers in range(_FEWEST_SERVERS, best.scenario.servers):
            members = min(best.scenario.members, servers)
            fewer = self._fails(replace(best.scenario, servers=servers, members=members))
            if fewer is not None:
                self._progress(f"{servers} servers")
                return fewer
        return best

    def _with_simpler_commands(self, best: FailedRun) -> FailedRun:
        for number in range(len(best.scenario.commands) - 1, -1, -1):
            if number >= len(best.scenario.commands):
                continue
            for simpler in best.scenario.commands[number].simpler():
                commands = list(best.scenario.commands)
                commands[number] = simpler
                if failed := self._fails(best.scenario.with_commands(commands)):
                    best = failed
                    break
        return best


def _signature(failure: Failure) -> tuple[str, str]:
    """What must stay the same while a run is shrunk: the kind of failure, and the broken rule or, if there is none, the
    failure's place."""
    return failure.kind, failure.rule.name if failure.rule else failure.where


def merged(commands: Sequence[Command]) -> list[Command]:
    """The same commands, with neighbours merged into one wherever possible."""
    result: list[Command] = []
    for command in commands:
        both = result[-1].merged(command) if result else None
        if both is None:
            result.append(command)
        else:
            result[-1] = both
    return result


def _report(shrunk: Shrunk, named: NamedRun, impl: Path, out: Path) -> str:
    """The text that `raftlab shrink` prints about the run that it found."""
    impl_option = "" if str(impl) in (".", "raft.py") else f" --impl {impl}"
    if shrunk.scenario is None:
        name = f"{named.info.name}@{shrunk.seed}"
        return (
            f"This run cannot be written as a scenario: {shrunk.why_not}.\n"
            f"Of {count(shrunk.tried, 'run')}, the shortest that breaks the same rule is {name}: "
            f"{count(shrunk.events, 'event')} instead of {shrunk.events_before:,}.\n\n"
            + render.as_text(shrunk.failure, f"raftlab replay {name}{impl_option}")
        )
    head = (
        f"{count(len(shrunk.scenario.commands), 'command')} instead of {shrunk.commands_before}, "
        f"{count(shrunk.events, 'event')} instead of {shrunk.events_before:,}; {count(shrunk.tried, 'run')} tried\n"
    )
    text = replace(shrunk.scenario, expected=()).text()
    return f"{head}\n{text}\n{render.as_text(shrunk.failure, f'raftlab replay {out}{impl_option}')}"
