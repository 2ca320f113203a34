"""The sim world: virtual time, and one host process for all servers, which runs in lock step with the judge over a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

from raftlab.messages import protocol
from raftlab.messages.pipe import FrameTooLong, Pipe, PipeClosed
from raftlab.operating_system import cpu_seconds, is_asleep
from raftlab.time_awake import LOOK_S, TimeAwake
from raftlab.worlds.base import HostLost
from raftlab.worlds.host_process import WarmHost

# A step counts as a hang when it has used this much CPU time or lasted this long, both in seconds. The host itself reports a
# busy loop in Python code much sooner; these limits are for loops in C code. The limit on the duration is much higher, so
# that a slow step on a busy machine is not mistaken for a hang. Pauses of this process (Ctrl-Z) do not count.
HANG_CPU_S = 20.0
HANG_AWAKE_S = 120.0
# A step also counts as a hang if the host was asleep each time that the judge looked, which is once a second. In the
# simulator no Raft has a reason to wait in real time, and a host that waits for a processor is not asleep.
HANG_ASLEEP_LOOKS = 10
# A host whose clock stands still hangs, even if it answers every step. So there is a limit on the steps within a second of
# virtual time (the busiest correct Raft takes 440), and a limit on successive idle steps. A step is idle if it has no event
# and no effect, and takes at most _HARDLY_S seconds of virtual time. No Raft takes many idle steps in a row.
STEPS_PER_SECOND = 10_000
IDLE_STEPS = 2_000
_HARDLY_S = 1e-6
# CPU seconds that the host may use for one run. The longest run of the correct Rafts uses one second.
RUN_CPU_S = 40.0
_CHECK_STEPS = 1_000  # the CPU time is checked once in this many steps


class Host(Protocol):
    """The process in which the servers of one run execute, one step at a time."""

    cpu_s: float
    """CPU seconds that the run has used outside this process; known after :meth:`close`."""

    def step(self, request: protocol.StepRequest) -> protocol.StepResult: ...

    def close(self) -> None: ...


class SimWorld:
    """One run in the simulator: a :class:`~raftlab.worlds.base.World`.

    Args:
        host: a forked process, or this process itself for ``--pdb``.
        lookahead: how far servers may run ahead of the judge, in seconds: the minimum delay of a message,
            :data:`raftlab.harness.network.MIN_DELAY`.
    """

    name = "sim"
    virtual = True

    def __init__(self, host: Host, lookahead: float) -> None:
        self._host = host
        self._lookahead = lookahead
        self._now = 0.0
        self._timer: float | None = 0.0
        self._unsent: list[tuple[float, protocol.Event]] = []

    @property
    def cpu_s(self) -> float:
        return self._host.cpu_s

    def now(self) -> float:
        return self._now

    def boot(self, boot: protocol.Boot) -> None:
        self.send_event(boot)

    def kill(self, server: int) -> None:
        self.send_event(protocol.Crash(server))

    def send_event(self, event: protocol.Event) -> None:
        self._unsent.append((self._now, event))

    def wait(self, until: float, due: Sequence[tuple[float, protocol.Event]]) -> protocol.StepResult:
        unsent = self._unsent
        if not unsent and not due and (self._timer is None or self._timer > until):
            # No server has anything to do before `until`, so there is no need to ask the host.
            self._now = max(self._now, until)
            return protocol.StepResult(self._now, 0, [], self._timer)
        self._unsent = []
        result = self._host.step(protocol.StepRequest(until, self._lookahead, [*unsent, *due]))
        # The events in `unsent` are due at once, so the host has handled all of them before the others.
        consumed = max(0, result.consumed - len(unsent))
        self._now = max(self._now, result.now)
        self._timer = result.timer
        return protocol.StepResult(self._now, consumed, result.effects, result.timer, result.findings)

    def threads(self, server: int) -> str:
        return ""

    def close(self) -> None:
        self._host.close()


class Progress:
    """Checks after each step that the host's answer is possible, and that the run makes progress."""

    def __init__(self) -> None:
        self._now = 0.0
        self._steps = 0
        self._second = 0.0
        self._steps_in_second = 0
        self._idle_steps = 0

    def require(
        self,
        request: protocol.StepRequest,
        result: protocol.StepResult,
        run_cpu_s: Callable[[], float],
        slow: bool = False,
    ) -> None:
        """Check the next step.

        Args:
            request: the request to the host.
            result: the host's answer.
            run_cpu_s: returns the CPU seconds that the host has used for this run.
            slow: whether the step took so long that the CPU time must be checked now.

        Raises:
            HostLost: times go backwards or past ``request.until``, the host claims to have handled more events than it got,
                or the run makes no progress.
        """
        before = self._now
        for when, _ in result.effects:
            if not before <= when:  # written so that it is also true if `when` is NaN
                break
            before = when
        else:
            if before <= result.now <= request.until and 0 <= result.consumed <= len(request.due):
                self._require_progress(result, run_cpu_s, slow)
                return
        raise HostLost("host-died", "the process that runs your code sent an impossible time")

    def _require_progress(self, result: protocol.StepResult, run_cpu_s: Callable[[], float], slow: bool) -> None:
        self._idle_steps = (
            0 if result.consumed or result.effects or result.now > self._now + _HARDLY_S else self._idle_steps + 1
        )
        self._now = result.now
        if result.now >= self._second + 1.0:
            self._second, self._steps_in_second = result.now, 0
        self._steps_in_second += 1
        self._steps += 1
        if self._idle_steps > IDLE_STEPS or self._steps_in_second > STEPS_PER_SECOND:
            raise HostLost("host-hangs", "the process that runs your code answers without letting the clock move on")
        if (slow or self._steps % _CHECK_STEPS == 0) and run_cpu_s() > RUN_CPU_S:
            raise HostLost("host-hangs", f"your code has computed for more than {RUN_CPU_S:.0f} s in this run")


class ForkedHost:
    """A child that the warm host or the prepared host forks. Graded runs always use such a child.

    Args:
        warm_host: the warm host of the submission.
        seed: determines every random choice of the servers, and how their threads are scheduled.
        schedule: how threads are preempted (:mod:`raftlab.schedules`).
        incarnations: how many incarnations of each role the run begins with, so that they can be prepared; ``None`` if
            unknown.
    """

    def __init__(
        self, warm_host: WarmHost, seed: int, schedule: str, incarnations: Mapping[str, int] | None = None
    ) -> None:
        theirs_read, ours_write = os.pipe()
        ours_read, theirs_write = os.pipe()
        self._warm_host = warm_host
        self._pipe = Pipe(ours_read, ours_write, protocol.MAX_HOST_FRAME_BYTES)
        self._decode = protocol.decoder(protocol.StepResult).decode
        self._progress = Progress()
        self._poll = select.poll()
        self._poll.register(ours_read, select.POLLIN)
        self._child = warm_host.spawn("sim", [theirs_read, theirs_write], seed, schedule, incarnations)
        self.cpu_s = 0.0

    def step(self, request: protocol.StepRequest) -> protocol.StepResult:
        """Run one step. Raises :class:`~raftlab.worlds.base.HostLost`."""
        try:
            self._pipe.send(protocol.pack(request))
            slow = not self._poll.poll(1000)
            if slow:
                await_child(self._warm_host, self._child, self._pipe.read_fd)
            result: protocol.StepResult = self._decode(self._pipe.receive())
        except PipeClosed:
            text = f"the process that runs your code {self._warm_host.how_it_ended(self._child, 5.0)}"
            raise HostLost("host-died", text, self._warm_host.stderr(self._child)) from None
        except FrameTooLong as exc:
            raise HostLost(
                "flood", f"the process that runs your code sent malformed data, or too much: {exc}"
            ) from None
        except protocol.MALFORMED as exc:
            raise HostLost("host-died", f"the process that runs your code sent malformed data: {exc}") from None
        self._progress.require(request, result, lambda: cpu_seconds(self._warm_host.pid(self._child)), slow)
        return result

    def close(self) -> None:
        if self._pipe.read_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                self.cpu_s = cpu_seconds(self._warm_host.pid(self._child))
            self._pipe.close()
            self._warm_host.kill(self._child)


def await_child(host: WarmHost, child: int, fd: int) -> None:
    """Wait until ``child`` has written to the pipe whose read end is ``fd``, or has closed it.

    Raises:
        HostLost: the child hangs (:data:`HANG_CPU_S`, :data:`HANG_AWAKE_S`, :data:`HANG_ASLEEP_LOOKS`). ``detail`` shows
            where it hangs.
    """
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    pid = host.pid(child)
    cpu_before, awake, asleep = cpu_seconds(pid), TimeAwake(), 0
    while not poll.poll(LOOK_S * 1000):
        cpu = cpu_seconds(pid) - cpu_before
        asleep = asleep + 1 if is_asleep(pid) else 0
        if cpu < HANG_CPU_S and awake.seconds < HANG_AWAKE_S and asleep < HANG_ASLEEP_LOOKS:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGUSR1)  # the child then prints the stacks of its threads
        poll.poll(500)
        stack = host.stderr(child)
        what = "has been silent for two minutes"
        if cpu >= HANG_CPU_S:
            what = f"has computed for {cpu:.0f} s"
        elif asleep >= HANG_ASLEEP_LOOKS:
            what = f"has waited for {asleep * LOOK_S:.0f} s of real time"
        raise HostLost("host-hangs", f"your code {what} without letting the clock move on", stack)


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """The point at which to interrupt a run. It takes effect once."""

    when: float
    """Seconds of virtual time."""
    servers: frozenset[int] | None
    """Interrupt only the code of these servers; ``None`` means any server."""
    callback: Callable[[FrameType], None]
    """Called with the frame that is about to run."""


class InProcessHost:
    """Runs the servers in the judge's process, for ``--pdb``. Student code then runs outside any sandbox, so use this class
    only for your own code. ``sys.stdout`` remains the terminal."""

    cpu_s = 0.0

    def __init__(self, path: Path, seed: int, schedule: str, stop_at: Breakpoint | None = None) -> None:
        from raftlab.host.loader import Program
        from raftlab.host.sim_host import SimHost
        from raftlab.submission import source

        submission = source.find(path)
        self._modules = tuple(submission.modules)
        self._sim_host = SimHost(Program(submission), seed, schedule)
        if stop_at is not None:
            self._sim_host.kernel.stop_at(stop_at.when, stop_at.servers, stop_at.callback)

    def step(self, request: protocol.StepRequest) -> protocol.StepResult:
        return self._sim_host.step(request)

    def close(self) -> None:
        """Forget the student's modules. Otherwise ``import raft`` for the next submission would find this submission's
        module."""
        for name in self._modules:
            sys.modules.pop(name, None)
