"""A Raft with futures. An election collects its votes with as_completed and a timeout. A leader sends heartbeats in rounds
and waits for an Event between them. It uses much of the standard library: wait_for, Semaphore, Event, logging,
perf_counter_ns, and threads that are not daemons."""

from __future__ import annotations

import logging
import random
import threading
import time
from concurrent import futures
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from raftlab.api import ApplyChannel, Peer, Persister

MS = 1_000_000
HEARTBEAT_S = 0.1
MOST_CALLS = 60  # the most calls to one peer at a time; a call to a dead server takes up to 7 s

logger = logging.getLogger("raft")


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass
class LogEntry:
    term: int
    command: Any


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
        self.others = [peer for peer in members if peer != me]
        self.majority = len(members) // 2 + 1
        self.changed = threading.Condition()
        self.current_term = 0
        self.voted_for: int | None = None
        self.role = Role.FOLLOWER
        self.quiet_until = 0
        self.over = threading.Event()  # set when the current candidacy or leadership ends
        self.free = {peer: threading.BoundedSemaphore(MOST_CALLS) for peer in self.others}
        self.pool = futures.ThreadPoolExecutor(max_workers=MOST_CALLS * len(peers))
        with self.changed:
            self._calm()
        threading.Thread(target=self._live, name=f"life of S{me}").start()

    def get_state(self) -> tuple[int, bool]:
        with self.changed:
            return self.current_term, self.role is Role.LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        return -1, -1, False

    # --- handlers ---

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.changed:
            self._notice(args.term)
            granted = args.term == self.current_term and self.voted_for in (None, args.candidate_id)
            if granted:
                self.voted_for = args.candidate_id
                self._calm()
            return RequestVoteReply(term=self.current_term, vote_granted=granted)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.changed:
            self._notice(args.term)
            success = args.term == self.current_term
            if success:
                self._follow()
                self._calm()
            return AppendEntriesReply(term=self.current_term, success=success)

    # --- called with the lock held ---

    def _notice(self, term: int) -> None:
        if term > self.current_term:
            self.current_term, self.voted_for = term, None
            self._follow()

    def _follow(self) -> None:
        if self.role is not Role.FOLLOWER:
            logger.info("S%d gives up as %s", self.me, self.role)
            if self.role is Role.LEADER:
                self._calm()
            self.role = Role.FOLLOWER
            self.over.set()

    def _calm(self) -> None:
        self.quiet_until = time.perf_counter_ns() + random.randrange(300 * MS, 600 * MS)
        self.changed.notify_all()

    # --- the loops of a server ---

    def _live(self) -> None:
        while True:
            self._wait_for_silence()
            term = self._stand()
            if self._collect(term):
                self._reign(term)

    def _wait_for_silence(self) -> None:
        with self.changed:
            while (left := self.quiet_until - time.perf_counter_ns()) > 0:
                self.changed.wait_for(lambda: time.perf_counter_ns() >= self.quiet_until, timeout=left / 1e9)

    def _stand(self) -> int:
        with self.changed:
            self.current_term += 1
            self.voted_for = self.me
            self.role = Role.CANDIDATE
            self.over = threading.Event()
            self._calm()
            logger.warning("S%d stands in term %d", self.me, self.current_term)
            return self.current_term

    def _collect(self, term: int) -> bool:
        """Ask for votes until there are enough, the timeout passes, or the candidacy ends."""
        ballot = RequestVoteArgs(term=term, candidate_id=self.me, last_log_index=0, last_log_term=0)
        asked = [call for peer in self.others if (call := self._call(peer, "request_vote", ballot))]
        votes = 1
        with self.changed:
            left = self.quiet_until - time.perf_counter_ns()
        try:
            for call in futures.as_completed(asked, timeout=max(0, left) / 1e9):
                reply = call.result()
                votes += reply is not None and reply.vote_granted
                if votes >= self.majority or self.over.is_set():
                    break
        except futures.TimeoutError:
            pass
        with self.changed:
            if votes >= self.majority and self.role is Role.CANDIDATE and self.current_term == term:
                self.role = Role.LEADER
            return self.role is Role.LEADER and self.current_term == term

    def _reign(self, term: int) -> None:
        over = self.over
        beat = AppendEntriesArgs(term=term, leader_id=self.me, prev_log_index=0, prev_log_term=0)
        while not over.is_set():
            round_ = [call for peer in self.others if (call := self._call(peer, "append_entries", beat))]
            futures.wait(round_, timeout=HEARTBEAT_S / 4, return_when=futures.FIRST_COMPLETED)
            over.wait(HEARTBEAT_S)

    def _call(self, peer: int, method: str, args: Any) -> futures.Future[Any] | None:
        """Start a call, unless too many are in flight."""
        if not self.free[peer].acquire(blocking=False):
            return None
        return self.pool.submit(self._carry, peer, method, args)

    def _carry(self, peer: int, method: str, args: Any) -> Any:
        try:
            reply = self.peers[peer].call(method, args)
        finally:
            self.free[peer].release()
        if reply is not None:
            with self.changed:
                self._notice(reply.term)
        return reply
