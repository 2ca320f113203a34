"""All hostile submissions in one batch: each gets the correct verdict, honest ones get full marks, and no process or file
is left behind."""

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
from tests.hostile.bank import BANK, Entry

BWRAP = levels.probe("bwrap")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BWRAP.level != "bwrap", reason=BWRAP.reason),
    pytest.mark.timeout(600),  # half a minute on an idle machine
]


@dataclass(frozen=True)
class Batch:
    folder: Path
    out: str
    report: dict[str, Any]

    def of(self, entry: Entry) -> dict[str, Any]:
        (submission,) = (item for item in self.report["submissions"] if item["name"] == printable(entry.name))
        return dict(submission)


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    folder = tmp_path_factory.mktemp("bank")
    bank.write(folder)
    (folder / "tmp").mkdir()
    driver = Path(__file__).with_name("driver.py")
    done = subprocess.run(
        [
            sys.executable,
            str(driver),
            "run",
            "class",
            "--labs",
            "2A",
            "--runs",
            "1",
            "--jobs",
            "6",
            "--sandbox",
            "bwrap",
        ],
        cwd=folder,
        env={**os.environ, bank.SECRET: "key", "TMPDIR": str(folder / "tmp")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return Batch(folder, done.stdout, json.loads((folder / "raftgrade-out" / "report.json").read_text()))


def texts(submission: dict[str, Any]) -> list[str]:
    """The texts of all problems and failures of a submission."""
    networks = [network for test in submission["tests"] for network in test["networks"]]
    # Failures of runs with another outcome do not count: the machine was too busy (raftlab.runs.run.TOO_LATE_S).
    bad = [run["failure"]["text"] for network in networks for run in network["bad"] if run["outcome"] == "failed"]
    return [problem["text"] for problem in submission["problems"]] + bad


@pytest.mark.parametrize("entry", BANK, ids=lambda entry: printable(entry.name))
def test_the_verdict_is_right(batch: Batch, entry: Entry) -> None:
    submission = batch.of(entry)
    assert submission["state"] == (bank.REFUSED if entry.verdict == bank.REFUSED else "graded"), texts(submission)
    assert submission["points"] == (submission["max_points"] if entry.verdict == bank.CLEAN else 0), texts(submission)
    assert bool(texts(submission)) == (entry.verdict != bank.CLEAN), texts(submission)
    for text in texts(submission):
        assert any(part in text for part in entry.says), text
    errors = [(network["network"], network["errors"]) for test in submission["tests"] for network in test["networks"]]
    assert ("sim", 0) in errors  # none of the failures is the machine's fault


def test_no_process_or_file_is_left_behind(batch: Batch) -> None:
    assert batch.out.splitlines()[-1] == "0"  # processes
    assert list((batch.folder / "tmp").iterdir()) == []
    assert sorted(path.name for path in batch.folder.iterdir()) == ["class", "raftgrade-out", "the-answers.txt", "tmp"]


def test_no_submission_was_changed(batch: Batch, tmp_path: Path) -> None:
    (tmp_path / "class").mkdir()
    for entry in BANK:
        entry.write(tmp_path / "class")
        for file in (tmp_path / "class" / entry.name).iterdir():
            if not file.is_symlink():
                assert (batch.folder / "class" / entry.name / file.name).read_bytes() == file.read_bytes()


def test_the_table_is_safe_to_print(batch: Batch) -> None:
    assert "\x1b" not in batch.out
    assert "student code ran in a sandbox (bwrap)" in batch.out
    assert "carol \\x1b[31m" in batch.out
