"""The report as text for a terminal of 100 columns. Text from submissions is cleaned."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import tabulate

from raftgrade.plan import LeftOut, Settings
from raftgrade.reports import same_code
from raftgrade.results import UNTESTED, BadRun, NetworkResult, Problem, Report, SubmissionResult, TestResult, passed
from raftlab.safe_text import count, duration, number, one_line, printable, spans
from raftlab.sandbox.levels import Sandbox

WIDTH = 100  # columns
MAX_ALIKE = 3  # how many failures of one lab with the same rule or kind are shown in full
_STATES = {"absent": "nothing handed in"}  # the overview's words for states whose names are not clear enough
_NOT_JUDGED = "Not judged (the machine's fault or ours: no mark is lost)"
_MIN_NAME_WIDTH = 20  # columns. A test's title is much longer than its name, so only the failures show titles


def render(
    report: Report, whole: Callable[[SubmissionResult], SubmissionResult] = lambda submission: submission
) -> str:
    """The whole report: for each submission, a table for each lab and its failures; then a summary. ``whole`` returns a
    submission with the details that were spilled to disk."""
    blocks = [_wrapped(f"NOT VERIFIED: {report.unverified}")] if report.unverified else []
    for submission in report.submissions:
        blocks += _submission(report, whole(submission))
    if report.left_out:
        blocks.append("\n".join(_left_out(item) for item in report.left_out))
    if len(report.submissions) > 1:
        blocks.append(_overview(report))
    if report.same_code:
        blocks.append("\n".join([same_code.HEADING, *(_wrapped(f"  {line}") for line in same_code.lines(report))]))
    if not report.complete:
        blocks.append(f"not complete: {report.done} of {count(report.planned, 'run')} have finished")
    if report.settings.sandbox is not None:
        blocks.append(_wrapped(confinement(report.settings)))
    blocks.append(last_line(report))
    return "\n\n".join(blocks)


def confinement(settings: Settings) -> str:
    """The sandbox in which student code ran, for people who decide on marks; empty if it is not known.

    In the simulator, servers can share memory behind the judge's back. Only the real network shows that they do."""
    if settings.sandbox is None:
        return ""
    line = sandbox_line(settings.sandbox)
    if "rpyc" in settings.networks or settings.sandbox.level == "none":
        return line
    return f"{line}. It ran in the simulator only, where servers can share memory instead of sending messages"


def sandbox_line(sandbox: Sandbox) -> str:
    """The sandbox in which student code ran."""
    text = {
        "bwrap": "student code ran in a sandbox (bwrap)",
        "rlimits": "student code ran with limits, but could read this machine's files (rlimits)",
        "none": "student code ran without a sandbox (none)",
    }[sandbox.level]
    return f"{text}: {one_line(sandbox.reason, 400)}" if sandbox.reason else text


def last_line(report: Report) -> str:
    """``points 75/75 · 1 of 1 submissions clean · 412 runs · 38 s``"""
    points = sum(submission.points for submission in report.submissions)
    most = sum(submission.max_points for submission in report.handed_in)
    clean = sum(submission.clean for submission in report.submissions)
    absent = len(report.submissions) - len(report.handed_in)
    return " · ".join(
        [
            f"points {number(points)}/{number(most)}",
            f"{clean} of {len(report.handed_in)} submissions clean",
            *([f"{count(absent, 'student')} without a submission"] if absent else []),
            count(report.done, "run"),
            duration(report.seconds),
        ]
    )


def _submission(report: Report, submission: SubmissionResult) -> list[str]:
    name = printable(submission.name)
    heading = f"== {name} ({printable(submission.path)})"
    if submission.state == "absent":
        return [f"== {name}: nothing was handed in", *_by_hand(submission)]
    if submission.state in UNTESTED:
        verdict = "refused, no test was run" if submission.state == "refused" else "could not be judged"
        problems = "\n".join(_problem(problem) for problem in submission.problems)
        return [f"{heading}: {verdict}", problems, *_by_hand(submission)]
    if submission.state == "waiting":
        return [f"{heading}: not run"]
    blocks = [heading]
    for lab in report.settings.labs:
        tests = [test for test in submission.tests if test.lab == lab]
        if tests and all(test.state == "skipped" for test in tests):
            blocks.append(_wrapped(f"Lab {lab}: {one_line(tests[0].notes[0])}"))
        elif tests:
            blocks.append(_table(lab, report.settings.whose_raft(lab), tests, _columns(report)))
    if submission.penalty:
        late = f"late by {number(submission.late_days)} days: {number(submission.penalty)} points less"
        left = submission.points if not submission.manual else submission.earned - submission.penalty
        blocks.append(f"{late}, {number(left)} of {number(submission.max_points)} are left")
    blocks += _by_hand(submission)
    notes = [
        _wrapped(f"  {test.lab} {test.name}: {one_line(note)}")
        for test in submission.tests
        if test.state != "skipped"
        for note in test.notes
    ]
    if notes:
        blocks.append("\n".join(["Notes", *notes]))
    failures = _failures(submission.tests)
    if failures:
        blocks.append("\n".join(["Failures", *failures]))
    errors = list(_errors(submission))
    if errors:
        blocks.append("\n".join([_NOT_JUDGED, *errors]))
    advice = [f"  {test.lab} {test.name}: {one_line(line)}" for test in submission.tests for line in test.advice]
    if advice:
        blocks.append("\n".join(["Advice (costs no points)", *map(_wrapped, advice)]))
    return blocks


def _by_hand(submission: SubmissionResult) -> list[str]:
    """What a person has decided about the whole submission."""
    lines = []
    for mark in submission.manual:
        if not mark.test:
            sign = "+" if mark.change and (mark.points or 0) >= 0 else ""
            points = "" if mark.points is None else f"{sign}{number(mark.points)} points"
            lines.append(_wrapped(f"By hand: {': '.join(filter(None, (points, one_line(mark.comment, 600))))}"))
    return ["\n".join(lines)] if lines else []


def _columns(report: Report) -> list[str]:
    """The networks, and ``hidden`` after sim if there are hidden runs."""
    names = list(report.settings.networks)
    if report.settings.hidden is not None:
        names.insert(names.index("sim") + 1, "hidden")
    return names


def _table(lab: str, whose_raft: str, tests: list[TestResult], networks: list[str]) -> str:
    timed = "sim" if "sim" in networks else networks[0]
    headers = ["test", "points", *networks, "p50 s", "p95 s", "RPCs"]
    rows = [_row(test, networks, timed) for test in tests]
    padding = tabulate.MIN_PADDING  # tabulate makes each heading wider by this; two spaces separate columns
    others = sum(
        2 + max(len(heading) + padding, *(len(row[column]) for row in rows))
        for column, heading in enumerate(headers)
        if column
    )
    for row in rows:
        row[0] = _broken(row[0], max(_MIN_NAME_WIDTH, WIDTH - others))
    heading = f"Lab {lab}{f' {whose_raft}' if whose_raft else ''} (seconds and RPCs of the runs that passed in {timed})"
    return (
        heading
        + "\n"
        + _tabulate(rows, headers, ["left", "right", *["left"] * len(networks), "right", "right", "right"])
    )


def _row(test: TestResult, networks: list[str], timed: str) -> list[str]:
    results = {"hidden" if result.hidden else result.network: result for result in test.networks}
    passes = [_passes(results[name]) if name in results else "–" for name in networks]
    shown = results.get(timed) or test.networks[0]
    times = ["–", "–"]
    if shown.lab_s is not None:
        times = [f"{shown.lab_s.p50:.2f}", f"{shown.lab_s.p95:.2f}"]
    rpcs = "–" if shown.rpcs is None else f"{shown.rpcs.p50:.0f}"
    return [one_line(test.name), f"{number(test.points)}/{number(test.max_points)}", *passes, *times, rpcs]


def _broken(name: str, width: int) -> str:
    """``name``, broken between words into several lines if it is longer than ``width``."""
    lines = textwrap.wrap(name.replace("_", "_ "), width) if len(name) > width else [name]
    return "\n".join(line.replace("_ ", "_") for line in lines)


def _caveat(submission: SubmissionResult) -> str:
    return f" ({number(submission.open_points)} open)" if submission.open_points else ""


def _passes(result: NetworkResult) -> str:
    """``18/20 [.68–.99]``: passes of judged runs and their interval; ``?2``: 2 more could not be judged; ``↻1``: 1 was
    judged in a second attempt; ``…3``: 3 are missing."""
    judged = result.passes + result.failures
    low, high = (_share(bound) for bound in result.interval)
    text = f"{result.passes}/{judged} [{low}–{high}]" if judged else "0/0"
    if result.errors:
        text += f" ?{result.errors}"
    if result.retried:
        text += f" ↻{result.retried}"
    if result.verdict:
        text = f"{text} {result.verdict}"
    if result.done < result.runs:
        text += f" …{result.runs - result.done}"
    return text


def _share(value: float) -> str:
    if value in (0.0, 1.0):
        return f"{value:.0f}"
    # Never round up to 1 or down to 0.
    return f"{min(max(value, 0.01), 0.99):.2f}".lstrip("0")


def _failures(tests: list[TestResult]) -> list[str]:
    """The failed runs of all tests. If many tests of a lab fail in the same way (for example because the lab has not been
    begun), only the first ones are shown in full. For each of the others, only the name of one failed run is shown."""
    lines: list[str] = []
    shown: Counter[tuple[str, str]] = Counter()
    more: dict[tuple[str, str], list[str]] = {}
    for test in tests:
        for first, network, words in _failures_of(test):
            alike = (test.lab, first.failure.rule.name if first.failure.rule else first.failure.kind)
            shown[alike] += 1
            if shown[alike] <= MAX_ALIKE:
                lines += words
            else:
                more.setdefault(alike, []).append(f"{one_line(test.name)}@{first.seed}{network}")
    for (lab, what), names in more.items():
        lines.append(_wrapped(f"  {lab}: {count(len(names), 'more failure')} like these ({what}): {', '.join(names)}"))
    return lines


def _failures_of(test: TestResult) -> Iterator[tuple[BadRun, str, list[str]]]:
    """The failed runs of a test, grouped by kind of failure and rule: the first run of each group, its network (empty for
    sim), and the lines about the group."""
    for result in test.networks:
        groups: dict[tuple[str, str], list[BadRun]] = {}
        for bad in result.bad:
            if bad.outcome == "failed":
                rule = bad.failure.rule.name if bad.failure.rule else ""
                groups.setdefault((bad.failure.kind, rule), []).append(bad)
        for group in groups.values():
            seeds = [bad.seed for bad in group]
            title = f"{test.lab} {test.name} ({one_line(test.title)})"
            where = "hidden" if result.hidden else result.network
            share = f"({len(seeds)} of {count(result.runs, 'run')})"
            lines = [_wrapped(f"  {title} · {where} · {_seeds(seeds)} {share}"), *_words(group[0])]
            yield group[0], "" if result.network == "sim" else f" ({result.network})", lines


def _errors(submission: SubmissionResult) -> Iterator[str]:
    """The runs that could not be judged, grouped by reason, because the reason seldom depends on the test."""
    groups: dict[str, list[tuple[str, BadRun]]] = {}
    for test in submission.tests:
        for result in test.networks:
            for bad in result.bad:
                if bad.outcome == "error":
                    place = f"{test.lab} {test.name} · {result.network}"
                    groups.setdefault(one_line(bad.failure.text, 600), []).append((place, bad))
    for group in groups.values():
        first = group[0][0]
        seeds = [bad.seed for place, bad in group if place == first]
        others = len(group) - len(seeds)
        more = f" and {count(others, 'other run')}" if others else ""
        yield _wrapped(f"  {first} · {_seeds(seeds)}{more}")
        yield from _words(group[0][1])


def _words(bad: BadRun) -> Iterator[str]:
    failure = bad.failure
    yield _wrapped(f"    {one_line(failure.text, 600)}")
    if failure.where:
        yield f"    at {one_line(failure.where)}"
    if failure.rule is not None:
        yield _wrapped(f"    rule: {one_line(failure.rule.name)} ({one_line(failure.rule.section)})")
    if bad.outcome == "error" and failure.hint:
        yield _wrapped(f"    {one_line(failure.hint)}")
    if bad.replay:
        # Not wrapped, so that it can be copied.
        yield f"    replay: {one_line(bad.replay, 1000)}"


def _seeds(seeds: list[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {spans(seeds)}"


def _problem(problem: Problem) -> str:
    lines = [_wrapped(f"  {one_line(problem.text, 600)}")]
    if problem.where:
        lines.append(f"    at {one_line(problem.where, 1000)}")
    if problem.handout:
        lines.append(f"    read: {one_line(problem.handout)}")
    return "\n".join(lines)


def _left_out(item: LeftOut) -> str:
    return f"not run: {item.lab} {item.name} ({' and '.join(item.networks)} only)"


def _overview(report: Report) -> str:
    rows = [
        [
            one_line(submission.name, 40),
            "–"
            if submission.state == "absent" and not submission.final
            else f"{number(submission.points)}/{number(submission.max_points)}" + _caveat(submission),
            "clean" if submission.clean else _STATES.get(submission.state, submission.state),
            _red(submission),
        ]
        for submission in report.submissions
    ]
    headers = ["submission", "points", "state", "tests not passed"]
    return _tabulate(rows, headers, ["left", "right", "left", "left"])


def _tabulate(rows: list[list[str]], headers: list[str], align: list[str]) -> str:
    # Numbers are formatted already. Without disable_numparse, tabulate would format a name such as "007" as a number.
    text = tabulate.tabulate(rows, headers=headers, tablefmt="simple", disable_numparse=True, colalign=align)
    return str(text)


def _red(submission: SubmissionResult) -> str:
    if submission.state not in ("graded", "running"):
        return "–"
    names = [f"{test.lab} {test.name}" for test in submission.tests if not passed(test)]
    shown = names[:2] + ([f"and {len(names) - 2} more"] if len(names) > 2 else [])
    return "\n".join(textwrap.wrap(", ".join(shown), 50)) or "–"


def _wrapped(line: str) -> str:
    indent = " " * (len(line) - len(line.lstrip()))
    return "\n".join(_fill(line, indent))


def _fill(line: str, indent: str) -> Iterable[str]:
    return textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
