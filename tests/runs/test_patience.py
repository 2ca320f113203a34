"""If several runs of a test hang in a row, the remaining runs of this test are skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftlab.explain.failure import Failure
from raftlab.runs.patience import HANGS, Patience
from raftlab.runs.record import Record, from_line
from raftlab.suites import catalogue
from tests.conftest import ROOT
from tests.grader.fakes import record

pytestmark = pytest.mark.slow

SUITE = catalogue.suite_file("2A")
HANGING = """
class Raft:
    def __init__(self, *given): sum(range(10**12))
    def start(self, command): return -1, 0, False
    def get_state(self): return 0, False
    def request_vote(self, args: "A") -> "A": return args
    def append_entries(self, args: "A") -> "A": return args
"""


def test_runs_after_several_hangs_are_not_made(tmp_path: Path) -> None:
    (tmp_path / "raft.py").write_text(HANGING)
    # In this test, code counts as hanging after a tenth of a second of CPU time.
    (tmp_path / "impatient.py").write_text(
        "import raftlab.worlds.sim_world\nraftlab.worlds.sim_world.HANG_CPU_S = 0.1\n"
    )
    reader, writer = os.pipe()
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-p", "impatient", "-p", "raftlab.runs.plugin"]
    command += ["-c", str(SUITE.with_name("pytest.ini")), "--rootdir", str(SUITE.parent), "--noconftest", str(SUITE)]
    command += [f"--impl={tmp_path}", "--seeds=0:4", "--only=initial_election", f"--records-fd={writer}"]
    path = f"{tmp_path}:{ROOT / 'labs'}"
    with open(reader, "rb") as records:
        done = subprocess.run(
            command,
            pass_fds=[writer],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PYTHONPATH": path},
        )
        os.close(writer)
        items = [from_line(line) for line in records]
    runs = [item for item in items if isinstance(item, Record)]
    assert [(run.seed, run.outcome) for run in runs] == [(seed, "failed") for seed in range(4)], done
    texts = [run.failure.text for run in runs if run.failure is not None]
    assert [text.startswith("not run: the previous 3 runs of this test") for text in texts] == [False] * HANGS + [True]
    assert {run.failure.kind for run in runs if run.failure is not None} == {"host-hangs"}


def _record(test: str, kind: str, cpu_s: float = 0.1) -> Record:
    if not kind:
        return record(test, cpu_s=cpu_s)
    return record(test, outcome="failed", failure=Failure(kind, "it is told what happened"), cpu_s=cpu_s)


def test_a_run_that_ends_resets_the_count_of_hangs() -> None:
    patience = Patience()
    for kind in ["host-hangs"] * (HANGS - 1) + [""] + ["host-hangs"] * (HANGS - 1) + ["assertion"]:
        patience.ended(_record("first", kind))
        assert patience.refusal("first", "sim") is None
    for _ in range(HANGS):
        patience.ended(_record("first", "host-hangs"))
    assert patience.refusal("first", "sim") is not None
    assert patience.refusal("first", "rpyc") is None
    assert patience.refusal("second", "sim") is None


@pytest.mark.parametrize(
    ("kind", "cpu_s", "given_up"), [("", 30.0, False), ("assertion", 9.0, False), ("assertion", 30.0, True)]
)
def test_runs_that_compute_for_long_and_fail_count_as_hangs(kind: str, cpu_s: float, given_up: bool) -> None:
    patience = Patience()
    for _ in range(HANGS):
        patience.ended(_record("first", kind, cpu_s))
    assert (patience.refusal("first", "sim") is not None) == given_up
