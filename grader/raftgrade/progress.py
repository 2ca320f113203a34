"""The window in the door: how far the run is. One line, redrawn on a terminal; now and then a line on a
pipe."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from raftlab.runs.record import Outcome, Record
from raftlab.safe_text import duration, one_line

REDRAW_S = 0.1
LINE_S = 10.0

# What a run costs in seconds of one worker, until there are some to measure.
GUESS_S = {"sim": 0.5, "rpyc": 8.0}

# Workers also start jobs and write reports, and may get little of a busy machine. How much that is shows in time; one minute
# of work without any of it is believed beforehand, so that the first start does not count for too much.
BELIEVED_S = 60.0


class Progress:
    """``todo`` is the number of runs still to do by their kind (network); ``workers`` how many are done at a time.
    ``clock`` gives seconds, ``words`` are what runs, and those that failed, are called."""

    def __init__(
        self,
        todo: dict[str, int],
        workers: int,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        words: tuple[str, str] = ("runs", "failed"),
    ) -> None:
        self._todo = dict(todo)
        self._workers = workers
        self._stream = stream
        self._clock = clock
        self._tty = stream.isatty()
        self._started = self._shown = clock()
        self._worked = 0.0
        self._cost = {network: (GUESS_S.get(network, 1.0), 1) for network in todo}
        self._done = 0
        self._failed = 0
        self._errors = 0
        self._where = ""
        self._words = words

    def add_run(self, submission: str, record: Record) -> None:
        """One more run has its outcome."""
        self.add(f"{submission} {record.lab}", record.network, record.outcome, record.wall_s)

    def add(self, where: str, kind: str, outcome: Outcome, wall_s: float) -> None:
        """The same, of whatever is counted here."""
        self._done += 1
        self._failed += outcome == "failed"
        self._errors += outcome == "error"
        self._todo[kind] -= 1
        if wall_s > 0:
            total, runs = self._cost[kind]
            self._cost[kind] = (total + wall_s, runs + 1)
            self._worked += wall_s
        self._where = where
        self.show()

    def reduce(self, runs: dict[str, int]) -> None:
        """So many runs by network will not be made: their submission was refused, their lab stays shut, or a sequential
        test was sure sooner (or later: then the number is below 0)."""
        for network, number in runs.items():
            self._todo[network] -= number
        self.show()

    def show(self) -> None:
        """Draw, if it is time to."""
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
        left = max(0, sum(self._todo.values()))
        things, failed = self._words
        parts = [f"{self._done} of {self._done + left} {things}"]
        if self._done and spent > 0:
            parts.append(f"{self._done / spent:.1f}/s")
        parts.append(f"{self._failed} {failed}")
        if self._errors:
            parts.append(f"{self._errors} not judged")
        if self._done and left:
            parts.append(f"about {duration(self.remaining_s())} left")
        if self._where:
            parts.append(one_line(self._where, 40))
        return " · ".join(parts)

    def remaining_s(self) -> float:
        """An estimate of the seconds that remain: what is left of each network at its own price, and of what goes by between
        the runs as much as before."""
        price = {network: total / runs for network, (total, runs) in self._cost.items()}
        work = sum(max(0, number) * price[network] for network, number in self._todo.items())
        spent = (self._clock() - self._started) * self._workers
        return work / self._workers * max(1.0, (spent + BELIEVED_S) / (self._worked + BELIEVED_S))

    def close(self) -> None:
        """Leave the terminal's line as we found it."""
        if self._tty:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
