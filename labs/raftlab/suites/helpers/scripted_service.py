"""Helpers for lab 3A: a service that the test plays, with all of its servers, for a real clerk.

The service tells the requests of different operations apart by their keys, so each operation of such a test has a key of its
own. A clerk may ask several servers at the same time, in any order and as often as it likes.
"""

from __future__ import annotations

from collections.abc import Callable

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.clerks import OPERATION_LIMIT, ClerkHandle, ClientOperation
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.clients import reply

# How a test answers requests: with the fields of a reply, or with None to lose the request.
Answer = Callable[[Rpc], Message | None]


def after(*first: Message | None, value: str | bool | None = None) -> Answer:
    """Answer the first requests with these answers, whichever servers they reach. Answer all later requests with ``ok`` and
    ``value``."""
    left = list(first)
    return lambda rpc: left.pop(0) if left else reply("ok", value)


class PlayedService:
    """All servers of a cluster, played by the test.

    Args:
        c: the cluster, in which all servers are scripted.

    Attributes:
        answer: how to answer requests other than ``register``.
        answer_register: how to answer ``register``. An answer with ``ok`` begins a session; the answer's ``value`` is
            replaced by the session.
        sessions: the sessions begun so far.
        ended: those ``sessions`` that have ended; their requests are answered with ``no_session``.
        requests: by key, every request other than ``register``.
        without_session: the keys of requests that were answered with ``no_session``.
        carried_out: the keys of requests that were answered with ``ok``.
        registers: how many times ``register`` was received.
    """

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.answer: Answer = after()
        self.answer_register: Answer = after()
        self.sessions: list[int] = []
        self.ended: set[int] = set()
        self.requests: dict[str, list[Message]] = {}
        self.without_session: set[str] = set()
        self.carried_out: set[str] = set()
        self.registers = 0
        for server in c.scripted:
            server.answer["client_request"] = self._answer

    def end_sessions(self) -> None:
        """End all sessions."""
        self.ended.update(self.sessions)

    def _answer(self, rpc: Rpc) -> Message | None:
        args = rpc.args
        if args["op"] == "register":
            self.registers += 1
            answer = self.answer_register(rpc)
            if answer is not None and answer["status"] == "ok":
                self.sessions.append(10 * len(self.sessions) + 17)
                return {**answer, "value": self.sessions[-1]}
            return answer
        self.requests.setdefault(args["key"], []).append(args)
        answer = self.answer(rpc)
        if args["client_id"] in self.ended and answer is not None and answer["status"] == "ok":
            self.without_session.add(args["key"])
            return reply("no_session")
        if answer is not None and answer["status"] == "ok":
            self.carried_out.add(args["key"])
        return answer

    # --- operations of the clerk ---

    def run(
        self, clerk: ClerkHandle, op: str, *args: str | None, when: str, rule: Rule = rules.PROGRESS
    ) -> ClientOperation:
        """Have the clerk carry out an operation. Fails with ``rule`` if the operation neither returns nor raises in time.
        ``when`` is put into the failure's message."""
        assert args[0] is not None
        operation = clerk.begin(op, args[0], *args[1:])
        if not self.c.wait_for(OPERATION_LIMIT, lambda: operation.done):
            text = f"expected {operation.describe()} to end within {OPERATION_LIMIT:.0f} s {when}, but it has not"
            self.c.fail(text, rule, [clerk.number])
        return operation

    def expect_result(self, operation: ClientOperation, result: str | bool | None, when: str) -> None:
        """Require that the operation has returned ``result``, or anything if it is a put or an append."""
        text = f"expected {operation.describe()} to return {when}, but it raised Unknown"
        self.c.expect(operation.outcome == "ok", text, rules.UNKNOWN_ONLY_IF)
        text = f"expected {operation.describe()} to return only after a server answered ok, but none has"
        self.c.expect(operation.key in self.carried_out, text, rules.STATUSES)
        if operation.op in ("get", "swap"):
            text = f"expected {operation.describe()} to return {result!r} {when}, but it returned {operation.result!r}"
            self.c.expect(operation.result == result, text, rules.STATUSES)

    def tries_in_ended_sessions(self, operation: ClientOperation) -> int:
        """How many requests of the operation the servers have received from sessions that have ended."""
        return sum(each["client_id"] in self.ended for each in self.requests.get(operation.key, ()))

    # --- what the requests must look like ---

    def check_requests(self) -> None:
        """Require of all requests so far:

        - They have the fields of their operation.
        - All requests for a write are of the same session, unless that session has ended.
        - Within a session, all requests for an operation have the same serial, and the next operation has a higher one.
        """
        highest: dict[int, int] = {}  # by session
        for operation in self.c.history:
            requests = self.requests.get(operation.key, [])
            self.c.expect(
                bool(requests), f"expected a request for {operation.describe()}, but none came", rules.STATUSES
            )
            sessions = list(dict.fromkeys(each["client_id"] for each in requests))
            text = (
                f"expected every request for {operation.describe()} to be of session {sessions[0]}, but one is of session "
                f"{sessions[-1]}. Session {sessions[0]} has not ended"
            )
            known = len(sessions) == 1 or operation.op == "get" or operation.key in self.without_session
            self.c.expect(known, text, rules.CLERK_SERIALS)
            serials: dict[int, int] = {}  # of this operation, by session
            for each in requests:
                self._check_fields(operation, each)
                session, serial = each["client_id"], each["serial"]
                first = serials.setdefault(session, serial)
                text = f"expected every request for {operation.describe()} to have serial {first}, but one has {serial}"
                self.c.expect(serial == first, text, rules.CLERK_SERIALS)
            for session, serial in serials.items():
                last = highest.get(session, 0)
                text = f"expected a serial above {last} for {operation.describe()}, but its serial is {serial}"
                self.c.expect(serial > last, text, rules.CLERK_SERIALS)
                highest[session] = serial

    def _check_fields(self, operation: ClientOperation, seen: Message) -> None:
        names = {"put": ("value",), "append": ("value",), "swap": ("expected", "value")}.get(operation.op, ())
        wanted = {"op": operation.op, "read": "log", **dict(zip(names, operation.args, strict=True))}
        for name, value in wanted.items():
            text = (
                f"expected the request for {operation.describe()} to have {name}={value!r}, but it has {seen[name]!r}"
            )
            self.c.expect(seen[name] == value, text, rules.STATUSES)
        text = f"expected the client_id of {operation.describe()} to be one of the sessions {self.sessions}"
        text = f"{text}, but it is {seen['client_id']}"
        self.c.expect(seen["client_id"] in self.sessions, text, rules.SESSIONS)
