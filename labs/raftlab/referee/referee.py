"""The referee of a run: all rules of a lab. It passes each event to the rules that watch it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from raftlab import labs
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.applied import StateMachineSafety
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
    """All rules of a lab.

    Args:
        lab: the lab's name, such as ``"2D"``.
        servers: number of servers in the cluster.
        scripted: whether some of them are scripted servers. Their logs and commits come from the test and not from Raft,
            so only rules about a single server apply.
        members: the initial configuration; ``None`` for all servers.

    Attributes:
        applies: the record of applied entries and snapshots.
        commit: the record of commits; ``None`` before lab 2B and with scripted servers.
    """

    def __init__(self, lab: str, servers: int, scripted: bool = False, members: Collection[int] | None = None) -> None:
        has = labs.find(lab).has
        durable = has("durable")
        self.applies = StateMachineSafety()
        self.commit: Commit | None = None
        rules: list[Invariant] = [ElectionSafety(durable), OneVote(durable), Terms(durable)]
        if durable:
            rules.append(Durable())
        if has("log") and not scripted:
            # The order matters: a rule uses the records of the rules before it.
            append_only = AppendOnly(durable)
            commit = Commit(range(servers) if members is None else members, append_only)
            rules += [
                append_only,
                LogMatching(append_only),
                commit,
                Completeness(append_only, commit),
                Snapshots(self.applies),
            ]
            if has("membership"):
                rules.append(Configurations(servers, append_only, commit))
            if has("pre_vote"):
                rules.append(PreVote(commit))
            self.commit = commit
        rules.append(self.applies)
        # Pass an event only to the rules that watch it, since this runs for every message of every run.
        for hook in (
            "booted",
            "sent",
            "arrived",
            "answered",
            "saved",
            "observed",
            "led",
            "change_requested",
            "applied",
        ):
            watching = [
                getattr(rule, hook) for rule in rules if getattr(type(rule), hook) is not getattr(Invariant, hook)
            ]
            setattr(self, hook, _call_all(watching))


def _call_all(watching: list[Callable[..., None]]) -> Callable[..., None]:
    if len(watching) == 1:
        return watching[0]

    def call_all(*event: Any) -> None:
        for method in watching:
            method(*event)

    return call_all
