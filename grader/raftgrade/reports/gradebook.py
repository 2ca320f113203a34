"""Gradebooks: the CSV exported from Canvas or Moodle, with the marks filled in and nothing else changed."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter

from raftgrade.attempts import standings
from raftgrade.reports import same_code
from raftgrade.results import UNTESTED, Report, SubmissionResult, TestResult
from raftgrade.students import Directory, Student, canvas_name, folded_name, moodle_name
from raftlab.safe_text import count, number, one_line, printable

STUDENT = ("id", "name", "login", "email", "group")  # columns about a student
TITLE = "raftlab"  # the title of a new column, if the gradebook has no column for the marks
# The columns that identify a student in each system, in three tiers: ids that the course assigned, ids that the system
# assigned, and names. A tier is used only for rows that the tiers before it do not identify, because a number that Canvas
# assigned to one student may be another student's matriculation number.
_ID_COLUMNS: dict[str, tuple[tuple[str, ...], ...]] = {
    "canvas": (("sis login id", "sis user id"), ("id",), ("student",)),
    "moodle": (("email address", "username", "id number"), ("identifier",), ("full name",)),
}
_POSSIBLE = 4  # the maximum points are in row 1, 2 or 3, because Canvas may add one or two rows above them
_NAMES = 2  # the index of the tier of columns with names
_CANVAS_COLUMN = re.compile(r".+\(\d+\)\s*$")
# Moodle puts the kind of activity before an assignment's name, and the kind of value after it.
_MOODLE_COLUMN = re.compile(r"[^:]+:\s*(?P<title>.+?)\s*\((?P<kind>[^()]+)\)\s*")
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?\s*%?")
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
_MAX_TITLES = 5  # how many titles of columns a message lists


class BadTemplate(Exception):
    """The gradebook cannot be filled in. The message says why, and what to do about it."""


def fill(report: Report, template: str, system: str, column: str | None = None) -> tuple[str, list[str]]:
    """Fill in a gradebook.

    Args:
        template: the CSV that the system exports.
        system: ``"canvas"`` or ``"moodle"``.
        column: the title of the column for the marks. If the gradebook has no such column, it is added. ``None``: use the
            only column that fits.

    Returns:
        The filled-in CSV, and notes about what was left out.

    Raises:
        BadTemplate: the gradebook cannot be filled in.
    """
    rows, delimiter, end = _read(template)
    header = rows[0]
    titles = [name.strip().lower() for name in header]
    tiers = [[titles.index(name) for name in names if name in titles] for names in _ID_COLUMNS[system]]
    last = next((titles.index(name) for name in ("surname", "last name") if name in titles), None)
    pair = (titles.index("first name"), last) if "first name" in titles and last is not None else None
    if system == "canvas" and pair is None and {"lastname", "firstname"} <= set(titles):
        pair = titles.index("firstname"), titles.index("lastname")
    if not any(tiers) and pair is None:
        expected = ", ".join(name for names in _ID_COLUMNS[system] for name in names)
        raise BadTemplate(
            f"the gradebook has no column that identifies students: expected one of {expected} in its first line"
        )
    width = len(header)
    place = _column(header, system, column)
    notes = [] if len(header) == width else [_new_column(header[place], system)]
    for row in rows:
        row += [""] * (len(header) - len(row))
    most_row = (
        next((row for row in rows[1:_POSSIBLE] if _says_possible(row, tiers)), None) if system == "canvas" else None
    )
    of_students = [row for row in rows[1:] if row is not most_row]
    identities = [_identity(row, tiers, pair) for row in of_students]
    matches = _match(report, identities)
    marks = {id(of_students[row]): submission for row, submission in matches.items()}
    # Canvas has a row that belongs to no student. It says which assignments are muted or posted by hand.
    without = [row for row in range(len(of_students)) if row not in matches and any(identities[row])]
    notes += _notes(report, list(marks.values()), [_label(of_students[row], tiers, pair) for row in without])
    comments = titles.index("feedback comments") if system == "moodle" and "feedback comments" in titles else None
    most = titles.index("maximum grade") if system == "moodle" and "maximum grade" in titles else None
    excused: list[str] = []
    too_many: list[str] = []
    for row in rows[1:]:
        if row is most_row:
            notes += _possible(report, row, place)
        elif (submission := marks.get(id(row))) is not None and submission.final:
            if system == "canvas" and row[place].strip().upper() == "EX":
                excused.append(submission.name)
                continue
            row[place] = number(submission.points)
            if comments is not None and submission.comments:
                row[comments] = "\n".join(map(printable, submission.comments))
            if most is not None and _above(row[most], submission.points):
                too_many.append(submission.name)
    if excused:
        cells = count(len(excused), "cell")
        notes.append(f"left {cells} unchanged, because Canvas excuses the student (EX): {_named(excused)}")
    if too_many:
        above = count(len(too_many), "mark")
        notes.append(f"Moodle will skip {above} above the assignment's maximum: {_named(too_many)}")
    text, guarded = io.StringIO(), 0
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end)
    # In these columns, the system finds the student of a row and the mark. So cells in these columns must stay as they are.
    exact = {place, *(column for tier in tiers[:_NAMES] for column in tier)}
    for row in rows:
        safe = [cell if column in exact else safe_cell(cell) for column, cell in enumerate(row)]
        guarded += sum(new != old for new, old in zip(safe, row, strict=True))
        writer.writerow(safe)
    if guarded:
        notes.append(f"put a ' in front of {count(guarded, 'cell')} that a spreadsheet would run as a formula")
    return text.getvalue(), notes


def plain(report: Report) -> str:
    """All marks as CSV. The text does not depend on when or where the runs were made, so reports can be compared."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    labs = report.settings.labs
    writer.writerow(
        [
            *("submission", "state", "points", "max_points", "open_points", "late_days", "penalty", *labs),
            *("same_code_as", *STUDENT, "submitted", "standing", "comments"),
        ]
    )
    standing = standings(report)
    for each, student in _with_students(report):
        by_lab = [number(sum(test.points for test in each.tests if test.lab == lab)) for lab in labs]
        points = number(each.points) if each.final else ""
        most, open_, late, penalty = map(number, (each.max_points, each.open_points, each.late_days, each.penalty))
        row = [
            printable(each.name),
            each.state,
            points,
            most,
            open_,
            late,
            penalty,
            *by_lab,
            "; ".join(same_code.others(report, each.name)),
            *about(student),
            each.submitted,
            standing[each.name],
            "; ".join(each.comments),
        ]
        writer.writerow([safe_cell(cell) for cell in row])
    return text.getvalue()


def per_test(report: Report) -> str:
    """A row for each test of each student as CSV, for statistics. Hidden runs are counted, but their seeds are not shown."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = [*report.settings.networks, *(["hidden"] if report.settings.hidden is not None else [])]
    counts = [f"{column}_{what}" for column in columns for what in ("passes", "failures", "errors")]
    writer.writerow(
        [
            *("submission", *STUDENT, "lab", "test", "title", "state", "points", "max_points", *counts),
            *("lab_s_p50", "rpcs_p50", "first_failure", "notes"),
        ]
    )
    for each, student in _with_students(report):
        for test in each.tests:
            writer.writerow([safe_cell(cell) for cell in _test_row(each, student, test, columns)])
    return text.getvalue()


def _test_row(submission: SubmissionResult, student: Student, test: TestResult, columns: list[str]) -> list[str]:
    by_column = {"hidden" if network.hidden else network.network: network for network in test.networks}
    counts = [
        str(value) if network is not None else ""
        for network in map(by_column.get, columns)
        for value in ((network.passes, network.failures, network.errors) if network is not None else [0] * 3)
    ]
    # If a submission was not tested, its tests have no state of their own. A refused submission earns nothing for them.
    state = submission.state if submission.state in UNTESTED else test.state
    points = (
        "" if state in ("unjudged", "absent", "open", "waiting") else number(0 if state == "refused" else test.points)
    )
    timed = by_column.get("sim", next(iter(by_column.values()), None))
    spreads = [timed.lab_s, timed.rpcs] if timed is not None else [None, None]
    failures = [sort for network in test.networks for sort in network.classes if network.failures]
    return [
        *(printable(submission.name), *about(student), test.lab, test.name, test.title, state),
        *(points, number(test.max_points), *counts),
        *("" if spread is None else number(spread.p50) for spread in spreads),
        next(iter(failures), ""),
        "; ".join(map(printable, test.notes)),
    ]


def _with_students(report: Report) -> list[tuple[SubmissionResult, Student]]:
    """Each submission, once for each of its authors."""
    return [(each, student) for each in report.submissions for student in each.students or [Student(id=each.id)]]


def about(student: Student) -> list[str]:
    """The cells in the columns :data:`STUDENT`."""
    return [student.id or next(iter(student.other_ids), ""), student.name, student.login, student.email, student.group]


def _read(template: str) -> tuple[list[list[str]], str, str]:
    first, _, _ = template.partition("\n")
    delimiter = max(",;\t", key=first.count)
    rows = [row for row in csv.reader(io.StringIO(template, newline=""), delimiter=delimiter) if row]
    if not rows:
        raise BadTemplate("the gradebook is empty: expected the CSV that the course system exports")
    return rows, delimiter, "\r\n" if first.endswith("\r") else "\n"


def _column(header: list[str], system: str, column: str | None) -> int:
    """The index of the column for the marks. A missing column is added."""
    titles = [name.strip().lower() for name in header]
    moodle = [_MOODLE_COLUMN.fullmatch(name) if system == "moodle" else None for name in titles]
    if column is not None:
        wanted = column.strip().lower()
        fitting = [place for place, title in enumerate(titles) if title == wanted]
        if not fitting and system == "canvas":
            # Canvas puts the assignment's number after the assignment's name.
            bare = [re.sub(r"\s*\(\d+\)\s*$", "", title) for title in titles]
            fitting = [place for place, title in enumerate(bare) if title == wanted]
        if not fitting:
            same = [place for place, found in enumerate(moodle) if found and found["title"] == wanted]
            # An export may have the same mark as points, as a percentage and as a letter.
            fitting = [place for place in same if len(same) == 1 or (moodle[place] or {"kind": ""})["kind"] == "real"]
        if not fitting:
            header.append(column)
            return len(header) - 1
    elif system == "canvas":
        fitting = [place for place, name in enumerate(header) if _CANVAS_COLUMN.fullmatch(name.strip())]
    else:
        fitting = [place for place, title in enumerate(titles) if title == "grade"]
        fitting = fitting or [place for place, found in enumerate(moodle) if found and found["kind"] == "real"]
    if len(fitting) > 1:
        shown = ", ".join(one_line(header[place], 60) for place in fitting[:_MAX_TITLES])
        raise BadTemplate(f"the gradebook has {len(fitting)} columns that fit ({shown}): name one with --column")
    if not fitting:
        header.append(TITLE)
        return len(header) - 1
    return fitting[0]


def _new_column(title: str, system: str) -> str:
    more = "; Canvas makes a new assignment of it" if system == "canvas" else ""
    return f"the gradebook has no column {one_line(title, 60)!r}, so it was added{more}"


_Identity = list[list[str]]  # what identifies a row: the texts in each tier of columns


def _identity(row: list[str], tiers: list[list[int]], pair: tuple[int, int] | None) -> _Identity:
    texts = [[row[place].strip() for place in tier] for tier in tiers]
    if pair is not None:
        texts[_NAMES].append(" ".join(row[place].strip() for place in pair).strip())
    return [[text for text in tier if text] for tier in texts]


def _label(row: list[str], tiers: list[list[int]], pair: tuple[int, int] | None) -> str:
    texts = _identity(row, tiers, pair)
    return next(text for tier in reversed(texts) for text in tier)


def _match(report: Report, rows: list[_Identity]) -> dict[int, SubmissionResult]:
    """The submission of each row, by the row's number. A row that fits more than one student, and a student who fits more
    than one row, are left out."""
    standing = standings(report)
    people = [
        (student, submission)
        for submission in report.submissions
        if standing[submission.name] != "superseded"
        for student in submission.students or [_from_name(submission)]
    ]
    directory = Directory([student for student, _ in people])
    by_id: dict[int, tuple[int, int]] = {}  # the tier and the person, by row
    contradictory: set[int] = set()  # rows
    rows_named = Counter(folded_name(name) for texts in rows for name in texts[_NAMES] if name)
    others: dict[int, set[int]] = {}  # by row: the other people whom this row fits, but less well
    for row, texts in enumerate(rows):
        for tier in range(_NAMES):
            found = directory.find(texts[tier])
            if row in by_id:
                others.setdefault(row, set()).update(found)
            elif len(found) == 1:
                by_id[row] = tier, found[0]
            elif found:
                break
        # If a submission has no known author, only its folder's name is known. The row may name that submission's author.
        named = directory.find([], texts[_NAMES])
        others.setdefault(row, set()).update(each for each in named if not people[each][1].students)
        if row in by_id:
            # An id is not enough if the row has another student's name. An id that the system assigned, not the course, is
            # also not enough if another row has this student's name.
            tier, person = by_id[row]
            mine = people[person][1]
            elsewhere = tier > 0 and not named and rows_named[folded_name(people[person][0].name)] > 0
            if mine.students and (elsewhere or (named and all(people[each][1] is not mine for each in named))):
                contradictory.add(row)
    fits: dict[int, list[tuple[int, int]]] = {}  # the tiers and rows, by person
    for row, (tier, person) in by_id.items():
        if row not in contradictory:
            fits.setdefault(person, []).append((tier, row))
    for row, texts in enumerate(rows):
        if row in by_id or not texts[_NAMES]:
            continue
        found = directory.find([], texts[_NAMES])
        # Two students may have the same name. If this gradebook identifies students by ids, and this student's ids are known
        # but not in the gradebook, the row belongs to another student.
        if len(found) == 1 and not (by_id and people[found[0]][1].students and people[found[0]][0].ids):
            fits.setdefault(found[0], []).append((_NAMES, row))
    place_of = {}
    for person, places in fits.items():
        tier, row = min(places)
        if sum(other == tier for other, _ in places) == 1:
            place_of[person] = row
    # If another person who fits the row has no other row, the row may be that person's.
    clear = {
        person: row
        for person, row in place_of.items()
        if all(place_of.get(other, row) != row for other in others.get(row, set()) - {person})
    }
    chosen = {row: people[person][1] for person, row in clear.items()}
    return {row: submission for row, submission in chosen.items() if standing[submission.name] == "counts"}


def _from_name(submission: SubmissionResult) -> Student:
    """The author of a submission if only the submission's name is known. This is the name of a folder, and may be an id."""
    name = submission.name.strip()
    about = moodle_name(name) or canvas_name(name)
    if about is None:
        return Student(id=name, name=name)
    return Student(id=name, name=about.name, other_ids=about.ids)


def _notes(report: Report, matched: list[SubmissionResult], rows: list[str]) -> list[str]:
    names = {submission.name for submission in matched}
    standing = standings(report)
    unmatched = [each.name for each in report.submissions if each.name not in names and standing[each.name] == "counts"]
    undecided = [each.name for each in report.submissions if standing[each.name] == "undecided"]
    without = [each for each in matched if not each.final]
    waiting, absent = ([e.name for e in without if (e.state == "absent") == which] for which in (False, True))
    notes = []
    if unmatched:
        text = f"left out {count(len(unmatched), 'submission')} that could not be matched to exactly one row"
        notes.append(f"{text}: {_named(unmatched)}")
    if undecided:
        text = f"left out {count(len(undecided), 'submission')}, because their students have more than one"
        notes.append(f"{text} (choose with --attempts best or last): {_named(undecided)}")
    if waiting:
        notes.append(f"left {count(len(waiting), 'cell')} unchanged, because the mark is not final: {_named(waiting)}")
    if absent:
        cells = count(len(absent), "cell")
        notes.append(f"left {cells} unchanged, because the student has no submission: {_named(absent)}")
    if rows:
        notes.append(f"left {count(len(rows), 'row')} unchanged, because no submission matches: {_named(rows)}")
    return notes


def _named(names: list[str]) -> str:
    return "; ".join(one_line(name, 80) for name in names)


def _says_possible(row: list[str], tiers: list[list[int]]) -> bool:
    """Whether a row of Canvas' gradebook has the maximum points of each assignment. A student could also be called "Points
    Possible", but a student's row has an id."""
    ids = [row[place].strip() for tier in tiers[:_NAMES] for place in tier]
    return row[0].strip().lower() == "points possible" and not any(ids)


def _possible(report: Report, row: list[str], place: int) -> list[str]:
    if "read only" in row[place].lower():
        raise BadTemplate(
            "Canvas does not import this column, which is read only: name an assignment's column with --column"
        )
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
        f"the gradebook allows at most {number(theirs)} points, but the report has {number(most)}: marks are not scaled"
    ]


def _above(most: str, points: float) -> bool:
    try:
        return points > float(most.replace(",", ".")) + 0.005
    except ValueError:
        return False


def safe_cell(cell: str) -> str:
    """Quote text that a spreadsheet would run as a formula. Numbers stay as they are, even if they begin with a sign. So
    does "-": in Moodle, it means that there is no mark."""
    formula = cell.startswith(_FORMULA) and not _NUMBER.fullmatch(cell) and cell.strip() != "-"
    return f"'{cell}" if formula else cell
