"""``Thread.start``, ``join`` and ``is_alive`` for the library's copy of ``threading``.

Starting a thread is what a student's Raft does most often (one for each call to a peer), and Python's own way there,
with its locks, its sentinel and its handshake, costs more than all the rest of the call. What a thread does otherwise
(names, daemons, excepthook, Timer, the executor's workers) stays the library's own.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from raftlab.host import kernel as _k
from raftlab.host.cpython_arguments import check_acquire
from raftlab.host.primitives import Event


def simplify(threading: ModuleType) -> None:
    """Put the three methods into the copy's ``Thread`` class."""
    library: Any = threading
    active: dict[int, Any] = library._active
    thread_class: Any = library.Thread

    def live(thread: Any) -> None:
        try:
            thread.run()
        except BaseException:
            thread._invoke_excepthook(thread)
        active.pop(thread._ident, None)
        thread._is_stopped = True  # what repr() looks at up to Python 3.12; from 3.13 on at the handle
        handle = getattr(thread, "_handle", None)
        if handle is not None:
            handle._set_done()
        thread._lab_ended.set()

    def start(self: Any) -> None:
        """Start the thread's activity; once only."""
        if not self._initialized:
            raise RuntimeError("thread.__init__() not called")
        if self._started.is_set():
            raise RuntimeError("threads can only be started once")
        kernel = _k.K
        self._lab_ended = Event()
        task = kernel.spawn(kernel.current.owner, "a thread", live, self)
        self._ident = self._native_id = task.ident
        handle = getattr(self, "_handle", None)
        if handle is not None:
            handle.ident, handle._done = task.ident, False
        active[task.ident] = self
        self._started.set()
        # The new thread may overtake the one that started it, or not: as the seed has it.
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
