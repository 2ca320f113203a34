"""GitHub Actions: annotations at the lines of the student's file, and a step summary in Markdown."""

from __future__ import annotations

import html
import os
import re
from pathlib import Path

from raftgrade.reports import table
from raftgrade.reports.student_view import local
from raftgrade.results import UNTESTED, BadRun, Report, SubmissionResult, TestResult, passed
from raftlab import labs
from raftlab.safe_text import duration, number, one_line, spans

MAX_ERRORS = 10  # GitHub shows no more annotations of one step
MAX_BYTES = 1024 * 1024 - 4096  # the size of a step's summary; GitHub allows 1 MiB
_MARKS = re.compile(r"[\\`*_{}\[\]()#+\-.!|~>@:$]")


def render(report: Report, folder: Path | None = None, to_file: bool = False) -> tuple[str, list[str]]:
    """The text for the step's output.

    Args:
        report: the report. The output's replay commands contain no paths of this machine, because students run them
            elsewhere.
        folder: the report's folder, which has copies of the submissions.
        to_file: make the summary a part of the text in any case. Otherwise, if ``$GITHUB_STEP_SUMMARY`` is set, the summary
            goes to the file that this variable names.

    Raises:
        OSError: the summary cannot be written.
    """
    summary_file = os.environ.get("GITHUB_STEP_SUMMARY")
    text = summary(report)
    if summary_file and not to_file:
        with Path(summary_file).open("a", encoding="utf-8") as output:
            output.write(text)
        return "".join(commands(report, folder)), []
    return (text if to_file else "".join(commands(report, folder)) + text), []


def commands(report: Report, folder: Path | None = None) -> list[str]:
    """An annotation for each failed test, at the line where the student's code failed. If no line is known, because the
    failure showed only in messages, the annotation is at the class."""
    lines = []
    for submission in report.submissions:
        places = _Places(submission, folder)
        for problem in submission.problems if submission.state != "absent" else []:
            level = "error" if submission.state == "refused" else "warning"
            lines.append(
                _command(level, places.of(problem.where, ""), f"{submission.name}: {submission.state}", problem.text)
            )
        for test in submission.tests:
            bad = _first(test)
            if bad is not None and not passed(test):
                rule = f" ({bad.failure.rule.name})" if bad.failure.rule is not None else ""
                replay = local(bad.replay, report.settings.raft)
                text = f"{bad.failure.text}{rule}" + (f"\nreplay: {replay}" if replay else "")
                where = places.of(bad.failure.where, test.lab)
                lines.append(_command("error", where, f"{test.lab} {test.name}", text))
    return lines[:MAX_ERRORS]


class _Places:
    """Where the lines of a submission are in the repository that GitHub shows.

    Args:
        submission: the submission. Its path need not be below the folder in which the command runs.
        folder: the report's folder.
    """

    def __init__(self, submission: SubmissionResult, folder: Path | None) -> None:
        path = Path(submission.path)
        root = Path(os.environ.get("GITHUB_WORKSPACE", "."))
        if "://" in submission.path or not path.exists():
            self._start = ""
        else:
            inside = os.path.relpath(path if path.is_dir() else path.parent, root)
            self._start = "" if inside == "." or inside.startswith("..") else f"{Path(inside).as_posix()}/"
        self._copy = None if folder is None else folder / "submissions" / submission.slug
        self._classes: dict[str, str] = {}

    def of(self, where: str, lab: str) -> str:
        """``file:line`` for a place in the submission. If there is none, the place of the class that ``lab`` tests."""
        if where.rpartition(":")[2].isdigit():
            return self._start + where
        name, kind = ("kv.py", "KVServer") if lab and labs.LABS[lab].has("service") else ("raft.py", "Raft")
        if name not in self._classes:
            self._classes[name] = f"{name}:{self._line(name, kind)}"
        return self._start + self._classes[name]

    def _line(self, name: str, kind: str) -> int:
        try:
            text = (self._copy / name).read_text(encoding="utf-8") if self._copy is not None else ""
        except (OSError, UnicodeDecodeError):
            return 1
        found = re.search(rf"^class {kind}\b", text, re.M)
        return text.count("\n", 0, found.start()) + 1 if found else 1


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
    most = sum(submission.max_points for submission in report.handed_in)
    blocks.append(f"**{number(points)} of {number(most)} points**, {report.done} runs, {duration(report.seconds)}\n")
    if report.unverified:
        blocks.append(f"**Not verified**: {text(report.unverified)}.\n")
    if not report.complete:
        blocks.append(f"**Not complete**: {report.done} of {report.planned} runs have finished.\n")
    if report.settings.sandbox is not None:
        blocks.append(f"{text(table.confinement(report.settings))}\n")
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
    title += "".join(f"\n{text(comment)}\n" for comment in submission.comments)
    if submission.state == "absent":
        title = f"### {text(submission.name)}: no mark\n" if not submission.final else title
        return title + "\nNothing was handed in.\n"
    if submission.state in UNTESTED:
        verdict = "Refused, no test was run" if submission.state == "refused" else "Could not be judged"
        return title + f"\n{verdict}: " + " ".join(text(problem.text) for problem in submission.problems) + "\n"
    rows = ["| lab | passed tests | points |", "|---|---|---|"]
    for lab in report.settings.labs:
        tests = [test for test in submission.tests if test.lab == lab]
        if tests:
            good = sum(passed(test) for test in tests)
            earned = f"{number(sum(t.points for t in tests))} of {number(sum(t.max_points for t in tests))}"
            whose_raft = report.settings.whose_raft(lab)
            rows.append(f"| {lab}{f' {text(whose_raft)}' if whose_raft else ''} | {good} of {len(tests)} | {earned} |")
    red = [_row(test, report.settings.raft) for test in submission.tests if not passed(test) or test.notes]
    if red:
        rows += ["", "| test | points | runs that passed | first failure |", "|---|---|---|---|", *red]
    return title + "\n" + "\n".join(rows) + "\n"


def _row(test: TestResult, raft: str) -> str:
    runs = ", ".join(
        f"{each.passes}/{each.passes + each.failures} {each.network}{' hidden' if each.hidden else ''}"
        for each in test.networks
    )
    bad = _first(test)
    first = "; ".join(text(note) for note in test.notes)
    if bad is not None and test.state != "skipped":
        same = [each.seed for n in test.networks if not n.hidden for each in n.bad if each.outcome == "failed"]
        first = f"{text(bad.failure.text)} (seeds {spans(same)})<br><code>{text(local(bad.replay, raft))}</code>"
    return f"| {test.lab} {text(test.name)} | {number(test.points)}/{number(test.max_points)} | {runs} | {first} |"


def text(words: str) -> str:
    """``words`` in a form that Markdown shows unchanged: its special characters become entities."""
    return _MARKS.sub(lambda match: f"&#{ord(match[0])};", html.escape(one_line(words, 400), quote=False))
