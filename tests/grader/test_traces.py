"""Tests that the report names only traces that exist, and that two gradings of the same class keep the same traces."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from raftgrade import results
from raftgrade.engines import dask
from raftgrade.engines.jobs import JobResult
from raftgrade.plan import Settings
from raftgrade.results import Report
from raftgrade.store import Store, read
from raftgrade.tally import RunEntry, Tally, blank
from raftlab.runs.record import Record
from raftlab.runs.trace_quota import TraceQuota
from tests.grader.fakes import record
from tests.grader.test_tally import TESTS

MOST = 1000
RUNS = [(test, network, seed) for test, network in [("first", "sim"), ("second", "sim")] for seed in range(100, 110)]
RUNS += [("first", "rpyc", seed) for seed in range(100, 103)]


def plan() -> Report:
    settings = Settings(labs=["2A"], networks=["sim", "rpyc"], runs={"sim": 10, "rpyc": 3}, seed=100, jobs=2)
    return Report(
        tool="raftgrade test",
        started="2026-11-21T00:00:00+00:00",
        settings=settings,
        submissions=[blank("alice", "alice", "alice", TESTS, settings)],
    )


def failed(store: Store, run: tuple[str, str, int], size: int) -> RunEntry:
    """A failing run whose trace has just been written."""
    test, network, seed = run
    folder = store.traces("alice")
    folder.mkdir(exist_ok=True)
    file = folder / f"2A-{test}-{network}-{seed}.jsonl"
    file.write_bytes(str(file).encode() + b"\n" + bytes(size))
    return RunEntry("alice", record(test, seed, "failed", network=network, trace=str(file)))


def bad(report: Report) -> list[results.BadRun]:
    return [bad for test in report.submissions[0].tests for result in test.networks for bad in result.bad]


def traces(report: Report) -> set[str]:
    return {Path(each.trace).name for each in bad(report) if each.trace}


def there(store: Store) -> set[str]:
    return {file.name for file in store.traces("alice").iterdir()}


def graded(folder: Path, order: list[tuple[str, str, int]], stops: int) -> set[str]:
    """Grade runs in this order, and start a new grading after ``stops`` of them. Returns the traces in the final report."""
    todo = iter(order)
    report = plan()
    for share in (stops, len(order)):
        with Store.create(folder) as store:
            tally = Tally(plan(), store.spill, lambda slug: TraceQuota(store.traces(slug), MOST))
            entries = list(store.earlier[1]) if store.earlier else []
            reused = store.start_report(entries, {"alice": "alice"})
            store.save(plan())
            for entry in reused.runs("alice"):
                assert tally.add(entry)
            for run in itertools.islice(todo, share):
                entry = failed(store, run, 40 + 10 * (run[2] % 7))
                assert tally.add(entry)
                store.add(entry)
            left = there(store)
            report = tally.update_report(complete=share == len(order), seconds=1.0)
            store.save(report)
        assert traces(read(folder)) == left
    assert len(bad(read(folder))) == len(RUNS)
    return traces(read(folder))


def test_the_same_traces_are_kept_in_any_order_of_the_runs(tmp_path: Path) -> None:
    names = []
    for number in range(8):
        order = random.Random(number).sample(RUNS, len(RUNS))
        names.append(graded(tmp_path / str(number), order, stops=1 + 3 * number))
    assert all(each == names[0] for each in names)
    # The traces of each test's first seeds are kept, so a program that fails everywhere has an example of every failure.
    assert {f"2A-{test}-{network}-{seed}.jsonl" for test, network, seed in RUNS if seed < 103} <= names[0]
    assert len(names[0]) < len(RUNS)


def test_a_partial_report_names_no_trace_that_was_removed(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        tally = Tally(plan(), store.spill, lambda slug: TraceQuota(store.traces(slug), MOST))
        store.save(plan())
        for run in RUNS[:10]:
            entry = failed(store, run, 300)
            tally.add(entry)
            store.add(entry)
        store.save(tally.update_report(complete=False, seconds=1.0))
    assert traces(read(tmp_path)) == {f"2A-first-sim-{seed}.jsonl" for seed in (100, 101, 102)}


def test_a_run_that_passed_on_the_second_attempt_has_no_trace(tmp_path: Path) -> None:
    with Store.create(tmp_path) as store:
        tally = Tally(plan(), store.spill, lambda slug: TraceQuota(store.traces(slug), MOST))
        first = failed(store, ("first", "sim", 109), 600)
        first.record.outcome = "error"
        assert tally.add(first)
        assert tally.add(RunEntry("alice", record("first", 109)))
        assert tally.add(failed(store, ("first", "sim", 100), 600))
        assert traces(tally.update_report(complete=False, seconds=1.0)) == {"2A-first-sim-100.jsonl"}


def test_a_worker_sends_only_traces_that_may_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "TRACE_QUOTA", MOST)
    records: list[Record] = []
    with Store.create(tmp_path) as store:
        records = [failed(store, (test, "sim", seed), 300).record for test in ("first", "second") for seed in (0, 1)]
        folder = store.traces("alice")
        packed = dask._packed(folder, JobResult("job", "alice", records, False))
    assert set(packed) == {"2A-first-sim-0.jsonl", "2A-second-sim-0.jsonl", "2A-first-sim-1.jsonl"}
