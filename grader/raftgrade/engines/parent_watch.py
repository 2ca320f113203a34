"""The other end of the leash, inside a job: when the grader is gone, the job goes too.

A pytest plugin (``-p raftgrade.engines.parent_watch``). Whatever way the grader ended, a SIGKILL included, the kernel closes
its end of the records' pipe; the thread here sees that at once and ends the job's whole process group.
Without it a job would find out only when its current run is over.
"""

from __future__ import annotations

import os
import select
import signal
import threading

import pytest


def pytest_configure(config: pytest.Config) -> None:
    fd: int = config.getoption("--records-fd")
    if fd >= 0:
        threading.Thread(target=watch, args=(os.dup(fd),), name="leash", daemon=True).start()


def watch(fd: int) -> None:
    """Wait until nobody reads from the pipe that ``fd`` writes to; then kill this process and its group."""
    poller = select.poll()
    poller.register(fd, 0)  # no events asked for: only the end of the reader wakes it
    poller.poll()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
