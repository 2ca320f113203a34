"""The counting room: takes in records as they come and makes the report of them.

The report is a pure fold of the plan and the entries of ``records.jsonl``, so whatever was written before a
crash gives the same report as it would have given in memory.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftgrade.plan import Expected
from raftgrade.results import (
    Bad,
    NetworkResult,
    Problem,
    Report,
    Spread,
    State,
    SubmissionResult,
    TestResult,
    earned,
)
from raftgrade.stats import clopper_pearson, percentile
from raftlab.failure import Failure
from raftlab.record import Record

MAX_ADVICE = 5  # different pieces of advice kept for a test; more than that nobody reads
Key = tuple[str, str, str, str]  # submission, lab, test, network


class Ran(msgspec.Struct, tag="run", tag_field="kind"):
    """A line of ``records.jsonl``: one run of ``submission`` has its outcome."""

    submission: str
    record: Record


class Refused(msgspec.Struct, tag="refused", tag_field="kind"):
    """A line of ``records.jsonl``: ``submission`` will not be run. ``state`` says whose fault that is."""

    submission: str
    state: Literal["refused", "unjudged"]
    problems: list[Problem]


Entry = Ran | Refused


class Tally:
    """Counts entries against a plan, which is a report without results."""

    def __init__(self, plan: Report) -> None:
        self.report = plan
        self.done = 0
        self.failed = 0
        self._records: dict[Key, dict[int, Record]] = {}
        self._results: dict[Key, NetworkResult] = {}
        self._refused: dict[str, Refused] = {}
        for submission in plan.submissions:
            for test in submission.tests:
                for network in test.networks:
                    key = (submission.name, test.lab, test.name, network.network)
                    self._records[key] = {}
                    self._results[key] = network
        self._names = {submission.name for submission in plan.submissions}

    def take(self, entry: Entry) -> bool:
        """Count ``entry``. False when it is not wanted: not in the plan, or already counted. The first
        outcome of a run stands: a rerun must not hide a failure."""
        if isinstance(entry, Refused):
            if entry.submission not in self._names or entry.submission in self._refused:
                return False
            self._refused[entry.submission] = entry
            return True
        record = entry.record
        key = (entry.submission, record.lab, record.test, record.network)
        runs = self._records.get(key)
        if runs is None or record.seed in runs or record.seed not in range(*self._results[key].seeds):
            return False
        runs[record.seed] = record
        self.done += 1
        self.failed += record.outcome == "failed"
        return True

    def make(self, complete: bool, seconds: float) -> Report:
        """The report as of now. ``seconds`` is how long the run has taken."""
        for submission in self.report.submissions:
            self._sum_up(submission)
        self.report.complete = complete
        self.report.seconds = round(seconds, 3)
        return self.report

    def _sum_up(self, submission: SubmissionResult) -> None:
        for test in submission.tests:
            records: list[Record] = []
            for network in test.networks:
                runs = self._records[submission.name, test.lab, test.name, network.network]
                ordered = [runs[seed] for seed in sorted(runs)]
                _fill(network, ordered)
                records += ordered
            test.points = earned(test)
            test.advice = list(dict.fromkeys(line for record in records for line in record.advice))[:MAX_ADVICE]
        submission.points = sum(test.points for test in submission.tests)
        refused = self._refused.get(submission.name)
        if refused is not None:
            submission.problems = refused.problems
            submission.points = 0
        submission.state = refused.state if refused is not None else _state(submission)


def _state(submission: SubmissionResult) -> State:
    networks = [network for test in submission.tests for network in test.networks]
    if all(network.done == network.runs for network in networks):
        return "graded"
    return "running" if any(network.done for network in networks) else "waiting"


def _fill(result: NetworkResult, records: list[Record]) -> None:
    passes = [record for record in records if record.outcome == "passed"]
    result.passes = len(passes)
    result.failures = sum(record.outcome == "failed" for record in records)
    result.errors = sum(record.outcome == "error" for record in records)
    result.interval = clopper_pearson(result.passes, result.passes + result.failures)
    result.lab_s = _spread([record.lab_s for record in passes])
    result.rpcs = _spread([float(record.rpcs) for record in passes])
    result.wall_s = round(sum(record.wall_s for record in records), 3)
    result.cpu_s = round(sum(record.cpu_s for record in records), 3)
    result.bad = [
        Bad(
            seed=record.seed,
            outcome="error" if record.outcome == "error" else "failed",
            failure=record.failure or Failure("unexplained", "the run did not pass, and nothing says why"),
            replay=record.replay,
            trace=record.trace,
        )
        for record in records
        if record.outcome != "passed"
    ]


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    return Spread(round(percentile(values, 50), 4), round(percentile(values, 95), 4))


def blank(
    name: str,
    slug: str,
    path: str,
    tests: list[Expected],
    seeds: dict[str, tuple[int, int]],
    id: str = "",
    hash: str = "",
) -> SubmissionResult:
    """A submission before its first run. ``seeds`` gives the range of each network."""
    results = [
        TestResult(
            lab=test.lab,
            name=test.name,
            title=test.title,
            points=0,
            max_points=test.points,
            networks=[
                NetworkResult(network=network, seeds=seeds[network], runs=seeds[network][1] - seeds[network][0])
                for network in test.networks
            ],
        )
        for test in tests
    ]
    return SubmissionResult(
        name=name,
        slug=slug,
        path=path,
        id=id,
        hash=hash,
        state="waiting",
        points=0,
        max_points=sum(test.points for test in tests),
        tests=results,
    )
