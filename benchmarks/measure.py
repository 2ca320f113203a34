"""The measurements for the benchmarks page: clusters of several sizes, long logs, and grading runs of the reference.

CPU seconds are the sum for judge and host; virtual seconds are on the simulator's clock.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from raftgrade.soak import process_monitor
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.worlds.host_process import WarmHost, cpu_seconds
from raftlab.worlds.sim_world import ForkedHost, SimWorld
from tests.conftest import ROOT

# The preemption schedule of all runs that the page calls "with preemption".
PREEMPTING = "random"

PROPOSED_TOGETHER = 100  # commands that are proposed to a leader at the same moment
ENTRIES_PER_MESSAGE = 1000  # entries in each AppendEntries of the leader that the benchmark plays
SNAPSHOT_EVERY = 100  # entries between two snapshots
APPLY_TIMEOUT = 20.0  # virtual seconds within which entries must be applied


class RunningCluster:
    """A cluster in sim, and the CPU time and memory that it has used so far."""

    def __init__(self, cluster: Cluster, pid: int) -> None:
        self.cluster = cluster
        self._pid = pid

    def cpu(self) -> float:
        """CPU seconds so far."""
        return time.process_time() + cpu_seconds(self._pid)

    def peak_mb(self) -> float:
        """The largest resident memory of the host so far, in megabytes."""
        text = Path(f"/proc/{self._pid}/status").read_text()
        return int(text.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


@contextmanager
def running_cluster(
    host: WarmHost, lab: str, servers: int, preempt: bool, scripted: tuple[int, ...] = (), seed: int = 0
) -> Iterator[RunningCluster]:
    forked = ForkedHost(host, seed, PREEMPTING if preempt else "none")
    world = SimWorld(forked, MIN_DELAY)
    try:
        cluster = Cluster(world, lab, seed, servers, scripted)
        cluster.start_all()
        yield RunningCluster(cluster, host.pid(forked._child))
    finally:
        world.close()


# --- servers -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Servers:
    """The average cost of a command, if every server applies it before the next one is proposed."""

    servers: int
    elect_s: float
    """Virtual seconds until the benchmark saw the first leader (it checks every 0.15 s)."""
    cpu_ms: float
    virtual_ms: float
    rpcs: float


def agree(host: WarmHost, servers: int, commands: int) -> Servers:
    with running_cluster(host, "2B", servers, True) as running:
        c = running.cluster
        leader = c.one_leader()
        elected = c.now
        cpu, now, rpcs = running.cpu(), c.now, c.rpc_count()
        for number in range(commands):
            c.agree(f"command {number}", servers, among=[leader])
        cpu, now, rpcs = running.cpu() - cpu, c.now - now, c.rpc_count() - rpcs
        return Servers(servers, elected, cpu / commands * 1000, now / commands * 1000, rpcs / commands)


# --- log length ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenLog:
    """A log of ``reached`` entries, written through a leader. CPU and virtual seconds are for all entries."""

    reached: int
    cpu_s: float
    virtual_s: float


def write_through_leader(
    host: WarmHost, entries: int, snapshots: bool, preempt: bool = False, seed: int = 0
) -> WrittenLog:
    """Propose commands to the leader of three servers, :data:`PROPOSED_TOGETHER` at a time, until all servers have applied
    ``entries`` of them or the leader has been replaced."""
    with running_cluster(host, "2D" if snapshots else "2B", 3, preempt, seed=seed) as running:
        c = running.cluster
        if snapshots:
            c.take_snapshots(SNAPSHOT_EVERY)
        leader = c.one_leader()
        cpu, now = running.cpu(), c.now
        reached = 0
        while reached < entries:
            proposed = c.propose_together(leader, range(reached, reached + PROPOSED_TOGETHER))
            last = max(index for index, _, _ in proposed)
            if not c.wait_for(APPLY_TIMEOUT, lambda at=last: c.committed(at)[0] == 3):  # type: ignore[misc]
                break
            reached = last
        return WrittenLog(reached, running.cpu() - cpu, c.now - now)


@dataclass(frozen=True)
class ReceivedLog:
    """A log that one real server receives in long messages from a leader played by the benchmark: CPU seconds of each
    step, and the largest memory of the host."""

    entries: int
    append_s: float
    restart_s: float
    apply_s: float
    snapshot_s: float
    stored_kb: float
    host_mb: float


def receive_log(host: WarmHost, entries: int) -> ReceivedLog:
    with running_cluster(host, "2D", 3, False, scripted=(1, 2)) as running:
        c = running.cluster

        def send(term: int, prev: int, last: int, commit: int) -> None:
            new = [{"term": 1000, "command": index} for index in range(prev + 1, last + 1)]
            prev_term = 1000 if prev else 0
            fields = {"prev_log_index": prev, "prev_log_term": prev_term, "entries": new, "leader_commit": commit}
            reply = c.scripted_server(1).ask(0, "append_entries", term=term, leader_id=1, **fields)
            assert reply["success"], reply

        steps = [running.cpu()]
        for prev in range(0, entries, ENTRIES_PER_MESSAGE):
            send(1000, prev, min(entries, prev + ENTRIES_PER_MESSAGE), prev)
        steps.append(running.cpu())
        stored = c.server_state(0).state_size / 1000
        c.restart(0)
        steps.append(running.cpu())
        # The server has its log but no longer knows the commit index. This message tells the server that index, so the
        # server applies everything.
        send(2000, entries, entries, entries)
        assert c.wait_for(APPLY_TIMEOUT, lambda: c.committed(entries)[0] == 1)
        steps.append(running.cpu())
        c.call_snapshot(0, entries)
        steps.append(running.cpu())
        append, restart, apply, snapshot = (after - before for before, after in pairwise(steps))
        return ReceivedLog(entries, append, restart, apply, snapshot, stored, running.peak_mb())


def all_cpu_seconds() -> float:
    """CPU seconds used so far by this process and by all its descendants that have ended."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in both)


# --- other simulations ---------------------------------------------------------------------------------------------


def peer_rate(script: str, size: float, python: str = sys.executable) -> float:
    """RPCs per CPU second of another simulation: a script in this folder, which prints the RPCs and their CPU seconds.

    Args:
        script: the script's name.
        size: its argument, which says how much to simulate.
        python: the Python that runs it.
    """
    command = [python, str(ROOT / "benchmarks" / script), str(size)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=True)
    rpcs, cpu = done.stdout.split()
    return int(rpcs) / float(cpu)


# --- grading runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grading:
    """Measurements of one ``raftgrade run solutions``.

    ``runs`` and ``run_cpu`` (seconds) are by lab and network. ``cpu_s`` covers all processes, except those inside
    bubblewrap.
    """

    command: str
    wall_s: float
    cpu_s: float
    runs: dict[tuple[str, str], int]
    run_cpu: dict[tuple[str, str], float]
    tests: dict[str, int]
    bad: int


def grade(folder: Path, options: list[str]) -> Grading:
    """Grade the reference with ``raftgrade run solutions`` and ``options``; the report goes into ``folder``."""
    command = [sys.executable, "-m", "raftgrade", "run", str(ROOT / "solutions"), *options, "--out", str(folder)]
    with process_monitor.adopt_orphans():
        known = process_monitor.descendants()
        wall, cpu = time.monotonic(), all_cpu_seconds()
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"}
        )
        wall = time.monotonic() - wall
        # This waits for processes that outlived their parent, so that they are counted, too.
        process_monitor.leftover_processes(known)
        cpu = all_cpu_seconds() - cpu
    if done.returncode not in (0, 1, 2) or not (folder / "records.jsonl").exists():
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    records: list[dict[str, Any]] = [
        json.loads(line)["record"] for line in (folder / "records.jsonl").read_text().splitlines() if '"record"' in line
    ]
    runs: dict[tuple[str, str], int] = {}
    run_cpu: dict[tuple[str, str], float] = {}
    tests: dict[str, set[str]] = {}
    for record in records:
        key = (record["lab"], record["network"])
        runs[key] = runs.get(key, 0) + 1
        run_cpu[key] = run_cpu.get(key, 0.0) + record["cpu_s"]
        tests.setdefault(record["lab"], set()).add(record["test"])
    shown = " ".join(["raftgrade run solutions", *options])
    bad = sum(record["outcome"] != "passed" for record in records)
    return Grading(shown, wall, cpu, runs, run_cpu, {lab: len(names) for lab, names in tests.items()}, bad)
