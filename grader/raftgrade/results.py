"""The report's shape: what ``report.json`` holds. ``handouts/report-schema.md`` says the same for readers of
the file.

    Report
      settings            what was asked for
      submissions[]       one for each, in the order given
        tests[]           every expected test
          networks[]      its runs on one network: counts, interval, times, and each run that did not pass

Times are in seconds. ``lab_s`` is the lab's own time (virtual in sim), ``wall_s`` what it cost here.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftgrade.plan import LeftOut, Settings
from raftlab.failure import Failure

SCHEMA = 1
State = Literal["waiting", "running", "graded", "refused", "unjudged"]


class Problem(msgspec.Struct, frozen=True):
    """Why a submission was refused: one sentence, where, and the handout section that helps."""

    text: str
    where: str = ""
    handout: str = ""


class Spread(msgspec.Struct, frozen=True):
    """The middle and the tail of a measurement over the runs that passed."""

    p50: float
    p95: float


class Bad(msgspec.Struct, kw_only=True):
    """A run that did not pass. ``outcome`` is ``"failed"``, or ``"error"`` when it could not be judged."""

    seed: int
    outcome: Literal["failed", "error"]
    failure: Failure
    replay: str = ""
    trace: str = ""


class NetworkResult(msgspec.Struct, kw_only=True):
    """One test on one network. ``runs`` were asked for, on ``seeds`` (first, one past the last); ``passes``,
    ``failures`` and ``errors`` have come in. ``interval`` is the two-sided 95 % Clopper-Pearson interval of
    ``passes`` among the judged runs (``passes + failures``)."""

    network: str
    seeds: tuple[int, int]
    runs: int
    passes: int = 0
    failures: int = 0
    errors: int = 0
    interval: tuple[float, float] = (0.0, 1.0)
    lab_s: Spread | None = None
    rpcs: Spread | None = None
    wall_s: float = 0.0
    cpu_s: float = 0.0
    bad: list[Bad] = []

    @property
    def done(self) -> int:
        return self.passes + self.failures + self.errors


class TestResult(msgspec.Struct, kw_only=True):
    """One test of one submission. ``points`` are what it earned so far."""

    __test__ = False  # for pytest: not a class of tests

    lab: str
    name: str
    title: str
    points: int
    max_points: int
    networks: list[NetworkResult]
    advice: list[str] = []


class SubmissionResult(msgspec.Struct, kw_only=True):
    """One submission. ``id`` is the course's, from the table it was listed in; ``hash`` the sha256 of its files (empty if
    they could not be taken in). ``state``: ``waiting`` (no run yet), ``running``, ``graded`` (every run has its
    outcome), ``refused`` (see ``problems``: it cannot be tested), ``unjudged`` (the check itself failed: not
    the student's fault, see ``problems``)."""

    name: str
    slug: str
    path: str
    id: str = ""
    hash: str = ""
    state: State
    points: int
    max_points: int
    tests: list[TestResult]
    problems: list[Problem] = []

    @property
    def clean(self) -> bool:
        """Every run there should be has passed."""
        return self.state == "graded" and all(passed(test) for test in self.tests)

    @property
    def failures(self) -> int:
        return sum(network.failures for test in self.tests for network in test.networks)

    @property
    def errors(self) -> int:
        return sum(network.errors for test in self.tests for network in test.networks)


class Report(msgspec.Struct, kw_only=True):
    """The whole of ``report.json``. ``complete`` is false while the run goes on and after it was interrupted;
    ``code`` is a fingerprint of the code that judged; ``started`` is UTC, ``seconds`` how long it has taken so far."""

    schema: int = SCHEMA
    tool: str
    code: str = ""
    complete: bool = False
    started: str
    seconds: float = 0.0
    settings: Settings
    left_out: list[LeftOut] = []
    submissions: list[SubmissionResult]

    @property
    def planned(self) -> int:
        """How many runs there should be, without those of refused submissions."""
        return sum(
            network.runs
            for submission in self.submissions
            if submission.state not in ("refused", "unjudged")
            for test in submission.tests
            for network in test.networks
        )

    @property
    def done(self) -> int:
        return sum(n.done for s in self.submissions for test in s.tests for n in test.networks)


def passed(test: TestResult) -> bool:
    """All runs of the test passed, on every network asked for."""
    return all(network.passes == network.runs for network in test.networks)


def earned(test: TestResult) -> int:
    """The rule for points: all or nothing. A test earns its points when every run of it passed."""
    return test.max_points if passed(test) else 0


def exit_code(report: Report) -> int:
    """What the shell gets: 0 everything passed; 2 a submission was refused or could not be checked, or the
    report is not complete; else 1 if a run failed; else 2 if a run could not be judged."""
    states = {submission.state for submission in report.submissions}
    if not report.complete or states & {"refused", "unjudged"}:
        return 2
    if any(submission.failures for submission in report.submissions):
        return 1
    return 0 if all(submission.clean for submission in report.submissions) else 2
