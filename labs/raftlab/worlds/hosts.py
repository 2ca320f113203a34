"""The judge's side of the warm host: start it, ask for children, end them, and never leave one behind."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from raftlab import protocol
from raftlab.worlds import HostLost, HostNotStarted

# How long the warm host may take to load and to fork, in seconds. It only reads files and compiles; minutes would
# mean that the machine is in trouble, not the student's code.
PATIENCE = 60.0


def host_environment() -> dict[str, str]:
    """What a host sees of our environment: nothing but what Python needs, and a fixed hash seed, so that the order
    of a set of strings is the same in every run."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "PYTHONPATH") if name in os.environ}
    return {**kept, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}


class WarmHost:
    """A running warm host for one submission. Use from the thread that made it: the kernel kills the host when that
    thread ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ended: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        self._last_child = 0
        self._notices = protocol.decoder(protocol.Notice)
        # Appended to by the host, whatever we read meanwhile (the file offset is shared).
        self._stderr = tempfile.TemporaryFile("a+b")  # noqa: SIM115  (closed in close)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "raftlab.host.main", str(theirs.fileno()), str(path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=host_environment(),
            )

    def alive(self) -> bool:
        return self._process.poll() is None

    def spawn(self, world: str, fds: list[int], seed: int = 0, preempt: bool = True) -> int:
        """Fork a child that gets ``fds``; they are closed here. Returns the child's number. Raises
        :class:`~raftlab.worlds.HostNotStarted` when there has never been a child (no student code ran, so it is not to
        blame), else :class:`~raftlab.worlds.HostLost`."""
        self._last_child += 1
        child = self._last_child
        order = protocol.encode(protocol.Spawn(child, world, seed, preempt))
        try:
            socket.send_fds(self._control, [order], fds)
            while child not in self._pids:
                self._notice(PATIENCE)
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
        data = b""
        if ready:
            with contextlib.suppress(ConnectionError):
                data = self._control.recv(65536)
        if not data:
            if final or ready:
                raise HostLost("host-died", "the process that runs your code ended", self.stderr())
            return False
        notice = self._notices.decode(data)
        if isinstance(notice, protocol.Spawned):
            self._pids[notice.child] = notice.pid
        else:
            self._ended[notice.child] = notice.status
        return True

    def close(self) -> None:
        """End the host and all its children."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._control.close()
        self._stderr.close()

    def __enter__(self) -> WarmHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


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
