"""Gradebooks: the CSV exported from Canvas or Moodle, with the marks filled in and nothing else changed."""

from __future__ import annotations

import csv
import io
import re

from raftgrade.results import Report, SubmissionResult
from raftlab.safe_text import count, number, one_line, printable

TITLE = "raftlab"  # of the new column, when the gradebook has none for the marks
# The columns in which each system identifies a student, the most reliable first. A submission may be named by any of them.
_ID_COLUMNS = {
    "canvas": ("sis login id", "sis user id", "id", "student"),
    "moodle": ("email address", "username", "id number", "identifier", "full name"),
}
_CANVAS_COLUMN = re.compile(r".+\(\d+\)\s*$")
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?\s*%?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MAX_NAMES = 5  # in a message


class BadTemplate(Exception):
    """The gradebook cannot be filled in. The message says why, and what to do about it."""


def fill(report: Report, template: str, system: str, column: str | None = None) -> tuple[str, list[str]]:
    """Fill in a gradebook.

    Args:
        template: the CSV that the system exports.
        system: ``"canvas"`` or ``"moodle"``.
        column: the title of the column for the marks; it is added if it is missing. By default, the only one that fits.

    Returns:
        The filled-in CSV, and notes about what was left out.

    Raises:
        BadTemplate: the gradebook cannot be filled in.
    """
    rows, delimiter, end = _read(template)
    header = rows[0]
    names = [name.strip().lower() for name in header]
    id_columns = [names.index(name) for name in _ID_COLUMNS[system] if name in names]
    if system == "moodle" and "first name" in names and ("surname" in names or "last name" in names):
        last = names.index("surname") if "surname" in names else names.index("last name")
        pairs: tuple[int, ...] = (names.index("first name"), last)
    else:
        pairs = ()
    if not id_columns:
        expected = ", ".join(_ID_COLUMNS[system])
        raise BadTemplate(
            f"the gradebook has no column that identifies students: expected one of {expected} in its first line"
        )
    place = _column(header, system, column)
    marks = {id(row): submission for row, submission in _match(report, rows[1:], id_columns, pairs)}
    notes = _notes(report, list(marks.values()))
    for row in rows:
        row += [""] * (len(header) - len(row))
    for row in rows[1:]:
        if "points possible" in row[0].strip().lower():
            notes += _possible(report, row, place)
            continue
        submission = marks.get(id(row))
        if submission is not None and submission.final:
            row[place] = number(submission.points)
    text, guarded = io.StringIO(), 0
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    for row in rows:
        safe = [_safe(cell) for cell in row]
        guarded += sum(new != old for new, old in zip(safe, row, strict=True))
        writer.writerow(safe)
    if guarded:
        notes.append(f"{count(guarded, 'cell')} that a spreadsheet would run as a formula got a ' in front")
    return text.getvalue(), notes


def plain(report: Report) -> str:
    """All marks as CSV. Nothing in it depends on when or where the runs were made, so reports can be compared."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labs = report.settings.labs
    writer.writerow(["submission", "state", "points", "max_points", "open_points", "late_days", "penalty", *labs])
    for each in report.submissions:
        by_lab = [number(sum(test.points for test in each.tests if test.lab == lab)) for lab in labs]
        points = number(each.points) if each.final else ""
        most, open_, late, penalty = map(number, (each.max_points, each.open_points, each.late_days, each.penalty))
        row = [printable(each.name), each.state, points, most, open_, late, penalty, *by_lab]
        writer.writerow([_safe(cell) for cell in row])
    return text.getvalue()


def _read(template: str) -> tuple[list[list[str]], str, str]:
    first, _, _ = template.partition("\n")
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(template, newline=""), delimiter=delimiter) if row]
    if not rows:
        raise BadTemplate("the gradebook is empty: expected the CSV that the course system exports")
    return rows, delimiter, "\r\n" if first.endswith("\r") else "\n"


def _column(header: list[str], system: str, column: str | None) -> int:
    """The index of the column for the marks. It is added if it is missing."""
    if column is not None:
        fitting = [place for place, name in enumerate(header) if name.strip().lower() == column.strip().lower()]
        if not fitting and system == "canvas":
            # Canvas puts the assignment's number after its name.
            bare = [re.sub(r"\s*\(\d+\)\s*$", "", name).strip().lower() for name in header]
            fitting = [place for place, name in enumerate(bare) if name == column.strip().lower()]
        if not fitting:
            header.append(column)
            return len(header) - 1
    elif system == "canvas":
        fitting = [place for place, name in enumerate(header) if _CANVAS_COLUMN.fullmatch(name.strip())]
    else:
        fitting = [place for place, name in enumerate(header) if name.strip().lower() == "grade"]
    if len(fitting) > 1:
        shown = ", ".join(one_line(header[place], 60) for place in fitting[:_MAX_NAMES])
        raise BadTemplate(f"the gradebook has {len(fitting)} columns that fit ({shown}): name one with --column")
    if not fitting:
        header.append(TITLE)
        return len(header) - 1
    return fitting[0]


def _match(
    report: Report, rows: list[list[str]], id_columns: list[int], pairs: tuple[int, ...]
) -> list[tuple[list[str], SubmissionResult]]:
    """The rows that exactly one submission matches, with the submission."""
    by_name: dict[str, list[list[str]]] = {}
    for row in rows:
        cells = {row[place].strip().casefold() for place in id_columns if place < len(row)}
        if pairs and max(pairs) < len(row):
            cells.add(" ".join(row[place].strip() for place in pairs).casefold())
        for cell in cells - {""}:
            by_name.setdefault(cell, []).append(row)
    by_row: dict[int, list[tuple[list[str], SubmissionResult]]] = {}
    for submission in report.submissions:
        for name in _called(submission):
            rows_of_that_name = by_name.get(name, [])
            if len(rows_of_that_name) == 1:
                by_row.setdefault(id(rows_of_that_name[0]), []).append((rows_of_that_name[0], submission))
                break
    # If one student has two submissions, only a person can say which one counts.
    return [matches[0] for matches in by_row.values() if len(matches) == 1]


def _called(submission: SubmissionResult) -> list[str]:
    """Names by which a row may identify the author: the submission's name, without what Canvas or Moodle add to it."""
    name = submission.name.strip().casefold()
    moodle = re.match(r"(.+?)_(\d+)_assignsubmission_", name)
    canvas = re.match(r"[^_]+_(?:late_)?(\d+)_\d+_", name)
    return [name, *([moodle[1]] if moodle else []), *([canvas[1]] if canvas else [])]


def _notes(report: Report, matched: list[SubmissionResult]) -> list[str]:
    names = {submission.name for submission in matched}
    unmatched = [submission.name for submission in report.submissions if submission.name not in names]
    waiting = [submission.name for submission in matched if not submission.final]
    notes = []
    if unmatched:
        names_left_out = _named(unmatched)
        notes.append(
            f"{count(len(unmatched), 'submission')} could not be matched to exactly one row, left out: {names_left_out}"
        )
    if waiting:
        unchanged = _named(waiting)
        notes.append(
            f"{count(len(waiting), 'mark')} not final (some runs could not be judged), cell left unchanged: {unchanged}"
        )
    return notes


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return ", ".join(map(printable, names[:_MAX_NAMES])) + more


def _possible(report: Report, row: list[str], place: int) -> list[str]:
    most = max((submission.max_points for submission in report.submissions), default=0.0)
    if not row[place].strip():
        row[place] = number(most)
        return []
    try:
        theirs = float(row[place].replace(",", "."))
    except ValueError:
        return []
    if abs(theirs - most) < 0.005:
        return []
    return [
        f"the gradebook allows at most {number(theirs)} points, and the report {number(most)}: marks are not scaled"
    ]


def _safe(cell: str) -> str:
    """Quote what a spreadsheet would run as a formula. A number may begin with a sign."""
    return f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell
