"""Tests of grading again into the same folder, with required labs, hidden seeds, sequential tests and retries. Only missing
runs are made, and the report is the same as that of a first grading.
"""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from raftgrade import cli
from raftgrade.cli import main
from raftgrade.engines import local, work_loop
from raftgrade.tally import RunEntry
from tests.grader.engines.test_schedule import _in_a_folder_of_its_own, results, run, sim, tools
from tests.grader.fakes import FakeCommands, submission

pytestmark = pytest.mark.slow

__all__ = ["_in_a_folder_of_its_own"]  # an autouse fixture, which applies to every test of this file, too

GATES = "[labs.2B]\nneeds = ['2A']\n[hidden]\nruns = 2\nsecret = 'nobody knows'\n"
SURE = ("--until-sure", "good=.99,bad=.90,max=80")


def again(*arguments: str, rubric: str = "", fresh: bool = False) -> list[tuple[list[str], tuple[int, int]]]:
    """Grade ``class`` once more. Returns the tests that were run, with their seeds."""
    Path("r.toml").write_text(rubric)
    made = tools()
    more = ["--fresh", "--out", "fresh"] if fresh else []
    main(["run", "class", "--rubric", "r.toml", "--jobs", "1", *arguments, *more], made)
    assert isinstance(made.commands, FakeCommands)
    return made.commands.started


def comparable(folder: str) -> Any:
    """The parts of the report that must not depend on earlier gradings."""
    report = json.loads(Path(folder, "report.json").read_text())
    assert report["complete"]
    for submitted in report["submissions"]:
        for test in submitted["tests"]:
            for network in test["networks"]:
                del network["wall_s"], network["cpu_s"], network["run_cpu_s"]
                for bad in network["bad"]:
                    del bad["trace"]
    return report["submissions"]


def as_if_never_before(*arguments: str, rubric: str = "") -> bool:
    again(*arguments, rubric=rubric, fresh=True)
    return bool(comparable("raftgrade-out") == comparable("fresh"))


def cut_short(lines: int) -> None:
    """Leave only the first ``lines`` lines of the records, as after a kill."""
    records = Path("raftgrade-out/records.jsonl")
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:lines]))
    report = json.loads(Path("raftgrade-out/report.json").read_text())
    Path("raftgrade-out/report.json").write_text(json.dumps({**report, "complete": False}))


@pytest.mark.parametrize("arguments", [("--runs", "3"), SURE])
def test_grading_again_without_changes_runs_nothing(arguments: tuple[str, ...]) -> None:
    scripts: dict[str, dict[str, Any]] = {
        "alice": {"first/1": "error-once"},
        "bob": {"second/1": "fail", "third": "fail"},
    }
    run(scripts, *arguments, rubric=GATES)
    before = comparable("raftgrade-out")
    assert again(*arguments, rubric=GATES) == []
    assert comparable("raftgrade-out") == before


@pytest.mark.parametrize(("arguments", "kept"), [(("--runs", "9"), (0, 20, 70)), (SURE, (1, 9, 41))])
def test_after_a_kill_only_missing_runs_are_made(arguments: tuple[str, ...], kept: tuple[int, ...]) -> None:
    """``kept``: how many records survive the kill, one number for each kill that is tried. The kills come at different
    places in the schedule: before, in and after the required lab."""
    scripts: dict[str, dict[str, Any]] = {"alice": {"second/3": "fail"}, "bob": {"third/2": "fail", "third/3": "fail"}}
    rubric = "rule = 'proportional'\n" + GATES.replace("['2A']", "['2A']\nneeds_share = 0.9")
    run(scripts, *arguments, rubric=rubric)
    undisturbed = comparable("raftgrade-out")
    everything = Path("raftgrade-out/records.jsonl").read_text().count("\n")
    shutil.copytree("raftgrade-out", "whole")
    for lines in kept:
        shutil.rmtree("raftgrade-out")
        shutil.copytree("whole", "raftgrade-out")
        cut_short(lines)
        did = again(*arguments, rubric=rubric)
        assert sum(len(tests) * (end - first) for tests, (first, end) in did) == max(0, everything - lines), lines
        assert comparable("raftgrade-out") == undisturbed, lines


def test_runs_that_a_sequential_test_does_not_need_are_not_counted() -> None:
    run({"alice": {"first/60": "fail"}}, "--runs", "70", "--labs", "2A")
    assert again(*SURE, "--labs", "2A") == []
    assert [(sim(results()[name])["runs"], sim(results()[name])["passes"]) for name in ("first", "second")] == [
        (32, 32)
    ] * 2
    assert as_if_never_before(*SURE, "--labs", "2A")
    # The runs that the sequential test did not need are not lost, either.
    assert again("--runs", "70", "--labs", "2A") == []
    assert sim(results()["first"])["failures"] == 1


def test_earlier_runs_of_a_skipped_lab_do_not_count() -> None:
    run({"alice": {"second/1": "fail", "third/0": "fail"}}, "--runs", "3")
    needs_2a = "[labs.2B]\nneeds = ['2A']"
    assert again("--runs", "5", rubric=needs_2a) == [(["first", "second"], (3, 5))]
    third = results()["third"]
    assert (third["state"], [(each["runs"], each["failures"]) for each in third["networks"]]) == (
        "skipped",
        [(0, 0)] * 2,
    )
    assert as_if_never_before("--runs", "5", rubric=needs_2a)
    # If the lab is no longer skipped, its runs count again.
    assert sorted(again("--runs", "3", rubric="")) == []
    assert sim(results()["third"])["failures"] == 1


def test_a_required_lab_waits_for_its_retries() -> None:
    run({"alice": {"first/1": "error"}}, "--runs", "3", rubric="[labs.2B]\nneeds = ['2A']")
    assert results()["third"]["points"] == 20  # the machine's fault is no reason to skip a lab
    script = json.dumps({"first/1": "error"})
    assert Path("class/alice/raft.py").read_text() == script
    did = again("--runs", "3", rubric="[labs.2B]\nneeds = ['2A']")
    assert did == [(["first"], (1, 2)), (["first"], (1, 2))]
    assert results()["third"]["points"] == 20


def test_reused_outcomes_are_counted_and_not_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    run({name: {} for name in ("alice", "bob", "carol")}, "--runs", "9")
    submission(Path("class"), "dave", {})
    held, engine = [], local.LocalEngine

    def counted(*arguments: Any) -> work_loop.Engine:
        held.append(sum(type(thing) is RunEntry for thing in gc.get_objects()))
        return engine(*arguments)

    monkeypatch.setattr(cli.local, "LocalEngine", counted)
    assert len(again("--runs", "9")) == 3  # only dave's runs are made
    assert held == [0]


def test_hidden_runs_are_repeated_with_another_secret() -> None:
    run({"alice": {}}, "--runs", "2", "--labs", "2A", rubric="[hidden]\nruns = 2\nsecret = 'nobody knows'")
    did = again("--runs", "2", "--labs", "2A", rubric="[hidden]\nruns = 2\nsecret = 'another one'")
    assert [tests for tests, _ in did] == [["first", "second"]]
    assert did[0][1][0] > 2
    assert again("--runs", "2", "--labs", "2A", rubric="") == []
