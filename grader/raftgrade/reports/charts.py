"""The data of the class report's overview: the numbers at the top, the heat map, the distributions and the lists."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import mean, median
from typing import NamedTuple

from raftgrade import failure_classes
from raftgrade.results import NetworkResult, Report, SubmissionResult, TestResult, passed
from raftlab.explain.failure import Rule
from raftlab.safe_text import count, number

MAX_SLOW_TESTS = 10
MAX_LESSONS = 10
_BINS = 10  # of the distribution of marks: each is 10 % of the points wide


class Card(NamedTuple):
    """A number that answers "how did it go?". ``note`` is shown small behind it; ``tone`` is a CSS class."""

    value: str
    note: str
    label: str
    tone: str = ""


def cards(report: Report) -> list[Card]:
    marked = [each for each in report.submissions if each.state not in ("waiting", "unjudged")]
    most = max((each.max_points for each in report.submissions), default=0.0)
    points = [each.points for each in marked]
    refused = sum(each.state == "refused" for each in report.submissions)
    not_final = sum(not each.final for each in report.submissions)
    errors = sum(each.errors for each in report.submissions)
    retried = sum(n.retried for each in report.submissions for test in each.tests for n in test.networks)
    out_of = f"/{number(most)}" if points else ""
    return [
        Card(str(len(report.submissions)), "", "submissions"),
        Card(str(sum(each.clean for each in report.submissions)), "", "passed everything", "good"),
        Card(number(median(points)) if points else "–", out_of, "median mark"),
        Card(number(mean(points)) if points else "–", out_of, "mean mark"),
        Card(str(refused), "", "refused", "bad" if refused else ""),
        Card(str(not_final), "", "marks not final", "warn" if not_final else ""),
        Card(str(errors), f" ({retried} judged in a retry)", "runs not judged", "warn" if errors else ""),
    ]


# --- the heat map ---


class Cell(NamedTuple):
    """How one submission did in one test. The sign says what the colour (``tone``, a CSS class) says, for people who
    cannot see the colours; ``text`` is the tooltip."""

    tone: str
    text: str
    sign: str


@dataclass(frozen=True, slots=True)
class Row:
    """A submission and its cells; the last value of each says that the cell is the first of its lab."""

    submission: SubmissionResult
    cells: list[tuple[Cell, TestResult, bool]]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Submissions × tests, the best mark first. ``labs`` are the labs' names and how many columns each has."""

    labs: list[tuple[str, int]]
    tests: list[TestResult]
    rows: list[Row]


def heat_map(report: Report) -> HeatMap:
    tests = report.submissions[0].tests if report.submissions else []
    columns = Counter(test.lab for test in tests)
    ordered = sorted(report.submissions, key=lambda each: (-each.points, each.name))
    return HeatMap(
        [(lab, columns[lab]) for lab in report.settings.labs if columns[lab]],
        tests,
        [Row(submission, list(_cells(submission))) for submission in ordered],
    )


def _cells(submission: SubmissionResult) -> Iterator[tuple[Cell, TestResult, bool]]:
    before: TestResult | None = None
    for test in submission.tests:
        yield cell(submission, test), test, before is not None and before.lab != test.lab
        before = test


def cell(submission: SubmissionResult, test: TestResult) -> Cell:
    if submission.state in ("refused", "unjudged"):
        return Cell("skip", submission.state, "–")
    if test.state == "skipped":
        return Cell("skip", "; ".join(test.notes), "–")
    judged = sum(each.passes + each.failures for each in test.networks)
    passes = sum(each.passes for each in test.networks)
    if test.state == "open":
        return Cell("open", "; ".join(test.notes), "?")
    if not judged:
        return Cell("wait", "no run yet", "…")
    errors = sum(each.errors for each in test.networks)
    text = f"{passes} of {count(judged, 'run')} passed" + (f", {errors} could not be judged" if errors else "")
    text += "".join(f", {each.verdict}" for each in test.networks if each.verdict)
    if passes == judged:
        return Cell("c10", text, "✓")
    if not passes:
        return Cell("c0", text, "×")
    share = passes / judged
    return Cell(f"c{min(9, max(1, int(share * 10)))}", text, str(min(99, max(1, round(share * 100)))))


# --- distributions ---


@dataclass(frozen=True, slots=True)
class BarChart:
    """Labels and their numbers; ``counted`` is what is counted, in the plural."""

    title: str
    subtitle: str
    counted: str
    bars: list[tuple[str, int]]

    @property
    def largest(self) -> int:
        """The number that fills the width."""
        return max([value for _, value in self.bars] + [1])


def marks(report: Report) -> BarChart:
    """How many submissions have which mark."""
    values = [each.points / each.max_points for each in report.submissions if each.max_points and each.final]
    bins = Counter(min(_BINS - 1, int(value * _BINS)) for value in values)
    bars = [(f"{place * 100 // _BINS}–{(place + 1) * 100 // _BINS} %", bins[place]) for place in range(_BINS)]
    return BarChart("Marks", "submissions by their share of all points", "submissions", bars)


def reliability(report: Report) -> BarChart:
    """How reliably the tests pass. Bugs in timing lie between "always" and "never"."""
    labels = ("never", "below 50 %", "50–90 %", "90–99 %", "99 % and more", "always")
    tests: Counter[str] = Counter()
    for result in _judged(report):
        share = result.passes / (result.passes + result.failures)
        if share in (0.0, 1.0):
            tests["always" if share else "never"] += 1
        else:
            tests[labels[1 if share < 0.5 else 2 if share < 0.9 else 3 if share < 0.99 else 4]] += 1
    bars = [(label, tests[label]) for label in labels]
    return BarChart("Reliability", "how often a test passes in sim, over all submissions and tests", "tests", bars)


def _judged(report: Report) -> Iterator[NetworkResult]:
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                if result.network == report.settings.networks[0] and result.passes + result.failures:
                    yield result


# --- lists ---


@dataclass(frozen=True, slots=True)
class Lesson:
    """A class of failures: the rule that was broken, or ``text`` where no rule is behind it; how many submissions and
    runs it hit, and the share of all submissions."""

    rule: Rule | None
    text: str
    submissions: int
    runs: int
    share: float


def teach_again(report: Report) -> list[Lesson]:
    """The rules that most programs break, and the other ways in which most of them fail."""
    submissions: defaultdict[str, set[str]] = defaultdict(set)
    runs: Counter[str] = Counter()
    rules: dict[str, Rule] = {}
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                for bad in result.bad:
                    if bad.outcome == "failed":
                        submissions[bad.sort].add(submission.name)
                        runs[bad.sort] += 1
                        if bad.failure.rule is not None and bad.sort.startswith("rule: "):
                            rules[bad.sort] = bad.failure.rule
    ordered = sorted(submissions, key=lambda sort: (-len(submissions[sort]), -runs[sort], sort))[:MAX_LESSONS]
    total = max(1, len(report.submissions))
    return [
        Lesson(
            rules.get(sort),
            failure_classes.words(sort),
            len(submissions[sort]),
            runs[sort],
            len(submissions[sort]) / total,
        )
        for sort in ordered
    ]


@dataclass(frozen=True, slots=True)
class SlowTest:
    """Seconds of the median submission's median run, and of the slowest submission's 95th percentile. ``share`` is of the
    slowest test's CPU time."""

    lab: str
    name: str
    cpu_s: float
    lab_s: float
    worst_lab_s: float
    share: float


def slowest(report: Report) -> list[SlowTest]:
    lab_s: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    cpu_s: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    tail: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                if result.network == report.settings.networks[0] and result.lab_s and result.run_cpu_s:
                    lab_s[test.lab, test.name].append(result.lab_s.p50)
                    tail[test.lab, test.name].append(result.lab_s.p95)
                    cpu_s[test.lab, test.name].append(result.run_cpu_s.p50)
    ordered = sorted(cpu_s, key=lambda key: (-median(cpu_s[key]), key))[:MAX_SLOW_TESTS]
    top = max((median(cpu_s[key]) for key in ordered), default=1.0) or 1.0
    return [
        SlowTest(*key, median(cpu_s[key]), median(lab_s[key]), max(tail[key]), median(cpu_s[key]) / top)
        for key in ordered
    ]


def count_passed(tests: Iterable[TestResult]) -> int:
    """How many tests passed every run."""
    return sum(passed(test) for test in tests)
