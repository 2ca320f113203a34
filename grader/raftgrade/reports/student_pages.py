"""A student's own page: the mark, each test, and each way to fail once, with what it means and how to see it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape

from raftgrade import failure_classes
from raftgrade.reports.charts import attr, cell, clean_tests
from raftgrade.results import Bad, NetworkResult, Report, SubmissionResult, TestResult, passed
from raftlab.explain import render
from raftlab.explain.failure import Failure
from raftlab.safe_text import count, number, one_line, printable, spans

Pictures = dict[tuple[str, str], str]  # slug, trace → link
OPEN = 3  # ways to fail that are told without a click
MOST_TESTS = 6  # that one way to fail names before it only counts


@dataclass
class Group:
    """The runs of a submission that failed in one way. ``first`` tells it all."""

    sort: str
    first: Bad
    runs: int = 0
    places: list[tuple[TestResult, NetworkResult, list[int]]] = field(default_factory=list)


def groups(submission: SubmissionResult) -> list[Group]:
    """The ways in which runs failed, the most common first."""
    found: dict[str, Group] = {}
    for test in submission.tests:
        for network in test.networks:
            for sort in network.classes:
                same = [bad for bad in network.bad if bad.sort == sort]
                first = next((bad for bad in same if bad.trace and not network.hidden), same[0])
                group = found.setdefault(sort, Group(sort, first))
                if first.trace and not group.first.trace:
                    group.first = first
                group.runs += len(same)
                group.places.append((test, network, [bad.seed for bad in same]))
    return sorted(found.values(), key=lambda group: (group.first.outcome == "error", -group.runs, group.sort))


def student(report: Report, submission: SubmissionResult, found: Pictures, alone: bool = False) -> list[str]:
    """The page of one submission, as a part of the class's (or ``alone``)."""
    back = "" if alone else '<a class="back" href="#class">← class</a>'
    points = f"{number(submission.points)} <small>of {number(submission.max_points)} points</small>"
    lines = [
        f'<main class="student{" alone" if alone else ""}" id="s-{attr(submission.slug)}">',
        f"<header>{back}<h1>{attr(submission.name, 100)}</h1><p class='mark'>{points}</p></header>",
        *(f'<p class="notice">{line}</p>' for line in _notices(submission)),
    ]
    if submission.state in ("refused", "unjudged"):
        lines += [_problem(problem.text, problem.where, problem.handout) for problem in submission.problems]
        return [*lines, "</main>"]
    lines += ['<div class="page">', "<div>"]
    lines += [line for lab in report.settings.labs for line in _lab(submission, lab)]
    lines += ["</div>", "<div>"]
    told = groups(submission)
    if told:
        lines.append("<h2>What went wrong</h2>")
        lines += [
            line for place, group in enumerate(told) for line in _group(report, submission, group, found, place < OPEN)
        ]
    elif submission.state == "graded":
        lines.append("<h2>Nothing went wrong</h2><p>Every run that could be judged has passed.</p>")
    advice = [(test, line) for test in submission.tests for line in test.advice]
    if advice:
        items = "".join(f"<li><b>{attr(test.name)}</b>: {attr(line)}</li>" for test, line in advice)
        lines += ["<h2>Advice <small>costs no points</small></h2>", f"<ul>{items}</ul>"]
    return [*lines, "</div>", "</div>", "</main>"]


def _notices(submission: SubmissionResult) -> list[str]:
    said = []
    if submission.state == "refused":
        said.append("Refused: the submission cannot be tested, so no test was run.")
    if submission.state == "unjudged":
        said.append("Could not be judged: the check itself broke. This is not the student's fault and costs nothing.")
    if submission.state in ("waiting", "running"):
        said.append("Not complete: runs are still to come.")
    if submission.open_points and submission.state != "unjudged":
        said.append(f"{number(submission.open_points)} points are open: runs could not be judged. Nothing is lost yet.")
    if submission.penalty:
        late = number(submission.late_days)
        said.append(f"Late by {late} days: {number(submission.penalty)} points less.")
    return said


def _problem(text: str, where: str, handout: str) -> str:
    lines = [f"<p><strong>{attr(text, 600)}</strong></p>"]
    lines += [f"<p>at {attr(where)}</p>"] if where else []
    lines += [f"<p>read: {attr(handout)}</p>"] if handout else []
    return f'<div class="failure">{"".join(lines)}</div>'


def _lab(submission: SubmissionResult, lab: str) -> list[str]:
    tests = [test for test in submission.tests if test.lab == lab]
    if not tests:
        return []
    points = f"{number(sum(t.points for t in tests))} of {number(sum(t.max_points for t in tests))} points"
    heading = f"<h2>Lab {escape(lab)} <small>{points}, {clean_tests(tests)} of {len(tests)} tests passed</small></h2>"
    if all(test.state == "skipped" for test in tests):
        return [heading, f'<p class="soft">{attr("; ".join(tests[0].notes))}</p>']
    return [heading, '<table class="tests">', *(_test(submission, test) for test in tests), "</table>"]


def _test(submission: SubmissionResult, test: TestResult) -> str:
    tone, _, sign = cell(submission, test)
    runs = "<br>".join(_runs(network) for network in test.networks)
    shown = test.networks[0]
    time = f"{shown.lab_s.p50:.1f} s" if shown.lab_s is not None else ""
    notes = "".join(f'<br><span class="warn">{attr(note)}</span>' for note in test.notes)
    # What a test is about matters where it is red; elsewhere it waits under the mouse.
    name = f'<span title="{attr(test.title)}">{attr(test.name)}</span>'
    if not passed(test):
        name = f'<b>{attr(test.name)}</b><br><span class="soft">{attr(test.title)}</span>'
    return (
        f'<tr><td class="{tone} sign">{sign}</td><td>{name}{notes}</td><td class="runs">{runs}</td>'
        f'<td title="median of virtual time">{time}</td>'
        f"<td>{number(test.points)}/{number(test.max_points)}</td></tr>"
    )


def _runs(network: NetworkResult) -> str:
    judged = network.passes + network.failures
    low, high = network.interval
    name = f"{network.network}{' hidden' if network.hidden else ''}"
    title = f"95 % sure that between {low:.1%} and {high:.1%} of such runs pass" if judged else "no run judged"
    extra = f" <b>{network.verdict}</b>" if network.verdict else ""
    extra += f' <span class="warn">?{network.errors}</span>' if network.errors else ""
    extra += f' <span class="soft">({network.retried} tried again)</span>' if network.retried else ""
    return f'<span title="{title}">{network.passes}/{judged} {name}</span>{extra}'


def _group(report: Report, submission: SubmissionResult, group: Group, found: Pictures, opened: bool) -> list[str]:
    secret = report.settings.hidden is None
    tests = [_place(*place, secret) for place in group.places[:MOST_TESTS]]
    if len(group.places) > MOST_TESTS:
        tests.append(f"and {count(len(group.places) - MOST_TESTS, 'more test')}")
    first = group.first
    error = first.outcome == "error"
    title = "Not judged: the machine's fault, or ours" if error else one_line(failure_classes.words(group.sort), 120)
    link = found.get((submission.slug, first.trace))
    picture = f'<p><a class="picture" href="{escape(link, quote=True)}">picture of the run ↗</a></p>' if link else ""
    return [
        f'<details class="group{" error" if error else ""}"{" open" if opened else ""}>',
        f"<summary><b>{attr(title)}</b> <small>{count(group.runs, 'run')}</small></summary>",
        render.as_html(_printable(first.failure), printable(first.replay)),
        picture,
        f'<p class="soft">in {"; ".join(tests)}</p>',
        "</details>",
    ]


def _place(test: TestResult, network: NetworkResult, seeds: list[int], secret: bool) -> str:
    where = (
        "hidden seeds"
        if network.hidden and secret
        else f"{'hidden' if network.hidden else network.network} seeds {spans(seeds)}"
    )
    return f"{attr(test.lab)} {attr(test.name)} ({escape(where)}{'' if not passed(test) else ', forgiven'})"


def _printable(failure: Failure) -> Failure:
    """Escapes are not enough for marks that turn text around: they are spelled out."""
    return Failure(
        failure.kind,
        printable(failure.text),
        failure.rule,
        printable(failure.where),
        printable(failure.hint),
        [printable(line) for line in failure.events],
        printable(failure.detail),
    )
