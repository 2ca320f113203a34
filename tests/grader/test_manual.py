"""Tests of points and comments that an instructor gives by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raftgrade import manual, marks
from raftgrade.cli import main
from raftgrade.reports import html, table
from raftgrade.results import ManualMark, Report
from raftgrade.students import Finder
from tests.grader.fakes import submission, tools
from tests.grader.test_marks import graded, points


def read(report: Report, text: str) -> dict[str, list[ManualMark]]:
    find = Finder(report.submissions, lambda each: each.path).find
    return manual.read(text, "m.csv", find, ["first", "second", "third"])


def by_hand(rows: str, runs: dict[str, str], rubric: str = "") -> Report:
    report = graded(rubric, runs)
    manual.set_marks(report.submissions, read(report, f"submission,test,points,comment\n{rows}"))
    marks.mark(report)
    return report


def test_points_are_set_or_changed_and_each_comment_is_a_note() -> None:
    rows = 'alice,2A first,7,a good idea\nALICE.zip,third,-1.5,\nalice,second,,"well, done"\n'
    (alice,) = by_hand(rows.replace("ALICE.zip", "alice"), {"first": "+++++++++-"}).submissions
    assert points(alice) == [7, 5, 18.5]
    assert [test.notes for test in alice.tests] == [["7 points by hand: a good idea"], ["well, done"], ["−1.5 by hand"]]
    assert (alice.points, alice.settled, alice.final) == (30.5, False, True)


def test_points_by_hand_in_a_test_count_for_labs_that_need_it_and_lose_what_late_points_lose() -> None:
    rubric = "[labs.2B]\nneeds = ['2A']\n[late]\npercent_a_day = 10"
    report = by_hand("alice,second,5,\n", {"second": "+++++++++-"}, rubric)
    (alice,) = report.submissions
    assert points(alice) == [10, 5, 20]
    alice.late_days = 1
    marks.mark(report)
    assert (alice.points, alice.penalty) == (31.5, 3.5)


def test_points_by_hand_for_a_whole_submission() -> None:
    report = by_hand("alice,,-50,copied\n", {})
    (alice,) = report.submissions
    assert (alice.points, alice.comments) == (0, ["copied"])
    assert "By hand: -50 points: copied" in table.render(report)
    assert '<p class="notice">copied</p>' in html.render(report)
    report = by_hand("alice,,12,\n", {"first": "??????++++"})
    assert (report.submissions[0].points, report.submissions[0].final) == (
        12,
        True,
    )  # even if some runs could not be judged
    report = by_hand("alice,first,12,\n", {"first": "??????++++"})
    assert (report.submissions[0].tests[0].state, report.submissions[0].final) == ("judged", True)
    assert not by_hand("alice,first,+1,\n", {"first": "??????++++"}).submissions[0].final
    marks.mark(report)
    assert report.submissions[0].tests[0].notes == [
        "12 points by hand"
    ]  # the note is there once, however often the report is marked


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("who,points\n", "m.csv: expected a first line with submission,test,points,comment (or id, login, email or name "
         "instead of submission); saw who, points"),
        ("id,points\nbob,1\n", "m.csv line 2: there is no submission 'bob'"),
        ("id,test,points\nalice,fist,1\n", "m.csv line 2: none of the graded labs has a test called 'fist'"),
        ("id,points\nalice,lots\n", "m.csv line 2: expected points such as 7, +2 or -1.5, not 'lots'"),
        ("id,points,comment\nalice,,\n", "m.csv line 2: there are neither points nor a comment"),
        ("id,points,comment\nalice,+2,late, copied\n", "m.csv line 2: there are more cells than columns: put a cell with a "
         "comma in quotes"),
        ("id,points\nalice,1\n\nalice,2\n", "m.csv line 4: alice is in line 2, too"),
    ],
)  # fmt: skip
def test_mistakes_are_reported_with_their_line(text: str, words: str) -> None:
    with pytest.raises(manual.BadManual) as caught:
        read(graded("", {}), text)
    assert str(caught.value) == words


def test_points_by_hand_survive_a_regrade(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    submission(tmp_path, "class/alice", {"first": "fail"})
    submission(tmp_path, "class/bob")
    Path("m.csv").write_text("submission,test,points,comment\nalice,first,+4,nearly\nbob,,1,copied\n")
    run = ["run", "class", "--labs", "2A", "--network", "sim", "--runs", "1"]

    def saved() -> list[tuple[str, float]]:
        report = json.loads(Path("raftgrade-out/report.json").read_text())
        return [(each["name"], each["points"]) for each in report["submissions"]]

    assert main([*run, "--manual", "m.csv"], tools()) == 1
    assert saved() == [("alice", 9), ("bob", 1)]
    submission(tmp_path, "class/carol")
    (tmp_path / "class" / "alice" / "raft.py").write_text("{}")
    capsys.readouterr()
    assert main(run, tools()) == 0
    assert saved() == [("alice", 19), ("bob", 1), ("carol", 15)]
    assert (
        "kept the points and comments given by hand for 2 submissions of the earlier report\n"
        in capsys.readouterr().err
    )
    # Points are kept only from a report that this user has signed.
    path = Path("raftgrade-out/report.json")
    path.write_text(path.read_text().replace('"points": 1.0', '"points": 99.0'))
    main(run, tools())
    assert saved() == [("alice", 15), ("bob", 15), ("carol", 15)]
    assert "did not keep the points and comments given by hand in the earlier report" in capsys.readouterr().err
