"""The judge's side of the warm host: start it, ask for children, end them, and never leave one behind."""

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

# How long the warm host may take to load and to fork, in seconds. It only reads files and compiles; minutes would
# mean that the machine is in trouble, not the student's code.
PATIENCE = 60.0

# How long a killed host may take to be gone with all its children, in seconds.
_LEAVE_S = 5.0

_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class WarmHost:
    """A running warm host for one submission. Use from the thread that made it: the kernel kills the host when that
    thread ends."""

    def __init__(self, path: Path, sandbox: Sandbox = levels.NONE) -> None:
        self.path = path
        self._ended: dict[int, int] = {}
        self._heavy: set[int] = set()
        self._pids: dict[int, int] = {}
        self._last_child = 0
        self._notices = protocol.decoder(protocol.Notice)
        # Appended to by the host, whatever we read meanwhile (the file offset is shared).
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (closed in close)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Each notice comes with its sender's number as we count processes, which a host with a process space of its own
        # cannot know.
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
        """Fork a child that gets ``fds``; they are closed here. Returns the child's number. Raises
        :class:`~raftlab.worlds.base.HostNotStarted` when there has never been a child (no student code ran, so it is not to
        blame), else :class:`~raftlab.worlds.base.HostLost`."""
        self._last_child += 1
        child = self._last_child
        order = protocol.encode(protocol.Spawn(child, world, seed, preempt))
        try:
            socket.send_fds(self._control, [order], fds)
            while child not in self._pids:
                self._notice(PATIENCE)
                if child in self._ended:
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
            self._control.send(protocol.encode(protocol.Kill(child)))
        with contextlib.suppress(HostLost):
            self.ended(child, PATIENCE)

    def ended(self, child: int, timeout: float) -> int | None:
        """The child's exit status (as ``os.waitpid`` gives it) once it has ended within ``timeout`` seconds."""
        deadline = time.monotonic() + timeout
        while child not in self._ended:
            left = deadline - time.monotonic()
            if left < 0 or not self._notice(left, final=False):
                return None
        return self._ended[child]

    def ending(self, child: int, timeout: float) -> str:
        """How ``child`` ended, as the end of a sentence about it."""
        status = self.ended(child, timeout)
        return "held too much memory and was ended" if child in self._heavy else ending(status)

    def pid(self, child: int) -> int:
        return self._pids[child]

    def stderr(self) -> str:
        """The end of what the host and its children wrote outside student code: tracebacks, a hung stack."""
        self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, self._stderr.tell() - 4000))
        return self._stderr.read().decode(errors="replace")

    def _notice(self, timeout: float, final: bool = True) -> bool:
        """Take in one notice. False (or, if ``final``, HostLost) when none comes in time."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        ready = poll.poll(timeout * 1000)
        data, sender = b"", 0
        if ready:
            with contextlib.suppress(ConnectionError):
                data, sender = self._receive()
        if not data:
            if final or ready:
                raise HostLost("host-died", "the process that runs your code ended", self.stderr())
            return False
        notice = self._notices.decode(data)
        if isinstance(notice, protocol.Spawned):
            self._pids.setdefault(notice.child, sender)
        else:
            self._ended[notice.child] = notice.status
            if notice.heavy:
                self._heavy.add(notice.child)
        return True

    def _receive(self) -> tuple[bytes, int]:
        """A notice, and the number of the process that sent it."""
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
        # The kernel ends them with their host, a moment after it.
        for child, pid in self._pids.items():
            if child not in self._ended:
                _await_end(pid)
        self._control.close()
        self._stderr.close()

    def __enter__(self) -> WarmHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _await_end(pid: int) -> None:
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        return  # it is gone
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        poll.poll(_LEAVE_S * 1000)
    finally:
        os.close(fd)


def cpu_seconds(pid: int) -> float:
    """User and system seconds of a process so far; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ending(status: int | None) -> str:
    """How a process ended, as the end of a sentence about it; ``status`` as ``os.waitpid`` gives it."""
    if status is None:
        return "closed its line to the lab"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        named = number in {known.value for known in signal.Signals}  # the real-time ones have no names
        return f"was ended by signal {signal.Signals(number).name if named else number}"
    return f"ended by itself with exit code {os.WEXITSTATUS(status)}"
