"""Raft, written by you.

You build a server of a Raft cluster: an ordinary class with ordinary threads. The lab runs your file as it is, in a
simulator (fast, and every run can be replayed) and as real processes over a real network.

Read `handouts/lab-2a.md` first. Where it says "your code here", code is missing; the names and messages around it are
those of Figures 2 and 13 of the paper. You may add fields, methods, threads, files; keep what is here, and give every
field that you add to a message a default value.

What the lab gives you (see `raftlab.api`):

- `peers[i].call("request_vote", args)` calls a handler of server i and returns its reply, or None when the network lost
  the request or the reply. It may take seconds. `peers` has one entry for each server that may ever be there, `peers[me]`
  is yourself. `members` are those that vote: all of them, until lab 2E.
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
# new one within 5 s: the election timeout lies between, well above one heartbeat, well below that limit (§5.6).
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
    """One entry of the log. The first has index 1. `kind` goes into the ApplyMsg: see there.

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
    """Figure 2, and in lab 2G: `leadership_transfer` says that the leader told this candidate to stand (TimeoutNow)."""

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
    # Your code here (3B): what else a leader says, so that the answer proves something about its leadership
    # New fields need a default value.


@dataclass
class AppendEntriesReply:
    term: int
    success: bool
    # Your code here (2B): what else a leader needs to know when a follower refuses (the end of §5.3)
    # New fields need a default value. None means: not given.


@dataclass
class InstallSnapshotArgs:
    """Figure 13: one chunk of a snapshot. `data` are at most SNAPSHOT_CHUNK bytes, which begin at `offset`.

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
    # Replies get lost, chunks come twice, and a server that restarted has lost its half of a snapshot.


@dataclass
class TimeoutNowArgs:
    """Lab 2G: the leader of `term` asks a server to stand for election at once."""

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
    """`index` is -1 if there is none."""

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
        self.entries = [LogEntry(term=0, command=None)]  # entries[0] stands before the first entry and is not one
        self.base = 0  # the index of entries[0]; it stays 0 until lab 2D
        self.commit_index = 0
        self.last_applied = 0
        self.role = FOLLOWER
        # Your code here (2A): what else an election needs: when your timer runs out, and who voted for you
        # The timeout is random, and new each time (§5.2): time.monotonic() + random.uniform(*ELECTION_TIMEOUT).

        # Your code here (2B): what else a leader knows about the others, and how your threads wake each other
        # Figure 2: next_index and match_index, created anew after each election.

        # Your code here (2D): snapshots in transfer

        # Your code here (3B): whether a leader may rely on this server's silence, and until when it is silent

        # Your code here (2C): continue from what the server had saved before it crashed
        # persister.state() is b"" when nothing was ever saved.

        # Your code here (2E): who votes, and since which index of the log
        # The latest configuration in the log counts, committed or not (§6). Without one: `members`.
        # Snapshots cut configurations off: remember the one as of the last entry that was cut.

        # Your code here (2F): what a server remembers while it asks, and when each server last answered a leader

        # Your code here (2G): what a leader remembers while it hands over

        # Your code here (3B): rounds of messages, whose answers prove that this server still leads
        # An answer proves leadership at the moment when its message was sent, not when the answer arrived.

        # Your code here (2A): start your threads here, with daemon=True; __init__ must return at once
        # One starts an election whenever the timer has run out; one sends heartbeats while this server leads.

        # Your code here (2B): the threads of this lab: one that applies, and perhaps one that sends

    # --- what the service and the tests call ---

    def get_state(self) -> tuple[int, bool]:
        """The current term, and whether this server believes that it leads."""
        with self.lock:
            return self.current_term, self.role == LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        """Begin agreement on `command`: (index it will have, term, whether this server leads). Returns at once."""
        # Your code here (2B): a leader appends the command to its own log; everything else happens in other threads
        return -1, -1, False

    def snapshot(self, index: int, data: bytes) -> None:
        """Lab 2D. The service has put everything up to `index` into `data`: the log up to there is no longer needed."""
        # Your code here (2D): cut the log, save what is left of it together with the snapshot

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        """Lab 2E. Make `members` the servers that vote: (index of the configuration entry, term, whether this server
        leads), once that entry is in its log. That may take a while, as new servers catch up first, but not forever.

        A leader that cannot or will not do it answers (-1, term, True): while another change is under way; before it has
        committed an entry of its own term; when a new server does not catch up; when `members` is empty, or has an
        unknown server. In part 1 also when more than one server joins or leaves.
        Any other server answers (the leader's number, or -1 if it knows none, its term, False).
        """
        # Your code here (2E): let new servers catch up, then append the configuration; the rest happens in other threads
        return -1, -1, False

    def transfer_leadership(self, target: int) -> tuple[int, int, bool]:
        """Lab 2G. Begin to hand the leadership over to server `target`: (target, term, True). Returns at once.

        A leader that cannot do it answers (-1, term, True): when `target` is itself, an unknown server, or one that does
        not vote in every configuration in force; while another transfer is under way. Any other server answers (the
        leader's number, or -1 if it knows none, its term, False).

        While a transfer is under way, start() and change_membership() answer (-1, term, True): come again. It ends when a
        higher term is seen, or after one election timeout of the leader's own, at most 1 s.
        """
        # Your code here (2G): remember the target; as soon as its log equals yours, send it TimeoutNow (dissertation, 3.10)
        return -1, -1, False

    def read_index(self) -> int:
        """Lab 3B. An index such that a read is linearizable once the service has applied it; -1 if there is none. Waits for
        messages, at most 2 s. A follower asks the leader."""
        # Your code here (3B): the commit index, once a majority has answered messages that were sent after this call
        # A new leader does not know what is committed until it has committed an entry of its own term (6.4).
        return -1

    def lease_index(self) -> int:
        """Lab 3B. The same at once, without waiting for any message, if this server holds a lease; otherwise -1. In part 1
        only leaders hold leases, in part 2 followers do, too."""
        # Your code here (3B): the commit index, if no other server can have been elected yet (dissertation, 6.4.1)
        # First the index, then the clock. A lease that rests on a round begins when the round was sent.
        return -1

    def status(self) -> Status:
        """A look inside for the trace and the viewer. Optional; nothing is graded by it."""
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
        # Take the lock. First the rule for all servers: a higher term makes you a follower (§5.1). Then 1 and 2.
        return RequestVoteReply(term=self.current_term, vote_granted=False)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Figure 2, AppendEntries RPC. Without entries it is the leader's heartbeat."""
        # Your code here (2A): for now only the heartbeat: Figure 2, AppendEntries RPC, receiver implementation 1
        # A leader of your term or of a higher one restarts your timer, and a candidate gives up (§5.2).
        return AppendEntriesReply(term=self.current_term, success=False)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        """Lab 2D. Figure 13, InstallSnapshot RPC: one chunk of the leader's snapshot."""
        # Your code here (2D): Figure 13, InstallSnapshot RPC, receiver implementation
        # The chunks of a snapshot can arrive twice, late, or not at all. Install only what is complete and newer.
        return InstallSnapshotReply(term=self.current_term)

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        """Lab 2F. Would `args.candidate_id` get my vote as a candidate of `args.term`? The question changes nothing."""
        # Your code here (2F): no to a server that is behind, and to everybody while there is a leader (dissertation, 9.6)
        # args.term is a term that may never come: it is nobody's current term, and you do not adopt it.
        return RequestVoteReply(term=self.current_term, vote_granted=False)

    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        """Lab 2G. The leader wants this server to lead: stand for election at once, without asking for pre-votes."""
        # Your code here (2G): as if the timer had run out, but no for an older term, or without a vote (dissertation, 3.10)
        # A higher term is adopted first. The election's requests carry leadership_transfer=True.
        return TimeoutNowReply(term=self.current_term)

    def read_index_of(self, args: ReadIndexArgs) -> ReadIndexReply:
        """Lab 3B. A follower asks for a read index."""
        # Your code here (3B): as if a client had asked here; -1 if this server does not lead
        return ReadIndexReply(term=self.current_term, index=-1)

    def lease_of(self, args: LeaseArgs) -> LeaseReply:
        """Lab 3B, part 2. A follower asks for a lease, to answer reads itself. From now on it must have each entry before
        that is committed, until its lease has ended."""
        # Your code here (3B): part 2: yes, if this server holds a lease, and the follower is not behind
        # The holder's lease must end before this server's own: then no other leader commits anything meanwhile.
        return LeaseReply(term=self.current_term, granted=False)

    # Your code here (2A): the election, the heartbeats, and the helpers you want
    # An election (Figure 2, Candidates): a new term, a vote for yourself, then ask all others at once.
    # With votes of more than half of the members you lead: heartbeats to all, every HEARTBEAT_EVERY seconds.
    # peers[i].call(...) waits for the reply: give each call its own thread, and hold no lock meanwhile.

    # Your code here (2B): replication: what to send, what an answer means, when to commit, and the thread that applies
    # Only one thread calls apply_ch.put, and it holds no lock meanwhile: copy what is to be applied, then put.
    # An AppendEntries that was answered: match_index = prev_log_index + len(entries) of that request.
    # Refused: next_index goes back, a whole term at a time (the end of §5.3), and never below 1.

    # Your code here (2C): what is saved, and how it comes back
    # Figure 2, State, "persistent state on all servers". json or pickle make bytes of it.
    # Save before the answer leaves, wherever one of the three has changed.

    # Your code here (2D): sending and receiving snapshots, and cutting the log
    # next_index <= base: what this server lacks is gone from your log, so send it the snapshot, chunk by chunk.
    # A follower that has the entry at last_included_index, of last_included_term, keeps what follows (§7).

    # Your code here (2E): configurations: which one counts, how one follows another, and who may stand for election
    # Whenever the log changes, look for the latest configuration in it. It counts, and it can disappear again.
    # Whichever server leads when C_old,new is committed appends C_new. A leader that is not in C_new leaves last.

    # Your code here (2F): asking before an election, and stepping down without answers
    # A pre-vote counts for one round of asking only. With a majority of them, start an election as before.

    # Your code here (2G): handing the leadership over
    # TimeoutNow leaves only when the target has answered for your whole log. It can be lost, so send it again.

    # Your code here (3B): reads without an entry in the log
    # Several reads may share a round, if it is sent after all of them arrived.
