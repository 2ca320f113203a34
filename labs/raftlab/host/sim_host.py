"""The simulator's host: all servers of one run in one process, in lock step with the judge.

:meth:`SimHost.step` is the whole of it: handle the events that are due, run every thread until it blocks, jump to the
next timer, and come back as soon as the judge has to know something.
"""

from __future__ import annotations

import math
import sys
from types import FrameType
from typing import Any

from raftlab import api
from raftlab.host import kernel as _k
from raftlab.host import student_frames
from raftlab.host.loader import Program
from raftlab.host.output import Sink, Stdout, route_logging
from raftlab.host.sim_server import SimServer
from raftlab.host.stdlib import LIBRARY_THREADING
from raftlab.messages import protocol
from raftlab.seeds import derive

# A harness call or a handler that has not answered for this long (virtual seconds) is looked at. If it waits on a
# circle of locks, it never will answer. If it merely waits, it is given longer: a handler may well be in a call of
# its own, and that takes up to 7 s towards a dead server.
LOOK_EVERY = 1.0
DEADLOCKED_AFTER = 2.0
SILENT_AFTER = 20.0


class SimHost:
    """One run. Installs its kernel as the process's."""

    def __init__(self, program: Program, seed: int, preempt: bool) -> None:
        self.kernel = _k.Kernel(seed, preempt)
        _k.install(self.kernel)
        self.kernel.on_busy = self._busy
        self.kernel.on_flood = self._flood
        self.kernel.on_uncaught = lambda exc: self._thread_died(exc, "a thread")
        self.kernel.on_held = self._held
        self._program = program
        self._servers: dict[int, SimServer] = {}
        self._sink = Sink(lambda topic, text: self.kernel.emit(protocol.LogLine(self._writing(), topic, text)))
        threading: Any = program.copies[LIBRARY_THREADING]
        threading.excepthook = self._excepthook
        api._sink = self._log
        route_logging(program.copies["logging"], self._log)
        self.kernel.at(LOOK_EVERY, self._look)

    # --- the lock step ---

    def step(self, frame: protocol.StepRequest) -> protocol.StepResult:
        kernel = self.kernel
        effects: list[tuple[float, protocol.Effect]] = []
        kernel.effects = effects
        kernel.urgent = False
        due = frame.due
        consumed, count = 0, len(due)
        limit = frame.until
        while True:
            when = due[consumed][0] if consumed < count else math.inf
            timer = kernel.next_timer()
            if timer is not None and timer < when:
                when = timer
            if when > limit:
                now = limit
                break
            if when > kernel.now:
                kernel.now = when
            while consumed < count and due[consumed][0] <= kernel.now:
                self._handle(due[consumed][1])
                consumed += 1
            kernel.fire_timers()
            kernel.run_ready()
            if kernel.urgent:
                now = kernel.now
                break
            if effects:
                limit = min(limit, effects[0][0] + frame.lookahead)
        if now > kernel.now:
            kernel.now = now
        return protocol.StepResult(kernel.now, consumed, effects, kernel.next_timer())

    def _handle(self, event: protocol.Event) -> None:
        if type(event) is protocol.Boot:
            self._servers[event.server] = SimServer(self.kernel, self._program, event)
            return
        if isinstance(event, protocol.Reseed):
            self._reseed(event.seed)
            return
        server = self._servers.get(event.server)
        if server is None or not server.owner.alive:
            return
        # The first two are nearly all there is.
        match event:
            case protocol.Reply():
                server.reply(event)
            case protocol.Request() | protocol.Call():
                server.deliver(event)
            case protocol.Crash():
                self.kernel.kill(server.owner)
            case protocol.Pause():
                self.kernel.pause(server.owner)
            case protocol.Resume():
                self.kernel.resume(server.owner)
            case protocol.ClockRate():
                server.owner.set_rate(event.rate, self.kernel.now)
            case protocol.SlowApply():
                server.slow_apply = event.seconds
            case protocol.FailSaves():
                server.fail_saves(event.count)

    def _reseed(self, seed: int) -> None:
        self.kernel.reseed(derive(seed, "kernel"))
        for server in self._servers.values():
            if server.owner.random is not None:
                server.owner.random.seed(derive(seed, "server", server.id))

    # --- watching the student's code ---

    def _current(self) -> SimServer | None:
        return self._servers.get(self.kernel.current.owner.server)

    def _look(self) -> None:
        """Once a second: is anything waiting that will never be answered?"""
        kernel = self.kernel
        kernel.at(kernel.now + LOOK_EVERY, self._look)
        for server in self._servers.values():
            if not server.owner.alive or server.owner.paused:
                continue
            for task in list(server.entries.values()):
                waited = kernel.now - task.since
                if waited >= DEADLOCKED_AFTER and (circle := student_frames.deadlock(task, server.files)):
                    text = f"S{server.id}: deadlock: {task.role} has not answered for {waited:.0f} s and never will"
                    server.fault("deadlock", text, "", "\n".join(circle))
                    return
                # Someone else may be in a call and hold what this thread waits for, so only full silence counts.
                if waited >= SILENT_AFTER and task.waiting_for not in ("a reply", "sleep"):
                    text = f"S{server.id}: {task.role} has not answered for {waited:.0f} s"
                    where = student_frames.where_frame(task.glet.gr_frame, server.files)
                    mine = (other for other in kernel.tasks.values() if other.owner is server.owner)
                    server.fault("no-answer", text, where, student_frames.stacks(mine, server.files))
                    return

    def no_breakpoint(self, *args: object, **kwargs: object) -> None:
        """``breakpoint()`` where no terminal is: say how to get one."""
        server = self._current()
        if server is not None:
            server.refuse("breakpoint()", "nobody is there to type; it works under `raftlab test --pdb`")

    def _busy(self, frame: FrameType) -> None:
        server = self._current()
        assert server is not None
        task = self.kernel.current
        where = student_frames.where_frame(frame, server.files)
        text = f"S{server.id}: {task.role} runs and runs without ever waiting, so the clock stands still"
        server.fault("busy-loop", text, where)
        self.kernel.kill(server.owner)
        self.kernel._next_greenlet().switch()

    def _flood(self, what: str) -> None:
        server = self._current()
        assert server is not None
        task = self.kernel.current
        where = student_frames.where_frame(sys._getframe(1), server.files)
        server.fault("flood", f"S{server.id}: {task.role} {what}", where)
        self.kernel.kill(server.owner)
        self.kernel._next_greenlet().switch()

    def _excepthook(self, args: Any) -> None:
        if args.exc_type is not SystemExit:
            self._thread_died(args.exc_value, f"thread {args.thread.name!r}" if args.thread else "a thread")

    def _thread_died(self, exc: BaseException, role: str) -> None:
        server = self._current()
        if server is not None:
            server.uncaught(exc, role)

    def _held(self, task: _k.Task, what: str) -> None:
        server = self._current()
        if server is not None:
            server.advise_held(task, what)

    # --- what the student writes ---

    def _log(self, topic: str, text: str) -> None:
        if self._current() is not None:
            self._sink.log(topic, text)

    def _writing(self) -> int:
        server = self._current()
        assert server is not None
        return server.id

    def stdout(self, topic: str) -> Stdout:
        """A stand-in for ``sys.stdout`` and the like, with a line under construction for each incarnation."""

        def writer() -> int | None:
            task = self.kernel.current
            return None if task is None else id(task.owner)

        return Stdout(self._log, topic, writer)
