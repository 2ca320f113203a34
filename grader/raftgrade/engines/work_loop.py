"""The main loop of a grading run: hand checks and jobs to an engine, in order, and yield what comes back.

An engine is a thin layer on top of a ``concurrent.futures.Executor``. The one in :mod:`raftgrade.engines.local` uses
threads, each of which starts one child process at a time; :mod:`raftgrade.engines.dask` uses the workers of a cluster. All
events arrive in one queue and are handled in the main thread, so nothing here needs a lock.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import signal
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from raftgrade.engines.jobs import CheckResult, JobResult
from raftgrade.engines.schedule import Schedule
from raftgrade.plan import Job, Pool
from raftgrade.results import Report, SubmissionResult
from raftlab.runs.record import Record

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_S = 1.0  # after this many seconds without an event, a Tick updates the progress line


@dataclass(frozen=True, slots=True)
class RunReported:
    """A running job has reported a record."""

    submission: str
    record: Record


@dataclass(frozen=True, slots=True)
class StopRequested:
    """The signal ``number`` asks the grader to stop."""

    number: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened for :data:`TICK_S`."""


@dataclass(frozen=True, slots=True)
class FutureDone:
    """A check or a job has ended in the pool of these networks."""

    pool: tuple[str, ...]
    future: Future[Any]


Event = RunReported | CheckResult | StopRequested | Tick


class Engine(Protocol):
    """Runs checks and jobs. Its futures always have a result, which also says what went wrong."""

    def pools(self) -> list[Pool]:
        """Its workers at this moment. Each network is in one pool."""
        ...

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        """Check the copy of ``submission`` at ``path`` against the contract."""
        ...

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        """Run ``job``. An engine may call ``on_record`` with records as they arrive, from any thread."""
        ...

    def stop(self) -> None:
        """Stop everything. When this returns, no process on this machine still runs a check or a job."""


class WorkLoop:
    """Works through the submissions in order: first the check of a submission, then its jobs, then the next submission. The
    pools of the engine work independently of each other, but no pool gets so far ahead that many submissions are
    unfinished.

    Args:
        plan: the report that names the submissions.
        paths: where the copy of each submission is, by its name.
        complete: submissions with nothing left to do.
    """

    def __init__(
        self,
        plan: Report,
        paths: dict[str, str],
        engine: Engine,
        schedule: Schedule,
        complete: Collection[str] = (),
    ) -> None:
        self._paths = paths
        self._schedule = schedule
        self._engine = engine
        self._inbox: queue.SimpleQueue[RunReported | FutureDone | StopRequested] = queue.SimpleQueue()
        self._places = {submission.name: place for place, submission in enumerate(plan.submissions)}
        self._waiting: dict[tuple[str, ...], list[tuple[int, int, SubmissionResult | Job]]] = {
            pool.networks: [] for pool in engine.pools()
        }
        self._numbers = itertools.count()
        self._in_flight: Counter[tuple[str, ...]] = Counter()  # by pool
        self._unfinished: Counter[str] = Counter()  # jobs and checks of the submissions that have been started
        for submission in plan.submissions:
            if submission.name not in complete:
                self._add(submission)

    def events(self) -> Generator[Event, None, None]:
        """Do the work, and yield what happens. Ends when all is done, or after a :class:`StopRequested`."""
        with on_stop_signal(lambda number: self._inbox.put(StopRequested(number))):
            try:
                while self._hand_out():
                    event = self._next()
                    if isinstance(event, FutureDone):
                        self._in_flight[event.pool] -= 1
                        yield from self._finished(event.future.result())
                        continue
                    yield event
                    if isinstance(event, StopRequested):
                        return
            finally:
                self._engine.stop()

    def late_reports(self) -> Iterator[RunReported]:
        """Records that arrived while everything was being stopped."""
        while not self._inbox.empty():
            event = self._inbox.get()
            if isinstance(event, RunReported):
                yield event

    def _add(self, item: SubmissionResult | Job) -> None:
        submission = item.submission if isinstance(item, Job) else item.name
        heapq.heappush(self._waiting[self._pool_of(item)], (self._places[submission], next(self._numbers), item))

    def _pool_of(self, item: SubmissionResult | Job) -> tuple[str, ...]:
        network = item.network if isinstance(item, Job) else "sim"
        return next(networks for networks in self._waiting if network in networks)

    def _hand_out(self) -> bool:
        """Keep the engine busy. Returns ``False`` when there is nothing left to do or to wait for."""
        pools = self._engine.pools()
        most = sum(pool.max_in_flight for pool in pools)
        for pool in pools:
            waiting = self._waiting[pool.networks]
            while waiting and self._in_flight[pool.networks] < pool.max_in_flight:
                item = waiting[0][2]
                if not isinstance(item, Job):
                    if len(self._unfinished) >= most:
                        break  # unfinished submissions keep their results in memory, so limit their number
                    self._unfinished[item.name] = 1
                heapq.heappop(waiting)
                self._in_flight[pool.networks] += 1
                self._start(item)
        return self._in_flight.total() > 0

    def _start(self, item: SubmissionResult | Job) -> None:
        future: Future[Any]
        if isinstance(item, Job):
            future = self._engine.job(item, self._recorder(item.submission))
        else:
            future = self._engine.check(item, self._paths[item.name])
        future.add_done_callback(lambda done: self._inbox.put(FutureDone(self._pool_of(item), done)))

    def _recorder(self, submission: str) -> Callable[[Record], None]:
        return lambda record: self._inbox.put(RunReported(submission, record))

    def _next(self) -> RunReported | FutureDone | StopRequested | Tick:
        try:
            return self._inbox.get(timeout=TICK_S)
        except queue.Empty:
            return Tick()

    def _finished(self, result: CheckResult | JobResult) -> Iterator[Event]:
        if result.stopped:
            return
        if isinstance(result, JobResult):
            # Some engines deliver records only now. The tally does not count any of them twice.
            for record in result.records:
                yield RunReported(result.submission, record)
            jobs = self._schedule.next_jobs(result)
        else:
            yield result
            jobs = [] if result.problems else self._schedule.start(result.submission)
        for job in jobs:
            self._add(job)
        self._unfinished[result.submission] += len(jobs) - 1
        if not self._unfinished[result.submission]:
            del self._unfinished[result.submission]


@contextmanager
def on_stop_signal(callback: Callable[[int], None]) -> Iterator[None]:
    """During the block, call ``callback`` with the number of each signal that asks this process to stop.

    The callback must not raise, because the exception could interrupt a write.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        callback(number)

    # A signal that was ignored when this process started (by nohup, or a shell's &) stays ignored.
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former_handlers = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, former in former_handlers.items():
            signal.signal(number, former)
