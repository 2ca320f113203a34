"""Tests that a grader that is interrupted or killed loses no finished run and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftgrade.cli import main
from raftgrade.store import read
from tests.grader.fakes import alive, submission, wait_until_gone

DRIVER = Path(__file__).with_name("driver.py")


class Grader:
    """A ``raftgrade run`` of two submissions whose jobs hang at the last run and have each started a child."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"mark-{uuid.uuid4()}"
        self.out = folder / "out"
        submission(folder, "class/alice", {"first/2": "family"})
        submission(folder, "class/bob")
        arguments = ["run", "class", "--network", "sim", "--runs", "3", "--jobs", "2", "--out", "out"]
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), self.mark, *arguments],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def wait_for_records(self, number: int) -> None:
        records = self.out / "records.jsonl"
        while not (records.exists() and records.read_bytes().count(b"\n") >= number):
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def end(self, number: int) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate()
        return self.process.returncode, out, err

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for pid in alive(self.mark):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def grader(tmp_path: Path) -> Iterator[Grader]:
    running = Grader(tmp_path)
    yield running
    running.close()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_leaves_a_report_and_no_process(grader: Grader, number: signal.Signals) -> None:
    # Alice's job hangs at its third run. All of bob's runs are done.
    grader.wait_for_records(8)
    assert alive(grader.mark)
    code, out, err = grader.end(number)
    assert code == 128 + number
    assert out == ""
    assert err.splitlines()[-1] == (
        "raftgrade: interrupted; 8 of 12 runs are in out/report.json: raftgrade report out shows them"
    )
    wait_until_gone(grader.mark)
    saved = json.loads((grader.out / "report.json").read_text())
    assert not saved["complete"]
    assert [item["state"] for item in saved["submissions"]] == ["running", "graded"]


def test_a_killed_run_loses_no_finished_result(grader: Grader, capsys: pytest.CaptureFixture[str]) -> None:
    grader.wait_for_records(8)
    assert grader.end(signal.SIGKILL)[0] == -signal.SIGKILL
    report = read(grader.out)
    assert not report.complete
    assert report.done == 8
    assert [item.points for item in report.submissions] == [0, 15]
    assert main(["report", str(grader.out)]) == 2
    assert "not complete: 8 of 12 runs have finished" in capsys.readouterr().out
