"""The judge's side of the warm host: start it, have it fork children, and end it together with all of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path

import msgspec

from raftlab.messages import protocol
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Sandbox
from raftlab.worlds.base import HostLost, HostNotStarted

# Seconds that the warm host may take to load and to fork. It only reads files and compiles, so if it takes longer the
# machine is to blame, not the student's code.
_START_TIMEOUT_S = 60.0

# Seconds that each child of a killed host may take to exit.
_EXIT_TIMEOUT_S = 5.0

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class WarmHost:
    """A running warm host for one submission: it has the submission loaded, and forks a child for each run or server.

    Use it from the thread that created it: the kernel kills the host when that thread ends.

    Args:
        path: the submission's folder.
        sandbox: what the host may do, see :mod:`raftlab.sandbox.levels`.
    """

    def __init__(self, path: Path, sandbox: Sandbox = levels.NONE) -> None:
        self.path = path
        self._exit_statuses: dict[int, int] = {}
        self._over_memory_limit: set[int] = set()
        self._pids: dict[int, int] = {}
        self._last_child = 0
        self._decoder = protocol.decoder(protocol.Notice)
        # Opened for appending, since the host shares the file offset that we move when reading.
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (closed in close)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The kernel adds to each notice its sender's process id in our namespace. A host in another process namespace
        # cannot know that id.
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        with theirs:
            limits = msgspec.json.encode(sandbox.limits).decode()
            host = ["-m", "raftlab.host.warm_host", str(theirs.fileno()), str(sandbox.inside(path)), limits]
            self._process = subprocess.Popen(
                sandbox.python(host, path),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=levels.host_environment(),
            )

    def alive(self) -> bool:
        return self._process.poll() is None

    def spawn(self, world: str, fds: list[int], seed: int = 0, preempt: bool = True) -> int:
        """Fork a child.

        Args:
            world: what the child does: ``"sim"``, ``"rpyc"`` or ``"check"``.
            fds: descriptors to pass to the child, see :class:`~raftlab.messages.protocol.StartChild`. Closed afterwards.
            seed: the seed of the run (sim) or the incarnation (rpyc).
            preempt: whether the simulator may switch threads between two statements.

        Returns:
            The child's number, for the other methods.

        Raises:
            HostNotStarted: the host failed before its first child existed, so no student code is to blame.
            HostLost: the host failed later.
        """
        self._last_child += 1
        child = self._last_child
        command = protocol.encode(protocol.StartChild(child, world, seed, preempt))
        try:
            socket.send_fds(self._control, [command], fds)
            while child not in self._pids:
                self._receive_notice(_START_TIMEOUT_S)
                if child in self._exit_statuses:
                    raise HostLost("host-died", "the process that runs your code ended", self.stderr())
        except (HostLost, BrokenPipeError, ConnectionError):
            if not self._pids:
                raise HostNotStarted(f"the host process did not start:\n{self.stderr()}") from None
            raise HostLost("host-died", "the process that runs your code ended", self.stderr()) from None
        finally:
            for fd in fds:
                os.close(fd)
        return child

    def kill(self, child: int) -> None:
        """SIGKILL ``child`` and wait until it is gone."""
        with contextlib.suppress(BrokenPipeError, ConnectionError):
            self._control.send(protocol.encode(protocol.KillChild(child)))
        with contextlib.suppress(HostLost):
            self.exit_status(child, _START_TIMEOUT_S)

    def exit_status(self, child: int, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds for ``child`` to end. Returns its status as ``os.waitpid`` gives it, ``None`` if it
        is still running. Raises :class:`~raftlab.worlds.base.HostLost` when the host itself has ended."""
        deadline = time.monotonic() + timeout
        while child not in self._exit_statuses:
            remaining = deadline - time.monotonic()
            if remaining < 0 or not self._receive_notice(remaining, required=False):
                return None
        return self._exit_statuses[child]

    def how_it_ended(self, child: int, timeout: float) -> str:
        """The predicate of a sentence about how ``child`` ended; waits up to ``timeout`` seconds for its status."""
        status = self.exit_status(child, timeout)
        return "used too much memory and was killed" if child in self._over_memory_limit else describe_exit(status)

    def pid(self, child: int) -> int:
        """The child's process id, as this process sees it."""
        return self._pids[child]

    def stderr(self) -> str:
        """The last 4,000 bytes that the host and its children wrote outside student code: tracebacks, stacks of hangs."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4000))
        return self._stderr.read().decode(errors="replace")

    def _receive_notice(self, timeout: float, required: bool = True) -> bool:
        """Receive one notice. If none arrives in time, return False or, if ``required``, raise HostLost."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        ready = poll.poll(timeout * 1000)
        data, sender = b"", 0
        if ready:
            with contextlib.suppress(ConnectionError):
                data, sender = self._receive()
        if not data:
            if required or ready:
                raise HostLost("host-died", "the process that runs your code ended", self.stderr())
            return False
        notice = self._decoder.decode(data)
        if isinstance(notice, protocol.ChildStarted):
            self._pids.setdefault(notice.child, sender)
        else:
            self._exit_statuses[notice.child] = notice.status
            if notice.over_memory_limit:
                self._over_memory_limit.add(notice.child)
        return True

    def _receive(self) -> tuple[bytes, int]:
        """Receive a notice. Returns it with the id of the process that sent it."""
        data, extra, _, _ = self._control.recvmsg(65536, socket.CMSG_SPACE(_CREDENTIALS.size))
        for level, kind, value in extra:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return data, _CREDENTIALS.unpack(value)[0]
        return data, 0

    def close(self) -> None:
        """End the host and all its children."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        # The kernel ends the children with their host, a moment later.
        for child, pid in self._pids.items():
            if child not in self._exit_statuses:
                _await_exit(pid)
        self._control.close()
        self._stderr.close()

    def __enter__(self) -> WarmHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _await_exit(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return  # it has exited
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(_EXIT_TIMEOUT_S * 1000)
    finally:
        os.close(fd)


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process so far; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def describe_exit(status: int | None) -> str:
    """The predicate of a sentence about how a process ended; ``status`` as ``os.waitpid`` gives it, ``None``: unknown."""
    if status is None:
        return "closed its connection to raftlab"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        has_name = number in {known.value for known in signal.Signals}  # real-time signals have no names
        return f"was killed by signal {signal.Signals(number).name if has_name else number}"
    return f"ended by itself with exit code {os.WEXITSTATUS(status)}"
