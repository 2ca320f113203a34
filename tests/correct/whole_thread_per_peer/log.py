"""The log, and what a leader knows of another server's log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from messages import LogEntry


class Log:
    """Entries by index. A snapshot may have replaced the first ones."""

    def __init__(self, base: int, stand_in: LogEntry, entries: list[LogEntry]) -> None:
        self.base = base
        # Stands for everything that the snapshot covers: it has the term of the last entry and the configuration there.
        self.stand_in = stand_in
        self.entries = entries

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def term(self, index: int) -> int | None:
        """The term of the entry at ``index``; None if this log does not have it."""
        if index == self.base:
            return self.stand_in.term
        return self.entries[index - self.base - 1].term if self.base < index <= self.last else None

    def slice(self, first: int, end: int) -> list[LogEntry]:
        return self.entries[first - self.base - 1 : end - self.base - 1]

    def configurations(self, upto: int) -> Iterator[tuple[int, LogEntry]]:
        """All configurations at or before ``upto``, the latest first; the last one is the snapshot's."""
        for index in range(min(upto, self.last), self.base, -1):
            entry = self.entries[index - self.base - 1]
            if entry.kind == "configuration":
                yield index, entry
        yield self.base, self.stand_in

    def configured(self, upto: int) -> tuple[int, LogEntry]:
        return next(self.configurations(upto))

    def compact(self, index: int, term: int, stand_in: LogEntry | None = None) -> None:
        """Drop the entries up to ``index``. If the log is too short or has another term there, drop all entries and use
        ``stand_in``."""
        if self.term(index) == term:
            _, stand_in = self.configured(index)
            self.entries = self.entries[index - self.base :]
        else:
            self.entries = []
        who = stand_in or self.stand_in
        self.stand_in = LogEntry(term, None, "configuration", who.members, who.old_members)
        self.base = index


@dataclass
class Progress:
    """What a leader knows of one server's log."""

    next_index: int
    match_index: int = 0
    streaming: bool = False  # otherwise it is probing: it sends one message at a time until one succeeds
    window: int = 1
    on_the_way: int = 0
    heard: float = 0.0
    # This grows each time the replicator starts over, so that replies to earlier messages no longer count.
    attempt: int = 0
    # The snapshot in transfer (index, stand-in, bytes), and how much of it is acknowledged.
    sending: tuple[int, LogEntry, bytes] | None = None
    offset: int = 0
    answered: float = 0.0
    # How many more heartbeats a removed server gets. It gets no more once it has answered that it knows of its removal.
    # ``None`` for a member.
    farewells: int | None = None
