"""The sim world: virtual time, one host for all servers, in lock step over a pipe."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import msgspec

from raftlab.messages import protocol
from raftlab.messages.pipe import Closed, Pipe, TooLong
from raftlab.worlds.base import HostLost
from raftlab.worlds.host_process import WarmHost, cpu_seconds

# A step of the lock step that computes for so many CPU seconds, or is silent for so many wall-clock seconds without
# computing, will not end. The host itself reports a busy loop in Python code long before; this is for one in C code.
# CPU time is what counts first, so that a loaded machine is not taken for a hang.
HANG_CPU_S = 20.0
HANG_WALL_S = 120.0


class Taker(Protocol):
    """Whoever takes the steps of a run."""

    cpu_s: float
    """CPU seconds that the run has cost outside this process, known once it is closed."""

    def __call__(self, frame: protocol.Step) -> protocol.Stepped: ...

    def close(self) -> None: ...


class SimWorld:
    """One run, its steps taken by a forked host over a pipe, or directly in this process for ``--pdb``."""

    name = "sim"
    virtual = True

    def __init__(self, take: Taker, lookahead: float) -> None:
        self._take = take
        self._lookahead = lookahead
        self._now = 0.0
        self._timer: float | None = 0.0
        self._posted: list[tuple[float, protocol.Event]] = []

    @property
    def cpu_s(self) -> float:
        return self._take.cpu_s

    def now(self) -> float:
        return self._now

    def boot(self, boot: protocol.Boot) -> None:
        self.post(boot)

    def kill(self, server: int) -> None:
        self.post(protocol.Stop(server))

    def post(self, event: protocol.Event) -> None:
        self._posted.append((self._now, event))

    def wait(self, until: float, due: Sequence[tuple[float, protocol.Event]]) -> protocol.Stepped:
        posted = self._posted
        if not posted and not due and (self._timer is None or self._timer > until):
            # Nobody has anything to do before `until`: no need to ask.
            self._now = max(self._now, until)
            return protocol.Stepped(self._now, 0, [], self._timer)
        self._posted = []
        stepped = self._take(protocol.Step(until, self._lookahead, [*posted, *due]))
        # Posted events are due at once, so the host has handled them all before anything else.
        consumed = max(0, stepped.consumed - len(posted))
        self._now = max(self._now, stepped.now)
        self._timer = stepped.timer
        return protocol.Stepped(self._now, consumed, stepped.effects, stepped.timer)

    def close(self) -> None:
        self._take.close()


class Forked:
    """A step taken by a forked child of the warm host."""

    def __init__(self, host: WarmHost, seed: int, preempt: bool) -> None:
        theirs_read, ours_write = os.pipe()
        ours_read, theirs_write = os.pipe()
        self._host = host
        self._pipe = Pipe(ours_read, ours_write)
        self._decode = protocol.decoder(protocol.Stepped).decode
        self._poll = select.poll()
        self._poll.register(ours_read, select.POLLIN)
        self._child = host.spawn("sim", [theirs_read, theirs_write], seed, preempt)
        self.cpu_s = 0.0

    def __call__(self, frame: protocol.Step) -> protocol.Stepped:
        try:
            self._pipe.send(protocol.pack(frame))
            if not self._poll.poll(1000):
                await_child(self._host, self._child, self._pipe.read_fd)
            stepped: protocol.Stepped = self._decode(self._pipe.receive())
        except Closed:
            text = f"the process that runs your code {self._host.ending(self._child, 5.0)}"
            raise HostLost("host-died", text, self._host.stderr()) from None
        except (TooLong, msgspec.DecodeError) as exc:
            raise HostLost("host-died", f"the process that runs your code sent nonsense: {exc}") from None
        if not (stepped.now <= frame.until and 0 <= stepped.consumed <= len(frame.due)):
            raise HostLost("host-died", "the process that runs your code sent a clock that cannot be")
        return stepped

    def close(self) -> None:
        if self._pipe.read_fd >= 0:
            with contextlib.suppress(ProcessLookupError):
                self.cpu_s = cpu_seconds(self._host.pid(self._child))
            self._pipe.close()
            self._host.kill(self._child)


def await_child(host: WarmHost, child: int, fd: int) -> None:
    """Wait until a forked child has written to ``fd`` or closed it, but not for ever. Raises
    :class:`~raftlab.worlds.base.HostLost`."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    pid = host.pid(child)
    cpu_before, wall_before = cpu_seconds(pid), time.monotonic()
    while not poll.poll(1000):
        cpu = cpu_seconds(pid) - cpu_before
        if cpu < HANG_CPU_S and time.monotonic() - wall_before < HANG_WALL_S:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGUSR1)
        poll.poll(500)
        stack = host.stderr()
        what = f"has computed for {cpu:.0f} s" if cpu >= HANG_CPU_S else "has been silent for two minutes"
        raise HostLost("host-hangs", f"your code {what} without letting the clock move on", stack)


@dataclass(frozen=True, slots=True)
class Stop:
    """Where a run is to be stopped once: at ``when`` (seconds), in the code of one of ``servers`` (``None``: of any). Then
    ``tell`` is called with the frame that is about to run."""

    when: float
    servers: frozenset[int] | None
    tell: Callable[[FrameType], None]


class Inside:
    """Steps taken in this very process, for ``--pdb``: student code then runs inside the judge, unconfined, so this is
    for one's own code only. ``sys.stdout`` stays the terminal's."""

    cpu_s = 0.0

    def __init__(self, path: Path, seed: int, preempt: bool, stop: Stop | None = None) -> None:
        from raftlab.host.loader import Program
        from raftlab.host.sim_host import SimHost
        from raftlab.submission import source

        self._host = SimHost(Program(source.find(path)), seed, preempt)
        if stop is not None:
            self._host.kernel.stop_at(stop.when, stop.servers, stop.tell)

    def __call__(self, frame: protocol.Step) -> protocol.Stepped:
        return self._host.step(frame)

    def close(self) -> None: ...
