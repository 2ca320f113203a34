"""Tests of ``raftgrade``'s command line: what it prints, which files it leaves, and its exit codes."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from raftgrade.cli import main
from raftgrade.engines import commands
from raftgrade.options import parser, settings
from raftgrade.rubric import Rubric
from raftlab import labs
from raftlab.sandbox import levels
from tests.conftest import ROOT
from tests.grader.fakes import FakeCommands, FakeTest, submission, tools


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*arguments: str) -> int:
    return main(["run", "--runs", "3", "--rpyc-runs", "1", *arguments], tools())


def report(folder: str = "raftgrade-out") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(Path(folder, "report.json").read_text())
    return loaded


def test_a_grading_in_which_everything_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice")
    assert run("alice") == 0
    captured = capsys.readouterr()
    assert "== alice (alice)" in captured.out
    assert captured.out.splitlines()[-1].startswith("points 15/15 · 1 of 1 submissions clean · 7 runs · ")
    assert captured.err.endswith("raftgrade: the report is in raftgrade-out/report.json\n")
    saved = report()
    assert saved["complete"]
    assert saved["settings"] == {
        "labs": [name for name, lab in labs.LABS.items() if not lab.has("service")],
        "networks": ["sim", "rpyc"],
        "runs": {"sim": 3, "rpyc": 1},
        "seed": 0,
        "jobs": saved["settings"]["jobs"],
        "rpyc_jobs": 4 * saved["settings"]["jobs"],
        "until": None,
        "hidden": None,
        "races": False,
        "raft": "",
        "sandbox": {"level": "none", "reason": "asked for"},
    }
    (alice,) = saved["submissions"]
    assert (alice["points"], alice["max_points"], alice["state"]) == (15, 15, "graded")
    assert [(test["name"], test["title"], test["max_points"]) for test in alice["tests"]] == [
        ("first", "first leader", 10),
        ("second", "second leader", 5),
    ]
    assert sorted(path.name for path in Path("raftgrade-out").iterdir()) == [
        "records.jsonl",
        "report.json",
        "submissions",
    ]


def test_the_number_of_jobs_depends_on_the_processors_that_may_be_used(tmp_path: Path) -> None:
    submission(tmp_path, "alice")
    usable = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(usable)})  # as `taskset` does
    try:
        assert run("alice", "--network", "sim") == 0
    finally:
        os.sched_setaffinity(0, usable)
    assert (report()["settings"]["jobs"], report()["settings"]["rpyc_jobs"]) == (1, 4)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--jobs", "3"], (3, 12)),
        (["--jobs", "3", "--rpyc-jobs", "2"], (3, 2)),
        (["--network", "rpyc", "--jobs", "3"], (3, 3)),
    ],
)
def test_how_jobs_are_divided_between_the_networks(options: list[str], expected: tuple[int, int]) -> None:
    arguments = parser().parse_args(["run", "alice", *options])
    chosen = settings(arguments, Rubric())
    assert (chosen.jobs, chosen.rpyc_jobs) == expected


def test_a_grading_with_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice", {"first/41": "fail"})
    assert run("alice", "--seed", "40", "--network", "sim", "--out", "x/y") == 1
    out = capsys.readouterr().out
    assert "first (first leader) · sim · seed 41 (1 of 3 runs)" in out
    assert "expected one leader, saw none at seed 41 \\x1b[31m" in out
    assert "replay: raftlab replay first --seed 41" in out
    assert "\x1b" not in out
    network = report("x/y")["submissions"][0]["tests"][0]["networks"][0]
    assert (network["seeds"], network["runs"], network["passes"], network["failures"]) == ([40, 43], 3, 2, 1)
    assert network["bad"][0]["failure"]["text"] == "expected one leader, saw none at seed 41 \x1b[31m"


def test_a_missing_record_is_a_failure(tmp_path: Path) -> None:
    submission(tmp_path, "alice", {"second/2": "skip"})
    assert run("alice") == 1


def test_a_run_that_cannot_be_judged_is_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice", {"first/1": "error"})
    assert run("alice", "--network", "sim") == 2
    assert "Not judged (the machine's fault or ours: no mark is lost)" in capsys.readouterr().out


def test_one_refused_submission_does_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    problem = {"text": "raft.py does not compile: line 3", "where": "raft.py:3", "handout": "setup.md"}
    submission(tmp_path, "class/alice", {"check": [2, json.dumps([problem])]})
    submission(tmp_path, "class/bob")
    submission(tmp_path, "class/carol", {"first/0": "fail"})
    (tmp_path / "class" / "dan").mkdir()
    assert run("class") == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("raftgrade: left out 1 folder without a raft.py: dan\n")
    assert "== alice (class/alice): refused, no test was run" in captured.out
    assert "raft.py does not compile: line 3" in captured.out
    states = {item["name"]: (item["state"], item["points"]) for item in report()["submissions"]}
    assert states == {"alice": ("refused", 0), "bob": ("graded", 15), "carol": ("graded", 5)}


def test_a_submission_that_is_ready_for_some_labs_is_tested_in_these(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"text": "Raft has no method snapshot(self)", "where": "raft.py:3", "handout": "setup.md"}
    bad = [2, json.dumps([problem, problem])]
    script = {"check 2D": bad, "check 2E": bad}
    submission(tmp_path, "class/alice", script)
    submission(tmp_path, "class/bob", {"check 2A": bad, **script})
    tests = [FakeTest(lab, f"test_of_{lab}", lab, 5, ("sim",)) for lab in ("2A", "2D", "2E", "3A")]
    commands = FakeCommands()
    ours = dataclasses.replace(tools(commands), catalogue=lambda lab: [test for test in tests if test.lab == lab])
    words = ["run", "class", "--labs", "2A,2D,2E", "--network", "sim", "--runs", "2"]
    assert main(words, ours) == 2
    text = "this lab cannot be tested and earns no points: Raft has no method snapshot(self), at raft.py:3"
    text += " (and 1 more problem)"
    assert f"Lab 2D: {text}" in capsys.readouterr().out.replace("\n", " ")
    alice, bob = report()["submissions"]
    assert (alice["state"], alice["points"], alice["max_points"]) == ("graded", 5, 15)
    assert alice["missing"] == {"2D": text, "2E": text}
    assert (bob["state"], bob["missing"], len(bob["problems"])) == ("refused", {}, 2)
    assert commands.started == [(["test_of_2A"], (0, 2))]
    # The next grading reports the same about both, and runs nothing again.
    before = report()["submissions"]
    assert main(words, ours) == 2
    assert (report()["submissions"], len(commands.started)) == (before, 1)
    # An interrupted report is counted again from its records, with the same result.
    saved = report()
    saved["complete"] = False
    saved["submissions"][0]["missing"] = {}
    Path("raftgrade-out/report.json").write_text(json.dumps(saved))
    capsys.readouterr()
    main(["report", "raftgrade-out", "--unverified", "--format", "json"])
    assert json.loads(capsys.readouterr().out)["submissions"][0]["missing"] == alice["missing"]


def test_a_check_that_breaks_is_not_the_students_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice", {"check": [1, "Traceback"]})
    assert run("alice") == 2
    assert "== alice (alice): could not be judged" in capsys.readouterr().out
    assert report()["submissions"][0]["state"] == "unjudged"


def test_a_report_is_shown_again_with_the_same_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice", {"first": "fail"})
    assert run("alice") == 1
    first = capsys.readouterr().out
    assert main(["report", "raftgrade-out"]) == 1
    assert capsys.readouterr().out == first


def test_a_new_grading_replaces_the_report(tmp_path: Path) -> None:
    submission(tmp_path, "alice", {"first": "fail"})
    submission(tmp_path, "bob")
    assert run("alice") == 1
    assert list(Path("raftgrade-out/logs").iterdir())
    assert run("bob") == 0
    assert [item["name"] for item in report()["submissions"]] == ["bob"]
    assert not Path("raftgrade-out/logs").exists()


def test_an_unknown_choice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """This is not in ``tests/refused_commands.py``, because the rest of the sentence depends on the version of Python."""
    with pytest.raises(SystemExit) as caught:
        main(["run", "a", "--network", "lan"], tools())
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("raftgrade run: argument --network: invalid choice: 'lan'")


def test_a_requested_sandbox_that_does_not_work_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submission(tmp_path, "alice")
    monkeypatch.setattr(levels, "probe", lambda level: levels.Sandbox("none", "it is not installed"))
    ours = dataclasses.replace(tools(), choose_sandbox=levels.choose)
    assert main(["run", "alice", "--sandbox", "bwrap"], ours) == 2
    assert capsys.readouterr().err == "raftgrade: --sandbox bwrap is not available here: it is not installed\n"
    assert main(["run", "alice"], ours) == 2
    assert capsys.readouterr().err == (
        "raftgrade: the sandbox for other people's code does not work here: it is not installed. With --sandbox rlimits "
        "their code could read this machine's files; handouts/confinement.md says what else differs\n"
    )
    assert not Path("raftgrade-out").exists()


def test_the_reference_is_graded_without_bubblewrap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        levels, "probe", lambda level: levels.Sandbox("none" if level == "bwrap" else level, "it is not installed")
    )
    asked = []

    def choose(choice: str, trusted: bool) -> levels.Sandbox:
        asked.append(trusted)
        return levels.choose(choice, trusted)

    ours = dataclasses.replace(tools(), choose_sandbox=choose)
    raft, service = ((ROOT / "solutions" / name).read_text() for name in ("raft.py", "kv.py"))
    for number, (path, files, trusted) in enumerate(
        (
            ("", {"raft.py": raft}, True),
            ("", {"raft.py": raft, "kv.py": service}, True),
            ("raft.py", {"raft.py": raft, "kv.py": service}, True),
            ("", {"raft.py": raft, "helper.py": "x = 1"}, False),
            ("", {"raft.py": raft + "#"}, False),
            ("", {"raft.py": raft, "kv.py": service + "#"}, False),
            ("raft.py", {"raft.py": raft, "kv.py": service + "#"}, False),
            ("kv.py", {"kv.py": service, "raft.py": raft + "#"}, False),
        )
    ):
        solution = tmp_path / str(number)
        solution.mkdir()
        for name, content in files.items():
            (solution / name).write_text(content)
        main(["run", str(solution / path)], ours)
        assert asked.pop() == trusted


def test_a_damaged_report_is_not_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "report.json").write_text("[]")
    assert main(["report", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        f"raftgrade: {tmp_path}/report.json is not a report of raftgrade, or is damaged\n"
    )


def test_labs_may_be_lower_case_and_repeated(tmp_path: Path) -> None:
    submission(tmp_path, "alice")
    assert run("alice", "--labs", "2a, 2A") == 0
    assert report()["settings"]["labs"] == ["2A"]


def test_a_grading_on_the_real_network_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "alice")
    assert main(["run", "alice", "--network", "rpyc", "--runs", "4"], tools()) == 0
    out = capsys.readouterr().out
    assert "not run: 2A second (sim only)" in out
    assert "points 10/10 · 1 of 1 submissions clean · 4 runs" in out
    assert main(["run", "alice", "--network", "rpyc"], tools()) == 0
    assert report()["settings"]["runs"] == {"rpyc": 1}


def test_a_full_disk_is_reported_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submission(tmp_path, "alice")

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("raftgrade.store.Store.add", full)
    assert run("alice", "--labs", "2A") == 2
    err = capsys.readouterr().err
    assert err == ("raftgrade: the report cannot be written: [Errno 28] No space left on device\n")


def test_a_bug_in_the_grader_fails_no_submission(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    submission(tmp_path, "alice")

    def broken(*args: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("raftgrade.engines.local.run_job", broken)
    assert run("alice", "--labs", "2A") == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("raftgrade: this is a bug in raftgrade, not in the code under test\n")


def test_a_path_may_look_like_an_option(tmp_path: Path) -> None:
    submission(tmp_path, "--labs")
    assert run("--", "--labs") == 0
    assert report()["submissions"][0]["name"] == "--labs"


def test_the_real_check_command_is_valid() -> None:
    assert commands.RaftlabCommands().check("a/raft.py", ["2A", "2B"], "bwrap")[1:] == [
        *("-P", "-m", "raftlab.tools.check", "a/raft.py", "--labs", "2A,2B", "--sandbox", "bwrap", "--json")
    ]
