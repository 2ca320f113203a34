"""Tests with a class of fifteen students. It has every kind of submission and name that went wrong when an instructor tried
raftgrade. Each student must be in the right row of every format."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import msgspec
import pytest

from raftgrade import marks
from raftgrade.dates import parse_date
from raftgrade.intake import roster
from raftgrade.intake.submissions import find
from raftgrade.reports import (
    anonymous,
    autolab,
    feedback,
    github,
    gradebook,
    gradescope,
    html,
    junit,
    prairielearn,
)
from raftgrade.reports.student_text import NoMark
from raftgrade.reports.student_view import only
from raftgrade.results import ManualMark, Report, exit_code
from raftgrade.students import Finder
from tests.grader import platform_readers, trial_class
from tests.grader.trial_class import BY_LOGIN, PEOPLE


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The report of the class as ``class.csv`` names it."""
    folder = tmp_path_factory.mktemp("trial")
    return trial_class.report_of(find([trial_class.class_csv(folder)]), folder / "out")


def expected(unknown: str) -> list[str]:
    """The mark expected in each student's row, with ``unknown`` for the student who must have none."""
    return [unknown if person.mark is None else str(person.mark) for person in PEOPLE]


def by_login(unknown: str) -> dict[str, str]:
    """The expected marks by login."""
    return dict(zip((person.login for person in PEOPLE), expected(unknown), strict=True))


def only_in(report: Report, login: str) -> Report:
    """A copy of the instructor's report that has only one student's submission."""
    chosen = [each for each in report.submissions if each.students[0].login == login]
    copy = msgspec.structs.replace(report, submissions=chosen)
    return msgspec.json.decode(msgspec.json.encode(copy), type=Report)


def cells(text: str, column: str) -> list[str]:
    return [row[column] for row in csv.DictReader(io.StringIO(text))]


def test_the_report_has_every_mark_and_none_for_a_wrong_path(trial: Report) -> None:
    assert [(each.students[0].login, each.points if each.final else None) for each in trial.submissions] == [
        (person.login, person.mark) for person in PEOPLE
    ]
    by_login = {each.students[0].login: each for each in trial.submissions}
    assert by_login["nobody"].problems[0].text == "there is no submissions/nobody (class.csv line 12)"
    assert by_login["mary"].problems[0].text == (
        "there is no raft.py in the submission, only main.py: the file must be called raft.py"
    )
    assert exit_code(trial) == 2


@pytest.mark.parametrize("text", ["obrien", "S112", "obrien@example.edu", 'O\'Brien, Séan "王"', 'Séan "王" O\'Brien'])
def test_a_student_is_found_by_any_id_or_name(trial: Report, text: str) -> None:
    for shown in (text, trial_class.decomposed(text)):
        (found,) = only(trial, shown).submissions
        assert found.students[0].login == "obrien"


def test_marks_in_a_canvas_gradebook(trial: Report) -> None:
    text, notes = gradebook.fill(trial, trial_class.canvas_gradebook(), "canvas", "Raft 2A")
    read = platform_readers.canvas(text, "Raft 2A (4711)")
    assert read == {**by_login("88"), "a new student Student, Test": ""}
    before, after = (list(csv.reader(io.StringIO(each))) for each in (trial_class.canvas_gradebook(), text))
    assert [row[1:5] + row[6:] for row in after] == [row[1:5] + row[6:] for row in before]
    assert notes == [
        "left 1 cell unchanged, because the mark is not final: Nobody Atall",
        "left 1 row unchanged, because no submission matches: Student, Test",
        "put a ' in front of 1 cell that a spreadsheet would run as a formula",
    ]


def test_canvas_rows_and_columns_that_must_not_change(trial: Report) -> None:
    template = trial_class.canvas_gradebook().replace("s101,ada,CS,88", "s101,ada,CS,EX")
    template = template.replace("\r\n", "\r\n,,,,,Manual Posting,,\r\n", 1)
    text, notes = gradebook.fill(trial, template, "canvas", "Raft 2A")
    assert cells(text, "Raft 2A (4711)")[2] == "EX"
    assert notes[-2] == "left 1 cell unchanged, because Canvas excuses the student (EX): Ada Lovelace"
    with pytest.raises(gradebook.BadTemplate, match="read only"):
        gradebook.fill(trial, template, "canvas", "Final Score")
    apart = trial_class.table(
        ("LastName", "FirstName", "ID", "Section", "Raft (1)"),
        [(person.last, person.first, f"c{person.number}", "CS", "") for person in PEOPLE],
    )
    assert cells(gradebook.fill(trial, apart, "canvas")[0], "Raft (1)") == expected("")


def test_a_student_who_is_called_points_possible(tmp_path: Path, trial: Report) -> None:
    """Students choose their names. A student of this name must not be taken for the row that states the possible
    points."""
    rows = [("    Points Possible", "", "15"), ("Points Possible", "9", ""), ("Points Possible", "", "")]
    template = trial_class.table(("Student", "ID", "Raft (1)"), [*rows, ("Lovelace, Ada", "700", "")])
    assert cells(gradebook.fill(trial, template, "canvas")[0], "Raft (1)") == ["15", "", "", "15"]
    moodle = trial_class.table(("Full name", "Grade"), [("Points Possible", ""), ("Ada Lovelace", "")])
    assert cells(gradebook.fill(trial, moodle, "moodle")[0], "Grade") == ["", "15"]
    (tmp_path / "r.csv").write_text(template, encoding="utf-8")
    assert [row.student.id for row in roster.read(tmp_path / "r.csv").rows] == ["9", "700"]


@pytest.mark.parametrize("other", ["Lamport, Larry", "Somebody, Else"])
def test_canvas_numbers_that_are_other_students_ids(trial: Report, other: str) -> None:
    """Without the column "SIS User ID", a row has only the number that Canvas has given the student. It may equal the
    number that the course has given another student."""
    rows = [("Lovelace, Ada", "700", ""), (other, "S101", "88"), ("Hopper, Grace", "701", "")]
    template = trial_class.table(("Student", "ID", "Raft (1)"), rows)
    text, notes = gradebook.fill(trial, template, "canvas")
    assert cells(text, "Raft (1)") == ["", "88", ""]
    assert any(note.startswith("left 3 rows unchanged, because no submission matches: Lovelace, Ada") for note in notes)


def test_marks_in_a_moodle_gradebook(trial: Report) -> None:
    text, notes = gradebook.fill(trial, trial_class.moodle_gradebook(), "moodle", "Raft 2A")
    read = platform_readers.moodle_gradebook(text, "Assignment: Raft 2A (Real)")
    assert read == {person.login: person.mark for person in PEOPLE}
    assert set(cells(text, "Assignment: Essay (Real)")) == {"-"}
    assert notes[0] == "left 1 cell unchanged, because the mark is not final: Nobody Atall"


def test_moodle_worksheet_takes_comments_and_skips_what_is_above_the_maximum(tmp_path: Path, trial: Report) -> None:
    report = msgspec.json.decode(msgspec.json.encode(trial), type=Report)
    by_name = {each.students[0].login: each for each in report.submissions}
    by_name["ada"].manual = [ManualMark(points=1, change=True, comment="bonus")]
    by_name["grace"].manual = [ManualMark(comment="see me")]
    marks.mark(report)
    text, notes = gradebook.fill(report, trial_class.moodle_worksheet(), "moodle")
    read = platform_readers.moodle_worksheet(text)
    assert {login: mark for login, (mark, _) in read.items()} == {
        person.login: person.mark for person in PEOPLE if person.mark is not None and person.login != "ada"
    }
    assert [login for login, (_, comment) in read.items() if comment] == ["grace"]
    assert "Moodle will skip 1 mark above the assignment's maximum: Ada Lovelace" in notes


def test_marks_in_junit(trial: Report) -> None:
    passed = {f"{each.name}.2A" if each.problems == [] else each.name: each for each in trial.submissions}
    read = platform_readers.junit(junit.render(trial))
    assert read == {name: bin(round(each.points)).count("1") for name, each in passed.items()}
    assert "/out/submissions" not in junit.render(trial)  # commands must not contain paths of this machine


def test_annotations_and_summary_on_github(trial: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations have a line and a file, whose path is relative to the workspace. The summary shows quotation marks
    unchanged."""
    workspace = Path(trial.submissions[0].path).parent.parent
    monkeypatch.setenv("GITHUB_WORKSPACE", str(workspace))
    grace = only_in(trial, "grace")
    assert github.commands(grace)[0] == (
        "::error file=submissions/grace/raft.py,line=1,title=2A test_8::expected 'x' & <y>, saw Grace Hopper%0A"
        "replay: raftlab replay test_8@0\n"
    )
    assert all("file=" in line and "line=" in line for line in github.commands(trial))
    assert "expected 'x' &amp; &lt;y&gt;, saw Grace Hopper" in github.summary(grace)
    assert "<code>raftlab replay test&#95;8&#64;0</code>" in github.summary(grace)
    grace.submissions[0].tests[0].networks[0].bad[
        0
    ].failure.where = ""  # a failure that breaks a rule has no line in the code
    copy = tmp_path / "submissions" / grace.submissions[0].slug
    trial_class.write(copy, {"raft.py": "import x\n\n\nclass Raft:\n"})
    assert "raft.py,line=4," in github.commands(grace, tmp_path)[0]


@pytest.mark.parametrize("login", [person.login for person in PEOPLE])
def test_marks_of_one_student_in_autograders(trial: Report, login: str) -> None:
    mark = BY_LOGIN[login].mark
    own = only(trial, login)
    if mark is None:
        for render in (gradescope.render, prairielearn.render, autolab.render):
            with pytest.raises(NoMark, match="has no mark: there is no submissions/nobody"):
                render(own)
        return
    assert platform_readers.gradescope(gradescope.render(own)) == mark
    assert platform_readers.gradescope(gradescope.render(own, visibility="after_due_date")) == mark
    refused = own.submissions[0].state == "refused"
    share = platform_readers.prairielearn(prairielearn.render(own))
    assert share == (None if refused else pytest.approx(mark / 15, abs=1e-6))
    assert platform_readers.autolab(autolab.render(own), {"2A"}) == {"2A": mark}
    for text in (gradescope.render(own), prairielearn.render(own), autolab.render(own)):
        assert not refused or "raft.py" in text
        assert "/out/submissions" not in text


def test_csv_with_a_row_per_student_and_per_test(trial: Report) -> None:
    rows = list(csv.DictReader(io.StringIO(gradebook.plain(trial))))
    assert {row["login"]: row["points"] for row in rows} == by_login("")
    rows = list(csv.DictReader(io.StringIO(gradebook.per_test(trial))))
    assert len(rows) == len(PEOPLE) * len(trial_class.TESTS)
    for person in PEOPLE:
        own = [row for row in rows if row["login"] == person.login]
        assert [row["max_points"] for row in own] == ["8", "4", "2", "1"]
        assert {row["id"] for row in own} == {person.sis}
        assert sum(int(row["points"] or 0) for row in own) == (person.mark or 0)
    assert {row["state"] for row in rows if row["login"] == "nobody"} == {"unjudged"}
    (row,) = [row for row in rows if row["login"] == "grace" and row["test"] == "test_8"]
    assert (row["sim_passes"], row["sim_failures"], row["first_failure"]) == ("0", "1", "other: expectation")


def test_an_anonymous_report_names_nobody(trial: Report) -> None:
    codes = anonymous.codes(b"key", [each.name for each in trial.submissions])
    assert len(set(codes.values())) == len(PEOPLE)
    hidden = anonymous.anonymous(trial, codes)
    texts = [gradebook.plain(hidden), gradebook.per_test(hidden), junit.render(hidden), html.render(hidden)]
    for text in [*texts, str(msgspec.to_builtins(hidden))]:
        # Names in a submission's own messages are not replaced, so leave these messages out.
        shown = re.sub(r"saw [^\n\"'<]+", "", text)
        assert not [person.login for person in PEOPLE if re.search(rf"\b({person.login}|{person.first})\b", shown)]
    assert [each.name for each in hidden.submissions] == sorted(codes.values())
    assert {each.name: each.points for each in hidden.submissions} == {
        codes[each.name]: each.points for each in trial.submissions
    }
    (found,) = Finder(trial.submissions, lambda each: each.path, codes).find(codes["Ada Lovelace"])
    assert found.name == "Ada Lovelace"


def test_each_student_gets_a_feedback_file(tmp_path: Path, trial: Report) -> None:
    notes = feedback.write(trial, tmp_path, tmp_path / "pages")
    assert notes[0] == f"14 feedback files and a list of them (students.csv) are in {tmp_path}/pages"
    rows = list(csv.DictReader(io.StringIO((tmp_path / "pages" / "students.csv").read_text())))
    assert {row["login"]: row["points"] for row in rows} == {
        login: mark for login, mark in by_login("").items() if login != "nobody"
    }
    for row in rows:
        page = (tmp_path / "pages" / row["file"]).read_text()
        name = BY_LOGIN[row["login"]].name
        assert f"<title>{html.jinja2.filters.escape(name)}" in page


def test_names_alone_are_enough_if_they_are_unique(trial: Report) -> None:
    text = trial_class.table(
        ("Student", "ID", "Raft (1)"), [(person.sortable, f"c{n}", "") for n, person in enumerate(PEOPLE)]
    )
    filled, _ = gradebook.fill(trial, trial_class.decomposed(text), "canvas")
    assert cells(filled, "Raft (1)") == expected("")


def test_submissions_downloaded_from_canvas(tmp_path: Path) -> None:
    place = trial_class.canvas_download(tmp_path / "canvas")
    (tmp_path / "gradebook.csv").write_text(trial_class.canvas_gradebook(), encoding="utf-8")
    for students in (None, roster.read(tmp_path / "gradebook.csv")):
        found = find([place], students=students)
        report = trial_class.report_of(found, tmp_path / f"out{students is None}")
        text, _ = gradebook.fill(report, trial_class.canvas_gradebook(), "canvas", "Raft 2A")
        assert platform_readers.canvas(text, "Raft 2A (4711)") == {**by_login("88"), "a new student Student, Test": ""}
    feedback.write(report, tmp_path, tmp_path / "feedback.zip")
    assert sorted(platform_readers.canvas_feedback(tmp_path / "feedback.zip")) == sorted(set(BY_LOGIN) - {"nobody"})
    shown = tmp_path / "gradebook.csv"
    assert found.notes == [f"2 students of {shown} have no submission, and so no mark: Atall, Nobody; Student, Test"]
    assert {each.name: each.submitted for each in found.submissions}["Hopper, Grace"] == "late"


@pytest.mark.parametrize("blind", [False, True])
def test_submissions_downloaded_from_moodle(tmp_path: Path, blind: bool) -> None:
    """With blind marking, the worksheet has an Identifier and no names."""
    place = trial_class.moodle_download(tmp_path / "moodle", blind)
    worksheet = trial_class.moodle_worksheet(blind)
    (tmp_path / "worksheet.csv").write_text(worksheet, encoding="utf-8")
    for students in (None, roster.read(tmp_path / "worksheet.csv")):
        report = trial_class.report_of(find([place], students=students), tmp_path / f"out{students is None}")
        read = platform_readers.moodle_worksheet(gradebook.fill(report, worksheet, "moodle")[0])
        assert {login: mark for login, (mark, _) in read.items()} == {
            person.login: person.mark for person in PEOPLE if person.mark is not None
        }
        feedback.write(report, tmp_path, tmp_path / "feedback.zip")
        files = platform_readers.moodle_feedback(tmp_path / "feedback.zip")
        assert files == dict.fromkeys(set(BY_LOGIN) - {"nobody"}, "feedback.html")
    if not blind:
        # The gradebook has no numbers, so names must match. The name of Ken's file begins with the name of his group.
        text, _ = gradebook.fill(report, trial_class.moodle_gradebook(), "moodle", "Raft 2A")
        assert cells(text, "Assignment: Raft 2A (Real)") == expected("-")


def test_submissions_exported_from_gradescope(tmp_path: Path) -> None:
    place = trial_class.gradescope_export(tmp_path / "export")
    report = trial_class.report_of(find([place]), tmp_path / "out")
    text, notes = gradebook.fill(report, trial_class.canvas_gradebook(), "canvas", "Raft 2A")
    assert cells(text, "Raft 2A (4711)") == ["15", *expected("88"), ""]
    assert "left 2 rows unchanged, because no submission matches: Atall, Nobody; Student, Test" in notes


def test_a_group_in_gradescope_and_a_folder_that_it_does_not_know(tmp_path: Path) -> None:
    place = trial_class.write(tmp_path / "export" / "submission_1", {"raft.py": trial_class.source(9)}).parent
    trial_class.write(place / "submission_2", {"notes.txt": ""})
    trial_class.write(place / "late by mail", {"raft.py": trial_class.source(3)})
    submitters = "".join(f"  - :name: {name}\n    :email: {name}@example.edu\n    :sid:\n" for name in ("ada", "grace"))
    text = f"---\nsubmission_1:\n  :submitters:\n{submitters}  :created_at: 2026-11-20 10:59:59.123456000 -05:00\n"
    trial_class.write(place, {"submission_metadata.yml": text})
    found = find([place])
    assert found.notes == [f"not graded from {place}, because nothing says who handed it in: submission_2"]
    report = trial_class.report_of(found, tmp_path / "out")
    assert [(each.name, each.points) for each in report.submissions] == [("ada, grace", 9), ("late by mail", 3)]
    filled, _ = gradebook.fill(report, trial_class.moodle_gradebook(), "moodle", "Raft 2A")
    marks = platform_readers.moodle_gradebook(filled, "Assignment: Raft 2A (Real)")
    assert {login: mark for login, mark in marks.items() if mark is not None} == {"ada": 9, "grace": 9}
    moment = parse_date(report.submissions[0].submitted)
    assert moment is not None
    assert moment.isoformat() == "2026-11-20T10:59:59.123456-05:00"


def test_submissions_cloned_from_github(tmp_path: Path) -> None:
    people = [BY_LOGIN[login] for login in ("ada", "grace", "pair")]
    place = trial_class.github_clones(tmp_path / "clones", people)
    found = find([place], students=roster.read(trial_class.roster_csv(tmp_path)))
    report = trial_class.report_of(found, tmp_path / "out")
    in_report = {each.students[0].login: each.points for each in report.submissions if each.final}
    assert in_report == {"ada": 15, "grace": 1, "pair": 13}
    assert [each.submitted for each in report.submissions[:3]] == [
        f"2026-11-{person.number - 90}T12:00:00+00:00" for person in people
    ]
