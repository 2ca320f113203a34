"""The messages of Figures 2 and 13, with the fields of lab 2E."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class LogEntry:
    term: int
    command: Any
    kind: str = "command"
    members: list[int] | None = None
    old_members: list[int] | None = None

    @property
    def groups(self) -> list[list[int]]:
        """The voters of this configuration entry, in one set or, for C_old,new, in two."""
        return [group for group in (self.members, self.old_members) if group]

    @property
    def voters(self) -> set[int]:
        return {server for group in self.groups for server in group}


@dataclass
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int


@dataclass
class RequestVoteReply:
    term: int
    vote_granted: bool


@dataclass
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[LogEntry] = field(default_factory=list)
    leader_commit: int = 0


@dataclass
class AppendEntriesReply:
    term: int
    success: bool
    # In a refusal: the index that the leader should try next. 0 means unknown.
    try_index: int = 0


@dataclass
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool
    members: list[int] | None = None
    old_members: list[int] | None = None


@dataclass
class InstallSnapshotReply:
    term: int
