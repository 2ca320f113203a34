"""The operations for which raftlab uses calls that only Linux has, each with a portable alternative.

Only the sandbox (:mod:`raftlab.sandbox`) needs Linux itself. The alternatives are for macOS. They are tested on Linux, in
processes from which the Linux calls have been removed.
"""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import errno
import functools
import itertools
import os
import resource
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid
_LENGTH = struct.Struct("!I")
# The numbers of the errors with which the operating system says that it has no process, memory, descriptor or space left.
EXHAUSTED = frozenset((errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT))
_FD = struct.Struct("i")  # a descriptor in a message
_LONGEST_MESSAGE = 65536  # bytes
_POLL_S = 0.005  # seconds between two checks of something that the system cannot wait for


def processors() -> int:
    """The number of processors that this process may use. On Linux, the CPU affinity can limit it to fewer than the machine
    has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


# --- messages with descriptors, between the judge and the processes that fork for it -------------------------------


def message_sockets() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets for :func:`send_message` and :func:`receive_message`."""
    if not hasattr(socket, "SO_PASSCRED"):
        return socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)  # macOS has no SOCK_SEQPACKET between processes
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    # With this option, the kernel adds to each message the process id of its sender, as seen in our process namespace. A
    # host in another process namespace does not know that id.
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    return ours, theirs


def send_message(sock: socket.socket, data: bytes, fds: Sequence[int] = ()) -> None:
    """Send a message with descriptors. Several processes may send on one socket, because the kernel does not split short
    messages."""
    if sock.type == socket.SOCK_STREAM:
        data = _LENGTH.pack(len(data)) + data
    if fds:
        socket.send_fds(sock, [data], fds)
    else:
        sock.send(data)


def receive_message(sock: socket.socket, most_fds: int = 0) -> tuple[bytes, list[int], int]:
    """Receive a message.

    Args:
        sock: one of :func:`message_sockets`.
        most_fds: the maximum number of descriptors to accept with the message. Further ones are closed.

    Returns:
        The message, empty if the other end is closed; its descriptors, fewer than were sent if this process can open no
        more; and the id of the process that sent the message, 0 if the system does not tell.

    Raises:
        ConnectionError: the other end is gone.
    """
    stream = sock.type == socket.SOCK_STREAM
    space = 0 if stream else socket.CMSG_SPACE(_CREDENTIALS.size)
    space += socket.CMSG_SPACE(most_fds * _FD.size) if most_fds else 0
    data, extra, _, _ = sock.recvmsg(_LENGTH.size if stream else _LONGEST_MESSAGE, space)
    fds: list[int] = []
    sender = 0
    for level, kind, value in extra:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds += [fd for (fd,) in _FD.iter_unpack(value[: len(value) // _FD.size * _FD.size])]
        elif not stream and (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
            sender = _CREDENTIALS.unpack(value)[0]
    if stream and data:
        (length,) = _LENGTH.unpack(data + _receive_exactly(sock, _LENGTH.size - len(data)))
        data = _receive_exactly(sock, length)
    return data, fds, sender


def _receive_exactly(sock: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise ConnectionResetError("the other end was closed within a message")
        data += part
    return data


# --- the end of other processes ------------------------------------------------------------------------------------


@functools.cache
def _c_library() -> ctypes.CDLL:
    """The C library. Each load creates new classes, so a process that forks loads it only once."""
    return ctypes.CDLL(None, use_errno=True)


def die_with_parent() -> bool:
    """Ask the operating system to SIGKILL this process when its parent ends for any reason. Returns whether the system can
    do that (Linux can). If it cannot, use :class:`Lifeline`."""
    parent = os.getppid()
    try:
        _c_library().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return False
    if os.getppid() != parent:
        os._exit(1)
    return True


class Lifeline:
    """A pipe that closes when this process ends. The children of this process notice that, and end too. The pipe is used on
    systems on which :func:`die_with_parent` does not work.

    Attributes:
        fd: the descriptor that a child keeps. The child must close all others, in particular the other end of the pipe.
    """

    def __init__(self) -> None:
        self.fd, self._ours = os.pipe()

    def watch(self) -> None:
        """Called in the child: end this process when the parent has ended."""
        _thread.start_new_thread(self._wait, ())

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self.fd, 1)
        os.kill(os.getpid(), signal.SIGKILL)


def await_orphan(pid: int, timeout: float) -> None:
    """Wait up to ``timeout`` seconds until a process has ended. Its parent must have ended already, and the process must
    have called :func:`die_with_parent`."""
    if hasattr(os, "pidfd_open"):
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            return  # the process has ended
        try:
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            poll.poll(timeout * 1000)
        finally:
            os.close(fd)
        return
    deadline = time.monotonic() + timeout
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)  # the process may be too busy to notice that its parent has ended
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(_POLL_S)


# --- what other processes use --------------------------------------------------------------------------------------


def cpu_seconds(pid: int) -> float:
    """The CPU seconds (user and system) that a process has used so far; 0 if it does not exist any more."""
    try:
        # The id of the clock of a process's CPU time on Linux (clock_getcpuclockid). /proc/PID/stat counts in hundredths of
        # a second, and a short run takes less than one hundredth.
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0 if Path("/proc/self/stat").exists() else _cpu_seconds_of_ps(pid)


def _cpu_seconds_of_ps(pid: int) -> float:
    try:
        done = subprocess.run(["ps", "-o", "time=", "-p", str(pid)], capture_output=True, text=True, check=False)
    except OSError:
        return 0.0
    return _seconds(done.stdout.strip())


def _seconds(text: str) -> float:
    """The seconds of ``[[days-]hours:]minutes:seconds``; 0 for anything else."""
    days, dash, rest = text.rpartition("-")
    try:
        seconds = 86400.0 * int(days) if dash else 0.0
        for place, part in enumerate(reversed(rest.split(":"))):
            seconds += float(part) * (1, 60, 3600)[place]
        return seconds
    except (ValueError, IndexError):
        return 0.0


def is_asleep(pid: int) -> bool:
    """Whether the main thread of a process waits for something, rather than for a processor or a disk; False if the system
    does not tell."""
    return _stat(pid)[:1] == ["S"]


def children_of(pid: int) -> list[int]:
    """The process ids of the children of a process; empty if the process does not exist any more or the system does not
    tell."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (OSError, ValueError):
        return []


def threads_of(pid: int) -> int:
    """The number of threads of a process; 0 if the process does not exist any more or the system does not tell."""
    fields = _stat(pid)
    return int(fields[17]) if fields else 0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name, from the state on; empty if there is no such file."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def can_start_threads(count: int) -> bool:
    """Whether this process can start ``count`` more threads at this moment."""
    gate = threading.Event()
    threads = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=gate.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError:  # "can't start new thread"
        return False
    finally:
        gate.set()
        for thread in threads:
            thread.join()
    return True


# --- descriptors ---------------------------------------------------------------------------------------------------


def open_to_append(fd: int) -> int:
    """A new descriptor for the file of ``fd`` that can only append. On a system that does not support this, a duplicate of
    ``fd``."""
    try:
        return os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.dup(fd)


def close_all_but(fds: Sequence[int]) -> None:
    """Close all descriptors except the standard streams and ``fds``."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if not 0 <= most < 2**31:  # macOS allows "unlimited"
        most = 1 + max(int(name) for name in os.listdir("/dev/fd"))
    for low, high in itertools.pairwise([*sorted({0, 1, 2, *fds}), most]):
        os.closerange(low + 1, high)
