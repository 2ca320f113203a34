"""A configuration: the servers that vote, as an entry of the log lists them (§6; dissertation, chapter 4)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from raftlab.referee.base import Message


@dataclass(frozen=True, slots=True)
class Configuration:
    """The servers that vote.

    Attributes:
        members: The members; under C_old,new, the members of C_new.
        old: Under C_old,new (joint consensus), the members of C_old; otherwise empty. A majority of each set is needed.
    """

    members: frozenset[int]
    old: frozenset[int] = frozenset()

    @property
    def voters(self) -> frozenset[int]:
        return self.members | self.old

    @property
    def groups(self) -> tuple[frozenset[int], ...]:
        """The sets of servers. A majority of each set is needed."""
        return (self.old, self.members) if self.old else (self.members,)

    def has_majority(self, servers: Collection[int]) -> bool:
        """Whether ``servers`` includes more than half of each group."""
        return all(2 * len(group.intersection(servers)) > len(group) for group in self.groups)

    def majority_index(self, match_index: dict[int, int], leader: int, leader_last: int) -> int:
        """The last index that is on a majority of each group.

        Args:
            match_index: The last index known to be on each server; 0 for a server that is not in it.
            leader: The leader. It counts only in groups that contain it.
            leader_last: The last index of the leader's own log.
        """
        index = leader_last
        for group in self.groups:
            last = sorted((leader_last if who == leader else match_index.get(who, 0) for who in group), reverse=True)
            index = min(index, last[len(group) // 2]) if group else 0
        return index

    def __repr__(self) -> str:
        if self.old:
            return f"the configuration (new {sorted(self.members)}, old {sorted(self.old)})"
        return f"the configuration {sorted(self.members)}"

    @property
    def groups_text(self) -> str:
        """The groups as text that follows the words "most of"."""
        return " and most of ".join(names(group) for group in self.groups)


def names(servers: Collection[int]) -> str:
    """The servers as text: ``S0, S1, S2``."""
    return ", ".join(f"S{who}" for who in sorted(servers))


def pre_votes_note(pre_votes: Collection[int], votes: Collection[int]) -> str:
    """What to add to a sentence about missing votes if the candidate has pre-votes of servers that did not vote for it."""
    only = set(pre_votes) - set(votes)
    return f". It has pre-votes of {names(only)}, but pre-votes are not votes" if only else ""


def content(entry: Message) -> Any:
    """The content of an entry: the configuration if the entry is one, otherwise the command."""
    if entry.get("kind") != "configuration":
        return entry.get("command")
    return Configuration(_servers(entry.get("members")), _servers(entry.get("old_members")))


def _servers(value: Any) -> frozenset[int]:
    """The server numbers in a message's field. The field may contain anything; values that are not integers are
    ignored."""
    return frozenset(who for who in value if type(who) is int) if isinstance(value, list) else frozenset()
