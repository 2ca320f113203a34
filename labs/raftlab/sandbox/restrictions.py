"""The restrictions that a host process puts on itself before it runs student code. They cannot be lifted.

Resource limits stop code that would use up the machine. A system call filter (seccomp) stops what limits cannot. The
filter is a list of the calls that a Raft in Python may need. All other calls are refused, and so are calls that future
kernels add. Where bubblewrap works, each child also gets a process namespace, a mount namespace and a ``/tmp`` of its
own.

Whatever would let one server pass data to another is refused even if it looks harmless: locks on files that both can
read, shared memory, and everything that sets a property of a file or process that others can see.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import resource
import signal
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

from raftlab.sandbox import libc, system_calls
from raftlab.sandbox.levels import OWN_TMP_STAGE, Limits

# Constants of Linux: prctl, unshare, mount and capset.
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_PR_SET_CHILD_SUBREAPER = 36
_CLONE_NEWUSER, _CLONE_NEWNS, _CLONE_NEWPID = 0x10000000, 0x00020000, 0x20000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_BIND, _MS_MOVE, _MS_REC = 1, 2, 4, 4096, 8192, 16384
_CAPABILITIES_3 = 0x20080522

# Flags in the arguments of calls that the filter tests.
_CLONE_THREAD, _MSG_FASTOPEN, _MAP_SHARED, _O_ASYNC = 0x00010000, 0x20000000, 1, 0o20000
_FUTEX_PRIVATE = 128
_FUTEX_WAITS = (0, 9, 256, 265)  # FUTEX_WAIT and FUTEX_WAIT_BITSET, with either clock
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# The position of the flags among the arguments of each call.
_OPENING = {"open": 1, "openat": 2}
_SENDING = {"sendto": 3, "sendmsg": 2, "sendmmsg": 3}
_MMAP_FLAGS = 3
# The allowed commands of fcntl duplicate a descriptor, or get or set its flags. Locks, leases and signals to other
# processes are refused.
_F_SETFL = 4
_FCNTL = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC
# The allowed commands of ioctl are those that Python's files and sockets use. All others are refused, such as typing
# into a terminal.
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
# Stands for the process's own id in a filter that is made before the process exists. No other number in a filter equals
# it.
_OWN_PID = 0x5AF7C0DE
_PRCTL = (3, 16, 21, 30, 39)  # these only return something: PR_GET_DUMPABLE, _NAME, _SECCOMP, _TIMERSLACK, ...
_PRCTL_RESTRICT = (1, 4, 22, 38)  # PR_SET_PDEATHSIG, _DUMPABLE, _SECCOMP, _NO_NEW_PRIVS

# The AUDIT_ARCH value of each machine.
_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

# Instruction codes of classic BPF, return values of a filter, and the offsets of its input (struct seccomp_data).
_LOAD, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _EROFS, _ENOSYS = _ERRNO | 1, _ERRNO | 30, _ERRNO | 38
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16


def enter_host(limits: Limits) -> None:
    """Change the user, and set the limits that all children inherit. Call this in the warm host before it forks.

    Raises:
        OSError: The operating system does not allow it.
    """
    if limits.user:
        os.setgroups([])
        os.setresgid(limits.user, limits.user, limits.user)
        os.setresuid(limits.user, limits.user, limits.user)
    # The warm host compiles the source. Compiling a hostile source can take any amount of memory.
    resource.setrlimit(resource.RLIMIT_AS, (limits.space, limits.server_space))
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_NOFILE, limits.files)
    _set_limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    if limits.namespaces:
        _set_limit(resource.RLIMIT_NPROC, limits.threads)
    for name in ("RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK"):
        if hasattr(resource, name):
            _set_limit(getattr(resource, name), 0)
    if limits.namespaces:
        _enter_user_namespace()
        # The warm host becomes the parent of each process whose parent has ended, see _fork_twice.
        libc.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    libc.set_dumpable(False)
    _filter(read_only=not limits.namespaces)  # fills the cache before the children need it


def fork_into_namespaces(limits: Limits) -> int:
    """Fork a child with a mount and a process namespace of its own. Call this instead of ``os.fork`` in the warm host.

    The child sees no process but itself and no ``/proc``. Its ``/tmp`` is empty and no other process sees it. So
    nothing can pass from one server or run to another.

    Returns:
        0 in the child; the child's process id in the warm host.

    Raises:
        OSError: The operating system does not allow it. This is also raised if only the child could find that out.
    """
    read, write = os.pipe()
    try:
        pid = libc.fork(_CLONE_NEWNS | _CLONE_NEWPID)
        if pid is None:
            pid = _fork_twice()
    except OSError:
        os.close(read)
        os.close(write)
        raise
    if pid == 0:
        try:
            _mount_own_folders(limits)
            os.write(write, b"1")
            os.close(write)
            os.close(read)
            return 0
        except BaseException as exc:
            _report(exc, write)
        os._exit(1)
    _answer(read, write)
    return pid


def _fork_twice() -> int:
    """Fork a child into namespaces of its own where :func:`raftlab.sandbox.libc.fork` cannot. Returns the same as that
    function.

    A process that makes a process namespace is not in the namespace itself, but its next child is. So this function forks
    a process that makes the namespaces and then forks the child. When this process in between has ended, the child becomes
    ours, because enter_host made our process the subreaper."""
    read, write = os.pipe()
    try:
        between = os.fork()
    except OSError:
        os.close(read)
        os.close(write)
        raise
    if between == 0:
        try:
            libc.call("unshare", _CLONE_NEWNS | _CLONE_NEWPID)
            pid = os.fork()
            if pid == 0:
                os.close(read)
                os.close(write)
                return 0
            os.write(write, str(pid).encode())
        except BaseException as exc:
            _report(exc, write)
        os._exit(0)
    try:
        return _answer(read, write)
    finally:
        os.waitpid(between, 0)


def _report(exc: BaseException, write: int) -> None:
    """In a forked child: print an exception, and write its error number into this pipe, with a minus sign."""
    sys.excepthook(type(exc), exc, exc.__traceback__)
    sys.stderr.flush()
    if isinstance(exc, OSError) and exc.errno:
        os.write(write, str(-exc.errno).encode())


def _answer(read: int, write: int) -> int:
    """The number that a forked child writes into this pipe, whose ends are closed here. Raises ``OSError`` if it writes
    nothing, or an error number (:func:`_report`)."""
    os.close(write)
    answer = int(os.read(read, 32) or 0)
    os.close(read)
    if answer <= 0:
        text = f": {os.strerror(-answer)}" if answer else ""
        raise OSError(-answer or None, f"a server cannot have namespaces of its own here{text}")
    return answer


def _mount_own_folders(limits: Limits) -> None:
    """Hide ``/proc`` and give this process an empty ``/tmp``. The process must have its own mount namespace."""
    safe = _MS_NOSUID | _MS_NODEV
    libc.call("mount", b"tmpfs", b"/proc", b"tmpfs", safe | _MS_RDONLY, b"mode=0555,size=4k")
    options = b"mode=1777,size=16m,nr_inodes=1000"
    if not limits.below_tmp:
        libc.call("mount", b"tmpfs", b"/tmp", b"tmpfs", safe, options)
    else:
        libc.call("mount", b"tmpfs", os.fsencode(OWN_TMP_STAGE), b"tmpfs", safe, options)
        for path in limits.below_tmp:
            copy = Path(OWN_TMP_STAGE, Path(path).relative_to("/tmp"))
            copy.parent.mkdir(parents=True, exist_ok=True)
            if os.path.isdir(path):
                copy.mkdir()
            else:
                copy.touch()
            libc.call("mount", os.fsencode(path), bytes(copy), None, _MS_BIND | _MS_REC, None)
        libc.call("mount", os.fsencode(OWN_TMP_STAGE), b"/tmp", None, _MS_MOVE, None)
    os.chdir("/tmp")


def enter_child(limits: Limits, world: str) -> None:
    """Call this in a child of the host before it runs student code, while it has only one thread.

    Args:
        limits: The limits of the warm host.
        world: ``sim``, ``rpyc`` or ``check``.
    """
    _drop_capabilities()
    libc.set_dumpable(False)
    _set_limit(resource.RLIMIT_AS, limits.server_space if world == "rpyc" else limits.space)
    _set_limit(resource.RLIMIT_CPU, limits.cpu_s)
    _install_filter(read_only=not limits.namespaces)


def enter_prepared_host(limits: Limits) -> None:
    """Call this in the prepared host before it imports a submission. From then on, the host may do only what its
    children may do, and what it needs to fork them and to make their namespaces. The children restrict
    themselves further with :func:`enter_child`.

    Args:
        limits: The limits of the warm host.
    """
    libc.set_dumpable(False)
    if limits.namespaces:
        libc.call("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    else:
        _drop_capabilities()
    _install_filter(read_only=not limits.namespaces, namespaces=limits.namespaces, forks=True)


def _enter_user_namespace() -> None:
    """Let this process, which runs as an ordinary user, make mount and process namespaces for its children."""
    user, group = os.getuid(), os.getgid()
    libc.set_dumpable(True)  # a process that changed its user may not write to its own /proc
    libc.call("unshare", _CLONE_NEWUSER)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
    Path("/proc/self/gid_map").write_text(f"{group} {group} 1")


def _drop_capabilities() -> None:
    """Drop all capabilities: those of root, and those that a user namespace grants."""
    header, nothing = struct.pack("Ii", _CAPABILITIES_3, 0), bytes(24)
    libc.call("capset", ctypes.create_string_buffer(header), ctypes.create_string_buffer(nothing))


def _set_limit(resource_number: int, limit: int) -> None:
    hard = resource.getrlimit(resource_number)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource_number, (limit, limit))


def _install_filter(read_only: bool, forks: bool = False, namespaces: bool = False) -> None:
    """Install the system call filter in this process, permanently. The arguments are the same as for :func:`_filter`.

    A machine that is not in the tables gets no filter. The probe then finds that the sandbox is not safe."""
    program = _filter(read_only, forks, namespaces).replace(struct.pack("I", _OWN_PID), struct.pack("I", os.getpid()))
    if not program:
        return
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, padding, and the address of the instructions.
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))
    libc.call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.call("prctl", _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(header), 0, 0)


@functools.cache
def _filter(read_only: bool, forks: bool = False, namespaces: bool = False) -> bytes:
    """The filter for a process, with :data:`_OWN_PID` in place of its process id. Empty on a machine that is not in the
    tables.

    Args:
        read_only: Also refuse to write or create files.
        forks: Also allow what a process needs to fork children, which then restrict themselves further.
        namespaces: Also allow such a process to make namespaces for its children.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        return b""
    column = system_calls.COLUMNS[machine]
    extra = _for_forking(column, namespaces) if forks else []
    return b"".join(_program(column, _MACHINES[machine], _OWN_PID, read_only, extra))


def _for_forking(column: int, namespaces: bool) -> list[bytes]:
    """Additional instructions for a process that forks children, which then restrict themselves further."""
    calls = {**system_calls.RESTRICTING, **(system_calls.NAMESPACES if namespaces else {})}
    code = [instruction for numbers in calls.values() for instruction in _always(numbers[column], _ALLOW)]
    forks = [libc.FORK, *([libc.FORK | _CLONE_NEWNS | _CLONE_NEWPID] if namespaces else [])]
    thread_or_fork = [_argument(0), _op(_JUMP_SET, _CLONE_THREAD, len(forks) + 1, 0), *_one_of(forks)]
    code += _by_argument(system_calls.BY_ARGUMENT["clone"][column], thread_or_fork)
    code += _by_argument(
        system_calls.BY_ARGUMENT["prctl"][column], [_argument(0), *_one_of((*_PRCTL, *_PRCTL_RESTRICT))]
    )
    if namespaces:
        # A child that aborts sends a signal to itself. In its namespace, its process id is 1. In the prepared host's
        # namespace, process 1 is the sandbox's own process, which ignores signals from inside.
        abort = [_argument(2), _op(_JUMP_EQUAL, signal.SIGABRT, 0, 2), _argument(0), _op(_JUMP_EQUAL, 1, 1, 0)]
        code += _by_argument(system_calls.BY_ARGUMENT["tgkill"][column], abort)
    return code


def _program(column: int, machine: int, own_pid: int, read_only: bool, extra: Sequence[bytes]) -> list[bytes]:
    """The filter, instruction by instruction (classic BPF: code, jump if true, jump if false, operand).

    ``extra`` comes before the rules to which it is an exception."""
    code = [
        _op(_LOAD, _MACHINE_AT),
        _op(_JUMP_EQUAL, machine, 1, 0),
        _op(_RETURN, _EPERM),  # 32-bit calls have other numbers
        _op(_LOAD, _NUMBER_AT),
    ]
    if column == 0:  # x32 has the same calls under other numbers
        code += [_op(_JUMP_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _EPERM)]
    # futex is the most frequent call. Unless it is marked as private, it can wake a thread of another process that has
    # mapped the same file. So only waits may lack the mark: pthread_join waits without it, and the kernel ends that
    # wait.
    futex = [_argument(1), *_one_of(_FUTEX_WAITS, further=2), _op(_JUMP_SET, _FUTEX_PRIVATE, 1, 0)]
    code += _by_argument(system_calls.BY_ARGUMENT["futex"][column], futex)
    for numbers in system_calls.ALLOWED.values():
        code += _always(numbers[column], _ALLOW)
    for numbers in system_calls.WRITING.values():
        code += _always(numbers[column], _EROFS if read_only else _ALLOW)
    code += extra
    own_process_only = [_op(_JUMP_EQUAL, 0, 2, 0), _op(_JUMP_EQUAL, own_pid, 1, 0)]
    tests: dict[str, list[bytes]] = {
        # Each test loads an argument, then falls through to a refusal or jumps over it.
        "clone": [_argument(0), _op(_JUMP_SET, _CLONE_THREAD, 1, 0)],
        # SIGSTOP is refused: a host that has stopped itself cannot be told from a host on a slow machine.
        "tgkill": [
            _argument(2),
            _op(_JUMP_EQUAL, signal.SIGSTOP, 2, 0),
            _argument(0),
            _op(_JUMP_EQUAL, own_pid, 1, 0),
        ],
        "prlimit64": [_argument(0), *own_process_only],
        "sched_getaffinity": [_argument(0), *own_process_only],
        # MSG_FASTOPEN is refused, because it could connect the host's socket, which leads to the judge, to another address.
        **{name: [_argument(flags), _op(_JUMP_SET, _MSG_FASTOPEN, 0, 1)] for name, flags in _SENDING.items()},
        "mmap": [_argument(_MMAP_FLAGS), _op(_JUMP_SET, _MAP_SHARED, 0, 1)],
        "ioctl": [_argument(1), *_one_of(_IOCTL)],
        "prctl": [_argument(0), *_one_of(_PRCTL)],
        # F_SETFL may set any flag but O_ASYNC, which makes the kernel send signals.
        "fcntl": [
            _argument(1),
            *_one_of(_FCNTL, further=4),
            _op(_JUMP_EQUAL, _F_SETFL, 0, 2),
            _argument(2),
            _op(_JUMP_SET, _O_ASYNC, 0, 1),
        ],
    }
    for name, test in tests.items():
        code += _by_argument(system_calls.BY_ARGUMENT[name][column], test)
    for name, flags in _OPENING.items():
        number = system_calls.BY_ARGUMENT[name][column]
        if read_only:
            code += _by_argument(number, [_argument(flags), _op(_JUMP_SET, _TO_WRITE, 0, 1)], _EROFS)
        else:
            code += _always(number, _ALLOW)
    # ENOSYS makes the C library fall back to older calls, whose flags the filter can read.
    code += _always(system_calls.BY_ARGUMENT["clone3"][column], _ENOSYS)
    code += _always(system_calls.BY_ARGUMENT["openat2"][column], _ENOSYS)
    code += [_op(_JUMP_GREATER, system_calls.LATEST, 0, 1), _op(_RETURN, _ENOSYS)]
    return [*code, _op(_RETURN, _EPERM)]


def _always(number: int, answer: int) -> list[bytes]:
    return [] if number < 0 else [_op(_JUMP_EQUAL, number, 0, 1), _op(_RETURN, answer)]


def _by_argument(number: int, test: list[bytes], refusal: int = _EPERM) -> list[bytes]:
    """For the system call ``number``: ``test`` falls through to the refusal, or jumps over it to allow the call."""
    if number < 0:
        return []
    rest = [*test, _op(_RETURN, refusal), _op(_RETURN, _ALLOW)]
    return [_op(_JUMP_EQUAL, number, 0, len(rest)), *rest]


def _one_of(values: Sequence[int], further: int = 1) -> list[bytes]:
    """A test of the loaded value: if it is one of ``values``, jump over the next ``further`` instructions."""
    return [_op(_JUMP_EQUAL, value, further + len(values) - 1 - place, 0) for place, value in enumerate(values)]


def _argument(position: int) -> bytes:
    """Load the lower half of an argument. The kernel ignores the upper half of every argument that is tested here."""
    return _op(_LOAD, _ARGUMENTS_AT + 8 * position)


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
