"""Watch the processes of a soak: measure their memory, find those that are left over, and create load beside them.

This module reads ``/proc``, so it works only on Linux.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator
from pathlib import Path

EVERY_S = 0.5  # seconds between two measurements of memory
GONE_S = 5.0  # how many seconds a process may take to end
_PR_SET_CHILD_SUBREAPER = 36
# A program that loops until its parent ends. If the parent is killed, the kernel closes the pipe to the program's stdin.
_HOG = (
    "import os,sys,threading\nt=threading.Thread(target=lambda:(sys.stdin.read(),os._exit(0)))\nt.start()\nwhile 1: 0"
)


class MemoryMonitor:
    """Measures the largest resident memory, in MB, of this process and of the largest process below it, while the context
    is open."""

    def __init__(self) -> None:
        self.own = 0.0
        self.child = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryMonitor:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()
        self._measure()

    def _watch(self) -> None:
        while not self._stop.is_set():
            self._measure()
            self._stop.wait(EVERY_S)

    def _measure(self) -> None:
        self.own = max(self.own, megabytes(os.getpid(), "VmRSS"))
        # VmHWM is the peak that the kernel has recorded, so a peak between two measurements is not missed.
        self.child = max([self.child, *(megabytes(pid, "VmHWM") for pid in descendants())])


def megabytes(pid: int, field: str) -> float:
    """The memory of a process in MB: now (``field`` is ``VmRSS``) or at its peak (``VmHWM``); 0 if the process is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1000 * 1.024
    return 0.0  # gone, or a zombie


def descendants() -> set[int]:
    """The processes that descend from this one. With :func:`adopt_orphans`, they include those whose parent is gone."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    pids: set[int] = set()
    new = [os.getpid()]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        pids.update(new)
    return pids


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """During the block, descendants that lose their parent become children of this process, so that none is missed."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def leftover_processes(known: Collection[int]) -> list[int]:
    """The descendants of this process that are not among ``known`` and have not ended after :data:`GONE_S`."""
    deadline = time.monotonic() + GONE_S
    while True:
        reap(descendants() - set(known))
        others = descendants() - set(known)
        if not others or time.monotonic() > deadline:
            return sorted(others)
        time.sleep(0.02)


def reap(pids: Collection[int]) -> None:
    """Reap the processes among ``pids`` that are dead and are children of ours (:func:`adopt_orphans`)."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.waitpid(pid, os.WNOHANG)


def kill(pids: Collection[int]) -> None:
    """Kill processes."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def hogs(number: int) -> Iterator[set[int]]:
    """Run ``number`` endless loops, at this process's priority, while the context is open and this process lives."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            # Each loop gets a process group of its own, so that Ctrl-C reaches only this process.
            command = [sys.executable, "-I", "-S", "-c", _HOG]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0))
        yield {process.pid for process in running}
    finally:
        for process in running:
            process.kill()
            with process:  # closes the pipe and waits
                pass
