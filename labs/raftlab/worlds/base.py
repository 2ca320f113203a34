"""Two worlds, one small interface: where hosts run, what time it is, and how events and effects travel.

The judge's loop (:mod:`raftlab.harness.cluster`) is the same in both; only the clock and the source of effects differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from raftlab.messages.protocol import Boot, Event, Stepped


class HostLost(Exception):
    """The host process ended or stopped answering. ``text`` is one sentence for the student; ``detail`` what is
    known about where it hung (a traceback as text, or empty); ``kind`` a key of :data:`raftlab.explain.causes.FAULTS`."""

    def __init__(self, kind: str, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
        self.detail = detail


class HostNotStarted(RuntimeError):
    """The warm host did not come up. No student code has run yet, so this is our trouble or the machine's."""


class World(Protocol):
    """What the judge needs of a world. Times are seconds since the run began."""

    name: str
    virtual: bool

    def now(self) -> float:
        """The present: virtual in sim, wall-clock in rpyc."""

    def boot(self, boot: Boot) -> None:
        """Start an incarnation. In rpyc this makes a process; in both, :class:`~raftlab.messages.protocol.Ready` follows."""

    def kill(self, server: int) -> None:
        """Crash ``server`` at once. Effects of it that were not yet returned by :meth:`wait` never will be."""

    def post(self, event: Event) -> None:
        """Send an event to its server now (before anything later in :meth:`wait`)."""

    def wait(self, until: float, due: Sequence[tuple[float, Event]]) -> Stepped:
        """Let the hosts run until something happens or ``until`` is reached, whichever is sooner.

        ``due`` are events to be delivered at their own times, in order. Returns how many were, and the effects in
        order of time. Raises :class:`HostLost`.
        """

    def close(self) -> None:
        """End every process of the run. Safe to call twice, and after a failure."""
