"""How fast the simulator is with the reference.

An RPC is a call and its reply, as the harness counts them. CPU seconds are those of judge and host together.
"""

from __future__ import annotations

import cProfile
import io
import pstats
import time
from dataclasses import dataclass
from statistics import median

import pytest

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
    """Run five servers that have a leader and nothing to do for about ``virtual_s`` virtual seconds, in a host process."""
    forked = ForkedHost(host, 0, preempt)
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


def start_ms(host: WarmHost, runs: int) -> float:
    """Real milliseconds that a run takes before its first event, the median of ``runs``: a fork from the warm host, and the
    start of three servers."""
    walls = []
    for seed in range(runs):
        wall = time.perf_counter()
        world = SimWorld(ForkedHost(host, seed, True), MIN_DELAY)
        Cluster(world, "2A", seed, 3).start_all()
        walls.append(time.perf_counter() - wall)
        world.close()
    return median(walls) * 1000


def test_rpcs_and_virtual_seconds(capsys: pytest.CaptureFixture[str]) -> None:
    """RPCs a second with a host process, and virtual seconds per CPU second."""
    rows = []
    with WarmHost(SOLUTION) as host:
        for preempt in (True, False):
            one = idle_cluster(host, preempt, IDLE_S)
            rows.append(
                f"preempt={preempt!s:5}  {one.rpcs / one.wall:7.0f} RPC/s   {one.virtual_s / one.cpu:6.0f} virtual s per CPU"
                f" s   judge {one.judge / one.rpcs * 1e6:4.0f} us, host {one.host / one.rpcs * 1e6:4.0f} us of CPU an RPC"
            )
    with capsys.disabled():
        print("\nsim, 5 servers, reference:", *rows, sep="\n  ")


def test_shares(capsys: pytest.CaptureFixture[str]) -> None:
    """Where the time goes: the student's file, Python's threading library on its behalf, or the framework.

    A profiler makes calls more expensive than statements, so the student's share is somewhat understated.
    """
    inside = InProcessHost(SOLUTION, 0, True)
    world = SimWorld(inside, MIN_DELAY)
    cluster = Cluster(world, "2A", 0, 5)
    cluster.start_all()
    cluster.one_leader()
    profile = cProfile.Profile()
    profile.enable()
    cluster.sleep(50)
    profile.disable()
    spent = {"student": 0.0, "library": 0.0, "framework": 0.0}
    for (file, _, _), (_, _, own, _, _) in pstats.Stats(profile, stream=io.StringIO()).stats.items():  # type: ignore[attr-defined]
        kind = "student" if file == "raft.py" else "framework" if "raftlab" in file or file == "~" else "library"
        spent[kind] += own
    total = sum(spent.values())
    with capsys.disabled():
        print("\nshares of a run:", ", ".join(f"{kind} {own / total:.0%}" for kind, own in spent.items()))


def test_start_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """What a run takes before its first event."""
    program_wall = time.perf_counter()
    Program(source.find(SOLUTION)).compile_all()
    program_wall = time.perf_counter() - program_wall
    assert SimHost  # imported above, so that its import is not measured
    with WarmHost(SOLUTION) as host, capsys.disabled():
        print(f"\nstart of a run: {start_ms(host, 20):.1f} ms (median of 20); loading: {program_wall * 1000:.0f} ms")
