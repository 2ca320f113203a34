"""Tests of host processes and of the machine they run on: a student is not blamed for a machine that starts no process or is
too busy, and no host outlives the judge."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from raftlab import operating_system
from raftlab.explain.failure import Failure, LabFailure
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.worlds import host_process
from raftlab.worlds.base import HostNotStarted
from raftlab.worlds.host_process import TooSlow, WarmHost
from tests.conftest import SOLUTION


def test_a_host_that_does_not_start_is_the_machines_fault_only_if_no_other_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        pytest.raises(HostNotStarted, match="the host process did not start"),
        WarmHost(tmp_path / "nowhere.py") as host,
    ):
        host.spawn("sim", [])
    impl = Implementation(tmp_path / "nowhere.py")
    run = Run(impl, catalogue.find_test("cluster_of_one"), "sim", 0)
    with pytest.raises(HostNotStarted) as caught:
        run.cluster(1)
    assert impl.starts_an_empty_submission()
    record = run.record(caught.value)
    assert record.outcome == "failed"
    assert record.failure is not None
    assert (
        record.failure.text
        == "the process that runs your code does not start, although that of an empty submission does"
    )
    monkeypatch.setattr(Implementation, "starts_an_empty_submission", lambda self: False)
    assert run.record(caught.value).outcome == "error"
    impl.close()


def test_a_submission_that_takes_long_to_compile_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_process, "_COMPILE_CPU_S", 0.1)
    (tmp_path / "raft.py").write_text("class Raft:\n" + "    a.b\n" * 100_000)
    with (
        WarmHost(tmp_path) as host,
        pytest.raises(TooSlow, match="reading and compiling your code takes more than 0 s"),
    ):
        host.spawn("check", list(os.pipe()))


def test_the_cpu_time_of_a_process_is_exact() -> None:
    code = "import time; sum(range(10**6)); print(time.process_time(), flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        own = float(process.stdout.readline())
        seconds = operating_system.cpu_seconds(process.pid)
        process.kill()
    assert own <= seconds < own + 0.05
    assert operating_system.cpu_seconds(process.pid) == 0  # the process has ended


def made(error: BaseException | None, cpu_s: float = 0.0, late_s: float = 0.0) -> tuple[str, str]:
    """The outcome of a run of 10 s that ended with ``error``, and the kind of its failure.

    Args:
        error: what ended the run.
        cpu_s: the seconds of CPU time that the run's servers used.
        late_s: the number of seconds by which the judge was late.
    """
    run = Run(Implementation(SOLUTION), catalogue.find_test("cluster_of_one"), "rpyc", 0)
    run._world = SimpleNamespace(cpu_s=cpu_s, late_s=late_s, close=lambda: None)  # type: ignore[assignment]
    run._wall -= 10.0
    record = run.record(error)
    return record.outcome, "" if record.failure is None else record.failure.kind


def test_the_machine_is_to_blame_only_with_evidence() -> None:
    no_leader = LabFailure(Failure("assertion", "expected a leader within 5 s, but there is none"))
    two_leaders = LabFailure(Failure("invariant", "expected at most one leader"))
    assert made(no_leader) == ("failed", "assertion")
    assert made(no_leader, late_s=0.3) == ("error", "machine-busy")
    assert made(no_leader, late_s=0.2) == ("failed", "assertion")
    assert made(two_leaders, late_s=1.0) == ("failed", "invariant")
    assert made(no_leader, late_s=1.0, cpu_s=9.9) == (
        "failed",
        "assertion",
    )  # the run's own servers made the judge late
    assert made(OSError(errno.ENOSPC, "No space left on device")) == ("error", "machine-full")
    assert made(MemoryError()) == ("error", "machine-full")
    assert made(KeyError("x")) == ("error", "error")  # the grader repeats such a run; a second error is a failure


JUDGE = """
import sys, time
from pathlib import Path
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld

host = WarmHost(Path(sys.argv[1]))
forked = ForkedHost(host, 0, "random")
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
    return state not in ("Z", "X")


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
        ("assertion", 0.2, "failed"),
        ("invariant", 0.7, "failed"),
        ("deadlock", 9.0, "failed"),
    ],
)
def test_an_overloaded_machine_gives_no_verdict_on_timing(
    kind: str, late: float, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    impl = Implementation(SOLUTION)
    run = Run(impl, catalogue.find_test("cluster_of_one"), "rpyc", 0)
    monkeypatch.setattr(run, "_world", SimpleNamespace(late_s=late, cpu_s=0.0, close=lambda: None))
    record = run.record(LabFailure(Failure(kind, "expected a leader within 5 s, but there is none")))
    assert record.outcome == outcome
    assert record.failure is not None
    if outcome == "error":
        assert record.failure.text == (
            "could not be judged: the machine was so busy that the lab itself ran 0.7 s late; seen: expected a leader "
            "within 5 s, but there is none"
        )
