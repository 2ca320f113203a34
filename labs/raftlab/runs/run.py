"""One run of one test on one network with one seed: how it is performed, judged and recorded.

The pytest plugin and the commands use the same class, so that a replay does exactly what the test did.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
import time
import traceback
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import msgspec

from raftlab import labs, schedules
from raftlab.explain import symptoms
from raftlab.explain.failure import Failure, LabFailure, shortened
from raftlab.harness.cluster import Cluster, ServiceOptions
from raftlab.harness.led_there import led_there
from raftlab.harness.network import MIN_DELAY
from raftlab.harness.trace import Event, TraceFilter, line
from raftlab.operating_system import EXHAUSTED, can_start_threads
from raftlab.runs.record import Outcome, Record
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Limits, Sandbox
from raftlab.seeds import derive
from raftlab.submission.combine import combine
from raftlab.suites.catalogue import TestInfo
from raftlab.worlds.base import HostLost, HostNotStarted, World
from raftlab.worlds.host_process import EMPTY_SUBMISSION, WarmHost
from raftlab.worlds.sim_world import Breakpoint, ForkedHost, Host, InProcessHost, SimWorld

NETWORKS = ("sim", "rpyc")

# The longest delay, in seconds, with which the judge may wake up in rpyc: about an election timeout. After a longer delay, a
# failure that depends on time does not count. A failure that the referee reports always counts, because it does not depend
# on time. On a machine with ten runnable processes per processor, correct servers failed although the judge was at most
# 0.3 s late.
TOO_LATE_S = 0.25
_DEPENDS_ON_TIME = ("assertion", "no-answer")
# A server that cannot start a thread fails in one of these ways, or does nothing. Such a failure does not count if the judge
# cannot start this many threads either, and the submission has so few that it is not the reason. The servers of a correct
# Raft have a hundred.
_NEEDS_THREADS = (*_DEPENDS_ON_TIME, "init-exception", "exception")
SPARE_THREADS = 32
FEW_THREADS = Limits().threads // 4
# Even if the judge woke up too late, a failure counts if the run itself used more than this share of one processor.
BUSY_SHARE = 0.75
# The number of events that are shown with a failure.
_EVENTS_SHOWN = 12
# The maximum lengths of texts in a record, in characters: of one event, of the failure's sentence, and of a traceback.
_EVENT_CHARACTERS = 500
_TEXT_CHARACTERS = 1200
_DETAIL_CHARACTERS = 8000


class Implementation:
    """The submission under test, with the warm host that forks its runs. The host starts when it is first needed, and
    again after it has died.

    Args:
        path: The submission.
        sandbox: How its code is confined.
        races: Whether the race detector observes its simulated runs.
        raft: The Raft that runs below the submission's kv.py, if it is not the submission's own.
        copy: A copy of the submission, combined with ``raft`` if that is given. ``None``: there is no copy.

    Attributes:
        folder: What the hosts load: the copy, the submission itself, or a folder that combines its kv.py with ``raft``.

    Raises:
        raftlab.submission.source.SubmissionError: The submission and ``raft`` cannot be combined.
    """

    def __init__(
        self,
        path: Path,
        sandbox: Sandbox = levels.NONE,
        races: bool = False,
        raft: Path | None = None,
        copy: Path | None = None,
    ) -> None:
        self.path = path
        self.raft = raft
        self.folder = copy or path
        if raft is not None and copy is None:
            self.folder = Path(tempfile.mkdtemp(prefix="raftlab-"))
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
            self.folder.chmod(0o755)  # readable in a sandbox, which may run as another user
            combine(path, raft, self.folder)
        self.races = races
        self._sandbox = sandbox
        self._host: WarmHost | None = None

    def host(self) -> WarmHost:
        if self._host is not None and not self._host.alive():
            self.close()
        if self._host is None:
            self._host = WarmHost(self.folder, self._sandbox, self.races)
        return self._host

    @property
    def may_be_together(self) -> bool:
        """Whether judge and hosts may share a process: only for code that runs without a sandbox, and without the race
        detector. Code that shares the judge's process could change its own verdict, so only the user's own code may
        share it."""
        return self._sandbox == levels.NONE and not self.races

    def simulated(self) -> int:
        """How many simulated runs the host has performed."""
        return 0 if self._host is None else self._host.simulated

    def threads(self) -> int:
        """The number of threads of all the submission's processes."""
        return 0 if self._host is None else self._host.threads()

    def starts_an_empty_submission(self) -> bool:
        """Whether this machine can start a host for an empty submission. If not, the tested submission is not to blame."""
        fds: list[int] = []
        try:
            with WarmHost(EMPTY_SUBMISSION, self._sandbox) as host:
                fds = [*os.pipe(), *os.pipe()]
                host.spawn("check", [fds[0], fds[3]])
        except (HostLost, HostNotStarted, OSError):
            return False
        finally:
            for fd in fds[1:3]:
                os.close(fd)
        return True

    def close(self) -> None:
        if self._host is not None:
            self._host.close()
            self._host = None


@dataclass(frozen=True, slots=True)
class Branch:
    """The moment at which a run in the simulator departs from the seed's own run.

    Attributes:
        time: In seconds of the lab's time. Until then both runs are the same.
        number: Seeds the random numbers that are drawn after ``time``.
    """

    time: float
    number: int


class Run:
    """One run while it is performed. Pass :meth:`cluster` to a test's function, which may call it once. Call
    :meth:`close` when that function has returned. :meth:`play` and :meth:`judge` do both."""

    def __init__(
        self, impl: Implementation, info: TestInfo, network: str, seed: int, schedule: str | None = None,
        in_process: bool = False, cluster_class: type[Cluster] = Cluster, branch: Branch | None = None,
        breakpoint_at: Breakpoint | None = None, file: Path | None = None,
        sim_host: Callable[[int, str], Host] | None = None,
    ) -> None:  # fmt: skip
        """
        Args:
            impl: The submission.
            info: The test. The run's random numbers are derived from the test's lab, its name and the seed.
            network: ``"sim"`` or ``"rpyc"``.
            seed: 0 or more.
            schedule: How the simulator preempts threads, a name from :mod:`raftlab.schedules`. ``None``: the seed
                decides. If a test can run with only one schedule, it always runs with that schedule.
            in_process: Whether the student's code runs in this process, so that it can be debugged (sim only).
            cluster_class: The class of the cluster.
            branch: The moment at which the run departs from its seed's own run (sim only).
            breakpoint_at: Where to stop the student's code; needs ``in_process``.
            file: The scenario's file, if the run has one. Commands then name the file instead of TEST@SEED.
            sim_host: Creates the host of a simulated run from a seed and a schedule; ``None``: the host is forked.
        """
        self.impl = impl
        self.info = info
        self.network = network
        self.seed = seed
        self._in_process = in_process
        self._cluster_class = cluster_class
        self._branch = branch
        self._breakpoint = breakpoint_at
        self.file = file
        self._sim_host = sim_host
        self._own_seed = derive(seed, info.lab, info.name)
        chosen = info.schedule or schedule or schedules.of_run(seed, derive(0, info.lab, info.name))
        self.schedule = "" if network == "rpyc" else chosen
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
        **service: Unpack[ServiceOptions],
    ) -> Cluster:
        """Create the run's cluster. A run has only one; see :class:`~raftlab.suites.marking.StartCluster`.

        Raises:
            raftlab.explain.failure.LabFailure: The student's code cannot be started.
        """
        if self._cluster is not None:
            raise RuntimeError("a test has one cluster")
        try:
            self._world = self._make_world(servers - len(scripted), service.get("clerks", 0))
        except HostLost as lost:
            raise LabFailure(Failure(lost.kind, lost.text, detail=lost.detail)) from None
        self._cluster = self._cluster_class(
            self._world, self.info.lab, self._own_seed, servers, scripted, members, **service
        )
        if self._branch is not None:
            number = self._branch.number
            event_loop = self._cluster.event_loop
            event_loop.at(self._branch.time, lambda: event_loop.reseed(derive(self._own_seed, "turn", number)))
        if start:
            self._cluster.start_all()
        return self._cluster

    def _make_world(self, servers: int, clerks: int) -> World:
        if self.network == "rpyc":
            from raftlab.worlds.rpyc_world import RpycWorld

            return RpycWorld(self.impl.host())
        seed = derive(self._own_seed, "host")
        if self._in_process:
            return SimWorld(InProcessHost(self.impl.folder, seed, self.schedule, self._breakpoint), MIN_DELAY)
        if self._sim_host is not None:
            return SimWorld(self._sim_host(seed, self.schedule), MIN_DELAY)
        role = "service" if labs.find(self.info.lab).has("service") else "raft"
        incarnations = {role: servers, **({"clerk": clerks} if clerks else {})}
        return SimWorld(ForkedHost(self.impl.host(), seed, self.schedule, incarnations), MIN_DELAY)

    @property
    def may_be_together(self) -> bool:
        """Whether :mod:`raftlab.runs.together` can perform the run."""
        special = self._in_process or self._branch is not None or self._cluster_class is not Cluster
        return self.network == "sim" and not special and self.impl.may_be_together

    def play(self, script: Callable[[Callable[..., Cluster]], object]) -> Failure | None:
        """Call a test's function with this run's cluster, and close the run.

        Returns:
            How the test failed; ``None`` if it passed.

        Raises:
            Exception: Whatever else the script raises. It is not a verdict on the submission.
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
        except Exception as exc:  # record() decides what the exception means
            error = exc
        except BaseException:
            self.close()
            raise
        return self.record(error, trace_dir)

    def close(self) -> None:
        """End the run's processes. Safe to call twice."""
        if self._world is not None:
            self._world.close()

    def record(self, error: BaseException | None, trace_dir: Path | None = None, most: int = -1) -> Record:
        """The record of the finished run.

        Args:
            error: What the test's function raised. For anything but a ``LabFailure``, see :meth:`_unforeseen`.
            trace_dir: Where to write the trace of a run that did not pass. ``None``: nowhere.
            most: A trace with more bytes is not kept; below 0: no limit.

        Raises:
            OSError: The trace cannot be written.
        """
        starved = isinstance(error, LabFailure) and self._lacks_threads(error.failure)
        self.close()
        outcome: Outcome = "passed"
        failure: Failure | None = None
        late = getattr(self._world, "late_s", 0.0)
        if isinstance(error, LabFailure):
            outcome, failure = "failed", self.with_events(error)
            if late > TOO_LATE_S and failure.kind in _DEPENDS_ON_TIME and not self._is_busy_itself():
                # The judge did not get a processor in time, so the students' servers probably did not get one either.
                outcome, failure = "error", _machine_busy(failure, late)
            elif starved:
                text = f"could not be judged: the machine is full: it can start no more threads; seen: {failure.text}"
                outcome, failure = "error", Failure("machine-full", text, events=failure.events, detail=failure.detail)
        elif error is not None:
            outcome, failure = self._unforeseen(error)
        record = Record(
            test=self.info.name,
            lab=self.info.lab,
            title=self.info.title,
            network=self.network,
            seed=self.seed,
            points=self.info.points,
            outcome=outcome,
            schedule=self.schedule,
            failure=failure,
            wall_s=round(time.monotonic() - self._wall, 4),
            cpu_s=round(self._cpu_seconds(), 4),
            late_s=round(late, 4),
            replay=self.replay_command(),
        )
        cluster = self._cluster
        if cluster is not None:
            event_loop = cluster.event_loop
            record.servers = cluster.size
            record.scripted = len(cluster.scripted)
            record.lab_s = round(cluster.now, 4)
            record.rpcs = cluster.rpc_count()
            record.rpc_bytes = cluster.rpc_bytes()
            record.entries = len(event_loop.referee.applies.values)
            record.advice = [shortened(advice, _EVENT_CHARACTERS) for advice in event_loop.advice]
            record.findings = list(event_loop.findings.values())
            record.trace_hash = event_loop.trace.hash()
            if outcome != "passed" and trace_dir is not None:
                record.trace = str(self.write_trace(trace_dir, failure, most))
        return record

    def _lacks_threads(self, failure: Failure) -> bool:
        """Whether a run on the real network that has just failed may have failed because this machine can start no more
        threads. Call this before the run's processes end: then their threads are free again.

        What student code says about its threads is no evidence. So this process tries to start some."""
        if self.network != "rpyc" or failure.kind not in _NEEDS_THREADS:
            return False
        return self.impl.threads() < FEW_THREADS and not can_start_threads(SPARE_THREADS)

    def _is_busy_itself(self) -> bool:
        """Whether this run uses so much CPU time that it delays the judge itself. The servers of a run should mostly
        wait."""
        wall = time.monotonic() - self._wall
        return self._cpu_seconds() > max(1.0, BUSY_SHARE * wall)

    def _cpu_seconds(self) -> float:
        """CPU seconds of the judge and the hosts, once the run is closed."""
        return time.process_time() - self._cpu + getattr(self._world, "cpu_s", 0.0)

    def _unforeseen(self, error: BaseException) -> tuple[Outcome, Failure]:
        """The outcome of a run that raised something other than a ``LabFailure``.

        The machine is to blame if there is evidence for that: something is full, the host did not even begin to read the
        submission, or the host of an empty submission does not start either. Without evidence, the grader repeats the
        run; see :meth:`raftgrade.tally.RunCounter.add`.
        """
        detail = "".join(traceback.format_exception(error))[-_DETAIL_CHARACTERS:]
        text = f"{type(error).__name__}: {error}"
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in EXHAUSTED:
            return "error", Failure("machine-full", f"could not be judged: the machine is full: {text}", detail=detail)
        if isinstance(error, HostNotStarted) and not (error.has_read and self.impl.starts_an_empty_submission()):
            return "error", Failure(
                "machine-full", f"could not be judged: no submission can start: {text}", detail=detail
            )
        if isinstance(error, HostNotStarted):
            text = "the process that runs your code does not start, although that of an empty submission does"
            return "failed", Failure("host-died", text, detail=str(error)[-_DETAIL_CHARACTERS:])
        return "error", Failure("error", f"the lab itself failed: {text}"[:1000], detail=detail)

    def write_trace(self, folder: Path, failure: Failure | None = None, most: int = -1) -> Path:
        """Write the run's trace into ``folder``, which is created if necessary. Returns the file. Raises
        ``OSError``."""
        assert self._cluster is not None
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / trace_name(self.info.lab, self.info.name, self.network, self.seed)
        header = {
            "lab": self.info.lab,
            "test": self.info.name,
            "network": self.network,
            "seed": self.seed,
            "schedule": self.schedule,
            "servers": self._cluster.size,
            "clerks": len(self._cluster.clerks) + len(self._cluster.scripted_clerks),
            "replay": self.replay_command(),
            "failure": None if failure is None else msgspec.to_builtins(failure),
        }
        self._cluster.event_loop.trace.write(path, header, most)
        return path

    @property
    def events(self) -> list[Event]:
        """Every event so far."""
        return [] if self._cluster is None else self._cluster.event_loop.trace.events

    def trace_lines(self, trace_filter: TraceFilter) -> list[str]:
        """The events that the filter selects, one line each."""
        return [line(event) for event in self.events if trace_filter.matches(event)]

    def replay_command(self) -> str:
        """The command that repeats this run. In rpyc it repeats the test and its faults, but not the timing."""
        name = f"{self.info.name}@{self.seed}" if self.file is None else os.path.relpath(self.file)
        return replay_command(name, self.impl.path, self.network, self.schedule, self.impl.raft)

    @property
    def started_cluster(self) -> Cluster | None:
        """The run's cluster; ``None`` before :meth:`cluster` has created it."""
        return self._cluster

    def with_events(self, error: LabFailure) -> Failure:
        """The failure that ended the run, with the events that led to it."""
        failure = error.failure
        if not failure.events and self._cluster is not None:
            events = self._cluster.event_loop.trace.events
            failure.events = led_there(events, failure.text, _EVENTS_SHOWN, error.servers, error.about)
        row = symptoms.find(self.info.lab, self.info.name, failure.text)
        if row is not None:
            failure.causes, failure.read = list(row.causes), row.read
        # Most of the text of a failure comes from student code, so limit its length in the record.
        failure.text = shortened(failure.text, _TEXT_CHARACTERS)
        failure.events = [shortened(event, _EVENT_CHARACTERS) for event in failure.events]
        failure.detail = failure.detail[-_DETAIL_CHARACTERS:]
        return failure


def trace_name(lab: str, test: str, network: str, seed: int) -> str:
    """The name of a run's trace file."""
    return f"{lab}-{test}-{network}-{seed}.jsonl"


def _machine_busy(failure: Failure, late: float) -> Failure:
    return Failure(
        "machine-busy",
        f"could not be judged: the machine was so busy that the lab itself ran {late:.1f} s late; seen: {failure.text}",
        hint="Run it again when the machine has less to do, or with fewer jobs at a time.",
        events=failure.events,
    )


def replay_command(name: str, impl: str | Path, network: str, schedule: str, raft: str | Path | None = None) -> str:
    """The command that repeats a run, as a user would type it in the current folder.

    Args:
        name: TEST@SEED, or a scenario's file.
        impl: The submission.
        network: ``"sim"`` or ``"rpyc"``.
        schedule: The schedule that the run used; empty for rpyc.
        raft: The Raft that runs below the submission's kv.py, if it is not the submission's own.
    """
    path = os.path.relpath(impl)
    parts = ["raftlab", "replay", name]
    if path != "raft.py":
        parts += ["--impl", path]
    if raft is not None:
        parts += ["--raft", os.path.relpath(raft)]
    if network != "sim":
        parts += ["--network", network]
    if schedule:
        parts += ["--schedule", schedule]
    return shlex.join(parts)


def seeds_of(text: str) -> range:
    """The seeds that ``--seeds`` stands for: ``"20"`` means 0 to 19, ``"40:60"`` means 40 to 59.

    Raises:
        ValueError: ``text`` is neither. The message is a sentence for the user.
    """
    first, colon, last = text.partition(":")
    try:
        numbers = (int(first), int(last)) if colon else (0, int(first))
    except ValueError:
        raise ValueError(f"--seeds takes a number or A:B, not {text!r}") from None
    if numbers[0] < 0 or numbers[1] <= numbers[0]:
        raise ValueError(f"expected at least one seed, and none below 0, but --seeds is {text!r}")
    return range(*numbers)
