"""One RPC between two servers, as the judge sees it."""

from __future__ import annotations

from raftlab.messages import codec, paper
from raftlab.referee.base import Message


class Rpc:
    """An RPC: a request, the handler's work and a reply.

    Attributes:
        id: its number in the trace, and the ``judge_rpc`` of the protocol.
        src: the caller.
        src_incarnation: the incarnation of the caller.
        caller_rpc: the caller's own number for the RPC.
        dst: the called server.
        dst_incarnation: the incarnation that received the request; 0 if none has.
        method: the name of the handler.
        payload: the encoded request.
        args: the request's fields, see :mod:`raftlab.messages.paper`. Reading them raises ``paper.BadMessage`` if the
            payload is not a valid request of this method. In a request that a test sends (``scripted``), fields may be
            missing.
        reply: the reply's fields, if ``src`` is a scripted server and has received the reply.
        done: whether the call has returned, with a reply or with ``None``.
    """

    __slots__ = (
        "_args",
        "_scripted",
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
        self, number: int, src: int, src_incarnation: int, caller_rpc: int, dst: int, method: str, payload: bytes,
        scripted: bool = False,
    ) -> None:  # fmt: skip
        self.id = number
        self.src = src
        self.src_incarnation = src_incarnation
        self.caller_rpc = caller_rpc
        self.dst = dst
        self.dst_incarnation = 0
        self.method = method
        self.payload = payload
        self.reply: Message | None = None
        self._args: Message | None = None
        self.done = False
        self._scripted = scripted

    @property
    def args(self) -> Message:
        if self._args is None:
            if self._scripted:
                self._args = codec.decode_plain(self.payload)
            else:
                self._args = paper.decode_request(self.method, self.payload)
        return self._args

    def forget_args(self) -> None:
        """Free the memory of the request's fields. They are decoded again if anyone reads them."""
        self._args = None
