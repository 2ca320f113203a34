"""Start child processes, read what they write, and never leave one behind.

Each child leads a process group of its own, so that whatever it started can be killed with it, and Ctrl-C in the terminal
reaches only us. A group is killed before its leader is reaped: until then, no other process can get its number.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from raftgrade.engines.cpu_affinity import ProcessorAssigner
from raftgrade.engines.job_fork_server import ForkedProcess, JobForkServer
from raftlab.time_awake import LOOK_S, TimeAwake

MAX_LINE_BYTES = 1_000_000  # a longer line is not a record: a record has at most a tenth of this
_CHUNK_BYTES = 1 << 16
_NICENESS = 10  # of children that have a lower priority

ExitKind = Literal["exited", "silent", "stopped", "not-started", "flood"]


@dataclass(frozen=True, slots=True)
class ChildExit:
    """How a child process ended. ``code`` is its exit code if it exited (negative: the signal that killed it). ``text`` says
    why it could not be started. Three values of ``how`` mean that the child was killed: ``silent`` because it reported
    nothing for too long, ``flood`` because it sent a line that is too long, and ``stopped`` because everything was
    stopped."""

    how: ExitKind
    code: int = 0
    text: str = ""


class Children:
    """Starts child processes and kills them. Several threads may use one object.

    Args:
        workers: the number of threads, each of which runs one child at a time. Pass 0 if other work also keeps the
            machine busy; then no child gets a processor of its own.
        fork_server: forks each child that runs one of raftlab's own modules and has the same environment as the fork
            server. All other children are started in the usual way.
    """

    def __init__(self, workers: int = 0, fork_server: JobForkServer | None = None) -> None:
        self.processors = ProcessorAssigner(workers)
        self._fork_server = fork_server
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopped = False

    @property
    def stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """Kill every child and everything in its group, and start no more children."""
        self._stopped = True
        if self._fork_server is not None:
            # Before the lock is taken: a thread that waits for this server may hold the lock.
            self._fork_server.kill()
        with self._lock:
            for pid in self._running:
                _kill_group(pid)
            if self._fork_server is not None:
                self._fork_server.close()

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
        """Run a child and wait until it ends. Nothing that the child does makes this method raise an exception.

        Args:
            command: returns the command line; its argument is the file descriptor for records.
            on_line: called with each line that the child writes to the descriptor. It returns whether the line shows
                progress.
            silence_s: after this many seconds without progress, the child and its group are killed.
            log: whatever else the child prints is appended to this file.
            environment: the child's environment variables; it gets no others.
            from_stdout: read lines from the child's stdout instead of the descriptor.
            nice: give the child a lower priority.
            processor: the only processor that the child may use.
        """
        try:
            read_fd, write_fd = os.pipe()
        except OSError as exc:  # no descriptor is left
            return ChildExit("not-started", text=exc.strerror or str(exc))
        try:
            with log.open("ab") as output:
                process = self._start(
                    list(command(write_fd)),
                    stdout=write_fd if from_stdout else output.fileno(),
                    stderr=output.fileno(),
                    records_fd=-1 if from_stdout else write_fd,
                    environment=dict(environment),
                )
        except OSError as exc:
            os.close(read_fd)
            return ChildExit("not-started", text=exc.strerror or str(exc))
        finally:
            os.close(write_fd)
        if process is None:
            os.close(read_fd)
            return ChildExit("stopped")
        with contextlib.suppress(OSError):  # these settings only make grading faster, so a failure does not matter
            if nice:
                os.setpriority(os.PRIO_PROCESS, process.pid, _NICENESS)
            if processor is not None:
                os.sched_setaffinity(process.pid, {processor})
        how: ExitKind = "stopped"
        text = ""
        try:
            how = _read_until_exit(read_fd, process.pid, on_line, silence_s)
        except _NotWatched as exc:
            how, text = "not-started", str(exc)
        finally:
            os.close(read_fd)
            with self._lock:
                _kill_group(process.pid)
                self._running.discard(process.pid)
            code = process.wait()
        return ChildExit("stopped" if self._stopped else how, code, text)

    def _start(
        self, command: list[str], *, stdout: int, stderr: int, records_fd: int, environment: dict[str, str]
    ) -> subprocess.Popen[bytes] | ForkedProcess | None:
        # The lock ensures that no child starts after `stop` has killed the running ones.
        with self._lock:
            if self._stopped:
                return None
            process: subprocess.Popen[bytes] | ForkedProcess | None = None
            if self._fork_server is not None and self._fork_server.environment == environment:
                process = self._fork_server.start(command, stdout, stderr, records_fd)
                if process is None and self.stopped:  # `stop` was called while the fork server worked
                    return None
            if process is None:
                process = subprocess.Popen(
                    command,
                    process_group=0,
                    pass_fds=() if records_fd < 0 else (records_fd,),
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    env=environment,
                )
            self._running.add(process.pid)
            return process


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


class _NotWatched(Exception):
    """The child was started, but no descriptor or thread is left to wait for its end. The message says which."""


def _read_until_exit(read_fd: int, pid: int, on_line: Callable[[bytes], bool], silence_s: float) -> ExitKind:
    """Read lines until the child has ended or must be killed. When the child has ended, other processes may still have the
    pipe open."""
    try:
        exit_read, exit_write = os.pipe()
    except OSError as exc:
        raise _NotWatched(exc.strerror or str(exc)) from None
    waiter = threading.Thread(target=_await_end, args=(pid, exit_write), daemon=True)
    try:
        waiter.start()
    except RuntimeError as exc:  # "can't start new thread"
        os.close(exit_read)
        os.close(exit_write)
        raise _NotWatched(str(exc)) from None
    try:
        return _read_lines(read_fd, exit_read, on_line, silence_s)
    finally:
        _kill_group(pid)
        waiter.join()
        os.close(exit_read)


def _await_end(pid: int, exit_write: int) -> None:
    # WNOWAIT leaves the child unreaped. It is reaped only after its group has been killed, so no other process can get its
    # number before that.
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    finally:
        os.close(exit_write)


def _read_lines(read_fd: int, exit_fd: int, on_line: Callable[[bytes], bool], silence_s: float) -> ExitKind:
    poller = select.poll()
    poller.register(read_fd, select.POLLIN)
    poller.register(exit_fd, select.POLLIN)
    # While this process is suspended, the child may write lines, but nobody reads them. So that time does not count.
    silent = TimeAwake()
    rest = bytearray()  # the beginning of a line
    while True:
        ready = {fd for fd, _ in poller.poll(LOOK_S * 1000)}
        if read_fd in ready:
            chunk = os.read(read_fd, _CHUNK_BYTES)
            if not chunk:
                poller.unregister(read_fd)
                continue
            first, *more = chunk.split(b"\n")
            rest += first
            progress = False
            for line in more:
                progress |= on_line(bytes(rest))
                rest = bytearray(line)
            if progress:
                silent = TimeAwake()
            if len(rest) > MAX_LINE_BYTES:
                return "flood"
        elif exit_fd in ready:
            return "exited"
        if silent.seconds > silence_s:
            return "silent"
