"""Test data: a class of fifteen, with every kind of submission and name that went wrong when an instructor tried raftgrade.

No code is graded. A submission's ``raft.py`` says which of four tests it passes, so that every student has a different mark,
and :func:`report_of` makes the records. The downloads and exports are written as each platform's source code writes them.
"""

from __future__ import annotations

import csv
import io
import json
import subprocess
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from zipfile import ZipFile

import msgspec

from raftgrade.intake.submissions import FoundSubmissions, find
from raftgrade.intake.take_in import Intake
from raftgrade.plan import Expected, Settings
from raftgrade.results import Problem, Report
from raftgrade.students import Student
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally
from raftlab.explain.failure import Failure
from raftlab.runs.record import Record

TESTS = [Expected("2A", f"test_{points}", f"worth {points}", points, ["sim"]) for points in (8, 4, 2, 1)]
SETTINGS = Settings(labs=["2A"], networks=["sim"], runs={"sim": 1}, seed=0, jobs=1)
PROBLEM = Problem("raft.py does not compile: line 3", "raft.py:3", "setup.md")


class Person(msgspec.Struct, frozen=True):
    """A student, and the mark that this student must have in every format: ``None`` if there must be none."""

    number: int
    login: str
    first: str
    last: str
    mark: int | None

    @property
    def name(self) -> str:
        return f"{self.first} {self.last}".strip()

    @property
    def sortable(self) -> str:
        return f"{self.last}, {self.first}" if self.last else self.first

    @property
    def email(self) -> str:
        return f"{self.login}@example.edu"

    @property
    def sis(self) -> str:
        return f"s{self.number}"


PEOPLE = [
    Person(101, "ada", "Ada", "Lovelace", 15),
    Person(102, "larry", "Larry", "Lamport", 14),
    Person(103, "grace", "Grace", "Hopper", 1),
    Person(104, "pair", "Edith", "Pair", 13),
    Person(105, "edsger", "Edsger W.", "Dijkstra", 12),
    Person(106, "barbara", "Bárbara", "Liskov", 11),
    Person(107, "alan", "Alan", "Turing", 10),
    Person(108, "leslie", "Leslie", "Lamport", 9),
    Person(109, "donald", "Donald", "Knuth", 0),  # does not compile
    Person(110, "mary", "Mary", "Shaw", 0),  # main.py instead of raft.py
    Person(111, "nobody", "Nobody", "Atall", None),  # nothing handed in
    Person(112, "obrien", 'Séan "王"', "O'Brien", 8),
    Person(113, "ken", "Ken", "Thompson", 7),  # a zip file
    Person(114, "pat", "=1+1 Pat", "", 6),
    Person(115, "git", "Git", "Hub", 5),  # a repository
]
BY_LOGIN = {person.login: person for person in PEOPLE}


def source(mark: int) -> str:
    return json.dumps({"mark": mark})


def files(person: Person) -> dict[str, str]:
    """The files that a student hands in, as texts by file name."""
    if person.login == "nobody":
        return {}
    if person.login == "mary":
        return {"main.py": source(15)}
    if person.login == "donald":
        return {"raft.py": "def broken("}
    more = {"helper.py": "x = 1"} if person.login == "pair" else {}
    return {"raft.py": source(person.mark or 0), **more}


def write(folder: Path, contents: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in contents.items():
        (folder / name).write_text(text)
    return folder


def archive(path: Path, contents: dict[str, str]) -> Path:
    with ZipFile(path, "w") as made:
        for name, text in {**contents, "__MACOSX/._raft.py": ""}.items():
            made.writestr(name, text)
    return path


def repository(folder: Path, contents: dict[str, str], date: str = "2026-11-20T12:00:00+00:00") -> str:
    """A git repository with one commit. Returns the commit."""
    write(folder, contents)
    who = ["-c", "user.name=x", "-c", "user.email=x@example.edu"]
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date}
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "x"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env=environment)
    shown = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return shown.stdout.strip()


def table(header: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = ",") -> str:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def decomposed(text: str) -> str:
    """``text`` in Unicode's decomposed form (NFD), in which macOS writes file names."""
    return unicodedata.normalize("NFD", text)


# --- the course's own table ----------------------------------------------------------------------------------------


def class_csv(folder: Path) -> Path:
    """``class.csv`` and the submissions that it names."""
    rows = []
    for person in PEOPLE:
        path = f"submissions/{person.login}"
        if person.login == "ken":
            archive(write(folder / "submissions", {}) / "ken.zip", files(person))
            path += ".zip"
        elif person.login == "git":
            place = folder / "repositories" / "git"
            path = f"{place.as_uri()}#{repository(place, files(person))}"
        elif person.login != "nobody":
            write(folder / path, files(person))
        rows.append((person.sis, decomposed(person.name), person.login, person.email, path))
    (folder / "class.csv").write_text(table(("id", "name", "login", "email", "path"), rows), encoding="utf-8")
    return folder / "class.csv"


def roster_csv(folder: Path) -> Path:
    """The same students without their submissions, as Excel saves a table in a country where the comma is the decimal
    point."""
    rows = [(person.sis, person.sortable, person.login, person.email) for person in PEOPLE]
    (folder / "roster.csv").write_text(table(("ID", "Name", "Login", "E-mail"), rows, ";"), encoding="utf-8-sig")
    return folder / "roster.csv"


# --- Canvas --------------------------------------------------------------------------------------------------------


def canvas_gradebook() -> str:
    """The gradebook that Canvas exports (lib/gradebook_exporter.rb), with a mark of an earlier assignment."""
    header = [
        "Student",
        "ID",
        "SIS User ID",
        "SIS Login ID",
        "Section",
        "Raft 2A (4711)",
        "Essay (4712)",
        "Final Score",
    ]
    rows: list[Sequence[object]] = [["    Points Possible", "", "", "", "", "15", "10", "(read only)"]]
    for person in PEOPLE:
        rows.append([person.sortable, person.number, person.sis, person.login, "CS", "88", "-1", ""])
    rows.append(["Student, Test", 999, "", "5e884898da28", "CS", "", "", ""])
    return table(header, rows)


def canvas_download(folder: Path) -> Path:
    """Canvas' download of all submissions: one flat folder (lib/content_zipper.rb). A file that is handed in again gets a
    number."""
    folder.mkdir()
    for person in PEOPLE:
        flat = "".join(letter for letter in f"{person.last}{person.first}".lower() if letter.isalnum())
        late = "_LATE" if person.login == "grace" else ""
        start = f"{flat}{late}_{person.number}"
        contents = files(person)
        if person.login == "ken":
            archive(folder / f"{start}_9000_handin.zip", contents)
            continue
        for number, (name, text) in enumerate(contents.items()):
            shown = "raft-2.py" if person.login == "edsger" else name
            (folder / f"{start}_{9000 + 10 * person.number + number}_{shown}").write_text(text)
    return folder


# --- Moodle --------------------------------------------------------------------------------------------------------


def moodle_number(person: Person) -> int:
    return 4600 + person.number


def moodle_download(folder: Path, blind: bool = False) -> Path:
    """Moodle's download of all submissions, with a folder for each (mod/assign/locallib.php, download_submissions)."""
    for person in PEOPLE:
        if not files(person):
            continue
        name = "Participant" if blind else decomposed(person.name).replace('"', "")
        if person.login == "ken" and not blind:
            name = f"Group 3-{name}"
        place = folder / f"{name}_{moodle_number(person)}_assignsubmission_file_"
        if person.login == "ken":
            archive(write(place, {}) / "handin.zip", files(person))
        else:
            write(place, files(person))
    return folder


def moodle_worksheet(blind: bool = False) -> str:
    """The grading worksheet (mod/assign/feedback/offline/locallib.php, download_grades)."""
    names = [] if blind else ["Full name", "Email address"]
    header = ["Identifier", *names, "Status", "Grade", "Maximum Grade", "Last modified (submission)",
              "Last modified (grade)", "Feedback comments"]  # fmt: skip
    rows = []
    for person in PEOPLE:
        own = [] if blind else [person.name, person.email]
        late = (
            "Saturday, 21 November 2026, 6:00 AM" if person.login == "grace" else "Friday, 20 November 2026, 11:00 AM"
        )
        date = late if files(person) else "-"
        rows.append([f"Participant {moodle_number(person)}", *own, "Submitted", "", "15.00", date, "-", ""])
    return table(header, rows)


def moodle_gradebook() -> str:
    """The export of the gradebook (grade/export/txt/grade_export_txt.php)."""
    header = ["First name", "Last name", "ID number", "Email address", "Assignment: Raft 2A (Real)",
              "Assignment: Essay (Real)", "Course total (Real)", "Last downloaded from this course"]  # fmt: skip
    rows = [[person.first, person.last, person.sis, person.email, "-", "-", "-", "1795000000"] for person in PEOPLE]
    return table(header, rows)


# --- Gradescope and GitHub -----------------------------------------------------------------------------------------


def gradescope_export(folder: Path) -> Path:
    """Gradescope's export: a folder for each submission, and a list in YAML with Ruby's symbols as keys."""
    lines = ["---"]
    for person in PEOPLE:
        if not files(person):
            continue
        name = f"submission_{7000 + person.number}"
        place = write(folder / name, {} if person.login == "ken" else files(person))
        if person.login == "ken":
            archive(place / "handin.zip", files(person))
        hour = "23" if person.login == "grace" else "10"
        lines += [
            f"{name}:",
            "  :submitters:",
            f"  - :name: {json.dumps(person.name, ensure_ascii=False)}",
            f"    :sid: '{person.sis}'",
            f"    :email: {person.email}",
            f"  :created_at: 2026-11-20 {hour}:59:59.123456000 Z",
            "  :score: 0.0",
            "  :status: processed",
            "  :results: {tests: [{output: '- [x'}]}",
        ]
    write(folder, {"submission_metadata.yml": "\n".join(lines) + "\n"})
    return folder


def github_clones(folder: Path, people: Sequence[Person]) -> Path:
    """What `gh classroom clone student-repos` leaves: the assignment's name, a hyphen, and the login."""
    for person in people:
        repository(
            folder / f"raft-lab-2a-{person.login}", files(person), f"2026-11-{person.number - 90}T12:00:00+00:00"
        )
    return folder


# --- the report ----------------------------------------------------------------------------------------------------


def report_of(found: FoundSubmissions, folder: Path) -> Report:
    """The report of the submissions that were found. Their copies are made in ``folder``, as by a grading run."""
    from raftgrade.intake.take_in import take_in
    from raftgrade.store import Store

    with Store.create(folder) as store:
        intake = take_in(found, store)
        plan = Report(
            tool="raftgrade test",
            started="2026-11-21T00:00:00+00:00",
            settings=SETTINGS,
            submissions=intake.results(TESTS, SETTINGS),
        )
        tally = Tally(plan)
        for entry in _entries(intake):
            assert tally.add(entry)
        return tally.update_report(True, 12.5)


def _entries(intake: Intake) -> Iterable[Entry]:
    yield from intake.refused
    for name, copy in intake.copies.items():
        place = copy.path if copy.path.is_file() else copy.path / "raft.py"
        try:
            mark = json.loads(place.read_text())["mark"]
        except ValueError:
            yield RefusalEntry(name, "refused", [PROBLEM])
            continue
        for test in TESTS:
            passed = bool(mark & test.points)
            failure = None if passed else Failure("expectation", f"expected 'x' & <y>, saw {name}", where="raft.py:1")
            replay = "" if passed else f"raftlab replay {test.name}@0 --impl {copy.path}"
            yield RunEntry(
                name,
                Record(
                    test=test.name, seed=0, outcome="passed" if passed else "failed", lab="2A", title=test.title,
                    network="sim", points=test.points, failure=failure, replay=replay,
                ),
            )  # fmt: skip


def marks(report: Report) -> dict[str, int | None]:
    """The final mark of each student, by login, id or other number, as far as the report knows it."""
    return {
        next(iter(student.ids)): round(each.points) if each.final else None
        for each in report.submissions
        for student in each.students
    }


__all__ = ["BY_LOGIN", "PEOPLE", "Student", "find"]
