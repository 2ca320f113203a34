"""Fast ``Thread.start``, ``join`` and ``is_alive`` for the library's copy of ``threading``.

A student's Raft starts a thread for each call to a peer. Python's own implementation, with its locks and its handshake
with the new thread, costs more than the rest of the call. Everything else about threads (names, daemons,
excepthook, Timer, the executor's workers) is the library's own.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from raftlab.host import kernel as kernels
from raftlab.host.cpython_arguments import check_acquire
from raftlab.host.primitives import Event


def install_fast_methods(threading: ModuleType) -> None:
    """Replace the three methods in the ``Thread`` class of ``threading``, which must be a copy that runs on the kernel."""
    library: Any = threading
    active: dict[int, Any] = library._active
    thread_class: Any = library.Thread

    def run_to_its_end(thread: Any) -> None:
        try:
            thread.run()
        except BaseException:
            thread._invoke_excepthook(thread)
        active.pop(thread._ident, None)
        thread._is_stopped = True  # for repr() up to Python 3.12; from 3.13 on it uses the handle
        handle = getattr(thread, "_handle", None)
        if handle is not None:
            handle._set_done()
        thread._lab_ended.set()

    def start(self: Any) -> None:
        """Start the thread. Raises ``RuntimeError`` if it was started before."""
        if not self._initialized:
            raise RuntimeError("thread.__init__() not called")
        if self._started.is_set():
            raise RuntimeError("threads can only be started once")
        kernel = kernels.active
        self._lab_ended = Event()
        task = kernel.spawn(kernel.current.incarnation, "a thread", run_to_its_end, self)
        self._ident = self._native_id = task.ident
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.ident, handle._done = task.ident, False
        active[task.ident] = self
        self._started.set()
        # The seed decides whether the new thread runs before the one that started it continues.
        kernel.perhaps_give_way()

    def join(self: Any, timeout: float | None = None) -> None:
        """Wait until the thread ends, at most ``timeout`` seconds."""
        if not self._initialized:
            raise RuntimeError("Thread.__init__() not called")
        if not self._started.is_set():
            raise RuntimeError("cannot join thread before it is started")
        if self is library.current_thread():
            raise RuntimeError("cannot join current thread")
        if timeout is not None:
            timeout = max(timeout, 0)
            # From Python 3.13 on CPython checks the timeout even if the thread has ended.
            if sys.version_info >= (3, 13) or not self._lab_ended.is_set():
                check_acquire(True, timeout)
        self._lab_ended.wait(timeout)

    def is_alive(self: Any) -> bool:
        return self._started.is_set() and not self._lab_ended.is_set()

    for method in (start, join, is_alive):
        setattr(thread_class, method.__name__, method)
