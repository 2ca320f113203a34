"""What pytest prints of a run: nothing of the suite's own text for a student's failure, all of it for one of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftlab.suites import catalogue
from tests.conftest import ROOT, SKELETON

pytestmark = pytest.mark.slow

SUITE = catalogue.suite_file("2A")


def _printed(folder: Path, ours: str = "") -> str:
    """Of one test that the skeleton fails; ``ours`` is done to the lab before."""
    (folder / "ours.py").write_text(ours)
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider"]
    command += ["-p", "ours", "-p", "raftlab.runs.plugin"]
    command += ["-c", str(SUITE.with_name("pytest.ini")), "--rootdir", str(SUITE.parent), "--noconftest", str(SUITE)]
    command += [f"--impl={SKELETON}", "--only=initial_election"]
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{ROOT / 'labs'}"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    return done.stdout


def test_the_suite_is_not_quoted_for_a_failing_run(tmp_path: Path) -> None:
    printed = _printed(tmp_path)
    assert "expected" in printed  # what was seen is told
    assert "one_leader()" not in printed


def test_where_the_lab_itself_failed_is_quoted(tmp_path: Path) -> None:
    printed = _printed(
        tmp_path, "import raftlab.harness.cluster\nraftlab.harness.cluster.Cluster.one_leader = lambda self: 1 / 0\n"
    )
    assert "one_leader()" in printed
    assert "ZeroDivisionError" in printed
