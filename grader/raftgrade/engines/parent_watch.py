"""A pytest plugin that ends a job when its grader has ended (``-p raftgrade.engines.parent_watch``).

When the grader ends, even by SIGKILL, the kernel closes the grader's end of the pipe for records. A thread notices this at
once and kills the job's whole process group. Without the thread, a job would notice only at the end of its current run.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading

import pytest

from raftlab.command_line import MACHINE_FULL


def pytest_configure(config: pytest.Config) -> None:
    fd: int = config.getoption("--records-fd")
    if fd >= 0:
        start(fd)


def start(fd: int) -> None:
    """Start the thread, for a job whose records go to ``fd``. If the machine has no thread left, the job ends, and its exit
    code says why."""
    try:
        threading.Thread(target=watch, args=(os.dup(fd),), name="parent-watch", daemon=True).start()
    except (OSError, RuntimeError) as exc:  # RuntimeError: "can't start new thread"
        sys.stderr.write(f"{exc}\n")
        sys.stderr.flush()
        os._exit(MACHINE_FULL)


def watch(fd: int) -> None:
    """Wait until no process reads from the pipe that ``fd`` writes to; then kill this process and its group."""
    poller = select.poll()
    poller.register(fd, 0)  # no events are requested: only the end of the reader wakes this thread
    poller.poll()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
