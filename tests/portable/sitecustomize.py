"""Removes the functions and constants that Linux has and macOS does not. Python imports this module at the start of every
process that has this folder on its path.

:mod:`tests.test_operating_system` runs a sample of tests in such processes, which shows that raftlab works without these
functions. It does not show that macOS behaves as Linux does in all other respects.
"""

import builtins
import ctypes
import io
import os
import select
import signal
import socket
import sys
import time
from typing import Any

for module, names in (
    (
        os,
        (
            "pidfd_open",
            "sched_getaffinity",
            "sched_setaffinity",
            "memfd_create",
            "eventfd",
            "splice",
            "copy_file_range",
        ),
    ),
    (signal, ("pidfd_send_signal", "sigtimedwait", "sigwaitinfo")),
    (socket, ("SO_PASSCRED", "SCM_CREDENTIALS", "SO_PEERCRED", "SOCK_SEQPACKET", "SOCK_CLOEXEC", "SOCK_NONBLOCK")),
    (select, ("epoll",)),
):
    for name in names:
        if hasattr(module, name):
            delattr(module, name)

find_function = ctypes.CDLL.__getattr__


def without_prctl(library: ctypes.CDLL, name: str) -> Any:
    if name in ("prctl", "unshare", "syscall"):
        raise AttributeError(name)
    return find_function(library, name)


ctypes.CDLL.__getattr__ = without_prctl  # type: ignore[method-assign]


def without_proc(function: Any) -> Any:
    def call(path: Any, *arguments: Any, **named: Any) -> Any:
        if not isinstance(path, int) and os.fsdecode(os.fspath(path)).startswith("/proc"):
            raise FileNotFoundError(2, "No such file or directory", path)
        return function(path, *arguments, **named)

    return call


for module, name in ((builtins, "open"), (io, "open"), (os, "open"), (os, "stat"), (os, "listdir"), (os, "scandir")):
    setattr(module, name, without_proc(getattr(module, name)))

read_clock = time.clock_gettime


def without_clocks_of_processes(clock: int) -> float:
    if clock < 0:
        raise OSError(22, "Invalid argument")
    return read_clock(clock)


time.clock_gettime = without_clocks_of_processes

sys.without_linux = True  # type: ignore[attr-defined]
