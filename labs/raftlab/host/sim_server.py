"""One server in the simulator: the common server code, with the kernel's tasks as threads.

Every call into student code (construction, a handler, a harness call) is a separate task, so handlers run concurrently,
as the contract says. All effects go through ``kernel.emit``.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn

from raftlab.host import student_frames
from raftlab.host.kernel import Incarnation, Kernel, Task
from raftlab.host.loader import Loader, Program
from raftlab.host.primitives import perhaps_preempt
from raftlab.host.server import Server
from raftlab.host.stdlib import LIBRARY_THREADING, RefusedCall
from raftlab.messages import protocol


class SimServer(Server):
    """One incarnation.

    ``entries`` holds the tasks of handlers and harness calls that have not returned, by task ident. ``calls`` holds the
    tasks that wait for the reply to an RPC, by the number of the RPC.
    """

    def __init__(self, kernel: Kernel, program: Program, boot: protocol.Boot, before: Incarnation | None) -> None:
        super().__init__(boot, {program.filename(path) for path in program.submission.modules.values()})
        self.kernel = kernel
        self.incarnation = Incarnation(boot.server, kernel.now, boot.rate, before)
        self.calls: dict[int, Task] = {}
        self.last_rpc = 0
        self._putting: deque[Task] = deque()
        self.entries: dict[int, Task] = {}
        self._active_threads: dict[int, object] = program.copies[LIBRARY_THREADING].__dict__["_active"]
        self._advised: set[tuple[str, str]] = set()
        self._queue_class: Any = program.copies["queue"].__dict__["SimpleQueue"]
        self._sync_points: dict[str, int] = {}
        prepared = None if program.stock is None else program.stock.take(boot.role)
        if prepared is None:
            self._loader = Loader(program)
        else:
            self._loader, self.codec, self._sync_points = prepared
            self.codec_is_ready = True
        self._loader.begin(kernel, self.incarnation, boot.seed, self.refuse)
        self.start()

    def emit(self, effect: protocol.Effect) -> None:
        self.kernel.emit(effect)

    def load(self, name: str) -> ModuleType:
        module = self._loader.load(name)
        for _ in range(self._sync_points.pop(name, 0)):
            perhaps_preempt()
        return module

    def make_queue(self) -> Any:
        return self._queue_class()

    def send_request(self, target: int, method: str, payload: bytes) -> bytes | None:
        kernel = self.kernel
        task = kernel.current
        if task.held:
            self.advise_held_lock(task, f"peers[{target}].call")
        if kernel.sync_tick():
            kernel.preempt()
        rpc = self.last_rpc = self.last_rpc + 1
        self.calls[rpc] = task
        kernel.emit(protocol.Send(self.id, rpc, target, method, payload))
        task.waiting_for = "a reply"
        kernel.block()
        task.waiting_for = None
        data: bytes | None
        data, task.value = task.value, None
        if kernel.sync_tick():
            kernel.preempt()
        return data

    def reply(self, event: protocol.Reply) -> None:
        task = self.calls.pop(event.caller_rpc, None)
        if task is not None:
            task.value = event.payload
            self.kernel.wake(task)

    def emit_and_wait(self, effect: protocol.Apply) -> protocol.Taken:
        kernel = self.kernel
        task = kernel.current
        self._putting.append(task)
        kernel.emit(effect)
        task.waiting_for = "the service"
        kernel.block()
        task.waiting_for = None
        taken, task.value = task.value, None
        assert isinstance(taken, protocol.Taken)
        return taken

    def taken(self, event: protocol.Taken) -> None:
        task = self._putting.popleft()
        task.value = event
        self.kernel.wake(task)

    def enter(self, role: str, run: Callable[..., None], *args: Any) -> None:
        def guarded() -> None:
            try:
                run(*args)
            except BaseException as exc:
                self.uncaught(exc, role)
            finally:
                self.entries.pop(task.ident, None)
                # If this thread called `current_thread()`, the library has made an entry for it, and nothing else
                # removes that entry.
                self._active_threads.pop(task.ident, None)

        task = self.kernel.spawn(self.incarnation, role, guarded)
        self.entries[task.ident] = task

    def delay(self, seconds: float) -> None:
        self.kernel.block(seconds)

    def before_put(self) -> None:
        task = self.kernel.current
        if task.held:
            self.advise_held_lock(task, "apply_ch.put")

    def before_raft(self, what: str) -> None:
        task = self.kernel.current
        if task.held:
            self.advise_held_lock(task, what)

    def before_save(self) -> None:
        # While this thread holds a lock, a preemption would reveal nothing: other threads that use the lock have to wait.
        if not self.kernel.current.held:
            perhaps_preempt()

    def after_put(self) -> None:
        perhaps_preempt()

    def sending(self, args: Any) -> None:
        if self.kernel.detector is not None:
            self.kernel.detector.use_message(args)

    def using(self, what: str, changed: bool) -> None:
        if self.kernel.detector is not None:
            self.kernel.detector.use_service(what, changed)

    def refuse(self, what: str, why: str) -> NoReturn:
        """Report that student code used ``what``, which cannot be replayed, and raise :class:`RefusedCall`."""
        where = student_frames.innermost_line(sys._getframe(1), self.files)
        text = f"{what} cannot be used here: {why}"
        self.fault("refused-call", f"{self.name}: {text}", where)
        raise RefusedCall(text)

    def advise_held_lock(self, task: Task, what: str) -> None:
        """Advise that ``task`` holds a lock during ``what``, which is slow. This is not a failure."""
        lock = task.held[-1]
        place = student_frames.line_of(lock.site)
        where = student_frames.innermost_line(sys._getframe(1), self.files)
        if (what, where) not in self._advised:
            self._advised.add((what, where))
            text = f"the lock taken at {place} is held across {what}"
            self.kernel.emit(protocol.Advice(self.id, "held-lock", text, where))
