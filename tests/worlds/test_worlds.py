"""Host processes: a student is not blamed if one does not start, and none outlives the judge."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raftlab.explain.failure import Failure, LabFailure
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.worlds.base import HostNotStarted
from raftlab.worlds.host_process import WarmHost
from tests.conftest import SOLUTION


def test_a_host_that_does_not_start_is_not_the_students_fault(tmp_path: Path) -> None:
    with (
        pytest.raises(HostNotStarted, match="the host process did not start"),
        WarmHost(tmp_path / "nowhere.py") as host,
    ):
        host.spawn("sim", [])
    impl = Implementation(tmp_path / "nowhere.py")
    run = Run(impl, catalogue.find_test("cluster_of_one"), "sim", 0, preempt=True)
    with pytest.raises(HostNotStarted) as caught:
        run.cluster(1)
    assert run.record(caught.value).outcome == "error"
    impl.close()


JUDGE = """
import sys, time
from pathlib import Path
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld

host = WarmHost(Path(sys.argv[1]))
forked = ForkedHost(host, 0, True)
cluster = Cluster(SimWorld(forked, MIN_DELAY), "2A", 0, 3)
cluster.start_all()
print(host._process.pid, host.pid(forked._child), flush=True)
time.sleep(600)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_process_outlives_the_judge(how: signal.Signals) -> None:
    judge = subprocess.Popen([sys.executable, "-c", JUDGE, str(SOLUTION)], stdout=subprocess.PIPE, text=True)
    assert judge.stdout is not None
    with judge.stdout:
        pids = [int(word) for word in judge.stdout.readline().split()]
    assert all(map(alive, pids))
    os.kill(judge.pid, how)
    judge.wait()
    deadline = time.monotonic() + 30
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(alive, pids))


@pytest.mark.parametrize(
    ("kind", "late", "outcome"),
    [
        ("assertion", 0.7, "error"),
        ("assertion", 0.4, "failed"),
        ("invariant", 0.7, "failed"),
        ("deadlock", 9.0, "failed"),
    ],
)
def test_an_overloaded_machine_gives_no_verdict_on_timing(
    kind: str, late: float, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impl = Implementation(SOLUTION)
    run = Run(impl, catalogue.find_test("cluster_of_one"), "rpyc", 0, preempt=True)
    monkeypatch.setattr(run, "_world", SimpleNamespace(late_s=late, cpu_s=0.0, close=lambda: None))
    record = run.record(LabFailure(Failure(kind, "expected a leader within 5 s, but there is none")))
    assert record.outcome == outcome
    assert record.failure is not None
    if outcome == "error":
        assert record.failure.text == (
            "could not be judged: the machine was so busy that the lab itself ran 0.7 s late; seen: expected a leader "
            "within 5 s, but there is none"
        )
