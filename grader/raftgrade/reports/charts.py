"""The data of the class report's overview: the numbers at the top, the heat map, the distributions and the lists."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from statistics import mean, median
from typing import NamedTuple

from raftgrade import failure_classes
from raftgrade.reports.items import Item, items
from raftgrade.results import UNTESTED, BadRun, NetworkResult, Report, SubmissionResult, TestResult, passed
from raftlab.explain.failure import Rule
from raftlab.explain.render import handout
from raftlab.safe_text import count, number

MAX_SLOW_TESTS = 10
MAX_LESSONS = 10
_WORDS = {"refused": "refused", "unjudged": "could not be judged", "absent": "nothing was handed in"}
_BINS = 10  # of the distribution of marks: each is 10 % of the points wide


class Card(NamedTuple):
    """One of the large numbers at the top. ``note`` is shown in small type after the number; ``tone`` is a CSS class."""

    value: str
    note: str
    label: str
    tone: str = ""


def cards(report: Report) -> list[Card]:
    marked = [each for each in report.submissions if each.state not in ("waiting", "unjudged", "absent")]
    most = max((each.max_points for each in report.submissions), default=0.0)
    points = [each.points for each in marked]
    refused = sum(each.state == "refused" for each in report.submissions)
    not_final = sum(not each.final for each in report.handed_in)
    absent = len(report.submissions) - len(report.handed_in)
    errors = sum(each.errors for each in report.submissions)
    retried = sum(n.retried for each in report.submissions for test in each.tests for n in test.networks)
    out_of = f"/{number(most)}" if points else ""
    return [
        Card(str(len(report.handed_in)), f" ({absent} missing)" if absent else "", "submissions"),
        Card(str(sum(each.clean for each in report.submissions)), "", "passed everything", "good"),
        Card(number(median(points)) if points else "–", out_of, "median mark"),
        Card(number(mean(points)) if points else "–", out_of, "mean mark"),
        Card(str(refused), "", "refused", "bad" if refused else ""),
        Card(str(not_final), "", "marks not final", "warn" if not_final else ""),
        Card(str(errors), f" ({retried} judged in a retry)", "runs not judged", "warn" if errors else ""),
    ]


# --- the heat map ---


class Cell(NamedTuple):
    """The result of one submission in one test. ``tone`` is a CSS class for the colour. ``sign`` says the same to people who
    cannot see the colours. ``text`` is the tooltip."""

    tone: str
    text: str
    sign: str


@dataclass(frozen=True, slots=True)
class Row:
    """A submission, its points (in one lab or in all labs), and its cells."""

    submission: SubmissionResult
    points: float
    cells: list[Cell]


@dataclass(frozen=True, slots=True)
class LabMap:
    """The heat map of a lab: a row for each submission, the best mark first, and a column for each test. ``items`` holds
    the statistics of each test."""

    lab: str
    whose_raft: str
    items: list[Item]
    rows: list[Row]


@dataclass(frozen=True, slots=True)
class Overview:
    """A row for each submission, the best mark first, and a column for each lab."""

    labs: list[str]
    rows: list[Row]


def overview(report: Report) -> Overview:
    """The share of each lab's points that each submission earned."""
    tests = report.submissions[0].tests if report.submissions else []
    names = [lab for lab in report.settings.labs if any(test.lab == lab for test in tests)]
    return Overview(
        names, [Row(each, each.points, [_lab_cell(each, lab) for lab in names]) for each in _by_mark(report)]
    )


def lab_maps(report: Report) -> list[LabMap]:
    """The heat maps of all labs."""
    submissions = _by_mark(report)
    statistics = items(report)
    maps = []
    for lab in overview(report).labs:
        rows = []
        for each in submissions:
            tests = [test for test in each.tests if test.lab == lab]
            rows.append(Row(each, sum(test.points for test in tests), [cell(each, test) for test in tests]))
        columns = [item for item in statistics if item.test.lab == lab]
        maps.append(LabMap(lab, report.settings.whose_raft(lab), columns, rows))
    return maps


def _by_mark(report: Report) -> list[SubmissionResult]:
    return sorted(report.submissions, key=lambda each: (-each.points, each.name))


def _lab_cell(submission: SubmissionResult, lab: str) -> Cell:
    tests = [test for test in submission.tests if test.lab == lab]
    if submission.state in UNTESTED:
        return Cell("skip", _WORDS[submission.state], "–")
    if all(test.state == "skipped" for test in tests):
        return Cell("skip", "skipped", "–")
    if all(test.state == "waiting" for test in tests):
        return Cell("wait", "no run yet", "…")
    if any(test.state in ("open", "waiting") for test in tests):
        return Cell("open", "some runs are missing, or could not be judged", "?")
    points, most = sum(test.points for test in tests), sum(test.max_points for test in tests)
    text = f"{number(points)} of {number(most)} points, {count_passed(tests)} of {count(len(tests), 'test')} passed"
    return _shaded(points / most if most else count_passed(tests) / len(tests), text)


def cell(submission: SubmissionResult, test: TestResult) -> Cell:
    if submission.state in UNTESTED:
        return Cell("skip", _WORDS[submission.state], "–")
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
    return _shaded(passes / judged, text)


def _shaded(share: float, text: str) -> Cell:
    if share >= 1:
        return Cell("c10", text, "✓")
    if share <= 0:
        return Cell("c0", text, "×")
    return Cell(f"c{min(9, max(1, int(share * 10)))}", text, str(min(99, max(1, round(share * 100)))))


# --- distributions ---


@dataclass(frozen=True, slots=True)
class BarChart:
    """Labels and their numbers. ``counted`` is a plural noun that says what the numbers count."""

    title: str
    subtitle: str
    counted: str
    bars: list[tuple[str, int]]

    @property
    def largest(self) -> int:
        """The number whose bar fills the width."""
        return max([value for _, value in self.bars] + [1])


def marks(report: Report) -> BarChart:
    """The number of submissions with each mark."""
    values = [each.points / each.max_points for each in report.submissions if each.max_points and each.final]
    bins = Counter(min(_BINS - 1, int(value * _BINS)) for value in values)
    bars = [(f"{place * 100 // _BINS}–{(place + 1) * 100 // _BINS} %", bins[place]) for place in range(_BINS)]
    return BarChart("Marks", "submissions by their share of all points", "submissions", bars)


def reliability(report: Report) -> BarChart:
    """How many tests passed never, always, or in some of their runs. A timing bug puts a test between "always" and
    "never"."""
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
    """A class of failures.

    Attributes:
        rule: the broken rule. If it is ``None``, ``text`` says what went wrong.
        read: the file and anchor of the handout about such failures; empty if there is none.
        tests: the tests that failed in this way, those that failed in the most submissions first.
        submissions: the submissions that failed in this way.
        share: the share of these submissions among all submissions.
    """

    rule: Rule | None
    text: str
    read: str
    tests: list[TestResult]
    submissions: list[SubmissionResult]
    runs: int
    share: float


def teach_again(report: Report) -> list[Lesson]:
    """The classes of failures that happened in the most submissions, the most common first."""
    found: defaultdict[str, list[tuple[SubmissionResult, TestResult, BadRun]]] = defaultdict(list)
    for submission in report.submissions:
        for test in submission.tests:
            for result in test.networks:
                for bad in result.bad:
                    if bad.outcome == "failed":
                        found[bad.sort].append((submission, test, bad))
    lessons = [_lesson(sort, runs, len(report.handed_in)) for sort, runs in sorted(found.items())]
    return sorted(lessons, key=lambda lesson: (-len(lesson.submissions), -lesson.runs))[:MAX_LESSONS]


def _lesson(sort: str, runs: list[tuple[SubmissionResult, TestResult, BadRun]], total: int) -> Lesson:
    submissions = {submission.name: submission for submission, _, _ in runs}
    tests = {(test.lab, test.name): test for _, test, _ in runs}
    affected = Counter(place for place, _ in {((test.lab, test.name), each.name) for each, test, _ in runs})
    handouts = Counter(read for _, _, bad in runs if (read := handout(bad.failure)))
    rules = [bad.failure.rule for _, _, bad in runs if bad.failure.rule is not None]
    return Lesson(
        rules[0] if sort.startswith("rule: ") and rules else None,
        failure_classes.words(sort),
        min(handouts, key=lambda read: (-handouts[read], read), default=""),
        [tests[place] for place in sorted(tests, key=lambda place: (-affected[place], place))],
        list(submissions.values()),
        len(runs),
        len(submissions) / total,
    )


@dataclass(frozen=True, slots=True)
class SlowTest:
    """The times of one test. ``cpu_s`` and ``lab_s`` are the CPU seconds and the virtual seconds of the median submission's
    median run. ``worst_lab_s`` is the 95th percentile of the slowest submission's virtual seconds. ``share`` compares
    ``cpu_s`` with that of the slowest test, whose share is 1."""

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
    """The number of tests that passed every run."""
    return sum(passed(test) for test in tests)
