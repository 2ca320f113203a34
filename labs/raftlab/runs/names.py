"""Finding runs by name: a test's run (``vote_table@7``), a random scenario (``fuzz_2C@7``), or a scenario's file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raftlab import labs
from raftlab.explain.failure import Failure
from raftlab.runs import random_scenarios
from raftlab.runs.scenario import Scenario, ScenarioPlayer, parse
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo


class BadName(ValueError):
    """A text that does not name a run. The message says what was expected."""


@dataclass(frozen=True, slots=True)
class NamedRun:
    """A run that can be performed.

    Attributes:
        info: The test. For a scenario, the entry that stands for the test in records and traces.
        network: ``"sim"`` or ``"rpyc"``.
        seed: 0 or more.
        schedule: How the simulator preempts threads, a name from :mod:`raftlab.schedules`. ``None``: the seed decides.
        scenario: The scenario; ``None`` if the run is a test of a lab.
        file: The file from which the scenario was read, if any.
    """

    info: TestInfo
    network: str
    seed: int
    schedule: str | None
    scenario: Scenario | None = None
    file: Path | None = None

    @property
    def script(self) -> Callable[[Any], object]:
        """The function that performs the run. Call it with the method ``cluster`` of a run."""
        if self.scenario is None:
            return catalogue.script_of(self.info)
        return ScenarioPlayer(self.scenario).play


def named(text: str, network: str, schedule: str | None) -> NamedRun:
    """Find a run by its name.

    Args:
        text: TEST@SEED, fuzz_LAB@SEED, or the path of a scenario's file.
        network: ``"sim"`` or ``"rpyc"``.
        schedule: How the simulator preempts threads, a name from :mod:`raftlab.schedules`. ``None``: the scenario
            or the seed decides.

    Raises:
        BadName: ``text`` is none of these, or the run cannot be performed on ``network``.
        raftlab.suites.catalogue.UnknownTest: No lab has such a test.
        OSError: The file cannot be read.
    """
    path = Path(text)
    if path.suffix == ".txt" or path.is_file():
        return replace(_of_scenario(read(path), network, schedule), file=path)
    name, at, seed = text.rpartition("@")
    if not at or not (seed.isascii() and seed.isdigit()):
        raise BadName(f"expected TEST@SEED, such as initial_election@7, or a scenario file, not {text!r}")
    if name.startswith(random_scenarios.PREFIX):
        lab = labs.find(name.removeprefix(random_scenarios.PREFIX)).name
        return _of_scenario(random_scenarios.generate(lab, int(seed)), network, schedule)
    info = catalogue.find_test(name)
    if network not in info.networks:
        raise BadName(f"{info.name} runs only on {' and '.join(info.networks)}, not on {network}")
    return NamedRun(info, network, int(seed), schedule)


def _of_scenario(scenario: Scenario, network: str, schedule: str | None) -> NamedRun:
    if network != "sim":
        raise BadName(f"a scenario runs only on sim, not on {network}")
    scenario = replace(scenario, schedule=schedule or scenario.schedule)
    return NamedRun(info_of(scenario), network, scenario.seed, scenario.schedule, scenario)


def info_of(scenario: Scenario) -> TestInfo:
    """The entry that stands for the test in the records and traces of a scenario."""
    return TestInfo(scenario.lab, scenario.name, f"Scenario {scenario.name}", 0, ("sim",))


def read(path: Path) -> Scenario:
    """Read a scenario's file. Raises :class:`BadName`, whose message names the file and the line, and ``OSError``."""
    try:
        found = parse(path.read_text(encoding="utf-8"))
        return replace(found, lab=labs.find(found.lab).name)
    except UnicodeDecodeError:
        raise BadName(f"{path} is not a scenario: it is not a text file") from None
    except ValueError as exc:
        raise BadName(f"{path}: {exc}") from None


def expected(failure: Failure | None) -> tuple[str, ...]:
    """The lines of a scenario's file that say how its run ends: the failure, the broken rule and the last events; or
    that the run passed."""
    if failure is None:
        return ("passed",)
    rule = () if failure.rule is None else (f"rule: {failure.rule.name} ({failure.rule.section})",)
    return (failure.text, *rule, *failure.events)
