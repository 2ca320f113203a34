"""Tests of preemption: where the switch points are, that expressions keep their values, and what each schedule does."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from raftlab.host import kernel as kernels
from raftlab.host.kernel import Incarnation, Kernel
from raftlab.host.preemption import SWITCH, TICK, compile_with_switch_points
from raftlab.host.primitives import Lock
from raftlab.schedules import MAX_PAUSE, SCHEDULES, of_run
from tests.host.test_kernel import run_until

# --- switch points ---

CODE = """
class Counter:
    def __init__(self):
        self.n, self.log, self.voted, self.seen = 1, [3, 1, 2], None, {}

def zero():
    return 0

def count(c):
    c.n += 0
    c.n -= zero()
    c.n = max(c.n, zero()) + len(c.log)
    c.seen[c.n] = sorted(c.log, key=lambda e: -e)
    c.first, c.last = c.log[0], c.log[-1]
    c.empty = [] or c.voted
    c.text = f"{c.n + zero()}"
    return (
        c.n,
        c.voted or zero(),
        c.log and c.n and not c.voted,
        [e + zero() for e in c.log if e > zero()],
        {e: c.seen for e in c.log}[1] is c.seen,
        sum(e for e in c.log),
        max(*c.log, key=zero and None),
        (lambda: zero())(),
    )
"""


def run(code: str, name: str, *args: Any, switches: list[int] | None = None) -> Any:
    """Execute ``code`` with switch points, and call the function ``name`` in it. There is a switch at every switch
    point, and the line of each switch point is added to ``switches``."""

    def switch() -> None:
        if switches is not None:
            switches.append(sys._getframe(1).f_lineno)

    names: dict[str, Any] = {TICK: lambda: True, SWITCH: switch}
    exec(compile_with_switch_points(code, "raft.py"), names)
    return names[name](*args, *([names["Counter"]()] if "Counter" in names else []))


def test_switch_points_do_not_change_values() -> None:
    plain: dict[str, Any] = {}
    exec(compile(CODE, "raft.py", "exec"), plain)
    wanted, got = plain["Counter"](), None
    switches: list[int] = []
    result = run(CODE.replace("return (", "c.result = (") + "    return c\n", "count", switches=switches)
    got = vars(result).pop("result")
    assert got == plain["count"](wanted)
    assert vars(result) == vars(wanted)
    assert set(range(10, 18)) <= set(switches)  # each statement of count()


class Account:
    """An object whose field another thread changes at each switch within a line."""

    def __init__(self) -> None:
        self.n = 0
        self.items = [1, 2, 3]


@pytest.mark.parametrize(
    "line",
    [
        "a.n += 1",
        "a.n += one()",
        "a.n = a.n + 1",
        "a.n = one() + a.n",
        "a.n = max(a.n + 1, one())",
        "a.items[0], a.n = a.items[0], a.n + 1",
    ],
)
def test_another_thread_can_run_between_the_read_and_the_write(line: str) -> None:
    account, switches = Account(), 0

    def switch() -> None:
        nonlocal switches
        switches += 1
        account.n += 100

    names: dict[str, Any] = {TICK: lambda: True, SWITCH: switch, "one": lambda: 1}
    exec(compile_with_switch_points(f"def f(a):\n    {line}\n", "raft.py"), names)
    names["f"](account)
    assert switches > 1, "the only switch point is the one before the statement"
    assert account.n != 100 * switches + 1, "no change by the other thread was overwritten"


def test_another_thread_can_run_in_the_middle_of_a_comprehension() -> None:
    account = Account()
    names: dict[str, Any] = {
        TICK: lambda: True,
        SWITCH: lambda: account.items.append(9) if len(account.items) < 6 else None,
    }
    exec(compile_with_switch_points("def f(a):\n    return [i for i in a.items]\n", "raft.py"), names)
    assert names["f"](account) == [1, 2, 3, 9, 9, 9]


def test_a_future_can_be_done_before_the_caller_continues() -> None:
    """`submit(...).add_done_callback(...)` is one statement, but another thread can run between its two calls."""
    events: list[str] = []

    class Pool:
        def submit(self) -> Pool:
            events.append("submit")
            return self

        def add_done_callback(self) -> None:
            events.append("add_done_callback")

    names: dict[str, Any] = {TICK: lambda: True, SWITCH: lambda: events.append("switch")}
    exec(compile_with_switch_points("def f(p):\n    p.submit().add_done_callback()\n", "raft.py"), names)
    names["f"](Pool())
    assert events == ["switch", "submit", "switch", "add_done_callback"]


def test_lines_of_tracebacks_stay_the_same() -> None:
    code = "def f(a):\n    a.n = (\n        1 +\n        g(a)\n    )\ndef g(a):\n    return a.n + a.missing\n"
    names: dict[str, Any] = {TICK: lambda: False, SWITCH: lambda: None}
    exec(compile_with_switch_points(code, "raft.py"), names)
    with pytest.raises(AttributeError) as caught:
        names["f"](Account())
    assert [entry.lineno + 1 for entry in caught.traceback[1:]] == [4, 7]


# --- schedules ---


@pytest.fixture
def restore() -> Iterator[None]:
    before = kernels.active
    yield
    kernels.install(before)


def lock_users(schedule: str, seed: int) -> tuple[list[str], float]:
    """Run four threads that take the same lock twice each. Returns the order in which the threads held the lock, and
    the virtual time at the end."""
    kernel = Kernel(seed, schedule)
    kernels.install(kernel)
    server, lock, order = Incarnation(0, 0.0), Lock(), []

    def work(name: str) -> None:
        for step in (1, 2):
            with lock:
                order.append(f"{name}{step}")

    for name in "abcd":
        kernel.spawn(server, name, work, name)
    run_until(kernel, 10.0)
    return order, kernel.now


@pytest.mark.usefixtures("restore")
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_seed_and_a_schedule_determine_a_run(schedule: str) -> None:
    assert [lock_users(schedule, seed) for seed in range(20)] == [lock_users(schedule, seed) for seed in range(20)]


@pytest.mark.usefixtures("restore")
def test_release_lets_others_run_between_two_holds_of_a_lock() -> None:
    def together(order: list[str]) -> bool:
        return all(order.index(f"{name}2") == order.index(f"{name}1") + 1 for name in "abcd")

    runs = {schedule: [lock_users(schedule, seed) for seed in range(60)] for schedule in SCHEDULES}
    assert all(together(order) and now == 0.0 for order, now in runs["none"])
    torn = sum(not together(order) for order, _ in runs["release"])
    # When one of the first three threads releases the lock for the first time, others wait for it. At each of these three
    # releases, another thread gets the lock with a probability of 10 %, so about 16 of the 60 runs are affected.
    assert 6 <= torn <= 30
    assert max(now for _, now in runs["release"]) <= 8 * MAX_PAUSE + 0.001


@pytest.mark.usefixtures("restore")
def test_with_priorities_the_thread_with_the_highest_runs_until_it_waits() -> None:
    kernel = Kernel(1, "priorities")
    kernels.install(kernel)
    server, order = Incarnation(0, 0.0), []

    def work(name: str) -> None:
        for _ in range(3):
            order.append(name)
            kernel.give_way()

    tasks = [kernel.spawn(server, name, work, name) for name in "abcd"]
    wanted = [task.role for task in sorted(tasks, key=lambda task: -task.priority)]
    kernel.run_ready()
    assert order == [name for name in wanted for _ in range(3)]


def test_a_few_seeds_already_use_every_schedule() -> None:
    for own_seed in range(10):
        used = [of_run(seed, own_seed) for seed in range(8)]
        assert set(used) == set(SCHEDULES)
        assert used == [of_run(seed, own_seed) for seed in range(8, 16)]
