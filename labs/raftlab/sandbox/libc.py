"""Calls of the C library for which Python has no function."""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import threading

from raftlab.sandbox import system_calls

_PR_SET_DUMPABLE = 4
# What fork() passes to clone: CLONE_CHILD_SETTID, CLONE_CHILD_CLEARTID, SIGCHLD.
FORK = 0x01200011
# The thread id is searched for in this many bytes of a thread's descriptor. In glibc, it is 720 bytes from the start.
_DESCRIPTOR_BYTES = 1536


@functools.cache
def _library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def call(name: str, *arguments: object) -> None:
    """Call a function that returns 0 on success. Raises ``OSError`` if it fails or does not exist."""
    function = getattr(_library(), name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"{name} does not exist on this system")
    if function(*arguments):
        raise OSError(ctypes.get_errno(), f"{name} is not allowed here: {os.strerror(ctypes.get_errno())}")


def set_dumpable(dumpable: bool) -> None:
    """Set whether other processes of the same user may read this process's memory, environment and descriptors."""
    call("prctl", _PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)


def fork(flags: int) -> int | None:
    """Fork as ``os.fork`` does, with more flags for clone, such as ``CLONE_NEWPID``. The process must have only one
    thread.

    Args:
        flags: The additional flags.

    Returns:
        0 in the child; the child's process id in the parent. ``None`` if this is not possible on this machine.

    Raises:
        OSError: The operating system does not allow it.
    """
    column, tid = system_calls.COLUMNS.get(os.uname().machine), _address_of_tid()
    if column is None or tid is None:
        return None
    clone = system_calls.BY_ARGUMENT["clone"][column]
    # Functions called through PyDLL keep the interpreter's lock; those called through CDLL release it.
    system_call, python = ctypes.PyDLL(None, use_errno=True).syscall, ctypes.pythonapi
    system_call.restype = ctypes.c_long
    pointer = ctypes.c_void_p(tid)
    # On AArch64, clone takes its last two arguments in the opposite order. Of the two, only the thread id is used.
    last = (pointer, None) if os.uname().machine == "x86_64" else (None, pointer)
    arguments = (ctypes.c_long(clone), ctypes.c_ulong(FORK | flags), None, None, *last)
    before, in_child, in_parent = python.PyOS_BeforeFork, python.PyOS_AfterFork_Child, python.PyOS_AfterFork_Parent
    before()
    pid: int = system_call(*arguments)
    if pid == 0:
        in_child()
        return 0
    number = ctypes.get_errno()
    in_parent()
    if pid < 0:
        raise OSError(number, f"clone is not allowed here: {os.strerror(number)}")
    return pid


def _address_of_tid() -> int | None:
    """The address at which the C library keeps this thread's id. The kernel must set the id there in a new process.
    ``None`` if the id is not found in exactly one place."""
    try:
        if not (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc"):
            return None
    except (ValueError, OSError):
        return None
    library = _library()
    library.pthread_self.restype = ctypes.c_void_p
    descriptor: int = library.pthread_self()
    words = (ctypes.c_int32 * (_DESCRIPTOR_BYTES // 4)).from_address(descriptor)
    places = [at for at, word in enumerate(words) if word == threading.get_native_id()]
    return descriptor + 4 * places[0] if len(places) == 1 else None
