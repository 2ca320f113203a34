"""Tests of what pytest prints about a run: none of the suite's code if the student's code fails, but a full traceback
if raftlab itself fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_timeout

from raftlab.runs import plugin
from raftlab.runs.record import End, Record, from_line
from raftlab.suites import catalogue
from tests.conftest import ROOT, SKELETON

pytestmark = pytest.mark.slow

SUITE = catalogue.suite_file("2A")


def _printed(folder: Path, ours: str = "", *options: str, pass_fds: tuple[int, ...] = ()) -> str:
    """What pytest prints for one test that the skeleton fails. The code in ``ours`` runs first, and may change raftlab."""
    (folder / "ours.py").write_text(ours)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-p", "ours", "-p", "raftlab.runs.plugin"]
    command += ["-c", str(SUITE.with_name("pytest.ini")), "--rootdir", str(SUITE.parent), "--noconftest", str(SUITE)]
    command += [f"--impl={SKELETON}", "--only=initial_election", *options]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'labs'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, pass_fds=pass_fds)
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


def test_a_failure_of_the_students_code_shows_no_code_of_the_suite(tmp_path: Path) -> None:
    printed = _printed(tmp_path)
    assert "expected" in printed  # the failure itself is printed
    assert "one_leader()" not in printed


def test_a_failure_of_raftlab_itself_shows_the_traceback(tmp_path: Path) -> None:
    printed = _printed(
        tmp_path, "import raftlab.harness.cluster\nraftlab.harness.cluster.Cluster.one_leader = lambda self: 1 / 0\n"
    )
    assert "one_leader()" in printed
    assert "ZeroDivisionError" in printed


def test_a_run_together_with_its_judge_is_reported_in_the_same_way(tmp_path: Path) -> None:
    def records(*options: str) -> tuple[list[Record | End], str]:
        with (tmp_path / "records").open("w+b") as file:
            fd = f"--records-fd={file.fileno()}"
            # This breaks runs whose judge has a process of its own, so that only runs that share a process with their
            # judge can pass.
            ours = (
                "from raftlab.runs import run, together\ntogether.RUNS_APART = 0\nrun.Run.cluster = None\n"
                if options
                else ""
            )
            printed = _printed(tmp_path, ours, fd, *options, pass_fds=(file.fileno(),))
            file.seek(0)
            found = [from_line(line) for line in file]
        for record in found:
            if isinstance(record, Record):
                record.wall_s = record.cpu_s = 0.0
        return found, printed.rpartition(" in ")[0]

    assert records("--together") == records()


@pytest.mark.parametrize("debugging", [False, True])
def test_the_time_limit_leaves_a_debugger_alone(debugging: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pytest_timeout, "SUPPRESS_TIMEOUT", debugging)  # as pytest-timeout does at breakpoint()
    item: Any = SimpleNamespace()
    plugin.pytest_timeout_set_timer(item, SimpleNamespace(method="signal", timeout=0.02))
    failed = False
    try:
        time.sleep(0.2)
    except pytest.fail.Exception:
        failed = True
    finally:
        item.cancel_timeout()
    assert failed is not debugging
