"""The persistent state: term, vote, log and configurations. It knows whether all changes are saved."""

from __future__ import annotations

import pickle
from collections.abc import Sequence

from messages import LogEntry
from roles import Voters

from raftlab.api import Persister


class Store:
    """Changes are made in memory; ``flush`` writes all changes since the last flush in one save."""

    def __init__(self, persister: Persister, members: frozenset[int]) -> None:
        self._persister = persister
        self._dirty = False
        self.term = 0
        self.vote: int | None = None
        self.base = self.base_term = 0
        self.entries: list[LogEntry] = []
        # Configurations by the index of their entry. The one with the lowest index is the snapshot's or the initial one.
        self.voters = {0: Voters(members)}
        if persister.state():
            self.term, self.vote, self.base, self.base_term, self.entries, self.voters = pickle.loads(persister.state())
        self.saved_last = self.last

    def flush(self, snapshot: bytes | None = None) -> None:
        if self._dirty or snapshot is not None:
            state = self.term, self.vote, self.base, self.base_term, self.entries, self.voters
            self._persister.save(pickle.dumps(state), snapshot)
            self._dirty = False
        self.saved_last = self.last

    def snapshot(self) -> bytes:
        return self._persister.snapshot()

    # --- reading ---

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def end(self) -> tuple[int, int]:
        return self.term_of(self.last), self.last

    @property
    def latest(self) -> tuple[int, Voters]:
        """The latest configuration, and its index."""
        at = max(self.voters)
        return at, self.voters[at]

    def term_of(self, index: int) -> int:
        """The term of the entry at ``index``; -1 if there is none."""
        if index == self.base:
            return self.base_term
        return self.entries[index - self.base - 1].term if self.base < index <= self.last else -1

    def entry(self, index: int) -> LogEntry:
        return self.entries[index - self.base - 1]

    def part(self, first: int, count: int) -> list[LogEntry]:
        return self.entries[first - self.base - 1 :][:count]

    # --- changes ---

    def enter(self, term: int, vote: int | None = None) -> None:
        if (term, vote) != (self.term, self.vote):
            self.term, self.vote = term, vote
            self._dirty = True

    def put(self, first: int, entries: Sequence[LogEntry]) -> None:
        """Replace the log from ``first`` on."""
        self._dirty = True
        self.saved_last = min(self.saved_last, first - 1)
        self.entries[first - self.base - 1 :] = entries
        self.voters = {at: who for at, who in self.voters.items() if at < first or at == self.base}
        for index, entry in enumerate(entries, first):
            if entry.members is not None:
                self.voters[index] = Voters(frozenset(entry.members), frozenset(entry.old_members or ()))

    def cut(self, index: int, term: int, who: Voters | None = None) -> None:
        """Cut the log at ``index``. If the log does not agree with the snapshot there, drop the whole log, and use the
        snapshot's configuration ``who``."""
        self._dirty = True
        if self.term_of(index) == term:
            known = self.voters[max(at for at in self.voters if at <= index)]
            self.entries = self.entries[index - self.base :]
            self.voters = {index: known} | {at: each for at, each in self.voters.items() if at > index}
        else:
            self.entries = []
            self.voters = {index: who or self.voters[min(self.voters)]}
        self.base, self.base_term = index, term
