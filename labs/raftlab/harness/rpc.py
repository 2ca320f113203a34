"""A call between two servers, while the judge carries it."""

from __future__ import annotations

from raftlab.referee.base import Message


class Rpc:
    """One call on its way: request, handler, reply. ``id`` is its number in the trace."""

    __slots__ = (
        "answers",
        "args",
        "caller_rpc",
        "done",
        "dst",
        "dst_incarnation",
        "id",
        "method",
        "payload",
        "reply",
        "src",
        "src_incarnation",
    )

    def __init__(
        self, number: int, src: int, src_incarnation: int, caller_rpc: int, dst: int, method: str, payload: bytes
    ) -> None:
        self.id = number
        self.src = src
        self.src_incarnation = src_incarnation
        self.caller_rpc = caller_rpc
        self.dst = dst
        self.dst_incarnation = 0  # the life of the server that received it; 0: not arrived
        self.method = method
        self.payload = payload
        self.args: Message = {}
        self.answers = 0
        self.reply: Message | None = None
        self.done = False  # the caller has its reply, or was told that there is none
