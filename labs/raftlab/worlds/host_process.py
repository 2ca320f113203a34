"""The judge's side of the warm host: start it, have it fork children, and end it together with all of them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

import raftlab
from raftlab import operating_system
from raftlab.messages import protocol
from raftlab.operating_system import children_of, cpu_seconds, threads_of
from raftlab.safe_text import printable
from raftlab.sandbox import levels, libc
from raftlab.sandbox.levels import Sandbox
from raftlab.time_awake import LOOK_S, TimeAwake, poll_awake
from raftlab.worlds.base import HostLost, HostNotStarted, UsesTooMuch

# A submission that is part of raftlab. If a host does not start even with this submission, the student's code is not
# the reason.
EMPTY_SUBMISSION = Path(raftlab.__file__).parent / "host" / "warm_up_submission"

# The times below leave out pauses of this process (Ctrl-Z).

# Seconds that the warm host may take to load the submission and to fork a child. Until then, the host only reads files
# and compiles them.
_START_TIMEOUT_S = 60.0

# Seconds that the prepared host may take to import the submission for the first run. This usually takes a few hundredths of
# a second.
_PREPARE_TIMEOUT_S = 10.0

# CPU seconds that the warm host may take to read and compile a submission. The reference solution takes 0.1 s.
_COMPILE_CPU_S = 20.0

# Seconds that each child of a killed host may take to exit.
_EXIT_TIMEOUT_S = 5.0

# By limit: the predicate of a sentence about a child that was killed because it exceeded the limit.
_EXCEEDED: dict[protocol.Exceeded, str] = {
    "memory": "used too much memory and was killed",
    "threads": "started too many threads and was killed",
}

_MUCH: dict[protocol.Exceeded, str] = {"memory": "much of the memory", "threads": "many of the threads"}


class TooSlow(HostLost):
    """The submission takes too long to compile."""


class _Control:
    """The judge's end of the socket to a process that forks children."""

    def __init__(self) -> None:
        self.socket, self.theirs = operating_system.message_sockets()
        self._decoder = protocol.decoder(protocol.Notice)

    def send(self, command: protocol.Control, fds: Sequence[int] = ()) -> None:
        operating_system.send_message(self.socket, protocol.encode(command), fds)

    def ready(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds. Returns whether :meth:`receive` would return at once, with a notice or because the
        process has ended."""
        if self.socket.fileno() < 0:  # this end is closed
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll_awake(poll, timeout))

    def receive(self) -> tuple[protocol.Notice, int] | None:
        """Receive a notice. Returns the notice and the id of the process that sent it; ``None`` if either end is closed.

        Raises ``protocol.MALFORMED``."""
        if self.socket.fileno() < 0:
            return None
        data, sender = b"", 0
        with contextlib.suppress(ConnectionError):
            data, _, sender = operating_system.receive_message(self.socket)
        return (self._decoder.decode(data), sender) if data else None

    def close(self) -> None:
        self.socket.close()
        self.theirs.close()


class WarmHost:
    """A warm host, which loads one submission and forks a child for each run or server.

    From the second simulated run on, a prepared host (:mod:`raftlab.host.fork_server`) forks the runs, if the submission can
    be prepared.

    Use an instance only in the thread that created it: the kernel kills the host when that thread ends.

    Args:
        path: the submission's folder.
        sandbox: what the host may do, see :mod:`raftlab.sandbox.levels`.
        races: whether the race detector observes simulated runs.

    Attributes:
        path: the submission's folder.
        simulated: the number of calls of :meth:`spawn` so far that gave ``incarnations``.
    """

    def __init__(self, path: Path, sandbox: Sandbox = levels.NONE, races: bool = False) -> None:
        self.path = path
        self._exit_statuses: dict[int, int] = {}
        self._exceeded: dict[int, protocol.Exceeded] = {}  # because of which limit
        self._pids: dict[int, int] = {}
        self._last_child = 0
        self._has_started = False  # whether the host has begun to read the submission
        # The stderr of the host itself, which runs no student code.
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (closed in close)
        self._child_stderr: dict[int, BinaryIO] = {}  # until the child has ended
        self._last_words: dict[int, str] = {}  # the last bytes of the stderr of each child that has ended
        self._control = _Control()
        self._prepared: _Control | None = None
        self._may_prepare = not races
        self._prepared_child = 0
        self._forked_by: dict[int, _Control] = {}
        self.simulated = 0
        # The limit because of which the warm host has killed the current run of the prepared host; empty if it has not.
        self._run_exceeded: Literal["", protocol.Exceeded] = ""
        if sandbox.level == "rlimits":
            libc.set_dumpable(False)  # the host runs as the same user, and must not trace or read this process
        with self._control.theirs as theirs:
            limits = msgspec.json.encode(sandbox.limits).decode()
            host = ["-m", "raftlab.host.warm_host", str(theirs.fileno()), str(sandbox.inside(path)), limits]
            host += ["races"] if races else []
            self._process = subprocess.Popen(
                sandbox.python(host, path),
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._stderr,
                stderr=self._stderr,
                env=levels.host_environment(),
                start_new_session=True,  # without access to the judge's terminal
            )

    def alive(self) -> bool:
        return self._process.poll() is None

    def spawn(
        self,
        world: str,
        fds: list[int],
        seed: int = 0,
        schedule: str = "none",
        incarnations: Mapping[str, int] | None = None,
        modules: Sequence[str] = (),
    ) -> int:
        """Fork a child.

        Args:
            world: what the child does: ``"sim"``, ``"rpyc"``, ``"check"`` or ``"run"``.
            fds: descriptors to pass to the child, see :class:`~raftlab.messages.protocol.StartChild`. Closed afterwards.
            seed: the seed of the run (sim) or the incarnation (rpyc).
            schedule: how the simulator preempts threads (:mod:`raftlab.schedules`).
            incarnations: how many incarnations of each role the run begins with (sim, run). ``None`` if that is
                unknown; then no incarnations are prepared.
            modules: further modules that the child needs (run), see :class:`~raftlab.messages.protocol.StartChild`.

        Returns:
            The child's number, for the other methods.

        Raises:
            HostNotStarted: the host failed before its first child started, so it has run no student code.
            OSError: the operating system has no process, memory or descriptor left, either for this process or for the host
                (:data:`raftlab.operating_system.EXHAUSTED`), and the submission's own processes are not the reason.
            TooSlow: the host took too long to read and compile the submission.
            HostLost: the host failed after its first child had started.
        """
        try:
            if incarnations is not None:
                self.simulated += 1
                if self.simulated == 2 and self._may_prepare:
                    self._start_prepared(incarnations)
                if self._prepared is not None:
                    command = protocol.StartChild(0, world, seed, schedule, dict(incarnations), list(modules))
                    try:
                        return self._fork(self._prepared, command, fds)
                    except (HostLost, OSError):
                        self._stop_prepared()  # if the machine is to blame, the warm host finds the same
            return self._spawn(protocol.StartChild(0, world, seed, schedule, {}, list(modules)), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def _spawn(self, command: protocol.StartChild, fds: Sequence[int]) -> int:
        """Let the warm host fork a child. Returns its number. Raises as :meth:`spawn` does."""
        try:
            return self._fork(self._control, command, fds)
        except (TooSlow, UsesTooMuch):
            raise
        except (HostLost, BrokenPipeError, ConnectionError):
            if not self._pids:
                text = f"the host process did not start:\n{self.stderr()}"
                raise HostNotStarted(text, self._has_started) from None
            text = self.stderr(self._last_child)
            raise HostLost("host-died", "the process that runs your code ended", text) from None

    def _fork(self, control: _Control, command: protocol.StartChild, fds: Sequence[int]) -> int:
        """Let the process behind ``control`` fork a child, and wait until it has started. Returns its number."""
        self._run_exceeded = ""
        self._last_child = child = command.child = self._last_child + 1
        self._forked_by[child] = control
        stderr = self._child_stderr[child] = tempfile.TemporaryFile()  # noqa: SIM115  (closed when the child has ended)
        # The child gets a descriptor of its own that can only append, so it can neither read the file nor move our offset.
        their_stderr = operating_system.open_to_append(stderr.fileno())
        try:
            control.send(command, [*fds, their_stderr])
            while child not in self._pids:
                if not self._pids:
                    self._await_start()
                self._receive_notice(control, _START_TIMEOUT_S)
                if child in self._exit_statuses:
                    raise HostLost("host-died", "the process that runs your code ended", self.stderr(child))
        finally:
            os.close(their_stderr)
        return child

    def _await_start(self) -> None:
        """Wait for the first notice, up to a time limit. Raises :class:`TooSlow`."""
        awake = TimeAwake()
        while not self._control.ready(LOOK_S) and awake.seconds < _START_TIMEOUT_S:
            if _tree_cpu_seconds(self._process.pid) > _COMPILE_CPU_S:
                raise TooSlow("host-hangs", f"reading and compiling your code takes more than {_COMPILE_CPU_S:.0f} s")

    def _start_prepared(self, incarnations: Mapping[str, int]) -> None:
        """Start the prepared host. If it cannot be used, end it; the warm host then forks all children."""
        self._prepared = control = _Control()
        with control.theirs as theirs:
            command = protocol.StartChild(0, "prepared", incarnations=dict(incarnations))
            try:
                self._prepared_child = self._spawn(command, [theirs.fileno()])
            except OSError:
                control.close()
                self._prepared = None
                raise
        notice = None
        try:
            if control.ready(_PREPARE_TIMEOUT_S):
                received = control.receive()
                notice = None if received is None else received[0]
        except protocol.MALFORMED:
            pass
        if not isinstance(notice, protocol.HostPrepared) or notice.problem:
            self._stop_prepared()

    def _stop_prepared(self) -> None:
        """End the prepared host and the run that it has forked, because the prepared host has failed or cannot be used."""
        assert self._prepared is not None
        self._prepared.close()
        self._prepared = None
        self.kill(self._prepared_child)

    def kill(self, child: int) -> None:
        """SIGKILL ``child`` and wait until it is gone."""
        if self._forked_by[child] is self._control:
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                self._control.send(protocol.KillChild(child))
        with contextlib.suppress(HostLost):
            # The prepared host may not send signals, so this process kills the run, unless the run has already ended.
            if self._forked_by[child] is not self._control and self.exit_status(child, 0.0) is None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(self._pids[child], signal.SIGKILL)
            self.exit_status(child, _START_TIMEOUT_S)

    def exit_status(self, child: int, timeout: float) -> int | None:
        """Wait up to ``timeout`` seconds for ``child`` to end. Returns its status as ``os.waitpid`` returns it; ``None`` if
        the child is still running. Raises :class:`~raftlab.worlds.base.HostLost` if the host itself has ended."""
        awake = TimeAwake()
        while child not in self._exit_statuses:
            left_s = timeout - awake.seconds
            if left_s < 0:
                return None
            self._receive_notice(self._forked_by[child], min(left_s, LOOK_S), required=False)
        return self._exit_statuses[child]

    def how_it_ended(self, child: int, timeout: float) -> str:
        """The predicate of a sentence that says how ``child`` ended. Waits up to ``timeout`` seconds for its status."""
        status = self.exit_status(child, timeout)
        if self._forked_by[child] is not self._control:  # before the warm host kills a run, it reports RunTooLarge
            while self._receive_notice(self._control, 0.0, required=False):
                pass
            if self._run_exceeded:
                self._exceeded[child] = self._run_exceeded
        return _EXCEEDED[self._exceeded[child]] if child in self._exceeded else describe_exit(status)

    def threads(self) -> int:
        """The number of threads of the host and of all its children."""
        return _tree_threads(self._process.pid)

    def pid(self, child: int) -> int:
        """The child's process id, as this process sees it."""
        return self._pids[child]

    def stderr(self, child: int | None = None) -> str:
        """The last 4,000 bytes that the host wrote to stderr, followed by the last 4,000 bytes that ``child`` wrote:
        tracebacks, and the stacks of threads that hang."""
        if child is None:
            return _last_words(self._stderr)
        file = self._child_stderr.get(child)
        return _last_words(self._stderr) + (self._last_words.get(child, "") if file is None else _last_words(file))

    def _receive_notice(self, control: _Control, timeout: float, required: bool = True) -> bool:
        """Receive and handle one notice. Returns whether one arrived within ``timeout`` seconds; if none did and
        ``required`` is true, raises HostLost. Also raises HostLost if the process has ended or sends malformed data."""
        ready = control.ready(timeout)
        try:
            received = control.receive() if ready else None
        except protocol.MALFORMED:
            raise HostLost("host-died", "the process that runs your code sent malformed data", self.stderr()) from None
        if received is None:
            if required or ready:
                raise HostLost("host-died", "the process that runs your code ended", self.stderr())
            return False
        notice, sender = received
        if isinstance(notice, protocol.HostStarted):
            self._has_started = True
        elif isinstance(notice, protocol.NotStarted):
            if notice.exceeded:
                text = f"the process that runs your code cannot be started ({notice.text})"
                raise UsesTooMuch("host-died", f"{text}, and your code uses {_MUCH[notice.exceeded]} that it may use")
            raise OSError(notice.errno, f"the process that runs the submission cannot be started: {notice.text}")
        elif isinstance(notice, protocol.ChildStarted):
            self._pids.setdefault(notice.child, sender or notice.pid)
        elif isinstance(notice, protocol.RunTooLarge):
            self._run_exceeded = notice.exceeded
        elif isinstance(notice, protocol.ChildEnded):
            self._exit_statuses[notice.child] = notice.status
            file = self._child_stderr.pop(notice.child, None)
            if file is not None:
                with file:
                    if words := _last_words(file):
                        self._last_words[notice.child] = words
            if notice.exceeded:
                self._exceeded[notice.child] = notice.exceeded
        return True

    def close(self) -> None:
        """End the host and all its children."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        # The kernel kills the children when the host ends; that takes a moment.
        for child, pid in self._pids.items():
            if child not in self._exit_statuses:
                operating_system.await_orphan(pid, _EXIT_TIMEOUT_S)
        self._control.close()
        if self._prepared is not None:
            self._prepared.close()
        for file in (self._stderr, *self._child_stderr.values()):
            file.close()

    def __enter__(self) -> WarmHost:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _last_words(file: BinaryIO) -> str:
    size = os.fstat(file.fileno()).st_size
    return printable(os.pread(file.fileno(), 4000, max(0, size - 4000)).decode(errors="replace"))


def _tree_cpu_seconds(pid: int) -> float:
    """The CPU seconds (user and system) of a process and all of its descendants. In a sandbox, the host is a child of the
    sandbox's process."""
    return cpu_seconds(pid) + sum(map(_tree_cpu_seconds, children_of(pid)))


def _tree_threads(pid: int) -> int:
    return threads_of(pid) + sum(map(_tree_threads, children_of(pid)))


def describe_exit(status: int | None) -> str:
    """The predicate of a sentence that says how a process ended. ``status`` is what ``os.waitpid`` returns, or ``None`` if
    it is unknown."""
    if status is None:
        return "closed its connection to raftlab"
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        has_name = number in {known.value for known in signal.Signals}  # real-time signals have no names
        return f"was killed by signal {signal.Signals(number).name if has_name else number}"
    return f"ended by itself with exit code {os.WEXITSTATUS(status)}"
