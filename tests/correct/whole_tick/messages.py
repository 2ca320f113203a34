"""The messages of Figures 2 and 13, with the fields of labs 2E, 2G and 3B and what this Raft adds to the replies."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Entry:
    term: int
    command: Any
    kind: str = "command"
    members: list[int] | None = None
    old_members: list[int] | None = None


@dataclass
class VoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int
    leadership_transfer: bool = False


@dataclass
class VoteReply:
    term: int
    vote_granted: bool


@dataclass
class AppendArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[Entry] = field(default_factory=list)
    leader_commit: int = 0
    # In heartbeats: the number of the round that a reply confirms, and whether the leader relies on the receiver not to vote
    # for a while.
    round: int = 0
    quiet: bool = False


@dataclass
class AppendReply:
    term: int
    success: bool
    # With success: the last index up to which the logs are known to agree. If the message begins before the follower's
    # commit index, this is the commit index, and the follower has stored nothing from the message.
    agreed: int | None = None
    # With a refusal: the index that the leader may try next, and the follower's term there.
    hint: int | None = None
    hint_term: int | None = None


@dataclass
class InstallArgs:
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
class InstallReply:
    term: int
    received: int | None = None


@dataclass
class TimeoutNowArgs:
    term: int
    leader_id: int


@dataclass
class TimeoutNowReply:
    term: int


@dataclass
class ReadIndexArgs:
    term: int
    server_id: int


@dataclass
class ReadIndexReply:
    term: int
    index: int


@dataclass
class Outgoing:
    """A request that is to be sent. It is sent when the server's lock is free."""

    to: int
    method: str
    args: Any
    heartbeat: bool = False
