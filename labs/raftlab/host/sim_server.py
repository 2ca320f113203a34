"""One server in the simulator: the common stub, with the kernel's tasks for threads.

Every call into student code (construction, a handler, a harness call) is a separate task, so handlers run concurrently,
as the contract says. All effects go through ``kernel.emit``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from raftlab.host import student_frames
from raftlab.host.kernel import Incarnation, Kernel, Task
from raftlab.host.loader import Loader, Program
from raftlab.host.server import Server
from raftlab.host.stdlib import LIBRARY_THREADING, RefusedCall
from raftlab.messages import protocol


class SimServer(Server):
    """One incarnation.

    ``entries`` are the tasks of its handlers and harness calls that have not returned, by task ident. ``calls`` are the
    tasks that wait for the reply to an RPC, by the RPC's number.
    """

    def __init__(self, kernel: Kernel, program: Program, boot: protocol.Boot) -> None:
        super().__init__(boot, {program.filename(path) for path in program.submission.modules.values()})
        self.kernel = kernel
        self.incarnation = Incarnation(boot.server, kernel.now, boot.rate)
        self.calls: dict[int, Task] = {}
        self.last_rpc = 0
        self.entries: dict[int, Task] = {}
        self._active_threads: dict[int, object] = program.copies[LIBRARY_THREADING].__dict__["_active"]
        self._advised: set[tuple[str, str]] = set()
        self._loader = Loader(program, kernel, self.incarnation, boot.seed, self.refuse)
        self.start()

    def emit(self, effect: protocol.Effect) -> None:
        self.kernel.emit(effect)

    def load(self) -> ModuleType:
        return self._loader.load()

    def send_request(self, target: int, method: str, payload: bytes) -> bytes | None:
        kernel = self.kernel
        task = kernel.current
        if task.held:
            self.advise_held_lock(task, f"peers[{target}].call")
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
                # The library made an entry for this thread if it called `current_thread()`, and would never remove it.
                self._active_threads.pop(task.ident, None)

        task = self.kernel.spawn(self.incarnation, role, guarded)
        self.entries[task.ident] = task

    def delay(self, seconds: float) -> None:
        self.kernel.block(seconds)

    def before_put(self) -> None:
        task = self.kernel.current
        if task.held:
            self.advise_held_lock(task, "apply_ch.put")

    def refuse(self, what: str, why: str) -> NoReturn:
        """Report that student code used ``what``, which cannot be replayed, and raise :class:`RefusedCall`."""
        where = student_frames.innermost_line(sys._getframe(1), self.files)
        text = f"{what} cannot be used here: {why}"
        self.fault("refused-call", f"S{self.id}: {text}", where)
        raise RefusedCall(text)

    def advise_held_lock(self, task: Task, what: str) -> None:
        """Advise that ``task`` holds a lock across ``what``, which is slow. This is not a failure."""
        lock = task.held[-1]
        place = student_frames.line_of(lock.site)
        where = student_frames.innermost_line(sys._getframe(1), self.files)
        if (what, where) not in self._advised:
            self._advised.add((what, where))
            text = f"the lock taken at {place} is held across {what}"
            self.kernel.emit(protocol.Advice(self.id, "held-lock", text, where))
