"""The types of ``report.json``. ``handouts/report-schema.md`` documents them for readers of the file.

    Report
      settings            of the grading run
      submissions[]       in the order in which they were given
        tests[]           every expected test
          networks[]      its runs on one network: counts, interval, times, and each run that did not pass

Times are in seconds. ``lab_s`` is the time that passes for the servers (virtual in sim); ``wall_s`` and ``cpu_s`` are what
a run cost.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftgrade.plan import LeftOut, Settings
from raftgrade.rubric import Rubric
from raftgrade.stats import Verdict
from raftgrade.students import Student
from raftlab.explain.failure import Failure

SCHEMA = 1
State = Literal["waiting", "running", "graded", "refused", "unjudged", "absent"]
UNTESTED: tuple[State, ...] = ("refused", "unjudged", "absent")  # states in which no test is run
Attempts = Literal["", "best", "last"]
TestState = Literal["waiting", "judged", "open", "skipped"]


class Problem(msgspec.Struct, frozen=True):
    """The reason why a submission was refused: a sentence, the place in its code, and the handout section that helps."""

    text: str
    where: str = ""
    handout: str = ""


class Spread(msgspec.Struct, frozen=True):
    """The median and the 95th percentile of a measurement over the runs that passed."""

    p50: float
    p95: float


class BadRun(msgspec.Struct, kw_only=True):
    """A run that did not pass. ``outcome`` is ``"failed"``, or ``"error"`` when it could not be judged. ``sort`` is the
    class of the failure (:mod:`raftgrade.failure_classes`). If many runs belong to one class, only those with the lowest
    seeds keep their events and details."""

    seed: int
    outcome: Literal["failed", "error"]
    sort: str = ""
    failure: Failure
    replay: str = ""
    trace: str = ""


class NetworkResult(msgspec.Struct, kw_only=True):
    """The runs of one test on one network. ``hidden`` runs, whose seeds no student sees, have a result of their own.

    Attributes:
        seeds: the first seed of the planned runs, and the number after their last seed.
        runs: how many are planned.
        retried: how many of the finished runs could be judged only in a second attempt.
        interval: two-sided 95 % Clopper-Pearson interval of ``passes`` among the judged runs (``passes + failures``).
        verdict: the verdict of the sequential test; empty without one.
    """

    network: str
    seeds: tuple[int, int]
    runs: int
    hidden: bool = False
    passes: int = 0
    failures: int = 0
    errors: int = 0
    retried: int = 0
    interval: tuple[float, float] = (0.0, 1.0)
    verdict: Verdict | Literal[""] = ""
    lab_s: Spread | None = None
    run_cpu_s: Spread | None = None
    rpcs: Spread | None = None
    rpc_bytes: Spread | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    classes: dict[str, int] = {}
    bad: list[BadRun] = []

    @property
    def done(self) -> int:
        return self.passes + self.failures + self.errors


class TestResult(msgspec.Struct, kw_only=True):
    """One test of one submission.

    Attributes:
        points: what the test earned.
        suite_points: its points in the suite, without a rubric.
        state: ``waiting`` (runs are missing), ``judged``, ``open`` (too few runs could be judged, which is the machine's
            fault, so no points are lost yet) or ``skipped``. ``notes`` say why.
        races: the number of the race detector's findings that no earlier test has shown.
    """

    __test__ = False  # for pytest: not a class of tests

    lab: str
    name: str
    title: str
    points: float
    max_points: float
    suite_points: int
    state: TestState = "waiting"
    notes: list[str] = []
    networks: list[NetworkResult]
    advice: list[str] = []
    races: int = 0


class ManualMark(msgspec.Struct, frozen=True, kw_only=True):
    """What a person has decided about a submission.

    Attributes:
        test: the test that the decision is about; empty: the whole submission.
        points: the points of this test or submission, or, with ``change``, the points to add; ``None``: there is only a
            comment.
        comment: for the student.
    """

    test: str = ""
    points: float | None = None
    change: bool = False
    comment: str = ""


class SubmissionResult(msgspec.Struct, kw_only=True):
    """One submission.

    Attributes:
        id: the first author's id in the course.
        students: the authors, as far as the roster or a course system's download names them.
        submitted: when it was handed in (ISO 8601, or as a course system writes it); empty if that is unknown.
        prefix: the beginning of the file names that the course system gives to this submission. Names of feedback files
            begin with it, too.
        hash: the sha256 of its files; empty if they could not be copied.
        state: ``waiting`` (no run yet), ``running``, ``graded`` (every run has its outcome), ``refused`` (it cannot be
            tested), ``unjudged`` (it could not be found or fetched, or the check itself failed, which is not the student's
            fault) or ``absent`` (the student handed in nothing, and there is no mark). ``problems`` say why.
        points: what is left after the ``penalty`` for being late.
        open_points: points that it may still earn when runs are repeated.
        manual: what a person has decided.
        settled: whether a person has set the points of the whole submission, which are then final.
        missing: the labs that are not run and earn no points, each with the reason: the submission lacks a file, or breaks
            the lab's contract.
    """

    name: str
    slug: str
    path: str
    id: str = ""
    students: list[Student] = []
    submitted: str = ""
    prefix: str = ""
    hash: str = ""
    state: State
    points: float
    max_points: float
    open_points: float = 0.0
    late_days: float = 0.0
    penalty: float = 0.0
    manual: list[ManualMark] = []
    settled: bool = False
    tests: list[TestResult]
    problems: list[Problem] = []
    missing: dict[str, str] = {}

    @property
    def clean(self) -> bool:
        """Whether every planned run has passed."""
        return self.state == "graded" and all(passed(test) for test in self.tests)

    @property
    def final(self) -> bool:
        """Whether the mark can be given: no run is missing, and no points are open."""
        return self.settled or (self.state in ("graded", "refused") and not self.open_points)

    @property
    def earned(self) -> float:
        """The points of its tests, before the penalty. Points that a person gave to the whole submission do not count."""
        return sum(test.points for test in self.tests) if self.state not in UNTESTED else 0.0

    @property
    def comments(self) -> list[str]:
        """A person's comments on the whole submission."""
        return [mark.comment for mark in self.manual if mark.comment and not mark.test]

    @property
    def failures(self) -> int:
        return sum(network.failures for test in self.tests for network in test.networks)

    @property
    def errors(self) -> int:
        return sum(network.errors for test in self.tests for network in test.networks)


class CodePlace(msgspec.Struct, frozen=True):
    """A class or function of a submission: the submission's name, the file in it, and a name such as ``"class Raft"``. An
    empty name stands for the whole submission."""

    submission: str
    file: str
    name: str = ""


class SameCode(msgspec.Struct, frozen=True, kw_only=True):
    """Places with the same code, apart from comments, docstrings and formatting.

    Attributes:
        renamed: whether names, strings or type annotations differ.
        origin: something that raftlab hands out and that has the same code, such as ``"the start of lab 2C"``. If it is
            empty, at least two submissions have the code.
    """

    places: list[CodePlace]
    renamed: bool = False
    origin: str = ""


class Report(msgspec.Struct, kw_only=True):
    """The whole of ``report.json``.

    Attributes:
        code: a fingerprint of the code that judged.
        complete: false during the grading run, and if the grading run was interrupted.
        started: when the grading run started, in UTC.
        seconds: how long the grading run has taken so far.
        due: the deadline (ISO 8601); empty if dates did not count.
        attempts: which submission of a student counts if there are several: the ``best`` or the ``last``; empty if nobody
            has chosen.
        options: the options of ``raftgrade run`` that affect marks, with their values as given.
        unverified: why it is not certain that this user made the report; empty if it is certain. It is set when a report is
            read, so it is always empty in a file.
    """

    schema: int = SCHEMA
    tool: str
    code: str = ""
    complete: bool = False
    started: str
    seconds: float = 0.0
    due: str = ""
    attempts: Attempts = ""
    options: dict[str, str] = {}
    settings: Settings
    rubric: Rubric = Rubric()
    left_out: list[LeftOut] = []
    same_code: list[SameCode] = []
    unverified: str = ""
    submissions: list[SubmissionResult]

    @property
    def handed_in(self) -> list[SubmissionResult]:
        """The submissions, without the entries of students who handed in nothing."""
        return [each for each in self.submissions if each.state != "absent"]

    @property
    def planned(self) -> int:
        """The number of planned runs, without the runs of submissions that are not tested."""
        return sum(
            network.runs
            for submission in self.submissions
            if submission.state not in UNTESTED
            for test in submission.tests
            for network in test.networks
        )

    @property
    def done(self) -> int:
        return sum(n.done for s in self.submissions for test in s.tests for n in test.networks)


def passed(test: TestResult) -> bool:
    """Whether all runs of the test passed, on every requested network. If a sequential test has found the test reliable, a
    few runs may have failed."""
    return test.state != "skipped" and all(
        network.passes == network.runs or (network.verdict == "reliable" and not network.errors)
        for network in test.networks
    )


def exit_code(report: Report) -> int:
    """The exit code. The first of these that applies counts: 2 if a submission was refused or could not be checked, or the
    report is not complete; 1 if a run failed, or a lab was missing; 2 if a run could not be judged; otherwise 0. Students
    who handed in nothing do not count. If nobody handed in anything, the exit code is 2."""
    submissions = report.handed_in
    states = {submission.state for submission in submissions}
    if not report.complete or not submissions or states & {"refused", "unjudged"}:
        return 2
    if any(submission.failures or submission.missing for submission in submissions):
        return 1
    return 0 if all(submission.clean for submission in submissions) else 2
