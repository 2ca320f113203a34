"""Tests of `raftlab check`: how it counts the labs that pass, and where it stops when one fails."""

from __future__ import annotations

import re
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from raftlab import cli
from raftlab.explain.failure import Failure
from raftlab.runs.record import Outcome, Record
from raftlab.suites import catalogue
from raftlab.tools import check_labs
from raftlab.tools.many_runs import PlannedRun
from tests.conftest import ROOT


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "skeleton" / "raft.py", tmp_path)
    monkeypatch.setattr("raftlab.tools.check.check", lambda *arguments: [])
    return tmp_path


def perform_none(monkeypatch: pytest.MonkeyPatch, outcomes: dict[tuple[str, str, int], Outcome]) -> None:
    """Let `raftlab check` perform no real runs. Every run is reported as passed, except those in ``outcomes``, whose keys
    are (test, network, seed)."""

    def perform(runs: Sequence[PlannedRun], *arguments: Any) -> Generator[Record, None, None]:
        for run in runs:
            outcome = outcomes.get((run.info.name, run.network, run.seed), "passed")
            common = {"test": run.info.name, "lab": run.info.lab, "title": run.info.title, "points": 1}
            failure = None if outcome == "passed" else Failure("assertion", "expected a leader")
            yield Record(**common, network=run.network, seed=run.seed, outcome=outcome, failure=failure)

    monkeypatch.setattr(check_labs, "perform", perform)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return re.sub(r" in \d+ s$", " in 0 s", capsys.readouterr().out, flags=re.MULTILINE).splitlines()


def test_labs_that_pass_are_done(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    perform_none(monkeypatch, {})
    assert cli.main(["check", "2b"]) == 0
    shown = lines(capsys)
    assert re.fullmatch(r"2A  PASS   \d,\d00 runs \(simulator\) and \d+ runs \(real network\) in 0 s", shown[0])
    assert shown[1].startswith("2B  PASS   ")
    assert shown[2:] == ["", "done: labs 2A, 2B passed"]
    assert cli.main(["check"]) == 0
    assert lines(capsys)[-1] == "done: labs 2A, 2B passed"


def test_the_labs_before_the_last_one_are_checked_too(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    perform_none(monkeypatch, {})
    assert cli.main(["check", "3A", "--seeds", "1"]) == 0
    assert lines(capsys)[-1] == "done: labs 2A, 2B, 2C, 2D, 3A passed"
    assert cli.main(["check", "--labs", "2D,2G", "--seeds", "1"]) == 0
    assert lines(capsys)[-1] == "done: labs 2D, 2G passed"


def test_each_lab_stops_at_its_first_failure(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing: dict[tuple[str, str, int], Outcome] = {
        ("even_cluster", "sim", 1): "failed",
        ("basic_agreement", "rpyc", 0): "error",
    }
    perform_none(monkeypatch, failing)
    assert cli.main(["check", "2C", "--seeds", "3"]) == 1
    shown = lines(capsys)
    simulated = [test.name for test in catalogue.tests("2A") if "sim" in test.networks]
    number = len(simulated) + simulated.index("even_cluster") + 1  # all tests with seed 0 run first
    assert shown[0] == f"2A  FAIL   even_cluster@1 (simulator, run {number}): expected a leader"
    assert shown[1] == "2B  ERROR  basic_agreement@0 (real network, run 1): expected a leader"
    assert shown[2].startswith("2C  PASS")
    assert shown[4] == "not done: 1 of 3 labs passed. Next: raftlab test 2A --failed"
    assert cli.main(["check", "--labs", "2B", "--seeds", "3"]) == 2


def test_code_that_breaks_the_contract_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raft.py").write_text("class Raft:\n    pass\n")
    assert cli.main(["check", "2A"]) == 1
    assert lines(capsys)[0].startswith("2A  FAIL   cannot be tested: Raft has no method ")


@pytest.mark.slow
def test_the_skeleton_fails_in_real_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "skeleton" / "raft.py", tmp_path)
    assert cli.main(["check", "2A", "--seeds", "2"]) == 1
    text = "expected a leader within 5 s, but there is none: nobody asked for votes"
    assert lines(capsys)[0] == f"2A  FAIL   initial_election@0 (simulator, run 1): {text}"
    assert [path.name for path in (tmp_path / "raftlab-out").glob("*.jsonl")] == ["2A-initial_election-sim-0.jsonl"]
