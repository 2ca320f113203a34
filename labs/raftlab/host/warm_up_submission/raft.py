"""The submission of :mod:`raftlab.host.warm_up`. It does not implement Raft, but uses everything that a Raft typically
uses.

It has the message classes of the skeleton. So the methods that `dataclasses` generates and compiles for them are the same
as for a student's classes, and the children inherit them compiled.
"""

from __future__ import annotations

import json
import random
import threading
import time
from dataclasses import asdict, dataclass, field
from typing import Any

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, Status, log


@dataclass
class LogEntry:
    """One entry of the log."""

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


@dataclass
class InstallSnapshotArgs:
    """One chunk of a snapshot."""

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
class LeaseArgs:
    term: int
    server_id: int


@dataclass
class LeaseReply:
    term: int
    granted: bool


class Raft:
    def __init__(
        self, peers: list[Peer], me: int, persister: Persister, apply_ch: ApplyChannel, members: frozenset[int]
    ) -> None:
        self.peers = peers
        self.me = me
        self.persister = persister
        self.apply_ch = apply_ch
        self.lock = threading.Lock()
        self.changed = threading.Condition(self.lock)
        self.entries = [LogEntry(term=0, command=None)]
        self.applied = 0
        threading.Thread(target=self._talk, daemon=True).start()
        threading.Thread(target=self._apply, daemon=True).start()

    def get_state(self) -> tuple[int, bool]:
        with self.lock:
            return len(self.entries), False

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self.changed:
            self.entries.append(LogEntry(1, command))
            self.persister.save(json.dumps([asdict(entry) for entry in self.entries]).encode(), None)
            self.persister.append(b"\n")
            self.changed.notify_all()
            return len(self.entries) - 1, 1, False

    def status(self) -> Status:
        return Status(1, None, "follower", self.applied, self.applied, 1, len(self.entries) - 1)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.lock:
            log("vote", f"asked by S{args.candidate_id}")
            return RequestVoteReply(term=args.term, vote_granted=False)

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return self.request_vote(args)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.lock:
            return AppendEntriesReply(term=args.term, success=len(args.entries) > 0)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        with self.lock:
            return InstallSnapshotReply(term=args.term)

    def _talk(self) -> None:
        while True:
            deadline = time.monotonic() + random.uniform(0.05, 0.1)
            while time.monotonic() < deadline:
                time.sleep(0.02)
            for peer in range(len(self.peers)):
                if peer != self.me:
                    threading.Thread(target=self._ask, args=(peer,), daemon=True).start()

    def _ask(self, peer: int) -> None:
        with self.lock:
            entries = self.entries[1:]
        self.peers[peer].call("append_entries", AppendEntriesArgs(1, self.me, 0, 0, entries))
        self.peers[peer].call("request_vote", RequestVoteArgs(1, self.me, 0, 0))
        self.peers[peer].call("pre_vote", RequestVoteArgs(1, self.me, 0, 0))
        self.peers[peer].call("install_snapshot", InstallSnapshotArgs(1, self.me, 0, 0, 0, b"", True))

    def _apply(self) -> None:
        while True:
            with self.changed:
                while self.applied == len(self.entries) - 1:
                    self.changed.wait(0.5)
                self.applied += 1
                entry = self.entries[self.applied]
            self.apply_ch.put(ApplyMsg(self.applied, entry.term, entry.command))
