"""Grading again into the same folder makes only missing or changed runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from raftgrade import cli, grade
from raftgrade.cli import main
from raftgrade.intake import reuse
from raftlab.sandbox.levels import Sandbox
from tests.grader.fakes import FakeCommands, submission, tools


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*more: str, level: Any = "none") -> tuple[list[str], int]:
    """Grade ``class``. The runs that were done, as test/first–end, and the exit code."""
    commands = FakeCommands()
    ours = dataclasses.replace(tools(commands), choose_sandbox=lambda choice: Sandbox(level))
    code = main(["run", "class", "--network", "sim", "--runs", "3", *more], ours)
    return sorted(f"{'+'.join(tests)} {first}-{end}" for tests, (first, end) in commands.started), code


def states() -> dict[str, tuple[str, int]]:
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    assert report["complete"]
    return {item["name"]: (item["state"], item["points"]) for item in report["submissions"]}


EVERYTHING = ["first+second 0-3"]


def test_nothing_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice", {"first/1": "fail"})
    submission(tmp_path, "class/bob", {"check": [2, json.dumps([{"text": "no"}])]})
    assert run() == (EVERYTHING, 2)
    before = states()
    assert run() == ([], 2)
    assert states() == before == {"alice": ("graded", 5), "bob": ("refused", 0)}
    expected = "raftgrade: reused 7 outcomes of the report in raftgrade-out: nothing has changed for them (--fresh "
    assert expected + "makes all runs again)\n" in capsys.readouterr().err
    assert run("--fresh") == (EVERYTHING, 2)


def test_late_and_changed_work(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice", {"first": "fail"})
    bob = submission(tmp_path, "class/bob")
    run()
    (bob / "raft.py").write_text('{"second": "fail"}')
    submission(tmp_path, "class/carol")
    assert run() == (EVERYTHING * 2, 1)
    assert states() == {"alice": ("graded", 5), "bob": ("graded", 10), "carol": ("graded", 15)}


def test_more_runs_only_add_theirs(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice")
    run()
    assert run("--runs", "5") == (["first 3-5", "second 3-5"], 0)
    assert run("--seed", "1", "--runs", "4") == ([], 0)


def test_what_could_not_be_judged_is_tried_again(tmp_path: Path) -> None:
    alice = submission(tmp_path, "class/alice", {"first/1": "error"})
    submission(tmp_path, "class/bob", {"check": [1, "Traceback"]})
    assert run()[1] == 2
    (alice / "raft.py").write_text('{"first/1": "error"}')  # as it was
    assert run() == (["first 1-2", "first 1-2"], 2)  # and once more, as ever


def test_another_sandbox_and_other_code_are_another_judgement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submission(tmp_path, "class/alice")
    run()
    assert run(level="rlimits") == (EVERYTHING, 0)
    assert run(level="rlimits") == ([], 0)
    assert reuse.code_fingerprint() == reuse.code_fingerprint() != ""
    monkeypatch.setattr(cli, "code_fingerprint", lambda: "later")
    assert run(level="rlimits") == (EVERYTHING, 0)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice")
    run()
    records = Path("raftgrade-out/records.jsonl")
    records.write_text("\n".join(records.read_text().splitlines()[:2]) + "\n")
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    Path("raftgrade-out/report.json").write_text(json.dumps({**report, "complete": False}))
    did, code = run()
    assert (sorted(did), code) == (["first 2-3", "second 0-3"], 0)
    assert states() == {"alice": ("graded", 15)}


def test_traces_stay_with_the_runs_they_belong_to(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice", {"first": "fail"})
    bob = submission(tmp_path, "class/bob", {"first": "fail"})
    run()
    for name in ("alice", "bob"):
        Path("raftgrade-out/traces", name).mkdir(parents=True)
        Path("raftgrade-out/traces", name, "x.jsonl").touch()
    (bob / "raft.py").write_text("{}")
    run()
    assert [path.name for path in Path("raftgrade-out/traces").iterdir()] == ["alice"]


def test_the_refused_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice")
    (submission(tmp_path, "class/bob") / "notes").symlink_to("/etc/passwd")
    assert run() == (EVERYTHING, 2)
    assert states() == {"alice": ("graded", 15), "bob": ("refused", 0)}
    assert "notes is a link: hand in the file itself" in capsys.readouterr().out
    (tmp_path / "class" / "bob" / "notes").unlink()
    assert run() == (EVERYTHING, 0)


def test_a_fingerprint_and_an_id_for_each(tmp_path: Path) -> None:
    submission(tmp_path, "work/alice")
    Path("class.csv").write_text("id,name,path\n4711,Alice,work/alice\n")
    assert main(["run", "class.csv", "--network", "sim", "--runs", "1"], tools()) == 0
    (alice,) = json.loads(Path("raftgrade-out/report.json").read_text())["submissions"]
    assert (alice["id"], alice["name"], alice["path"]) == ("4711", "Alice", "work/alice")
    assert len(alice["hash"]) == 64
    assert Path("raftgrade-out/submissions/Alice/raft.py").exists()


def test_the_same_traces_are_kept_as_in_a_first_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grade, "TRACE_QUOTA", 550)
    submission(tmp_path, "class/alice", {"*": "fail", "trace": 100})

    def traces_on_disk() -> set[str]:
        report = json.loads(Path("raftgrade-out/report.json").read_text())
        (alice,) = report["submissions"]
        named = [bad["trace"] for test in alice["tests"] for network in test["networks"] for bad in network["bad"]]
        there = {file.name for file in Path("raftgrade-out/traces/alice").iterdir()}
        assert {Path(trace).name for trace in named if trace} == there
        return there

    first = {f"2A-{test}-sim-{seed}.jsonl" for test in ("first", "second") for seed in (0, 1)}
    run("--runs", "2")
    assert traces_on_disk() == first
    for more in (["--runs", "8"], ["--runs", "6"], ["--runs", "8", "--fresh", "--jobs", "3"]):
        assert run(*more)[1] == 1
        assert traces_on_disk() == first | {"2A-first-sim-2.jsonl"}
