"""How late each submission is: from a list that the instructor wrote, or from the submission's date and the deadline."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from raftgrade.dates import after_extension, late_days, parse_deadline
from raftgrade.results import Report
from raftgrade.rubric import Rubric
from raftgrade.students import Named
from raftlab.safe_text import count, printable

MARKED_LATE = "late"  # the date of a submission if the course system says only that it was late


class BadLate(Exception):
    """The list of late submissions cannot be used. The message says where and why."""


def read_late(text: str, shown: str, find: Callable[[str], Sequence[Named]], rubric: Rubric) -> dict[str, float]:
    """The number of days by which each submission is late, before extensions.

    Args:
        text: CSV with a column ``submission`` (or ``id``, ``login``, ``email`` or ``name``), and ``days`` or ``hours``.
        shown: what messages call the file.
        find: returns the submissions that a text may mean (see :class:`raftgrade.students.Finder`).
        rubric: it must say what a late submission loses.

    Raises:
        BadLate: the list has a mistake.
    """
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=first.count))
    header = [name.strip().lower() for name in rows.fieldnames or []]
    rows.fieldnames = header
    who = next((name for name in ("submission", "id", "login", "email", "name") if name in header), None)
    unit = next((name for name in ("days", "hours") if name in header), None)
    if who is None or unit is None:
        seen = ", ".join(map(printable, header)) or "nothing"
        raise BadLate(f"{shown}: expected a first line with submission,days or submission,hours; saw {seen}")
    late: dict[str, float] = {}
    lines: dict[str, int] = {}
    for row in rows:
        name, amount = (row[who] or "").strip(), (row[unit] or "").strip()
        where = f"{shown} line {rows.line_num}"
        if not name and not amount:
            continue
        if any(row.get(None, ())):  # 1,5 without quotes would count as 1
            raise BadLate(f"{where}: there are more cells than columns: put a cell with a comma in quotes")
        found = find(name)
        if not found:
            raise BadLate(f"{where}: there is no submission {printable(name)!r}")
        if len(found) > 1:
            names = ", ".join(printable(each.name) for each in found)
            raise BadLate(f"{where}: {printable(name)!r} may be any of these submissions: {names}")
        days = float(amount.replace(",", ".")) if re.fullmatch(r"[0-9]+([.,][0-9]+)?", amount) else math.inf
        days /= 1 if unit == "days" else 24
        if days >= 10_000:
            raise BadLate(f"{where}: expected {unit}, a number of 0 or more, not {printable(amount)!r}")
        if found[0].name in lines:
            raise BadLate(f"{where}: {printable(found[0].name)} is in line {lines[found[0].name]}, too")
        late[found[0].name], lines[found[0].name] = days, rows.line_num
    if any(late.values()) and not rubric.late.percent_a_day:
        number = count(sum(days > 0 for days in late.values()), "late submission")
        raise BadLate(f"{shown} names {number}, but the rubric has no late penalty: set percent_a_day in its [late]")
    return late


def read_due(text: str) -> datetime:
    """The deadline that ``--due`` names. Raises :class:`BadLate`."""
    due = parse_deadline(text)
    if due is None:
        raise BadLate(
            f"--due: expected a date such as 2026-11-30T23:59 or 2026-11-30T23:59+01:00, not {printable(text)!r}"
        )
    return due


def set_late(report: Report, late: Mapping[str, float] | None, due: datetime | None) -> list[str]:
    """Set how late each submission is, without the days that an extension allows.

    Args:
        late: the days from a list, by submission. They take precedence over dates.
        due: the deadline; without it, dates do not count.

    Returns:
        Notes about submissions whose date is not known. These count as on time.
    """
    late = late or {}
    report.due = "" if due is None else due.isoformat()
    unknown, marked = [], []
    for submission in report.submissions:
        days = None
        if submission.name in late:
            days = after_extension(late[submission.name], submission.students)
        elif due is not None:
            days = late_days(submission.submitted, due, submission.students)
        submission.late_days = round(days or 0.0, 6)
        if days is None and submission.submitted == MARKED_LATE:
            marked.append(submission.name)
        elif days is None and due is not None and submission.hash:
            unknown.append(submission.name)
    notes = []
    if marked:
        text = f"no late penalty for {count(len(marked), 'submission')} marked as late, because it is not known by how much"
        notes.append(f"{text} (use --late to state it): {'; '.join(marked)}")
    if unknown:
        text = f"the submission time of {count(len(unknown), 'submission')} is unknown, so no late penalty was applied"
        was = "it was" if len(unknown) == 1 else "they were"
        notes.append(f"{text} (use --late to state how late {was}): {'; '.join(unknown)}")
    over = [each.name for each in report.submissions if each.late_days]
    if over and not report.rubric.late.percent_a_day:
        text = (
            f"no penalty for {count(len(over), 'late submission')}, because percent_a_day in the rubric's [late] is 0"
        )
        notes.append(f"{text}: {'; '.join(over)}")
    return notes
