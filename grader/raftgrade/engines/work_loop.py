"""The engine room: hands checks and jobs to an executor, in order, and tells what comes back.

An engine needs only a ``concurrent.futures.Executor``. The local engine uses threads, each of which starts one child
process at a time; :mod:`raftgrade.engines.dask` uses the workers of a cluster. All events arrive in one queue and are
handled in the main thread, so nothing else here needs a lock.
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
TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class RunReported:
    """A record came in."""

    submission: str
    record: Record


@dataclass(frozen=True, slots=True)
class StopRequested:
    """Somebody wants us to stop."""

    number: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing happened for a while."""


@dataclass(frozen=True, slots=True)
class FutureDone:
    """A check or a job came to its end."""

    future: Future[Any]


Event = RunReported | CheckResult | StopRequested | Tick


class Engine(Protocol):
    """Where work is done: ``workers`` jobs at a time, of ``width`` that may be handed out. The futures always have a
    result: whatever goes wrong is told in it."""

    @property
    def max_in_flight(self) -> int: ...

    @property
    def workers(self) -> int: ...

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]: ...

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]: ...

    def stop(self) -> None: ...


class WorkLoop:
    """What is still to do, in the order of the submissions: the check of one, then its jobs, then the next
    one's. ``over`` are submissions with nothing to do."""

    def __init__(
        self,
        plan: Report,
        paths: dict[str, str],
        engine: Engine,
        schedule: Schedule,
        over: Collection[str] = (),
    ) -> None:
        self._paths = paths
        self._schedule = schedule
        self._engine = engine
        self._inbox: queue.SimpleQueue[RunReported | FutureDone | StopRequested] = queue.SimpleQueue()
        self._places = {submission.name: place for place, submission in enumerate(plan.submissions)}
        self._waiting: list[tuple[int, int, SubmissionResult | Job]] = []
        self._numbers = itertools.count()
        self._out = 0
        for submission in plan.submissions:
            if submission.name not in over:
                self._add(submission.name, submission)

    def events(self) -> Generator[Event, None, None]:
        """Do the work and tell what happens. Ends when all is done, or after a :class:`Signalled`."""
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
        """Records that had come in when everything was stopped."""
        while not self._inbox.empty():
            event = self._inbox.get()
            if isinstance(event, RunReported):
                yield event

    def _add(self, submission: str, item: SubmissionResult | Job) -> None:
        heapq.heappush(self._waiting, (self._places[submission], next(self._numbers), item))

    def _hand_out(self) -> bool:
        """Keep the engine busy. False when nothing is left to do or to wait for."""
        while self._waiting and self._out < self._engine.max_in_flight:
            item = heapq.heappop(self._waiting)[2]
            future: Future[Any]
            if isinstance(item, Job):
                future = self._engine.job(item, self._recorder(item.submission))
            else:
                future = self._engine.check(item, self._paths[item.name])
            self._out += 1
            future.add_done_callback(lambda done: self._inbox.put(FutureDone(done)))
        return self._out > 0

    def _recorder(self, submission: str) -> Callable[[Record], None]:
        return lambda record: self._inbox.put(RunReported(submission, record))

    def _next(self) -> RunReported | FutureDone | StopRequested | Tick:
        try:
            return self._inbox.get(timeout=TICK_S)
        except queue.Empty:
            return Tick()

    def _finished(self, result: CheckResult | JobResult) -> Iterator[Event]:
        self._out -= 1
        if result.stopped:
            return
        if isinstance(result, JobResult):
            # An engine without a live line tells of its records only now; those heard already are not counted
            # twice.
            for record in result.records:
                yield RunReported(result.submission, record)
            jobs = self._schedule.next_jobs(result)
        else:
            yield result
            jobs = [] if result.problems else self._schedule.start(result.submission)
        for job in jobs:
            self._add(result.submission, job)


@contextmanager
def on_stop_signal(arrived: Callable[[int], None]) -> Iterator[None]:
    """Signals that ask us to stop become calls of ``arrived`` with their number, which must not raise: a handler that did
    could strike in the middle of a write."""

    def handler(number: int, frame: FrameType | None) -> None:
        arrived(number)

    # Who started us may have chosen to ignore one (nohup, a shell's &): leave it so.
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
