"""Reports that name the student's own lines: tracebacks, stacks and deadlocks without the framework's frames."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection, Iterable
from types import FrameType, TracebackType

from raftlab.host.kernel import Task
from raftlab.host.primitives import Lock, Site, UntrackedLock, site

# The folder of the framework's own code in a host process.
_HOST_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MAX_DETAIL = 8_000  # characters of a report; the traceback of a deep recursion can be longer


def line_of(site: Site | None) -> str:
    """``site`` as ``file:line``."""
    if site is None:
        return "an unknown line"
    code, instruction = site
    for index, position in enumerate(code.co_positions()):
        if index == instruction // 2:
            return f"{code.co_filename}:{position[0]}"
    return f"{code.co_filename}:{code.co_firstlineno}"


def last_line(trace: TracebackType | None, files: Collection[str]) -> str:
    """Of the lines in a traceback, the last one in a file of ``files``, as ``file:line``; empty if there is none."""
    place = ""
    for frame, line in traceback.walk_tb(trace):
        if frame.f_code.co_filename in files:
            place = f"{frame.f_code.co_filename}:{line}"
    return place


def innermost_line(frame: FrameType | None, files: Collection[str]) -> str:
    """Of the lines on a running stack, the innermost one in a file of ``files``, as ``file:line``; empty if there is
    none."""
    while frame is not None:
        if frame.f_code.co_filename in files:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def student_traceback(exc: BaseException, files: Collection[str]) -> str:
    """The traceback from the first frame in one of ``files``, without the framework's frames before and after."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename not in files:
        trace = trace.tb_next
    shown = traceback.TracebackException(type(exc), exc, trace or exc.__traceback__, limit=30)
    # The substitutes raise what CPython raises for a bad argument. End the traceback at the line that called them.
    while len(shown.stack) > 1 and shown.stack[-1].filename.startswith(_HOST_FOLDER):
        shown.stack.pop()
    return "".join(shown.format())[-_MAX_DETAIL:]


def one_line(exc: BaseException) -> str:
    """``TypeError: …`` on one line, shortened if it is very long."""
    text = "".join(traceback.format_exception_only(type(exc), exc)).strip().splitlines()
    return (text[-1] if text else type(exc).__name__)[:300]


def deadlock(task: Task) -> list[str]:
    """The cycle of locks that ``task`` waits for, directly or indirectly, one line per task; empty if there is none."""
    chain: list[Task] = []
    current: Task | None = task
    while current is not None and current not in chain:
        lock = current.waiting_for
        if not isinstance(lock, Lock):
            return []
        chain.append(current)
        current = lock.holder
    if current is None:
        return []
    cycle = chain[chain.index(current) :]
    return [_describe_wait(member) for member in cycle]


def _describe_wait(task: Task) -> str:
    lock = task.waiting_for
    holder = lock.holder
    taken = "it took itself" if holder is task else f"{holder.role} took"
    frame = task.glet.gr_frame
    while frame is not None and frame.f_code.co_filename.startswith(_HOST_FOLDER):
        frame = frame.f_back
    wanted = line_of(site(frame) if frame is not None else None)
    return f"{task.role} waits at {wanted} for a lock that {taken} at {line_of(lock.site)}"


def describe_threads(tasks: Iterable[Task], files: Collection[str]) -> str:
    """One line per blocked thread: where it is and what it waits for."""
    lines = []
    for task in tasks:
        place = innermost_line(task.glet.gr_frame, files) or "the framework"
        waiting = task.waiting_for
        if isinstance(waiting, UntrackedLock):
            waiting = "a lock"
        lines.append(f"{task.role} at {place}" + (f", waiting for {waiting}" if waiting else ""))
    return "\n".join(lines)[:_MAX_DETAIL]
