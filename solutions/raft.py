"""Raft, written by you.

You build a server of a Raft cluster: an ordinary class with ordinary threads. The lab runs your file as it is, in a
simulator (fast, and every run can be replayed) and as real processes over a real network.

Read `handouts/lab-2a.md` first. Where it says "your code here", code is missing; the names and messages around it are
those of Figure 2 of the paper. You may add fields, methods, threads, files; keep what is here, and give every field that
you add to a message a default value.

What the lab gives you (see `raftlab.api`):

- `peers[i].call("request_vote", args)` calls a handler of server i and returns its reply, or None when the network lost
  the request or the reply. It may take seconds. `peers` has one entry for each server, `peers[me]` is yourself.
- `persister` stores bytes that survive a crash (lab 2C).
- `apply_ch.put(ApplyMsg(index, term, command))` hands a committed entry to the service (lab 2B).
- `log("vote", "...")` writes a line into the trace of the run.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from raftlab.api import ApplyChannel, Peer, Persister, Status, log

FOLLOWER = "follower"
CANDIDATE = "candidate"
LEADER = "leader"

# Seconds. A leader may send about ten heartbeats a second to each server, and a cluster without a leader must have a
# new one within 5 s: the election timeout lies between, well above one heartbeat, well below that limit (§5.6).
HEARTBEAT_EVERY = 0.1
ELECTION_TIMEOUT = (0.4, 0.8)


@dataclass
class LogEntry:
    """One entry of the log. The first has index 1."""

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
    """One server.

    One lock guards every field below it. Whoever reads or writes them holds it; nobody holds it while waiting for the
    network, for time to pass or for the service. After waiting, the world may have changed: look at the term again.
    """

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
        self.persister = persister
        self.apply_ch = apply_ch
        self.members = members

        self.lock = threading.Lock()
        self.current_term = 0
        self.voted_for: int | None = None
        self.role = FOLLOWER
        # region 2A: what else an election needs: when your timer runs out, and who voted for you
        # hint: The timeout is random, and new each time (§5.2): time.monotonic() + random.uniform(*ELECTION_TIMEOUT).
        self.votes: set[int] = set()
        self.entries: list[LogEntry] = [LogEntry(term=0, command=None)]  # index 0 stands before the first entry
        self.election_deadline = 0.0
        # Signalled when the role changes, so that the two loops below need not poll.
        self.changed = threading.Condition(self.lock)
        self._restart_election_timer()
        # endregion

        # region 2A: start your threads here, with daemon=True; __init__ must return at once
        # hint: One starts an election whenever the timer has run out; one sends heartbeats while this server leads.
        threading.Thread(target=self._election_loop, daemon=True).start()
        threading.Thread(target=self._heartbeat_loop, daemon=True).start()
        # endregion

    # --- what the service and the tests call ---

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads."""
        with self.lock:
            return self.current_term, self.role == LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        """Lab 2B. Begin agreement on `command`: (index it will have, term, whether this server leads). Returns at once."""
        return -1, -1, False

    def status(self) -> Status:
        """A look inside for the trace and the viewer. Optional; nothing is graded by it."""
        return Status(
            term=self.current_term,
            voted_for=self.voted_for,
            role=self.role,
            commit_index=0,
            last_applied=0,
            first_index=1,
            last_index=0,
        )

    # --- RPC handlers: called by other servers, several at a time ---

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        """Figure 2, RequestVote RPC: may `args.candidate_id` have my vote in `args.term`?"""
        # region 2A: Figure 2, RequestVote RPC, receiver implementation
        # hint: Take the lock. First the rule for all servers: a higher term makes you a follower (§5.1). Then 1 and 2.
        with self.lock:
            self._see_term(args.term)
            granted = (
                args.term == self.current_term
                and self.voted_for in (None, args.candidate_id)
                and self._is_up_to_date(args.last_log_term, args.last_log_index)
            )
            if granted:
                self.voted_for = args.candidate_id
                # A vote given is one of the three events that restart the timer: the candidate deserves its chance.
                self._restart_election_timer()
                log("vote", f"for S{args.candidate_id} in term {args.term}")
            return RequestVoteReply(term=self.current_term, vote_granted=granted)
        # skeleton: return RequestVoteReply(term=self.current_term, vote_granted=False)
        # endregion

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Figure 2, AppendEntries RPC. Without entries it is the leader's heartbeat."""
        # region 2A: for now only the heartbeat: Figure 2, AppendEntries RPC, receiver implementation 1
        # hint: A leader of your term or of a higher one restarts your timer, and a candidate gives up (§5.2).
        with self.lock:
            self._see_term(args.term)
            if args.term < self.current_term:
                # A leader of the past. It learns from our term that its time is over; our timer runs on.
                return AppendEntriesReply(term=self.current_term, success=False)
            # This term has a leader, and it is not us: a candidate gives up, but keeps its vote (it is the same term).
            self.role = FOLLOWER
            self._restart_election_timer()
            return AppendEntriesReply(term=self.current_term, success=True)
        # skeleton: return AppendEntriesReply(term=self.current_term, success=False)
        # endregion

    # region 2A: the election, the heartbeats, and the helpers you want
    # hint: An election (Figure 2, Candidates): a new term, a vote for yourself, then ask all others at once.
    # hint: With votes of more than half of the members you lead: heartbeats to all, every HEARTBEAT_EVERY seconds.
    # hint: peers[i].call(...) waits for the reply: give each call its own thread, and hold no lock meanwhile.
    # --- elections (§5.2) ---

    def _election_loop(self) -> None:
        """Start an election whenever the timer has run out and this server does not lead."""
        while True:
            with self.lock:
                while self.role == LEADER or time.monotonic() < self.election_deadline:
                    left = self.election_deadline - time.monotonic()
                    self.changed.wait(None if self.role == LEADER else max(0.0, left))
                args = self._become_candidate()
            for server in self._others():
                threading.Thread(target=self._ask_for_vote, args=(server, args), daemon=True).start()

    def _become_candidate(self) -> RequestVoteArgs:
        """Figure 2, Candidates: a new term, a vote for myself, a fresh timer. Called with the lock held."""
        self.role = CANDIDATE
        self.current_term += 1
        self.voted_for = self.me
        self.votes = {self.me}
        self._restart_election_timer()
        log("election", f"candidate in term {self.current_term}")
        self._lead_if_elected()
        return RequestVoteArgs(
            term=self.current_term,
            candidate_id=self.me,
            last_log_index=len(self.entries) - 1,
            last_log_term=self.entries[-1].term,
        )

    def _ask_for_vote(self, server: int, args: RequestVoteArgs) -> None:
        reply = self.peers[server].call("request_vote", args)
        if reply is None:
            return
        with self.lock:
            self._see_term(reply.term)
            # The answer may be late: it counts only in the term, and for the candidacy, that it was asked in.
            if reply.vote_granted and self.role == CANDIDATE and self.current_term == args.term:
                self.votes.add(server)
                self._lead_if_elected()

    def _lead_if_elected(self) -> None:
        """More than half of the members voted for us. Called with the lock held."""
        if len(self.votes & self.members) * 2 > len(self.members):
            self.role = LEADER
            self.changed.notify_all()
            log("leader", f"of term {self.current_term} by {sorted(self.votes)}")

    # --- heartbeats (§5.2) ---

    def _heartbeat_loop(self) -> None:
        """While leading, tell everybody so, at once and then steadily."""
        while True:
            with self.lock:
                while self.role != LEADER:
                    self.changed.wait()
                args = AppendEntriesArgs(
                    term=self.current_term,
                    leader_id=self.me,
                    prev_log_index=len(self.entries) - 1,
                    prev_log_term=self.entries[-1].term,
                )
            for server in self._others():
                # A thread for each: a call to a dead server takes seconds, and the others must not wait for it.
                threading.Thread(target=self._send_heartbeat, args=(server, args), daemon=True).start()
            time.sleep(HEARTBEAT_EVERY)

    def _send_heartbeat(self, server: int, args: AppendEntriesArgs) -> None:
        reply = self.peers[server].call("append_entries", args)
        if reply is not None:
            with self.lock:
                self._see_term(reply.term)

    # --- helpers; all are called with the lock held, but for _others ---

    def _see_term(self, term: int) -> None:
        """Figure 2, All Servers: a higher term makes a follower, with a vote to give. The same term changes nothing."""
        if term > self.current_term:
            self.current_term = term
            self.voted_for = None
            if self.role == LEADER:
                # No timer ran while we led: a new follower begins with a fresh one.
                self._restart_election_timer()
            if self.role != FOLLOWER:
                log("term", f"{self.role} no more: term {term}")
            self.role = FOLLOWER
            self.changed.notify_all()

    def _is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """§5.4.1: the later last term wins; between equal terms, the longer log."""
        return (last_term, last_index) >= (self.entries[-1].term, len(self.entries) - 1)

    def _restart_election_timer(self) -> None:
        """A new random timeout each time, so that two candidates do not collide for ever (§5.2). The election loop need
        not be told: the deadline only moves away, and the loop looks again when the old one has passed."""
        self.election_deadline = time.monotonic() + random.uniform(*ELECTION_TIMEOUT)

    def _others(self) -> list[int]:
        return [server for server in sorted(self.members) if server != self.me]

    # endregion
