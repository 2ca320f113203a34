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

# Not every import is used yet: your code will want them.
# ruff: noqa: F401

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
        # Your code here (2A): what else an election needs: when your timer runs out, and who voted for you
        # The timeout is random, and new each time (§5.2): time.monotonic() + random.uniform(*ELECTION_TIMEOUT).

        # Your code here (2A): start your threads here, with daemon=True; __init__ must return at once
        # One starts an election whenever the timer has run out; one sends heartbeats while this server leads.

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
        # Your code here (2A): Figure 2, RequestVote RPC, receiver implementation
        # Take the lock. First the rule for all servers: a higher term makes you a follower (§5.1). Then 1 and 2.
        return RequestVoteReply(term=self.current_term, vote_granted=False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Figure 2, AppendEntries RPC. Without entries it is the leader's heartbeat."""
        # Your code here (2A): for now only the heartbeat: Figure 2, AppendEntries RPC, receiver implementation 1
        # A leader of your term or of a higher one restarts your timer, and a candidate gives up (§5.2).
        return AppendEntriesReply(term=self.current_term, success=False)

    # Your code here (2A): the election, the heartbeats, and the helpers you want
    # An election (Figure 2, Candidates): a new term, a vote for yourself, then ask all others at once.
    # With votes of more than half of the members you lead: heartbeats to all, every HEARTBEAT_EVERY seconds.
    # peers[i].call(...) waits for the reply: give each call its own thread, and hold no lock meanwhile.
