"""The messages of Figures 2 and 13, with the fields of lab 2E. A refusal has no hint about where to continue."""

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
    # The offset of the next chunk that the follower needs. Once everything has arrived, it is the snapshot's
    # length. If the follower does not need the snapshot, it is larger than that.
    next_offset: int | None = None
