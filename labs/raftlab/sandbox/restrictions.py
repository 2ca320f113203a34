"""The lock on the inside: what a host process gives up before it runs a line of student code.

Resource limits stop what eats the machine. A filter of system calls (seccomp) stops what limits cannot: in a thread-happy
Raft a limit on processes cannot tell a thread from a fork bomb, and the connection to the judge is a socket of the world
outside, which could be dialled elsewhere. Neither can be undone by whoever is under it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct
from pathlib import Path

from raftlab.sandbox.levels import Limits

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_PR_SET_DUMPABLE, _CLONE_NEWUSER, _CLONE_NEWNS = 4, 0x10000000, 0x00020000
_MS_NOSUID, _MS_NODEV, _CAPABILITIES_3 = 2, 4, 0x20080522

# Calls that are refused with EPERM: number on x86_64, number on aarch64.
_REFUSED: dict[str, tuple[int, int]] = {
    # Other processes: to start, to become, to reach into one.
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
    # The world outside. `connect` and `listen` also because the line to the judge could be hung up and dialled anew.
    "socket": (41, 198),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    # The servers of a submission speak through the switch and not behind its back.
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    # Ways around all of this, and large surfaces that no Raft needs.
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
# Refused or not by an argument: kill and tgkill reach the own process only, prlimit64 too; sending must not connect.
_OWN_PID_ONLY = {"kill": (62, 129), "tgkill": (234, 131)}
_OWN_LIMITS_ONLY = {"prlimit64": (302, 261)}
_FLAGS_AT = {"sendto": (44, 206, 3), "sendmsg": (46, 211, 2), "sendmmsg": (307, 269, 3)}
# Refused with "read-only file system" where there is no file system of its own to write to.
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
_OPENING = {"open": (2, -1, 1), "openat": (257, 56, 2)}
_OPENAT2 = (437, 437)
_TO_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_CLONE, _CLONE3 = (56, 220), (435, 435)

_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_CLONE_THREAD = 0x00010000
_MSG_FASTOPEN = 0x20000000

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_SET, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _EROFS, _ENOSYS = _ERRNO | 1, _ERRNO | 30, _ERRNO | 38
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16


def enter_host(limits: Limits) -> None:
    """In the warm host, before it forks: become an ordinary user, and bound what is shared by all its children."""
    if limits.user:
        os.setgroups([])
        os.setresgid(limits.user, limits.user, limits.user)
        os.setresuid(limits.user, limits.user, limits.user)
    # Reading and compiling is done here, and source can be made that takes any amount of room to compile.
    resource.setrlimit(resource.RLIMIT_AS, (limits.space, limits.server_space))
    _bound(resource.RLIMIT_CORE, 0)
    _bound(resource.RLIMIT_NOFILE, limits.files)
    _bound(resource.RLIMIT_FSIZE, limits.file_bytes)
    if limits.threads:
        _bound(resource.RLIMIT_NPROC, limits.threads)
    for name in ("RLIMIT_MSGQUEUE", "RLIMIT_MEMLOCK"):
        if hasattr(resource, name):
            _bound(getattr(resource, name), 0)


def enter_child(limits: Limits, world: str) -> None:
    """In a child of the host, which has one thread, before it runs student code."""
    own_tmp = limits.own_tmp and _own_tmp()
    _give_up_powers()
    _bound(resource.RLIMIT_AS, limits.server_space if world == "rpyc" else limits.space)
    _bound(resource.RLIMIT_CPU, limits.cpu_s)
    install_filter(read_only=not own_tmp)


def _own_tmp() -> bool:
    """Give this process an empty ``/tmp`` that nobody else sees: a file there is no way to another server, nor from before
    a crash to after it. False where the kernel allows no user namespaces below the sandbox's own."""
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


def _give_up_powers() -> None:
    """Those of root, and those that whoever makes a user namespace has in it."""
    libc = ctypes.CDLL(None, use_errno=True)
    who, nothing = struct.pack("Ii", _CAPABILITIES_3, 0), bytes(24)
    if libc.capset(ctypes.create_string_buffer(who), ctypes.create_string_buffer(nothing)):
        raise OSError(ctypes.get_errno(), "this process cannot give up its powers")


def _bound(what: int, most: int) -> None:
    hard = resource.getrlimit(what)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(what, (most, most))


def install_filter(read_only: bool) -> bool:
    """Put the filter of system calls on this process, for good. ``read_only``: no file can be written or made. False on
    a machine whose calls we do not know."""
    column, machine = _MACHINES.get(platform.machine(), (-1, 0))
    if column < 0:
        return False
    program = b"".join(_program(column, machine, os.getpid(), read_only))
    buffer = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: the number of instructions, padding, their address.
    header = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(header), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "the filter of system calls cannot be put on")
    return True


def _program(column: int, machine: int, own_pid: int, read_only: bool) -> list[bytes]:
    """The filter, instruction by instruction (classic BPF: code, jump if true, jump if false, operand)."""
    code = [
        _op(_LOAD, _MACHINE_AT),
        _op(_JUMP_EQUAL, machine, 1, 0),
        _op(_RETURN, _EPERM),  # another machine's calls (32 bits): numbers mean other things there
        _op(_LOAD, _NUMBER_AT),
    ]
    if column == 0:  # x32: the same calls under other numbers
        code += [_op(_JUMP_AT_LEAST, 0x40000000, 0, 1), _op(_RETURN, _EPERM)]
    for numbers in _REFUSED.values():
        if numbers[column] >= 0:
            code += [_op(_JUMP_EQUAL, numbers[column], 0, 1), _op(_RETURN, _EPERM)]
    # "Not there" makes the C library fall back to clone, whose flags can be looked at.
    code += [_op(_JUMP_EQUAL, _CLONE3[column], 0, 1), _op(_RETURN, _ENOSYS)]
    code += _by_argument(_CLONE[column], 0, [_op(_JUMP_SET, _CLONE_THREAD, 1, 0)])
    for numbers in _OWN_PID_ONLY.values():
        code += _by_argument(numbers[column], 0, [_op(_JUMP_EQUAL, own_pid, 1, 0)])
    for numbers in _OWN_LIMITS_ONLY.values():
        code += _by_argument(numbers[column], 0, [_op(_JUMP_EQUAL, 0, 2, 0), _op(_JUMP_EQUAL, own_pid, 1, 0)])
    for *pair, argument in _FLAGS_AT.values():
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
    """For call ``number``: load the lower half of an argument; ``test`` jumps over the refusal that follows it."""
    rest = [_op(_LOAD, _ARGUMENTS_AT + 8 * argument), *test, _op(_RETURN, refusal), _op(_RETURN, _ALLOW)]
    return [_op(_JUMP_EQUAL, number, 0, len(rest)), *rest]


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, operand)
