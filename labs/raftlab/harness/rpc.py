"""One RPC between two servers, as the judge sees it."""

from __future__ import annotations

from raftlab.referee.base import Message


class Rpc:
    """An RPC: a request, the handler's work and a reply.

    Attributes:
        id: its number in the trace, and the ``judge_rpc`` of the protocol.
        src: the calling server.
        src_incarnation: the incarnation that called.
        caller_rpc: the caller's own number for the call.
        dst: the called server.
        dst_incarnation: the incarnation that received the request; 0 if none has.
        method: the name of the handler.
        payload: the encoded request.
        args: the request's fields.
        reply: the reply's fields, if ``src`` is a scripted server and has received it.
        done: whether the call has returned, with a reply or with ``None``.
    """

    __slots__ = (
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
        self.dst_incarnation = 0
        self.method = method
        self.payload = payload
        self.args: Message = {}
        self.reply: Message | None = None
        self.done = False
