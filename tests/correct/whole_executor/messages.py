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


@dataclass(kw_only=True)
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int


@dataclass(kw_only=True)
class RequestVoteReply:
    term: int
    vote_granted: bool


@dataclass(kw_only=True)
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[LogEntry] = field(default_factory=list)
    leader_commit: int = 0


@dataclass(kw_only=True)
class AppendEntriesReply:
    term: int
    success: bool
    # In a refusal: index and term of the follower's last entry before prev_log_index that the leader may have, too. -1 means
    # unknown.
    maybe_common: int = -1
    maybe_common_term: int = -1


@dataclass(kw_only=True)
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


@dataclass(kw_only=True)
class InstallSnapshotReply:
    term: int
    went_well: bool = True
