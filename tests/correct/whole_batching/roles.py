"""The roles of a server, each with its own state. Each change of role makes a new object. So if a server's role is
still the same object as earlier, the server has had no other role since then."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from messages import RequestVoteArgs


@dataclass(eq=False)
class Follower:
    leader: int = -1
    heard_at: float = float("-inf")


@dataclass(eq=False)
class Asking:
    """Collects pre-votes."""

    args: RequestVoteArgs
    yes: set[int]


@dataclass(eq=False)
class Candidate:
    args: RequestVoteArgs
    votes: set[int]


@dataclass(eq=False)
class Remote:
    """What a leader knows of a server. That server's log agrees with ours at least up to ``match`` and at most up to
    ``most``. The leader finds the exact index by binary search."""

    match: int
    most: int
    confirmed: float  # when the latest of the messages that the server has answered was sent
    probed: bool = False
    told_commit: int = 0
    pending: Any = None  # the arguments of the message that the server has not answered yet
    sent_at: float = 0.0
    parcel: tuple[int, int, bytes, Voters] | None = None
    offset: int = 0
    leaves_at: float | None = None  # for a server that was removed: when the leader stops sending to it


@dataclass(eq=False)
class Leader:
    since: float
    remotes: dict[int, Remote] = field(default_factory=dict)
    next_beat: float = 0.0
    learners: frozenset[int] | None = None  # the servers that are catching up, if any


@dataclass(frozen=True)
class Voters:
    """A configuration: the servers that vote, in one group or, during a joint change, in two."""

    members: frozenset[int]
    old: frozenset[int] = frozenset()

    @property
    def all(self) -> frozenset[int]:
        return self.members | self.old

    def halves(self) -> list[frozenset[int]]:
        return [self.members, self.old] if self.old else [self.members]

    def most(self, servers: set[int]) -> bool:
        return all(2 * len(half & servers) > len(half) for half in self.halves())

    def reached(self, values: dict[int, float]) -> float:
        """The highest value that a majority of each group has reached."""
        lowest = float("-inf")
        return min(
            sorted(values.get(server, lowest) for server in half)[(len(half) - 1) // 2] for half in self.halves()
        )
