"""The watchman of a soak: how much memory our processes hold, whether all of them are gone, and the load beside them.

Linux only, as the hosts are: it reads ``/proc``.
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

EVERY_S = 0.5  # how often memory is looked at
GONE_S = 5.0  # how long what was killed may take to be gone
_PR_SET_CHILD_SUBREAPER = 36
# Counts until its parent is gone, whatever way that went: then the pipe to its stdin ends.
_HOG = (
    "import os,sys,threading\nt=threading.Thread(target=lambda:(sys.stdin.read(),os._exit(0)))\nt.start()\nwhile 1: 0"
)


class MemoryMonitor:
    """The largest resident memory, in MB, of this process and of any one process below it, while the context is open."""

    def __init__(self) -> None:
        self.own = 0.0
        self.child = 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="memory", daemon=True)

    def __enter__(self) -> MemoryMonitor:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _look_on(self) -> None:
        while not self._over.is_set():
            self._look()
            self._over.wait(EVERY_S)

    def _look(self) -> None:
        self.own = max(self.own, megabytes(os.getpid(), "VmRSS"))
        # A child's own peak, so that nothing of it is missed between two looks.
        self.child = max([self.child, *(megabytes(pid, "VmHWM") for pid in descendants())])


def megabytes(pid: int, field: str) -> float:
    """What the kernel says of a process's memory under ``field`` (``VmRSS``, ``VmHWM``); 0 when it is gone."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1000 * 1.024
    return 0.0  # gone, or dead and not yet buried


def descendants() -> set[int]:
    """The processes that descend from this one. With :func:`adopt_orphans`, those too whose parent is gone."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: set[int] = set()
    new = [os.getpid()]
    while new:
        new = [child for pid in new for child in children.get(pid, ())]
        found.update(new)
    return found


@contextlib.contextmanager
def adopt_orphans() -> Iterator[None]:
    """Descendants that lose their parent become children of this process: nobody gets away uncounted."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def leftover_processes(known: Collection[int]) -> list[int]:
    """The processes below this one but for those ``known``, once what is about to go had time to go."""
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
    """Kill processes that :func:`leftover_processes` has named."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def hogs(number: int) -> Iterator[set[int]]:
    """So many endless loops at our own priority, for as long as the context is open and this process lives."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(number):
            # A group of its own: Ctrl-C is ours to handle.
            command = [sys.executable, "-I", "-S", "-c", _HOG]
            running.append(subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0))
        yield {process.pid for process in running}
    finally:
        for process in running:
            process.kill()
            with process:  # closes the pipe and waits
                pass
