"""All servers of one simulated run in one process, in lock step with the judge.

Everything happens in :meth:`SimHost.step`: it handles the events that are due, runs every thread until it blocks, jumps
to the next timer, and returns as soon as the judge's next decision may depend on what happened.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from types import FrameType
from typing import Any

from raftlab import api
from raftlab.host import kernel as kernels
from raftlab.host import student_frames
from raftlab.host.kernel import Kernel, Task
from raftlab.host.loader import Program
from raftlab.host.output import Sink, Stdout, route_logging
from raftlab.host.races.findings import Findings
from raftlab.host.sim_server import SimServer
from raftlab.host.stdlib import LIBRARY_THREADING
from raftlab.messages import protocol
from raftlab.seeds import derive

# Virtual seconds between two searches for calls and handlers that have not returned.
CHECK_INTERVAL = 1.0
# A harness call or handler that waits in a cycle of locks will never return. After this many virtual seconds it is
# reported as a fault.
DEADLOCK_TIMEOUT = 2.0
# The same limit for a call or handler that does not wait in a cycle of locks. It is longer, because the call may wait for
# a lock that another thread holds across RPCs, each of which takes up to 7 s if the other server is dead.
ANSWER_TIMEOUT = 20.0


class SimHost:
    """One run. Its kernel becomes the kernel of the process."""

    def __init__(self, program: Program, seed: int, schedule: str = "none") -> None:
        self._findings: Findings | None = None
        if program.races is None:
            self.kernel = Kernel(seed, schedule)
        else:
            self.kernel, self._findings = program.races.kernel(seed, schedule, program.copies)
        kernels.install(self.kernel)
        self.kernel.on_busy = self._report_busy_loop
        self.kernel.on_flood = self._report_flood
        self.kernel.on_crowd = self._report_crowd
        self.kernel.on_uncaught = lambda exc: self._thread_died(exc, "a thread")
        self.kernel.on_wait_with_lock = self._advise_held_lock
        self.kernel.shared_locks = program.shared_locks
        self._program = program
        self._servers: dict[int, SimServer] = {}
        self._sink = Sink(lambda topic, text: self.kernel.emit(protocol.LogLine(self._current_number(), topic, text)))
        threading: Any = program.copies[LIBRARY_THREADING]
        threading.excepthook = self._excepthook
        api._sink = self._log
        route_logging(program.copies["logging"], self._log)
        self.kernel.call_at(CHECK_INTERVAL, self._check_answers)

    # --- the lock step ---

    def step(self, step: protocol.StepRequest) -> protocol.StepResult:
        """Perform one step: run up to ``step.until``, or until the judge's next decision may depend on what happened."""
        kernel = self.kernel
        effects: list[tuple[float, protocol.Effect]] = []
        kernel.effects = effects
        kernel.urgent = False
        due = step.due
        consumed, count = 0, len(due)
        limit = step.until
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
                limit = min(limit, effects[0][0] + step.lookahead)
        if now > kernel.now:
            kernel.now = now
        findings = [] if self._findings is None else self._findings.take()
        return protocol.StepResult(kernel.now, consumed, effects, kernel.next_timer(), findings)

    def _handle(self, event: protocol.Event) -> None:
        if type(event) is protocol.Boot:
            before = self._servers.get(event.server)
            self._servers[event.server] = SimServer(
                self.kernel, self._program, event, None if before is None else before.incarnation
            )
            return
        if isinstance(event, protocol.Reseed):
            self._reseed(event.seed)
            return
        server = self._servers.get(event.server)
        if server is None or not server.incarnation.alive:
            return
        # Nearly all events are replies, requests and calls. Comparing the type is faster than `isinstance` or a class
        # pattern: these two take 0.1 microseconds for an event of another class.
        if type(event) is protocol.Reply:
            server.reply(event)
            return
        if type(event) is protocol.Request or type(event) is protocol.Call:
            server.deliver(event)
            return
        match event:
            case protocol.Crash():
                self.kernel.kill(server.incarnation)
            case protocol.Pause():
                self.kernel.pause(server.incarnation)
            case protocol.Resume():
                self.kernel.resume(server.incarnation)
            case protocol.ClockRate():
                server.incarnation.set_rate(event.rate, self.kernel.now)
            case protocol.SlowApply():
                server.slow_apply = event.seconds
            case protocol.Taken():
                server.taken(event)
            case protocol.FailSaves():
                server.fail_saves(event.count)

    def _reseed(self, seed: int) -> None:
        self.kernel.reseed(derive(seed, "kernel"))
        for server in self._servers.values():
            if server.incarnation.random is not None:
                server.incarnation.random.seed(derive(seed, "server", server.id))

    # --- finding faults ---

    def _current(self) -> SimServer | None:
        """The server whose code is running."""
        return self._servers.get(self.kernel.current.incarnation.server)

    def _check_answers(self) -> None:
        """Report each handler or harness call that has not returned in time."""
        kernel = self.kernel
        kernel.call_at(kernel.now + CHECK_INTERVAL, self._check_answers)
        for server in self._servers.values():
            if not server.incarnation.alive or server.incarnation.paused:
                continue
            for task in list(server.entries.values()):
                waited = kernel.now - task.since
                if waited >= DEADLOCK_TIMEOUT and (cycle := student_frames.deadlock(task)):
                    text = f"{server.name}: deadlock: {task.role} has not answered for {waited:.0f} s and never will"
                    server.fault("deadlock", text, "", "\n".join(cycle))
                    return
                # There is no limit for a clerk's operation: it may wait until a majority can be reached again.
                if server.clerk is not None:
                    continue
                # This limit is the longer one: if the task waits for a lock, the lock's holder may be waiting for a reply.
                if waited >= ANSWER_TIMEOUT and task.waiting_for not in ("a reply", "sleep"):
                    text = f"{server.name}: {task.role} has not answered for {waited:.0f} s"
                    where = student_frames.innermost_line(task.glet.gr_frame, server.files)
                    own = (other for other in kernel.tasks.values() if other.incarnation is server.incarnation)
                    server.fault("no-answer", text, where, student_frames.describe_threads(own, server.files))
                    return

    def refuse_breakpoint(self, *args: object, **kwargs: object) -> None:
        """``sys.breakpointhook`` where there is no terminal."""
        server = self._current()
        if server is not None:
            server.refuse("breakpoint()", "there is no terminal to read from; it works under `raftlab test --pdb`")

    def _report_busy_loop(self, frame: FrameType) -> None:
        server = self._current()
        assert server is not None
        task = self.kernel.current
        where = student_frames.innermost_line(frame, server.files)
        text = f"{server.name}: {task.role} keeps running without ever waiting, so the clock stands still"
        server.fault("busy-loop", text, where)
        self.kernel.kill(server.incarnation)
        self.kernel._next_greenlet().switch()

    def _report_flood(self, what: str) -> None:
        server = self._current()
        if server is None:
            return  # this effect is not from a server's code; the kernel looks again before long
        task = self.kernel.current
        where = student_frames.innermost_line(sys._getframe(1), server.files)
        server.fault("flood", f"{server.name}: {task.role} {what}", where)
        self.kernel.kill(server.incarnation)
        self.kernel._next_greenlet().switch()

    def _report_crowd(self, what: str) -> None:
        """Report the server that has the most threads. It need not be the one whose code runs; when a message arrives,
        no server's code runs."""
        kernel = self.kernel
        number, _ = Counter(task.incarnation.server for task in kernel.tasks.values()).most_common(1)[0]
        server, current = self._servers[number], kernel.current
        own = current.incarnation is server.incarnation
        where = student_frames.innermost_line(sys._getframe(1), server.files) if own else ""
        server.fault("flood", f"{server.name}: {current.role if own else 'your code'} {what}", where)
        kernel.kill(server.incarnation)
        if own:
            kernel._next_greenlet().switch()

    def _excepthook(self, args: Any) -> None:
        if args.exc_type is not SystemExit:
            self._thread_died(args.exc_value, f"thread {args.thread.name!r}" if args.thread else "a thread")

    def _thread_died(self, exc: BaseException, role: str) -> None:
        server = self._current()
        if server is not None:
            server.uncaught(exc, role)

    def _advise_held_lock(self, task: Task, what: str) -> None:
        server = self._current()
        if server is not None:
            server.advise_held_lock(task, what)

    # --- output ---

    def _log(self, topic: str, text: str) -> None:
        if self._current() is not None:
            self._sink.log(topic, text)

    def _current_number(self) -> int:
        server = self._current()
        assert server is not None
        return server.id

    def stdout(self, topic: str) -> Stdout:
        """A replacement for ``sys.stdout`` or ``sys.stderr``, which buffers the unfinished line of each incarnation."""
        return Stdout(self._log, topic, lambda: id(self.kernel.current.incarnation))
