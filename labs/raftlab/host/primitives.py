"""Substitutes for ``_thread`` and ``time`` in virtual time, built on the kernel.

They provide only those parts of the two modules that the standard library's ``threading``, ``queue`` and
``concurrent.futures`` use on Python 3.11 and later. :mod:`raftlab.host.stdlib` imports fresh copies of those libraries
on top.
"""

from __future__ import annotations

import errno
import os
import sys
import time as real_time
from collections.abc import Callable
from types import CodeType, FrameType, ModuleType
from typing import Any, NamedTuple

from raftlab.host import kernel as kernels
from raftlab.host.cpython_arguments import TIMEOUT_MAX, check_acquire, check_sleep
from raftlab.host.kernel import Task

# The date at which each run starts: 14 November 2023, in seconds since 1970. It is fixed so that the logs of two runs
# compare equal.
EPOCH = 1_700_000_000.0

# The place where a lock was taken: code object and instruction offset. The line is computed only for a report.
Site = tuple[CodeType, int]

# The id() of the globals of this module and of each library copy (raftlab.host.stdlib adds those). If a function with
# these globals takes a lock, reports name the line that called the function.
framework_globals: set[int] = {id(globals())}


def site(frame: FrameType | None = None) -> Site | None:
    """The innermost place on the stack of ``frame`` where the student's code runs, not the framework's. Without
    ``frame``, the current stack is searched."""
    frame = frame or sys._getframe(1)
    while frame is not None:
        if id(frame.f_globals) not in framework_globals:
            return (frame.f_code, frame.f_lasti)
        frame = frame.f_back
    return None


class UntrackedLock:
    """A lock that does not record where it was taken. On release, the task that has waited longest gets the lock.

    The library copies use it for their own purposes, such as the lock inside a queue or a future. The student's locks
    are instances of :class:`Lock`.
    """

    __slots__ = ("__weakref__", "_waiting", "holder")

    def __init__(self) -> None:
        self.holder: Task | None = None
        self._waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout != -1 or blocking is not True:
            check_acquire(blocking, timeout)
        if self.holder is None:
            self.holder = kernels.active.current
            return True
        return self._wait(blocking, timeout)

    def _wait(self, blocking: bool, timeout: float) -> bool:
        if not blocking or timeout == 0:
            return False
        kernel = kernels.active
        task = kernel.current
        self._waiting.append(task)
        task.waiting_for = self
        acquired = kernel.block(None if timeout == -1 else timeout / task.incarnation.rate)
        task.waiting_for = None
        if not acquired:
            self._waiting.remove(task)
        return acquired

    def release(self) -> None:
        if self.holder is None:
            raise RuntimeError("release unlocked lock")
        if self._waiting:
            self.holder = self._waiting.pop(0)
            kernels.active.wake(self.holder)
        else:
            self.holder = None

    def locked(self) -> bool:
        return self.holder is not None

    def __enter__(self) -> bool:
        if self.holder is None:
            self.holder = kernels.active.current
            return True
        return self._wait(True, -1)

    def __exit__(self, *exc: object) -> None:
        if self._waiting:
            self.release()
        else:
            self.holder = None

    def acquire_lock(self, blocking: bool = True, timeout: float = -1) -> bool:
        return self.acquire(blocking, timeout)

    def release_lock(self) -> None:
        self.release()

    def locked_lock(self) -> bool:
        return self.locked()

    # A Condition calls these three methods. CPython's plain locks lack them, and CPython's Condition uses acquire and
    # release instead.

    def _is_owned(self) -> bool:
        return self.holder is not None  # by any task: as in CPython, a plain lock has no owner

    def _release_save(self) -> None:
        self.release()

    def _acquire_restore(self, state: object) -> None:
        kernel = kernels.active
        if kernel.sync_tick():
            kernel.preempt()
        self.acquire()

    def _at_fork_reinit(self) -> None:
        self.holder = None
        self._waiting.clear()

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")  # CPython's message; copy.deepcopy raises it too

    def __repr__(self) -> str:
        return f"<{'locked' if self.locked() else 'unlocked'} lock>"


class Lock(UntrackedLock):
    """``threading.Lock``: records where it was taken, for deadlock reports and advice."""

    __slots__ = ("site",)

    def __init__(self) -> None:
        self.holder = None
        self._waiting = []
        self.site: Site | None = None

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout != -1 or blocking is not True:
            check_acquire(blocking, timeout)
        if self.holder is None:
            self.holder = task = kernels.active.current
            task.held.append(self)
            self.site = site()
            return True
        acquired = self._wait(blocking, timeout)
        if acquired:
            self.site = site()
        return acquired

    def release(self) -> None:
        holder = self.holder
        if holder is None:
            raise RuntimeError("release unlocked lock")
        # A thread may release a lock that another thread took.
        holder.held.remove(self)
        self.site = None
        kernel = kernels.active
        if self._waiting:
            self.holder = next_holder = self._waiting.pop(0)
            next_holder.held.append(self)
            kernel.wake(next_holder)
        else:
            self.holder = None
        if not holder.held and kernel.sync_tick() and holder is kernel.current:
            kernel.preempt()

    # `with lock:` is what student code uses most. Without contention, it costs one call to enter and one to leave.
    def __enter__(self) -> bool:
        if self.holder is not None:
            return self.acquire()
        self.holder = task = kernels.active.current
        task.held.append(self)
        frame = sys._getframe(1)
        outside = id(frame.f_globals) not in framework_globals
        self.site = (frame.f_code, frame.f_lasti) if outside else site()
        return True

    def __exit__(self, *exc: object) -> None:
        holder = self.holder
        if holder is not None and not self._waiting and holder.held[-1] is self:
            holder.held.pop()
            self.holder = None
            if not holder.held:
                kernel = kernels.active
                if kernel.sync_tick() and holder is kernel.current:
                    kernel.preempt()
        else:
            self.release()


class Event:
    """``threading.Event`` without a Condition, for speed: two are created for every thread that starts."""

    # The first values are class attributes, for speed (see Signal).
    _flag = False
    _waiting: list[Task] | None = None

    def is_set(self) -> bool:
        return self._flag

    isSet = is_set

    def set(self) -> None:
        self.wake_all()
        perhaps_preempt()

    def wake_all(self) -> None:
        """Set the flag without preempting the caller. The framework uses this for its own events."""
        self._flag = True
        if self._waiting:
            waiting, self._waiting = self._waiting, None
            for task in waiting:
                kernels.active.wake(task)

    def clear(self) -> None:
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        if self._flag:
            return True
        if timeout is not None:
            if not timeout > 0:  # true for NaN too: CPython's Condition.wait does not wait then either
                return False
            check_acquire(True, timeout)
        kernel = kernels.active
        task = kernel.current
        if self._waiting is None:
            self._waiting = []
        self._waiting.append(task)
        task.waiting_for = "an Event"
        if not kernel.block(None if timeout is None else timeout / task.incarnation.rate):
            self._waiting.remove(task)
        task.waiting_for = None
        perhaps_preempt()
        return self._flag

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.lock' object")  # CPython's Event holds one

    def _at_fork_reinit(self) -> None:
        self._waiting = None


class RLock:
    """``threading.RLock``. The task that holds the inner lock owns this one."""

    __slots__ = ("__weakref__", "_count", "_lock")

    def __init__(self) -> None:
        self._lock = Lock()
        self._count = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        if timeout != -1 or blocking is not True:
            check_acquire(blocking, timeout)
        if self._lock.holder is kernels.active.current:
            self._count += 1
            return True
        acquired = self._lock.acquire(blocking, timeout)
        if acquired:
            self._count = 1
        return acquired

    def release(self) -> None:
        if self._lock.holder is not kernels.active.current:
            raise RuntimeError("cannot release un-acquired lock")
        self._count -= 1
        if not self._count:
            self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc: object) -> None:
        self.release()

    def _is_owned(self) -> bool:
        return self._lock.holder is kernels.active.current

    def _recursion_count(self) -> int:
        return self._count if self._is_owned() else 0

    def _release_save(self) -> int:
        count, self._count = self._count, 0
        self._lock.release()
        return count

    def _acquire_restore(self, count: int) -> None:
        perhaps_preempt()
        self._lock.acquire()
        self._count = count

    def _at_fork_reinit(self) -> None:
        self._lock._at_fork_reinit()
        self._count = 0

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle '_thread.RLock' object")

    def __repr__(self) -> str:
        return f"<{'locked' if self._lock.locked() else 'unlocked'} RLock count={self._count}>"


class Signal:
    """What one thread waits for in ``Condition.wait``. Another thread sends it, at most once.

    The first values are class attributes: a signal is created for each wait, and ``__init__`` would cost one more call.
    """

    task: Task | None = None
    """The task that is blocked until the signal is sent."""
    sent = False

    def send(self) -> None:
        self.sent = True
        if self.task is not None:
            kernels.active.wake(self.task)

    def received(self, task: Task) -> None:
        """Note that the wait of ``task`` ended because the signal was sent. Does nothing here; the race detector
        overrides it."""


def perhaps_preempt() -> None:
    """At an operation with which threads synchronise: preempt the current task, if the schedule says so."""
    kernel = kernels.active
    if kernel.sync_tick():
        kernel.preempt()


class Kinds(NamedTuple):
    """The classes of locks and events that the library copies are built on."""

    untracked_lock: type[UntrackedLock]
    lock: type[Lock]
    rlock: type[RLock]
    event: type[Event]
    signal: type[Signal]


KINDS = Kinds(UntrackedLock, Lock, RLock, Event, Signal)


def _start(run: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Task:
    kernel = kernels.active

    def run_to_its_end() -> None:
        try:
            run(*args, **kwargs)
        except SystemExit:
            pass
        except BaseException as exc:
            kernel.on_uncaught(exc)

    return kernel.spawn(kernel.current.incarnation, "a thread", run_to_its_end)


class ThreadHandle:
    """The handle of a joinable thread. Python has had such handles since 3.13."""

    def __init__(self, ident: int | None = None) -> None:
        self.ident = ident
        self._done = ident is None
        self._waiting: list[Task] = []

    def is_done(self) -> bool:
        return self._done

    def _set_done(self) -> None:
        self._done = True
        waiting, self._waiting = self._waiting, []
        for task in waiting:
            kernels.active.wake(task)

    def join(self, timeout: float | None = None) -> None:
        task = kernels.active.current
        if self._done or (timeout is not None and timeout == 0):
            return
        self._waiting.append(task)
        seconds = None if timeout is None or timeout < 0 else timeout / task.incarnation.rate
        task.waiting_for = "a thread to end"
        if not kernels.active.block(seconds):
            self._waiting.remove(task)
        task.waiting_for = None


def _start_new_thread(run: Callable[..., object], args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> int:
    return _start(run, args, kwargs or {}).ident


def _start_joinable_thread(
    run: Callable[[], object], handle: ThreadHandle | None = None, daemon: bool = True
) -> ThreadHandle:
    handle = handle or ThreadHandle()
    task = _start(run, (), {})
    handle.ident = task.ident
    handle._done = False
    task.on_end += (handle._set_done,)
    return handle


def _get_ident() -> int:
    return kernels.active.current.ident


def _set_sentinel(kinds: Kinds) -> UntrackedLock:
    """For Python up to 3.12: a lock that is released when the current thread ends."""
    lock = kinds.untracked_lock()
    task = kernels.active.current
    task.on_end += (lambda: lock.release() if lock.locked() else None,)
    return lock


def make_thread_module(kinds: Kinds = KINDS) -> ModuleType:
    """The substitute for ``_thread``."""
    module = ModuleType("_thread", "raftlab's substitute for _thread: greenlets in virtual time")

    def exit_thread() -> None:
        raise SystemExit

    module.__dict__.update(
        error=RuntimeError,
        LockType=kinds.lock,
        lock=kinds.lock,
        allocate_lock=kinds.lock,
        allocate=kinds.lock,
        RLock=kinds.rlock,
        start_new_thread=_start_new_thread,
        start_new=_start_new_thread,
        start_joinable_thread=_start_joinable_thread,
        _ThreadHandle=ThreadHandle,
        _make_thread_handle=ThreadHandle,
        daemon_threads_allowed=lambda: True,
        _is_main_interpreter=lambda: True,
        _get_main_thread_ident=lambda: kernels.MAIN_IDENT,
        _shutdown=lambda: None,
        _count=lambda: len(kernels.active.tasks),
        _local=object,  # raftlab.host.stdlib replaces it with Python's own `_threading_local`
        _set_sentinel=lambda: _set_sentinel(kinds),
        get_ident=_get_ident,
        get_native_id=_get_ident,
        stack_size=lambda size=0: 0,
        interrupt_main=lambda signum=2: None,
        exit=exit_thread,
        exit_thread=exit_thread,
        TIMEOUT_MAX=TIMEOUT_MAX,
    )
    return module


def _monotonic() -> float:
    """This server's own clock, in seconds."""
    kernel = kernels.active
    incarnation = kernel.current.incarnation
    return incarnation.base_local + (kernel.now - incarnation.base_now) * incarnation.rate


def _sleep(seconds: float) -> None:
    check_sleep(seconds)
    kernel = kernels.active
    task = kernel.current
    if task.held:
        kernel.on_wait_with_lock(task, "time.sleep")
    if seconds == 0:
        kernel.give_way()
        return
    task.waiting_for = "sleep"
    kernel.block(seconds / task.incarnation.rate)
    task.waiting_for = None


def _clocks(wall: Callable[[], float]) -> dict[str, Any]:
    """``clock_gettime`` and the like. A clock that shows the date reads ``wall``. All others read this server's monotonic
    clock."""
    clocks = {
        value: wall if name in ("CLOCK_REALTIME", "CLOCK_TAI") else _monotonic
        for name, value in vars(real_time).items()
        if name.startswith("CLOCK_")
    }

    def clock_gettime(clock: int) -> float:
        if clock not in clocks:
            real_time.clock_getres(clock)  # raises what CPython raises for a clock that does not exist
        return clocks.get(clock, _monotonic)()

    def clock_settime(clock: int, seconds: float) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    return {
        **{name: value for name, value in vars(real_time).items() if name.startswith("CLOCK_")},
        "clock_gettime": clock_gettime,
        "clock_gettime_ns": lambda clock: int(clock_gettime(clock) * 1_000_000_000),
        "clock_getres": real_time.clock_getres,
        "clock_settime": clock_settime,
        "clock_settime_ns": clock_settime,
        "tzset": lambda: None,  # the time zone is UTC on every machine
    }


def make_time_module() -> ModuleType:
    """The substitute for ``time``: each server reads its own clock. Formatting is Python's own."""
    module = ModuleType("time", "raftlab's substitute for time: virtual time")
    for name in (
        "struct_time",
        "strptime",
        "mktime",
        "timezone",
        "altzone",
        "daylight",
        "tzname",
        "get_clock_info",
    ):
        module.__dict__[name] = getattr(real_time, name)

    def wall() -> float:
        # A server may save a date and compare it after a restart, so the date continues, unlike the monotonic clock.
        kernel = kernels.active
        return EPOCH + kernel.current.incarnation.date_at(kernel.now)

    def in_ns(clock: Callable[[], float]) -> Callable[[], int]:
        return lambda: int(clock() * 1_000_000_000)

    module.__dict__.update(
        _clocks(wall),
        monotonic=_monotonic,
        perf_counter=_monotonic,
        process_time=_monotonic,
        thread_time=_monotonic,
        time=wall,
        monotonic_ns=in_ns(_monotonic),
        perf_counter_ns=in_ns(_monotonic),
        process_time_ns=in_ns(_monotonic),
        thread_time_ns=in_ns(_monotonic),
        time_ns=in_ns(wall),
        sleep=_sleep,
        # Always UTC: a log line must not depend on the time zone of the machine that replays it.
        localtime=lambda seconds=None: real_time.gmtime(wall() if seconds is None else seconds),
        gmtime=lambda seconds=None: real_time.gmtime(wall() if seconds is None else seconds),
        strftime=lambda form, t=None: real_time.strftime(form, t or real_time.gmtime(wall())),
        ctime=lambda seconds=None: real_time.asctime(real_time.gmtime(wall() if seconds is None else seconds)),
        asctime=lambda t=None: real_time.asctime(t or real_time.gmtime(wall())),
    )
    return module
