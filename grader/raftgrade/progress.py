"""Show progress: one line that is redrawn on a terminal, or a new line every few seconds on a pipe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from typing import TextIO

from raftlab.command_line import redraws
from raftlab.runs.record import Outcome, Record
from raftlab.safe_text import duration, one_line

REDRAW_S = 0.1  # seconds between two redraws on a terminal
LINE_S = 10.0  # seconds between two lines on a pipe

# How many seconds a run keeps one worker busy: an estimate, which counts as much as one measured run.
GUESS_S = {"sim": 0.5, "rpyc": 8.0}

# Workers also start jobs and write reports, and on a busy machine they may have to wait for a processor. This overhead
# is measured. The measurement begins as if this many seconds had passed without overhead. Otherwise the start of the first
# job would dominate the estimate.
PRIOR_S = 60.0


class Progress:
    """The progress of many runs.

    Args:
        todo: how many runs are left, by kind (network).
        pools: the kinds that share workers, and how many workers they have. Pools work in parallel.
        stream: where the line goes.
        clock: returns seconds.
        words: the words for runs, and for runs that failed.
    """

    def __init__(
        self,
        todo: dict[str, int],
        pools: Mapping[tuple[str, ...], int],
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        words: tuple[str, str] = ("runs", "failed"),
    ) -> None:
        self._todo = dict(todo)
        self._pools = dict(pools)
        self._stream = stream
        self._clock = clock
        self._tty = redraws(stream)
        self._started = self._shown = clock()
        self._worked = dict.fromkeys(todo, 0.0)
        self._cost = {network: (GUESS_S.get(network, 1.0), 1) for network in todo}
        self._done = 0
        self._failed = 0
        self._errors = 0
        self._where = ""
        self._words = words

    def add_run(self, submission: str, record: Record) -> None:
        """Count a finished run."""
        self.add(f"{submission} {record.lab}", record.network, record.outcome, record.wall_s)

    def add(self, where: str, kind: str, outcome: Outcome, wall_s: float) -> None:
        """Count a finished run of any kind. ``where`` is shown at the end of the line; ``wall_s`` is the run's duration."""
        self._done += 1
        self._failed += outcome == "failed"
        self._errors += outcome == "error"
        self._todo[kind] -= 1
        if wall_s > 0:
            total, runs = self._cost[kind]
            self._cost[kind] = (total + wall_s, runs + 1)
            self._worked[kind] += wall_s
        self._where = where
        self.show()

    def reduce(self, runs: dict[str, int]) -> None:
        """Subtract planned runs, by kind, that will not be made: their submission was refused, their lab is skipped, or a
        sequential test needed fewer runs than expected. A negative number adds runs, if a sequential test needs more."""
        for network, number in runs.items():
            self._todo[network] -= number
        self.show()

    def show(self) -> None:
        """Draw the line, if enough time has passed."""
        now = self._clock()
        if now - self._shown < (REDRAW_S if self._tty else LINE_S):
            return
        self._shown = now
        if self._tty:
            width = shutil.get_terminal_size().columns
            self._stream.write("\r" + one_line(self.line(), max(20, width - 1)) + "\x1b[K")
        else:
            self._stream.write(self.line() + "\n")
        self._stream.flush()

    def line(self) -> str:
        """``12 of 320 runs · 8.1/s · 2 failed · about 38 s left · alice 2A``"""
        spent = self._clock() - self._started
        remaining = max(0, sum(self._todo.values()))
        runs, failed = self._words
        parts = [f"{self._done} of {self._done + remaining} {runs}"]
        if self._done and spent > 0:
            parts.append(f"{self._done / spent:.1f}/s")
        parts.append(f"{self._failed} {failed}")
        if self._errors:
            parts.append(f"{self._errors} not judged")
        if self._done and remaining:
            parts.append(f"about {duration(self.remaining_s())} left")
        if self._where:
            parts.append(one_line(self._where, 40))
        return " · ".join(parts)

    def remaining_s(self) -> float:
        """An estimate of the remaining seconds: the estimate for the slowest pool. A pool's estimate is the number of its
        remaining runs times the mean cost of their kind, scaled by the pool's overhead so far."""
        return max((self._remaining_s(kinds, workers) for kinds, workers in self._pools.items()), default=0.0)

    def _remaining_s(self, kinds: tuple[str, ...], workers: int) -> float:
        cost = {kind: total / runs for kind, (total, runs) in self._cost.items()}
        work = sum(max(0, number) * cost[kind] for kind, number in self._todo.items() if kind in kinds)
        spent = (self._clock() - self._started) * workers
        worked = sum(seconds for kind, seconds in self._worked.items() if kind in kinds)
        return work / workers * max(1.0, (spent + PRIOR_S) / (worked + PRIOR_S))

    def close(self) -> None:
        """Clear the line on a terminal."""
        if self._tty:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
