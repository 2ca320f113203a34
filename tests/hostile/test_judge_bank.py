"""A submission that sends bad data to the judge fails, and uses up neither memory nor disk space nor time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftlab.safe_text import printable
from raftlab.sandbox import levels
from tests.hostile import bank
from tests.hostile.bank import Entry
from tests.hostile.judge_bank import ENTRIES
from tests.hostile.test_bank import texts

LEVEL = levels.probe("bwrap")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LEVEL.level != "bwrap", reason=LEVEL.reason),
    pytest.mark.timeout(600),  # half a minute on an idle machine
]

# Bytes of the longest record: a sentence, a traceback and twelve events, where a character can take six bytes of JSON.
LONGEST_RECORD = 100_000
# Megabytes of memory for the grader and for each process that judges, see handouts/instructors-guide.md.
MOST_MEMORY_MB = 300


@dataclass(frozen=True)
class Batch:
    out: Path
    left: int
    """How many processes were left behind."""
    memory_mb: float
    """Of the grader."""
    report: dict[str, Any]


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """All entries, graded on both networks."""
    folder = tmp_path_factory.mktemp("judge-bank")
    bank.write(folder, ENTRIES)
    (folder / "tmp").mkdir()
    driver = Path(__file__).with_name("driver.py")
    command = [sys.executable, str(driver), "run", "class", "--labs", "2A", "--runs", "1", "--jobs", "6"]
    with subprocess.Popen(
        [*command, "--sandbox", "bwrap"],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder / "tmp")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as grader:
        out, errors = grader.communicate()
    assert grader.returncode == 2, errors
    assert list((folder / "tmp").iterdir()) == []
    report = json.loads((folder / "raftgrade-out" / "report.json").read_text())
    *_, memory, left = out.splitlines()
    return Batch(folder / "raftgrade-out", int(left), int(memory) / 1000, report)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: printable(entry.name))
def test_the_verdict_is_right(batch: Batch, entry: Entry) -> None:
    (submission,) = (item for item in batch.report["submissions"] if item["name"] == printable(entry.name))
    assert submission["state"] == (bank.REFUSED if entry.verdict == bank.REFUSED else "graded"), texts(submission)
    assert submission["points"] == (submission["max_points"] if entry.verdict == bank.CLEAN else 0), texts(submission)
    assert bool(texts(submission)) == (entry.verdict != bank.CLEAN), texts(submission)
    for text in texts(submission):
        assert any(part in text for part in entry.says), text
    errors = [(network["network"], network["errors"]) for test in submission["tests"] for network in test["networks"]]
    assert ("sim", 0) in errors  # none of the failures is the machine's fault


def test_records_traces_and_memory_stay_small(batch: Batch) -> None:
    assert max(map(len, (batch.out / "records.jsonl").read_bytes().splitlines())) < LONGEST_RECORD
    assert (batch.out / "report.json").stat().st_size < len(ENTRIES) * LONGEST_RECORD
    for traces in (batch.out / "traces").iterdir():
        assert sum(file.stat().st_size for file in traces.iterdir()) < 100_000_000
    assert batch.memory_mb < MOST_MEMORY_MB


def test_no_process_is_left_behind(batch: Batch) -> None:
    assert batch.left == 0
