"""`raftlab fuzz`: run random scenarios on all processors until one fails, then shrink that scenario and show it."""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from raftlab import labs
from raftlab.command_line import PASSED
from raftlab.operating_system import processors
from raftlab.runs import names, random_scenarios
from raftlab.runs.run import Implementation
from raftlab.safe_text import printable
from raftlab.tools.arguments import (
    OUTPUT_FOLDER,
    CommandError,
    Target,
    add_submission,
    add_time_limit,
    seconds,
    seeds,
    submission,
)
from raftlab.tools.printing import count, show_progress
from raftlab.tools.shrink import FailedRun, play, shrink

_PROGRESS_EVERY = 1.0  # seconds between two updates of the progress line
_SHRINK_TIME = 60.0  # seconds spent on shrinking a failing run


@dataclass(frozen=True, slots=True)
class FuzzRequest:
    """What a user of `raftlab fuzz` asks for.

    Attributes:
        target: The submission and its sandbox.
        lab: The lab's name.
        first: The first seed.
        runs: The maximum number of seeds. ``None``: as many as time permits.
        seconds: Seconds by the wall clock after which no run begins.
        jobs: The number of processes to use.
        schedule: How the simulator preempts threads, a name from :mod:`raftlab.schedules`. ``None``: the seed decides.
        out: The folder for the scenario that fails.
    """

    target: Target
    lab: str
    first: int
    runs: int | None
    seconds: float
    jobs: int
    schedule: str | None
    out: Path = OUTPUT_FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    first = next(iter(labs.LABS))
    parser.add_argument(
        "lab", nargs="?", default=first, metavar="LAB", help=f"run scenarios for this lab (default: {first})"
    )
    add_submission(parser)
    add_time_limit(parser, "stop after this time, such as 30s, 5m or 1h (default: 60s)")
    parser.add_argument(
        "--seeds",
        default="",
        metavar="N or A:B",
        help="run the seeds 0 to N - 1, or A to B - 1, however long this takes",
    )
    parser.add_argument(
        "--jobs", type=int, default=0, metavar="N", help="how many processes to use (default: one per processor)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run random scenarios. Returns the exit code."""
    lab = labs.find(arguments.lab).name
    time_limit = seconds(arguments)
    first, runs = 0, None
    if arguments.seeds:
        chosen = seeds(arguments.seeds)
        first, runs, time_limit = chosen.start, len(chosen), math.inf
    if arguments.jobs < 0:
        raise CommandError(f"--jobs takes a number of at least 1, not {arguments.jobs}")
    target = submission(arguments, lab)
    jobs = arguments.jobs or processors()
    return fuzz(FuzzRequest(target, lab, first, runs, time_limit, jobs, arguments.schedule))


# The warm host of this worker process, created when the process starts.
_impl: Implementation | None = None


def _start_worker(target: Target) -> None:
    global _impl
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    _impl = target.implementation()


def _play(lab: str, seed: int, schedule: str | None) -> FailedRun | None:
    assert _impl is not None
    scenario = names.named(f"{random_scenarios.name_of(lab)}@{seed}", "sim", schedule).scenario
    assert scenario is not None
    return play(_impl, scenario)


def fuzz(request: FuzzRequest) -> int:
    """Run scenarios until one fails, the time is up, or all seeds are used. Shrink and print the scenario that failed.
    Returns 0 or 1."""
    began = time.monotonic()
    deadline = began + request.seconds
    seeds: Iterator[int] = itertools.count(request.first)
    if request.runs is not None:
        seeds = iter(range(request.first, request.first + request.runs))
    done = 0
    failed: FailedRun | None = None
    progress_at = began
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(request.jobs, context, _start_worker, (request.target,)) as pool:
        running: set[Future[FailedRun | None]] = set()
        try:
            while True:
                while failed is None and len(running) < 2 * request.jobs and time.monotonic() < deadline:
                    seed = next(seeds, None)
                    if seed is None:
                        break
                    running.add(pool.submit(_play, request.lab, seed, request.schedule))
                if not running:
                    break
                ended, running = wait(running, timeout=_PROGRESS_EVERY, return_when=FIRST_COMPLETED)
                for future in ended:
                    done += 1
                    result = future.result()
                    # Take the lowest seed, so that the outcome does not depend on which run ended first.
                    if result is not None and (failed is None or result.scenario.seed < failed.scenario.seed):
                        failed = result
                if time.monotonic() - progress_at > _PROGRESS_EVERY:
                    progress_at = time.monotonic()
                    show_progress(f"  {done:,} runs, {progress_at - began:.0f} s")
        except KeyboardInterrupt:
            for worker in list(pool._processes.values()):
                worker.terminate()
            raise
    show_progress()
    runs = count(done, "run")
    if failed is None:
        took = time.monotonic() - began
        print(f"lab {request.lab}: {runs} in {took:.0f} s, from seed {request.first} on: nothing failed")
        return PASSED
    name = f"{failed.scenario.name}@{failed.scenario.seed}"
    print(f"{name} failed after {runs}: {printable(failed.failure.text)}")
    named = names.named(name, "sim", request.schedule)
    return shrink(named, request.target, _SHRINK_TIME, request.out / f"{name.replace('@', '-')}.txt")
