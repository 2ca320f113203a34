"""Reads tables of students: the course's own ``class.csv``, and exports from Canvas, Moodle, Gradescope and GitHub."""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from raftgrade.dates import parse_date
from raftgrade.students import Directory, Student, folded, visible
from raftlab.safe_text import printable

MAX_LIST_BYTES = 5_000_000  # the largest list or table of submissions

# For each kind of column that is used here: the titles that such a column may have, in lower case.
_COLUMNS = {
    "id": ("id", "student id", "sis user id", "id number", "sid", "student_id"),
    "name": ("name", "full name", "student", "student name"),
    "first": ("first name", "firstname", "first"),
    "last": ("last name", "lastname", "surname", "last"),
    "login": ("login", "username", "user", "sis login id", "login id", "roster_identifier"),
    "email": ("email", "e-mail", "email address", "mail"),
    "group": ("group", "team"),
    "extension": ("extension", "extension days", "extension_days"),
    "due": ("due", "deadline"),
    "submitted": ("submitted", "submission time", "last modified (submission)", "submission_timestamp"),
    "path": ("path",),
    "url": ("url", "student_repository_url"),
}
# More columns that identify a student. If a table has both "SIS User ID" and "ID" (Canvas' own), "ID" is one of these.
_MORE_IDS = ("id", "canvas id", "identifier", "github", "github_username", "integration id")
_LIMIT_DAYS = 10_000


class BadPath(ValueError):
    """A path that names no submission, or a table that cannot be used. The message says why."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a table: the student, where the submission is (a path, or a URL that may come from the student; both may be
    empty), when it was handed in (as the table writes it), and the number of the line."""

    student: Student
    path: str
    url: str
    submitted: str
    line: int


@dataclass(frozen=True, slots=True)
class Table:
    """A table of students. ``has_places``: whether the table says where submissions are."""

    shown: str
    rows: list[Row]
    has_places: bool


def read_text(path: Path) -> str:
    """The text of a list or table. Raises :class:`BadPath` and ``OSError``."""
    if path.stat().st_size > MAX_LIST_BYTES:
        raise BadPath(f"{printable(str(path))} is too long for a list of submissions")
    try:
        return decoded(path.read_bytes())
    except UnicodeDecodeError:
        raise BadPath(f"{printable(str(path))} is not UTF-8 text: save it as UTF-8") from None


def decoded(data: bytes) -> str:
    """The text of a file in UTF-8, or in UTF-16 with a byte order mark, as Excel writes "Unicode text". In the
    result, every line ends with a line feed. Raises ``UnicodeDecodeError``."""
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return io.StringIO(data.decode("utf-16" if wide else "utf-8-sig"), newline=None).read()


def read(path: Path) -> Table:
    """Read a table.

    Args:
        path: a CSV file in UTF-8 or UTF-16 whose columns are separated by commas, semicolons or tabs.

    Raises:
        BadPath: it has no column that identifies students, no row, or a mistake in a row.
        OSError: it cannot be read.
    """
    shown = printable(str(path))
    text = read_text(path)
    first = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count))
    header = [" ".join(title.split()).lower() for title in next(reader, [])]
    places = {
        kind: next((header.index(title) for title in titles if title in header), None)
        for kind, titles in _COLUMNS.items()
    }
    if places["id"] is not None and "sis user id" in header:
        places["id"] = header.index("sis user id")
    if places["login"] is None and "github_username" in header:
        places["login"] = header.index("github_username")
    more = [place for place, title in enumerate(header) if title in _MORE_IDS and place not in places.values()]
    identify = ("id", "name", "first", "last", "login", "email")
    if all(places[kind] is None for kind in identify) and not more:
        seen = ", ".join(map(printable, filter(None, header))) or "none"
        raise BadPath(
            f"{shown} has no column that identifies students: expected at least one of id, name, login and email, but has: "
            f"{seen}"
        )
    given = [place for kind in ("id", "login", "email") if (place := places[kind]) is not None] + more
    rows = []
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        ids = [cells[place] for place in given if place < len(cells)]
        if header[0] == "student" and cells[0].strip().lower() == "points possible" and not any(map(str.strip, ids)):
            continue  # the line below the header of Canvas' gradebook; a student with this name would have an id
        if any(cell.strip() for cell in cells[len(header) :]):  # an unquoted "Lovelace, Ada" shifts all cells after it
            more_cells = "there are more cells than columns: put a cell with a comma in quotes"
            raise BadPath(f"{shown} line {reader.line_num}: {more_cells}")
        row = _row(shown, reader.line_num, [cell.strip() for cell in cells], places, more)
        if row is not None:
            rows.append(row)
    if not rows:
        raise BadPath(f"{shown} has no row below its first line")
    return Table(shown, rows, places["path"] is not None or places["url"] is not None)


def _row(shown: str, line: int, cells: list[str], places: dict[str, int | None], more: list[int]) -> Row | None:
    def exact(kind: str) -> str:
        place = places[kind]
        return cells[place] if place is not None and place < len(cells) else ""

    def cell(kind: str) -> str:
        return _readable(exact(kind))

    name = cell("name") or " ".join(filter(None, (cell("first"), cell("last"))))
    extension, due = cell("extension"), cell("due")
    days = _days(extension)
    if days is None:
        raise BadPath(
            f"{shown} line {line}: expected an extension in days or hours, such as 2 or 36h, not {extension!r}"
        )
    if due and parse_date(due) is None:
        raise BadPath(f"{shown} line {line}: expected a deadline such as 2026-11-30 23:59, not {due!r}")
    student = Student(
        id=cell("id"),
        name=name,
        login=cell("login"),
        email=cell("email"),
        group=cell("group"),
        extension_days=days,
        due=due,
        other_ids=tuple(_readable(cells[place]) for place in more if place < len(cells) and cells[place]),
    )
    if not student.label:
        if cell("path") or cell("url"):
            raise BadPath(f"{shown} line {line}: there is nothing that identifies the student")
        return None
    return Row(student, exact("path"), exact("url"), cell("submitted"), line)


def _readable(text: str) -> str:
    """``text`` for people: on one line, printable, without invisible characters (which come with text that was copied from a
    web page), and with each accent and its letter as one character."""
    return printable(" ".join(visible(unicodedata.normalize("NFC", text)).split()))


def _days(text: str) -> float | None:
    """The days of an extension such as ``2``, ``1.5``, ``2d`` or ``36h``; ``None`` if ``text`` is not an extension."""
    found = re.fullmatch(r"(\d+(?:[.,]\d+)?)\s*(d|days?|h|hours?)?", text, re.I)
    if not text:
        return 0.0
    if found is None:
        return None
    days = float(found[1].replace(",", ".")) / (24 if (found[2] or "d")[0].lower() == "h" else 1)
    return days if days < _LIMIT_DAYS else None


def require_distinct(table: Table) -> None:
    """Raise :class:`BadPath` if two rows of a table cannot be told apart, or claim the same id for two students.

    A student may have several rows if these rows say where different submissions are.
    """
    first: dict[str, Row] = {}
    for row in table.rows:
        for key in sorted(row.student.ids) or [folded(row.student.name)]:
            other = first.setdefault(key, row)
            if other is row:
                continue
            where = f"{table.shown} line {row.line}"
            if _differ(other.student, row.student):
                raise BadPath(f"{where}: {key!r} already belongs to another student, in line {other.line}")
            if not table.has_places:
                raise BadPath(f"{where}: {row.student.label!r} is in line {other.line}, too")


def _differ(one: Student, other: Student) -> bool:
    """Whether two rows that have something in common are about different students."""
    pairs = ((getattr(one, name), getattr(other, name)) for name in ("id", "name", "login", "email"))
    return any(first and second and folded(first) != folded(second) for first, second in pairs)


def directory(table: Table) -> Directory:
    """The students of ``table``, in its order."""
    return Directory([row.student for row in table.rows])
