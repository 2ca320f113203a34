"""Tests of how a server on the real network describes what its threads are doing."""

from __future__ import annotations

import itertools
import linecache
import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from raftlab.host import real_threads

SOURCE = """\
import queue, threading, time

class Raft:
    def __init__(self, kind=threading.Lock):
        self.lock = kind()
        self.other = kind()
        self.changed = threading.Condition(self.lock)
        self.queue = queue.Queue()
        self.end = threading.Event()

    def first(self):
        with self.lock:
            time.sleep(0.05)
            with self.other:
                pass

    def second(self):
        with self.other:
            time.sleep(0.05)
            self.lock.acquire()

    def twice(self):
        with self.lock:
            self.helper()

    def helper(self):
        with self.changed:
            pass

    def hold(self):
        self.lock.acquire()
        self.end.wait()

    def want(self):
        with self.lock:
            pass

    def wait(self):
        with self.changed:
            self.changed.wait()

    def get(self):
        self.queue.get()

    def sleep(self):
        with self.lock:
            time.sleep(60)
"""

COUNTER = itertools.count()


def described(*names: str, kind: Callable[[], Any] = threading.Lock, **given: str) -> list[str]:
    """The descriptions of threads that run the methods ``names``, in this order. ``given`` has the roles of threads that the
    framework started, by the name of their method."""
    file = f"raft{next(COUNTER)}.py"  # a new name, because the threads of other tests are still running
    linecache.cache[file] = (len(SOURCE), None, SOURCE.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": "raft"}
    exec(compile(SOURCE, file, "exec"), namespace)
    raft = namespace["Raft"](kind)
    threads = [threading.Thread(target=getattr(raft, name), name=name, daemon=True) for name in names]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    time.sleep(0.1)
    roles = {thread.ident: given[thread.name] for thread in threads if thread.ident and thread.name in given}
    lines = real_threads.describe(roles, {file}).replace(file, "raft.py").splitlines()
    return [line for name in names for line in lines if f"{name}'" in line.split(" raft.py")[0]]


@pytest.mark.parametrize("kind", [threading.Lock, threading.RLock])
def test_a_deadlock_of_two_threads(kind: Callable[[], Any]) -> None:
    assert described("first", "second", kind=kind) == [
        "thread 'first' waits at raft.py:14 for a lock that thread 'second' took at raft.py:18",
        "thread 'second' waits at raft.py:20 for a lock that thread 'first' took at raft.py:12",
    ]


def test_a_lock_taken_twice() -> None:
    assert described("twice") == ["thread 'twice' waits at raft.py:27 for a lock that it took itself at raft.py:23"]


def test_a_lock_taken_without_with() -> None:
    first, second = described("hold", "want")
    assert first == "thread 'hold' waits at raft.py:32 to be notified"
    assert second == (
        "thread 'want' waits at raft.py:35 for a lock that nobody seems to hold: was it taken with acquire(), and never "
        "released?"
    )
    # An RLock knows which thread holds it.
    _, second = described("hold", "want", kind=threading.RLock)
    assert second == "thread 'want' waits at raft.py:35 for a lock that thread 'hold' holds, which is at raft.py:32"


def test_a_thread_that_waits_for_a_notification_holds_no_lock() -> None:
    assert described("wait", "sleep", "want") == [
        "thread 'wait' waits at raft.py:40 to be notified",
        "thread 'sleep' is at raft.py:47",
        "thread 'want' waits at raft.py:35 for a lock that thread 'sleep' took at raft.py:46",
    ]


def test_threads_of_the_framework_have_roles() -> None:
    (line,) = described("get", get="get_state() of 'get'")
    assert re.fullmatch(r"get_state\(\) of 'get' waits at raft.py:43 for an item of a queue", line)
