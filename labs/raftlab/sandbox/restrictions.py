"""The restrictions that a host process puts on itself before it runs student code. They cannot be lifted.

Resource limits stop code that uses up the machine. A system call filter (seccomp) stops what limits cannot: a limit on
processes does not distinguish a Raft with many threads from a fork bomb, and the socket to the judge could be connected
to another address.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

from raftlab.sandbox.levels import Limits

# Constants of Linux: prctl, clone, mount and capset.
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_PR_SET_DUMPABLE, _CLONE_NEWUSER, _CLONE_NEWNS = 4, 0x10000000, 0x00020000
_MS_NOSUID, _MS_NODEV, _CAPABILITIES_3 = 2, 4, 0x20080522

# System calls that are refused with EPERM: their numbers on x86_64 and on aarch64 (-1: does not exist there).
_REFUSED: dict[str, tuple[int, int]] = {
    # Other processes: starting one, becoming one, acting on one.
    "fork": (57, -1),
    "vfork": (58, -1),
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "tkill": (200, 130),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "setpriority": (141, 140),
    "sched_setaffinity": (203, 122),
    # The network. `connect` and `listen` are here because the socket to the judge could be disconnected and reused.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # Servers of a submission must communicate only through raftlab's network.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Ways around the filter and the namespaces, and complex parts of Linux that no Raft needs.
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "personality": (135, 92),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "mount_setattr": (442, 442),
    "open_by_handle_at": (304, 265),
}
# These are refused or allowed depending on an argument. kill, tgkill and prlimit64 may affect only the process itself.
_OWN_PID_ONLY = {"kill": (62, 129), "tgkill": (234, 131)}
_OWN_LIMITS_ONLY = {"prlimit64": (302, 261)}
# Sending must not connect (MSG_FASTOPEN). The third number is the position of the flags among the arguments.
_SENDING = {"sendto": (44, 206, 3), "sendmsg": (46, 211, 2), "sendmmsg": (307, 269, 3)}
# System calls that are refused with EROFS if the process has no `/tmp` of its own to write to.
_WRITING: dict[str, tuple[int, int]] = {
    "creat": (85, -1),
    "mkdir": (83, -1),
    "mkdirat": (258, 34),
    "rmdir": (84, -1),
    "unlink": (87, -1),
    "unlinkat": (263, 35),
    "rename": (82, -1),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "link": (86, -1),
    "linkat": (265, 37),
    "symlink": (88, -1),
    "symlinkat": (266, 36),
    "mknod": (133, -1),
    "mknodat": (259, 33),
    "truncate": (76, 45),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, -1),
    "lchown": (94, -1),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "utime": (132, -1),
    "utimes": (235, -1),
    "futimesat": (261, -1),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
}
# Refused in the same way if the flags open the file for writing. The third number is the position of the flags.
_OPENING = {"open": (2, -1, 1), "openat": (257, 56, 2)}
_OPENAT2 = (437, 437)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_CLONE, _CLONE3 = (56, 220), (435, 435)

# For each machine: the position of its numbers in the tables above, and its AUDIT_ARCH value.
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE_THREAD = 0x00010000
_MSG_FASTOPEN = 0x20000000

# Instruction codes of classic BPF, return values of a filter, and the offsets of its input (struct seccomp_data).
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _EROFS, _ENOSYS = _ERRNO | 1, _ERRNO | 30, _ERRNO | 38
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16


def enter_host(limits: Limits) -> None:
    """Call this in the warm host before it forks: change the user, and set the limits that all its children inherit."""
    if limits.user:
        os.setgroups([])
        os.setresgid(limits.user, limits.user, limits.user)
        os.setresuid(limits.user, limits.user, limits.user)
    # The warm host compiles the source, and a hostile source can take any amount of memory to compile.
    resource.setrlimit(resource.RLIMIT_AS, (limits.space, limits.server_space))
    _set_limit(resource.RLIMIT_CORE, 0)
    _set_limit(resource.RLIMIT_NOFILE, limits.files)
    _set_limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    if limits.threads:
        _set_limit(resource.RLIMIT_NPROC, limits.threads)
    for name in ("RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK"):
        if hasattr(resource, name):
            _set_limit(getattr(resource, name), 0)


def enter_child(limits: Limits, world: str) -> None:
    """Call this in a child of the host before it runs student code, while it has only one thread.

    Args:
        limits: The limits of the warm host.
        world: ``sim``, ``rpyc`` or ``check``.
    """
    own_tmp = limits.own_tmp and _mount_own_tmp()
    _drop_capabilities()
    _set_limit(resource.RLIMIT_AS, limits.server_space if world == "rpyc" else limits.space)
    _set_limit(resource.RLIMIT_CPU, limits.cpu_s)
    _install_filter(read_only=not own_tmp)


def _mount_own_tmp() -> bool:
    """Give this process an empty ``/tmp`` that no other process sees, so that files cannot pass from one server or
    incarnation to another. False if the operating system does not allow a user namespace within the sandbox's."""
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) or libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    except OSError:
        return False
    options = b"mode=1777,size=16m,nr_inodes=1000"
    failed: int = libc.mount(b"tmpfs", b"/tmp", b"tmpfs", _MS_NOSUID | _MS_NODEV, options)
    if not failed:
        os.chdir("/tmp")
    return not failed


def _drop_capabilities() -> None:
    """Drop all capabilities: those of root, and those that come with a new user namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, nothing = struct.pack("Ii", _CAPABILITIES_3, 0), bytes(24)
    if libc.capset(ctypes.create_string_buffer(header), ctypes.create_string_buffer(nothing)):
        raise OSError(ctypes.get_errno(), "this process cannot drop its capabilities")


def _set_limit(resource_number: int, limit: int) -> None:
    hard = resource.getrlimit(resource_number)[1]
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource_number, (limit, limit))


def _install_filter(read_only: bool) -> None:
    """Install the system call filter in this process, permanently. ``read_only``: also refuse to write or create files.

    An architecture that is not in the tables above gets no filter. The probe then finds that the sandbox is not safe."""
    column, machine = _MACHINES.get(platform.machine(), (-1, 0))
    if column < 0:
        return
    program = b"".join(_program(column, machine, os.getpid(), read_only))
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, padding, their address.
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(header), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the system call filter cannot be installed")


def _program(column: int, machine: int, own_pid: int, read_only: bool) -> list[bytes]:
    """The filter, instruction by instruction (classic BPF: code, jump if true, jump if false, operand)."""
    code = [
        _op(_LOAD, _MACHINE_AT),
        _op(_JUMP_EQUAL, machine, 1, 0),
        _op(_RETURN, _EPERM),  # the 32-bit calls, which have other numbers
        _op(_LOAD, _NUMBER_AT),
    ]
    if column == 0:  # x32: the same calls under other numbers
        code += [_op(_JUMP_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _EPERM)]
    for numbers in _REFUSED.values():
        if numbers[column] >= 0:
            code += [_op(_JUMP_EQUAL, numbers[column], 0, 1), _op(_RETURN, _EPERM)]
    # ENOSYS makes the C library fall back to clone, whose flags the filter can read.
    code += [_op(_JUMP_EQUAL, _CLONE3[column], 0, 1), _op(_RETURN, _ENOSYS)]
    code += _by_argument(_CLONE[column], 0, [_op(_JUMP_SET, _CLONE_THREAD, 1, 0)])
    for numbers in _OWN_PID_ONLY.values():
        code += _by_argument(numbers[column], 0, [_op(_JUMP_EQUAL, own_pid, 1, 0)])
    for numbers in _OWN_LIMITS_ONLY.values():
        code += _by_argument(numbers[column], 0, [_op(_JUMP_EQUAL, 0, 2, 0), _op(_JUMP_EQUAL, own_pid, 1, 0)])
    for *pair, argument in _SENDING.values():
        code += _by_argument(pair[column], argument, [_op(_JUMP_SET, _MSG_FASTOPEN, 0, 1)])
    if read_only:
        for numbers in _WRITING.values():
            if numbers[column] >= 0:
                code += [_op(_JUMP_EQUAL, numbers[column], 0, 1), _op(_RETURN, _EROFS)]
        for *pair, argument in _OPENING.values():
            if pair[column] >= 0:
                code += _by_argument(pair[column], argument, [_op(_JUMP_SET, _TO_WRITE, 0, 1)], _EROFS)
        code += [_op(_JUMP_EQUAL, _OPENAT2[column], 0, 1), _op(_RETURN, _ENOSYS)]
    return [*code, _op(_RETURN, _ALLOW)]


def _by_argument(number: int, argument: int, test: list[bytes], refusal: int = _EPERM) -> list[bytes]:
    """For the system call ``number``: load the lower half of an argument and test it.

    ``test`` falls through to the refusal that follows it, or jumps over it to allow the call."""
    rest = [_op(_LOAD, _ARGUMENTS_AT + 8 * argument), *test, _op(_RETURN, refusal), _op(_RETURN, _ALLOW)]
    return [_op(_JUMP_EQUAL, number, 0, len(rest)), *rest]


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
