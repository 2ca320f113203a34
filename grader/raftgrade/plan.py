"""The settings of a grading run, the tests that every submission must run, and how runs are split into jobs.

The list of tests comes from raftlab's own catalogue, and is made before any code of a submission runs. If a run of a test on
the list is never reported, it has failed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TextIO

import msgspec

from raftgrade.stats import Sequential
from raftlab import labs, operating_system
from raftlab.sandbox.levels import Level, Sandbox

NETWORKS = ("sim", "rpyc")

# The largest number of runs that share one job. Starting a job costs half a second of CPU time. That is ten times the cost
# of a simulated run, and several times the cost of a run on the real network. But a run on the real network takes several
# seconds, in which it mostly waits. So a job has few such runs; otherwise the last jobs would run alone for a long time.
RUNS_IN_A_JOB = {"sim": 100, "rpyc": 6}

# How many jobs run in parallel on the real network, for each job in sim. A run on the real network uses a tenth of a
# processor. This was measured with four jobs per processor, on a machine whose two processors were each kept busy by an
# endless loop. Judges woke up at most 0.17 s late, which is two thirds of what raftlab.runs.run.TOO_LATE_S allows. With more
# jobs, grading did not finish sooner.
RPYC_JOBS_PER_JOB = 4

TestRun = tuple[str, int]  # test, seed

REFERENCE = "reference"  # the name of the reference solution's Raft in --raft


class CannotStart(Exception):
    """The command line asks for something impossible. The message says what is wrong."""


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
        jobs: how many jobs run in parallel in sim. In reports of early versions, it counts the jobs of both networks.
        rpyc_jobs: how many jobs run in parallel on the real network, in addition to the jobs in sim.
        until: the sequential test that decides how many runs in sim are enough; ``runs`` is then the upper limit.
        hidden: the first seed of the hidden runs in sim, and the number after their last seed.
        races: whether the race detector observes the runs in sim.
        sandbox: the sandbox that student code runs in. Reports of early versions lack this field.
        raft: the Raft on which every service of lab 3 runs: ``reference``, or the name of a file or folder; empty: each
            submission's own.
    """

    labs: list[str]
    networks: list[str]
    runs: dict[str, int]
    seed: int
    jobs: int
    rpyc_jobs: int = 1
    until: Sequential | None = None
    hidden: tuple[int, int] | None = None
    sandbox: Sandbox | None = None
    races: bool = False
    raft: str = ""

    @property
    def level(self) -> Level:
        return "none" if self.sandbox is None else self.sandbox.level

    def whose_raft(self, lab: str) -> str:
        """The Raft on which ``lab`` runs, in words that follow "lab 3A"; empty for lab 2."""
        if not labs.LABS[lab].has("service"):
            return ""
        if not self.raft:
            return "on the submission's own Raft"
        return "on the reference Raft" if self.raft == REFERENCE else f"on the Raft {self.raft}"

    @property
    def raft_line(self) -> str:
        """``labs 3A and 3B ran on the reference Raft``; empty if no lab needs a service."""
        with_service = [lab for lab in self.labs if labs.LABS[lab].has("service")]
        return f"{_in_words(with_service)} ran {self.whose_raft(with_service[0])}" if with_service else ""

    def seeds(self, network: str) -> tuple[int, int]:
        """The first seed, and the number after the last seed."""
        return self.seed, self.seed + self.runs[network]


class Expected(msgspec.Struct, frozen=True):
    """A test that every submission must run, and the requested networks on which the test can run."""

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


@dataclass(frozen=True, slots=True)
class Pool:
    """Workers that run the jobs of some networks.

    Attributes:
        networks: the networks. The pool with ``sim`` also checks submissions.
        workers: the number of jobs and checks that run in parallel.
        max_in_flight: the number of jobs and checks that may be handed out at a time.
    """

    networks: tuple[str, ...]
    workers: int
    max_in_flight: int


class Job(msgspec.Struct, kw_only=True, frozen=True):
    """A unit of work: ``tests`` of one lab on one network, each with every seed in ``seeds`` (half open).
    A job is plain data with a stable ``id``, so that any engine can run it anywhere, and more than once.

    ``together``: the judge and the servers of a simulated run share a process. This is never used for grading, because
    student code could change its own verdict."""

    id: str
    submission: str
    slug: str
    path: str
    lab: str
    network: str
    tests: list[str]
    seeds: tuple[int, int]
    sandbox: Level = "none"
    races: bool = False
    together: bool = False

    @property
    def runs(self) -> list[TestRun]:
        """The runs in the order in which a job makes them: test by test, seeds upwards."""
        return runs_of(self.tests, self.seeds)


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
    """The submission that a job runs: its name, its slug for file names, where its copy is, its sandbox, and whether the
    race detector observes it."""

    submission: str
    slug: str
    path: str
    sandbox: Level = "none"
    races: bool = False


def runs_of(tests: Sequence[str], seeds: tuple[int, int]) -> list[TestRun]:
    """Each of ``tests`` with every seed in ``seeds`` (half open)."""
    return [(test, seed) for test in tests for seed in range(*seeds)]


def split_into_jobs(target: JobTarget, lab: str, network: str, runs: Sequence[TestRun], label: str = "") -> list[Job]:
    """The jobs that make ``runs``, which are tests of ``lab``. Starting a job costs CPU time, so tests with the same seeds
    share jobs.

    Args:
        runs: test by test, with the seeds of a test in ascending order.
        label: goes into the ids of the jobs, to distinguish them from other jobs of the same lab and network.
    """
    ranges: list[tuple[str, int, int]] = []  # the unbroken ranges of each test's seeds
    for test, seed in runs:
        if ranges and ranges[-1][0] == test and ranges[-1][2] == seed:
            ranges[-1] = (test, ranges[-1][1], seed + 1)
        else:
            ranges.append((test, seed, seed + 1))
    names: dict[tuple[int, int], list[str]] = {}
    for test, first, end in ranges:
        names.setdefault((first, end), []).append(test)
    pieces = [piece for seeds, tests in names.items() for piece in _pieces(tests, seeds, RUNS_IN_A_JOB[network])]
    return [
        Job(
            id=f"{target.slug}.{lab}.{network}{label}.{number:03d}",
            submission=target.submission,
            slug=target.slug,
            path=target.path,
            lab=lab,
            network=network,
            tests=chosen,
            seeds=seeds,
            sandbox=target.sandbox,
            races=target.races,
        )
        for number, (chosen, seeds) in enumerate(pieces)
    ]


def _pieces(names: list[str], seeds: tuple[int, int], size: int) -> list[tuple[list[str], tuple[int, int]]]:
    """The tests and seeds of each job. All jobs have about the same number of runs, at most ``size``."""
    first, end = seeds
    runs = end - first
    together = max(1, size // runs)
    groups = math.ceil(len(names) / together)
    slices = math.ceil(runs / size)
    edges = [first + runs * number // slices for number in range(slices + 1)]
    bounds = [len(names) * number // groups for number in range(groups + 1)]
    return [
        (names[bounds[group] : bounds[group + 1]], (edges[number], edges[number + 1]))
        for group in range(groups)
        for number in range(slices)
    ]


def default_jobs(jobs: int | None = None) -> dict[str, int]:
    """How many jobs run in parallel, by network. ``jobs`` is the number in sim; by default, one per processor."""
    jobs = jobs or operating_system.processors()
    return {"sim": jobs, "rpyc": RPYC_JOBS_PER_JOB * jobs}


def parse_labs(text: str | None) -> list[str]:
    """The labs in a list such as ``2A,2b``, in their usual order; all labs for ``None``."""
    names = text.split(",") if text is not None else list(labs.LABS)
    chosen = {labs.find(name.strip()).name for name in names}
    return [name for name in labs.LABS if name in chosen]


def without_service(lab_names: Sequence[str], stream: TextIO) -> list[str]:
    """The default labs if no submission has a service: all but lab 3. Tells the user about this on ``stream``."""
    out = [name for name in lab_names if labs.LABS[name].has("service")]
    if out:
        is_, it = ("is", "it") if len(out) == 1 else ("are", "them")
        why = f"no submission has a kv.py of its own (--labs {','.join(out)} grades {it})"
        print(f"raftgrade: {_in_words(out)} {is_} left out, because {why}", file=stream)
    return [name for name in lab_names if name not in out]


def _in_words(lab_names: Sequence[str]) -> str:
    """``lab 3A``, or ``labs 3A and 3B``."""
    return f"lab{'s' if len(lab_names) > 1 else ''} {' and '.join(lab_names)}"
