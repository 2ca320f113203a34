"""Tests of the reports for other programs: the structure of each format, and that no student's text breaks this
structure."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

import msgspec
import pytest

from raftgrade import rubric, signatures
from raftgrade.cli import main
from raftgrade.plan import Settings
from raftgrade.reports import github, gradebook, gradescope, html, junit
from raftgrade.reports.gradebook import BadTemplate
from raftgrade.reports.student_view import only
from raftgrade.results import Problem, Report
from raftgrade.store import Store
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally, blank
from raftlab.explain.failure import Failure, Rule
from raftlab.sandbox.levels import Sandbox
from tests.conftest import ROOT
from tests.grader.fakes import record
from tests.grader.test_marks import TESTS

NASTY = "<b>&\"'`|*_ ::error::x %0A =cmd() \x1b[31m \u202e ]]> $x$ @all\nsecond line"
RULE = Rule("one vote a term", "a server votes once", "§5.2", "handouts/lab-2a-details.md#who-gets-my-vote")
HIDDEN = rubric.Hidden(2, "nobody knows").seeds()


def made(text: str = "", hidden: bool = False) -> Report:
    """A report in which alice passes, bob fails in every way, carol was refused, and dave could not be judged."""
    settings = Settings(
        labs=["2A", "2B"], networks=["sim", "rpyc"], runs={"sim": 2, "rpyc": 1}, seed=0, jobs=1,
        hidden=HIDDEN if hidden else None,
    )  # fmt: skip
    names = ["alice", "bob", "carol", "dave"]
    report = Report(
        tool="raftgrade test",
        started="2026-11-21T00:00:00+00:00",
        settings=settings,
        rubric=rubric.parse(text, "r.toml"),
        submissions=[blank(name, name, f"class/{name}", TESTS, settings) for name in names],
    )
    tally = Tally(report)
    nasty = Failure("invariant", f"expected {NASTY}", RULE, "raft.py:12", NASTY, [NASTY], NASTY)
    entries: list[Entry] = [RefusalEntry("carol", "refused", [Problem(f"no class Raft {NASTY}", "raft.py:3", "setup")])]
    for name in ("alice", "bob", "dave"):
        for test in TESTS:
            for network in test.networks:
                seeds = [0, 1] if network == "sim" else [0]
                for seed in [*seeds, *(range(*HIDDEN) if hidden and network == "sim" else ())]:
                    more: dict[str, Any] = {"lab": test.lab, "network": network}
                    if name == "bob" and test.name == "first":
                        words = nasty if seed < 2 else Failure("invariant", f"at seed {seed}", RULE, detail=f"{seed}")
                        replay = f"raftlab replay first@{seed} --impl 'class/b ob'"
                        more |= {"outcome": "failed", "failure": words, "replay": replay, "trace": f"t-{seed}.jsonl"}
                    if name == "dave" and test.name == "second":
                        more |= {"outcome": "error", "failure": Failure("not-judged", "the machine is on fire")}
                    entries.append(RunEntry(name, record(test.name, seed, **more)))
    for entry in entries:
        assert tally.add(entry)
    return tally.update_report(True, 12.5)


def report(tmp_path: Path, of: Report) -> Path:
    with Store.create(tmp_path / "out") as store:
        store.signer = signatures.Signer(signatures.key(), of)
        store.save(of)
    return tmp_path / "out"


# --- JUnit ---


def test_junit_has_the_structure_that_readers_expect() -> None:
    root = xml.fromstring(junit.render(made("[labs.2B]\nneeds = ['2A']")))
    assert root.tag == "testsuites"
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"} <= set(suite.attrib)
        cases = suite.findall("testcase")
        assert int(suite.attrib["tests"]) == len(cases)
        for case in cases:
            assert {"name", "classname", "time"} <= set(case.attrib)
            assert [child.tag for child in case][-1:] in (["system-out"], ["failure"])
            assert all(child.tag in ("failure", "error", "skipped", "system-out") for child in case)
        for name in totals:
            totals[name] += int(suite.attrib[name])
    assert totals == {name: int(root.attrib[name]) for name in totals}
    assert totals == {"tests": 10, "failures": 2, "errors": 2}
    assert sum(int(suite.attrib["skipped"]) for suite in root) == 1


def test_junit_explains_failures_and_escapes_control_characters() -> None:
    text = junit.render(made())
    failure = next(item for item in xml.fromstring(text).iter("failure") if item.attrib["type"] != "refused")
    assert failure.attrib["type"] == "rule: one vote a term"
    assert failure.attrib["message"].startswith("expected <b>&\"'`|*_ ::error::x %0A =cmd() \\x1b[31m \\u202e ]]>")
    assert failure.text is not None
    assert "replay: raftlab replay first@0\n" in failure.text
    assert "sim: 2 of 2 runs, seeds 0, 1" in failure.text
    assert "\x1b" not in text


# --- GitHub ---


def test_annotations_point_to_the_line_and_cannot_be_forged() -> None:
    lines = github.commands(made())
    assert len(lines) == 2
    assert lines[0].startswith("::error file=raft.py,line=12,title=2A first::expected <b>&")
    assert lines[1].startswith("::error file=raft.py,line=3,title=carol%3A refused::no class Raft <b>&")
    assert "%250A" in lines[0]
    assert all(line.count("\n") == 1 and line.endswith("\n") for line in lines)
    assert "\x1b" not in "".join(lines)
    assert len(github.commands(Report(**{**_fields(made()), "submissions": made().submissions * 20}))) == 10


def _fields(of: Report) -> dict[str, Any]:
    return {name: getattr(of, name) for name in of.__struct_fields__}


def test_the_summary_escapes_students_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = github.summary(made())
    assert "**90 of 140 points**, 21 runs, 12 s" in text
    assert "### alice: 35 of 35 points" in text
    row = next(line for line in text.splitlines() if line.startswith("| 2A first"))
    assert row.count("|") == 5
    assert "<b>" not in text
    assert "@all" not in text
    assert "\\u202e" not in text  # the backslash is an entity too
    assert "&#92;u202e" in text
    out = report(tmp_path, made())
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["report", str(out), "--format", "github"]) == 0
    assert (tmp_path / "summary.md").read_text() == text
    assert capsys.readouterr().out == "".join(github.commands(made()))


def test_a_summary_is_no_larger_than_github_accepts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(github, "MAX_BYTES", 900)
    text = github.summary(made())
    assert len(text) < 1000
    assert text.endswith("The rest does not fit into the summary: see report.json.\n")


# --- Gradescope ---


def test_gradescopes_results_have_scores_and_texts() -> None:
    data = json.loads(gradescope.render(only(made(), "bob")))
    allowed = {
        *("score", "execution_time", "output", "output_format", "test_output_format", "test_name_format"),
        *("visibility", "stdout_visibility", "extra_data", "tests"),
    }
    assert set(data) == allowed
    assert (data["score"], sum(test["score"] for test in data["tests"])) == (25, 25)
    first, second, _ = data["tests"]
    assert (first["score"], first["max_score"], first["status"], first["number"]) == (0, 10, "failed", "1")
    assert second["status"] == "passed"
    assert "replay: raftlab replay first@0\n" in first["output"] + "\n"
    assert "class/b ob" not in first["output"]
    assert "\x1b" not in first["output"]
    # With a hidden test, Gradescope would hide the total.
    assert {test["visibility"] for test in data["tests"]} == {"visible"}


def test_a_refused_submission_gets_the_reason() -> None:
    data = json.loads(gradescope.render(only(made(), "carol")))
    assert (data["score"], data["tests"]) == (0, [])
    assert data["output"].startswith("The submission cannot be tested:\n  no class Raft")


def test_no_mark_while_runs_could_not_be_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report(tmp_path, made())
    target = tmp_path / "results.json"
    assert main(["report", str(out), "--format", "gradescope", "--student", "dave", "-o", str(target)]) == 2
    assert capsys.readouterr().err == (
        "raftgrade: dave has no mark yet, because some runs are missing or could not be judged (5 points are open); run "
        "the grader again\n"
    )
    assert not target.exists()
    assert main(["report", str(out), "--format", "gradescope"]) == 2
    assert capsys.readouterr().err == (
        "raftgrade: results.json is about one submission, and this report has 4: choose one with --student NAME\n"
    )


def test_students_never_see_hidden_seeds() -> None:
    whole = made(hidden=True)
    seeds = [str(seed) for seed in range(*HIDDEN)]
    own = only(whole, "bob")
    assert any(seed in junit.render(whole) for seed in seeds) or any(seed in str(whole) for seed in seeds)
    for text in (gradescope.render(own), junit.render(own), str(own)):
        assert not any(seed in text for seed in seeds)
    assert "sim, hidden seeds: 0 of 2 runs passed" in gradescope.render(own)
    assert "at seed (hidden)" in gradescope.render(own)
    assert whole.settings.hidden == HIDDEN  # the instructor's report is unchanged
    assert gradescope.render(only(whole, "bob"), for_student=False) == gradescope.render(own)


def test_the_autograder_installs_what_raftlab_depends_on() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split("[<>=]", each)[0] for each in project["dependencies"]} == set(gradescope._PACKAGES)


def test_the_zip_of_the_autograder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    price = tmp_path / "r.toml"
    price.write_text("rule = 'proportional'")
    out = tmp_path / "a.zip"
    assert main(["gradescope-zip", str(out), "--labs", "2a,2b", "--runs", "7", "--rubric", str(price)]) == 0
    assert (
        capsys.readouterr().err == f"raftgrade: the autograder is in {out}: upload it to Gradescope without changes\n"
    )
    first = out.read_bytes()
    with zipfile.ZipFile(out) as archive:
        names = archive.namelist()
        assert names[:3] == ["setup.sh", "run_autograder", "rubric.toml"]
        assert {"packages/raftlab/cli.py", "packages/raftgrade/default_rubric.toml"} <= set(names)
        assert archive.getinfo("run_autograder").external_attr >> 16 & 0o111
        archive.extractall(tmp_path / "z")
    run = (tmp_path / "z" / "run_autograder").read_text()
    assert (
        "grade run submission --single --labs 2A,2B --network sim --runs 7 --sandbox auto --rubric source/rubric.toml "
        "--out out\n"
    ) in run
    assert "grade report out --format gradescope --visibility visible -o results/results.json\n" in run
    for name in ("setup.sh", "run_autograder"):
        subprocess.run(["bash", "-n", str(tmp_path / "z" / name)], check=True)
        assert "@" not in (tmp_path / "z" / name).read_text().replace('"$@"', "")
    main(["gradescope-zip", str(out), "--labs", "2a,2b", "--runs", "7", "--rubric", str(price)])
    assert out.read_bytes() == first
    price.write_text("x = 1")
    assert main(["gradescope-zip", str(out), "--rubric", str(price)]) == 2
    assert main(["gradescope-zip", str(out), "--runs", "0"]) == 2


# --- gradebooks ---

CANVAS = (
    "Student,ID,SIS User ID,SIS Login ID,Section,Raft (4711),Final Score\r\n"
    "    Points Possible,,,,,35,(read only)\r\n"
    '"Liddell, Alice",17,s17,alice,1,,\r\n'
    "=cmd()|x,18,s18,BOB,1,3,-5\r\n"
    "Dave,19,s19,dave,1,30,\r\n"
)


def test_a_canvas_gradebook_is_filled_in() -> None:
    text, notes = gradebook.fill(made(), CANVAS, "canvas")
    assert text == (
        "Student,ID,SIS User ID,SIS Login ID,Section,Raft (4711),Final Score\r\n"
        "    Points Possible,,,,,35,(read only)\r\n"
        '"Liddell, Alice",17,s17,alice,1,35,\r\n'
        "'=cmd()|x,18,s18,BOB,1,25,-5\r\n"
        "Dave,19,s19,dave,1,30,\r\n"
    )
    assert notes == [
        "left out 1 submission that could not be matched to exactly one row: carol",
        "left 1 cell unchanged, because the mark is not final: dave",
        "put a ' in front of 1 cell that a spreadsheet would run as a formula",
    ]


def test_marks_as_plain_csv() -> None:
    of = made()
    of.submissions[1].name = "=bob()\n"
    assert gradebook.plain(of) == (
        "submission,state,points,max_points,open_points,late_days,penalty,2A,2B,same_code_as,"
        "id,name,login,email,group,submitted,standing,comments\n"
        "alice,graded,35,35,0,0,0,15,20,,,,,,,,counts,\n"
        '"\'=bob()\n",graded,25,35,0,0,0,5,20,,,,,,,,counts,\n'
        "carol,refused,0,35,0,0,0,0,0,,,,,,,,counts,\n"
        "dave,graded,,35,5,0,0,10,20,,,,,,,,counts,\n"
    )


def test_a_moodle_gradebook_is_filled_in() -> None:
    template = "First name;Surname;Email address;Grade\nAlice;Liddell;alice@x.org;\nBob;Hope;b@x.org;1\n"
    of = made()
    of.submissions[0].name = "Alice Liddell_1234_assignsubmission_file_"
    of.submissions[1].name = "b@x.org"
    text, notes = gradebook.fill(of, template, "moodle")
    assert text == "First name;Surname;Email address;Grade\nAlice;Liddell;alice@x.org;35\nBob;Hope;b@x.org;25\n"
    assert notes[0] == "left out 2 submissions that could not be matched to exactly one row: carol; dave"


def test_the_column_is_added_or_chosen() -> None:
    text, _ = gradebook.fill(made(), "ID number,Email address\nalice,a@x.org\n", "moodle")
    assert list(csv.reader(io.StringIO(text))) == [
        ["ID number", "Email address", "raftlab"],
        ["alice", "a@x.org", "35"],
    ]
    two = "Student,ID,A (1),B (2)\nalice,1,,\n"
    assert gradebook.fill(made(), two, "canvas", "b")[0] == "Student,ID,A (1),B (2)\nalice,1,,35\n"
    with pytest.raises(BadTemplate) as caught:
        gradebook.fill(made(), two, "canvas")
    assert str(caught.value) == ("the gradebook has 2 columns that fit (A (1), B (2)): name one with --column")


def test_ambiguous_rows_are_left_unchanged() -> None:
    of = made()
    of.submissions[1].name = "17"
    text, notes = gradebook.fill(of, "Student,ID,SIS Login ID,A (1)\nx,17,alice,\n", "canvas")
    assert text == "Student,ID,SIS Login ID,A (1)\nx,17,alice,\n"
    assert notes[0].startswith("left out 4 submissions that could not be matched")
    assert gradebook.fill(made(), "Student,ID,A (1)\nalice,1,\nalice,2,\n", "canvas")[0].endswith(
        "alice,1,\nalice,2,\n"
    )


def test_a_different_maximum_is_noted() -> None:
    _, notes = gradebook.fill(made(), CANVAS.replace(",35,", ",100,"), "canvas")
    assert "the gradebook allows at most 100 points, but the report has 35: marks are not scaled" in notes


@pytest.mark.parametrize(
    ("arguments", "template", "words"),
    [
        (["--format", "canvas"], None, "--format canvas fills in a gradebook: export it from Canvas and name it with "
         "--template FILE"),
        (["--format", "moodle", "--template", "t.csv"], "", "the gradebook is empty: expected the CSV that the course "
         "system exports"),
        (["--format", "moodle", "--template", "t.csv"], "a,b\n1,2\n", "the gradebook has no column that identifies "
         "students: expected one of email address, username, id number, identifier, full name in its first line"),
        (["--format", "moodle", "--template", "none.csv"], None, "none.csv cannot be read: No such file or directory"),
        (["--format", "junit", "--column", "x"], None, "--column goes with --format canvas or moodle"),
        (["--format", "html", "--student", "eve"], None, "there is no submission 'eve' in this report; there are: alice, "
         "bob, carol, dave"),
        (["--rubric", "none.toml"], None, "the rubric none.toml cannot be read: No such file or directory"),
        (["--late", "none.csv"], None, "none.csv cannot be read: No such file or directory"),
    ],
)  # fmt: skip
def test_reports_that_are_refused(
    arguments: list[str], template: str | None, words: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    out = report(tmp_path, made())
    if template is not None:
        Path("t.csv").write_text(template)
    assert main(["report", str(out), *arguments]) == 2
    assert capsys.readouterr().err == f"raftgrade: {words}\n"


def test_marks_can_be_computed_again_with_another_rubric(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report(tmp_path, made())
    (tmp_path / "r.toml").write_text("[late]\npercent_a_day = 10")
    (tmp_path / "l.csv").write_text("submission,days\nalice,2\n")
    before = (out / "report.json").read_bytes()
    main(["report", str(out), "--rubric", str(tmp_path / "r.toml"), "--late", str(tmp_path / "l.csv")])
    shown = capsys.readouterr().out
    assert "late by 2 days: 7 points less, 28 of 35 are left" in shown
    assert "dave          30/35 (5 open)  graded" in shown
    assert (out / "report.json").read_bytes() == before


def test_json_is_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = report(tmp_path, made())
    assert main(["report", str(out), "--format", "json"]) == 0
    saved = json.loads((out / "report.json").read_text())
    assert len(saved.pop("signature")) == 64
    assert json.loads(capsys.readouterr().out) == saved


def test_the_class_report_names_the_sandbox() -> None:
    of = made()
    assert "student code ran" not in html.render(of)
    of.settings = msgspec.structs.replace(of.settings, sandbox=Sandbox("rlimits", "bubblewrap is <not> installed"))
    expected = (
        "student code ran with limits, but could read this machine&#39;s files (rlimits): bubblewrap is &lt;not&gt; "
    )
    assert expected in html.render(of)


def test_every_other_format_names_the_sandbox(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    of = made()
    of.settings = msgspec.structs.replace(of.settings, sandbox=Sandbox("bwrap"))
    out = str(report(tmp_path, of))
    (tmp_path / "book.csv").write_text("Student,ID,SIS Login ID,Lab (7)\nAlice,1,alice,\n")
    (tmp_path / "moodle.csv").write_text("Full name,Email address,Grade\nAlice,alice,\n")
    for more in (
        ["table"], ["junit"], ["github"], ["gradescope", "--student", "alice"], ["csv"],
        ["canvas", "--template", str(tmp_path / "book.csv")], ["moodle", "--template", str(tmp_path / "moodle.csv")],
    ):  # fmt: skip
        main(["report", out, "--format", *more])
        shown = capsys.readouterr()
        expected = "student code ran in a sandbox (bwrap)"
        if more[0] == "github":
            expected = expected.replace("(", "&#40;").replace(")", "&#41;")
        assert expected in (shown.err if more[0] in ("csv", "canvas", "moodle") else shown.out), more
