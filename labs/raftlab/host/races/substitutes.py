"""The locks, events and kernel used in runs with the race detector.

They are subclasses of the ordinary classes, and also report to the detector what they do. They block, wake and choose
threads exactly as their base classes do, so the schedule is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlab.host import kernel as kernels
from raftlab.host import primitives
from raftlab.host.kernel import Incarnation, Kernel, Task
from raftlab.host.primitives import Event, Lock, RLock, Signal, UntrackedLock
from raftlab.host.races.detector import Detector, Sync, Thread

primitives.framework_globals.add(id(globals()))


class _ReportingLock(UntrackedLock):
    """A lock that calls ``_acquired`` after it is acquired, and ``_releasing`` before it is released."""

    __slots__ = ()

    def _acquired(self) -> None:
        raise NotImplementedError

    def _releasing(self) -> None:
        raise NotImplementedError

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        acquired = super().acquire(blocking, timeout)
        if acquired:
            self._acquired()
        return acquired

    def release(self) -> None:
        self._releasing()
        super().release()

    def __enter__(self) -> bool:
        entered = super().__enter__()
        self._acquired()
        return entered

    def __exit__(self, *exc: object) -> None:
        self._releasing()
        super().__exit__(*exc)

    def _acquire_restore(self, state: object) -> None:
        primitives.perhaps_preempt()
        self.acquire()


class ObservedUntrackedLock(_ReportingLock):
    """A lock of the library, such as one in a queue, a condition, a future or an executor."""

    __slots__ = ("sync",)

    def __init__(self) -> None:
        super().__init__()
        # A lock that was made before the run belongs to no server, so it orders nothing.
        self.sync = None if kernels.active.current is kernels.active.framework else Sync()

    def _acquired(self) -> None:
        thread: Thread | None = kernels.active.current.observed
        if thread is not None and self.sync is not None:
            thread.acquire(self.sync)

    def _releasing(self) -> None:
        thread: Thread | None = kernels.active.current.observed
        if thread is not None and self.sync is not None:
            thread.release_too(self.sync)


class ObservedLock(_ReportingLock, Lock):
    """A lock of the student's.

    ``is_mutex``: a thread that held it has released it. ``is_signal``: a thread that did not hold it has released it."""

    __slots__ = ("is_mutex", "is_signal", "sync")

    def __init__(self) -> None:
        super().__init__()
        self.sync = Sync()
        self.is_mutex = self.is_signal = False

    def _acquired(self) -> None:
        thread: Thread | None = kernels.active.current.observed
        if thread is not None:
            thread.acquire(self.sync)
            thread.next_stretch()
            if len(thread.task.held) > 1:
                kernels.active.detector.nested(thread, self)

    def _releasing(self) -> None:
        task = kernels.active.current
        if self.holder is task:
            self.is_mutex = True
        else:
            self.is_signal = True
        thread: Thread | None = task.observed
        if thread is not None:
            thread.release_too(self.sync)


class ObservedRLock(RLock):
    """``threading.RLock`` on an observed lock."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__()
        self._lock = ObservedLock()


class ObservedEvent(Event):
    """``threading.Event``. ``Thread.join`` waits for one too."""

    def __init__(self) -> None:
        super().__init__()
        self.sync = Sync()

    def _seen(self, is_set: bool) -> bool:
        if is_set:
            thread: Thread | None = kernels.active.current.observed
            if thread is not None:
                thread.acquire(self.sync)
        return is_set

    def is_set(self) -> bool:
        return self._seen(super().is_set())

    isSet = is_set

    def wake_all(self) -> None:
        thread: Thread | None = kernels.active.current.observed
        if thread is not None:
            thread.release_too(self.sync)
        super().wake_all()

    def wait(self, timeout: float | None = None) -> bool:
        return self._seen(super().wait(timeout))


class ObservedSignal(Signal):
    """What one thread waits for in ``Condition.wait``."""

    def __init__(self) -> None:
        self._sync = Sync()

    def send(self) -> None:
        thread: Thread | None = kernels.active.current.observed
        if thread is not None:
            thread.release_too(self._sync)
        super().send()

    def received(self, task: Task) -> None:
        thread: Thread | None = task.observed
        if thread is not None:
            thread.acquire(self._sync)


KINDS = primitives.Kinds(ObservedUntrackedLock, ObservedLock, ObservedRLock, ObservedEvent, ObservedSignal)


class ObservedKernel(Kernel):
    """A kernel that also tells its detector when threads begin and end."""

    detector: Detector

    def spawn(self, incarnation: Incarnation, role: str, run: Callable[..., None], *args: Any) -> Task:
        task = super().spawn(incarnation, role, run, *args)
        self.detector.started(task, self.current.observed, _role(role, args))
        task.on_end += (lambda: self.detector.ended(task),)
        return task

    def kill(self, incarnation: Incarnation) -> None:
        super().kill(incarnation)
        self.detector.crashed(incarnation)


def _role(role: str, args: tuple[Any, ...]) -> str:
    """What a thread is for, in words. ``args`` may begin with the thread's ``threading.Thread``."""
    thread = args[0] if args else None
    run = getattr(thread, "function", None) or getattr(thread, "_target", None)
    name = getattr(run, "__name__", "") or (type(thread).__name__ if thread is not None else "")
    if role != "a thread" or not name:
        return role
    if name == "_worker":
        return "a worker of a thread pool"
    return "a thread that runs a lambda" if name == "<lambda>" else f"a thread that runs {name}"
