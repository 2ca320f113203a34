"""The messages of Figures 2 and 13, with the fields of lab 2E and this Raft's additions to the replies."""

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


@dataclass
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int
    leadership_transfer: bool = False


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
    # The term of the conflicting entry, and the index of that term's first entry. If the log is too short, there is no term,
    # and the index is the first one that is missing.
    conflict_term: int | None = None
    conflict_index: int | None = None


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
    received_so_far: int | None = None


@dataclass
class TimeoutNowArgs:
    term: int
    leader_id: int


@dataclass
class TimeoutNowReply:
    term: int
