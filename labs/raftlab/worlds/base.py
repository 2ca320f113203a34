"""The interface of a world: where servers run, what time it is, and how events and effects travel.

The judge's loop (:mod:`raftlab.harness.event_loop`) is the same in both worlds. Only the clock and the source of effects
differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raftlab.messages.protocol import Boot, Event, StepResult


class HostLost(Exception):
    """The host process ended or stopped answering.

    Attributes:
        kind: a key of :data:`raftlab.explain.causes.FAULTS`.
        text: one sentence for the student.
        detail: a traceback that shows where the host hung; empty if that is not known.
    """

    def __init__(self, kind: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.detail = detail


class UsesTooMuch(HostLost):
    """No process can be started for the submission, and the reason may be how much its other processes use."""


class HostNotStarted(RuntimeError):
    """The warm host did not start. No student code has run yet.

    Attributes:
        has_read: whether the host may have read the submission's files. If not, the submission is not to blame.
    """

    def __init__(self, text: str, has_read: bool = True) -> None:
        super().__init__(text)
        self.has_read = has_read


class World(Protocol):
    """The interface of a world, as the judge uses it. Times are seconds since the run began."""

    name: str
    """``"sim"`` or ``"rpyc"``."""
    virtual: bool
    """Whether time is virtual, so that servers can be paused and their clocks changed."""

    def now(self) -> float:
        """The current time: virtual in sim, wall-clock time in rpyc."""

    def boot(self, boot: Boot) -> None:
        """Start an incarnation. Once it has started, it sends the effect :class:`~raftlab.messages.protocol.Ready`. In rpyc
        each incarnation gets a new process.

        Raises:
            HostLost: the warm host is gone (rpyc).
            ValueError: the server is running already (rpyc).
        """

    def kill(self, server: int) -> None:
        """Crash ``server`` at once. From then on :meth:`wait` returns none of its effects."""

    def send_event(self, event: Event) -> None:
        """Send an event to its server now, before all events that are passed to :meth:`wait` later."""

    def wait(self, until: float, due: Sequence[tuple[float, Event]]) -> StepResult:
        """Let the servers run until something happens, at most up to ``until``.

        Args:
            until: the latest time at which to return.
            due: events with their delivery times, in order.

        Returns:
            The number of events of ``due`` that were delivered, and the effects in chronological order.

        Raises:
            HostLost: the process that runs the servers ended or hangs (sim). In rpyc the effect ``Fault`` reports a process
                that ended or hangs.
        """

    def threads(self, server: int) -> str:
        """What the threads of a server that does not answer are doing, one line each. Empty if that is not known, and always
        in the simulator."""

    def close(self) -> None:
        """End every process of the run. Safe to call twice, and after a failure."""
