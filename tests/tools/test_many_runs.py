"""Tests of performing many runs in several processes, of ``--failed`` and ``-x``, and of editing a submission while a
command runs."""

from __future__ import annotations

import argparse
import contextlib
import shutil
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest

from raftlab import cli
from raftlab.explain.failure import Failure
from raftlab.runs.record import Record
from raftlab.suites import catalogue
from raftlab.tools import arguments, many_runs
from raftlab.tools.arguments import CommandError, Target
from raftlab.tools.last_results import LastResults
from raftlab.tools.many_runs import Conditions, PlannedRun, WorkerLost, delete_traces, perform
from tests.conftest import ROOT

SKELETON = ROOT / "skeleton" / "raft.py"
INFO = {info.name: info for info in catalogue.tests("2A")}


def runs(*names: str, seeds: int = 1) -> list[PlannedRun]:
    return [PlannedRun(INFO[name], "sim", seed) for name in names for seed in range(seeds)]


def comparable(record: Record, folder: Path) -> Record:
    """The record without the times that the run took, and with its trace's path relative to ``folder``, so that two
    executions of the same run have equal records."""
    trace = record.trace and str(Path(record.trace).relative_to(folder))
    return msgspec.structs.replace(record, wall_s=0.0, cpu_s=0.0, trace=trace)


@pytest.mark.slow
def test_several_processes_yield_the_same_records_in_the_same_order(tmp_path: Path) -> None:
    wanted = runs("even_cluster", "cluster_of_one", "initial_election", seeds=2)
    found = {}
    for jobs in (1, 2):
        folder = tmp_path / str(jobs)
        done = perform(wanted, Conditions(Target(SKELETON), trace_dir=folder), jobs)
        found[jobs] = [comparable(record, folder) for record in done]
    assert found[1] == found[2]
    assert [(record.test, record.seed, record.outcome) for record in found[1]] == [
        (run.info.name, run.seed, "failed") for run in wanted
    ]
    assert {path.name for path in (tmp_path / "1").iterdir()} == {path.name for path in (tmp_path / "2").iterdir()}


@pytest.mark.slow
def test_runs_whose_records_are_not_read_leave_no_traces(tmp_path: Path) -> None:
    wanted = runs("cluster_of_one", seeds=30)
    with contextlib.closing(perform(wanted, Conditions(Target(SKELETON), trace_dir=tmp_path), 2)) as performed:
        first = next(performed)
        next(performed)
    assert first.seed == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"2A-cluster_of_one-sim-{seed}.jsonl" for seed in range(2)
    ]


@pytest.mark.slow
def test_a_worker_process_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = many_runs._Worker.begin

    def begin_and_die(worker: many_runs._Worker, number: int, planned: PlannedRun) -> None:
        begin(worker, number, planned)
        worker._process.kill()

    monkeypatch.setattr(many_runs._Worker, "begin", begin_and_die)
    with pytest.raises(WorkerLost, match="has ended with exit code -9: run the command again, or with --jobs 1"):
        list(perform(runs("cluster_of_one", seeds=2), Conditions(Target(SKELETON)), 2))


class FakeWorker:
    """A worker that performs no runs, and reports that each hangs."""

    begun: ClassVar[list[int]] = []

    def __init__(self, context: object, conditions: Conditions) -> None:
        self.connection = self

    def begin(self, number: int, planned: PlannedRun) -> None:
        self.number = number
        self._planned = planned
        self.begun.append(number)

    def receive(self) -> Record:
        info = self._planned.info
        common = {"test": info.name, "lab": "2A", "title": info.title, "network": "sim", "points": 1}
        return Record(**common, seed=self._planned.seed, outcome="failed", failure=Failure("host-hangs", "hangs"))

    def end(self) -> None:
        pass


def test_a_test_that_keeps_hanging_is_given_up_after_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(many_runs, "_Worker", FakeWorker)
    monkeypatch.setattr("multiprocessing.connection.wait", lambda connections: connections)
    wanted = runs("cluster_of_one", "even_cluster", seeds=20)
    texts = [record.failure.text for record in perform(wanted, Conditions(Target(SKELETON)), 4) if record.failure]
    assert [text[:8] for text in texts] == ([*["hangs"] * 3, *["not run:"] * 17]) * 2
    assert len(FakeWorker.begun) < 20


def test_old_traces_and_pages_of_the_same_tests_are_deleted(tmp_path: Path) -> None:
    kept = ["2A-re_election-sim-0.jsonl", "2A-even_cluster-rpyc-0.jsonl", "fuzz_2A-7.txt", "notes.html"]
    gone = ["2A-even_cluster-sim-0.jsonl", "2A-even_cluster-sim-97.jsonl", "2A-even_cluster-sim-97.html"]
    for name in [*kept, *gone]:
        (tmp_path / name).touch()
    delete_traces(runs("even_cluster"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(kept)


# --- the submission is read once ---


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(
        **({"impl": None, "raft": None, "sandbox": None, "cleanup": contextlib.ExitStack()} | given)
    )


def test_the_submission_may_be_edited_while_a_command_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raft.py").write_text("import helper\n")
    (tmp_path / "helper.py").write_text("X = 1\n")
    given = options()
    target = arguments.target(given, "2A")
    (tmp_path / "raft.py").write_text("import hel")
    (tmp_path / "helper.py").unlink()
    copy = target.implementation().folder
    assert copy.read_text() == "import helper\n"
    assert copy.with_name("helper.py").read_text() == "X = 1\n"
    assert target.path == Path("raft.py")
    given.cleanup.close()
    assert not copy.parent.exists()


def test_a_service_and_the_raft_below_it_are_copied_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, text in (("kv.py", "K = 1\n"), ("raft.py", "own = 1\n"), ("other/raft.py", "R = 1\n")):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)
    given = options(impl=Path("."), raft=Path("other"))
    target = arguments.target(given, "3A")
    shutil.rmtree("other")
    Path("kv.py").write_text("broken")
    copy = target.implementation().folder
    assert {path.name: path.read_text() for path in copy.iterdir()} == {"kv.py": "K = 1\n", "raft.py": "R = 1\n"}
    given.cleanup.close()


def test_a_module_that_cannot_be_read_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "raft.py").write_text("import helper\n")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    given = options()
    with given.cleanup, pytest.raises(CommandError, match=r"^raft\.py cannot be read: Permission denied\n  read: han"):
        arguments.target(given, "2A")


# --- --failed and -x ---


def record(name: str, seed: int, outcome: str = "failed") -> Record:
    info = INFO[name]
    common = {"test": name, "lab": "2A", "title": info.title, "network": "sim", "points": 1, "schedule": "random"}
    return Record(**common, seed=seed, outcome=outcome)


def test_last_results_remember_which_runs_failed(tmp_path: Path) -> None:
    last = LastResults(Target(Path("raft.py")), tmp_path)
    assert last.failed("2A") is None
    last.update("2A", [record("even_cluster", 1), record("even_cluster", 2), record("cluster_of_one", 1, "passed")])
    last.update("2A", [record("even_cluster", 2, "passed"), record("cluster_of_one", 3)])
    failed = last.failed("2A")
    assert failed is not None
    assert [(run.test, run.seed, run.schedule) for run in failed] == [
        ("even_cluster", 1, "random"),
        ("cluster_of_one", 3, "random"),
    ]
    assert last.failed("2B") is None
    assert LastResults(Target(Path("old/raft.py")), tmp_path).failed("2A") is None
    (tmp_path / "results.json").write_text("half of a fi")
    assert last.failed("2A") is None


@pytest.mark.slow
def test_failed_repeats_failed_runs_and_x_stops_at_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SKELETON, tmp_path)
    chosen = ["test", "2A", "-k", "cluster_"]
    assert cli.main([*chosen, "--failed"]) == 2
    text = "raftlab: there are no results of lab 2A in raftlab-out yet: run raftlab test 2A first\n"
    assert capsys.readouterr().err == text
    assert cli.main([*chosen, "--seeds", "3:5"]) == 1
    capsys.readouterr()
    assert cli.main([*chosen, "--failed", "-x"]) == 1
    out = capsys.readouterr().out
    assert "(cluster_of_one, sim, seed 3)" in out
    assert out.endswith("\nstopped at the first failure: 1 of 2 runs done\n")
    shutil.copy(ROOT / "solutions" / "raft.py", tmp_path)
    assert cli.main([*chosen, "--failed"]) == 0
    assert capsys.readouterr().out.startswith("  2/2    The only server of a cluster elects itself ")
    assert cli.main([*chosen, "--failed"]) == 0
    text = "lab 2A: nothing failed last time; to run everything: raftlab test 2A\n"
    assert capsys.readouterr().out == text
