"""Points and comments that a person gives, read from a CSV file. They stay in the report when the submissions are graded
again."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence

from raftgrade.results import ManualMark, SubmissionResult
from raftgrade.students import Named
from raftlab.safe_text import printable

_WHO = ("submission", "id", "login", "email", "name")
_MAX_POINTS = 1_000_000


class BadManual(Exception):
    """The file cannot be used. The message says where and why."""


def read(
    text: str, shown: str, find: Callable[[str], Sequence[Named]], tests: Iterable[str]
) -> dict[str, list[ManualMark]]:
    """The points and comments for each submission, by its name.

    Args:
        text: CSV with a column ``submission`` (or ``id``, ``login``, ``email`` or ``name``), and at least one of ``points``
            and ``comment``. ``test`` names a test; without it, a row is about the whole submission. ``+2`` and ``-2`` change
            points, and ``2`` sets them.
        shown: what messages call the file.
        find: returns the submissions that a text may mean (see :class:`raftgrade.students.Finder`).
        tests: the names of all tests.

    Raises:
        BadManual: the file has a mistake.
    """
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    header = [name.strip().lower() for name in rows.fieldnames or []]
    rows.fieldnames = header
    who = next((name for name in _WHO if name in header), None)
    if who is None or not {"points", "comment"} & set(header):
        seen = ", ".join(map(printable, header)) or "nothing"
        expected = "submission,test,points,comment (or id, login, email or name instead of submission)"
        raise BadManual(f"{shown}: expected a first line with {expected}; saw {seen}")
    known = set(tests)
    given: dict[str, list[ManualMark]] = {}
    lines: dict[tuple[str, str], int] = {}
    for row in rows:
        cells = {key: printable((row.get(key) or "").strip()) for key in (who, "test", "points", "comment")}
        if not any(cells.values()):
            continue
        where = f"{shown} line {rows.line_num}"
        if any(row.get(None, ())):
            raise BadManual(f"{where}: there are more cells than columns: put a cell with a comma in quotes")
        found = find(cells[who])
        if len(found) != 1:
            names = ", ".join(printable(each.name) for each in found)
            several = f"{cells[who]!r} may be any of these submissions: {names}"
            raise BadManual(f"{where}: {several if found else f'there is no submission {cells[who]!r}'}")
        test = cells["test"].rpartition(" ")[2]  # reports write the lab before the test: 2A initial_election
        if test and test not in known:
            raise BadManual(f"{where}: none of the graded labs has a test called {test!r}")
        change, points = _points(cells["points"], where)
        if points is None and not cells["comment"]:
            raise BadManual(f"{where}: there are neither points nor a comment")
        name = found[0].name
        if (name, test) in lines:
            about = f"the test {test} of {name}" if test else name
            raise BadManual(f"{where}: {about} is in line {lines[name, test]}, too")
        lines[name, test] = rows.line_num
        mark = ManualMark(test=test, points=points, change=change, comment=cells["comment"])
        given.setdefault(name, []).append(mark)
    return given


def _points(text: str, where: str) -> tuple[bool, float | None]:
    """Whether points are added, and how many."""
    if not text:
        return False, None
    found = re.fullmatch(r"([+\-\u2212]?)\s*([0-9]+(?:[.,][0-9]+)?)", text)
    points = float(found[2].replace(",", ".")) if found else _MAX_POINTS
    if found is None or points >= _MAX_POINTS:
        raise BadManual(f"{where}: expected points such as 7, +2 or -1.5, not {text!r}")
    return bool(found[1]), points if found[1] in ("", "+") else -points


def set_marks(submissions: Sequence[SubmissionResult], given: dict[str, list[ManualMark]]) -> None:
    """Put the points and comments into the submissions, in place of earlier ones."""
    for submission in submissions:
        submission.manual = given.get(submission.name, [])
