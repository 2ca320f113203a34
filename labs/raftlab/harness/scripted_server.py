"""A server that a test plays: it calls the real ones and answers them, so that a table of cases needs no timing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlab.harness.event_loop import EventLoop
from raftlab.harness.rpc import Rpc
from raftlab.messages import protocol
from raftlab.referee.base import Message


class ScriptedServer:
    """A server that the test plays. ``answer`` maps a method to what this puppet replies: a function from the request
    (:class:`~raftlab.harness.rpc.Rpc`: ``src``, ``method``, ``args``) to the reply's fields, or to ``None`` for silence.
    A method without an entry is not answered."""

    def __init__(self, event_loop: EventLoop, number: int, reply_to: Callable[[Rpc], Message]) -> None:
        self._event_loop = event_loop
        self._reply_to = reply_to
        self.number = number
        self.answer: dict[str, Callable[[Rpc], Message | None]] = {}
        self.received: list[Rpc] = []

    def __call__(self, rpc: Rpc) -> Message | None:
        self.received.append(rpc)
        answer = self.answer.get(rpc.method)
        if answer is None and rpc.method == "pre_vote":
            # A Raft that has lab 2F asks this first. Tests that know nothing of it let it go on: as somebody who is in
            # the asker's own term, since whoever treats all replies alike adopts a higher one.
            return {"term": rpc.args["term"] - 1, "vote_granted": True}
        return None if answer is None else answer(rpc)

    def ask(self, server: int, method: str, **args: Any) -> Message:
        """Call ``method`` on a real server and wait for its reply. Fields of the student's own may be left out: they
        have defaults. Fails when no reply comes."""
        rpc = self.send(server, method, **args)
        return self._reply_to(rpc)

    def send(self, server: int, method: str, **args: Any) -> Rpc:
        """Call without waiting; :meth:`raftlab.harness.cluster.Cluster.reply_to` has the reply later."""
        return self._event_loop.send(self.number, 0, server, method, protocol.encode(args), self._event_loop.now)
