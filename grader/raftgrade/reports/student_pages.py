"""The data of a student's own page: the mark, each test, and each way of failing once, with an example."""

from __future__ import annotations

from dataclasses import dataclass, field

from markupsafe import Markup

from raftgrade import failure_classes
from raftgrade.reports.charts import Cell, cell, count_passed
from raftgrade.results import UNTESTED, BadRun, NetworkResult, Report, SubmissionResult, TestResult, passed
from raftlab.explain import render
from raftlab.explain.failure import Failure
from raftlab.safe_text import count, number, one_line, printable, spans

Pictures = dict[tuple[str, str], str]  # slug, trace → link
OPEN_GROUPS = 3  # how many ways of failing are shown without a click
_HASH_DIGITS = 16  # how much of a submission's hash is shown: enough to tell any two submissions apart
MAX_PLACES = 6  # how many tests are listed for one way of failing; the others are only counted


@dataclass
class Group:
    """The runs of a submission that failed in the same way. ``example`` is the one that is shown in full."""

    sort: str
    example: BadRun
    runs: int = 0
    places: list[tuple[TestResult, NetworkResult, list[int]]] = field(default_factory=list)


def groups(submission: SubmissionResult) -> list[Group]:
    """The ways in which runs failed, the most common first."""
    by_sort: dict[str, Group] = {}
    for test in submission.tests:
        for network in test.networks:
            for sort in network.classes:
                same = [bad for bad in network.bad if bad.sort == sort]
                example = next((bad for bad in same if bad.trace and not network.hidden), same[0])
                group = by_sort.setdefault(sort, Group(sort, example))
                if example.trace and not group.example.trace:
                    group.example = example
                group.runs += len(same)
                group.places.append((test, network, [bad.seed for bad in same]))
    return sorted(by_sort.values(), key=lambda group: (group.example.outcome == "error", -group.runs, group.sort))


@dataclass(frozen=True, slots=True)
class TestRow:
    """A line of a lab's table. ``time`` is the median of virtual time, as text."""

    __test__ = False  # tells pytest that this is not a class of tests

    test: TestResult
    cell: Cell
    passed: bool
    time: str


@dataclass(frozen=True, slots=True)
class LabTable:
    """The tests of a lab. ``skipped`` says why no test was run; it is empty if tests were run. ``whose_raft`` is empty in
    lab 2."""

    name: str
    whose_raft: str
    points: float
    max_points: float
    passed: int
    rows: list[TestRow]
    skipped: str


@dataclass(frozen=True, slots=True)
class ShownGroup:
    """A :class:`Group` as it is shown: ``failure`` is HTML, ``picture`` a link or empty."""

    title: str
    error: bool
    opened: bool
    runs: int
    failure: Markup
    picture: str
    places: list[str]


@dataclass(frozen=True, slots=True)
class StudentPage:
    """All that the page of one submission shows. ``facts`` are short lines about what was graded, when and how."""

    submission: SubmissionResult
    facts: list[list[str]]
    notices: list[str]
    labs: list[LabTable]
    groups: list[ShownGroup]
    advice: list[tuple[TestResult, str]]


def student(report: Report, submission: SubmissionResult, pictures: Pictures) -> StudentPage:
    """The page of ``submission``; ``pictures`` maps runs to links."""
    if submission.state in UNTESTED:
        return StudentPage(submission, _facts(report, submission), _notices(submission), [], [], [])
    labs = [_lab(submission, lab, report.settings.whose_raft(lab)) for lab in report.settings.labs]
    return StudentPage(
        submission,
        _facts(report, submission),
        _notices(submission),
        [lab for lab in labs if lab.rows],
        [
            _shown(report, submission, group, pictures, place < OPEN_GROUPS)
            for place, group in enumerate(groups(submission))
        ],
        [(test, line) for test in submission.tests for line in test.advice],
    )


def plan(report: Report) -> list[str]:
    """What is run for each submission, in words: the labs, the runs of each test, and the Raft on which lab 3 runs."""
    settings = report.settings
    runs = [
        f"{count(settings.runs[name], 'run')} in {name}"
        if name != "sim" or settings.until is None
        else f"at most {count(settings.runs[name], 'run')} in sim (fewer if the verdict is clear earlier)"
        for name in settings.networks
    ]
    if settings.hidden is not None:
        runs.append(f"{count(settings.hidden[1] - settings.hidden[0], 'run')} with hidden seeds")
    labs = f"lab{'s' if len(settings.labs) > 1 else ''} {', '.join(settings.labs)}"
    return [labs, "each test: " + " and ".join(runs), *([settings.raft_line] if settings.raft_line else [])]


def origin(report: Report) -> list[str]:
    """When the report was made, and by which version."""
    return [report.started[:16].replace("T", " ") + " UTC", report.tool]


def _facts(report: Report, submission: SubmissionResult) -> list[list[str]]:
    when, tool = origin(report)
    dates = [f"handed in {one_line(submission.submitted, 40)}"] if submission.submitted else []
    files = [f"files sha256 {submission.hash[:_HASH_DIGITS]}"] if submission.hash else []
    return [plan(report), [*dates, f"graded {when}", tool, *files]]


def _notices(submission: SubmissionResult) -> list[str]:
    notices = []
    if submission.state == "refused":
        notices.append("Refused: the submission cannot be tested, so no test was run.")
    if submission.state == "unjudged":
        notices.append(
            "Could not be judged: the check itself failed. This is not the student's fault and costs no points."
        )
    if submission.state == "absent":
        notices.append("Nothing was handed in.")
    if submission.state in ("waiting", "running"):
        notices.append("Not complete: some runs are missing.")
    if submission.open_points and submission.state != "unjudged":
        notices.append(
            f"{number(submission.open_points)} points are open: runs could not be judged. No points are lost yet."
        )
    if submission.penalty:
        late = number(submission.late_days)
        notices.append(f"Late by {late} days: {number(submission.penalty)} points less.")
    return notices


def _lab(submission: SubmissionResult, lab: str, whose_raft: str) -> LabTable:
    tests = [test for test in submission.tests if test.lab == lab]
    skipped = "; ".join(tests[0].notes) if tests and all(test.state == "skipped" for test in tests) else ""
    return LabTable(
        lab,
        whose_raft,
        sum(test.points for test in tests),
        sum(test.max_points for test in tests),
        count_passed(tests),
        [TestRow(test, cell(submission, test), passed(test), _time(test)) for test in tests],
        skipped,
    )


def _time(test: TestResult) -> str:
    lab_s = test.networks[0].lab_s
    return "" if lab_s is None else f"{lab_s.p50:.1f} s"


def certainty(network: NetworkResult) -> str:
    """The confidence interval of the pass rate, in words."""
    low, high = network.interval
    if not network.passes + network.failures:
        return "no run judged"
    return f"95 % sure that between {low:.1%} and {high:.1%} of such runs pass"


def _shown(report: Report, submission: SubmissionResult, group: Group, pictures: Pictures, opened: bool) -> ShownGroup:
    seeds_are_secret = report.settings.hidden is None
    places = [_place(*place, seeds_are_secret) for place in group.places[:MAX_PLACES]]
    if len(group.places) > MAX_PLACES:
        places.append(f"and {count(len(group.places) - MAX_PLACES, 'more test')}")
    example = group.example
    error = example.outcome == "error"
    return ShownGroup(
        "Not judged: the machine's fault, or ours" if error else one_line(failure_classes.words(group.sort), 120),
        error,
        opened,
        group.runs,
        Markup(render.as_html(_printable(example.failure), printable(example.replay))),  # as_html escapes
        pictures.get((submission.slug, example.trace), ""),
        places,
    )


def _place(test: TestResult, network: NetworkResult, seeds: list[int], seeds_are_secret: bool) -> str:
    if network.hidden and seeds_are_secret:
        where = "hidden seeds"
    else:
        where = f"{'hidden' if network.hidden else network.network} seeds {spans(seeds)}"
    return f"{one_line(test.lab)} {one_line(test.name)} ({where}{', forgiven' if passed(test) else ''})"


def _printable(failure: Failure) -> Failure:
    """Spell out characters that HTML's escapes leave alone, such as marks that reverse the direction of text."""
    return Failure(
        failure.kind,
        printable(failure.text),
        failure.rule,
        printable(failure.where),
        printable(failure.hint),
        [printable(line) for line in failure.events],
        printable(failure.detail),
        failure.causes,
        failure.read,
    )
