"""The state that is saved: the term, the last vote and its term, the log, and two configurations. These are the latest one
and the last one that is certainly committed. Two are enough, because a leader begins no change before the previous one is
committed."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass

from messages import LogEntry

from raftlab.api import Persister


@dataclass(frozen=True)
class Members:
    index: int
    new: tuple[int, ...]
    old: tuple[int, ...] = ()

    def all(self) -> set[int]:
        return {*self.new, *self.old}

    def majority(self, servers: Collection[int]) -> bool:
        groups = [group for group in (self.new, self.old) if group]
        return all(2 * sum(who in servers for who in group) > len(group) for group in groups)


def members_of(index: int, new: Collection[int], old: Collection[int] | None) -> Members:
    return Members(index, tuple(sorted(new)), tuple(sorted(old or ())))


class Store:
    """The persistent state. After a change, :meth:`save` must be called before another server can learn of the change."""

    def __init__(self, persister: Persister, members: Collection[int]) -> None:
        self.persister = persister
        self.failure: OSError | None = None
        self.term = 0
        self.vote_term, self.vote = 0, -1
        self.base, self.base_term = 0, 0
        self.base_members = members_of(0, members, None)
        self.entries: list[LogEntry] = []
        self.committed = self.latest = self.base_members
        if persister.state():
            saved = json.loads(persister.state())
            self.term, self.vote_term, self.vote, self.base, self.base_term = saved["numbers"]
            self.committed = self.latest = self.base_members = members_of(*saved["members"])
            self.append([LogEntry(*values) for values in saved["entries"]])

    def save(self, snapshot: bytes | None = None) -> None:
        first = self.base_members
        state = {
            "numbers": [self.term, self.vote_term, self.vote, self.base, self.base_term],
            "members": [first.index, first.new, first.old],
            "entries": [list(vars(entry).values()) for entry in self.entries],
        }
        try:
            self.persister.save(json.dumps(state).encode(), snapshot)
        except OSError as error:
            self.failure = error
            raise

    def check(self) -> None:
        """Raise the error of an earlier save."""
        if self.failure is not None:
            raise self.failure

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def term_at(self, index: int) -> int | None:
        """The term at ``index``, or ``None`` if the log has no such entry."""
        if index == self.base:
            return self.base_term
        return self.entries[index - self.base - 1].term if self.base < index <= self.last else None

    def end(self) -> tuple[int, int]:
        return (self.entries[-1].term if self.entries else self.base_term, self.last)

    def between(self, first: int, last: int) -> list[LogEntry]:
        return self.entries[first - self.base - 1 : max(0, last - self.base)]

    def append(self, entries: list[LogEntry]) -> None:
        for entry in entries:
            self.entries.append(entry)
            if entry.members is not None:
                # The leader has begun this change, so the one before it is committed.
                self.committed = self.latest
                self.latest = members_of(self.last, entry.members, entry.old_members)

    def cut_end(self, index: int) -> None:
        """Remove the entry at ``index`` and all after it."""
        del self.entries[index - self.base - 1 :]
        if self.latest.index >= index:
            self.latest = self.committed

    def cut_start(self, index: int) -> None:
        """Remove everything up to ``index``, which a snapshot covers."""
        for at, entry in enumerate(self.between(self.base + 1, index), self.base + 1):
            if entry.members is not None:
                self.base_members = members_of(at, entry.members, entry.old_members)
        self.base_term = self.term_at(index) or 0
        self.entries = self.entries[index - self.base :]
        self.base = index

    def replace(self, index: int, term: int, members: Members) -> None:
        """Replace the whole log with a snapshot."""
        self.entries, self.base, self.base_term = [], index, term
        self.base_members = self.committed = self.latest = members

    def members_at(self, index: int) -> Members:
        """The configuration that is in force at ``index``. The entry there must be committed."""
        return next((each for each in (self.latest, self.committed) if each.index <= index), self.base_members)
