"""A Raft that polls. It has one RLock, loops that sleep for a moment and then check, and a new thread for each RPC. It
counts votes in an integer. A new leader's first heartbeats wait for the next tick. get_state reads one tuple without the
lock."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from raftlab.api import ApplyChannel, Peer, Persister


@dataclass
class LogEntry:
    term: int
    command: Any


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


class Raft:
    def __init__(
        self,
        peers: list[Peer],
        me: int,
        persister: Persister,
        apply_ch: ApplyChannel,
        members: frozenset[int],
    ) -> None:
        self.peers = peers
        self.me = me
        self.members = members
        self.big_lock = threading.RLock()
        self.current_term = 0
        self.voted_for: int | None = None
        self.is_candidate = False
        self.is_leader = False
        self.vote_count = 0
        self.last_heard = time.time()
        self.patience = random.uniform(0.4, 0.8)
        self.view = (0, False)  # what get_state returns; replaced as a whole when the term or the role changes
        for loop in (self._watch, self._lead):
            threading.Thread(target=loop, daemon=True).start()

    def get_state(self) -> tuple[int, bool]:
        return self.view

    def start(self, command: Any) -> tuple[int, int, bool]:
        term, is_leader = self.view
        return (-1, term, is_leader)

    def _publish(self) -> None:
        self.view = (self.current_term, self.is_leader)

    def _follow(self, term: int) -> None:
        with self.big_lock:
            if term > self.current_term:
                self.current_term = term
                self.voted_for = None
            self.is_candidate = self.is_leader = False
            self._publish()

    def _calm(self) -> None:
        with self.big_lock:
            self.last_heard = time.time()
            self.patience = random.uniform(0.4, 0.8)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.big_lock:
            if args.term > self.current_term:
                self._follow(args.term)
            if args.term < self.current_term or self.voted_for not in (None, args.candidate_id):
                return RequestVoteReply(term=self.current_term, vote_granted=False)
            self.voted_for = args.candidate_id
            self._calm()
            return RequestVoteReply(term=self.current_term, vote_granted=True)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.big_lock:
            if args.term < self.current_term:
                return AppendEntriesReply(term=self.current_term, success=False)
            self._follow(args.term)
            self._calm()
            return AppendEntriesReply(term=self.current_term, success=True)

    def _watch(self) -> None:
        """Start an election if no leader has been heard for too long."""
        while True:
            time.sleep(random.uniform(0.01, 0.03))
            with self.big_lock:
                if not self.is_leader and time.time() - self.last_heard > self.patience:
                    self._stand()

    def _stand(self) -> None:
        with self.big_lock:
            self.current_term += 1
            self.voted_for = self.me
            self.vote_count = 1
            self.is_candidate = True
            self._publish()
            self._calm()
            args = RequestVoteArgs(self.current_term, self.me, last_log_index=0, last_log_term=0)
            for other in self.members - {self.me}:
                threading.Thread(target=self._ask_vote, args=(other, args), daemon=True).start()
            self._won()

    def _ask_vote(self, other: int, args: RequestVoteArgs) -> None:
        reply = self.peers[other].call("request_vote", args)
        with self.big_lock:
            if reply is None:
                return
            if reply.term > self.current_term:
                self._follow(reply.term)
            if reply.vote_granted and self.is_candidate and self.current_term == args.term:
                self.vote_count += 1  # each server is asked only once per term, so votes can be counted
                self._won()

    def _won(self) -> None:
        if self.vote_count * 2 > len(self.members):
            self.is_candidate = False
            self.is_leader = True
            self._publish()

    def _lead(self) -> None:
        """Send heartbeats about every tenth of a second, as long as this server leads."""
        last_beat = 0.0
        while True:
            time.sleep(0.02)
            with self.big_lock:
                if self.is_leader and time.time() - last_beat >= 0.1:
                    last_beat = time.time()
                    args = AppendEntriesArgs(self.current_term, self.me, prev_log_index=0, prev_log_term=0)
                    for other in self.members - {self.me}:
                        threading.Thread(target=self._beat, args=(other, args), daemon=True).start()

    def _beat(self, other: int, args: AppendEntriesArgs) -> None:
        reply = self.peers[other].call("append_entries", args)
        with self.big_lock:
            if reply is not None and reply.term > self.current_term:
                self._follow(reply.term)
