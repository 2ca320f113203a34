"""The seating plan: which processor a simulated job sits on.

Judge and host of a simulated run take turns: one sleeps whenever the other computes. On two processors every turn wakes one
that had gone to sleep, on a single one it is a plain switch, and an eighth of the CPU time is saved. It is done only where
our own jobs fill the machine: a job on a seat cannot move away from somebody else's work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Seats:
    """The processors that this process may use, for ``workers`` jobs at a time. Threads may share it."""

    def __init__(self, workers: int) -> None:
        processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        self._lock = threading.Lock()
        self._sitting = dict.fromkeys(processors if workers >= len(processors) > 1 else [], 0)

    @contextmanager
    def seat(self) -> Iterator[int | None]:
        """The number of the processor with the fewest jobs, for as long as the block runs; ``None``: sit anywhere."""
        with self._lock:
            chosen = min(self._sitting, key=lambda processor: self._sitting[processor], default=None)
            if chosen is not None:
                self._sitting[chosen] += 1
        try:
            yield chosen
        finally:
            if chosen is not None:
                with self._lock:
                    self._sitting[chosen] -= 1
