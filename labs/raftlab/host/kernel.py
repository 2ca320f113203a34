"""The deterministic scheduler: threads as greenlets, time as a number.

One thread (a :class:`Task`) runs at a time and gives way only where the kernel says so: when it blocks, and at the
switch points woven into student code. Which of several ready tasks runs next, where a task is preempted and for how
long, come from one seeded generator, so a seed is a schedule. When no task can run, the clock jumps to the next timer.

Nothing here knows about Raft, messages or Python's threading module; :mod:`raftlab.host.stdlib` builds the latter's
primitives on :meth:`Kernel.block` and :meth:`Kernel.wake`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from heapq import heappop, heappush
from itertools import chain, repeat
from types import FrameType, ModuleType
from typing import Any

from greenlet import getcurrent, greenlet

from raftlab.messages.protocol import URGENT, Apply, Effect

# Statements that may run at one instant of virtual time before the kernel calls it a busy loop. About a second of
# CPU: a correct Raft that walks a log of 100,000 entries a few dozen times within one handler stays far below.
BUSY_POINTS = 10_000_000

# How often a run preempts, as the chance at each switch point. Chosen once a run: some runs hardly disturb the code,
# some shake it hard. A preempted thread stands aside for a moment of virtual time, as if the operating system had
# taken the processor away; half of the time for no time at all (only others ready at the same instant go first).
PREEMPT_RATES = (0.0, 1 / 2000, 1 / 300, 1 / 60)
PREEMPT_MEAN = 0.000_5
PREEMPT_MAX = 0.010

# A wait with a time limit ends this much late, in seconds: never early, and never at the very instant that was asked for.
# Real clocks are like that, and code counts on it: `while now() <= deadline: cond.wait(deadline - now())` would wait for
# 0 seconds, for ever, if the wait could end exactly at the deadline.
LATE = 0.000_001

# The thread ident of whoever is not a task: the framework itself.
MAIN_IDENT = 1

# So many effects within one step, half a millisecond of virtual time, and the machine's memory would be next.
FLOOD = 5000
# But a server that restarts with a long log may apply all of it at once.
FLOOD_OF_APPLIES = 200_000
# As many threads in all servers together, and no machine would start another.
TASKS = 20_000
_STEP = 100_000  # switch points between two looks at the busy count when nothing preempts


class Owner:
    """Whatever tasks belong to: one incarnation of one server. Carries its clock and its modules."""

    def __init__(self, server: int, incarnation: int, now: float, rate: float = 1.0) -> None:
        self.server = server
        self.incarnation = incarnation
        self.alive = True
        self.paused = False
        self.parked: list[Task] = []
        self.modules: dict[str, ModuleType] = {}
        self.random: random.Random | None = None
        self.rate = rate
        # The local clock read `base_local` when virtual time was `base_now`. It starts well above zero, so that
        # "the last time I heard a leader" may be initialised to 0.
        self.base_local = 1000.0
        self.base_now = now

    def local(self, now: float) -> float:
        """What this server's clock shows, in local seconds."""
        return self.base_local + (now - self.base_now) * self.rate

    def set_rate(self, rate: float, now: float) -> None:
        self.base_local, self.base_now = self.local(now), now
        self.rate = rate


class Task:
    """One thread of student code. ``role`` says what it is for, in words a student knows."""

    __slots__ = (
        "blocked",
        "glet",
        "held",
        "ident",
        "on_end",
        "owner",
        "role",
        "since",
        "token",
        "value",
        "waiting_for",
        "waiting_site",
        "woken",
    )

    def __init__(self, glet: greenlet, owner: Owner, ident: int, role: str, since: float) -> None:
        self.glet = glet
        self.owner = owner
        self.ident = ident
        self.role = role
        self.since = since
        self.token = 0  # timers of an earlier block carry an older token and are void
        self.woken = False
        self.blocked = False
        self.held: list[Any] = []  # locks of the student's own, in the order taken
        self.waiting_for: Any = None  # a lock, or a word such as "reply"
        self.waiting_site: Any = None
        self.value: Any = None
        self.on_end: list[Callable[[], None]] = []


class Kernel:
    """The scheduler of one run. There is one per process; see :func:`install`."""

    def __init__(self, seed: int, preempt: bool) -> None:
        self.now = 0.0
        # In the scheduler itself, and before any run, a task that stands for the framework: it may take a free lock
        # (the library copies do, while they are imported) but never wait.
        self.nobody = Task(getcurrent(), Owner(-1, 0, 0.0), MAIN_IDENT, "the lab", 0.0)
        self.current = self.nobody
        self.effects: list[tuple[float, Effect]] = []
        self.urgent = False
        self.tasks: dict[int, Task] = {}
        # Hooks that the host's server side sets: a busy loop at this frame; an exception that ended a bare thread; a
        # thread about to wait ("time.sleep") while it holds locks.
        self.on_busy: Callable[[FrameType], None] = lambda frame: None
        self.on_flood: Callable[[str], None] = lambda what: None
        self.on_uncaught: Callable[[BaseException], None] = lambda exc: None
        self.on_held: Callable[[Task, str], None] = lambda task, what: None
        self._hub: greenlet = getcurrent()
        self._idle: list[greenlet] = []
        self._ready: list[Task] = []
        self._timers: list[tuple[float, int, Task | None, Any]] = []
        self._sequence = 0
        self._next_ident = 1000
        self._loaded: Owner | None = None
        # Greenlets of crashed servers. Letting one be collected would raise GreenletExit inside it and run its
        # `finally` blocks; a crash runs nothing.
        self._graveyard: list[greenlet] = []
        self._rng = random.Random(seed)
        self._rate = self._rng.choice(PREEMPT_RATES) if preempt else 0.0
        self._points = 0
        self._points_at = 0.0
        self._gap = 0
        # For `raftlab replay --pdb`: the moment (virtual seconds) to stop at, in whose code, and who is told.
        self._stop: tuple[float, frozenset[int] | None, Callable[[FrameType], None]] | None = None
        self._stopping = False
        # Called at each switch point in student code: a C-level iterator, because it runs between all statements.
        # True means "look closer": :meth:`switch_point`.
        self.tick: Callable[[], bool] = chain.from_iterable(self._gaps()).__next__

    def reseed(self, seed: int) -> None:
        """Who runs next, and who is preempted, comes from another seed from now on."""
        self._rng.seed(seed)

    # --- effects ---

    def emit(self, effect: Effect) -> None:
        self.effects.append((self.now, effect))
        if not len(self.effects) % FLOOD:
            self._look_for_flood()
        if type(effect) in URGENT:
            self.urgent = True

    def _look_for_flood(self) -> None:
        applies = sum(type(effect) is Apply for _, effect in self.effects)
        if len(self.effects) - applies >= FLOOD or applies >= FLOOD_OF_APPLIES:
            number = max(applies, len(self.effects) - applies)
            self.on_flood(f"sends, saves or applies without end: {number:,} times within half a millisecond")

    # --- tasks ---

    def spawn(self, owner: Owner, role: str, run: Callable[..., None], *args: Any) -> Task:
        """Make a task that will run ``run(*args)``; it becomes ready at once."""
        self._next_ident += 1
        if self._idle:
            glet = self._idle.pop()
            glet.gr_context = None  # context variables of the thread that ran here before
        else:
            glet = greenlet(self._life, self._hub)
        task = Task(glet, owner, self._next_ident, role, self.now)
        task.value = (run, args)
        self.tasks[task.ident] = task
        if len(self.tasks) == TASKS:
            self.on_flood(f"has started so many threads that {TASKS:,} are there now")
        self._make_ready(task)
        return task

    def _life(self) -> None:
        """A greenlet's life: one task after the other, because making a greenlet costs more than what most tasks do.
        ``run`` must not raise."""
        while True:
            task = self.current
            run, args = task.value
            task.value = None
            run(*args)
            del self.tasks[task.ident]
            for end in task.on_end:
                end()
            self._idle.append(task.glet)
            del task, run, args  # nothing of the student's is kept alive by an idle greenlet
            self._next_greenlet().switch()

    def kill(self, owner: Owner) -> None:
        """Forget every task of ``owner``: they never run again."""
        owner.alive = False
        owner.parked.clear()
        dead = [task for task in self.tasks.values() if task.owner is owner]
        for task in dead:
            task.token += 1
            del self.tasks[task.ident]
            self._graveyard.append(task.glet)
        self._ready = [task for task in self._ready if task.owner is not owner]

    def pause(self, owner: Owner) -> None:
        owner.paused = True
        owner.parked.extend(task for task in self._ready if task.owner is owner)
        self._ready = [task for task in self._ready if task.owner is not owner]

    def resume(self, owner: Owner) -> None:
        owner.paused = False
        parked, owner.parked = owner.parked, []
        self._ready.extend(parked)

    # --- blocking ---

    def block(self, timeout: float | None = None) -> bool:
        """Let others run until :meth:`wake` (True) or until ``timeout`` virtual seconds have passed (False)."""
        task = self.current
        assert task is not self.nobody, "only student threads block"
        task.token += 1
        task.woken = False
        task.blocked = True
        if timeout is not None:
            self._sequence += 1
            heappush(self._timers, (self.now + timeout + LATE, self._sequence, task, task.token))
        self._next_greenlet().switch()
        return task.woken

    def wake(self, task: Task) -> None:
        """End a task's wait; the caller keeps its own list of sleepers. A task whose time ran out at this very instant
        is ready already: it then learns that it was woken, and is not made ready twice."""
        task.woken = True
        if task.blocked:
            task.blocked = False
            task.token += 1
            self._make_ready(task)

    def give_way(self) -> None:
        """Let every other ready task have its turn first (``time.sleep(0)``)."""
        task = self.current
        if self._ready:
            self._ready.append(task)
            self._next_greenlet().switch()

    def perhaps_give_way(self) -> None:
        """:meth:`give_way` half of the time, in runs that preempt."""
        if self._rate and self._rng.random() < 0.5:
            self.give_way()

    def at(self, when: float, call: Callable[[], None]) -> None:
        """Call ``call`` (a framework function that does not block) at virtual time ``when``."""
        self._sequence += 1
        heappush(self._timers, (when, self._sequence, None, call))

    def _make_ready(self, task: Task) -> None:
        if not task.owner.paused:
            self._ready.append(task)
        elif task.owner.alive:
            task.owner.parked.append(task)

    def _next_greenlet(self) -> greenlet:
        """Choose who runs next, and make it current. The hub when nobody is ready."""
        ready = self._ready
        if not ready:
            self.current = self.nobody
            return self._hub
        if len(ready) == 1:
            task = ready.pop()
        else:
            task = ready.pop(int(self._rng.random() * len(ready)))
        self.current = task
        owner = task.owner
        if owner is not self._loaded:
            # pickle and dataclasses look a class's module up by name; each server must find its own copy there.
            self._loaded = owner
            sys.modules.update(owner.modules)
        return task.glet

    # --- switch points ---

    def _gaps(self) -> Iterator[Any]:
        """Runs of "nothing here" between the points at which to look closer."""
        while True:
            if self._rate:
                self._gap = min(_STEP, 1 + int(self._rng.expovariate(self._rate)))
            else:
                self._gap = _STEP
            yield repeat(False, self._gap) if self._stop is None else self._watched(self._gap)
            yield (True,)

    def stop_at(self, when: float, servers: frozenset[int] | None, tell: Callable[[FrameType], None]) -> None:
        """Once, at the first switch point from ``when`` on in the code of one of ``servers`` (``None``: any), call
        ``tell`` with its frame. To be said before student code runs; the schedule stays the same."""
        self._stop = (when, servers, tell)

    def _watched(self, gap: int) -> Iterator[bool]:
        """As many points as ``repeat(False, gap)`` has, and one more where the run is to stop."""
        for _ in range(gap):
            if self._stop is not None and self.now >= self._stop[0]:
                servers = self._stop[1]
                if servers is None or self.current.owner.server in servers:
                    self._stopping = True
                    yield True
            yield False

    def switch_point(self) -> None:
        """The closer look: count statements at this instant, and perhaps preempt the running task."""
        if self._stopping and self._stop is not None:
            self._stopping = False
            tell, self._stop = self._stop[2], None
            tell(sys._getframe(1))
            return
        if self._points_at != self.now:
            self._points_at = self.now
            self._points = 0
        self._points += self._gap
        if self._points > BUSY_POINTS:
            self.on_busy(sys._getframe(1))
        if self.current is self.nobody or not self._rate:
            return
        if self._rng.random() < 0.5:
            self.give_way()
        else:
            self.block(min(PREEMPT_MAX, self._rng.expovariate(1 / PREEMPT_MEAN)))

    # --- the clock ---

    def run_ready(self) -> None:
        """Run until every task is blocked."""
        while self._ready:
            self._next_greenlet().switch()
        self.current = self.nobody

    def next_timer(self) -> float | None:
        """When the next timer that still matters fires."""
        timers = self._timers
        while timers:
            when, _, task, token = timers[0]
            if task is None or task.token == token:
                return when
            heappop(timers)
        return None

    def fire_timers(self) -> None:
        """Make ready whatever was waiting for this instant."""
        timers = self._timers
        while timers and timers[0][0] <= self.now:
            _, _, task, token = heappop(timers)
            if task is None:
                token()
            elif task.token == token:
                task.token += 1
                task.blocked = False
                self._make_ready(task)


# The kernel of this process's run. The substitutes for `threading` and `time` are made once, in the warm host, and
# find the kernel of the forked run here.
K = Kernel(0, preempt=False)


def install(kernel: Kernel) -> None:
    """Make ``kernel`` the one that the substitutes use."""
    global K
    K = kernel
