"""Pointing at the student's own line: tracebacks, stacks and lock graphs, told without the framework's frames."""

from __future__ import annotations

import os
import traceback
from collections.abc import Collection, Iterable
from types import FrameType, TracebackType

from raftlab.host import kernel as _k
from raftlab.host.primitives import Gate, Lock, Site

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_MAX_DETAIL = 8_000  # characters; a traceback of a deep recursion is cut, not shipped


def line_of(site: Site | None) -> str:
    """``file:line`` of a place in compiled code."""
    if site is None:
        return "an unknown line"
    code, instruction = site
    for index, position in enumerate(code.co_positions()):
        if index == instruction // 2:
            return f"{code.co_filename}:{position[0]}"
    return f"{code.co_filename}:{code.co_firstlineno}"


def where(trace: TracebackType | None, files: Collection[str]) -> str:
    """The last place of a traceback that is in the student's files, as ``file:line``; empty if there is none."""
    found = ""
    for frame, line in traceback.walk_tb(trace):
        if frame.f_code.co_filename in files:
            found = f"{frame.f_code.co_filename}:{line}"
    return found


def where_frame(frame: FrameType | None, files: Collection[str]) -> str:
    """The innermost place of a running stack that is in the student's files."""
    while frame is not None:
        if frame.f_code.co_filename in files:
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def story(exc: BaseException, files: Collection[str]) -> str:
    """The traceback from the student's first line on, without the framework's frames above and below it."""
    trace = exc.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename not in files:
        trace = trace.tb_next
    shown = traceback.TracebackException(type(exc), exc, trace or exc.__traceback__, limit=30)
    # An argument that CPython refuses too is refused in a substitute of ours: end at the line that called it.
    while len(shown.stack) > 1 and shown.stack[-1].filename.startswith(_OURS):
        shown.stack.pop()
    return "".join(shown.format())[-_MAX_DETAIL:]


def sentence(exc: BaseException) -> str:
    """``TypeError: …`` on one line, never too long."""
    text = "".join(traceback.format_exception_only(type(exc), exc)).strip().splitlines()
    return (text[-1] if text else type(exc).__name__)[:300]


def deadlock(task: _k.Task, files: Collection[str]) -> list[str]:
    """Who waits for whom, if ``task`` waits (directly or not) on a circle of locks; else nothing."""
    chain: list[_k.Task] = []
    seen: set[int] = set()
    here: _k.Task | None = task
    while here is not None and here.ident not in seen:
        lock = here.waiting_for
        if not isinstance(lock, Lock):
            return []
        seen.add(here.ident)
        chain.append(here)
        here = lock.holder
    if here is None:
        return []
    circle = chain[chain.index(here) :]
    return [_waits(member) for member in circle]


def _waits(task: _k.Task) -> str:
    lock = task.waiting_for
    holder = lock.holder
    who = "it took itself" if holder is task else f"{holder.role} took"
    return f"{task.role} waits at {line_of(task.waiting_site)} for a lock that {who} at {line_of(lock.site)}"


def stacks(tasks: Iterable[_k.Task], files: Collection[str]) -> str:
    """One line a blocked thread: where it stands and what for."""
    lines = []
    for task in tasks:
        place = where_frame(task.glet.gr_frame, files) or "the framework"
        waiting = task.waiting_for
        if isinstance(waiting, Gate):
            waiting = "a lock"
        lines.append(f"{task.role} at {place}" + (f", waiting for {waiting}" if waiting else ""))
    return "\n".join(lines)[:_MAX_DETAIL]
