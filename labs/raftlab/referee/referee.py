"""The referee of a run: all rules of a lab, each shown the events that it watches."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from raftlab import labs
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.applied import Applied
from raftlab.referee.base import Invariant
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


class Referee(Invariant):
    """All invariants of a lab, asked one after the other. Where puppets play (``puppets``), whose logs and commits are a
    script's and not Raft's, only those that look at a single server."""

    def __init__(self, lab: str, servers: int, scripted: bool = False, members: Collection[int] | None = None) -> None:
        has = labs.find(lab).has
        durable = has("durable")
        self.applies = Applied()
        self.commit: Commit | None = None
        every: list[Invariant] = [ElectionSafety(durable), OneVote(durable), Terms(durable)]
        if durable:
            every.append(Durable())
        if has("log") and not scripted:
            # In this order: each looks at what those before it have found.
            shown = AppendOnly(durable)
            commit = Commit(range(servers) if members is None else members, shown)
            every += [shown, LogMatching(shown), commit, Completeness(shown, commit), Snapshots(self.applies)]
            if has("membership"):
                every.append(Configurations(servers, shown, commit))
            if has("pre_vote"):
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
