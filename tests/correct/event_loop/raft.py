"""A Raft with an event loop. One thread owns all state. Handlers and get_state put events into that thread's inbox and
wait for a Future, and a thread pool makes the RPCs. A lost RequestVote is sent again within the term. A new leader
sends heartbeats at once."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from raftlab.api import ApplyChannel, Peer, Persister, log

HEARTBEAT = 0.09
TIMEOUT = (0.35, 0.7)
# A call to a dead server blocks for up to 7 s, so there must be enough workers for all heartbeats that a leader sends
# in 7 s.
WORKERS_PER_PEER = 80


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
        self.others = sorted(members - {me})
        self.quorum = len(members) // 2 + 1
        self.pool = ThreadPoolExecutor(WORKERS_PER_PEER * len(peers), thread_name_prefix=f"rpc-{me}")
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        # Used only by the loop's thread.
        self.current_term = 0
        self.voted_for: int | None = None
        self.role = "follower"
        self.votes: set[int] = set()
        self.alarm = time.monotonic() + random.uniform(*TIMEOUT)
        threading.Thread(target=self._loop, name="loop", daemon=True).start()

    # --- called in other threads: post an event and wait for its answer ---

    def _ask(self, work: Callable[..., Any], *args: Any) -> Any:
        answer: Future[Any] = Future()
        self.inbox.put(lambda: answer.set_result(work(*args)))
        return answer.result()

    def get_state(self) -> tuple[int, bool]:
        return self._ask(lambda: (self.current_term, self.role == "leader"))

    def start(self, command: Any) -> tuple[int, int, bool]:
        return -1, -1, False

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return self._ask(self._on_request_vote, args)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        return self._ask(self._on_append_entries, args)

    # --- the loop's thread ---

    def _loop(self) -> None:
        while True:
            try:
                work = self.inbox.get(timeout=max(0.0, self.alarm - time.monotonic()))
            except queue.Empty:
                work = self._rang
            work()

    def _rang(self) -> None:
        if time.monotonic() < self.alarm:
            return
        if self.role == "leader":
            self._beat()
        else:
            self._campaign()

    def _restart_timer(self) -> None:
        self.alarm = time.monotonic() + random.uniform(*TIMEOUT)

    def _see(self, term: int) -> None:
        """Figure 2, All Servers: become a follower if this term is higher."""
        if term > self.current_term:
            if self.role == "leader":
                self._restart_timer()  # while this server led, the timer was set for the next heartbeat
            self.current_term = term
            self.voted_for = None
            self.role = "follower"

    def _on_request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        self._see(args.term)
        granted = args.term == self.current_term and self.voted_for in (None, args.candidate_id)
        if granted:
            self.voted_for = args.candidate_id
            self._restart_timer()
        return RequestVoteReply(self.current_term, granted)

    def _on_append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        self._see(args.term)
        if args.term < self.current_term:
            return AppendEntriesReply(self.current_term, False)
        self.role = "follower"
        self._restart_timer()
        return AppendEntriesReply(self.current_term, True)

    def _campaign(self) -> None:
        self.current_term += 1
        self.role = "candidate"
        self.voted_for = self.me
        self.votes = {self.me}
        self._restart_timer()
        log("election", f"term {self.current_term}")
        args = RequestVoteArgs(self.current_term, self.me, 0, 0)
        for peer in self.others:
            self._send(peer, "request_vote", args, self._on_vote)
        self._count()

    def _on_vote(self, peer: int, args: RequestVoteArgs, reply: RequestVoteReply | None) -> None:
        current = self.role == "candidate" and args.term == self.current_term
        if reply is None:
            if current:
                self._send(peer, "request_vote", args, self._on_vote)
            return
        self._see(reply.term)
        if reply.vote_granted and self.role == "candidate" and args.term == self.current_term:
            self.votes.add(peer)
            self._count()

    def _count(self) -> None:
        if self.role == "candidate" and len(self.votes) >= self.quorum:
            self.role = "leader"
            self._beat()

    def _beat(self) -> None:
        self.alarm = time.monotonic() + HEARTBEAT
        args = AppendEntriesArgs(self.current_term, self.me, 0, 0)
        for peer in self.others:
            self._send(peer, "append_entries", args, self._on_beat)

    def _on_beat(self, peer: int, args: AppendEntriesArgs, reply: AppendEntriesReply | None) -> None:
        if reply is not None:
            self._see(reply.term)

    def _send(self, peer: int, method: str, args: Any, then: Callable[[int, Any, Any], None]) -> None:
        call = self.pool.submit(self.peers[peer].call, method, args)
        call.add_done_callback(lambda done: self.inbox.put(partial(then, peer, args, done.result())))
