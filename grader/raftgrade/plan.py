"""The settings of a grading run, the tests that it must make, and how they are split into jobs.

The list of tests comes from raftlab's own catalogue before any code of a submission runs. A run that is on the list and
is never reported has failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from raftgrade.stats import Sequential
from raftlab import labs
from raftlab.sandbox.levels import Level, Sandbox

NETWORKS = ("sim", "rpyc")

# How many runs share one job. Starting a job costs half a second of CPU time and a simulated run a tenth of that, so many
# of them share one. A run on the real network takes several seconds, and small jobs keep all cores busy until the end.
RUNS_IN_A_JOB = {"sim": 100, "rpyc": 2}


class CannotStart(Exception):
    """The command line asks for something that cannot be done. The message says what."""


class CatalogueTest(Protocol):
    """A test as the catalogue describes it (``raftlab.suites.catalogue.TestInfo``)."""

    @property
    def lab(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def points(self) -> int: ...
    @property
    def networks(self) -> tuple[str, ...]: ...


class Settings(msgspec.Struct, kw_only=True, frozen=True):
    """The settings of a grading run.

    Attributes:
        runs: the number of runs of each test, by network. Seeds count upwards from ``seed``.
        jobs: how many jobs run in parallel.
        until: the sequential test that decides when sim has run enough; ``runs`` is then the upper limit.
        hidden: the seeds of the hidden runs in sim, the first and one past the last.
        sandbox: what student code runs in. Reports of early versions lack it.
    """

    labs: list[str]
    networks: list[str]
    runs: dict[str, int]
    seed: int
    jobs: int
    until: Sequential | None = None
    hidden: tuple[int, int] | None = None
    sandbox: Sandbox | None = None

    @property
    def level(self) -> Level:
        return "none" if self.sandbox is None else self.sandbox.level

    def seeds(self, network: str) -> tuple[int, int]:
        """First seed and one past the last."""
        return self.seed, self.seed + self.runs[network]


class Expected(msgspec.Struct, frozen=True):
    """A test that every submission must run, and on which of the requested networks."""

    lab: str
    name: str
    title: str
    points: int
    networks: list[str]


class LeftOut(msgspec.Struct, frozen=True):
    """A test that runs on none of the requested networks. It is not run, and its points do not count."""

    lab: str
    name: str
    title: str
    networks: list[str]


class Job(msgspec.Struct, kw_only=True, frozen=True):
    """A unit of work: ``tests`` of one lab on one network, each with every seed in ``seeds`` (half open).
    It is plain data with a stable ``id``, so that any engine can run it anywhere, and more than once."""

    id: str
    submission: str
    slug: str
    path: str
    lab: str
    network: str
    tests: list[str]
    seeds: tuple[int, int]
    sandbox: Level = "none"

    @property
    def runs(self) -> list[tuple[str, int]]:
        """(test, seed) in the order in which a job makes the runs: test by test, seeds upwards."""
        return [(test, seed) for test in self.tests for seed in range(*self.seeds)]


def expected_tests(
    settings: Settings, catalogue: Mapping[str, Sequence[CatalogueTest]]
) -> tuple[list[Expected], list[LeftOut]]:
    """The expected tests in the order of the labs, and those left out. ``catalogue`` maps a lab to its tests."""
    tests, left_out = [], []
    for lab in settings.labs:
        for info in catalogue[lab]:
            networks = [name for name in settings.networks if name in info.networks]
            if networks:
                tests.append(Expected(lab, info.name, info.title, info.points, networks))
            else:
                left_out.append(LeftOut(lab, info.name, info.title, list(info.networks)))
    return tests, left_out


@dataclass(frozen=True, slots=True)
class JobTarget:
    """The submission that a job runs: its name, its slug for file names, where its copy is, and its sandbox."""

    submission: str
    slug: str
    path: str
    sandbox: Level = "none"


def split_into_jobs(
    target: JobTarget, lab: str, network: str, tests: list[str], seeds: tuple[int, int], label: str = ""
) -> list[Job]:
    """The jobs that run ``tests`` of ``lab`` with every seed in ``seeds`` (half open). ``label`` goes into their ids, to
    distinguish them from other jobs of the same lab and network."""
    return [
        Job(
            id=f"{target.slug}.{lab}.{network}{label}.{number:03d}",
            submission=target.submission,
            slug=target.slug,
            path=target.path,
            lab=lab,
            network=network,
            tests=chosen,
            seeds=piece,
            sandbox=target.sandbox,
        )
        for number, (chosen, piece) in enumerate(_pieces(tests, seeds, RUNS_IN_A_JOB[network]))
    ]


def _pieces(names: list[str], seeds: tuple[int, int], size: int) -> list[tuple[list[str], tuple[int, int]]]:
    first, end = seeds
    runs = end - first
    together = max(1, size // runs)
    slices = math.ceil(runs / size)
    edges = [first + runs * number // slices for number in range(slices + 1)]
    return [
        (names[start : start + together], (edges[number], edges[number + 1]))
        for start in range(0, len(names), together)
        for number in range(slices)
    ]


def parse_labs(text: str | None) -> list[str]:
    """The labs in a list such as ``2A,2b``, in their usual order; all labs for ``None``."""
    names = text.split(",") if text is not None else list(labs.LABS)
    chosen = {labs.find(name.strip()).name for name in names}
    return [name for name in labs.LABS if name in chosen]
