"""Assign a processor to each simulated job.

The judge and the host of a simulated run take turns: one sleeps while the other computes. On two processors, each turn
must wake an idle processor. On one processor, a turn is only a context switch, which saves an eighth of the CPU time.
Processors are assigned only if our own jobs keep all of them busy, because a job with a fixed processor cannot move away
when another program needs that processor.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class ProcessorAssigner:
    """Spreads jobs evenly over the processors that this process may use. Threads may share it.

    Args:
        workers: how many jobs run at a time. With fewer jobs than processors, no job is assigned a processor.
    """

    def __init__(self, workers: int) -> None:
        processors = sorted(os.sched_getaffinity(0))
        self._lock = threading.Lock()
        self._jobs = dict.fromkeys(processors if workers >= len(processors) > 1 else [], 0)  # by processor

    @contextmanager
    def assign(self) -> Iterator[int | None]:
        """Choose the processor with the fewest jobs, and count one more job on it while the block runs. Yields this
        processor, or ``None`` if the job may use any processor."""
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
