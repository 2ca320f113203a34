"""Tests of spilling: finished submissions are on disk and not in memory, and the report is the same."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import msgspec

from raftgrade.reports import table
from raftgrade.results import Report
from raftgrade.store import REPORT, Store, read
from raftgrade.tally import RunEntry, Tally
from tests.grader.fakes import record
from tests.grader.test_tally import all_passed, plan

NAMES = ("alice", "bob", "carol")


def entries() -> list[RunEntry]:
    """Entries in which Alice and Bob fail every run, and Carol's runs are not complete."""
    passed = [entry for entry in all_passed() if isinstance(entry, RunEntry)]
    failed = [
        RunEntry(name, record(run.test, run.seed, "failed", lab=run.lab, network=run.network))
        for name in NAMES
        for run in (entry.record for entry in passed)
    ]
    return failed[:-1]


def graded(folder: Path, complete: bool, shelved: bool = True) -> tuple[Report, str]:
    with Store.create(folder) as store:
        tally = Tally(plan(*NAMES), store.spill if shelved else None)
        for entry in entries():
            tally.add(entry)
            store.add(entry)
        for _ in range(2):  # a grading run does this every few seconds
            report = tally.update_report(complete, 1.0)
            store.save(report)
        return report, table.render(report, store.spill.load)


def bad(report: Report) -> dict[str, int]:
    return {each.name: sum(len(n.bad) for test in each.tests for n in test.networks) for each in report.submissions}


def test_finished_submissions_are_spilled(tmp_path: Path) -> None:
    report, _ = graded(tmp_path, complete=True)
    assert [each.state for each in report.submissions] == ["graded", "graded", "running"]
    many = bad(read(tmp_path))
    assert many["alice"] == many["bob"] == many["carol"] + 1 > 3
    assert bad(report) == {"alice": 0, "bob": 0, "carol": many["carol"]}


def test_spilling_changes_neither_report_nor_table(tmp_path: Path) -> None:
    _, text = graded(tmp_path / "shelved", complete=True)
    whole, same_text = graded(tmp_path / "memory", complete=True, shelved=False)
    assert text == same_text
    written = (tmp_path / "shelved" / REPORT).read_bytes()
    assert written == (tmp_path / "memory" / REPORT).read_bytes()
    assert written == msgspec.json.format(msgspec.json.encode(whole), indent=1)


def test_a_report_without_submissions_is_saved(tmp_path: Path) -> None:
    empty = plan()
    empty = msgspec.structs.replace(copy.deepcopy(empty), submissions=[])
    with Store.create(tmp_path) as store:
        store.save(empty)
    written = (tmp_path / REPORT).read_bytes()
    assert written == msgspec.json.format(msgspec.json.encode(empty), indent=1)


def test_an_interrupted_report_is_counted_again(tmp_path: Path) -> None:
    graded(tmp_path / "shelved", complete=False)
    held = json.loads((tmp_path / "shelved" / REPORT).read_bytes())
    assert not held["submissions"][0]["tests"][0]["networks"][0]["bad"]
    graded(tmp_path / "memory", complete=False, shelved=False)
    shelved, memory = read(tmp_path / "shelved"), read(tmp_path / "memory")
    assert shelved.unverified.replace("shelved", "memory") == memory.unverified
    assert shelved.submissions == memory.submissions
