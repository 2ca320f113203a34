"""Tests that grading again into the same folder makes only the runs that are missing or whose submission has changed."""

from __future__ import annotations

import dataclasses
import json
import re
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
    """Grade ``class``. Returns the runs that were made, as "test first-last", and the exit code."""
    commands = FakeCommands()
    ours = dataclasses.replace(tools(commands), choose_sandbox=lambda choice, trusted: Sandbox(level))
    code = main(["run", "class", "--network", "sim", "--runs", "3", *more], ours)
    return sorted(f"{'+'.join(tests)} {first}-{end}" for tests, (first, end) in commands.started), code


def states() -> dict[str, tuple[str, int]]:
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    assert report["complete"]
    return {item["name"]: (item["state"], item["points"]) for item in report["submissions"]}


EVERYTHING = ["first+second 0-3"]


def test_a_second_grading_without_changes_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice", {"first/1": "fail"})
    submission(tmp_path, "class/bob", {"check": [2, json.dumps([{"text": "no"}])]})
    assert run() == (EVERYTHING, 2)
    before = states()
    assert run() == ([], 2)
    assert states() == before == {"alice": ("graded", 5), "bob": ("refused", 0)}
    expected = "raftgrade: reused 7 outcomes of the report in raftgrade-out, because nothing that "
    assert expected + "they depend on has changed (--fresh repeats all runs)\n" in capsys.readouterr().err
    assert run("--fresh") == (EVERYTHING, 2)


def test_new_and_changed_submissions_are_run(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice", {"first": "fail"})
    bob = submission(tmp_path, "class/bob")
    run()
    (bob / "raft.py").write_text('{"second": "fail"}')
    submission(tmp_path, "class/carol")
    assert run() == (EVERYTHING * 2, 1)
    assert states() == {"alice": ("graded", 5), "bob": ("graded", 10), "carol": ("graded", 15)}


def test_only_additional_runs_are_made(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice")
    run()
    assert run("--runs", "5") == (["first+second 3-5"], 0)
    assert run("--seed", "1", "--runs", "4") == ([], 0)


def test_runs_that_could_not_be_judged_are_tried_again(tmp_path: Path) -> None:
    alice = submission(tmp_path, "class/alice", {"first/1": "error"})
    submission(tmp_path, "class/bob", {"check": [1, "Traceback"]})
    assert run()[1] == 2
    (alice / "raft.py").write_text('{"first/1": "error"}')  # the original script
    assert run() == (["first 1-2", "first 1-2"], 2)  # runs that could not be judged are tried again each time


def test_another_sandbox_or_other_code_repeats_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submission(tmp_path, "class/alice")
    run()
    assert run(level="rlimits") == (EVERYTHING, 0)
    assert run(level="rlimits") == ([], 0)
    assert reuse.code_fingerprint() == reuse.code_fingerprint() != ""
    monkeypatch.setattr(cli, "code_fingerprint", lambda: "later")
    assert run(level="rlimits") == (EVERYTHING, 0)


def test_an_interrupted_grading_continues(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice")
    run()
    records = Path("raftgrade-out/records.jsonl")
    records.write_text("\n".join(records.read_text().splitlines()[:2]) + "\n")
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    Path("raftgrade-out/report.json").write_text(json.dumps({**report, "complete": False}))
    did, code = run()
    assert (sorted(did), code) == (["first 2-3", "second 0-3"], 0)
    assert states() == {"alice": ("graded", 15)}


def test_traces_of_reused_runs_are_kept(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice", {"first": "fail"})
    bob = submission(tmp_path, "class/bob", {"first": "fail"})
    run()
    for name in ("alice", "bob"):
        Path("raftgrade-out/traces", name).mkdir(parents=True)
        Path("raftgrade-out/traces", name, "x.jsonl").touch()
    (bob / "raft.py").write_text("{}")
    run()
    assert [path.name for path in Path("raftgrade-out/traces").iterdir()] == ["alice"]


def test_refused_submissions_do_not_stop_the_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice")
    (submission(tmp_path, "class/bob") / "notes").symlink_to("/etc/passwd")
    assert run() == (EVERYTHING, 2)
    assert states() == {"alice": ("graded", 15), "bob": ("refused", 0)}
    assert "notes is a link: hand in the file itself" in capsys.readouterr().out
    (tmp_path / "class" / "bob" / "notes").unlink()
    assert run() == (EVERYTHING, 0)


def test_each_submission_has_a_hash_and_an_id(tmp_path: Path) -> None:
    submission(tmp_path, "work/alice")
    Path("class.csv").write_text("id,name,path\n4711,Alice,work/alice\n")
    assert main(["run", "class.csv", "--network", "sim", "--runs", "1"], tools()) == 0
    (alice,) = json.loads(Path("raftgrade-out/report.json").read_text())["submissions"]
    assert (alice["id"], alice["name"], alice["path"]) == ("4711", "Alice", "work/alice")
    assert len(alice["hash"]) == 64
    assert Path("raftgrade-out/submissions/Alice/raft.py").exists()


def test_a_second_grading_keeps_the_same_traces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def forged(folder: Path) -> None:
    """Turn every failed run of the report in ``folder`` into one that passed."""
    for name in ("records.jsonl", "report.json"):
        text = (folder / name).read_text()
        assert text.count("failed") > 0
        (folder / name).write_text(text.replace('"failed"', '"passed"'))


def test_results_that_were_changed_are_not_believed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice", {"first/1": "fail"})
    run()
    forged(Path("raftgrade-out"))
    assert run() == (["first 1-2"], 1)
    assert states() == {"alice": ("graded", 5)}
    expected = "raftgrade: did not reuse 1 outcome of the report in raftgrade-out: they were written by someone else or"
    assert f"{expected} on another machine, or were changed since\n" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["nothing signed", "another key", "another submission's results"])
def test_results_that_were_handed_in_are_not_believed(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = submission(tmp_path, "class/alice", {"*": "fail"})
    good = submission(tmp_path, "class/bob")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "theirs" if what == "another key" else tmp_path / "ours"))
    run()
    records, report = Path("raftgrade-out/records.jsonl"), Path("raftgrade-out/report.json")
    if what == "another submission's results":
        names = {"alice": "bob", "bob": "alice"}
        for file in (records, report):
            plain = re.sub("alice|bob", lambda found: names[found[0]], file.read_text())
            file.write_text(plain)
        content = json.loads(report.read_text())
        first, second = content["submissions"]
        first["hash"], second["hash"] = second["hash"], first["hash"]
        report.write_text(json.dumps(content))
    else:
        text = records.read_text().replace('"failed"', '"passed"')
        records.write_text(re.sub('"signature":"[0-9a-f]*"', '"signature":""', text) if "nothing" in what else text)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "ours"))
    assert run()[0] == EVERYTHING * 2
    assert states() == {"alice": ("graded", 0), "bob": ("graded", 15)}
    assert (bad.exists(), good.exists()) == (True, True)


def test_a_folder_with_results_may_be_moved(tmp_path: Path) -> None:
    submission(tmp_path, "class/alice", {"first/1": "fail"})
    run()
    Path("raftgrade-out").rename("kept")
    assert run("--out", "kept") == ([], 1)


def test_a_submission_is_never_the_reports_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "class/alice", {"first/1": "fail"})
    run()
    Path("raftgrade-out/raft.py").write_text("")
    assert run() == ([], 2)
    assert "has a raft.py in it, so it is a submission and not a report of ours" in capsys.readouterr().err
