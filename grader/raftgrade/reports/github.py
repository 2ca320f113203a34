"""GitHub Actions: annotations at the lines of the student's file, and a step summary in Markdown."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from raftgrade.reports import table
from raftgrade.results import BadRun, Report, SubmissionResult, TestResult, passed
from raftlab.safe_text import duration, number, one_line, spans

MAX_ERRORS = 10  # GitHub shows no more for a step
MAX_BYTES = 1024 * 1024 - 4096  # of a step's summary; GitHub allows 1 MiB
_MARKS = re.compile(r"[\\`*_{}\[\]()#+\-.!|~>@:$]")


def render(report: Report, to_file: bool = False) -> tuple[str, list[str]]:
    """The text for the step's output. The summary goes to the file ``$GITHUB_STEP_SUMMARY``; without it, or with
    ``to_file``, the summary is part of the text. Raises ``OSError``."""
    summary_file = os.environ.get("GITHUB_STEP_SUMMARY")
    text = summary(report)
    if summary_file and not to_file:
        with Path(summary_file).open("a", encoding="utf-8") as output:
            output.write(text)
        return "".join(commands(report)), []
    return (text if to_file else "".join(commands(report)) + text), []


def commands(report: Report) -> list[str]:
    """An annotation for each failed test, at its line of the student's code if that is known."""
    lines = []
    for submission in report.submissions:
        for problem in submission.problems:
            level = "error" if submission.state == "refused" else "warning"
            lines.append(_command(level, problem.where, f"{submission.name}: {submission.state}", problem.text))
        for test in submission.tests:
            bad = _first(test)
            if bad is not None and not passed(test):
                rule = f" ({bad.failure.rule.name})" if bad.failure.rule is not None else ""
                text = f"{bad.failure.text}{rule}" + (f"\nreplay: {bad.replay}" if bad.replay else "")
                lines.append(_command("error", bad.failure.where, f"{test.lab} {test.name}", text))
    return lines[:MAX_ERRORS]


def _first(test: TestResult) -> BadRun | None:
    failures = (
        bad for network in test.networks if not network.hidden for bad in network.bad if bad.outcome == "failed"
    )
    return next(failures, None)


def _command(level: str, where: str, title: str, text: str) -> str:
    file, _, line = where.rpartition(":")
    properties = {"title": one_line(title)}
    if line.isdigit() and file:
        properties = {"file": file, "line": line} | properties
    shown = ",".join(f"{name}={_property(value)}" for name, value in properties.items())
    return f"::{level} {shown}::{_message(text)}\n"


def _message(text: str) -> str:
    cleaned = "\n".join(one_line(line, 1000) for line in text.splitlines())
    return cleaned.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")


def summary(report: Report) -> str:
    """The report in Markdown."""
    blocks = ["## raftgrade\n"]
    points = sum(submission.points for submission in report.submissions)
    most = sum(submission.max_points for submission in report.submissions)
    blocks.append(f"**{number(points)} of {number(most)} points**, {report.done} runs, {duration(report.seconds)}\n")
    if not report.complete:
        blocks.append(f"**Not complete**: {report.done} of {report.planned} runs have finished.\n")
    if report.settings.sandbox is not None:
        blocks.append(f"{text(table.sandbox_line(report.settings.sandbox))}\n")
    size = sum(len(block.encode()) for block in blocks)
    for submission in report.submissions:
        block = _submission(report, submission)
        size += len(block.encode())
        if size > MAX_BYTES:
            blocks.append("\nThe rest does not fit into the summary: see report.json.\n")
            break
        blocks.append(block)
    return "\n".join(blocks)


def _submission(report: Report, submission: SubmissionResult) -> str:
    title = f"### {text(submission.name)}: {number(submission.points)} of {number(submission.max_points)} points\n"
    if submission.state in ("refused", "unjudged"):
        verdict = "Refused, no test was run" if submission.state == "refused" else "Could not be judged"
        return title + f"\n{verdict}: " + " ".join(text(problem.text) for problem in submission.problems) + "\n"
    rows = ["| lab | passed tests | points |", "|---|---|---|"]
    for lab in report.settings.labs:
        tests = [test for test in submission.tests if test.lab == lab]
        if tests:
            good = sum(passed(test) for test in tests)
            earned = f"{number(sum(t.points for t in tests))} of {number(sum(t.max_points for t in tests))}"
            rows.append(f"| {lab} | {good} of {len(tests)} | {earned} |")
    red = [_row(test) for test in submission.tests if not passed(test) or test.notes]
    if red:
        rows += ["", "| test | points | runs that passed | first failure |", "|---|---|---|---|", *red]
    return title + "\n" + "\n".join(rows) + "\n"


def _row(test: TestResult) -> str:
    runs = ", ".join(
        f"{each.passes}/{each.passes + each.failures} {each.network}{' hidden' if each.hidden else ''}"
        for each in test.networks
    )
    bad = _first(test)
    first = "; ".join(text(note) for note in test.notes)
    if bad is not None and test.state != "skipped":
        same = [each.seed for n in test.networks if not n.hidden for each in n.bad if each.outcome == "failed"]
        first = f"{text(bad.failure.text)} (seeds {spans(same)})<br><code>{text(bad.replay)}</code>"
    return f"| {test.lab} {text(test.name)} | {number(test.points)}/{number(test.max_points)} | {runs} | {first} |"


def text(words: str) -> str:
    """``words`` in a form that Markdown shows unchanged: its special characters become entities."""
    return _MARKS.sub(lambda match: f"&#{ord(match[0])};", html.escape(one_line(words, 400)))
