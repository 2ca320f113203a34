"""The front door: what a student's ``raft.py`` imports.

Nothing here depends on the rest of the package, so that this page can be read on its own. The objects behind
``peers``, ``persister`` and ``apply_ch`` are made by the host (the simulator's or the real network's); student code
sees only the shapes below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["ApplyChannel", "ApplyMsg", "Peer", "Persister", "Status", "log"]

Kind = Literal["command", "noop", "snapshot", "configuration"]


@dataclass(frozen=True, slots=True)
class ApplyMsg:
    """One step of the replicated state machine, handed to the service in log order.

    ``index`` and ``term`` are those of the log entry (for a snapshot: of the last entry it covers). ``kind`` says
    which of the other fields counts:

    - ``"command"`` (the default): ``command`` is what a client gave to ``start``;
    - ``"noop"``: the empty entry some leaders append when elected; it carries nothing, but its index is reported
      like any other, so that the service sees no gap;
    - ``"snapshot"``: ``snapshot`` are the bytes once given to ``snapshot()`` on some server (lab 2D);
    - ``"configuration"``: ``members`` are the voting servers from this index on (lab 2E).
    """

    index: int
    term: int
    command: Any = None
    kind: Kind = "command"
    snapshot: bytes | None = None
    members: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What ``Raft.status()`` reports for the trace and the viewer. Optional: marks never rest on it."""

    term: int
    voted_for: int | None
    role: str
    commit_index: int
    last_applied: int
    first_index: int
    last_index: int


class Peer(Protocol):
    """The far end of a wire to one server. ``peers[i]`` reaches server ``i``; ``peers[me]`` works too."""

    def call(self, method: str, args: Any) -> Any:
        """Call ``method`` on that server with ``args`` (a dataclass, passed by value) and wait for the reply.

        Returns the reply, or ``None`` when the network lost the request or the reply: there is no telling which, as
        in life. The wait can be long (up to 7 seconds towards a dead server), so hold no lock meanwhile.
        Raises ``TypeError`` when ``args`` cannot cross by value, naming the field.
        """


class Persister(Protocol):
    """One server's stable storage. What was saved survives a crash; everything else does not."""

    def save(self, state: bytes, snapshot: bytes | None = None) -> None:
        """Store ``state`` and, unless ``None``, replace the snapshot. Atomic, and durable once it returns.

        Raises ``OSError`` when the disk fails; nothing was stored then.
        """

    def state(self) -> bytes:
        """The state last saved, ``b""`` when there is none."""

    def snapshot(self) -> bytes:
        """The snapshot last saved, ``b""`` when there is none."""


class ApplyChannel(Protocol):
    """Where committed entries leave Raft for the service above it."""

    def put(self, msg: ApplyMsg) -> None:
        """Hand ``msg`` to the service. Indexes must come in order, each once per life of the server.

        Returns once the service has taken it, which may be slow: hold no lock meanwhile.
        """


def _nowhere(topic: str, text: str) -> None:
    """The sink outside a host: a ``raft.py`` imported by hand may still call :func:`log`."""


# The host replaces this with its own sink when it starts.
_sink: Callable[[str, str], None] = _nowhere


def log(topic: str, text: str) -> None:
    """Write a line into the run's trace, with server and time. ``topic`` is a short word to filter by ("vote")."""
    _sink(str(topic), str(text))
