"""Statistics of each test over the class, as for the questions of an exam: how difficult it is, and how well it tells good
submissions from others.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import StatisticsError, correlation, mean

from raftgrade.results import Report, SubmissionResult, TestResult

MIN_SUBMISSIONS = 5  # with fewer, a correlation says nothing
WEAK = 0.2  # a lower discrimination is usually called weak


@dataclass(frozen=True, slots=True)
class Item:
    """A test as a question.

    Attributes:
        judged: the number of submissions in which the test was judged.
        share: the mean share of the test's points that these submissions earned (the item difficulty: 1 is easiest);
            ``None`` if there are no such submissions.
        discrimination: the correlation, from -1 to 1, between the points in this test and the points in all other tests;
            ``None`` if there are fewer than :data:`MIN_SUBMISSIONS`, or all of them earned the same.
        note: what is remarkable about the test, in words; may be empty.
    """

    test: TestResult
    judged: int
    share: float | None
    discrimination: float | None
    note: str


def items(report: Report) -> list[Item]:
    """The statistics of every test, in the order of the suites. Submissions that were refused are left out."""
    graded = [each for each in report.submissions if each.state in ("running", "graded")]
    tests = report.submissions[0].tests if report.submissions else []
    return [_item(test, place, graded) for place, test in enumerate(tests)]


def _item(test: TestResult, place: int, graded: list[SubmissionResult]) -> Item:
    judged = [each for each in graded if each.tests[place].state == "judged"]
    shares = [_share(each.tests[place]) for each in judged]
    others = [sum(other.points for other in each.tests) - each.tests[place].points for each in judged]
    discrimination = None
    if len(judged) >= MIN_SUBMISSIONS:
        try:
            discrimination = correlation(shares, others)
        except StatisticsError:  # all of them earned the same
            discrimination = None
    share = mean(shares) if shares else None
    return Item(test, len(judged), share, discrimination, _note(share, discrimination))


def _share(test: TestResult) -> float:
    """The share of its points that a test earned. For a test without points, the share of its runs that passed."""
    if test.max_points:
        return test.points / test.max_points
    runs = sum(network.passes + network.failures for network in test.networks)
    return sum(network.passes for network in test.networks) / runs if runs else 0.0


def _note(share: float | None, discrimination: float | None) -> str:
    if share in (0.0, 1.0):
        return "everyone passes" if share else "nobody passes"
    if discrimination is not None and discrimination < 0:
        return "better submissions fail it more often"
    if discrimination is not None and discrimination < WEAK:
        return "hardly tells good submissions from others"
    return ""
