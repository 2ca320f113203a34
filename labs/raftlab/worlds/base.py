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
        detail: where the host hung, if that is known: a traceback as text, or empty.
    """

    def __init__(self, kind: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.detail = detail


class HostNotStarted(RuntimeError):
    """The warm host did not start. No student code has run yet, but the submission's files have been read."""


class World(Protocol):
    """The interface of a world, as the judge uses it. Times are seconds since the run began."""

    name: str
    """``"sim"`` or ``"rpyc"``."""
    virtual: bool
    """Whether time is virtual, so that servers can be paused and their clocks changed."""

    def now(self) -> float:
        """The current time: virtual in sim, wall-clock time in rpyc."""

    def boot(self, boot: Boot) -> None:
        """Start an incarnation; the effect :class:`~raftlab.messages.protocol.Ready` follows. In rpyc this starts a
        process.

        Raises:
            HostLost: the warm host is gone (rpyc).
            ValueError: the server is running already (rpyc).
        """

    def kill(self, server: int) -> None:
        """Crash ``server`` at once. :meth:`wait` returns none of its effects afterwards."""

    def send_event(self, event: Event) -> None:
        """Send an event to its server now, ahead of all events that are passed to :meth:`wait` afterwards."""

    def wait(self, until: float, due: Sequence[tuple[float, Event]]) -> StepResult:
        """Let the hosts run until something happens or ``until`` is reached, whichever is sooner.

        Args:
            until: the latest time at which to return.
            due: events with their delivery times, in order.

        Returns:
            How many events of ``due`` were delivered, and the effects in chronological order.

        Raises:
            HostLost: the process that runs the servers ended or hangs (sim; in rpyc a lost server is a ``Fault``).
        """

    def threads(self, server: int) -> str:
        """What the threads of a server that does not answer are doing, one line each. Empty if that is not known; in the
        simulator, whoever finds that it does not answer says it."""

    def close(self) -> None:
        """End every process of the run. Safe to call twice, and after a failure."""
