"""A Raft ported from a Go solution. It has a mutex, a ticker that sleeps 50 to 350 ms and then checks a flag, and threads
used like goroutines. Messages are frozen dataclasses with slots and extra fields, and -1 means nobody. The file lacks
``from __future__ import annotations``, and the Raft prints a lot."""

import enum
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any, List, Optional, Tuple  # noqa: UP035

from raftlab.api import log

DEBUG = True
NOBODY = -1
HEARTBEAT_MS = 100
# The election timeout. The ticker adds up how long it has slept since the server last heard from a leader.
ELECTION_MS = 400


class State(enum.Enum):
    FOLLOWER = enum.auto()
    CANDIDATE = enum.auto()
    LEADER = enum.auto()


@dataclass(frozen=True, slots=True)
class LogEntry:
    term: int
    command: Any = None


@dataclass(frozen=True, slots=True)
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int
    attempt: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class RequestVoteReply:
    term: int
    vote_granted: bool
    voter: int = NOBODY


@dataclass(frozen=True, slots=True)
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: List[LogEntry] = field(default_factory=list)  # noqa: UP006
    leader_commit: int = 0
    sent_at: float = 0.0
    debug_id: Optional[str] = None  # noqa: UP045


@dataclass(frozen=True, slots=True)
class AppendEntriesReply:
    term: int
    success: bool
    conflict_term: int = -1
    conflict_index: int = -1
    leader_hint: Optional[int] = None  # noqa: UP045


def go(func, *args):
    threading.Thread(target=func, args=args, daemon=True).start()


class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.mu = threading.Lock()
        self.peers = peers
        self.persister = persister
        self.me = me
        self.dead = 0
        self.apply_ch = apply_ch
        self.members = members

        self.current_term = 0
        self.voted_for = NOBODY
        self.log = [LogEntry(0)]
        self.state = State.FOLLOWER
        self.heard_from_leader = False
        self.leader_id = NOBODY

        go(self.ticker)

    def dprintf(self, text, *args):
        if DEBUG:
            print(f"[S{self.me} T{self.current_term} {self.state.name}] {text % args}")

    def get_state(self) -> Tuple[int, bool]:  # noqa: UP006
        self.mu.acquire()
        try:
            term = self.current_term
            is_leader = self.state is State.LEADER
        finally:
            self.mu.release()
        return term, is_leader

    def start(self, command):
        index = -1
        term = -1
        is_leader = False
        return index, term, is_leader

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.mu:
            if args.term < self.current_term:
                return RequestVoteReply(self.current_term, False, self.me)
            if args.term > self.current_term:
                self.become_follower(args.term)
            up_to_date = (args.last_log_term, args.last_log_index) >= (self.log[-1].term, len(self.log) - 1)
            if (self.voted_for == NOBODY or self.voted_for == args.candidate_id) and up_to_date:
                self.voted_for = args.candidate_id
                self.heard_from_leader = True
                self.dprintf("votes for S%d (attempt %d)", args.candidate_id, args.attempt)
                return RequestVoteReply(self.current_term, True, self.me)
            return RequestVoteReply(self.current_term, False, self.me)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.mu:
            if args.term < self.current_term:
                return AppendEntriesReply(self.current_term, False, leader_hint=self.leader_id)
            if args.term > self.current_term or self.state is not State.FOLLOWER:
                self.become_follower(args.term)
            self.leader_id = args.leader_id
            self.heard_from_leader = True
            return AppendEntriesReply(self.current_term, True)

    def become_follower(self, term):
        if term > self.current_term:
            self.current_term = term
            self.voted_for = NOBODY
            self.leader_id = NOBODY
        self.state = State.FOLLOWER
        self.dprintf("is a follower")

    def killed(self):
        return self.dead == 1

    def ticker(self):
        silent_ms = 0
        while not self.killed():
            ms = random.randint(50, 350)
            time.sleep(ms / 1000)
            with self.mu:
                if self.state is State.LEADER or self.heard_from_leader:
                    silent_ms = 0
                else:
                    silent_ms += ms
                self.heard_from_leader = False
                if silent_ms >= ELECTION_MS:
                    silent_ms = 0
                    self.start_election()

    def start_election(self):
        self.state = State.CANDIDATE
        self.current_term += 1
        self.voted_for = self.me
        term = self.current_term
        self.dprintf("starts an election")
        votes = [1]
        last = len(self.log) - 1
        args = RequestVoteArgs(term, self.me, last, self.log[last].term, attempt=term, note="please")
        if len(self.members) == 1:
            self.state = State.LEADER
        for server in self.members:
            if server != self.me:
                go(self.collect_vote, server, args, votes)

    def collect_vote(self, server, args, votes):
        reply = self.peers[server].call("request_vote", args)
        if reply is None:
            return
        with self.mu:
            if reply.term > self.current_term:
                self.become_follower(reply.term)
                return
            if self.current_term != args.term or self.state is not State.CANDIDATE:
                return
            if not reply.vote_granted:
                return
            votes[0] += 1
            self.dprintf("has %d votes, the last one from S%d", votes[0], reply.voter)
            if votes[0] > len(self.members) // 2:
                self.state = State.LEADER
                log("leader", f"S{self.me} leads term {args.term}")
                go(self.heartbeats, args.term)

    def heartbeats(self, term):
        while not self.killed():
            with self.mu:
                if self.current_term != term or self.state is not State.LEADER:
                    return
                for server in self.members:
                    if server != self.me:
                        args = AppendEntriesArgs(
                            term, self.me, 0, 0, [], 0, sent_at=time.time(), debug_id=f"{self.me}->{server}"
                        )
                        go(self.send_heartbeat, server, args)
            time.sleep(HEARTBEAT_MS / 1000)

    def send_heartbeat(self, server, args):
        reply = self.peers[server].call("append_entries", args)
        if reply is None:
            return
        with self.mu:
            if reply.term > self.current_term:
                self.become_follower(reply.term)
