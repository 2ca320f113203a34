"""Assign a processor to each simulated job.

Judge and host of a simulated run take turns: one sleeps while the other computes. On two processors, each turn wakes one
that had gone to sleep; on a single one it is a plain switch, which saves an eighth of the CPU time. It is done only where
our own jobs fill the machine, because a job with a fixed processor cannot move away from somebody else's work.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ProcessorAssigner:
    """Spreads jobs evenly over the processors that this process may use. Threads may share it.

    Args:
        workers: how many jobs run at a time. If they do not fill the machine, no job is assigned a processor.
    """

    def __init__(self, workers: int) -> None:
        processors = sorted(os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._jobs = dict.fromkeys(processors if workers >= len(processors) > 1 else [], 0)  # by processor

    @contextmanager
    def assign(self) -> Iterator[int | None]:
        """The number of the processor with the fewest jobs, which has one more while the block runs; ``None``: any."""
        with self._lock:
            chosen = min(self._jobs, key=lambda processor: self._jobs[processor], default=None)
            if chosen is not None:
                self._jobs[chosen] += 1
        try:
            yield chosen
        finally:
            if chosen is not None:
                with self._lock:
                    self._jobs[chosen] -= 1
