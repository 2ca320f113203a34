"""The referee of a run: all rules of a lab. It passes each event to the rules that watch it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from raftlab import labs
from raftlab.labs import Feature
from raftlab.referee.append_only import AppendOnly, NoLaterTerms
from raftlab.referee.applied import StateMachineSafety
from raftlab.referee.base import Invariant
from raftlab.referee.commit import Commit
from raftlab.referee.commit_bound import CommitBound
from raftlab.referee.completeness import Completeness, Memory
from raftlab.referee.configurations import Configurations
from raftlab.referee.durable import Durable
from raftlab.referee.election_safety import ElectionSafety
from raftlab.referee.leadership import Leadership
from raftlab.referee.log_matching import LogMatching
from raftlab.referee.one_vote import OneVote
from raftlab.referee.pre_vote import PreVote
from raftlab.referee.snapshots import Snapshots
from raftlab.referee.terms import Terms
from raftlab.referee.transfer import ElectionOnRequest, WholeLogFirst


class Referee(Invariant):
    """All rules of a lab.

    Args:
        lab: The lab's name, such as ``"2D"``.
        servers: The number of servers in the cluster.
        scripted: Whether some of the servers are scripted. Their logs and commits come from the test and not from Raft,
            so only rules about a single server apply.
        members: The initial configuration; ``None`` means all servers.
        features: The features that this run needs besides the lab's own (lab 3A).
        clock: Returns the current time in seconds, for the text of failures. No verdict depends on it.

    Attributes:
        applies: The record of applied entries and snapshots.
        commit: The record of commits; ``None`` before lab 2B and with scripted servers.
        leadership: The record of votes; ``None`` with scripted servers.
    """

    def __init__(
        self, lab: str, servers: int, scripted: bool = False, members: Collection[int] | None = None,
        features: Collection[Feature] = (), clock: Callable[[], float] = lambda: 0.0,
    ) -> None:  # fmt: skip
        features = {*labs.find(lab).features, *features}
        has = features.__contains__
        durable = has("durable")
        self.applies = StateMachineSafety()
        self.commit: Commit | None = None
        self.leadership: Leadership | None = None
        rules: list[Invariant] = [ElectionSafety(durable), OneVote(durable), Terms(durable)]
        commit_bound = CommitBound()
        if has("log"):
            rules += [NoLaterTerms(), commit_bound]
        if durable:
            rules.append(Durable(commit_bound))
        if has("transfer"):
            rules.append(ElectionOnRequest())
        if has("log") and not scripted:
            # The order matters, because a rule uses the records of the rules before it.
            append_only = AppendOnly(durable)
            commit = Commit(range(servers) if members is None else members, append_only, commit_bound)
            memory = Memory(clock)
            completeness = Completeness(append_only, commit, memory)
            if durable:
                rules.append(memory)
            rules += [
                append_only,
                LogMatching(append_only),
                commit,
                completeness,
                Snapshots(self.applies, completeness),
            ]
            if has("membership"):
                rules.append(Configurations(servers, append_only, commit))
            if has("pre_vote"):
                rules.append(PreVote(commit, required=not has("transfer")))
            if has("transfer"):
                rules.append(WholeLogFirst(commit_bound))
            self.commit = commit
        if not scripted:
            voters = range(servers) if members is None else members
            self.leadership = Leadership(voters, self.commit if has("membership") else None)
            # This rule comes first if it can: a server that leads without votes is a clearer failure than two leaders.
            # If the members can change, this rule needs the records of the other rules.
            rules.insert(len(rules) if has("membership") else 0, self.leadership)
        rules.append(self.applies)
        # Pass an event only to the rules that watch it, because this runs for every message of every run.
        for hook in (
            "booted",
            "sent",
            "arrived",
            "answered",
            "saved",
            "observed",
            "led",
            "change_requested",
            "transfer_requested",
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
