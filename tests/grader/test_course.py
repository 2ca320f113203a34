"""Tests of what a course needs around grading: a roster, deadlines, several submissions of a student, anonymous marks."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from raftgrade.cli import main
from raftgrade.intake import roster
from raftgrade.intake.submissions import BadPath, find
from tests.conftest import ROOT
from tests.grader import platform_readers, trial_class
from tests.grader.fakes import submission, tools

RUN = ["--labs", "2A", "--network", "sim", "--runs", "1"]
LATE = "[late]\npercent_a_day = 10\n"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def rows(capsys: pytest.CaptureFixture[str], *options: str) -> list[dict[str, str]]:
    """The report as CSV."""
    capsys.readouterr()
    assert main(["report", "raftgrade-out", "--format", "csv", *options]) == 0
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_a_roster_with_groups_dates_and_extensions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ada", "Team 7", "stranger", "Hopper, Grace"):
        submission(tmp_path, f"class/{name}")
    Path("roster.csv").write_text(
        "id,name,login,group,extension,submitted\n"
        "1,Ada Lovelace,ada,,24h,2026-11-22 12:00\n"
        "2,Grace Hopper,,,,2026-11-20 23:00\n"
        "3,Edith P.,,Team 7,,2026-11-21T01:00+02:00\n"
        "4,Larry L.,,Team 7,,\n"
        "5,Nobody,,,,\n"
    )
    Path("r.toml").write_text(LATE)
    due = ["--due", "2026-11-20T23:00+01:00", "--rubric", "r.toml"]
    assert main(["run", "class", *RUN, "--roster", "roster.csv", *due], tools()) == 2
    err = capsys.readouterr().err
    assert (
        "1 submission matches no student in roster.csv, or more than one, and was graded without a roster entry: stranger"
        in err
    )
    assert "1 student of roster.csv has no submission, and so no mark: Nobody" in err
    assert (
        "the submission time of 1 submission is unknown, so no late penalty was applied (use --late to state how late it "
        "was): stranger" in err
    )
    found = {row["id"] or row["submission"]: row for row in rows(capsys)}
    # Team 7's 01:00+02:00 is 00:00 in the deadline's time zone (+01:00), so 1 hour late. Ada is 37 hours late, minus
    # her extension of 24 hours.
    assert {key: (row["points"], row["penalty"]) for key, row in found.items()} == {
        "1": ("13.5", "1.5"),
        "2": ("15", "0"),
        "3": ("13.5", "1.5"),
        "4": ("13.5", "1.5"),
        "5": ("", "0"),
        "stranger": ("15", "0"),
    }
    # A list of late submissions takes precedence over a date, and the extension still holds.
    Path("late.csv").write_text("login;days\nada;3\n")
    (ada,) = [row for row in rows(capsys, "--late", "late.csv") if row["id"] == "1"]
    assert (ada["late_days"], ada["penalty"]) == ("2", "3")


def test_mistakes_in_a_roster_are_reported(tmp_path: Path) -> None:
    submission(tmp_path, "ada")
    for text, words in (
        ("id,name\n1,Ada\n1,Ada\n", "line 3: 'Ada' is in line 2, too"),
        ("id,login\n1,ada\n2,ADA\n", "line 3: 'ada' already belongs to another student, in line 2"),
        ("id,extension\n1,soon\n", "line 2: expected an extension in days or hours, such as 2 or 36h, not 'soon'"),
        (
            "id,name,login\n1,Lovelace, Ada,ada\n",
            "line 2: there are more cells than columns: put a cell with a comma in quotes",
        ),
        ("id,due\n1,tomorrow\n", "line 2: expected a deadline such as 2026-11-30 23:59, not 'tomorrow'"),
    ):
        Path("r.csv").write_text(text)
        with pytest.raises(BadPath) as caught:
            find(["ada"], students=roster.read(Path("r.csv")))
        assert str(caught.value) == f"r.csv {words}"


def test_a_roster_saved_by_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """A roster is read even if Excel saved it as "Unicode text", and even if its ids, names and logins have invisible
    characters that were copied from a web page."""
    submission(tmp_path, "class/007")
    submission(tmp_path, "class/ALI")
    text = '\u202aID\tName \tLogin\r\n007\tAda\u00a0L\n\u200b1e5\t"Reza\u200cAli\nKh" \tali\u00a0\r\n'
    Path("r.csv").write_bytes(text.replace("\u202aID", "ID").encode("utf-16"))
    found = find(["class"], students=roster.read(Path("r.csv")))
    assert [(each.name, each.students[0].id, each.students[0].login) for each in found.submissions] == [
        ("Ada L", "007", ""),
        ("RezaAli Kh", "1e5", "ali"),
    ]
    assert found.notes == []
    assert roster.decoded('a\r\n"b\rc"'.encode("utf-16")) == 'a\n"b\nc"'


def test_a_student_who_handed_in_nothing_is_no_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/ada")
    (tmp_path / "class" / "mary").mkdir()
    (tmp_path / "class" / "mary" / ".git").mkdir()
    Path("roster.csv").write_text("login,name\nada,Ada\nmary,Mary\n")
    words = ["run", "class", *RUN, "--roster", "roster.csv"]
    assert main(words, tools()) == 0
    out = capsys.readouterr().out
    assert "== Mary: nothing was handed in" in out
    assert "1 of 1 submissions clean · 1 student without a submission" in out
    assert [(row["name"], row["state"], row["points"]) for row in rows(capsys)] == [
        ("Ada", "graded", "15"),
        ("Mary", "absent", ""),
    ]
    for format in ("html", "junit", "github", "csv-tests"):
        assert main(["report", "raftgrade-out", "--format", format]) == 0
        assert "unjudged" not in capsys.readouterr().out
    # A folder without a raft.py counts as handed in.
    (tmp_path / "class" / "mary" / "main.py").write_text("")
    assert main(words, tools()) == 2
    assert [(row["name"], row["state"], row["points"]) for row in rows(capsys)][1] == ("Mary", "refused", "0")
    # A submission that belongs to nobody on the roster may be the missing student's.
    (tmp_path / "class" / "mary").rename(tmp_path / "class" / "marie")
    submission(tmp_path, "class/stranger")
    assert main(words, tools()) == 2
    assert [(row["submission"], row["state"]) for row in rows(capsys)][1:] == [
        ("stranger", "graded"),
        ("Mary", "unjudged"),
    ]
    Path("class.csv").write_text("name,path\nAda,\n")
    assert main(["run", "class.csv", *RUN], tools()) == 2  # 2: nobody handed in anything


def test_leaving_out_options_of_the_earlier_report_is_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission(tmp_path, "ada")
    Path("my r.toml").write_text(LATE)
    words = ["run", "ada", *RUN, "--due", "2026-11-20"]
    assert main([*words, "--rubric", "my r.toml", "--attempts", "last"], tools()) == 0
    assert "WARNING" not in capsys.readouterr().err
    assert main(words, tools()) == 0
    warning = (
        "raftgrade: WARNING: the earlier report in raftgrade-out was made with --rubric 'my r.toml' --attempts last, but "
        "this one is made without them: marks may differ\n"
    )
    assert capsys.readouterr().err.count(warning) == 2  # before the runs, and after the table
    assert main(words, tools()) == 0
    assert "WARNING" not in capsys.readouterr().err


def test_the_best_or_last_of_several_submissions_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "monday/ada", {"second": "fail"})
    submission(tmp_path, "friday/ada", {"first": "fail"})
    Path("class.csv").write_text(
        "id,name,path,submitted\n1,Ada,monday/ada,2026-11-16\n1,Ada,friday/ada,2026-11-20T00:00Z\n"
    )
    assert main(["run", "class.csv", *RUN], tools()) == 1

    def standing(*options: str) -> list[tuple[str, str]]:
        return [(row["points"], row["standing"]) for row in rows(capsys, *options)]

    assert standing() == [("10", "undecided"), ("5", "undecided")]
    assert standing("--attempts", "best") == [("10", "counts"), ("5", "superseded")]
    assert standing("--attempts", "last") == [("10", "superseded"), ("5", "counts")]
    Path("book.csv").write_text("Student,ID,Section,Raft (1)\nAda,1,CS,\n")
    canvas = ["report", "raftgrade-out", "--format", "canvas", "--template", "book.csv"]
    main(canvas)
    captured = capsys.readouterr()
    assert captured.out.endswith("Ada,1,CS,\n")
    assert (
        "left out 2 submissions, because their students have more than one (choose with --attempts best or last): "
        "Ada; Ada-2" in captured.err
    )
    main([*canvas, "--attempts", "last"])
    assert capsys.readouterr().out.endswith("Ada,1,CS,5\n")


def test_a_misnamed_file_earns_nothing_and_the_student_reads_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "submission").mkdir()
    (tmp_path / "submission" / "Raft.py").write_text("")
    assert main(["run", "submission", *RUN], tools()) == 2
    assert not Path("raftgrade-out").exists()
    assert main(["run", "submission", "--single", *RUN], tools()) == 2
    assert main(["report", "raftgrade-out", "--format", "gradescope", "-o", "results.json"]) == 0
    text = Path("results.json").read_text()
    assert platform_readers.gradescope(text) == 0
    assert "there is no raft.py in the submission, only Raft.py: the file must be called raft.py" in text
    submission(tmp_path, "submission/inside")
    assert main(["run", "submission", "--single", *RUN], tools()) == 0


def test_anonymous_marks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/ada", {"first": "fail"})
    submission(tmp_path, "class/grace")
    assert main(["run", "class", *RUN], tools()) == 1
    shown = rows(capsys, "--anonymous")
    assert not {"ada", "grace"} & {cell for row in shown for cell in row.values()}
    (code,) = [row["submission"] for row in shown if row["points"] == "5"]
    Path("m.csv").write_text(f"submission,points,comment\n{code},+2,a nice idea\n")
    named = rows(capsys, "--manual", "m.csv")
    assert [(row["submission"], row["points"], row["comments"]) for row in named] == [
        ("ada", "7", "a nice idea"),
        ("grace", "15", ""),
    ]
    assert main(["run", "class", *RUN, "--manual", "m.csv"], tools()) == 1
    assert [row["points"] for row in rows(capsys, "--anonymous", "--student", code)] == ["7"]


def autograder(tmp_path: Path, *options: str) -> tuple[dict[str, bytes], list[str]]:
    """The files of an autograder, and the words of its grading command."""
    assert main(["gradescope-zip", str(tmp_path / "a.zip"), *options]) == 0
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (command,) = re.findall(rb"^grade run (.*)$", files["run_autograder"], re.M)
    return files, command.decode().split()


def test_an_autograder_for_lab_3_can_be_made(tmp_path: Path) -> None:
    files, words = autograder(tmp_path, "--raft", "reference", "--visibility", "after_published")
    assert words[:6] == ["submission", "--single", "--labs", "3A,3B", "--raft", "reference"]
    assert files["packages/raftlab/data/solutions/raft.py"] == (ROOT / "solutions" / "raft.py").read_bytes()
    assert b"--visibility after_published -o results" in files["run_autograder"]
    trial_class.write(tmp_path / "my raft", {"raft.py": "import log\nclass Raft: ...\n", "log.py": "x = 1\n"})
    files, words = autograder(tmp_path, "--raft", "my raft", "--labs", "3A")
    assert " ".join(words).startswith("submission --single --labs 3A --raft 'source/raft/my raft' --network")
    assert {"raft/my raft/raft.py", "raft/my raft/log.py"} <= set(files)


def test_saved_reports_name_students_and_old_ones_are_readable(tmp_path: Path) -> None:
    submission(tmp_path, "ada")
    Path("class.csv").write_text("id,login,path\n7,ada,ada\n")
    assert main(["run", "class.csv", *RUN], tools()) == 0
    saved: dict[str, Any] = json.loads(Path("raftgrade-out/report.json").read_text())
    assert saved["submissions"][0]["students"][0]["login"] == "ada"
    for name in ("students", "submitted", "prefix", "manual", "settled"):
        del saved["submissions"][0][name]
    Path("raftgrade-out/report.json").write_text(json.dumps(saved))
    assert main(["report", "raftgrade-out", "--unverified"]) == 0
