"""Raft, written by you.

You build a server of a Raft cluster: an ordinary class with ordinary threads. The lab runs your file as it is, in a
simulator (fast, and every run can be replayed) and as real processes over a real network.

Read `handouts/lab-2a.md` first. Where the skeleton says "Your code here", code is missing. The names and messages come
from Figures 2 and 13 of the paper. Keep the messages and the methods of Raft; the lab never reads its attributes. You may
add fields, methods, threads and files. Give every field that you add to a message a default value.

What the lab gives you (see `raftlab.api`):

- `peers[i].call("request_vote", args)` calls a handler of server i. It returns the reply, or None if the network lost the
  request or the reply. This may take seconds. `peers` has one entry for each server that may ever exist; `peers[me]` is
  this server itself. `members` are the numbers of the servers that vote: all of them, until lab 2E.
- `persister` stores bytes that survive a crash (lab 2C).
- `apply_ch.put(ApplyMsg(index, term, command))` hands a committed entry to the service (lab 2B).
- `log("vote", "...")` writes a line into the trace of the run.
"""

# Not every import is used yet: your code will need them.
# ruff: noqa: F401

from __future__ import annotations

import dataclasses
import json
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from raftlab.api import MAX_DRIFT, ApplyChannel, ApplyMsg, Peer, Persister, Status, log

FOLLOWER = "follower"
CANDIDATE = "candidate"
LEADER = "leader"

# Seconds. A leader may send about ten heartbeats a second to each server, and a cluster without a leader must have a
# new one within 5 s. An election timeout must be much longer than a heartbeat interval, and much shorter than 5 s (§5.6).
HEARTBEAT_EVERY = 0.1
ELECTION_TIMEOUT = (0.4, 0.8)

# The most bytes of a snapshot that one message may carry (lab 2D).
SNAPSHOT_CHUNK = 4096

# Your code here (2B): constants of your own

# Your code here (2E): constants of your own

# Your code here (2F): constants of your own

# Your code here (2G): constants of your own

# Your code here (3B): constants of your own


@dataclass
class LogEntry:
    """One entry of the log. The first entry has index 1. `kind` goes into the ApplyMsg, whose docstring lists the kinds.

    Lab 2E: an entry of kind "configuration" says who votes from here on. `members` are the new set's numbers, sorted;
    while the old set votes as well (C_old,new of joint consensus), `old_members` is that set, otherwise None.
    """

    term: int
    command: Any
    kind: str = "command"
    members: list[int] | None = None
    old_members: list[int] | None = None


@dataclass
class RequestVoteArgs:
    """Figure 2. Lab 2G: `leadership_transfer` says that the leader told this candidate to start an election (TimeoutNow)."""

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
    # Your code here (3B): what else to send, so that an answer proves that you still led when you sent this message
    # New fields need a default value.


@dataclass
class AppendEntriesReply:
    term: int
    success: bool
    # Your code here (2B): what else a leader needs to know when a follower refuses (the end of §5.3)
    # New fields need a default value. None means: not given.


@dataclass
class InstallSnapshotArgs:
    """Figure 13: one chunk of a snapshot. `data` is the part that begins at `offset`: at most SNAPSHOT_CHUNK bytes.

    Lab 2E: `members` and `old_members` are the configuration as of last_included_index, as in LogEntry.
    """

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
    # Your code here (2D): what else a leader needs to know after each chunk
    # Replies get lost, chunks arrive twice, and a server that restarts loses the part of the snapshot that it had.


@dataclass
class TimeoutNowArgs:
    """Lab 2G: the leader of `term` asks a server to start an election at once."""

    term: int
    leader_id: int


@dataclass
class TimeoutNowReply:
    term: int


@dataclass
class ReadIndexArgs:
    """Lab 3B: server `server_id` asks the leader for a read index."""

    term: int
    server_id: int


@dataclass
class ReadIndexReply:
    """`index` is the read index, or -1 if the leader has none to give."""

    term: int
    index: int


@dataclass
class LeaseArgs:
    """Lab 3B, part 2: server `server_id` asks the leader for a lease."""

    term: int
    server_id: int


@dataclass
class LeaseReply:
    term: int
    granted: bool
    # Your code here (3B): how long the lease lasts
    # New fields need a default value.


# Your code here (2D): what you need to remember about a snapshot in transfer


# Your code here (2E): what you need for configurations


class Raft:
    """One server.

    One lock guards every field below it. Hold it to read or write them, but never while you wait for the network, for
    time to pass or for the service. After waiting, things may have changed: check the term again.
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

        # Figure 2, State.
        self.lock = threading.Lock()
        self.current_term = 0
        self.voted_for: int | None = None
        self.entries = [LogEntry(term=0, command=None)]  # entries[0] is a stand-in before the first real entry
        self.base = 0  # the index of entries[0]; it stays 0 until lab 2D
        self.commit_index = 0
        self.last_applied = 0
        self.role = FOLLOWER
        # Your code here (2A): what else an election needs: when your timer runs out, and who voted for you
        # Choose a new random timeout each time (§5.2): time.monotonic() + random.uniform(*ELECTION_TIMEOUT).

        # Your code here (2B): what else a leader knows about the others, and how your threads wake each other
        # Figure 2: next_index and match_index. Each newly elected leader starts with fresh ones.

        # Your code here (2D): snapshots in transfer

        # Your code here (3B): whether this server has promised a leader to vote for nobody else for a while, and until when

        # Your code here (2C): continue from what the server had saved before it crashed
        # persister.state() is b"" when nothing was ever saved.

        # Your code here (2E): who votes, and since which index of the log
        # The latest configuration in the log counts, committed or not (§6). If the log has none, `members` counts.
        # A snapshot removes configurations from the log: remember the one in force at the last entry removed.

        # Your code here (2F): what a server needs to collect pre-votes, and when each server last answered this leader

        # Your code here (2G): what a leader remembers while it hands the leadership over

        # Your code here (3B): rounds of messages, whose answers prove that this server still leads
        # An answer proves leadership at the moment when its message was sent, not when the answer arrived.

        # Your code here (2A): start your threads here, with daemon=True; __init__ must return at once
        # One thread starts an election whenever the timer has run out; one sends heartbeats while this server leads.

        # Your code here (2B): the threads of this lab: one that applies entries, and perhaps one that sends them

    # --- what the service and the tests call ---

    def get_state(self) -> tuple[int, bool]:
        """Returns the current term, and whether this server believes that it leads."""
        with self.lock:
            return self.current_term, self.role == LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        """Begin agreement on `command`. Returns (the index that it will have, term, whether this server leads) at once."""
        # Your code here (2B): a leader appends the command to its own log; everything else happens in other threads
        return -1, -1, False

    def snapshot(self, index: int, data: bytes) -> None:
        """Lab 2D. The service has put everything up to `index` into `data`: the log up to there is no longer needed."""
        # Your code here (2D): cut the log, and save what is left of it together with the snapshot

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        """Lab 2E. Make `members` the servers that vote. Once the configuration entry is in this leader's log, returns (its
        index, term, True). That may take a while, because new servers must catch up first, but not forever.

        A leader returns (-1, term, True) if another change is under way; if it has not committed an entry of its own term
        yet; if a new server does not catch up; if `members` is empty, or has an unknown server. In part 1 also if more than
        one server joins or leaves. Any other server returns (leader, term, False), where leader is the leader's number, or
        -1 if it is unknown.
        """
        # Your code here (2E): let new servers catch up, then append the configuration; the rest happens in other threads
        return -1, -1, False

    def transfer_leadership(self, target: int) -> tuple[int, int, bool]:
        """Lab 2G. Begin to hand the leadership over to server `target`. Returns (target, term, True) at once.

        A leader returns (-1, term, True) if `target` is the leader itself, an unknown server, or a server that does not
        vote in every configuration in force; also if another transfer is under way. Any other server returns (leader, term,
        False), where leader is the leader's number, or -1 if it is unknown.

        While a transfer is under way, start() and change_membership() return (-1, term, True): the caller should try again
        later. A transfer ends when the leader sees a higher term, or after one election timeout of its own, at most 1 s.
        """
        # Your code here (2G): remember the target; as soon as its log equals yours, send it TimeoutNow (dissertation, 3.10)
        return -1, -1, False

    def read_index(self) -> int:
        """Lab 3B. Returns an index: a read is linearizable once the service has applied the log up to there. Returns -1 if
        it cannot get one. Waits for messages, at most 2 s. A follower asks the leader."""
        # Your code here (3B): the commit index, once a majority has answered messages that were sent after this call
        # A new leader does not know what is committed until it has committed an entry of its own term (6.4).
        return -1

    def lease_index(self) -> int:
        """Lab 3B. Like read_index(), but returns at once, without waiting for any message: an index if this server holds a
        lease, otherwise -1. In part 1 only leaders hold leases; in part 2 followers do, too."""
        # Your code here (3B): the commit index, if no other server can have been elected yet (dissertation, 6.4.1)
        # A lease begins when its round of messages was sent, not when the answers arrived.
        return -1

    def status(self) -> Status:
        """What the trace and the viewer show of this server. Optional: your points do not depend on it."""
        return Status(
            term=self.current_term,
            voted_for=self.voted_for,
            role=self.role,
            commit_index=self.commit_index,
            last_applied=self.last_applied,
            first_index=self.base + 1,
            last_index=self.base + len(self.entries) - 1,
        )

    # --- RPC handlers: called by other servers, several at a time ---

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        """Figure 2, RequestVote RPC: may `args.candidate_id` have my vote in `args.term`?"""
        # Your code here (2A): Figure 2, RequestVote RPC, receiver implementation
        # Take the lock. First the rule for all servers: a higher term makes you a follower (§5.1). Then steps 1 and 2.
        return RequestVoteReply(term=self.current_term, vote_granted=False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Figure 2, AppendEntries RPC. Without entries it is the leader's heartbeat."""
        # Your code here (2A): for now, heartbeats only: Figure 2, AppendEntries RPC, receiver implementation, step 1
        # A message from a leader of your term or a higher one restarts your timer, and ends your candidacy (§5.2).
        return AppendEntriesReply(term=self.current_term, success=False)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        """Lab 2D. Figure 13, InstallSnapshot RPC: one chunk of the leader's snapshot."""
        # Your code here (2D): Figure 13, InstallSnapshot RPC, receiver implementation
        # The chunks of a snapshot can arrive twice, late, or not at all. Install only what is complete and newer.
        return InstallSnapshotReply(term=self.current_term)

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        """Lab 2F. Would I vote for `args.candidate_id` as a candidate in `args.term`? The question changes nothing here."""
        # Your code here (2F): refuse a server that is behind, and everybody while there is a leader (dissertation, 9.6)
        # args.term is the term that an election would begin. It may never come, so do not adopt it.
        return RequestVoteReply(term=self.current_term, vote_granted=False)

    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        """Lab 2G. The leader wants this server to lead: start an election at once, without asking for pre-votes."""
        # Your code here (2G): start an election, unless args.term is old or this server has no vote (dissertation, 3.10)
        # Adopt a higher term first. Set leadership_transfer=True in the RequestVotes of this election.
        return TimeoutNowReply(term=self.current_term)

    def read_index_of(self, args: ReadIndexArgs) -> ReadIndexReply:
        """Lab 3B. A follower asks for a read index."""
        # Your code here (3B): answer as if a client had asked here, with -1 if this server does not lead
        return ReadIndexReply(term=self.current_term, index=-1)

    def lease_of(self, args: LeaseArgs) -> LeaseReply:
        """Lab 3B, part 2. A follower asks for a lease, to answer reads itself. From the moment when the lease is granted
        until the lease has ended, no entry may be committed before the follower has that entry."""
        # Your code here (3B): part 2: grant it if this server holds a lease itself, and the follower is not behind
        # While a follower's lease lasts, no other leader may commit. So make it end before this server's own lease.
        return LeaseReply(term=self.current_term, granted=False)

    # Your code here (2A): the election, the heartbeats, and whatever helpers you want
    # To start an election (Figure 2, Candidates), begin a new term, vote for yourself, and ask all others at once.
    # With votes from more than half of the members, you lead. Send heartbeats to all every HEARTBEAT_EVERY seconds.
    # peers[i].call(...) waits for the reply: make each call in a thread of its own, and hold no lock meanwhile.

    # Your code here (2B): replication: what to send, what an answer means, when to commit, and the thread that applies
    # Only one thread calls apply_ch.put, and it holds no lock meanwhile: copy what is to be applied, then put.
    # When a follower accepts an AppendEntries, match_index = prev_log_index + len(entries) of that request.
    # When it refuses, next_index goes back, a whole term at a time (the end of §5.3), and never below 1.

    # Your code here (2C): what is saved, and how it comes back
    # Save what Figure 2 lists under "persistent state on all servers". Turn it into bytes with json or pickle.
    # Whenever the term, the vote or the log has changed, save before you answer.

    # Your code here (2D): sending and receiving snapshots, and cutting the log
    # next_index <= base: what this server lacks is gone from your log, so send it the snapshot, chunk by chunk.
    # A follower whose entry at last_included_index is of last_included_term keeps what follows that entry (§7).

    # Your code here (2E): configurations: which one counts, how one follows another, and who may stand for election
    # Whenever the log changes, look for the latest configuration in it. It counts, and it can disappear again.
    # Whichever leader commits C_old,new appends C_new. A leader outside C_new steps down once C_new is committed.

    # Your code here (2F): asking the others before an election, and stepping down if no majority answers
    # Count only answers to your latest questions. With pre-votes from a majority, start an election as before.

    # Your code here (2G): handing the leadership over
    # Send TimeoutNow only once the target has acknowledged your whole log. It can be lost, so send it more than once.

    # Your code here (3B): reads without an entry in the log
    # Several reads may share a round of messages, if it is sent after all of them have arrived.
