"""The speed of the simulator with the reference.

An RPC is a call and its reply, as the harness counts them. CPU seconds are the sum for judge and host.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from dataclasses import dataclass
from statistics import median

import pytest

from benchmarks.measure import PREEMPTING
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.host.loader import Program
from raftlab.host.sim_host import SimHost
from raftlab.submission import source
from raftlab.worlds.host_process import WarmHost, cpu_seconds
from raftlab.worlds.sim_world import ForkedHost, InProcessHost, SimWorld
from tests.conftest import SOLUTION

IDLE_S = 400.0  # virtual seconds of an idle cluster of five servers: heartbeats only


@dataclass(frozen=True)
class Idle:
    """An idle cluster: ``virtual_s`` are virtual seconds, ``wall`` real ones, ``judge`` and ``host`` CPU seconds."""

    rpcs: int
    virtual_s: float
    wall: float
    judge: float
    host: float

    @property
    def cpu(self) -> float:
        return self.judge + self.host


def idle_cluster(host: WarmHost, preempt: bool, virtual_s: float) -> Idle:
    """Run five idle servers with a leader in a host process, for about ``virtual_s`` virtual seconds."""
    forked = ForkedHost(host, 0, PREEMPTING if preempt else "none")
    world = SimWorld(forked, MIN_DELAY)
    try:
        cluster = Cluster(world, "2A", 0, 5)
        cluster.start_all()
        cluster.one_leader()
        pid = host.pid(forked._child)
        rpcs, began = cluster.rpc_count(), cluster.now
        wall, judge, student = time.perf_counter(), time.process_time(), cpu_seconds(pid)
        cluster.sleep(virtual_s)
        wall, judge = time.perf_counter() - wall, time.process_time() - judge
        student = cpu_seconds(pid) - student
        return Idle(cluster.rpc_count() - rpcs, cluster.now - began, wall, judge, student)
    finally:
        world.close()


def idle_rate(host: WarmHost | None, virtual_s: float) -> float:
    """RPCs per CPU second of five idle servers without preemption, in a host process or, if ``host`` is ``None``, in this
    process."""
    if host is not None:
        one = idle_cluster(host, False, virtual_s)
        return one.rpcs / one.cpu
    world = SimWorld(InProcessHost(SOLUTION, 0, "none"), MIN_DELAY)
    try:
        cluster = Cluster(world, "2A", 0, 5)
        cluster.start_all()
        cluster.one_leader()
        rpcs, cpu = cluster.rpc_count(), time.process_time()
        cluster.sleep(virtual_s)
        return (cluster.rpc_count() - rpcs) / (time.process_time() - cpu)
    finally:
        world.close()


def start_ms(host: WarmHost, runs: int) -> float:
    """Real milliseconds before the first event of a run (a fork from the warm host, and the start of three servers): the
    median of ``runs``."""
    walls = []
    for seed in range(runs):
        wall = time.perf_counter()
        world = SimWorld(ForkedHost(host, seed, PREEMPTING), MIN_DELAY)
        Cluster(world, "2A", seed, 3).start_all()
        walls.append(time.perf_counter() - wall)
        world.close()
    return median(walls) * 1000


def test_rpcs_and_virtual_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """RPCs per second with a host process, and virtual seconds per CPU second."""
    rows = []
    with WarmHost(SOLUTION) as host:
        for preempt in (True, False):
            one = idle_cluster(host, preempt, IDLE_S)
            rows.append(
                f"preempt={preempt!s:5}  {one.rpcs / one.wall:7.0f} RPC/s   {one.virtual_s / one.cpu:6.0f} virtual s per CPU"
                f" s   judge {one.judge / one.rpcs * 1e6:4.0f} us, host {one.host / one.rpcs * 1e6:4.0f} us of CPU per RPC"
            )
    with capsys.disabled():
        print("\nsim, 5 servers, reference:", *rows, sep="\n  ")


def test_shares(capsys: pytest.CaptureFixture[str]) -> None:
    """Shares of CPU time: the student's file, the threading library on its behalf, and the framework.

    A profiler slows calls down more than statements, so the student's share is somewhat understated.
    """
    inside = InProcessHost(SOLUTION, 0, PREEMPTING)
    world = SimWorld(inside, MIN_DELAY)
    cluster = Cluster(world, "2A", 0, 5)
    cluster.start_all()
    cluster.one_leader()
    profile = cProfile.Profile()
    profile.enable()
    cluster.sleep(50)
    profile.disable()
    cpu_s = {"student": 0.0, "library": 0.0, "framework": 0.0}
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(profile, stream=io.StringIO()).stats.items():  # type: ignore[attr-defined]
        kind = "student" if file == "raft.py" else "framework" if "raftlab" in file or file == "~" else "library"
        cpu_s[kind] += own
    total = sum(cpu_s.values())
    with capsys.disabled():
        print("\nshares of a run:", ", ".join(f"{kind} {own / total:.0%}" for kind, own in cpu_s.items()))


def test_start_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """The real time before the first event of a run."""
    program_wall = time.perf_counter()
    Program(source.find(SOLUTION)).compile_all()
    program_wall = time.perf_counter() - program_wall
    assert SimHost  # imported above, so that its import is not measured
    with WarmHost(SOLUTION) as host, capsys.disabled():
        print(f"\nstart of a run: {start_ms(host, 20):.1f} ms (median of 20); loading: {program_wall * 1000:.0f} ms")
