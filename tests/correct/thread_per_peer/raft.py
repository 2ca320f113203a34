"""A Raft with a thread for each peer. Each peer has a worker thread, a queue for one message and a Condition. A worker that
is stuck in a call is replaced. A leader that hears from no quorum for an election timeout steps down (check-quorum)."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raftlab.api import ApplyChannel, Peer, Persister, log

HEARTBEAT = 0.1
TIMEOUT = (0.3, 0.6)
STUCK_AFTER = 0.1


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


class Letter(NamedTuple):
    method: str
    args: Any


class Courier:
    """Sends messages to one peer. A newer message replaces one that was not sent yet.

    A call to a dead server can take seconds. A worker that is stuck in such a call is replaced by a new worker. The old one
    only delivers its late reply and ends.
    """

    def __init__(self, peer: Peer, deliver: Callable[[Letter, Any], None]) -> None:
        self.peer = peer
        self.deliver = deliver
        self.cond = threading.Condition()
        self.letter: Letter | None = None
        self.employee = 0
        self.away_since: float | None = None
        self._hire()

    def _hire(self) -> None:
        self.employee += 1
        self.away_since = None
        threading.Thread(target=self._work, args=(self.employee,), daemon=True).start()

    def post(self, letter: Letter) -> None:
        with self.cond:
            self.letter = letter
            self.cond.notify_all()
        self.check()

    def check(self) -> None:
        with self.cond:
            if self.letter and self.away_since is not None and time.monotonic() > self.away_since + STUCK_AFTER:
                self._hire()

    def _work(self, number: int) -> None:
        while True:
            with self.cond:
                while self.letter is None and number == self.employee:
                    self.cond.wait()
                if number != self.employee:
                    return
                letter, self.letter = self.letter, None
                self.away_since = time.monotonic()
            reply = self.peer.call(letter.method, letter.args)
            with self.cond:
                if number == self.employee:
                    self.away_since = None
            self.deliver(letter, reply)


class Raft:
    def __init__(
        self,
        peers: list[Peer],
        me: int,
        persister: Persister,
        apply_ch: ApplyChannel,
        members: frozenset[int],
    ) -> None:
        self.me = me
        self.quorum = len(members) // 2 + 1
        self.cond = threading.Condition(threading.Lock())
        self.current_term = 0
        self.voted_for: int | None = None
        self.role = "follower"
        self.granted_by: set[int] = set()
        self.heard: dict[int, float] = {}
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)
        self.couriers = {
            i: Courier(peers[i], lambda letter, reply, i=i: self._reply(i, letter, reply)) for i in members if i != me
        }
        threading.Thread(target=self._run, name="main", daemon=True).start()

    def get_state(self) -> tuple[int, bool]:
        with self.cond:
            return self.current_term, self.role == "leader"

    def start(self, command: Any) -> tuple[int, int, bool]:
        return -1, -1, False

    # --- all methods below are called with the lock held, except _run, _reply and the handlers ---

    def _restart_timer(self) -> None:
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)
        self.cond.notify_all()

    def _follow(self, term: int) -> None:
        if term > self.current_term:
            self.current_term = term
            self.voted_for = None
        if self.role == "leader":
            self._restart_timer()
        self.role = "follower"

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.cond:
            if args.term > self.current_term:
                self._follow(args.term)
            granted = args.term == self.current_term and self.voted_for in (None, args.candidate_id)
            if granted:
                self.voted_for = args.candidate_id
                self._restart_timer()
            return RequestVoteReply(self.current_term, granted)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.cond:
            if args.term >= self.current_term:
                self._follow(args.term)
                self._restart_timer()
                return AppendEntriesReply(self.current_term, True)
            return AppendEntriesReply(self.current_term, False)

    def _run(self) -> None:
        next_beat = 0.0
        while True:
            with self.cond:
                now = time.monotonic()
                if self.role == "leader":
                    if self._lonely(now):
                        log("leader", f"no quorum heard, giving up term {self.current_term}")
                        self._follow(self.current_term)
                        continue
                    if now >= next_beat:
                        next_beat = now + HEARTBEAT
                        self._post_all(Letter("append_entries", AppendEntriesArgs(self.current_term, self.me, 0, 0)))
                elif now >= self.deadline:
                    self._stand()
                    next_beat = 0.0
                    continue
                wake = next_beat if self.role == "leader" else self.deadline
                self.cond.wait(min(0.05, max(0.001, wake - now)))
            for courier in self.couriers.values():
                courier.check()

    def _lonely(self, now: float) -> bool:
        recent = sum(at > now - TIMEOUT[1] for at in self.heard.values())
        return 1 + recent < self.quorum

    def _post_all(self, letter: Letter) -> None:
        for courier in self.couriers.values():
            courier.post(letter)

    def _stand(self) -> None:
        self.current_term += 1
        self.voted_for = self.me
        self.role = "candidate"
        self.granted_by = {self.me}
        self._restart_timer()
        self._post_all(Letter("request_vote", RequestVoteArgs(self.current_term, self.me, 0, 0)))
        self._win_with_majority()

    def _win_with_majority(self) -> None:
        if len(self.granted_by) >= self.quorum:
            self.role = "leader"
            self.heard = dict.fromkeys(self.couriers, time.monotonic())
            self.cond.notify_all()

    def _reply(self, peer: int, letter: Letter, reply: Any) -> None:
        if reply is None:
            return
        with self.cond:
            if reply.term > self.current_term:
                self._follow(reply.term)
                return
            if letter.args.term != self.current_term:
                return
            self.heard[peer] = time.monotonic()
            if letter.method == "request_vote" and reply.vote_granted and self.role == "candidate":
                self.granted_by.add(peer)
                self._win_with_majority()
