"""The referee: one file per promise of Raft, each watching every event of every run.

An invariant sees messages and the harness's API, never a student's fields, so it judges any implementation. It raises
:class:`~raftlab.failure.LabFailure` at the first broken promise, where the bug happens and not where it later hurts.
Each file opens with the property, in our words, and with the correct styles that it must accept: a false alarm is the
worst bug this project can have.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from raftlab.api import ApplyMsg
from raftlab.failure import Failure, LabFailure, Rule

if TYPE_CHECKING:
    from raftlab.referee.commit import Commit

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


class Referee(Invariant):
    """All invariants of a lab, asked one after the other. Where puppets play (``puppets``), whose logs and commits are a
    script's and not Raft's, only those that look at a single server."""

    def __init__(self, lab: str, servers: int, puppets: bool = False, members: Collection[int] | None = None) -> None:
        from raftlab.referee.append_only import AppendOnly
        from raftlab.referee.applied import Applied
        from raftlab.referee.commit import Commit
        from raftlab.referee.completeness import Completeness
        from raftlab.referee.configurations import Configurations
        from raftlab.referee.durable import Durable
        from raftlab.referee.election_safety import ElectionSafety
        from raftlab.referee.log_matching import LogMatching
        from raftlab.referee.one_vote import OneVote
        from raftlab.referee.pre_vote import PreVote
        from raftlab.referee.snapshots import Snapshots
        from raftlab.referee.terms import Terms

        durable = lab >= "2C"
        self.applies = Applied()
        self.commit: Commit | None = None
        every: list[Invariant] = [ElectionSafety(durable), OneVote(durable), Terms(durable)]
        if durable:
            every.append(Durable())
        if lab >= "2B" and not puppets:
            # In this order: each looks at what those before it have found.
            shown = AppendOnly(durable)
            commit = Commit(range(servers) if members is None else members, shown)
            every += [shown, LogMatching(shown), commit, Completeness(shown, commit), Snapshots(self.applies)]
            if lab >= "2E":
                every.append(Configurations(servers, shown, commit))
            if lab >= "2F":
                every.append(PreVote(commit))
            self.commit = commit
        every.append(self.applies)
        # Each event goes only to those who look at it: this runs for every message of every run.
        for hook in ("booted", "sent", "arrived", "answered", "saved", "observed", "led", "asked", "applied"):
            watching = [
                getattr(each, hook) for each in every if getattr(type(each), hook) is not getattr(Invariant, hook)
            ]
            setattr(self, hook, _tell(watching))


def _tell(watching: list[Callable[..., None]]) -> Callable[..., None]:
    if len(watching) == 1:
        return watching[0]

    def tell(*event: Any) -> None:
        for each in watching:
            each(*event)

    return tell
