"""Gradebooks: the CSV exported from Canvas or Moodle, with the marks filled in and all else as it was."""

from __future__ import annotations

import csv
import io
import re

from raftgrade.results import Report, SubmissionResult
from raftlab.safe_text import count, number, one_line, printable

TITLE = "raftlab"  # of the column, when the gradebook has none for it
# Where each system says who somebody is, the surest first. A submission may be called by any of them.
_WHO = {
    "canvas": ("sis login id", "sis user id", "id", "student"),
    "moodle": ("email address", "username", "id number", "identifier", "full name"),
}
_CANVAS_COLUMN = re.compile(r".+\(\d+\)\s*$")
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?\s*%?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MOST_NAMED = 5


class BadTemplate(Exception):
    """The gradebook cannot be filled in. The message says why, and what would help."""


def fill(report: Report, template: str, system: str, column: str | None = None) -> tuple[str, list[str]]:
    """``template`` with the marks filled in, and sentences about what was left out. Raises :class:`BadTemplate`."""
    rows, delimiter, end = _read(template)
    header = rows[0]
    names = [name.strip().lower() for name in header]
    who = [names.index(name) for name in _WHO[system] if name in names]
    if system == "moodle" and "first name" in names and ("surname" in names or "last name" in names):
        last = names.index("surname") if "surname" in names else names.index("last name")
        pairs: tuple[int, ...] = (names.index("first name"), last)
    else:
        pairs = ()
    if not who:
        wanted = ", ".join(_WHO[system])
        raise BadTemplate(
            f"the gradebook has no column that says who is who: expected one of {wanted} in its first line"
        )
    place = _column(header, system, column)
    marks = {id(row): found for row, found in _match(report, rows[1:], who, pairs)}
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
    made, guarded = io.StringIO(), 0
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end)
    for row in rows:
        safe = [_safe(cell) for cell in row]
        guarded += sum(new != old for new, old in zip(safe, row, strict=True))
        writer.writerow(safe)
    if guarded:
        notes.append(f"{count(guarded, 'cell')} that a spreadsheet would run as a formula got a ' in front")
    return made.getvalue(), notes


def plain(report: Report) -> str:
    """All marks as CSV, for people and for comparing: nothing in it depends on when or where the runs were made."""
    made = io.StringIO()
    writer = csv.writer(made, lineterminator="\n")
    labs = report.settings.labs
    writer.writerow(["submission", "state", "points", "max_points", "open_points", "late_days", "penalty", *labs])
    for each in report.submissions:
        by_lab = [number(sum(test.points for test in each.tests if test.lab == lab)) for lab in labs]
        points = number(each.points) if each.final else ""
        most, open_, late, penalty = map(number, (each.max_points, each.open_points, each.late_days, each.penalty))
        row = [printable(each.name), each.state, points, most, open_, late, penalty, *by_lab]
        writer.writerow([_safe(cell) for cell in row])
    return made.getvalue()


def _read(template: str) -> tuple[list[list[str]], str, str]:
    first, _, _ = template.partition("\n")
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(template, newline=""), delimiter=delimiter) if row]
    if not rows:
        raise BadTemplate("the gradebook is empty: expected the CSV that the course system exports")
    return rows, delimiter, "\r\n" if first.endswith("\r") else "\n"


def _column(header: list[str], system: str, column: str | None) -> int:
    """Which column gets the marks; a new one is added if need be."""
    if column is not None:
        fitting = [place for place, name in enumerate(header) if name.strip().lower() == column.strip().lower()]
        if not fitting and system == "canvas":
            # Canvas puts the assignment's number behind its name.
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
        shown = ", ".join(one_line(header[place], 60) for place in fitting[:_MOST_NAMED])
        raise BadTemplate(
            f"the gradebook has {len(fitting)} columns that could be meant ({shown}): name one with --column"
        )
    if not fitting:
        header.append(TITLE)
        return len(header) - 1
    return fitting[0]


def _match(
    report: Report, rows: list[list[str]], who: list[int], pairs: tuple[int, ...]
) -> list[tuple[list[str], SubmissionResult]]:
    """The rows that exactly one submission names, each with it."""
    by_name: dict[str, list[list[str]]] = {}
    for row in rows:
        cells = {row[place].strip().casefold() for place in who if place < len(row)}
        if pairs and max(pairs) < len(row):
            cells.add(" ".join(row[place].strip() for place in pairs).casefold())
        for cell in cells - {""}:
            by_name.setdefault(cell, []).append(row)
    found: dict[int, list[tuple[list[str], SubmissionResult]]] = {}
    for submission in report.submissions:
        for name in _called(submission):
            rows_of_that_name = by_name.get(name, [])
            if len(rows_of_that_name) == 1:
                found.setdefault(id(rows_of_that_name[0]), []).append((rows_of_that_name[0], submission))
                break
    # Two submissions for one person: which one counts is not ours to say.
    return [matches[0] for matches in found.values() if len(matches) == 1]


def _called(submission: SubmissionResult) -> list[str]:
    """What a row may call the author: the folder's name, or its part that Canvas or Moodle did not add."""
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
        left = _named(unmatched)
        notes.append(f"{count(len(unmatched), 'submission')} could not be matched to exactly one row, left out: {left}")
    if waiting:
        left = _named(waiting)
        notes.append(f"{count(len(waiting), 'mark')} not final (runs that could not be judged), left as it was: {left}")
    return notes


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(map(printable, names[:_MOST_NAMED])) + more


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
    return [f"the gradebook gives {number(theirs)} points at most, and the report {number(most)}: marks are not scaled"]


def _safe(cell: str) -> str:
    """A spreadsheet runs what looks like a formula; a number may begin with a sign."""
    return f"'{cell}" if cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) else cell
