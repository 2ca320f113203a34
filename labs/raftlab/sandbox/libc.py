"""Calls of the C library for which Python has no function."""

from __future__ import annotations

import ctypes
import errno
import os

_PR_SET_DUMPABLE = 4


def call(name: str, *arguments: object) -> None:
    """Call a function that returns 0 if it succeeded. Raises ``OSError``, also if there is no such function."""
    libc = ctypes.CDLL(None, use_errno=True)
    function = getattr(libc, name, None)
    if function is None:
        raise OSError(errno.ENOSYS, f"{name} does not exist on this system")
    if function(*arguments):
        raise OSError(ctypes.get_errno(), f"{name} is not allowed here: {os.strerror(ctypes.get_errno())}")


def set_dumpable(dumpable: bool) -> None:
    """Whether other processes of the same user may read this one's memory, environment and descriptors."""
    call("prctl", _PR_SET_DUMPABLE, int(dumpable), 0, 0, 0)
