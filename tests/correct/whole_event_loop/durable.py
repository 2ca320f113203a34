"""The state that is saved, with pickle: the term, the vote, the log, and a stack of the configurations in the log."""

from __future__ import annotations

from dataclasses import dataclass, field

from messages import LogEntry


@dataclass(frozen=True)
class Configuration:
    """The voters from ``index`` on. During a joint change there is also an ``old`` group, and both groups must agree."""

    index: int
    new: frozenset[int]
    old: frozenset[int] | None = None

    @property
    def voters(self) -> frozenset[int]:
        return self.new | (self.old or frozenset())

    def agrees(self, servers: set[int]) -> bool:
        """Whether these servers are a majority of the group, or of each group if there are two."""
        return all(2 * len(group & servers) > len(group) for group in (self.new, self.old) if group is not None)

    def fields(self) -> dict[str, list[int] | None]:
        return {"members": sorted(self.new), "old_members": None if self.old is None else sorted(self.old)}


def told(index: int, members: list[int], old_members: list[int] | None) -> Configuration:
    return Configuration(index, frozenset(members), frozenset(old_members) if old_members else None)


@dataclass
class DurableState:
    # The last configuration is in force. The first one is the snapshot's or the initial one, and the others are entries in
    # the log.
    configurations: list[Configuration]
    current_term: int = 0
    voted_for_candidate: int | None = None
    index_of_last_entry_in_snapshot: int = 0
    term_of_last_entry_in_snapshot: int = 0
    log_entries_behind_snapshot: list[LogEntry] = field(default_factory=list)

    @property
    def base(self) -> int:
        return self.index_of_last_entry_in_snapshot

    @property
    def last(self) -> int:
        return self.base + len(self.log_entries_behind_snapshot)

    @property
    def configuration(self) -> Configuration:
        return self.configurations[-1]

    def entry(self, index: int) -> LogEntry:
        return self.log_entries_behind_snapshot[index - self.base - 1]

    def term_of(self, index: int) -> int:
        return self.term_of_last_entry_in_snapshot if index == self.base else self.entry(index).term

    def behind(self, index: int) -> list[LogEntry]:
        return self.log_entries_behind_snapshot[index - self.base :]

    def replace_behind(self, index: int, entries: list[LogEntry]) -> None:
        """Replace everything after ``index`` with these entries, and the configurations there with those in the new
        entries."""
        del self.log_entries_behind_snapshot[index - self.base :]
        while self.configuration.index > index:
            self.configurations.pop()
        for entry in entries:
            self.log_entries_behind_snapshot.append(entry)
            if entry.members is not None:
                self.configurations.append(told(self.last, entry.members, entry.old_members))

    def cut(self, index: int, term: int, configuration: Configuration | None = None) -> None:
        """Drop everything up to ``index``. If the log's entry there has another term, drop the whole log and use the
        configuration that came with the snapshot."""
        if index <= self.last and self.term_of(index) == term:
            self.log_entries_behind_snapshot = self.behind(index)
            while len(self.configurations) > 1 and self.configurations[1].index <= index:
                self.configurations.pop(0)
        else:
            self.log_entries_behind_snapshot = []
            self.configurations = [configuration or self.configurations[0]]
        self.index_of_last_entry_in_snapshot, self.term_of_last_entry_in_snapshot = index, term
