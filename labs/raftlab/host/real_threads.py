"""What each thread of a server on the real network is doing, in one line each. Used if the server does not answer.

Python does not record who holds a lock. But nearly all code takes locks with ``with``, so the source shows who holds it: a
thread that is inside a ``with`` block holds the lock that the block names. An ``RLock`` records its owner. This module runs
none of the student's code: it only looks up names in the frames and in the objects' own dictionaries.
"""

from __future__ import annotations

import ast
import linecache
import os
import re
import sys
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

# What a thread waits for, by the function that its code has called (file, function).
_WAITS = {
    ("rpyc_server.py", "send_request"): "for a reply",
    ("rpyc_server.py", "emit_and_wait"): "for the service to take a message",
    ("rpyc_server.py", "delay"): "for the service to take a message",
    ("threading.py", "join"): "for a thread to end",
    ("threading.py", "wait"): "to be notified",
    ("queue.py", "get"): "for an item of a queue",
    ("_base.py", "result"): "for the result of a future",
    ("_base.py", "shutdown"): "for a pool to end",
}
_LOCKS = (type(threading.Lock()), type(threading.RLock()))
_Node = TypeVar("_Node", bound=ast.AST)


@dataclass(slots=True)
class _Thread:
    """A thread that runs student code.

    Attributes:
        ident: Its identifier.
        role: What it is for, in words a student knows.
        stack: Its frames, the innermost first.
        student: The innermost frame that is in a file of the student's.
    """

    ident: int
    role: str
    stack: list[FrameType]
    student: FrameType

    @property
    def place(self) -> str:
        return _place(self.student)


@dataclass(frozen=True, slots=True)
class _Held:
    """A lock that a thread holds because the thread is inside a ``with`` block.

    Attributes:
        thread: The thread.
        place: The line of the ``with``.
    """

    thread: _Thread
    place: str


def describe(roles: Mapping[int, str], files: Collection[str]) -> str:
    """One line per thread that runs student code: where it is, and what it waits for, as far as that can be known.

    Args:
        roles: What the framework's threads are doing now, in words a student knows, by thread identifier.
        files: The student's files.
    """
    threads = list(_threads(roles, files))
    held: dict[int, _Held] = {}
    for thread in threads:
        for lock, place in _locks_of(thread, files):
            held.setdefault(id(lock), _Held(thread, place))
    return "\n".join(_line(thread, threads, held) for thread in threads)


def _threads(roles: Mapping[int, str], files: Collection[str]) -> Iterator[_Thread]:
    names = {thread.ident: f"thread {thread.name!r}" for thread in threading.enumerate()}
    for ident, innermost in sys._current_frames().items():
        stack: list[FrameType] = []
        frame: FrameType | None = innermost
        while frame is not None:
            stack.append(frame)
            frame = frame.f_back
        student = next((frame for frame in stack if frame.f_code.co_filename in files), None)
        if student is not None and ident != threading.get_ident():
            yield _Thread(ident, roles.get(ident) or names.get(ident, "a thread"), stack, student)


def _line(thread: _Thread, threads: list[_Thread], held: Mapping[int, _Held]) -> str:
    wait = _wait_of(thread)
    if wait:
        return f"{thread.role} waits at {thread.place} {wait}"
    innermost = thread.stack[0]
    takes_lock = innermost is thread.student or innermost.f_code.co_name == "__enter__"  # __enter__ of a Condition
    lock = _wanted_lock(thread.student) if takes_lock else None
    if lock is None:
        return f"{thread.role} is at {thread.place}"
    waits = f"{thread.role} waits at {thread.place} for a lock that"
    block = held.get(id(lock))
    if block is not None:
        taken = "it took itself" if block.thread.ident == thread.ident else f"{block.thread.role} took"
        return f"{waits} {taken} at {block.place}"
    owner = re.search(r"owner=(\d+)", repr(lock))  # of an RLock
    for other in threads:
        if owner is not None and other.ident == int(owner[1]) != thread.ident:
            return f"{waits} {other.role} holds, which is at {other.place}"
    return f"{waits} nobody seems to hold: was it taken with acquire(), and never released?"


def _wait_of(thread: _Thread) -> str:
    found = ""
    for frame in thread.stack:
        if frame is thread.student:
            break
        found = _WAITS.get((os.path.basename(frame.f_code.co_filename), frame.f_code.co_name), found)
    return found


def _locks_of(thread: _Thread, files: Collection[str]) -> Iterator[tuple[Any, str]]:
    """The locks that a thread holds because it is inside their ``with`` blocks, each with the line of its ``with``."""
    # wait() releases the lock until the thread is notified.
    given_back = {
        id(_lock_in(frame.f_locals.get("self")))
        for frame in thread.stack
        if frame.f_code.co_name == "wait" and os.path.basename(frame.f_code.co_filename) == "threading.py"
    }
    for frame in thread.stack:
        if frame.f_code.co_filename not in files:
            continue
        for block in _with_blocks(frame):
            if block.body[0].lineno <= frame.f_lineno <= (block.end_lineno or 0):
                for item in block.items:
                    lock = _lock_in(_value(item.context_expr, frame))
                    if lock is not None and id(lock) not in given_back:
                        yield lock, f"{frame.f_code.co_filename}:{item.context_expr.lineno}"


def _wanted_lock(frame: FrameType) -> Any:
    """The lock that the current line of ``frame`` takes, with ``with`` or ``acquire``. ``None`` if there is no such
    lock, or it is free."""
    line = frame.f_lineno
    wanted = [
        item.context_expr
        for block in _with_blocks(frame)
        for item in block.items
        if item.context_expr.lineno <= line <= (item.context_expr.end_lineno or line)
    ]
    wanted += [
        call.func.value
        for call in _nodes(frame, ast.Call)
        if isinstance(call.func, ast.Attribute)
        and call.func.attr == "acquire"
        and call.lineno <= line <= (call.end_lineno or line)
    ]
    for expression in wanted:
        lock = _lock_in(_value(expression, frame))
        if lock is not None and "unlocked" not in repr(lock):
            return lock
    return None


def _with_blocks(frame: FrameType) -> list[ast.With]:
    return _nodes(frame, ast.With)


def _nodes(frame: FrameType, kind: type[_Node]) -> list[_Node]:
    try:
        tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    return [node for node in ast.walk(tree) if isinstance(node, kind)]


def _value(expression: ast.expr, frame: FrameType) -> Any:
    """The value of a name or of a chain of attributes such as ``self.raft.lock``; ``None`` for any other expression."""
    if isinstance(expression, ast.Name):
        return frame.f_locals.get(expression.id, frame.f_globals.get(expression.id))
    if isinstance(expression, ast.Attribute):
        owner = _value(expression.value, frame)
        try:
            fields = object.__getattribute__(owner, "__dict__")
        except AttributeError:
            return None
        return fields.get(expression.attr)
    return None


def _lock_in(value: Any) -> Any:
    """``value`` if it is a lock; the lock of ``value`` if it is a ``Condition``; else ``None``."""
    if isinstance(value, threading.Condition):
        value = value._lock  # type: ignore[attr-defined]
    return value if isinstance(value, _LOCKS) else None


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"
