"""Make a report for the terminal, or in a format that course systems or continuous integration read.

Each format has a module with a pure function that turns the report into text. The function cleans or escapes text that a
student may have chosen, as the format requires.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from raftgrade.reports import autolab, feedback, github, gradebook, gradescope, html, junit, prairielearn, table
from raftgrade.reports.student_text import NoMark
from raftgrade.reports.student_view import NoSuchStudent, only
from raftgrade.results import Report


class CannotReport(Exception):
    """The report cannot be made in that format. The message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The options of `raftgrade report`.

    Attributes:
        format: one of :data:`raftgrade.options.FORMATS`.
        folder: the report's folder.
        output: the file for the text; ``None``: the terminal.
        template: the text of a gradebook to fill in.
        column: the gradebook's column for the points.
        student: the only submission to report, by any name or id.
        visibility: when Gradescope shows the result.
        anonymous: whether the report has codes instead of names.
    """

    format: str
    folder: Path
    output: Path | None = None
    template: str | None = None
    column: str | None = None
    student: str | None = None
    visibility: str | None = None
    anonymous: bool = False


def make(report: Report, options: ReportOptions) -> tuple[str, list[str]]:
    """The text of the report, and notes for the terminal. For the format ``feedback``, the files are written here, and the
    text is empty. Raises :class:`CannotReport` and ``OSError``."""
    if options.student is not None:
        try:
            report = only(report, options.student)
        except NoSuchStudent as exc:
            raise CannotReport(str(exc)) from None
    if options.format == "feedback" and options.output is None:
        raise CannotReport("--format feedback writes many files: name a folder, or a .zip file, with -o")
    for option, value, formats in (
        ("--template", options.template, ("canvas", "moodle")),
        ("--column", options.column, ("canvas", "moodle")),
        ("--visibility", options.visibility, ("gradescope",)),
    ):
        if value is not None and options.format not in formats:
            raise CannotReport(f"{option} goes with --format {' or '.join(formats)}")
    if options.anonymous and options.format in ("canvas", "moodle", "feedback"):
        raise CannotReport(f"--format {options.format} needs to know who is who: leave out --anonymous")
    return _make(report, options)


def _make(report: Report, options: ReportOptions) -> tuple[str, list[str]]:
    match options.format:
        case "table":
            return table.render(report) + "\n", []
        case "json":
            return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n", []
        case "csv":
            return gradebook.plain(report), _conditions(report)
        case "csv-tests":
            return gradebook.per_test(report), _conditions(report)
        case "junit":
            return junit.render(report), []
        case "github":
            return github.render(report, options.folder, to_file=options.output is not None)
        case "gradescope" | "prairielearn" | "autolab":
            try:
                return _for_one(report, options), []
            except NoMark as exc:
                raise CannotReport(str(exc)) from None
        case "canvas" | "moodle":
            if options.template is None:
                raise CannotReport(
                    f"--format {options.format} fills in a gradebook: export it from {options.format.title()} and name "
                    "it with --template FILE"
                )
            try:
                text, notes = gradebook.fill(report, options.template, options.format, options.column)
            except gradebook.BadTemplate as exc:
                raise CannotReport(str(exc)) from None
            return text, [*notes, *_conditions(report)]
        case "feedback":
            assert options.output is not None
            return "", feedback.write(report, options.folder, options.output)
        case "html":
            # An anonymous report has no pictures: the folders of the traces are named after students.
            pictures = {} if options.anonymous else html.pictures(report, options.folder, options.output)
            return html.render(report, pictures, alone=options.student is not None), []
    raise CannotReport(f"there is no format {options.format!r}")


def _for_one(report: Report, options: ReportOptions) -> str:
    """The results of one submission for a platform that shows them. Raises :class:`NoMark`."""
    match options.format:
        case "gradescope":
            return gradescope.render(report, options.student is None, options.visibility or "visible")
        case "prairielearn":
            return prairielearn.render(report)
    return autolab.render(report)


def _conditions(report: Report) -> list[str]:
    # A gradebook has no place for these lines, so they go to the terminal.
    settings = report.settings
    lines = [settings.raft_line] if settings.raft_line else []
    return lines if settings.sandbox is None else [*lines, table.confinement(settings)]
