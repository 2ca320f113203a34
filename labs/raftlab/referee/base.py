"""The base class of the referee's rules.

A rule (:class:`Invariant`) sees messages and calls of the student's API, never fields of the student's objects, so it
can judge any implementation. It raises :class:`~raftlab.explain.failure.LabFailure` as soon as the rule is broken,
before the bug causes other failures. Each file begins with the rule and with the correct behaviour that it must
accept, because a false alarm is the worst bug that raftlab can have.
"""

from __future__ import annotations

from typing import Any

from raftlab.api import ApplyMsg
from raftlab.explain.failure import Failure, LabFailure, Rule

Message = dict[str, Any]


class Invariant:
    """One rule. Each method below is called when its event happens. By default, the methods do nothing.

    ``method`` is the name of an RPC, such as ``"append_entries"``; ``args`` and ``reply`` are its decoded fields.
    """

    def booted(self, server: int, incarnation: int) -> None:
        """``server`` starts (incarnation 1) or restarts (2, 3, ...)."""

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        """``src`` sends a request. It may never arrive."""

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        """A request is delivered to ``server``, which is not a scripted server."""

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        """``server`` answers a request. The reply may never arrive."""

    def saved(self, server: int) -> None:
        """``persister.save`` or ``persister.append`` on ``server`` succeeded."""

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        """``get_state`` on ``server`` returned ``term`` and ``is_leader``. Calls on one server do not overlap."""

    def led(self, server: int, term: int) -> None:
        """``start`` on ``server`` returned that it leads ``term``."""

    def change_requested(self, server: int, members: frozenset[int]) -> None:
        """``change_membership(members)`` is about to be called on ``server`` (lab 2E)."""

    def transfer_requested(self, server: int, target: int) -> None:
        """``transfer_leadership(target)`` is about to be called on ``server`` (lab 2G)."""

    def applied(self, server: int, msg: ApplyMsg) -> None:
        """``server`` put ``msg`` into its ``apply_ch``."""


def broken(rule: Rule, text: str, servers: frozenset[int] | None = None) -> LabFailure:
    """The failure to raise when ``rule`` is broken.

    Args:
        rule: The broken rule.
        text: One sentence: what was expected and what was observed.
        servers: The servers whose last events are shown; ``None`` means all servers.
    """
    failure = LabFailure(Failure("invariant", text, rule))
    failure.servers = servers
    return failure
