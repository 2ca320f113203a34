"""Tests of the simulator's scheduler, without the rest of a host: which thread gets a lock next, and what remains of threads
that have ended or whose server has crashed."""

from __future__ import annotations

import contextvars
import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftlab.host import kernel as kernels
from raftlab.host.kernel import MAX_EFFECTS, TIMEOUT_DELAY, Incarnation, Kernel, Task
from raftlab.host.loader import Program
from raftlab.host.primitives import Lock, RLock, UntrackedLock
from raftlab.host.sim_host import SimHost
from raftlab.messages.protocol import Ready
from raftlab.submission import source
from tests.conftest import SOLUTION


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    before = kernels.active
    kernels.install(Kernel(0))
    yield kernels.active
    kernels.install(before)


@pytest.fixture
def server() -> Incarnation:
    return Incarnation(0, 0.0)


def run_until(kernel: Kernel, end: float) -> None:
    """Run all tasks and timers up to virtual time ``end``."""
    kernel.run_ready()
    while (timer := kernel.next_timer()) is not None and timer <= end:
        kernel.now = timer
        kernel.fire_timers()
        kernel.run_ready()


# --- locks ---


@pytest.mark.parametrize("kind", [Lock, RLock, UntrackedLock])
@pytest.mark.parametrize("use_with", [False, True], ids=["acquire", "with"])
def test_a_lock_goes_to_the_thread_that_has_waited_longest(
    kernel: Kernel, server: Incarnation, kind: Callable[[], Any], use_with: bool
) -> None:
    lock, order = kind(), []

    def hold(name: str, arrival: float) -> None:
        if arrival:
            kernel.block(arrival)
        if use_with:
            with lock:
                order.append(name)
                kernel.block(1.0)
        else:
            assert lock.acquire()
            order.append(name)
            kernel.block(1.0)
            lock.release()

    # The threads start in a different order from the one in which they reach the lock.
    for name, arrival in (("third", 0.3), ("first", 0.1), ("holder", 0.0), ("fourth", 0.4), ("second", 0.2)):
        kernel.spawn(server, name, hold, name, arrival)
    run_until(kernel, 10.0)
    assert order == ["holder", "first", "second", "third", "fourth"]


@pytest.mark.parametrize("kind", [Lock, RLock, UntrackedLock])
def test_a_lock_passes_over_a_thread_whose_timeout_has_expired(
    kernel: Kernel, server: Incarnation, kind: Callable[[], Any]
) -> None:
    lock, got = kind(), {}

    def hold() -> None:
        with lock:
            kernel.block(1.0)

    def wait(name: str, arrival: float, timeout: float) -> None:
        kernel.block(arrival)
        got[name] = lock.acquire(timeout=timeout), round(kernel.now, 3)
        if got[name][0]:
            lock.release()

    kernel.spawn(server, "holder", hold)
    kernel.spawn(server, "impatient", wait, "impatient", 0.1, 0.5)
    kernel.spawn(server, "patient", wait, "patient", 0.2, 5.0)
    run_until(kernel, 10.0)
    assert got == {"impatient": (False, 0.6), "patient": (True, 1.0)}


def test_no_thread_can_take_a_lock_before_the_one_that_waits_for_it(kernel: Kernel, server: Incarnation) -> None:
    """Once released, the lock belongs to the thread that waited, even before that thread runs."""
    lock, taken = Lock(), []

    def hold() -> None:
        lock.acquire()
        kernel.block(1.0)
        lock.release()
        taken.append(("again", lock.acquire(blocking=False)))

    def wait() -> None:
        kernel.block(0.5)
        taken.append(("waiting", lock.acquire()))

    kernel.spawn(server, "holder", hold)
    task = kernel.spawn(server, "waiting", wait)
    run_until(kernel, 10.0)
    assert taken == [("again", False), ("waiting", True)]
    assert lock.holder is task
    assert task.held == [lock]


# --- crashes ---


class Crash:
    """A server that crashes with one thread in each state, and another server that keeps running."""

    def __init__(self, kernel: Kernel) -> None:
        self.server, self.other = Incarnation(0, 0.0), Incarnation(1, 0.0)
        self.ran: list[str] = []

        def sleep(name: str, timeout: float | None) -> None:
            try:
                kernel.block(timeout)
                self.ran.append(f"{name} woke up")
            finally:
                self.ran.append(f"{name} finally")

        def start(incarnation: Incarnation, name: str, timeout: float | None) -> Task:
            task = kernel.spawn(incarnation, name, sleep, name, timeout)
            kernel.run_ready()
            return task

        self.waiting = start(self.server, "waiting", None)
        start(self.server, "sleeping", 5.0)
        self.survivor = start(self.other, "survivor", 7.0)
        kernel.spawn(self.server, "ready", self.ran.append, "ready ran")
        kernel.kill(self.server)


def test_no_thread_of_a_crashed_server_runs_again(kernel: Kernel) -> None:
    crash = Crash(kernel)
    assert list(kernel.tasks.values()) == [crash.survivor]
    assert kernel.next_timer() == 7.0 + TIMEOUT_DELAY  # the timer of the sleeping thread that crashed is gone
    run_until(kernel, 10.0)
    assert crash.ran == ["survivor woke up", "survivor finally"]
    assert kernel.tasks == {}
    assert (crash.server.alive, crash.other.alive) == (False, True)


def test_the_greenlets_of_a_crashed_server_are_never_collected(kernel: Kernel) -> None:
    """If a greenlet were collected, its ``finally`` blocks would run."""
    crash = Crash(kernel)
    # The frames of a suspended greenlet refer to its task, and so to the greenlet itself. This reference is removed, because
    # the kernel must keep the greenlet alive without it.
    del crash.waiting.glet
    gc.collect()
    assert crash.ran == []


def test_a_crashed_greenlet_is_not_used_for_another_thread(kernel: Kernel) -> None:
    crash = Crash(kernel)
    run_until(kernel, 10.0)
    later = [kernel.spawn(crash.other, "later", kernel.block, 1.0) for _ in range(5)]
    assert crash.waiting.glet not in [task.glet for task in later]
    run_until(kernel, 20.0)
    assert kernel.tasks == {}


def test_a_server_that_crashes_while_paused_does_not_run_when_resumed(kernel: Kernel, server: Incarnation) -> None:
    ran: list[str] = []

    def sleep() -> None:
        kernel.block(1.0)
        ran.append("sleeping")

    kernel.spawn(server, "sleeping", sleep)
    kernel.run_ready()
    kernel.spawn(server, "ready", ran.append, "ready")
    kernel.pause(server)
    run_until(kernel, 0.5)
    kernel.kill(server)
    kernel.resume(server)
    run_until(kernel, 10.0)
    assert ran == []
    assert kernel.tasks == {}


# --- threads that have ended ---


def test_a_thread_that_has_ended_leaves_only_an_idle_greenlet(kernel: Kernel, server: Incarnation) -> None:
    class Argument: ...

    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []

    def run(argument: object) -> None:
        seen.append(variable.get())
        variable.set("set by an earlier thread")

    def spawn() -> tuple[Any, weakref.ref[Argument]]:
        argument = Argument()
        task = kernel.spawn(server, "a thread", run, argument)
        return task.glet, weakref.ref(argument)

    glet, argument = spawn()
    kernel.run_ready()
    assert kernel.tasks == {}
    assert argument() is None
    assert spawn()[0] is glet  # the idle greenlet runs the next thread
    kernel.run_ready()
    assert seen == ["unset", "unset"]


@pytest.mark.parametrize("started_by", ["the framework", "a thread"])
def test_any_number_of_threads_may_block_at_the_same_instant(
    kernel: Kernel, server: Incarnation, started_by: str
) -> None:
    """A greenlet begins with the recursion depth of the greenlet that starts it. So if each thread were started from
    within the thread before it, the depth would grow with every thread."""
    depths: list[int] = []

    def wait(calls: int) -> None:
        if calls:
            wait(calls - 1)
            return
        depths.append(calls)
        kernel.block(1.0)

    def spawn_all() -> None:
        for _ in range(500):
            kernel.spawn(server, "a thread", wait, 10)

    if started_by == "a thread":
        kernel.spawn(server, "the first thread", spawn_all)
    else:
        spawn_all()
    run_until(kernel, 2.0)
    assert len(depths) == 500
    assert kernel.tasks == {}


def test_an_effect_of_no_server_is_no_flood(kernel: Kernel) -> None:
    """The kernel looks for a flood at every ``MAX_EFFECTS``-th effect. If the host itself adds that effect, no server is to
    blame yet."""
    host = SimHost(Program(source.find(SOLUTION)), 0)
    host.kernel.effects = []
    for _ in range(MAX_EFFECTS):
        host.kernel.emit(Ready(0))
    assert len(host.kernel.effects) == MAX_EFFECTS  # no fault was added
