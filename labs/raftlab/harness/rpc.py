"""A call between two servers, while the judge carries it."""

from __future__ import annotations

from raftlab.referee.base import Message


class Flight:
    """One call on its way: request, handler, reply. ``id`` is its number in the trace."""

    __slots__ = (
        "answers",
        "args",
        "done",
        "dst",
        "dst_life",
        "id",
        "method",
        "payload",
        "reply",
        "src",
        "src_life",
        "src_rpc",
    )

    def __init__(
        self, number: int, src: int, src_life: int, src_rpc: int, dst: int, method: str, payload: bytes
    ) -> None:
        self.id = number
        self.src = src
        self.src_life = src_life
        self.src_rpc = src_rpc
        self.dst = dst
        self.dst_life = 0  # the life of the server that received it; 0: not arrived
        self.method = method
        self.payload = payload
        self.args: Message = {}
        self.answers = 0
        self.reply: Message | None = None
        self.done = False  # the caller has its reply, or was told that there is none
