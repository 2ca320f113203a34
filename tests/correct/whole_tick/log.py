"""The log. It knows which of its entries are stable (saved), and keeps a few entries that the snapshot covers, for
followers that lag."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from messages import Entry

# How many entries stay in the log after the snapshot has covered them.
TRAILING = 4


@dataclass(frozen=True)
class Config:
    """The voters from ``index`` on. If there are ``old`` ones, too, a quorum needs a majority of each set."""

    index: int
    new: frozenset[int]
    old: frozenset[int] = frozenset()

    @property
    def voters(self) -> frozenset[int]:
        return self.new | self.old

    def quorum(self, servers: Iterable[int]) -> bool:
        have = set(servers)
        return all(2 * len(group & have) > len(group) for group in (self.new, self.old) if group)

    def committed(self, match: dict[int, int]) -> int:
        """The highest index that a quorum has."""
        groups = [sorted((match.get(who, 0) for who in group), reverse=True) for group in (self.new, self.old) if group]
        return min(values[len(values) // 2] for values in groups)


class Log:
    """The entries after ``base``. ``configs[0]`` is the configuration at ``base``; the others are in the log."""

    def __init__(self, base: int, base_term: int, config: Config, entries: list[Entry]) -> None:
        self.base = base
        self.base_term = base_term
        self.entries: list[Entry] = []
        self.configs = [config]
        self.stable = base
        self.append(entries)

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    @property
    def config(self) -> Config:
        return self.configs[-1]

    def term(self, index: int) -> int:
        """The term at ``index``, or -1 if the log does not have that entry or no longer has it."""
        if index == self.base:
            return self.base_term
        return self.entries[index - self.base - 1].term if self.base < index <= self.last else -1

    def slice(self, first: int, end: int) -> list[Entry]:
        return self.entries[first - self.base - 1 : end - self.base - 1]

    def config_at(self, index: int) -> Config:
        return next((each for each in reversed(self.configs) if each.index <= index), self.configs[0])

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self.entries.append(entry)
            if entry.kind == "configuration":
                self.configs.append(
                    Config(self.last, frozenset(entry.members or ()), frozenset(entry.old_members or ()))
                )

    def merge(self, prev: int, entries: list[Entry]) -> bool:
        """Store the entries after ``prev``, an index at which the logs are known to agree. Returns whether anything has
        changed."""
        for index, entry in enumerate(entries, prev + 1):
            if self.term(index) != entry.term:
                del self.entries[index - self.base - 1 :]
                self.stable = min(self.stable, index - 1)
                while self.config.index >= index:
                    self.configs.pop()
                self.append(entries[index - prev - 1 :])
                return True
        return False

    def conflict(self, index: int, term: int) -> tuple[int, int]:
        """The last index at or before ``index`` whose term is not later than ``term``, and its term."""
        index = min(index, self.last)
        while index > self.base and self.term(index) > term:
            index -= 1
        return index, max(0, self.term(index))

    def compact(self, snapshot: int) -> None:
        """Drop what a snapshot up to ``snapshot`` covers, except for the trailing entries."""
        base = max(self.base, snapshot - TRAILING)
        config = self.config_at(base)
        self.configs = [config, *(each for each in self.configs if each.index > base)]
        self.base_term = self.term(base)
        del self.entries[: base - self.base]
        self.base = base

    def restart(self, base: int, base_term: int, config: Config) -> None:
        """Replace everything with a snapshot."""
        self.base, self.base_term, self.configs, self.entries = base, base_term, [config], []
        self.stable = min(self.stable, base)
