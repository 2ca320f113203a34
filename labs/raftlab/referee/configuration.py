"""Who votes: one configuration, as an entry of the log tells it (§6; dissertation, chapter 4)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from raftlab.referee.base import Message


@dataclass(frozen=True, slots=True)
class Configuration:
    """``members`` vote; while ``old`` is not empty (C_old,new of joint consensus), these do as well, and apart."""

    members: frozenset[int]
    old: frozenset[int] = frozenset()

    @property
    def voters(self) -> frozenset[int]:
        return self.members | self.old

    @property
    def groups(self) -> tuple[frozenset[int], ...]:
        """The sets of servers of each of which a majority is needed."""
        return (self.old, self.members) if self.old else (self.members,)

    def majority(self, servers: Collection[int]) -> bool:
        """Whether ``servers`` are more than half of each group."""
        return all(2 * len(group.intersection(servers)) > len(group) for group in self.groups)

    def reach(self, copies: dict[int, int], leader: int, end: int) -> int:
        """The last index that a majority has. ``copies`` says how far each server is; the leader is at ``end``."""
        reach = end
        for group in self.groups:
            have = sorted((end if server == leader else copies.get(server, 0) for server in group), reverse=True)
            reach = min(reach, have[len(group) // 2]) if group else 0
        return reach

    def __repr__(self) -> str:
        new = f"the members {sorted(self.members)}"
        return f"{new} together with the old {sorted(self.old)}" if self.old else new

    @property
    def most(self) -> str:
        """What a majority of it is called."""
        return " and most of ".join(str(sorted(group)) for group in self.groups)


def content(entry: Message) -> Any:
    """What an entry carries: its configuration, if it is one, or its command."""
    if entry.get("kind") != "configuration":
        return entry.get("command")
    return Configuration(_servers(entry.get("members")), _servers(entry.get("old_members")))


def _servers(told: Any) -> frozenset[int]:
    """None at all where a student's message holds something odd."""
    return frozenset(who for who in told if type(who) is int) if isinstance(told, list) else frozenset()
