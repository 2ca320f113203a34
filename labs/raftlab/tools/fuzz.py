"""The field trip of ``raftlab fuzz``: random schedules on all cores until one fails; that one is made short and shown."""

from __future__ import annotations

import itertools
import multiprocessing
import signal
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from raftlab.runs import names, random_scenarios
from raftlab.runs.run import Implementation
from raftlab.tools import shrink_report
from raftlab.tools.shrink import Played, play
from raftlab.tools.test_progress import count, live

_SAY_EVERY = 1.0  # seconds between two words on the screen
_SHRINK_S = 60.0


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run: at most ``runs`` seeds from ``first`` on (``None``: as many as ``seconds`` allow)."""

    impl: Path
    lab: str
    first: int
    runs: int | None
    seconds: float
    jobs: int
    preempt: bool
    out: Path


# The warm host of this worker process; made when it starts.
_impl: Implementation | None = None


def _begin(path: str) -> None:
    global _impl
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    _impl = Implementation(Path(path))


def _one(lab: str, seed: int, preempt: bool) -> Played | None:
    assert _impl is not None
    told = names.named(f"{random_scenarios.name_of(lab)}@{seed}", "sim", preempt).scenario
    assert told is not None
    return play(_impl, told)


def run(order: Order) -> int:
    """Run until something fails, or the time or the seeds are used up. Returns 0 or 1."""
    began = time.monotonic()
    deadline = began + order.seconds
    seeds: Iterator[int] = itertools.count(order.first)
    if order.runs is not None:
        seeds = iter(range(order.first, order.first + order.runs))
    done = 0
    failed: Played | None = None
    said = began
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(order.jobs, context, _begin, (str(order.impl),)) as pool:
        going: set[Future[Played | None]] = set()
        try:
            while True:
                while failed is None and len(going) < 2 * order.jobs and time.monotonic() < deadline:
                    seed = next(seeds, None)
                    if seed is None:
                        break
                    going.add(pool.submit(_one, order.lab, seed, order.preempt))
                if not going:
                    break
                ended, going = wait(going, timeout=_SAY_EVERY, return_when=FIRST_COMPLETED)
                for each in ended:
                    done += 1
                    played = each.result()
                    if played is not None and (failed is None or played.scenario.seed < failed.scenario.seed):
                        failed = played
                if time.monotonic() - said > _SAY_EVERY:
                    said = time.monotonic()
                    live(f"  {done:,} runs, {said - began:.0f} s")
        except KeyboardInterrupt:
            for worker in list(pool._processes.values()):
                worker.terminate()
            raise
    live()
    took = time.monotonic() - began
    runs = count(done, "run")
    if failed is None:
        print(f"lab {order.lab}: {runs} from seed {order.first} on in {took:.0f} s, and nothing to complain about")
        return 0
    name = f"{failed.scenario.name}@{failed.scenario.seed}"
    print(f"{name} failed, after {runs}: {failed.failure.text}")
    named = names.named(name, "sim", order.preempt)
    return shrink_report.shrink(named, order.impl, _SHRINK_S, order.out / f"{name.replace('@', '-')}.txt")
