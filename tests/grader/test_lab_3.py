"""Tests of lab 3 in the grader: which submissions have a service, and how those without one are marked."""

from __future__ import annotations

import dataclasses
import html
import json
import shlex
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import raftlab.cli
from raftgrade.cli import Tools, main
from raftgrade.intake import our_own
from raftgrade.plan import Job
from raftlab import labs
from raftlab.sandbox.levels import Level, Sandbox
from raftlab.suites import catalogue
from tests.conftest import SKELETON, SOLUTION
from tests.grader.fakes import PYTHON, FakeCommands, submission, tools

WITH_SERVICE = [name for name, lab in labs.LABS.items() if lab.has("service")]
LEFT_OUT = (
    f"raftgrade: labs {' and '.join(WITH_SERVICE)} are left out, because no submission has a kv.py of its own "
    f"(--labs {','.join(WITH_SERVICE)} grades them)\n"
)
NO_SERVICE = "there is no kv.py beside raft.py, so this lab earns no points"
UNCHANGED = "kv.py is still the skeleton, so this lab earns no points"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str, commands: FakeCommands | None = None) -> int:
    return main(["run", "--runs", "3", *arguments], tools(commands))


def loaded() -> dict[str, Any]:
    report: dict[str, Any] = json.loads(Path("raftgrade-out", "report.json").read_text())
    return report


def skeleton() -> str:
    return SKELETON.with_name("kv.py").read_text()


def shown(format: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    capsys.readouterr()
    main(["report", "raftgrade-out", "--format", format, *more])
    return capsys.readouterr().out


def test_lab_3_is_left_out_if_nobody_has_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice")
    submission(tmp_path, "class/bob", service=skeleton())
    assert run("class") == 0
    assert capsys.readouterr().err.startswith(LEFT_OUT)
    report = loaded()
    assert not set(WITH_SERVICE) & set(report["settings"]["labs"])
    assert [(each["points"], each["max_points"], each["missing"]) for each in report["submissions"]] == [
        (15, 15, {})
    ] * 2
    assert run("class", "--labs", "2A") == 0
    assert LEFT_OUT not in capsys.readouterr().err


def test_submissions_without_a_service_get_no_points_in_lab_3(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission(tmp_path, "class/alice", service="mine")
    submission(tmp_path, "class/bob")
    submission(tmp_path, "class/carol", service=skeleton())
    submission(tmp_path, "class/dan", {"serve": "fail"}, service="mine")
    commands = FakeCommands()
    assert run("class", "--network", "sim", commands=commands) == 1
    printed = capsys.readouterr()
    assert " left out" not in printed.err
    assert f"Lab 3A: {NO_SERVICE}" in printed.out
    assert f"Lab 3A: {UNCHANGED}" in printed.out
    report = loaded()
    assert "3A" in report["settings"]["labs"]
    assert {each["name"]: (each["state"], each["points"], each["max_points"]) for each in report["submissions"]} == {
        "alice": ("graded", 19, 19),
        "bob": ("graded", 15, 19),
        "carol": ("graded", 15, 19),
        "dan": ("graded", 15, 19),
    }
    assert sum("serve" in names for names, _ in commands.started) == 2
    assert [each["missing"] for each in report["submissions"]] == [
        {},
        dict.fromkeys(WITH_SERVICE, NO_SERVICE),
        dict.fromkeys(WITH_SERVICE, UNCHANGED),
        {},
    ]
    # Reports that are made later say the same.
    assert NO_SERVICE in shown("html", capsys)
    assert f'<skipped message="{NO_SERVICE}" />' in shown("junit", capsys)
    points = ["15", *["0"] * (len(report["settings"]["labs"]) - 1)]
    assert shown("csv", capsys).splitlines()[2] == f"bob,graded,15,19,0,0,0,{','.join(points)},,,,,,,,counts,"
    graded = json.loads(shown("gradescope", capsys, "--student", "bob"))
    (serve,) = [test for test in graded["tests"] if test["name"] == "3A serve"]
    assert (serve["score"], serve["max_score"], serve["status"]) == (0, 4, "failed")
    assert serve["output"].startswith(NO_SERVICE)
    assert NO_SERVICE in html.unescape(shown("github", capsys, "--student", "bob"))


def test_lab_3_alone_without_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If lab 3 is graded alone and there is no service, there is nothing to check or run, and the mark is final."""
    submission(tmp_path, "class/alice")
    submission(tmp_path, "class/bob", service="mine")
    commands = FakeCommands()
    assert run("class", "--labs", "3A", "--network", "sim", commands=commands) == 1
    report = loaded()
    assert [(each["state"], each["points"]) for each in report["submissions"]] == [("graded", 0), ("graded", 4)]
    assert "4 of 8 points" in shown("github", capsys)
    # A later grading reuses the results and changes nothing.
    assert run("class", "--labs", "3A", "--network", "sim") == 1
    assert loaded()["submissions"] == report["submissions"]


def test_a_service_in_an_archive_counts(tmp_path: Path) -> None:
    folder = submission(tmp_path, "alice", service="mine")
    (tmp_path / "class").mkdir()
    with zipfile.ZipFile(tmp_path / "class" / "alice.zip", "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"hw/{path.name}")
    assert run("class", "--network", "sim") == 0
    assert loaded()["submissions"][0]["points"] == 19


def test_a_lab_that_needs_lab_3_is_skipped_without_a_service(tmp_path: Path) -> None:
    (tmp_path / "rubric.toml").write_text('[labs.3A]\nneeds = ["2A"]\n')
    submission(tmp_path, "class/alice", {"first": "fail"}, service="mine")
    submission(tmp_path, "class/bob")
    assert run("class", "--network", "sim", "--rubric", "rubric.toml") == 1
    notes = [each["tests"][-1]["notes"] for each in loaded()["submissions"]]
    assert notes == [["skipped: it needs 15 of 15 points in 2A, and 2A has 5"], [NO_SERVICE]]


# --- another Raft below every service ---


RAFT = "class Raft: ...\n"


def given_raft(tmp_path: Path, name: str = "theirs/raft.py") -> str:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(RAFT)
    return name


def copy_of(name: str) -> dict[str, str]:
    folder = Path("raftgrade-out", "submissions", name)
    return {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*") if path.is_file()}


class ServiceCommands(FakeCommands):
    """Commands with which every run and every check passes."""

    def job(self, job: Job, *arguments: Any) -> list[str]:
        Path("script", "raft.py").parent.mkdir(exist_ok=True)
        Path("script", "raft.py").write_text("{}")
        return super().job(msgspec.structs.replace(job, path="script"), *arguments)

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        self.checked = (*getattr(self, "checked", ()), (Path(path).name, tuple(labs)))
        return [*PYTHON, "-c", "print('[]')"]


def test_every_service_runs_on_the_given_raft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raft = given_raft(tmp_path)
    for name, files in {
        "alice": {"kv.py": "import store", "store.py": "x = 1"},
        "bob": {"kv.py": "y = 1", "raft.py": "his own"},
        "carol": {"raft.py": "her own"},
        "dan": {"kv.py": skeleton()},
        "eve": {"notes.txt": ""},
    }.items():
        (tmp_path / "class" / name).mkdir(parents=True)
        for file, text in files.items():
            (tmp_path / "class" / name / file).write_text(text)
    with zipfile.ZipFile(tmp_path / "class" / "fay.zip", "w") as archive:
        archive.writestr("hw/kv.py", "z = 1")
    commands = ServiceCommands()
    assert run("class", "--network", "sim", "--raft", raft, commands=commands) == 1
    printed = capsys.readouterr()
    assert printed.err.startswith("raftgrade: left out 1 folder without a kv.py: eve\n")
    assert "Lab 3A on the Raft theirs (seconds and RPCs of the runs that passed in sim)" in printed.out
    assert copy_of("alice") == {"kv.py": "import store", "store.py": "x = 1", "raft.py": RAFT}
    assert copy_of("bob") == {"kv.py": "y = 1", "raft.py": RAFT}
    assert copy_of("fay") == {"kv.py": "z = 1", "raft.py": RAFT}
    report = loaded()
    assert (report["settings"]["labs"], report["settings"]["raft"]) == (WITH_SERVICE, "theirs")
    assert {each["name"]: (each["state"], each["points"]) for each in report["submissions"]} == {
        "alice": ("graded", 4),
        "bob": ("graded", 4),
        "carol": ("graded", 0),
        "dan": ("graded", 0),
        "fay": ("graded", 4),
    }
    assert [each["missing"].get("3A") for each in report["submissions"]] == [None, None, NO_SERVICE, UNCHANGED, None]
    assert sorted(commands.checked) == [(name, tuple(WITH_SERVICE)) for name in ("alice", "bob", "fay")]
    assert report["same_code"] == [
        {
            "places": [{"submission": "dan", "file": "raft.py", "name": ""}],
            "renamed": False,
            "origin": "the unchanged skeleton",
        }
    ]
    # On the same Raft, nothing is run again. On another Raft, everything is.
    again = ServiceCommands()
    assert run("class", "--network", "sim", "--raft", raft, commands=again) == 1
    assert again.started == []
    (tmp_path / raft).write_text(RAFT + "# changed\n")
    assert run("class", "--network", "sim", "--raft", raft, commands=again) == 1
    assert len(again.started) == 3


def test_reports_say_whose_raft_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice", service="mine")
    given_raft(tmp_path, "fast.py")
    for arguments, words in (
        (["--labs", "3A"], "on the submission's own Raft"),
        (["--labs", "3A", "--raft", "reference"], "on the reference Raft"),
        (["--labs", "3A", "--raft", "fast.py"], "on the Raft fast.py"),
    ):
        assert run("alice", "--network", "sim", *arguments, commands=ServiceCommands()) == 0
        assert f"Lab 3A {words} (" in capsys.readouterr().out
        for more in ([], ["--student", "alice"]):
            assert f"1 of 1 tests passed, {words}" in html.unescape(shown("html", capsys, *more))
        assert f"lab 3A ran {words}" in html.unescape(shown("html", capsys))
        assert f'<property name="raft" value="{words}" />' in shown("junit", capsys)
        assert f"(lab 3A ran {words})" in json.loads(shown("gradescope", capsys))["output"]
        assert f"| 3A {words} | 1 of 1 |" in html.unescape(shown("github", capsys))
        main(["report", "raftgrade-out", "--format", "csv"])
        assert f"raftgrade: lab 3A ran {words}\n" in capsys.readouterr().err
    assert run("alice", "--network", "sim", "--labs", "2A") == 0
    assert "own Raft" not in capsys.readouterr().out + shown("html", capsys)


def test_a_service_that_does_not_fit_on_the_raft_is_refused(tmp_path: Path) -> None:
    raft = given_raft(tmp_path)
    (tmp_path / raft).write_text("import timing")
    (tmp_path / "theirs" / "timing.py").write_text("x = 1")
    folder = submission(tmp_path, "alice", service="import timing")
    (folder / "timing.py").write_text("x = 2")
    assert run("alice", "--network", "sim", "--raft", raft, commands=ServiceCommands()) == 2
    (alice,) = loaded()["submissions"]
    assert alice["state"] == "refused"
    text = "kv.py and the Raft below it both import timing.py, and the two files differ: rename yours"
    assert alice["problems"][0]["text"] == text


def test_a_raft_that_cannot_be_used_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submission(tmp_path, "alice", service="mine")
    for arguments, text in (
        (["--labs", "2D,3A", "--raft", "reference"], "--raft is for lab 3: lab 2D tests the submission's own Raft"),
        (["--raft", "nowhere"], "--raft: nowhere does not exist"),
    ):
        assert run("alice", *arguments) == 2
        assert capsys.readouterr().err == f"raftgrade: {text}\n"
    monkeypatch.setattr(our_own, "_ROOTS", (tmp_path,))
    assert run("alice", "--raft", "reference") == 2
    text = "this raftlab has no reference solution: name a raft.py with --raft PATH"
    assert capsys.readouterr().err == f"raftgrade: {text}\n"
    assert not Path("raftgrade-out").exists()


def test_our_service_on_our_raft_needs_no_sandbox(tmp_path: Path) -> None:
    asked = []

    def choose(choice: str, trusted: bool) -> Sandbox:
        asked.append(trusted)
        return Sandbox("none", "")

    ours = dataclasses.replace(tools(ServiceCommands()), choose_sandbox=choose)
    (tmp_path / "alice").mkdir()
    (tmp_path / "alice" / "kv.py").write_bytes(SOLUTION.with_name("kv.py").read_bytes())
    for raft, trusted in (("reference", True), (given_raft(tmp_path), False)):
        assert main(["run", "alice", "--runs", "1", "--network", "sim", "--raft", raft], ours) == 0
        assert asked.pop() == trusted


@pytest.mark.slow
def test_replay_commands_of_runs_on_the_reference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = skeleton() + "# mine\n"
    submission(tmp_path, "alice", service=service)
    (test,) = [test for test in catalogue.tests("3A") if test.name == "one_clerk"]
    ours = Tools(catalogue=lambda lab: [test] if lab == "3A" else [])
    assert main(["run", "alice", "--raft", "reference", "--labs", "3A", "--runs", "1", "--network", "sim"], ours) == 1
    (bad,) = loaded()["submissions"][0]["tests"][0]["networks"][0]["bad"]
    theirs = json.loads(shown("json", capsys, "--student", "alice"))
    student_sees = theirs["submissions"][0]["tests"][0]["networks"][0]["bad"][0]["replay"]
    assert bad["replay"].startswith("raftlab replay one_clerk@0 --impl raftgrade-out/submissions/alice ")
    assert student_sees.startswith("raftlab replay one_clerk@0 --raft reference ")
    # The student has the Raft from the instructor.
    submission(tmp_path, "home/reference")
    (tmp_path / "home" / "kv.py").write_text(service)
    (tmp_path / "home" / "reference" / "raft.py").write_bytes(SOLUTION.read_bytes())
    for folder, command in ((tmp_path, bad["replay"]), (tmp_path / "home", student_sees)):
        monkeypatch.chdir(folder)
        assert raftlab.cli.main(shlex.split(command)[1:]) == 1
        assert bad["failure"]["text"] in capsys.readouterr().out
