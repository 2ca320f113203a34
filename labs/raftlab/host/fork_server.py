"""A process that has everything loaded, and forks a child for each run (sim) or server (rpyc).

There are two such processes. The *warm host* (:mod:`raftlab.host.warm_host`) reads the student's source but never runs
it; only its children do. The *prepared host* (:mod:`raftlab.host.prepared`) is a child of the warm host. If importing
the submission does nothing but define things, this child imports it for the servers of many runs, and forks the
simulated runs.

Each of the two receives commands from the judge over a Unix socket of its own, gives each new child the file
descriptors that came with its command, and reports when a child has ended. When the judge ends, both end too, and so do
all their children.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from raftlab import operating_system
from raftlab.host import warm_up
from raftlab.host.loader import Program
from raftlab.messages import protocol
from raftlab.sandbox import restrictions
from raftlab.sandbox.levels import Limits

# The module that a child needs, by the child's world. It is imported before the first child of that world is forked.
_CHILD_MODULES = {
    "check": "raftlab.host.check_child",
    "prepared": "raftlab.host.prepared",
    "rpyc": "raftlab.host.rpyc_child",
    "run": "raftlab.host.sim_child",
    "sim": "raftlab.host.sim_child",
}
# How many descriptors come with the command to fork a child, by the child's world (raftlab.messages.protocol.StartChild).
_DESCRIPTORS = {"check": 3, "prepared": 2, "rpyc": 2, "run": 3, "sim": 3}
# If the processes of a submission use more than this share of what they may use, and the operating system refuses to fork
# another one, then the submission may be the reason. A correct Raft uses a few hundredths.
_MUCH = 0.25
# Milliseconds between two checks of the children's memory and threads in a sandbox. Between two checks, the children can
# exceed the limits by any amount.
_CHECK_MS = 100


class ForkServer:
    """The loop of the warm host and of the prepared host: forks and kills children as the judge commands, and
    reports when they end.

    Args:
        control: The socket to the judge.
        program: The submission.
        limits: What the children may use; ``None`` outside a sandbox.
        is_prepared: Whether this is the prepared host. The prepared host sends no signals: the judge ends its children,
            and the warm host limits their memory and threads.
    """

    def __init__(
        self, control: socket.socket, program: Program, limits: Limits | None, is_prepared: bool = False
    ) -> None:
        self._control = control
        self._limits = limits
        self._checked = 0.0  # time.monotonic() of the last check
        self._exceeded: dict[int, protocol.Exceeded] = {}  # what was exceeded, by the pid of the process killed for it
        self._program = program
        self._children: dict[int, int] = {}  # pid → child number
        self._simulated = 0
        self._is_prepared = is_prepared
        self._warm = is_prepared
        self._prepared_pid = 0  # the prepared host's pid, once this process has forked it
        self._decoder = protocol.decoder(protocol.Control)
        self._lifeline = operating_system.Lifeline()
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def serve(self) -> None:
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *args: None)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(self._wake_read, select.POLLIN)
        watches = self._limits is not None and not self._is_prepared
        while True:
            for fd, _ in poll.poll(_CHECK_MS if watches and self._children else None):
                if fd == self._wake_read:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                    self._reap()
                elif not self._handle_command():
                    return
            if watches and self._limits is not None:
                self._limit_children(self._limits)

    def _limit_children(self, limits: Limits) -> None:
        """Kill the largest child if all children together use too much memory. Where the operating system does not limit
        the number of threads, also kill the child with the most threads if all children together have too many.

        The memory is polled, because an ordinary user cannot ask the operating system for a notice."""
        now = time.monotonic()
        if now < self._checked + _CHECK_MS / 1000:
            return
        self._checked = now
        runs = self._runs()
        used = {pid: _private_memory(pid) for pid in (*self._children, *runs)}
        if sum(used.values()) > limits.memory:
            self._kill_largest(used, runs, "memory")
        elif not limits.namespaces:
            threads = {pid: operating_system.threads_of(pid) for pid in used}
            if sum(threads.values()) > limits.threads:
                self._kill_largest(threads, runs, "threads")

    def _runs(self) -> list[int]:
        """The processes that the prepared host has forked."""
        return operating_system.children_of(self._prepared_pid) if self._prepared_pid in self._children else []

    def _notify(self, notice: protocol.Notice) -> None:
        operating_system.send_message(self._control, protocol.encode(notice))

    def _kill_largest(self, used: Mapping[int, int], runs: Sequence[int], exceeded: protocol.Exceeded) -> None:
        """Kill the process that uses the most. ``runs`` are processes that the prepared host has forked."""
        largest = max(used, key=lambda pid: used[pid])
        self._exceeded[largest] = exceeded
        if largest in runs:
            self._notify(protocol.RunTooLarge(exceeded))
        with contextlib.suppress(ProcessLookupError):
            os.kill(largest, signal.SIGKILL)

    def _handle_command(self) -> bool:
        """Read and carry out one command. Returns False if the judge has closed the socket."""
        data, fds, _ = operating_system.receive_message(self._control, most_fds=8)
        if not data:
            return False
        command = self._decoder.decode(data)
        if isinstance(command, protocol.StartChild):
            if _CHILD_MODULES[command.world] not in sys.modules:
                importlib.import_module(_CHILD_MODULES[command.world])
                _freeze_objects()
            if command.world == "run" and (self._limits is not None or not self._import_all(command.modules)):
                return False  # a "run" child contains the judge, so code that needs a sandbox must not run in it
            self._simulated += command.world in ("sim", "prepared")
            if self._simulated == 2 and not self._warm:
                # Warm up only before the second run: a warm-up pays off only after a few runs, and many hosts perform
                # just one.
                self._warm = True
                warm_up.run()
                _freeze_objects()
            if self._program.stock is not None:
                self._program.stock.prepare_all(command.incarnations)
                gc.freeze()
            try:
                self._fork(command, fds)
            except OSError as exc:
                # No process, memory or descriptor is left. This process goes on, and the judge decides what that means.
                if exc.errno not in operating_system.EXHAUSTED:
                    raise
                much = uses_much(self._limits, [os.getpid(), *self._children, *self._runs()])
                self._notify(protocol.NotStarted(command.child, exc.errno, os.strerror(exc.errno), much))
            finally:
                for fd in fds:
                    os.close(fd)
        else:
            for pid, child in self._children.items():
                if child == command.child:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        return True

    def _import_all(self, modules: Sequence[str]) -> bool:
        """Import these modules of raftlab. Returns whether there are any."""
        if not all(name in sys.modules for name in modules):
            for name in modules:
                importlib.import_module(name)
            _freeze_objects()
        return bool(modules)

    def _fork(self, spawn: protocol.StartChild, descriptors: Sequence[int]) -> None:
        """Fork a child. Raises ``OSError`` if the operating system does not allow it."""
        if len(descriptors) < _DESCRIPTORS[spawn.world]:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        *fds, stderr = descriptors
        limits = self._limits
        prepares = spawn.world == "prepared"
        namespaces = limits is not None and limits.namespaces and not prepares
        pid = restrictions.fork_into_namespaces(limits) if limits is not None and namespaces else os.fork()
        if pid == 0:
            code = 1
            # A child writes no bytecode files. Outside a sandbox, its parent writes those of raftlab's own modules,
            # which it imports before the fork. In a checkout, nobody else would write them, and each host would spend
            # 0.08 s on compiling these modules.
            sys.dont_write_bytecode = True
            begun = False
            try:
                # Children in namespaces end when the host ends, and the prepared host ends when the judge ends.
                watch = not namespaces and not operating_system.die_with_parent() and not prepares
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _own_streams(stderr)
                if limits is not None and prepares:
                    restrictions.enter_prepared_host(limits)
                elif limits is not None:
                    restrictions.enter_child(limits, spawn.world)
                # The credentials of this message tell the judge our process id in its own namespace.
                self._notify(protocol.ChildStarted(spawn.child, os.getpid()))
                begun = True
                self._control.close()
                operating_system.close_all_but([*fds, self._lifeline.fd] if watch else fds)
                if watch:
                    self._lifeline.watch()
                if prepares:
                    self._serve_prepared(spawn, fds)
                else:
                    run: Callable[..., None] = sys.modules[[*spawn.modules, _CHILD_MODULES[spawn.world]][0]].run
                    run(self._program, spawn, fds)
                code = 0
            except (EOFError, BrokenPipeError):
                code = 0  # the judge has ended this run
            except BaseException as exc:
                if not begun and isinstance(exc, OSError) and exc.errno in operating_system.EXHAUSTED:
                    self._notify(protocol.NotStarted(spawn.child, exc.errno, os.strerror(exc.errno)))
                sys.excepthook(*sys.exc_info())
                sys.stderr.flush()
            finally:
                os._exit(code)
        self._children[pid] = spawn.child
        if prepares:
            self._prepared_pid = pid

    def _serve_prepared(self, spawn: protocol.StartChild, fds: list[int]) -> None:
        """In the child: import the submission and fork runs, if the submission can be imported before a run begins."""
        program = self._program
        program.stock = sys.modules[_CHILD_MODULES[spawn.world]].Stock(program)
        with socket.socket(fileno=fds[0]) as control:
            problem = program.stock.prepare_all(spawn.incarnations)
            operating_system.send_message(control, protocol.encode(protocol.HostPrepared(problem)))
            if not problem:
                _freeze_objects()
                ForkServer(control, program, self._limits, is_prepared=True).serve()

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
                self._notify(protocol.ChildEnded(child, status, self._exceeded.pop(pid, "")))


def _own_streams(stderr: int) -> None:
    """Give this process its own standard streams. It has inherited the warm host's, which all children would share."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(stderr, 1)
    os.dup2(stderr, 2)


def _freeze_objects() -> None:
    """Exclude all existing objects from garbage collection. A collection in a child would write to their memory and so
    copy it."""
    gc.collect()
    gc.freeze()


def uses_much(limits: Limits | None, pids: Iterable[int]) -> Literal["", protocol.Exceeded]:
    """What these processes of one submission use so much of that they may be why the operating system refuses to fork
    another one: ``"memory"``, ``"threads"``, or an empty text if they are not the reason.

    Args:
        limits: What they may use; ``None`` outside a sandbox.
        pids: The processes, with the warm host, whose memory depends on the size of the source.
    """
    pids, limits = list(pids), limits or Limits()
    if sum(map(_private_memory, pids)) > _MUCH * limits.memory:
        return "memory"
    return "threads" if sum(map(operating_system.threads_of, pids)) > _MUCH * limits.threads else ""


def _private_memory(pid: int) -> int:
    """The resident memory of a process in bytes, without file-backed and shared pages; 0 if the process is gone."""
    try:
        fields = Path(f"/proc/{pid}/statm").read_text().split()
    except (OSError, ValueError):
        return 0
    return (int(fields[1]) - int(fields[2])) * resource.getpagesize()
