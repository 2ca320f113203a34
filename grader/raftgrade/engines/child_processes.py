"""The leash: starts child processes, hears them out, and never leaves one behind.

Each child leads a process group of its own, so that whatever it started can be killed with it, and Ctrl-C in
the terminal reaches only us. A group is killed while its leader is still unreaped: its number cannot have
gone to somebody else in between.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raftgrade.engines.cpu_affinity import ProcessorAssigner

MAX_LINE_BYTES = 64 * 1024 * 1024  # a line beyond this is no record; stop listening rather than run out of memory
_CHUNK = 1 << 16
_NICER = 10

ExitKind = Literal["exited", "silent", "stopped", "not-started", "flood"]


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a child ended: ``exited`` with ``code`` (negative: killed by that signal); killed because it was
    ``silent`` for too long or sent a ``flood``; ``stopped`` because everything stops; or ``not-started``
    (``text`` says why)."""

    how: ExitKind
    code: int = 0
    text: str = ""


class Children:
    """Every child there is, of ``workers`` threads (0: this is not all that keeps the machine busy). Threads may share it;
    :meth:`stop` ends all of them for good."""

    def __init__(self, workers: int = 0) -> None:
        self.processors = ProcessorAssigner(workers)
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Kill every child and everything in its group, and start no more."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                _kill_group(pid)

    def listen(
        self,
        command: Callable[[int], Sequence[str]],
        *,
        on_line: Callable[[bytes], bool],
        silence_s: float,
        log: Path,
        environment: Mapping[str, str],
        from_stdout: bool = False,
        nice: bool = False,
        processor: int | None = None,
    ) -> ChildExit:
        """Run ``command(fd)`` to its end and hand each line it writes to ``fd`` (or to its stdout) to
        ``on_line``, which says whether it was news. After ``silence_s`` seconds without news the child and
        its group are killed. What else it prints is appended to ``log``. It stays on ``processor``, if one is
        given. Blocks; raises nothing of the child's doing."""
        read_fd, write_fd = os.pipe()
        try:
            with log.open("ab") as output:
                process = self._start(
                    list(command(write_fd)),
                    pass_fds=() if from_stdout else (write_fd,),
                    stdin=subprocess.DEVNULL,
                    stdout=write_fd if from_stdout else output,
                    stderr=output,
                    env=dict(environment),
                )
        except OSError as exc:
            os.close(read_fd)
            return ChildExit("not-started", text=exc.strerror or str(exc))
        finally:
            os.close(write_fd)
        if process is None:
            os.close(read_fd)
            return ChildExit("stopped")
        with contextlib.suppress(OSError):  # neither is needed, only faster
            if nice:
                os.setpriority(os.PRIO_PROCESS, process.pid, _NICER)
            if processor is not None:
                os.sched_setaffinity(process.pid, {processor})
        how: ExitKind = "stopped"
        try:
            how = _hear(read_fd, process.pid, on_line, silence_s)
        finally:
            os.close(read_fd)
            with self._lock:
                _kill_group(process.pid)
                self._running.discard(process.pid)
            code = process.wait()
        return ChildExit("stopped" if self._stopped else how, code)

    def _start(self, command: list[str], **options: object) -> subprocess.Popen[bytes] | None:
        # Under the lock, so that no child can start between the last kill and the end.
        with self._lock:
            if self._stopped:
                return None
            process: subprocess.Popen[bytes] = subprocess.Popen(command, process_group=0, **options)  # type: ignore[call-overload]
            self._running.add(process.pid)
            return process


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _hear(read_fd: int, pid: int, on_line: Callable[[bytes], bool], silence_s: float) -> ExitKind:
    """Read lines until the child has ended (or must be ended), whichever processes still hold the pipe."""
    gone_read, gone_write = os.pipe()
    waiter = threading.Thread(target=_await_end, args=(pid, gone_write), daemon=True)
    waiter.start()
    try:
        return _read_lines(read_fd, gone_read, on_line, silence_s)
    finally:
        _kill_group(pid)
        waiter.join()
        os.close(gone_read)


def _await_end(pid: int, gone_write: int) -> None:
    # WNOWAIT leaves the child unreaped: until we have killed its group, nobody else can be given its number.
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    finally:
        os.close(gone_write)


def _read_lines(read_fd: int, gone_fd: int, on_line: Callable[[bytes], bool], silence_s: float) -> ExitKind:
    poller = select.poll()
    poller.register(read_fd, select.POLLIN)
    poller.register(gone_fd, select.POLLIN)
    deadline = time.monotonic() + silence_s
    rest = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return "silent"
        ready = {fd for fd, _ in poller.poll(left * 1000)}
        if read_fd in ready:
            chunk = os.read(read_fd, _CHUNK)
            if not chunk:
                poller.unregister(read_fd)
                continue
            *lines, rest = (rest + chunk).split(b"\n")
            news = [on_line(line) for line in lines]  # every line must be heard, not only up to the first news
            if any(news):
                deadline = time.monotonic() + silence_s
            if len(rest) > MAX_LINE_BYTES:
                return "flood"
        elif gone_fd in ready:
            return "exited"
