"""What the host gives to the student's service: its server's Raft, and the messages that Raft has applied (lab 3A).

The service may call only the methods of Raft that the contract names. The judge sees each snapshot before Raft does,
because Raft may send the snapshot to another server at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftlab.api import ApplyMsg
from raftlab.messages import codec, protocol

if TYPE_CHECKING:
    from raftlab.host.server import Server


class RaftOfService:
    """One server's Raft as its service sees it: the methods ``start``, ``get_state`` and ``snapshot``, and those
    methods of later labs that the student's Raft has.

    Args:
        server: The server.
        raft: The student's Raft.
    """

    def __init__(self, server: Server, raft: Any) -> None:
        self._server = server
        self._raft = raft

    def start(self, command: Any) -> Any:
        """Call ``Raft.start`` with a copy of ``command``. So the log entry stays the same, whatever the service does later.

        Raises:
            NotByValue: ``command`` is not JSON-like.
        """
        server = self._server
        try:
            copy = codec.decode_value(codec.encode_value(command, "the command"))
        except codec.NotByValue as exc:
            server.misuse("not-by-value", exc)
            raise
        server.before_raft("raft.start")
        return self._raft.start(copy)

    def get_state(self) -> Any:
        return self._raft.get_state()

    def snapshot(self, index: Any, data: Any) -> None:
        if not isinstance(index, int) or not isinstance(data, bytes):
            given = f"{type(index).__name__} and {type(data).__name__}"
            exc = TypeError(f"raft.snapshot takes an index (int) and the service's state (bytes), not {given}")
            self._server.misuse("not-by-value", exc)
            raise exc
        self._server.before_raft("raft.snapshot")
        self._server.emit(protocol.SnapshotTaken(self._server.id, index, data))
        self._raft.snapshot(index, data)

    def __getattr__(self, name: str) -> Any:
        if name in _LATER_METHODS and hasattr(self._raft, name):
            return getattr(self._raft, name)
        allowed = ", ".join(["start", "get_state", "snapshot", *_LATER_METHODS])
        raise AttributeError(f"a service may call these methods of raft: {allowed}; not {name}")


_LATER_METHODS = ("change_membership", "transfer_leadership", "read_index", "lease_index")


def copy_of(msg: ApplyMsg) -> ApplyMsg:
    """A copy of ``msg`` for the service. The copy shares nothing with Raft's log."""
    return codec.decode_apply(codec.encode_apply(msg))
