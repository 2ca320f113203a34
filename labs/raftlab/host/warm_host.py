"""The warm host: a process that has everything loaded and forks a child for each run (sim) or server (rpyc).

It reads the student's source but never runs it; only its children do. It receives commands from the judge over an
inherited Unix socket, passes the file descriptors that come with a command to the child, and reports when a child has
ended. When the judge ends, the warm host and its children end too.

    python -P -m raftlab.host.warm_host CONTROL_FD PATH LIMITS

``LIMITS`` is a :class:`raftlab.sandbox.levels.Limits` as JSON, or ``null``.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from raftlab.host import compile_cache, warm_up
from raftlab.host.loader import Program
from raftlab.messages import protocol
from raftlab.sandbox import restrictions
from raftlab.sandbox.levels import Limits
from raftlab.submission import source

_PR_SET_PDEATHSIG = 1

# Modules to import before the forks: those of the children, and those that a Raft often imports.
_CHILD_MODULES = ("raftlab.host.check_child", "raftlab.host.rpyc_child", "raftlab.host.sim_child")
_OFTEN_IMPORTED = ("base64", "bisect", "json", "pickle", "struct", "zlib")

# Milliseconds between two checks of the children's memory in a sandbox. Between checks they can exceed the limit by
# however much they allocate.
_MEMORY_CHECK_MS = 100


def die_with_parent() -> None:
    """Ask the operating system to SIGKILL this process when its parent ends, for whatever reason (Linux)."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _run_child(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """In the child: run what the judge asked for. The imports cost nothing; see :func:`main`."""
    run: Callable[[Program, protocol.StartChild, list[int]], None]
    if spawn.world == "sim":
        from raftlab.host.sim_child import run
    elif spawn.world == "rpyc":
        from raftlab.host.rpyc_child import run
    else:
        from raftlab.host.check_child import run
    run(program, spawn, fds)


class ForkServer:
    """The warm host's loop: forks and kills children as the judge commands, and reports when they end.

    Args:
        control: The socket to the judge.
        program: The submission.
        limits: What the children may use; ``None`` outside a sandbox.
    """

    def __init__(self, control: socket.socket, program: Program, limits: Limits | None) -> None:
        self._control = control
        self._limits = limits
        self._memory_checked = 0.0  # time.monotonic()
        self._too_large: set[int] = set()  # pids that were killed for their memory
        self._program = program
        self._children: dict[int, int] = {}  # pid → child number
        self._simulated = 0
        self._decoder = protocol.decoder(protocol.Control)
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def serve(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *args: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        while True:
            for fd, _ in poll.poll(_MEMORY_CHECK_MS if self._limits and self._children else None):
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._handle_command():
                    return
            if self._limits is not None:
                self._limit_memory(self._limits.memory)

    def _limit_memory(self, max_bytes: int) -> None:
        """Kill the largest child if all children together use more than ``max_bytes``.

        This is polled: an ordinary user cannot ask the operating system to be notified."""
        now = time.monotonic()
        if now < self._memory_checked + _MEMORY_CHECK_MS / 1000:
            return
        self._memory_checked = now
        used = {pid: _private_memory(pid) for pid in self._children}
        if sum(used.values()) > max_bytes:
            largest = max(used, key=lambda pid: used[pid])
            self._too_large.add(largest)
            with contextlib.suppress(ProcessLookupError):
                os.kill(largest, signal.SIGKILL)

    def _handle_command(self) -> bool:
        """Read and carry out one command. False if the judge has closed the socket."""
        data, fds, _, _ = socket.recv_fds(self._control, 65536, 8)
        if not data:
            return False
        command = self._decoder.decode(data)
        if isinstance(command, protocol.StartChild):
            self._simulated += command.world == "sim"
            if command.world == "sim" and self._simulated == 2:
                # Not before the second run: the warm-up pays off only after a few runs, and many hosts do only one.
                warm_up.run()
                _freeze_objects()
            self._fork(command, list(fds))
        else:
            for pid, child in self._children.items():
                if child == command.child:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return True

    def _fork(self, spawn: protocol.StartChild, fds: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                die_with_parent()
                # The credentials of this message tell the judge our process id in its own namespace.
                self._control.send(protocol.encode(protocol.ChildStarted(spawn.child)))
                self._control.close()
                os.close(self._wake_read)
                os.close(self._wake_write)
                if self._limits is not None:
                    restrictions.enter_child(self._limits, spawn.world)
                _run_child(self._program, spawn, fds)
                code = 0
            except (EOFError, BrokenPipeError):
                code = 0  # the judge has ended this run
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            finally:
                os._exit(code)
        for fd in fds:
            os.close(fd)
        self._children[pid] = spawn.child

    def _reap(self) -> None:
        """Report every child that has ended."""
        while self._children:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            child = self._children.pop(pid, None)
            if child is not None:
                over_memory_limit = pid in self._too_large
                self._too_large.discard(pid)
                self._control.send(protocol.encode(protocol.ChildEnded(child, status, over_memory_limit)))


def _freeze_objects() -> None:
    """Exclude all existing objects from garbage collection, which in a child would write to (and so copy) their memory."""
    gc.collect()
    gc.freeze()


def _private_memory(pid: int) -> int:
    """The resident memory of a process in bytes, without shared memory (files); 0 if the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def main() -> None:
    limits = msgspec.json.decode(sys.argv[3], type=Limits | None)
    if limits is not None:
        restrictions.enter_host(limits)
    die_with_parent()  # after enter_host, because a change of user cancels it
    # Ctrl-C is sent to every process of the terminal, but only the judge handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before it kills a hung child, the judge sends it SIGUSR1 to dump its stack to stderr, which the judge reads.
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    control = socket.socket(fileno=int(sys.argv[1]))
    program = Program(source.find(sys.argv[2]))
    program.compile_all()
    compile_cache.install()
    # Imported before the forks, so that no child has to.
    for name in (*_CHILD_MODULES, *_OFTEN_IMPORTED):
        importlib.import_module(name)

    _freeze_objects()
    # A run creates little cyclic garbage. Infrequent collections mean fewer pauses in the lock step.
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(ConnectionError, BrokenPipeError):  # the judge is gone
        ForkServer(control, program, limits).serve()
    # No cleanup is needed: the children end with this process.
    os._exit(0)


if __name__ == "__main__":
    main()
