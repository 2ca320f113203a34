"""A Raft with timers. The election timeout and the heartbeats are threading.Timers that are cancelled and restarted. A
server has an RLock, and a set of the servers that voted for it. If a heartbeat to a server is lost, another one is sent
at once, at most twice in a row."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Any

from raftlab.api import ApplyChannel, Peer, Persister

HEARTBEAT = 0.100
ELECTION = (0.250, 0.500)
EXTRA_BEATS = 2


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


class Alarm:
    """A timer that can be restarted. After a restart or stop, the old timeout has no effect, even if it fires late."""

    def __init__(self, lock: Any, ring: Any) -> None:
        self.lock = lock
        self.ring = ring
        self.timer: threading.Timer | None = None

    def restart(self, seconds: float) -> None:
        with self.lock:
            self.stop()
            self.timer = timer = threading.Timer(seconds, lambda: self._rang(timer))
            timer.daemon = True
            timer.start()

    def stop(self) -> None:
        with self.lock:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

    def _rang(self, timer: threading.Timer) -> None:
        with self.lock:
            if timer is self.timer:
                self.ring()


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
        self.lock = threading.RLock()
        self.current_term = 0
        self.voted_for: int | None = None
        self.leading = False
        self.votes: set[int] = set()  # the servers that voted for this one in this term
        self.election_alarm = Alarm(self.lock, self._campaign)
        self.heartbeat_alarm = Alarm(self.lock, self._heartbeat)
        self._wait_for_leader()

    def get_state(self) -> tuple[int, bool]:
        with self.lock:
            return self.current_term, self.leading

    def start(self, command: Any) -> tuple[int, int, bool]:
        return -1, -1, False

    def _wait_for_leader(self) -> None:
        self.election_alarm.restart(random.uniform(*ELECTION))

    def _become_follower(self, term: int) -> None:
        with self.lock:
            if term > self.current_term:
                self.current_term, self.voted_for = term, None
            self.votes.clear()
            if self.leading:
                self.leading = False
                self.heartbeat_alarm.stop()
                self._wait_for_leader()

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.lock:
            if args.term > self.current_term:
                self._become_follower(args.term)
            if args.term == self.current_term and self.voted_for in (None, args.candidate_id):
                self.voted_for = args.candidate_id
                self._wait_for_leader()
                return RequestVoteReply(self.current_term, True)
            return RequestVoteReply(self.current_term, False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.lock:
            if args.term < self.current_term:
                return AppendEntriesReply(self.current_term, False)
            self._become_follower(args.term)
            self._wait_for_leader()
            return AppendEntriesReply(self.current_term, True)

    def _campaign(self) -> None:
        self.current_term += 1
        self.voted_for = self.me
        self.votes = {self.me}
        self._wait_for_leader()
        args = RequestVoteArgs(self.current_term, self.me, 0, 0)
        for server in self.members - {self.me}:
            threading.Thread(target=self._ask_for_vote, args=(server, args), daemon=True).start()
        self._count_votes()

    def _ask_for_vote(self, server: int, args: RequestVoteArgs) -> None:
        reply = self.peers[server].call("request_vote", args)
        if reply is None:
            return
        with self.lock:
            if reply.term > self.current_term:
                self._become_follower(reply.term)
            elif reply.vote_granted and args.term == self.current_term and self.votes:
                self.votes.add(server)
                self._count_votes()

    def _count_votes(self) -> None:
        if len(self.votes) > len(self.members) // 2:
            self.votes.clear()
            self.leading = True
            self.election_alarm.stop()
            self._heartbeat()

    def _heartbeat(self) -> None:
        self.heartbeat_alarm.restart(HEARTBEAT)
        args = AppendEntriesArgs(self.current_term, self.me, 0, 0)
        for server in self.members - {self.me}:
            threading.Thread(target=self._send_heartbeat, args=(server, args), daemon=True).start()

    def _send_heartbeat(self, server: int, args: AppendEntriesArgs) -> None:
        for _ in range(1 + EXTRA_BEATS):
            reply = self.peers[server].call("append_entries", args)
            with self.lock:
                if reply is not None and reply.term > self.current_term:
                    self._become_follower(reply.term)
                if reply is not None or args.term != self.current_term or not self.leading:
                    return
