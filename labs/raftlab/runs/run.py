"""One run of one test on one network with one seed: making it, judging it, and writing its record and trace.

The pytest plugin and the commands use the same class, so that a replay does exactly what the test did.
"""

from __future__ import annotations

import os
import shlex
import time
import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass
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

# In rpyc: how late the judge may wake up, in seconds, before a failure that depends on time no longer counts. Election
# timeouts are about this long. A rule that the referee sees broken is broken at any speed.
TOO_LATE_S = 0.5
_DEPENDS_ON_TIME = ("assertion", "no-answer")
# Events that lead to a failure and are shown with it.
_EVENTS_SHOWN = 12
_DETAIL_CHARACTERS = 8000  # of a traceback, in a record


class Implementation:
    """The submission under test, with the warm host that forks its runs. The host starts when it is first needed, and
    again if it died."""

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


@dataclass(frozen=True, slots=True)
class Branch:
    """A moment at which a run in the simulator departs from the run that its seed makes.

    Attributes:
        time: in seconds of the lab's time. Until then both runs are the same.
        number: what is drawn at random after ``time`` depends on it.
    """

    time: float
    number: int


class Run:
    """A run in the making. Give :attr:`cluster` to a test's function, which may call it once, and then call
    :meth:`close`; :meth:`play` and :meth:`judge` do both."""

    def __init__(
        self, impl: Implementation, info: TestInfo, network: str, seed: int, preempt: bool, in_process: bool = False,
        cluster_class: type[Cluster] = Cluster, branch: Branch | None = None,
        breakpoint_at: Breakpoint | None = None, file: Path | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            impl: the submission.
            info: the test. Its lab and name are part of what the run's random numbers are derived from.
            network: ``"sim"`` or ``"rpyc"``.
            seed: from 0 on.
            preempt: whether the simulator may switch threads anywhere, or at blocking calls only.
            in_process: run the student's code in this process, so that it can be debugged (sim only).
            cluster_class: makes the cluster.
            branch: where the run departs from that of its seed (sim only).
            breakpoint_at: where to stop the student's code; needs ``in_process``.
            file: the scenario's file, if the run has one. It then stands for TEST@SEED in commands.
        """
        self.impl = impl
        self.info = info
        self.network = network
        self.seed = seed
        self.preempt = preempt
        self._in_process = in_process
        self._cluster_class = cluster_class
        self._branch = branch
        self._breakpoint = breakpoint_at
        self._file = file
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
        """Make the run's cluster, once; see :class:`~raftlab.suites.marking.StartCluster`.

        Raises:
            raftlab.explain.failure.LabFailure: the student's code cannot be started.
        """
        if self._cluster is not None:
            raise RuntimeError("a test has one cluster")
        try:
            self._world = self._make_world()
        except HostLost as lost:
            raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None
        self._cluster = self._cluster_class(self._world, self.info.lab, self._own_seed, servers, scripted, members)
        if self._branch is not None:
            number = self._branch.number
            event_loop = self._cluster.event_loop
            event_loop.at(self._branch.time, lambda: event_loop.reseed(derive(self._own_seed, "turn", number)))
        if start:
            self._cluster.start_all()
        return self._cluster

    def _make_world(self) -> World:
        if self.network == "rpyc":
            from raftlab.worlds.rpyc_world import RpycWorld

            return RpycWorld(self.impl.host())
        seed = derive(self._own_seed, "host")
        if self._in_process:
            return SimWorld(InProcessHost(self.impl.path, seed, self.preempt, self._breakpoint), MIN_DELAY)
        return SimWorld(ForkedHost(self.impl.host(), seed, self.preempt), MIN_DELAY)

    def play(self, script: Callable[[Callable[..., Cluster]], object]) -> Failure | None:
        """Call a test's function with this run's cluster, and close the run.

        Returns:
            How the test failed; ``None`` if it passed.

        Raises:
            Exception: whatever else the script raises, which is no verdict on the submission.
        """
        try:
            script(self.cluster)
        except LabFailure as error:
            return self.with_events(error)
        finally:
            self.close()
        return None

    def judge(self, script: Callable[[Callable[..., Cluster]], object], trace_dir: Path | None = None) -> Record:
        """Call a test's function with this run's cluster, close the run, and return its record; see :meth:`record`."""
        error: Exception | None = None
        try:
            script(self.cluster)
        except Exception as exc:  # record() says what it means
            error = exc
        finally:
            self.close()
        return self.record(error, trace_dir)

    def close(self) -> None:
        """End the run's processes. Safe to call twice."""
        if self._world is not None:
            self._world.close()

    def record(self, error: BaseException | None, trace_dir: Path | None = None) -> Record:
        """The record of the finished run.

        Args:
            error: what the test's function raised. Anything but a ``LabFailure`` means that the run could not be judged.
            trace_dir: where to write the trace of a run that did not pass. ``None``: nowhere.

        Raises:
            OSError: the trace cannot be written.
        """
        self.close()
        outcome: Outcome = "passed"
        failure: Failure | None = None
        if isinstance(error, LabFailure):
            outcome, failure = "failed", self.with_events(error)
            late = getattr(self._world, "late_s", 0.0)
            if late > TOO_LATE_S and failure.kind in _DEPENDS_ON_TIME:
                # The judge did not get the processor in time, so the students' servers did not either.
                outcome, failure = "error", _machine_busy(failure, late)
        elif error is not None:
            # The student did not cause this: it is a bug of ours, or the machine's trouble.
            outcome = "error"
            detail = "".join(traceback.format_exception(error))[-_DETAIL_CHARACTERS:]
            failure = Failure("error", f"the lab itself failed: {type(error).__name__}: {error}", detail=detail)
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
        """Write the run's trace into ``folder``, which is made if necessary. Returns the file; raises ``OSError``."""
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

    def trace_lines(self, trace_filter: TraceFilter) -> list[str]:
        """The events that the filter lets through, one line each."""
        return [line(event) for event in self.events if trace_filter.matches(event)]

    def replay_command(self) -> str:
        """The command that makes this run again. In rpyc it repeats the test and its faults, but not the timing."""
        name = f"{self.info.name}@{self.seed}" if self._file is None else os.path.relpath(self._file)
        return replay_command(name, self.impl.path, self.network, self.preempt)

    @property
    def started_cluster(self) -> Cluster | None:
        """The run's cluster; ``None`` before :meth:`cluster` made it."""
        return self._cluster

    def with_events(self, error: LabFailure) -> Failure:
        """The failure that ended the run, with the events that led to it."""
        failure = error.failure
        if not failure.events and self._cluster is not None:
            failure.events = self._cluster.event_loop.trace.tail(_EVENTS_SHOWN, error.servers)
        return failure


def _machine_busy(failure: Failure, late: float) -> Failure:
    return Failure(
        "machine-busy",
        f"could not be judged: the machine was so busy that the lab itself ran {late:.1f} s late; seen: {failure.text}",
        hint="Run it again when the machine has less to do, or with fewer jobs at a time.",
        events=failure.events,
    )


def replay_command(name: str, impl: str | Path, network: str, preempt: bool) -> str:
    """The command that makes a run again, as it is typed in the current folder.

    Args:
        name: TEST@SEED, or a scenario's file.
        impl: the submission.
        network: ``"sim"`` or ``"rpyc"``.
        preempt: as for :class:`Run`.
    """
    path = os.path.relpath(impl)
    parts = ["raftlab", "replay", name]
    if path != "raft.py":
        parts += ["--impl", path]
    if network != "sim":
        parts += ["--network", network]
    if not preempt:
        parts += ["--no-preempt"]
    return shlex.join(parts)


def seeds_of(text: str) -> range:
    """The seeds that ``--seeds`` stands for: ``"20"`` means 0 to 19, ``"40:60"`` means 40 to 59.

    Raises:
        ValueError: it is neither; the message is a sentence for the user.
    """
    first, colon, last = text.partition(":")
    try:
        numbers = (int(first), int(last)) if colon else (0, int(first))
    except ValueError:
        raise ValueError(f"--seeds takes a number or A:B, not {text!r}") from None
    if numbers[0] < 0 or numbers[1] <= numbers[0]:
        raise ValueError(f"--seeds takes at least one seed, from 0 on, but {text!r} has none")
    return range(*numbers)
