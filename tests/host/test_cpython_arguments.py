"""In the simulator, timeouts, arguments of locks and clocks behave as in CPython, and raise the same exceptions."""

from __future__ import annotations

import copy
import math
import pickle
import queue
import threading
import time
from typing import Any

from tests.conftest import Write, lines_of, sim_cluster

NUMBERS = (
    "-5",
    "-0.5",
    "math.nan",
    "math.inf",
    "-math.inf",
    "1e300",
    "threading.TIMEOUT_MAX * 2",
    "'x'",
    "None",
    "0",
    "True",
)

# Each expression is evaluated with a free lock, with one that another thread holds, and with one that this thread holds.
LOCK_CALLS = (
    *(f"lock.acquire(timeout={number})" for number in NUMBERS if number not in ("0", "True")),
    *(f"lock.acquire(False, {number})" for number in NUMBERS),
    *(f"lock.acquire(blocking={blocking})" for blocking in ("False", "0", "'x'", "None", "1.5")),
    "lock.acquire(timeout=0)",
    "lock.acquire(False)",
    "lock.acquire(False, -1)",
)
OTHER_CALLS = (
    *(f"time.sleep({number})" for number in NUMBERS if number != "True"),
    *(f"threading.Event().wait({number})" for number in NUMBERS if number not in ("None", "True")),
    *(f"waiting(threading.Condition(), {number})" for number in NUMBERS if number not in ("None", "True")),
    # NaN is left out, because CPython then loops forever.
    *(f"queue.Queue().get(timeout={number})" for number in NUMBERS if number not in ("None", "True", "math.nan")),
    *(f"ended.join({number})" for number in NUMBERS),
    *(f"joining({number})" for number in NUMBERS if number not in ("None", "True")),
    "threading.TIMEOUT_MAX",
    "copy.deepcopy(threading.Lock())",
    "copy.deepcopy(threading.RLock())",
    "pickle.dumps(threading.Lock())",
    "copy.deepcopy(threading.Event())",
    "time.clock_gettime(987654)",
    "abs(time.clock_gettime(time.CLOCK_MONOTONIC) - time.monotonic()) < 1",
    "type(time.clock_gettime_ns(time.CLOCK_REALTIME)).__name__",
)

HELPERS = """
def waiting(condition, timeout):
    with condition:
        return condition.wait(timeout)

def outcome(expression, names):
    try:
        return f"{expression} -> {eval(expression, names)!r}"
    except Exception as exc:
        return f"{expression} -> {type(exc).__name__}: {exc}"

def outcomes(names, lock_calls, other_calls):
    threading = names["threading"]
    lines = []
    for kind in ("Lock", "RLock"):
        make = getattr(threading, kind)
        for expression in lock_calls:
            free, taken = make(), make()
            release, held = threading.Event(), threading.Event()
            def hold():
                with taken:
                    held.set()
                    release.wait()
            holder = threading.Thread(target=hold)
            holder.start()
            held.wait()
            for name, lock in (("free", free), ("taken", taken)):
                lines.append(f"{kind} {name}: " + outcome(expression, {**names, "lock": lock}))
            release.set()
            holder.join()
        own = threading.RLock()
        own.acquire()
        lines += ["own: " + outcome(expression, {**names, "lock": own}) for expression in lock_calls]
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    done = threading.Event()

    def joining(timeout):
        # A new thread each time: CPython 3.11 believes that a thread has ended once a join with a bad timeout has raised.
        alive = threading.Thread(target=done.wait)
        alive.start()
        alive.join(timeout)

    names = {**names, "waiting": waiting, "ended": ended, "joining": joining}
    lines += [outcome(expression, names) for expression in other_calls]
    done.set()
    return lines
"""


def test_arguments_do_what_cpython_does(write_raft: Write) -> None:
    helpers: dict[str, Any] = {}
    exec(HELPERS, helpers)
    real = {"threading": threading, "time": time, "queue": queue, "math": math, "copy": copy, "pickle": pickle}
    expected = helpers["outcomes"](real, LOCK_CALLS, OTHER_CALLS)
    init = f"""
        def main():
            import copy, math, pickle, queue
            names = dict(threading=threading, time=time, queue=queue, math=math, copy=copy, pickle=pickle)
            for line in outcomes(names, {LOCK_CALLS!r}, {OTHER_CALLS!r}):
                log("t", line)
        threading.Thread(target=main).start()
    """
    with sim_cluster(write_raft(init, module=HELPERS)) as c:
        c.start_all()
        c.sleep(1.0)
        actual = lines_of(c)
    assert len(expected) > 150
    assert [pair for pair in zip(actual, expected, strict=True) if pair[0] != pair[1]] == []
