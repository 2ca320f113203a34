"""A scripted server: the test plays this server, so that the test does not depend on timing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlab.harness.event_loop import EventLoop
from raftlab.harness.rpc import Rpc
from raftlab.messages import protocol
from raftlab.referee.base import Message


class ScriptedServer:
    """A server that the test plays.

    Args:
        event_loop: the run's event loop.
        number: the server's number.
        reply_to: waits for the reply to an RPC, as ``Cluster.reply_to`` does.

    Attributes:
        number: the server's number.
        answer: by method, a function from a request (:class:`~raftlab.harness.rpc.Rpc`: ``src``, ``method``, ``args``) to
            the reply's fields, or to ``None`` for no reply. Requests of other methods get no reply.
        received: every request so far.
    """

    def __init__(self, event_loop: EventLoop, number: int, reply_to: Callable[[Rpc], Message]) -> None:
        self._event_loop = event_loop
        self._reply_to = reply_to
        self.number = number
        self.answer: dict[str, Callable[[Rpc], Message | None]] = {}
        self.received: list[Rpc] = []

    def __call__(self, rpc: Rpc) -> Message | None:
        """Answer a request; the event loop calls this."""
        self.received.append(rpc)
        answer = self.answer.get(rpc.method)
        if answer is None and rpc.method == "pre_vote":
            # A Raft with lab 2F sends pre_vote before it asks for votes. In tests of other labs, this pre-vote must be
            # granted. The reply names the candidate's own term, which is one less than the term in the request, because
            # some Rafts would adopt the higher term from the reply.
            return {"term": rpc.args["term"] - 1, "vote_granted": True}
        return None if answer is None else answer(rpc)

    def ask(self, server: int, method: str, **args: Any) -> Message:
        """Call a handler and wait for its reply. Fails if none arrives.

        Args:
            server: the real server to call.
            method: the name of the handler.
            args: the request's fields. Fields that the student added have defaults and may be left out.

        Returns:
            The reply's fields.
        """
        rpc = self.send(server, method, **args)
        return self._reply_to(rpc)

    def send(self, server: int, method: str, **args: Any) -> Rpc:
        """Like :meth:`ask`, without waiting. :meth:`raftlab.harness.cluster.Cluster.reply_to` waits for the reply."""
        return self._event_loop.send(self.number, 0, server, method, protocol.encode(args), self._event_loop.now)
