"""The referee: one file per promise of Raft, each watching every event of every run.

An invariant sees messages and the harness's API, never a student's fields, so it judges any implementation. It raises
:class:`~raftlab.explain.failure.LabFailure` at the first broken promise, where the bug happens and not where it later hurts.
Each file opens with the property, in our words, and with the correct styles that it must accept: a false alarm is the
worst bug this project can have.
"""

from __future__ import annotations

from typing import Any

from raftlab.api import ApplyMsg
from raftlab.explain.failure import Failure, LabFailure, Rule

Message = dict[str, Any]


class Invariant:
    """What an invariant may watch. Each method is called as the event happens; the default sees nothing in it."""

    def booted(self, server: int, incarnation: int) -> None: ...

    def sent(self, src: int, dst: int, method: str, args: Message) -> None: ...

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        """A request is in the hands of ``server``, which is no puppet."""

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None: ...

    def saved(self, server: int) -> None: ...

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        """``get_state`` of ``server``, asked and answered with nothing in between."""

    def led(self, server: int, term: int) -> None:
        """``start`` on ``server`` said that it leads ``term``."""

    def asked(self, server: int, members: frozenset[int]) -> None:
        """``server`` is about to be asked for ``change_membership(members)`` (lab 2E)."""

    def applied(self, server: int, msg: ApplyMsg) -> None: ...


def broken(rule: Rule, text: str, servers: frozenset[int] | None = None) -> LabFailure:
    """The verdict of an invariant. ``servers`` are those whose last events tell the story."""
    failure = LabFailure(Failure("invariant", text, rule))
    failure.servers = servers
    return failure
