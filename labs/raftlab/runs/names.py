"""The index of runs that have a name: a test's (``vote_table@7``), a fuzz run's (``fuzz_2C@7``), a scenario's (its file)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raftlab import labs
from raftlab.explain.failure import Failure
from raftlab.runs import random_scenarios, scenario
from raftlab.runs.scenario import Scenario, ScenarioPlayer
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo


class BadName(ValueError):
    """Not the name of a run. The message says what one looks like."""


@dataclass(frozen=True, slots=True)
class NamedRun:
    """One run: what, where, on which seed. ``scenario`` is ``None`` when it is a lab's own test; ``file`` is where it was
    read."""

    info: TestInfo
    network: str
    seed: int
    preempt: bool
    scenario: Scenario | None = None
    file: Path | None = None

    @property
    def script(self) -> Callable[[Any], object]:
        """The run itself, to be called with a run's ``cluster``."""
        if self.scenario is None:
            return catalogue.script_of(self.info)
        return ScenarioPlayer(self.scenario).play


def named(text: str, network: str, preempt: bool) -> NamedRun:
    """The run called ``text`` on ``network``. Raises :class:`BadName` (also when it does not run there),
    :class:`raftlab.suites.catalogue.UnknownTest` and ``OSError`` (a file that cannot be read)."""
    path = Path(text)
    if path.suffix == ".txt" or path.is_file():
        return replace(_of_scenario(read(path), network, preempt), file=path)
    name, at, seed = text.rpartition("@")
    if not at or not (seed.isascii() and seed.isdigit()):
        raise BadName(f"expected TEST@SEED, such as initial_election@7, or a scenario file, not {text!r}")
    if name.startswith(random_scenarios.PREFIX):
        lab = labs.find(name.removeprefix(random_scenarios.PREFIX)).name
        return _of_scenario(random_scenarios.generate(lab, int(seed)), network, preempt)
    info = catalogue.find_test(name)
    if network not in info.networks:
        raise BadName(f"{info.name} runs only on {' and '.join(info.networks)}, not on {network}")
    return NamedRun(info, network, int(seed), preempt)


def _of_scenario(told: Scenario, network: str, preempt: bool) -> NamedRun:
    if network != "sim":
        raise BadName(f"a scenario runs only on sim, not on {network}")
    told = replace(told, preempt=told.preempt and preempt)
    return NamedRun(info_of(told), network, told.seed, told.preempt, told)


def info_of(told: Scenario) -> TestInfo:
    """What records and traces say of a scenario."""
    return TestInfo(told.lab, told.name, f"Scenario {told.name}", 0, ("sim",))


def read(path: Path) -> Scenario:
    """The scenario in a file. Raises :class:`BadName` with the file's name and line, and ``OSError``."""
    try:
        told = scenario.parse(path.read_text(encoding="utf-8"))
        return replace(told, lab=labs.find(told.lab).name)
    except UnicodeDecodeError:
        raise BadName(f"{path} is not a scenario: it is not a text file") from None
    except ValueError as exc:
        raise BadName(f"{path}: {exc}") from None


def expected(failure: Failure | None) -> tuple[str, ...]:
    """The lines of a scenario's file about the end of its run: the failure, the broken rule and the last events, or that
    the run passed."""
    if failure is None:
        return ("passed",)
    rule = () if failure.rule is None else (f"rule: {failure.rule.name} ({failure.rule.section})",)
    return (failure.text, *rule, *failure.events)
