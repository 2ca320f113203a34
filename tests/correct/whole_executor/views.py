"""What a leader knows of the other servers, which servers vote, and a membership change and snapshots that are under way."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Electorate:
    """The voters from the entry at ``since`` on. While C_old,new is in force there are two groups."""

    since: int
    members: frozenset[int]
    old: frozenset[int] = frozenset()

    def everybody(self) -> frozenset[int]:
        return self.members | self.old

    def decides(self, servers: set[int]) -> bool:
        """Whether these servers are a majority of each group."""
        new, old = len(self.members & servers), len(self.old & servers)
        return 2 * new > len(self.members) and (not self.old or 2 * old > len(self.old))


@dataclass
class Change:
    """A membership change whose learners are catching up. Its future gets the index of the change's entry, or -1."""

    term: int
    members: frozenset[int]
    learners: frozenset[int]
    index: Future[int]


@dataclass
class Other:
    """What a leader knows of another server."""

    next_index: int
    heard_at: float
    match_index: int = 0
    told_commit: int = 0
    call: Any = None  # the arguments of the call in flight, if it has new entries or a new commit index
    call_since: float = 0.0
    parcel: Parcel | None = None
    # Until when a removed server still gets messages.
    leaves_at: float | None = None


@dataclass
class Parcel:
    """A snapshot in transfer to one server."""

    index: int
    index_term: int
    data: bytes
    who: Electorate | None = None
    offset: int = 0
    failures: int = 0
