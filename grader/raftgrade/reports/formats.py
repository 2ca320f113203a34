"""Make a report in the formats that terminals, course systems and continuous integration read.

Each format is a module, and a pure function of the report. Each cleans or escapes the text that a student may have chosen,
as its format requires.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from raftgrade.reports import github, gradebook, gradescope, html, junit, table
from raftgrade.reports.student_view import NoSuchStudent, only
from raftgrade.results import Report


class CannotReport(Exception):
    """The report cannot be made in that format. The message says why, and what to do about it."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """The options of `raftgrade report`.

    Attributes:
        format: one of :data:`raftgrade.options.FORMATS`.
        folder: the report's.
        output: the file for the text; ``None``: the terminal.
        template: the text of a gradebook to fill in.
        column: the gradebook's column for the points.
        student: the only submission to report, by name or slug.
    """

    format: str
    folder: Path
    output: Path | None = None
    template: str | None = None
    column: str | None = None
    student: str | None = None


def make(report: Report, options: ReportOptions) -> tuple[str, list[str]]:
    """The text of the report, and notes for the terminal. Raises :class:`CannotReport` and ``OSError``."""
    if options.student is not None:
        try:
            report = only(report, options.student)
        except NoSuchStudent as exc:
            raise CannotReport(str(exc)) from None
    for option, value, formats in (
        ("--template", options.template, ("canvas", "moodle")),
        ("--column", options.column, ("canvas", "moodle")),
    ):
        if value is not None and options.format not in formats:
            raise CannotReport(f"{option} goes with --format {' or '.join(formats)}")
    return _make(report, options)


def _make(report: Report, options: ReportOptions) -> tuple[str, list[str]]:
    match options.format:
        case "table":
            return table.render(report) + "\n", []
        case "json":
            return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n", []
        case "csv":
            return gradebook.plain(report), _sandbox_note(report)
        case "junit":
            return junit.render(report), []
        case "github":
            return github.render(report, to_file=options.output is not None)
        case "gradescope":
            try:
                return gradescope.render(report, for_student=options.student is None), []
            except gradescope.NoMark as exc:
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
            return text, [*notes, *_sandbox_note(report)]
        case "html":
            pictures = html.pictures(report, options.folder, options.output)
            return html.render(report, pictures, alone=options.student is not None), []
    raise CannotReport(f"there is no format {options.format!r}")


def _sandbox_note(report: Report) -> list[str]:
    # A gradebook has no place for this, so it goes to the terminal.
    return [] if report.settings.sandbox is None else [table.sandbox_line(report.settings.sandbox)]
