"""A program that tries to get out of its sandbox, for :func:`raftlab.sandbox.levels.probe`.

    python -P -m raftlab.sandbox.probe TASK

``TASK`` is a :class:`~raftlab.sandbox.levels.ProbeTask` as JSON. The program does what a warm host does: it restricts
itself and forks two children, as if they were two servers. It forks the second one through a prepared host. Each child
tries everything that ``handouts/confinement.md`` rules out. The output is a JSON list of what the children could do.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from raftlab.sandbox import restrictions
from raftlab.sandbox.levels import MIB, ProbeTask

# Constants of Linux.
_F_NOTIFY, _F_SETLEASE, _F_SET_RW_HINT, _F_SETSIG = 1026, 1024, 1036, 10
_TIOCSTI, _PR_SET_PDEATHSIG, _PR_SET_NAME, _PR_GET_SECCOMP, _PTRACE_ATTACH = 0x5412, 1, 15, 21, 16
_FILTERED = 2  # what PR_GET_SECCOMP returns under a filter

_FUTEX = {"x86_64": 202, "aarch64": 98}

# Data that the first child leaves for the second.
_MARK = "raftlab-probe-mark"

Attempt = tuple[str, Callable[[], object]]


def main() -> None:
    task = msgspec.json.decode(sys.argv[1], type=ProbeTask)
    # A host has such a socket too, its connection to the judge.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        restrictions.enter_host(task.limits)
        first, pipe = _start(task, 0)
        found = msgspec.json.decode(_read_all(pipe), type=list[str])
        prepared, again = _start_prepared(task, first)
        second, results = _from_prepared(again) or _start(task, first)
        found += msgspec.json.decode(_read_all(results), type=list[str])
        for pid in (first, second, prepared):
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
    sys.stdout.write(msgspec.json.encode(list(dict.fromkeys(found))).decode() + "\n")


def _start(task: ProbeTask, sibling: int, not_for_child: int = -1) -> tuple[int, int]:
    """Fork a child that writes to a pipe a list of what it could do, and then waits to be killed. Returns the child's
    process id and the pipe.

    Args:
        task: The task of this program.
        sibling: The process id of another child, or 0.
        not_for_child: A descriptor that the child closes.
    """
    read, write = os.pipe()
    pid = restrictions.fork_into_namespaces(task.limits) if task.limits.namespaces else os.fork()
    if pid == 0:
        try:
            if not_for_child >= 0:
                os.close(not_for_child)
            restrictions.enter_child(task.limits, "sim")
            possible = [what for what, attempt in _attempts(task, sibling) if _succeeds(attempt)]
            os.write(write, msgspec.json.encode(possible))
            os.close(write)
            signal.pause()
        except BaseException:
            sys.excepthook(*sys.exc_info())
        os._exit(1)
    os.close(write)
    return pid, read


def _start_prepared(task: ProbeTask, sibling: int) -> tuple[int, int]:
    """Fork a process that has the restrictions of a prepared host and starts a child as :func:`_start` does. The process
    writes the child's process id and results to a pipe. It writes nothing if a prepared host cannot fork here; hosts
    then do without one. Returns the process's id and the pipe."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            restrictions.enter_prepared_host(task.limits)
            child, results = _start(task, sibling, write)
            os.write(write, child.to_bytes(4, "little") + _read_all(results))
            os.close(write)
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    return pid, read


def _from_prepared(pipe: int) -> tuple[int, int] | None:
    """What :func:`_start` would have returned for the child of the prepared host; ``None`` if it could not start
    one."""
    data = _read_all(pipe)
    if not data:
        return None
    read, write = os.pipe()
    os.write(write, data[4:])
    os.close(write)
    return int.from_bytes(data[:4], "little"), read


def _read_all(pipe: int) -> bytes:
    with open(pipe, "rb") as file:
        return file.read()


def _attempts(task: ProbeTask, sibling: int) -> list[Attempt]:
    """What a child tries. Each name completes the sentence "a process in the sandbox could ..."."""
    own = Path(task.submission, "raft.py")
    judge = task.judge
    others = [pid for pid in (judge, os.getppid(), sibling) if pid > 1]
    attempts: list[Attempt] = [
        ("not read its own submission", lambda: _fails(own.read_bytes)),
        ("start no thread", lambda: _fails(_start_thread)),
        ("read a file beside the submission", Path(task.neighbour).read_bytes),
        ("read our solutions", _read_solutions),
        ("read the environment", lambda: os.environ["RAFTLAB_PROBE"]),
        ("be root", lambda: _expect(os.geteuid() == 0)),
        ("see other processes", _see_other_processes),
        ("see where the submission lies", Path("/proc/self/mountinfo").read_text),
        # Writing, and leaving something behind.
        ("write beside the submission", own.with_name("written").touch),
        ("write to its submission", lambda: _open(own, os.O_RDWR)),
        ("write to the system", Path("/etc/raftlab-probe").touch),
        ("write to raftlab", lambda: _open(Path(__file__), os.O_RDWR)),
        ("write to shared memory", Path("/dev/shm", _MARK).touch),
        ("fill the disk", lambda: _fill(Path("/tmp"))),
        ("find a file of another server", lambda: os.stat(f"/tmp/{_MARK}")),
        ("leave its host", lambda: _c("prctl", _PR_SET_PDEATHSIG, 0, 0, 0, 0)),
        ("leave its session", os.setsid),
        # Other processes.
        ("start a process", _start_process),
        ("start a program", lambda: os.execv(sys.executable, [sys.executable, "-c", "print('[]')"])),
        ("reach the network", lambda: socket.create_connection(("127.0.0.1", task.port), 5)),
        ("make a socket", lambda: socket.socket(socket.AF_UNIX)),
        ("type into a terminal", lambda: _not_refused(lambda: fcntl.ioctl(0, _TIOCSTI, b"x"))),
        ("open a terminal", lambda: _open(Path("/dev/tty"), os.O_RDONLY)),
        ("make a terminal", os.openpty),
        # Ways in which two servers could share data.
        ("lock a file that others see", lambda: _with(own, lambda fd: fcntl.flock(fd, fcntl.LOCK_SH))),
        ("lock a part of a file that others see", lambda: _with(own, lambda fd: fcntl.lockf(fd, fcntl.LOCK_SH))),
        ("watch a file", lambda: _c("inotify_init1", 0)),
        ("watch a folder", lambda: _with(own.parent, lambda fd: fcntl.fcntl(fd, _F_NOTIFY, 1))),
        ("lease a file", lambda: _with(own, lambda fd: fcntl.fcntl(fd, _F_SETLEASE, fcntl.F_RDLCK))),
        ("leave a hint at a file", lambda: _with(own, lambda fd: _not_refused(lambda: _hint(fd)))),
        (
            "wake another server",
            lambda: _c("syscall", _FUTEX[os.uname().machine], ctypes.create_string_buffer(8), 1, 1),
        ),
        ("see the space on the disk", lambda: os.statvfs("/usr/lib")),
        ("share memory", lambda: _with(Path(sys.executable), _map_shared)),
        ("make anonymous files", lambda: os.memfd_create("x")),
        ("rename its process", lambda: _c("prctl", _PR_SET_NAME, b"x", 0, 0, 0)),
        *[
            (f"use {what} of System V", lambda name=name, arguments=arguments: _c(name, *arguments))
            for what, name, arguments in (
                ("shared memory", "shmget", (1, 10, 0o1777)),
                ("semaphores", "semget", (1, 1, 0o1777)),
                ("message queues", "msgget", (1, 0o1777)),
            )
        ],
        ("attach shared memory", lambda: _not_refused(lambda: _c("shmat", 0, 0, 0))),
        # Limits.
        ("take all memory", lambda: bytearray(4096 * MIB)),
        ("open any number of files", lambda: [os.open(os.devnull, os.O_RDONLY) for _ in range(task.limits.files + 1)]),
        ("raise its limits", lambda: _c("setrlimit", 7, (ctypes.c_ulong * 2)(1 << 20, 1 << 20))),
        ("call Linux without a filter", lambda: _expect(_prctl(_PR_GET_SECCOMP) != _FILTERED)),
        ("enter namespaces", lambda: _c("unshare", 0x10000000)),
        ("mount", lambda: _c("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None)),
    ]
    for pid in others:
        attempts += _attempts_at(pid)
    if not sibling:
        with contextlib.suppress(OSError):
            Path("/tmp", _MARK).touch()
        attempts = [attempt for attempt in attempts if attempt[0] != "find a file of another server"]
    return attempts


def _attempts_at(pid: int) -> list[Attempt]:
    """Attempts to observe or change another process."""
    return [
        ("signal another process", lambda: os.kill(pid, 0)),
        ("signal another process by a pipe", lambda: _with_pipe(lambda fd: fcntl.fcntl(fd, fcntl.F_SETOWN, pid))),
        ("choose the signal of a pipe", lambda: _with_pipe(lambda fd: fcntl.fcntl(fd, _F_SETSIG, 9))),
        ("hold another process", lambda: os.pidfd_open(pid)),
        ("trace another process", lambda: _c("ptrace", _PTRACE_ATTACH, pid, 0, 0)),
        ("read the memory of another process", lambda: _open(Path(f"/proc/{pid}/mem"), os.O_RDONLY)),
        ("read the environment of the judge", Path(f"/proc/{pid}/environ").read_bytes),
        ("change the priority of another process", lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)),
        ("change the processors of another process", lambda: os.sched_setaffinity(pid, {0})),
        ("change the scheduling of another process", lambda: _set_scheduler(pid)),
        (
            "change the disk priority of another process",
            lambda: _not_refused(lambda: _c("syscall", 251, 1, pid, 0x6000)),
        ),
        ("change the limits of another process", lambda: _limit_other(pid)),
    ]


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:
        return False
    return True


def _expect(condition: bool) -> None:
    if not condition:
        raise OSError


def _fails(attempt: Callable[[], object]) -> None:
    """Raise ``OSError`` if ``attempt`` succeeds. For attempts that the sandbox must allow: here, a failure counts against
    the sandbox."""
    _expect(not _succeeds(attempt))


def _not_refused(attempt: Callable[[], object]) -> None:
    """Raise ``OSError`` if ``attempt`` is refused for lack of permission. If it fails for another reason, such as a
    missing terminal, the sandbox has not prevented it."""
    try:
        attempt()
    except OSError as exc:
        _expect(exc.errno not in (errno.EPERM, errno.ENOSYS))


def _c(name: str, *arguments: object) -> None:
    """Call a function of the C library. Raises ``OSError`` if it returns -1."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def _prctl(option: int) -> int:
    return int(ctypes.CDLL(None, use_errno=True).prctl(option, 0, 0, 0, 0))


def _open(path: Path, flags: int) -> None:
    os.close(os.open(path, flags))


def _with(path: Path, attempt: Callable[[int], object]) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        attempt(fd)
    finally:
        os.close(fd)


def _with_pipe(attempt: Callable[[int], object]) -> None:
    read, write = os.pipe()
    try:
        attempt(read)
    finally:
        os.close(read)
        os.close(write)


def _hint(fd: int) -> None:
    fcntl.fcntl(fd, _F_SET_RW_HINT, (2).to_bytes(8, sys.byteorder))


def _map_shared(fd: int) -> None:
    mmap.mmap(fd, 1, prot=mmap.PROT_READ, flags=mmap.MAP_SHARED)


def _set_scheduler(pid: int) -> None:
    os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))


def _limit_other(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_CORE)


def _see_other_processes() -> None:
    pids = {int(path.name) for path in Path("/proc").glob("[0-9]*")}
    _expect(bool(pids - {os.getpid()}))


def _read_solutions() -> None:
    """Find the solutions of an installed package: this one, or another one in the usual places."""
    package = Path(restrictions.__file__).parents[1]
    places = [package.parents[1], package / "data", *(Path(path, "raftlab", "data") for path in sys.path)]
    _expect(any((place / "solutions" / "raft.py").exists() for place in places))


def _start_thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _start_process() -> None:
    if os.fork() == 0:
        os._exit(0)


def _fill(folder: Path) -> None:
    """Write 64 MiB, in files that stay below the size limit."""
    names = [folder / f"raftlab-probe-{os.getpid()}-{number}" for number in range(8)]
    try:
        for name in names:
            name.write_bytes(bytes(8 * MIB))
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                name.unlink()


if __name__ == "__main__":
    main()
