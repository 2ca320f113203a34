"""One run: one test, one world, one seed, from the first process to the record.

Used by the suites' plugin and by ``raftlab replay`` alike, so that both do the same thing.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from raftlab.explain.failure import Failure, LabFailure
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.harness.trace import Event, TraceFilter, line
from raftlab.runs.record import Outcome, Record
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Sandbox
from raftlab.seeds import derive
from raftlab.suites.catalogue import TestInfo
from raftlab.worlds.base import HostLost, World
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import Breakpoint, ForkedHost, InProcessHost, SimWorld

NETWORKS = ("sim", "rpyc")

# In rpyc: how late (seconds) the judge may wake up before a failure that is about time no longer counts. Election
# timeouts are of this size; what the referee sees broken is broken at any speed.
TOO_LATE_S = 0.5
_TIMED = ("assertion", "no-answer")


class Implementation:
    """The submission under test and its warm host, started when first needed and again when it died."""

    def __init__(self, path: Path, sandbox: Sandbox = levels.NONE) -> None:
        self.path = path
        self._sandbox = sandbox
        self._host: WarmHost | None = None

    def host(self) -> WarmHost:
        if self._host is not None and not self._host.alive():
            self.close()
        if self._host is None:
            self._host = WarmHost(self.path, self._sandbox)
        return self._host

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None


class Run:
    """A run in the making. Call :meth:`cluster` once, then :meth:`close` whatever happened.

    ``inside`` runs the student's code in this process, where ``stop`` can hold it; ``kind`` is the cluster to make. With
    a ``turn``, a time in seconds and a number, the run is the same until then, and after it chance takes another course
    (sim). ``called`` is its name in a command when that is not TEST@SEED but a scenario's file."""

    def __init__(
        self, impl: Implementation, info: TestInfo, network: str, seed: int, preempt: bool, inside: bool = False,
        kind: type[Cluster] = Cluster, turn: tuple[float, int] | None = None,
        stop: Breakpoint | None = None, called: Path | None = None,
    ) -> None:  # fmt: skip
        self.impl = impl
        self.info = info
        self.network = network
        self.seed = seed
        self.preempt = preempt
        self._inside = inside
        self._kind = kind
        self._turn = turn
        self._stop = stop
        self._called = called
        self._own_seed = derive(seed, info.lab, info.name)
        self._world: World | None = None
        self._cluster: Cluster | None = None
        self._wall = time.monotonic()
        self._cpu = time.process_time()

    def cluster(
        self,
        servers: int,
        scripted: Collection[int] = (),
        start: bool = True,
        members: Collection[int] | None = None,
    ) -> Cluster:
        """Start the run's cluster (the ``cluster`` fixture of a suite)."""
        if self._cluster is not None:
            raise RuntimeError("a test has one cluster")
        try:
            self._world = self._make_world()
        except HostLost as lost:
            raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None
        self._cluster = self._kind(self._world, self.info.lab, self._own_seed, servers, scripted, members)
        if self._turn is not None:
            when, number = self._turn
            event_loop = self._cluster.event_loop
            event_loop.at(when, lambda: event_loop.reseed(derive(self._own_seed, "turn", number)))
        if start:
            self._cluster.start_all()
        return self._cluster

    def _make_world(self) -> World:
        if self.network == "rpyc":
            from raftlab.worlds.rpyc_world import RpycWorld

            return RpycWorld(self.impl.host())
        seed = derive(self._own_seed, "host")
        if self._inside:
            return SimWorld(InProcessHost(self.impl.path, seed, self.preempt, self._stop), MIN_DELAY)
        return SimWorld(ForkedHost(self.impl.host(), seed, self.preempt), MIN_DELAY)

    def play(self, script: Callable[[Callable[..., Cluster]], object]) -> Failure | None:
        """Run ``script`` with this run's cluster to its end, and close. Returns how it failed, ``None`` if it passed;
        whatever is no verdict passes through."""
        try:
            script(self.cluster)
        except LabFailure as error:
            return self.explained(error)
        finally:
            self.close()
        return None

    def judge(self, script: Callable[[Callable[..., Cluster]], object], trace_dir: Path | None = None) -> Record:
        """The same, for the record: what is no verdict is told there. A failing run's trace is kept in ``trace_dir``."""
        error: Exception | None = None
        try:
            script(self.cluster)
        except Exception as exc:  # what it means is the record's to say
            error = exc
        finally:
            self.close()
        return self.record(error, trace_dir)

    def close(self) -> None:
        """End the run's processes. Safe to call twice."""
        if self._world is not None:
            self._world.close()

    def record(self, error: BaseException | None, trace_dir: Path | None = None) -> Record:
        """The record of the finished run; a failing run's trace is kept in ``trace_dir``."""
        self.close()
        outcome: Outcome = "passed"
        failure: Failure | None = None
        if isinstance(error, LabFailure):
            outcome, failure = "failed", self.explained(error)
            late = getattr(self._world, "late_s", 0.0)
            if late > TOO_LATE_S and failure.kind in _TIMED:
                # The lab was not given its time, so the students' servers were not either: this proves nothing.
                outcome, failure = "error", _too_busy(failure, late)
        elif error is not None:
            # Not the student's doing: our bug, or the machine's trouble.
            outcome = "error"
            failure = Failure("error", f"the lab itself failed: {type(error).__name__}: {error}", detail=_story(error))
        record = Record(
            test=self.info.name,
            lab=self.info.lab,
            title=self.info.title,
            network=self.network,
            seed=self.seed,
            points=self.info.points,
            outcome=outcome,
            preempt=self.preempt,
            failure=failure,
            wall_s=round(time.monotonic() - self._wall, 4),
            cpu_s=round(time.process_time() - self._cpu + getattr(self._world, "cpu_s", 0.0), 4),
            replay=self.replay_command(),
        )
        cluster = self._cluster
        if cluster is not None:
            event_loop = cluster.event_loop
            record.servers = cluster.size
            record.lab_s = round(cluster.now, 4)
            record.rpcs = cluster.rpc_count()
            record.rpc_bytes = cluster.rpc_bytes()
            record.entries = len(event_loop.referee.applies.values)
            record.advice = list(event_loop.advice)
            record.trace_hash = event_loop.trace.hash()
            if outcome != "passed" and trace_dir is not None:
                record.trace = str(self.write_trace(trace_dir, failure))
        return record

    def write_trace(self, folder: Path, failure: Failure | None = None) -> Path:
        """Write the run's trace into ``folder``; returns the file. Raises ``OSError``."""
        assert self._cluster is not None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.info.lab}-{self.info.name}-{self.network}-{self.seed}.jsonl"
        header = {
            "lab": self.info.lab,
            "test": self.info.name,
            "network": self.network,
            "seed": self.seed,
            "preempt": self.preempt,
            "servers": self._cluster.size,
            "replay": self.replay_command(),
            "failure": None if failure is None else msgspec.to_builtins(failure),
        }
        self._cluster.event_loop.trace.write(path, header)
        return path

    @property
    def events(self) -> list[Event]:
        """Every event so far."""
        return [] if self._cluster is None else self._cluster.event_loop.trace.events

    def trace_lines(self, look: TraceFilter) -> list[str]:
        """The events of the run that ``look`` sees, in one-line notation."""
        return [line(event) for event in self.events if look.matches(event)]

    def replay_command(self) -> str:
        """The command that makes the same run again (in rpyc: the same test and faults, not the same schedule)."""
        name = f"{self.info.name}@{self.seed}" if self._called is None else os.path.relpath(self._called)
        return replay_command(name, self.impl.path, self.network, self.preempt)

    @property
    def made(self) -> Cluster | None:
        """The run's cluster, if it came so far."""
        return self._cluster

    def explained(self, error: LabFailure) -> Failure:
        """The failure that ended the run, with the events that led there."""
        failure = error.failure
        if not failure.events and self._cluster is not None:
            failure.events = self._cluster.event_loop.trace.tail(12, error.servers)
        return failure


def _too_busy(failure: Failure, late: float) -> Failure:
    return Failure(
        "machine-busy",
        f"could not be judged: the machine was so busy that the lab itself came {late:.1f} s late; seen: {failure.text}",
        hint="Run it again when the machine has less to do, or with fewer jobs at a time.",
        events=failure.events,
    )


def replay_command(called: str, impl: str | Path, network: str, preempt: bool) -> str:
    """The command that makes the run ``called`` so again, as it is typed in the current folder."""
    path = os.path.relpath(impl)
    parts = ["raftlab", "replay", called]
    if path != "raft.py":
        parts += ["--impl", path]
    if network != "sim":
        parts += ["--network", network]
    if not preempt:
        parts += ["--no-preempt"]
    return shlex.join(parts)


def _story(error: BaseException) -> str:
    import traceback

    return "".join(traceback.format_exception(error))[-8000:]


def seeds_of(text: str) -> range:
    """``"20"`` → seeds 0 to 19, ``"40:60"`` → 40 to 59. Raises ``ValueError`` with a sentence for people."""
    first, colon, last = text.partition(":")
    try:
        numbers = (int(first), int(last)) if colon else (0, int(first))
    except ValueError:
        raise ValueError(f"--seeds wants a number or A:B, not {text!r}") from None
    if numbers[0] < 0 or numbers[1] <= numbers[0]:
        raise ValueError(f"--seeds wants at least one seed, from 0 on; {text!r} has none")
    return range(*numbers)
