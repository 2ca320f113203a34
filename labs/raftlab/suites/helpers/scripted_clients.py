"""Helpers for lab 3A: clients that a test plays with a scripted clerk. The test decides what they request, when, and from
which server.

A request that is answered with ``not_leader`` or ``try_again`` may have been carried out, so a second ``register`` may begin
a second session. Where that matters, use the methods that ask the leader only once, inside :func:`undisturbed`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Rule, short
from raftlab.harness.clerks import OPERATION_LIMIT
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.clients import request, require_entry
from raftlab.suites.helpers.scripted_servers import ScriptedFollower

# What a server may answer if it cannot promise anything.
REFUSALS = ("not_leader", "try_again")
_STATUSES = ("ok", *REFUSALS, "no_session", "bad_request")
# Seconds that a test waits for the answer to one request. A server must answer within 2 s by its own clock. Other tests
# check this limit; here, a busy machine may take longer.
_PATIENCE = 10.0
# Seconds after which every answer to an earlier request has been sent, and the request has no further effect.
_ANSWERED = 3.0


class Disturbed(Exception):
    """The leader refused a request, perhaps because another server leads now. That is no mistake, but the test no longer
    knows what is in the log."""


def undisturbed(c: Cluster, attempt: Callable[[], None]) -> None:
    """Call ``attempt`` until the leader refuses none of its requests."""
    for _ in range(5):
        try:
            attempt()
            return
        except Disturbed:
            c.sleep(_ANSWERED)
    c.fail("expected the leader of a quiet cluster to carry out requests, but it keeps refusing them", rules.PROGRESS)


def describe(fields: Message) -> str:
    """A request in words: ``append('x', '1;') (session 7, serial 4)``."""
    if fields["op"] == "register":
        return "register"
    given = [fields["key"], *(fields[name] for name in ("expected", "value") if fields[name] is not None)]
    arguments = ", ".join(short(value, 30) for value in given)
    return f"{fields['op']}({arguments}) (session {fields['client_id']}, serial {fields['serial']})"


class Client:
    """A client that the test plays.

    Args:
        c: the cluster.
        number: which of the cluster's scripted clerks sends the requests.

    Attributes:
        server: the server that answered last. It is asked first.
    """

    def __init__(self, c: Cluster, number: int = 0) -> None:
        self.c = c
        self.server = 0
        self._clerk = c.scripted_clerks[number]
        self._begun: set[int] = set()  # the numbers of the sessions that servers gave it
        # A session's number is the index of an entry. These numbers are far above any index, so no session has one of them.
        self._own_numbers = itertools.count(500_001 + 1000 * number)

    # --- one request ---

    def send(self, server: int, fields: Message) -> Rpc:
        """Send a request without waiting for the answer."""
        return self._clerk.send(server, "client_request", **fields)

    def answer(self, rpc: Rpc) -> Message:
        """Wait for the answer to a request that has been sent. Fails if there is none."""
        reply = self._reply(rpc)
        if reply is None:
            text = f"expected S{rpc.dst} to answer {describe(rpc.args)} within 2 s, but it did not answer at all"
            self.c.fail(text, rules.ANSWERED_IN_TIME, [rpc.dst])
        return reply

    def ask(self, server: int, fields: Message) -> Message:
        """Send one server a request, and return its answer."""
        return self.answer(self.send(server, fields))

    def _reply(self, rpc: Rpc) -> Message | None:
        """The answer, or ``None`` if the server cannot be reached."""
        if not self.c.wait_for(_PATIENCE, lambda: rpc.done):
            text = (
                f"expected S{rpc.dst} to answer {describe(rpc.args)} within 2 s, but after {_PATIENCE:.0f} s it has not"
            )
            self.c.fail(text, rules.ANSWERED_IN_TIME, [rpc.dst])
        if rpc.reply is not None and rpc.reply["status"] not in _STATUSES:
            text = (
                f"expected S{rpc.dst} to answer with one of {', '.join(_STATUSES)}, but it said {rpc.reply['status']!r}"
            )
            self.c.fail(text, rules.STATUSES, [rpc.dst])
        return rpc.reply

    # --- the same request until it is carried out ---

    def carry_out(self, fields: Message, servers: Sequence[int] | None = None, rule: Rule = rules.PROGRESS) -> Message:
        """Send the same request to ``servers`` (default: all) in turn, until one does not refuse it. Fails with ``rule`` if
        that takes too long. Returns the answer."""
        c = self.c
        among = range(c.size) if servers is None else servers
        order = sorted(among, key=lambda server: (server - self.server) % c.size)
        deadline = c.now + OPERATION_LIMIT
        refusals: dict[int, str] = {}
        while c.now < deadline:
            for server in order:
                reply = self._reply(self.send(server, fields))
                refusals[server] = "nothing" if reply is None else reply["status"]
                if reply is not None and reply["status"] not in REFUSALS:
                    self.server = server
                    return reply
            c.sleep(0.05)
        seen = ", ".join(f"S{server}: {status}" for server, status in sorted(refusals.items()))
        text = (
            f"expected {describe(fields)} to be carried out within {OPERATION_LIMIT:.0f} s, but the answers are {seen}"
        )
        return c.fail(text, rule)

    def succeed(
        self, fields: Message, rule: Rule = rules.SESSIONS, when: str = "", servers: Sequence[int] | None = None,
        late: Rule = rules.PROGRESS,
    ) -> Any:  # fmt: skip
        """Like :meth:`carry_out`, and require the status ``ok``.

        Args:
            fields: the request.
            rule: the rule that another status breaks.
            when: a sentence that is added to the failure's message.
            servers: those to ask; ``None``: all.
            late: the rule that is broken if nobody carries out the request in time.

        Returns:
            The answer's value.
        """
        return self._value(fields, self.carry_out(fields, servers, late), rule, when)

    def register(self) -> Session:
        """Begin a session."""
        return self._session(self.succeed(self.registration()))

    # --- the leader, once ---

    def succeed_once(self, fields: Message, rule: Rule = rules.SESSIONS, when: str = "") -> Any:
        """Like :meth:`succeed`, but send the request only to the server that answered last, and only once.

        Raises:
            Disturbed: the server refuses.
        """
        reply = self.ask(self.server, fields)
        if reply["status"] in REFUSALS:
            raise Disturbed
        return self._value(fields, reply, rule, when)

    def register_once(self, client_id: int | None = None) -> Session:
        """Like :meth:`register`, but with exactly one request. Raises :class:`Disturbed`."""
        return self._session(self.succeed_once(self.registration(client_id)))

    # --- answers ---

    def registration(self, client_id: int | None = None) -> Message:
        """A request that begins a session. ``client_id``: by default, a new number."""
        return request("register", next(self._own_numbers) if client_id is None else client_id, 0)

    def _value(self, fields: Message, reply: Message, rule: Rule, when: str) -> Any:
        status = reply["status"]
        text = f"expected {describe(fields)} to be answered with ok, but the answer is {status}"
        self.c.expect(status == "ok", f"{text}. {when}" if when else text, rule)
        if fields["op"] != "get":
            require_entry(self.c, describe(fields), rules.STATUSES)
        return reply["value"]

    def _session(self, value: Any) -> Session:
        text = f"expected the answer to register to be the number of a session, but it is {short(value)}"
        self.c.expect(type(value) is int, text, rules.SESSIONS)
        text = f"expected register to begin a new session, but the answer is session {value} again"
        self.c.expect(value not in self._begun, text, rules.SESSIONS)
        self._begun.add(value)
        return Session(self, value)

    def expect_value(self, session: Session, key: str, value: str | None, why: str, rule: Rule) -> None:
        """Read a key in a session, and require its value. ``why`` is a sentence that is added to the failure's message."""
        read = self.succeed(session.request("get", key))
        self.c.expect(read == value, f"expected {key!r} to be {short(value)}, but it is {short(read)}. {why}", rule)


class Session:
    """A session of a client.

    Attributes:
        number: the ``client_id`` of its requests.
        serial: the serial of its last request.
    """

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.number = number
        self.serial = 0

    def request(
        self, op: str, key: str = "", value: str | None = None, expected: str | None = None, serial: int | None = None
    ) -> Message:
        """A request of the session, with ``serial``; by default, with the next serial."""
        self.serial = self.serial + 1 if serial is None else serial
        return request(op, self.number, self.serial, key, value=value, expected=expected)

    def do(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        """Carry out the session's next request, which must be answered with ``ok``. Returns the answer's value."""
        return self.client.succeed(self.request(op, key, value, expected))

    def do_once(self, op: str, key: str, value: str | None = None, expected: str | None = None) -> Any:
        """Like :meth:`do`, but ask the leader only once. Raises :class:`Disturbed`."""
        return self.client.succeed_once(self.request(op, key, value, expected))

    def expect_ended(self, why: str) -> None:
        """Require that the session has ended: a write is answered with ``no_session``. ``why`` is a sentence that is added
        to the failure's message. The key ``"ended"`` then shows that the write was not carried out."""
        fields = self.request("append", "ended", f"{self.number};")
        status = self.client.carry_out(fields)["status"]
        text = f"expected session {self.number} to have ended, but the answer to {describe(fields)} is {status}. {why}"
        self.client.c.expect(status == "no_session", text, rules.SESSIONS)


def spoil(command: Any, serial: int) -> list[Any]:
    """Variants of a service's own command that the service cannot understand: in each, one field is missing or has a list as
    its value.

    Args:
        command: an entry that the service made. If it is neither a dict nor a list, there are no variants.
        serial: the serial in ``command``. Each variant has a higher serial, so that no variant is taken for a copy of the
            request.
    """
    if isinstance(command, list):
        return [[spoiled, *command[1:]] for first in command[:1] for spoiled in spoil(first, serial)]
    variants: list[Any] = []
    for name, value in command.items() if isinstance(command, dict) else ():
        others = {key: serial + 1 if each == serial else each for key, each in command.items() if key != name}
        serial += 1
        variants += [others, {**others, name: [7]}, *({**others, name: spoiled} for spoiled in spoil(value, serial))]
    return variants


def longest_log(followers: Sequence[ScriptedFollower]) -> list[Message]:
    """The longest log of these followers of S0."""
    return max((follower.log for follower in followers), key=len)
