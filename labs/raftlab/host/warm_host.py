"""The warm host: a process that has everything loaded and forks a child for each run (sim) or server (rpyc).

It reads the student's source but never runs it; only its children do. It takes orders from the judge over a Unix
socket that arrived as an inherited descriptor, hands each child the descriptors that came with the order, and reports
when a child has ended. When the judge is gone, so is everything here.

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

# Modules that a child goes on with, and those that a Raft likes to import.
_OURS = ("raftlab.host.check_child", "raftlab.host.rpyc_child", "raftlab.host.sim_child")
_LIKED = ("base64", "bisect", "json", "pickle", "struct", "zlib")

# How often the children's memory is looked at when they are confined: what can be filled meanwhile is the overshoot.
_LOOK_MS = 100


def die_with_parent() -> None:
    """Ask the kernel to SIGKILL this process when its parent ends, however the parent ends (Linux)."""
    parent = os.getppid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _run_child(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """In the child: become what was asked for. Imports are done in the parent; see :func:`main`."""
    run: Callable[[Program, protocol.StartChild, list[int]], None]
    if spawn.world == "sim":
        from raftlab.host.sim_child import run
    elif spawn.world == "rpyc":
        from raftlab.host.rpyc_child import run
    else:
        from raftlab.host.check_child import run
    run(program, spawn, fds)


class ForkServer:
    """The parent's loop."""

    def __init__(self, control: socket.socket, program: Program, limits: Limits | None) -> None:
        self._control = control
        self._limits = limits
        self._weighed = 0.0
        self._too_large: set[int] = set()
        self._program = program
        self._children: dict[int, int] = {}  # pid → child number
        self._simulated = 0
        self._orders = protocol.decoder(protocol.Control)
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
            for fd, _ in poll.poll(_LOOK_MS if self._limits and self._children else None):
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._order():
                    return
            if self._limits is not None:
                self._weigh(self._limits.memory)

    def _weigh(self, most: int) -> None:
        """End the largest child when together they hold more memory than ``most``. There is nothing to wait on for that
        without powers over the machine, so it is looked at now and then."""
        now = time.monotonic()
        if now < self._weighed + _LOOK_MS / 1000:
            return
        self._weighed = now
        held = {pid: _held_by(pid) for pid in self._children}
        if sum(held.values()) > most:
            largest = max(held, key=lambda pid: held[pid])
            self._too_large.add(largest)
            with contextlib.suppress(ProcessLookupError):
                os.kill(largest, signal.SIGKILL)

    def _order(self) -> bool:
        data, fds, _, _ = socket.recv_fds(self._control, 65536, 8)
        if not data:
            return False
        order = self._orders.decode(data)
        if isinstance(order, protocol.StartChild):
            self._simulated += order.world == "sim"
            if order.world == "sim" and self._simulated == 2:
                # It costs as much as it saves in a handful of runs; many hosts make a single one.
                warm_up.once()
                _settle()
            self._fork(order, list(fds))
        else:
            for pid, child in self._children.items():
                if child == order.child:
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
                # The judge learns from the sender of this what number the kernel knows us by.
                self._control.send(protocol.encode(protocol.ChildStarted(spawn.child)))
                self._control.close()
                os.close(self._wake_read)
                os.close(self._wake_write)
                if self._limits is not None:
                    restrictions.enter_child(self._limits, spawn.world)
                _run_child(self._program, spawn, fds)
                code = 0
            except (EOFError, BrokenPipeError):
                code = 0  # the judge has what it wanted
            except BaseException:
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            finally:
                os._exit(code)
        for fd in fds:
            os.close(fd)
        self._children[pid] = spawn.child

    def _reap(self) -> None:
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


def _settle() -> None:
    """What is there now stays: no child need look through it for garbage, and copy it by doing so."""
    gc.collect()
    gc.freeze()


def _held_by(pid: int) -> int:
    """The bytes of memory that a process has for itself."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0  # it is gone
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()


def main() -> None:
    limits = msgspec.json.decode(sys.argv[3], type=Limits | None)
    if limits is not None:
        restrictions.enter_host(limits)
    die_with_parent()  # after a change of user, which makes the kernel forget it
    # Ctrl-C goes to the whole terminal group: only the judge decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The judge sends SIGUSR1 before it kills a child that hangs: the stack goes to stderr, which the judge keeps.
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    control = socket.socket(fileno=int(sys.argv[1]))
    program = Program(source.find(sys.argv[2]))
    program.compile_all()
    compile_cache.once()
    # Loaded before the forks, so that each child starts with everything in place.
    for name in (*_OURS, *_LIKED):
        importlib.import_module(name)

    _settle()
    # A run's cyclic garbage is small; collecting rarely keeps the pauses out of the lock step.
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(ConnectionError, BrokenPipeError):  # the judge is gone
        ForkServer(control, program, limits).serve()
    # No clean-up: the children go when this process does.
    os._exit(0)


if __name__ == "__main__":
    main()
