"""The names that ``raft.py`` and ``kv.py`` import: ``ApplyMsg``, ``Status``, ``Unknown``, ``log``, and the types of
``peers``, ``persister``, ``apply_ch`` and ``raft``.

This module imports no other module of the package, so that it can be read on its own. The host of the simulator or of the
real network creates the objects behind ``peers``, ``persister`` and ``apply_ch``; student code sees only the types below.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

__all__ = ["MAX_DRIFT", "ApplyChannel", "ApplyMsg", "Peer", "Persister", "Raft", "Status", "Unknown", "log"]

# In lab 3B, the clocks of any two servers run at rates that differ by less than this factor. Leases rely on it.
MAX_DRIFT = 1.25

Kind = Literal["command", "noop", "snapshot", "configuration"]


@dataclass(frozen=True, slots=True)
class ApplyMsg:
    """One step of the replicated state machine. The service gets the steps in log order.

    ``index`` and ``term`` are those of the log entry or, for a snapshot, of the last entry that it covers. ``kind``
    determines which other field is used:

    - ``"command"`` (the default): ``command`` is what a client passed to ``start``;
    - ``"noop"``: the empty entry that some leaders append when they are elected. It has no content, but its index is
      reported like any other, so that the service sees no gap;
    - ``"snapshot"``: ``snapshot`` contains the bytes that were passed to ``snapshot()`` on some server (lab 2D);
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
    """The result of ``Raft.status()``. Optional: your points never depend on it."""

    term: int
    voted_for: int | None
    role: str
    commit_index: int
    last_applied: int
    first_index: int
    last_index: int


class Unknown(Exception):
    """There is no way to find out whether an operation was carried out (lab 3A).

    A ``Clerk`` raises this if it sent a put, append or swap more than once and a server then answered ``no_session``. An
    earlier copy of the request may have been carried out, and the session that recorded this no longer exists. The caller
    must decide what to do, for example read the key. The clerk can still be used: its next operation begins a new session.
    """


class Peer(Protocol):
    """A server that other servers can call. ``peers[i]`` is server ``i``; ``peers[me]`` works too."""

    def call(self, method: str, args: Any) -> Any:
        """Call a handler of the server and wait for the reply. This can take up to 7 seconds, so hold no lock during the
        call.

        Args:
            method: the name of the handler, such as ``"request_vote"``.
            args: the handler's argument, a dataclass. It is passed by value.

        Returns:
            The reply, or ``None`` if the network lost the request or the reply. As on a real network, you cannot tell which.

        Raises:
            TypeError: ``args`` cannot be passed by value. The message names the field.
        """


class Persister(Protocol):
    """A server's stable storage. What is saved there survives a crash; everything else is lost."""

    def save(self, state: bytes, snapshot: bytes | None = None) -> None:
        """Save atomically. The data is durable once this returns.

        Args:
            state: replaces the saved state.
            snapshot: replaces the saved snapshot. ``None`` keeps the snapshot that was saved before.

        Raises:
            OSError: the disk failed, and nothing was saved. Let it end the handler or thread: then the server is down.
        """

    def append(self, data: bytes) -> None:
        """Add to the end of the saved state, atomically. The data is durable once this returns. You need not use
        ``append``: ``save`` alone is enough in all labs.

        Args:
            data: is added to the saved state. The saved snapshot stays as it is.

        Raises:
            OSError: the disk failed, and nothing was added. Let it end the handler or thread, as in ``save``.
        """

    def state(self) -> bytes:
        """The state that was saved last, with everything that was appended since; ``b""`` if there is none."""

    def snapshot(self) -> bytes:
        """The snapshot that was saved last; ``b""`` if there is none."""


class ApplyChannel(Protocol):
    """Passes committed entries from Raft to the service above it."""

    def put(self, msg: ApplyMsg) -> None:
        """Pass ``msg`` to the service, and wait until the service has taken it. This can be slow, so hold no lock during the
        call.

        Pass the indexes in order, and each index only once between two restarts of the server. The service may call
        ``snapshot()`` before this returns (lab 2D).
        """


class Raft(Protocol):
    """The methods of a Raft server that the service on the same machine calls (lab 3A). The Raft is your own, or one that
    you were given."""

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads. This call is cheap, so a service may make it
        every 50 ms."""

    def start(self, command: Any) -> tuple[int, int, bool]:
        """Begin agreement on ``command``. Returns at once, but hold no lock during the call.

        Args:
            command: made of dicts, lists, strings, numbers, booleans and ``None``, as in JSON.

        Returns:
            The index that the command will have if it is ever committed, the term, and whether this server leads. The index
            is -1 if the server does not lead, or if it leads but accepts no commands at the moment (lab 2G).
        """

    def snapshot(self, index: int, data: bytes) -> None:
        """Tell Raft that it no longer needs the log up to ``index``, because ``data`` is the state after that index. Hold no
        lock during the call."""

    def read_index(self) -> int:
        """An index such that a read is linearizable once the service has applied the index (lab 3B). Returns -1 if this
        server cannot find one, for example because no leader answers. This can take up to 2 seconds, so hold no lock during
        the call."""

    def lease_index(self) -> int:
        """Like :meth:`read_index`, but never waits for a message, so it returns at once. Returns -1 if this server holds no
        lease (lab 3B; in part 2 a server that does not lead may hold one, too)."""


def _discard(topic: str, text: str) -> None:
    """Discards log lines if there is no host: :func:`log` does nothing if ``raft.py`` is imported outside of a run."""


# The host replaces this with its own sink when it starts.
_sink: Callable[[str, str], None] = _discard


def log(topic: str, text: str) -> None:
    """Write a line into the trace of the run, which adds the server and the time.

    Args:
        topic: a short word to filter by, such as ``"vote"``.
        text: the line.
    """
    _sink(str(topic), str(text))
