"""One server inside the simulator's host: the common stub, with tasks of the kernel for threads.

Every entry into student code (construction, a handler, a harness call) is a task of its own, so handlers run
concurrently as the contract says. Whatever the student's code does leaves through ``kernel.emit``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from raftlab.host import kernel as _k
from raftlab.host import student_frames
from raftlab.host.loader import Loader, Program
from raftlab.host.server import Server
from raftlab.host.stdlib import LIBRARY_THREADING, RefusedCall
from raftlab.messages import protocol


class SimServer(Server):
    """One incarnation. ``entries`` are its unanswered handlers and harness calls: when each began and its task."""

    def __init__(self, kernel: _k.Kernel, program: Program, boot: protocol.Boot) -> None:
        super().__init__(boot, {program.filename(path) for path in program.submission.modules.values()})
        self.kernel = kernel
        self.owner = _k.Owner(boot.server, boot.incarnation, kernel.now, boot.rate)
        self.calls: dict[int, _k.Task] = {}
        self.last_rpc = 0
        self.entries: dict[int, _k.Task] = {}
        self._active_threads: dict[int, object] = program.copies[LIBRARY_THREADING].__dict__["_active"]
        self._advised: set[tuple[str, str]] = set()
        self._loader = Loader(program, kernel, self.owner, boot.seed, self.refuse)
        self.start()

    def emit(self, effect: protocol.Effect) -> None:
        self.kernel.emit(effect)

    def load(self) -> ModuleType:
        return self._loader.load()

    def ask(self, target: int, method: str, payload: bytes) -> bytes | None:
        kernel = self.kernel
        task = kernel.current
        if task.held:
            self.advise_held(task, f"peers[{target}].call")
        self.last_rpc += 1
        rpc = self.last_rpc
        self.calls[rpc] = task
        kernel.emit(protocol.Send(self.id, rpc, target, method, payload))
        task.waiting_for = "a reply"
        kernel.block()
        task.waiting_for = None
        data: bytes | None
        data, task.value = task.value, None
        return data

    def reply(self, event: protocol.Reply) -> None:
        task = self.calls.pop(event.caller_rpc, None)
        if task is not None:
            task.value = event.payload
            self.kernel.wake(task)

    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        def guarded() -> None:
            try:
                run(*args)
            except BaseException as exc:
                self.uncaught(exc, role)
            finally:
                self.entries.pop(task.ident, None)
                # If it asked for `current_thread()`, the library made a stand-in for it that nobody else takes away.
                self._active_threads.pop(task.ident, None)

        task = self.kernel.spawn(self.owner, role, guarded)
        self.entries[task.ident] = task

    def linger(self, seconds: float) -> None:
        self.kernel.block(seconds)

    def before_put(self) -> None:
        task = self.kernel.current
        if task.held:
            self.advise_held(task, "apply_ch.put")

    def refuse(self, what: str, why: str) -> NoReturn:
        where = student_frames.where_frame(sys._getframe(1), self.files)
        text = f"{what} cannot be used here: {why}"
        self.fault("refused-call", f"S{self.id}: {text}", where)
        raise RefusedCall(text)

    def advise_held(self, task: _k.Task, what: str) -> None:
        """A lock is held across something slow: worth telling, no failure."""
        lock = task.held[-1]
        place = student_frames.line_of(lock.site)
        where = student_frames.where_frame(sys._getframe(1), self.files)
        if (what, where) not in self._advised:
            self._advised.add((what, where))
            text = f"the lock taken at {place} is held across {what}"
            self.kernel.emit(protocol.Advice(self.id, "held-lock", text, where))
