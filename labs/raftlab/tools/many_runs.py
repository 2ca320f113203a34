"""Performs many runs of tests, in this process or in several, and yields their records in a fixed order.

The records are the same for any number of processes. A run depends only on its test, seed and schedule. One decision
depends on earlier runs: the remaining runs of a test that keeps hanging are skipped. This module makes that decision, in the
order of the runs.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from raftlab.explain.failure import LabFailure
from raftlab.operating_system import processors
from raftlab.runs import together
from raftlab.runs.patience import TIME_LIMIT_S, Patience, never_ended
from raftlab.runs.record import Record
from raftlab.runs.run import Implementation, Run, trace_name
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.time_awake import TimeLimit
from raftlab.tools.arguments import CommandError, Target

if TYPE_CHECKING:
    from multiprocessing.connection import Connection


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """A run that is to be performed. For ``schedule``, see :class:`~raftlab.runs.run.Run`."""

    info: TestInfo
    network: str
    seed: int
    schedule: str | None = None


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all runs have in common.

    Attributes:
        target: The submission and its sandbox.
        races: Whether to look for races.
        trace_dir: The folder for traces of runs that do not pass. ``None``: traces are not kept.
    """

    target: Target
    races: bool = False
    trace_dir: Path | None = None


MANY_RUNS = 100
"""For fewer runs, several processes are not faster, because each takes half a second to start."""


def add_jobs(parser: argparse.ArgumentParser) -> None:
    """Add ``--jobs``, which :func:`jobs_for` reads."""
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="how many processes perform the runs; the results do not depend on it (default: one per processor for "
        f"{MANY_RUNS} or more runs in the simulator, else 1)",
    )


def jobs_for(arguments: argparse.Namespace, runs: Sequence[PlannedRun]) -> int:
    """How many processes to use. On the real network, the default is one, because servers of several runs would compete
    for CPU time. Raises :class:`~raftlab.tools.arguments.CommandError`."""
    jobs: int | None = arguments.jobs
    if jobs is not None:
        if jobs < 1:
            raise CommandError(f"--jobs takes a number of at least 1, not {jobs}")
        return jobs
    in_simulator = all(planned.network == "sim" for planned in runs)
    return processors() if in_simulator and len(runs) >= MANY_RUNS else 1


class WorkerLost(Exception):
    """A process that performs runs has ended unexpectedly. The message is a sentence for the user."""


def perform(
    runs: Sequence[PlannedRun],
    conditions: Conditions,
    jobs: int = 1,
    begins: Callable[[PlannedRun, int], None] = lambda planned, done: None,
) -> Generator[Record, None, None]:
    """Perform runs and yield their records, in the order of ``runs``.

    Close the iterator if you need no more records. Closing ends the processes that perform the runs, and deletes the traces
    of runs whose records were not taken.

    Args:
        runs: The runs.
        conditions: What the runs have in common.
        jobs: The number of processes that perform runs. If it is 1, this process performs them.
        begins: Called when a run begins, with the run and the number of runs that are over.

    Raises:
        OSError: A trace cannot be written.
        WorkerLost: One of the processes has ended unexpectedly.
    """
    jobs = min(jobs, len(runs))
    return _here(runs, conditions, begins) if jobs <= 1 else _spread(runs, conditions, jobs, begins)


def _here(
    runs: Sequence[PlannedRun], conditions: Conditions, begins: Callable[[PlannedRun, int], None]
) -> Generator[Record, None, None]:
    implementation = conditions.target.checked_implementation(conditions.races)
    patience = Patience()
    try:
        for number, planned in enumerate(runs):
            begins(planned, number)
            refusal = patience.refusal(planned.info.name, planned.network)
            record = _perform_one(implementation, planned, conditions.trace_dir, refusal)
            patience.ended(record)
            yield record
    finally:
        implementation.close()


def _perform_one(
    implementation: Implementation, planned: PlannedRun, trace_dir: Path | None, refusal: LabFailure | None = None
) -> Record:
    run = Run(implementation, planned.info, planned.network, planned.seed, planned.schedule)
    if refusal is not None:
        return run.record(refusal)
    answer = together.make(run, trace_dir=trace_dir)
    if answer is not None:
        return answer.record
    error: BaseException | None = None
    try:
        with TimeLimit(TIME_LIMIT_S, _time_is_up):
            catalogue.script_of(planned.info)(run.cluster)
    except _TimeUp:
        error = never_ended(planned.network)
    except Exception as exc:  # record() decides what the exception means
        error = exc
    finally:
        run.close()
    return run.record(error, trace_dir)


class _TimeUp(BaseException):
    """A run has taken too long. This class is not an ``Exception``, because the code that the run calls might catch it."""


def _time_is_up() -> NoReturn:
    raise _TimeUp


# --- several processes ---


# Seconds that a worker may take to end its current run.
_END_TIMEOUT_S = 5.0


class _Worker:
    """A process that performs one run at a time. It ends when this process ends."""

    def __init__(self, context: Any, conditions: Conditions) -> None:
        self.connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, conditions), daemon=True)
        self._process.start()
        theirs.close()
        self.number = -1  # the number of its current run

    def begin(self, number: int, planned: PlannedRun) -> None:
        self.number = number
        with contextlib.suppress(BrokenPipeError):  # receive() reports the lost worker
            self.connection.send(planned)

    def receive(self) -> Record:
        try:
            result = self.connection.recv()
        except (EOFError, ConnectionError):
            self._process.join()
            text = f"a process that performed runs has ended with exit code {self._process.exitcode}"
            raise WorkerLost(f"{text}: run the command again, or with --jobs 1") from None
        if isinstance(result, Exception):
            raise result
        assert isinstance(result, Record)
        return result

    def end(self) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.join(_END_TIMEOUT_S)
        self._process.kill()
        self._process.join()


def _serve(connection: Connection, conditions: Conditions) -> None:
    """In the worker: perform the runs that arrive, until the parent ends this process, or no longer exists."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit())
    implementation = conditions.target.implementation(conditions.races)
    try:
        while True:
            planned: PlannedRun = connection.recv()
            result: Record | Exception
            try:
                result = _perform_one(implementation, planned, conditions.trace_dir)
            except Exception as exc:
                result = exc
            connection.send(result)
    except (EOFError, ConnectionError):
        pass  # the parent has ended
    finally:
        implementation.close()


def _spread(
    runs: Sequence[PlannedRun], conditions: Conditions, jobs: int, begins: Callable[[PlannedRun, int], None]
) -> Generator[Record, None, None]:
    import multiprocessing  # imported here because the import is slow and most commands need no other process
    from multiprocessing.connection import wait

    context = multiprocessing.get_context("spawn")
    # This implementation starts no host. It is used only for the records of runs that are skipped.
    implementation = conditions.target.implementation()
    patience = Patience()
    workers: list[_Worker] = []
    finished: dict[int, Record] = {}
    not_taken: set[int] = set()  # runs that have begun and whose records nobody has taken
    begun = 0
    try:
        workers += [_Worker(context, conditions) for _ in range(jobs)]
        idle = list(workers)
        for number, planned in enumerate(runs):
            while True:
                refusal = patience.refusal(planned.info.name, planned.network)
                if refusal is not None or number in finished:
                    break
                while idle and begun < len(runs):
                    begins(runs[begun], number + len(finished))
                    idle.pop().begin(begun, runs[begun])
                    not_taken.add(begun)
                    begun += 1
                for ready in wait([worker.connection for worker in workers if worker not in idle]):
                    worker = next(each for each in workers if each.connection is ready)
                    finished[worker.number] = worker.receive()
                    idle.append(worker)
            if refusal is not None:
                record = _perform_one(implementation, planned, None, refusal)
                begun = max(begun, number + 1)
            else:
                record = finished.pop(number)
                not_taken.discard(number)
            patience.ended(record)
            yield record
    finally:
        for worker in workers:
            worker.end()
        for number in not_taken:
            _delete_trace(runs[number], conditions.trace_dir)


def _delete_trace(planned: PlannedRun, folder: Path | None) -> None:
    if folder is not None:
        name = trace_name(planned.info.lab, planned.info.name, planned.network, planned.seed)
        (folder / name).unlink(missing_ok=True)


def delete_traces(runs: Iterable[PlannedRun], folder: Path) -> None:
    """Delete the traces that earlier runs of the same tests left, whatever their seeds, and the pictures of these
    traces.

    Raises:
        OSError: A file cannot be deleted.
    """
    prefixes = {trace_name(run.info.lab, run.info.name, run.network, 0).removesuffix("0.jsonl") for run in runs}
    for path in folder.glob("*-*-*-*"):
        prefix, dash, seed = path.stem.rpartition("-")
        if path.suffix in (".jsonl", ".html") and prefix + dash in prefixes and seed.isdigit():
            path.unlink(missing_ok=True)
