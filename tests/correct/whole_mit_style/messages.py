"""The messages of Figures 2 and 13, with the fields of lab 2E and this Raft's additions to the replies."""

from dataclasses import dataclass, field
from typing import Any, List, Optional  # noqa: UP035


@dataclass(frozen=True, slots=True)
class LogEntry:
    term: int
    command: Any = None
    kind: str = "command"
    members: Optional[List[int]] = None  # noqa: UP006, UP045
    old_members: Optional[List[int]] = None  # noqa: UP006, UP045

    def voters(self):
        return set(self.members) | set(self.old_members or [])

    def majority(self, servers):
        """Whether these servers are a majority of this configuration's members, or of both sets if there are two."""
        for group in (self.members, self.old_members):
            if group and sum(server in servers for server in group) <= len(group) // 2:
                return False
        return True


@dataclass(frozen=True, slots=True)
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int
    leadership_transfer: bool = False


@dataclass(frozen=True, slots=True)
class RequestVoteReply:
    term: int
    vote_granted: bool


@dataclass(frozen=True, slots=True)
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: List[LogEntry] = field(default_factory=list)  # noqa: UP006
    leader_commit: int = 0


@dataclass(frozen=True, slots=True)
class AppendEntriesReply:
    term: int
    success: bool
    x_term: int = -1  # the term of the conflicting entry, if there is one
    x_index: int = -1  # the index of the first entry of that term
    x_len: int = -1  # the log's length, if the log is too short


@dataclass(frozen=True, slots=True)
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool
    members: Optional[List[int]] = None  # noqa: UP006, UP045
    old_members: Optional[List[int]] = None  # noqa: UP006, UP045


@dataclass(frozen=True, slots=True)
class InstallSnapshotReply:
    term: int
    installed: Optional[bool] = None  # noqa: UP045


@dataclass
class TimeoutNowArgs:
    term: int
    leader_id: int


@dataclass
class TimeoutNowReply:
    term: int
