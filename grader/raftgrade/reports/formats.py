"""The print shop: a report in the formats that terminals, course systems and continuous integration read.

Each format is a module of its own and a pure function of the report. Text that a student may have chosen is cleaned or
escaped in each of them, in the way of that format.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from raftgrade.reports import github, gradebook, gradescope, html, junit, table
from raftgrade.reports.student_view import NoSuchStudent, only
from raftgrade.results import Report


class CannotReport(Exception):
    """The report cannot be made in that format. The message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class ReportOptions:
    """What was asked for: the format; the report's folder; where the text goes (``None``: the terminal); the text of a
    gradebook to fill in, and its column; the one submission to tell of."""

    format: str
    folder: Path
    output: Path | None = None
    template: str | None = None
    column: str | None = None
    student: str | None = None


def make(report: Report, wanted: ReportOptions) -> tuple[str, list[str]]:
    """The text of the report, and sentences for whoever asked. Raises :class:`CannotReport` and ``OSError``."""
    if wanted.student is not None:
        try:
            report = only(report, wanted.student)
        except NoSuchStudent as exc:
            raise CannotReport(str(exc)) from None
    for option, value, formats in (
        ("--template", wanted.template, ("canvas", "moodle")),
        ("--column", wanted.column, ("canvas", "moodle")),
    ):
        if value is not None and wanted.format not in formats:
            raise CannotReport(f"{option} goes with --format {' or '.join(formats)}")
    return _make(report, wanted)


def _make(report: Report, wanted: ReportOptions) -> tuple[str, list[str]]:
    match wanted.format:
        case "table":
            return table.render(report) + "\n", []
        case "json":
            return msgspec.json.format(msgspec.json.encode(report), indent=1).decode() + "\n", []
        case "csv":
            return gradebook.plain(report), _sandbox_note(report)
        case "junit":
            return junit.render(report), []
        case "github":
            return github.render(report, to_file=wanted.output is not None)
        case "gradescope":
            try:
                return gradescope.render(report, for_student=wanted.student is None), []
            except gradescope.NoMark as exc:
                raise CannotReport(str(exc)) from None
        case "canvas" | "moodle":
            if wanted.template is None:
                raise CannotReport(
                    f"--format {wanted.format} fills in a gradebook: export it from {wanted.format.title()} and name "
                    "it with --template FILE"
                )
            try:
                text, notes = gradebook.fill(report, wanted.template, wanted.format, wanted.column)
            except gradebook.BadTemplate as exc:
                raise CannotReport(str(exc)) from None
            return text, [*notes, *_sandbox_note(report)]
        case "html":
            pictures = html.pictures(report, wanted.folder, wanted.output)
            return html.render(report, pictures, alone=wanted.student is not None), []
    raise CannotReport(f"there is no format {wanted.format!r}")


def _sandbox_note(report: Report) -> list[str]:
    # A gradebook has no place for this, so it goes to the terminal.
    return [] if report.settings.sandbox is None else [table.sandbox_line(report.settings.sandbox)]
