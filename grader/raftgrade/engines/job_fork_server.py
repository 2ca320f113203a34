"""A process that imports pytest and raftlab once, and then forks the processes of jobs and checks.

    python -P -m raftgrade.engines.job_fork_server FD

``FD`` is an inherited Unix socket to the grader. Importing takes half of the CPU time of a short job, and a forked process
need not import anything. A forked process becomes a child of the grader, not of this process. So the grader treats it like a
process that the grader has started itself. No student code runs in this process or in a forked one: forked processes are
judges, and start hosts.
"""

from __future__ import annotations

import contextlib
import fcntl
import gc
import importlib
import os
import platform
import runpy
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence

import msgspec

from raftlab import operating_system
from raftlab.labs import LABS
from raftlab.sandbox import libc
from raftlab.time_awake import poll_awake

# Seconds that the fork server may take to answer; pauses of this process do not count. The fork server answers its first
# request when it has imported everything, which takes a second.
ANSWER_S = 60.0
_CLONE_PARENT = 0x8000  # the new process becomes a child of this process's parent

# What the forked processes run, and what else they need.
_MAIN_MODULES = ("pytest", "raftlab.tools.check", "raftgrade.engines.fuzz_job")
_OTHER_MODULES = ("pytest_timeout", "raftlab.runs.plugin", "raftgrade.engines.parent_watch")


class Request(msgspec.Struct):
    """Run ``module`` as ``python -m`` does. The descriptors sent with the request become the new process's standard output,
    its standard error and, unless ``fd`` is negative, the descriptor ``fd``. The arguments are bytes, because a path need
    not be valid UTF-8."""

    module: str
    arguments: list[bytes]
    fd: int


class Reply(msgspec.Struct):
    """``pid`` is the new process, or 0 if this machine cannot fork in the way that is needed here."""

    pid: int


class ForkedProcess:
    """A process that the fork server has forked. It has the part of ``subprocess.Popen`` that the grader uses."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def wait(self) -> int:
        """Wait until the process has ended. Returns its exit code (negative: the signal that killed it)."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


class JobForkServer:
    """The grader's side: starts the fork server when it is first used. Only one thread may use it at a time, except for
    :meth:`kill`.

    Args:
        environment: the environment of all processes that it forks.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment = dict(environment)
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._usable = platform.system() == "Linux"

    def start(self, command: Sequence[str], stdout: int, stderr: int, fd: int) -> ForkedProcess | None:
        """Fork a process that leads a process group of its own.

        Args:
            command: the command line that would start such a process in the usual way.
            stdout: the descriptor that becomes its standard output.
            stderr: the same for standard error.
            fd: another descriptor that the process gets, with the same number; -1 if there is none.

        Returns:
            The process. ``None`` if the command must be started in the usual way: because it runs none of the modules that
            the fork server has imported, or because the fork server cannot be used on this machine, has died or does not
            answer.
        """
        if not self._usable or tuple(command[:3]) != (sys.executable, "-P", "-m") or command[3] not in _MAIN_MODULES:
            return None
        try:
            if self._socket is None:
                self._socket = self._connect()
            fds = [stdout, stderr, *([fd] if fd >= 0 else [])]
            request = Request(command[3], list(map(os.fsencode, command[4:])), fd)
            operating_system.send_message(self._socket, msgspec.msgpack.encode(request), fds)
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            if not poll_awake(poll, ANSWER_S):
                raise TimeoutError
            reply = msgspec.msgpack.decode(operating_system.receive_message(self._socket)[0], type=Reply)
            if reply.pid > 0:
                return _leader(reply.pid)
        except (OSError, msgspec.DecodeError):
            pass
        self._usable = False
        self.close()
        return None

    def _connect(self) -> socket.socket:
        ours, theirs = operating_system.message_sockets()
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=self.environment,
                process_group=0,  # Ctrl-C in the terminal reaches only the grader
            )
        return ours

    def kill(self) -> None:
        """Kill the fork server, so that a :meth:`start` that waits for it in another thread returns ``None``."""
        if (server := self._server) is not None:
            server.kill()

    def close(self) -> None:
        """End the fork server. Processes that it has forked go on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._server is not None:
            self._server.kill()
            self._server.wait()
            self._server = None


def _leader(pid: int) -> ForkedProcess:
    """Make the forked process ``pid`` the leader of a process group. If that fails, kill the process and raise OSError: its
    command is then started in the usual way."""
    try:
        os.setpgid(pid, pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return ForkedProcess(pid)


def main() -> None:
    """Serve the grader. In a forked process, this returns when its module has run."""
    # Hosts may run as the same user, and must not write to the memory of this process. Forked processes inherit the setting.
    with contextlib.suppress(OSError):
        libc.set_dumpable(False)
    grader = socket.socket(fileno=int(sys.argv[1]))
    for name in (*_MAIN_MODULES, *_OTHER_MODULES, *(lab.module for lab in LABS.values())):
        importlib.import_module(name)
    for name in _MAIN_MODULES:
        if not hasattr(sys.modules[name], "__path__"):
            del sys.modules[name]  # `python -m` expects a module that has not been imported
    gc.collect()
    gc.freeze()  # a collection in a forked process would copy the memory of these objects
    request = _serve(grader)
    if request is not None:
        sys.argv[1:] = map(os.fsdecode, request.arguments)
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)


def _serve(grader: socket.socket) -> Request | None:
    """Fork a process for each request. In a forked process, this returns its request. In this process, it returns ``None``
    when the grader has ended."""
    decode = msgspec.msgpack.Decoder(Request).decode
    while True:
        data, fds, _ = operating_system.receive_message(grader, most_fds=3)
        if not data:
            return None
        request = decode(data)
        # The grader learns of the forked process only by the reply. If this process dies before it has replied, the grader
        # starts the job in another way. The forked process must not do the same work, so it waits until the reply is sent.
        read, write = os.pipe()
        pid = libc.fork(_CLONE_PARENT)
        if pid == 0:
            os.close(write)
            if not os.read(read, 1):
                os._exit(1)
            grader.detach()
            _take(fds, request.fd)
            return request
        os.close(read)
        operating_system.send_message(grader, msgspec.msgpack.encode(Reply(pid or 0)))
        with contextlib.suppress(BrokenPipeError):  # it has been killed
            os.write(write, b"1")
        for fd in (*fds, write):
            os.close(fd)


def _take(fds: Sequence[int], records_fd: int) -> None:
    """Give the descriptors their final numbers, and close all others."""
    numbers = [1, 2, *([records_fd] if records_fd >= 0 else [])]
    # First copy the descriptors to numbers above 2, so that no ``dup2`` to 1 or 2 closes one that is still needed.
    # ``records_fd`` is assigned last, because it may be the number of a copy. The copies get the lowest free numbers,
    # because ``records_fd`` may be the highest number that this process can open.
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 3) for fd in fds]
    for copy, number in zip(copies, numbers, strict=True):
        os.dup2(copy, number)
    operating_system.close_all_but(numbers)


if __name__ == "__main__":
    main()
