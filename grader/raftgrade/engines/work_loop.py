"""The main loop of a grading run: hand checks and jobs to an engine, in order, and yield what comes back.

An engine is a ``concurrent.futures.Executor`` with a few lines around it. The one in :mod:`raftgrade.engines.local` uses
threads, each of which starts one child process at a time; :mod:`raftgrade.engines.dask` uses the workers of a cluster. All
events arrive in one queue and are handled in the main thread, so nothing here needs a lock.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import signal
from collections.abc import Callable, Collection, Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from raftgrade.engines.jobs import CheckResult, JobResult
from raftgrade.engines.schedule import Schedule
from raftgrade.plan import Job
from raftgrade.results import Report, SubmissionResult
from raftlab.runs.record import Record

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TICK_S = 1.0  # seconds without an event until a Tick, so that progress is shown


@dataclass(frozen=True, slots=True)
class RunReported:
    """A record callback."""

    submission: str
    record: Record


@dataclass(frozen=True, slots=True)
class StopRequested:
    """A signal asks us to stop; ``number`` is the signal's."""

    number: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened for :data:`TICK_S`."""


@dataclass(frozen=True, slots=True)
class FutureDone:
    """A check or a job has ended."""

    future: Future[Any]


Event = RunReported | CheckResult | StopRequested | Tick


class Engine(Protocol):
    """Runs checks and jobs. Its futures always have a result, which also says what went wrong."""

    @property
    def max_in_flight(self) -> int:
        """How many checks and jobs may be handed out at a time."""
        ...

    @property
    def workers(self) -> int:
        """How many of them run in parallel."""
        ...

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        """Check the copy of ``submission`` at ``path`` against the contract."""
        ...

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        """Run ``job``. An engine may call ``on_record`` with records as they arrive, from any thread."""
        ...

    def stop(self) -> None:
        """Stop everything. On this machine, nothing that was handed out runs any more afterwards."""


class WorkLoop:
    """Works through the submissions in their order: the check of one, then its jobs, then those of the next.

    Args:
        plan: names the submissions.
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
        self._waiting: list[tuple[int, int, SubmissionResult | Job]] = []
        self._numbers = itertools.count()
        self._in_flight = 0
        for submission in plan.submissions:
            if submission.name not in complete:
                self._add(submission.name, submission)

    def events(self) -> Generator[Event, None, None]:
        """Do the work, and yield what happens. Ends when all is done, or after a :class:`StopRequested`."""
        with on_stop_signal(lambda number: self._inbox.put(StopRequested(number))):
            try:
                while self._hand_out():
                    event = self._next()
                    if isinstance(event, FutureDone):
                        yield from self._finished(event.future.result())
                        continue
                    yield event
                    if isinstance(event, StopRequested):
                        return
            finally:
                self._engine.stop()

    def late_reports(self) -> Iterator[RunReported]:
        """Records that callback while everything was being stopped."""
        while not self._inbox.empty():
            event = self._inbox.get()
            if isinstance(event, RunReported):
                yield event

    def _add(self, submission: str, item: SubmissionResult | Job) -> None:
        heapq.heappush(self._waiting, (self._places[submission], next(self._numbers), item))

    def _hand_out(self) -> bool:
        """Keep the engine busy. Returns ``False`` when there is nothing left to do or to wait for."""
        while self._waiting and self._in_flight < self._engine.max_in_flight:
            item = heapq.heappop(self._waiting)[2]
            future: Future[Any]
            if isinstance(item, Job):
                future = self._engine.job(item, self._recorder(item.submission))
            else:
                future = self._engine.check(item, self._paths[item.name])
            self._in_flight += 1
            future.add_done_callback(lambda done: self._inbox.put(FutureDone(done)))
        return self._in_flight > 0

    def _recorder(self, submission: str) -> Callable[[Record], None]:
        return lambda record: self._inbox.put(RunReported(submission, record))

    def _next(self) -> RunReported | FutureDone | StopRequested | Tick:
        try:
            return self._inbox.get(timeout=TICK_S)
        except queue.Empty:
            return Tick()

    def _finished(self, result: CheckResult | JobResult) -> Iterator[Event]:
        self._in_flight -= 1
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
            self._add(result.submission, job)


@contextmanager
def on_stop_signal(callback: Callable[[int], None]) -> Iterator[None]:
    """During the block, call ``callback`` with the number of each signal that asks us to stop.

    The callback must not raise: the exception could appear in the middle of a write.
    """

    def handler(number: int, frame: FrameType | None) -> None:
        callback(number)

    # If whoever started us has chosen to ignore a signal (nohup, a shell's &), leave it ignored.
    handled = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    former_handlers = {number: signal.signal(number, handler) for number in handled}
    try:
        yield
    finally:
        for number, former in former_handlers.items():
            signal.signal(number, former)
