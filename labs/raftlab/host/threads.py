"""Changes to the library copies: faster methods of ``Thread``, and preemption where threads wait or hand over work.

A student's Raft starts a thread for each call to a peer. Python's own ``Thread``, with its locks and its handshake with
the new thread, costs more than the rest of the call. Everything else about threads (names, daemons, excepthook, Timer,
the executor's workers) is the library's own.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

from raftlab.host import kernel as kernels
from raftlab.host.cpython_arguments import check_acquire
from raftlab.host.primitives import Kinds, Signal, perhaps_preempt


def preempt_after(library_class: Any, method: str) -> None:
    """Let the simulator preempt the caller after each call of a method that gives work to another thread, such as
    ``submit``. So the work may be done before the caller continues."""
    original = getattr(library_class, method)

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        perhaps_preempt()
        return result

    setattr(library_class, method, wrapper)


def change(threading: ModuleType, kinds: Kinds) -> None:
    """Change ``threading``, which must be a copy that runs on the kernel."""
    library: Any = threading
    active: dict[int, Any] = library._active
    thread_class: Any = library.Thread
    has_handles = sys.version_info >= (3, 13)
    # Every thread adds itself to `_dangling`, which Python needs only after a fork.
    library._dangling = SimpleNamespace(add=id, discard=id)

    def run_to_its_end(thread: Any) -> None:
        try:
            thread.run()
        except BaseException:
            thread._invoke_excepthook(thread)
        active.pop(thread._ident, None)
        if has_handles:
            thread._handle._set_done()
        else:
            thread._is_stopped = True  # for repr()
        thread._lab_ended.wake_all()

    def start(self: Any) -> None:
        """Start the thread. Raises ``RuntimeError`` if it has been started before."""
        if not self._initialized:
            raise RuntimeError("thread.__init__() not called")
        if self._started.is_set():
            raise RuntimeError("threads can only be started once")
        kernel = kernels.active
        self._lab_ended = kinds.event()
        task = kernel.spawn(kernel.current.incarnation, "a thread", run_to_its_end, self)
        self._ident = self._native_id = task.ident
        if has_handles:
            self._handle.ident, self._handle._done = task.ident, False
        active[task.ident] = self
        self._started.wake_all()
        kernel.thread_started(task)
        if kernel.sync_tick():
            kernel.preempt()

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
            # From Python 3.13 on, CPython checks the timeout even if the thread has ended.
            if has_handles or not self._lab_ended.is_set():
                check_acquire(True, timeout)
        self._lab_ended.wait(timeout)

    def is_alive(self: Any) -> bool:
        return self._started.is_set() and not self._lab_ended.is_set()

    for method in (start, join, is_alive):
        setattr(thread_class, method.__name__, method)

    _change_condition(library.Condition, kinds.signal)


def _change_condition(condition_class: Any, signal_class: type[Signal]) -> None:
    """Make a ``Condition`` wait in the kernel. The library's own ``wait`` takes a new lock for each wait."""

    def wait(self: Any, timeout: float | None = None) -> bool:
        """Release the lock, wait until notified or for ``timeout`` seconds, and take the lock again.

        Returns:
            Whether the thread was notified.

        Raises:
            RuntimeError: Nobody holds the lock.
        """
        if not self._is_owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        signal = signal_class()
        self._waiters.append(signal)
        state = self._release_save()
        kernel = kernels.active
        task = kernel.current
        received = False
        try:
            if timeout is not None and timeout > 0:
                check_acquire(True, timeout)
            if signal.sent or (timeout is not None and not timeout > 0):
                received = signal.sent
            else:
                signal.task = task
                task.waiting_for = "a Condition"
                received = kernel.block(None if timeout is None else timeout / task.incarnation.rate)
                signal.task = task.waiting_for = None
            if received and task.observed is not None:
                signal.received(task)
            return received
        finally:
            self._acquire_restore(state)
            if not received:
                with contextlib.suppress(ValueError):  # notified after the timeout
                    self._waiters.remove(signal)

    def notify(self: Any, n: int = 1) -> None:
        """Wake the ``n`` threads that have waited longest. Raises ``RuntimeError`` if nobody holds the lock."""
        if not self._is_owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        waiters = self._waiters
        while waiters and n > 0:
            waiters.popleft().send()
            n -= 1

    def notify_all(self: Any) -> None:
        """Wake all threads that wait. Raises ``RuntimeError`` if nobody holds the lock."""
        if not self._waiters and self._is_owned():
            return
        notify(self, len(self._waiters))

    def acquire_restore(self: Any, state: object) -> None:
        perhaps_preempt()
        self._lock.acquire()

    condition_class.wait, condition_class.notify, condition_class.notify_all = wait, notify, notify_all
    condition_class._acquire_restore = acquire_restore  # for a lock of a class that the student wrote
