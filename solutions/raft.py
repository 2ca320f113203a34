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

# region 2B: constants of your own
# The most entries that one message carries, so that a server that is far behind does not get all of them in each retry.
MAX_BATCH = 200
# Seconds. If there is no answer for this long, entries are sent again. A call to a dead server takes longer to fail.
RESEND_AFTER = 0.3
# Two choices that a Raft is free to make. Each setting hides different bugs, so try both when you look for bugs.
HEARTBEATS_CARRY_ENTRIES = False
NOOP_ON_ELECTION = False
# endregion

# region 2E: constants of your own
# Seconds. A leader gives up on a new server after this time, and keeps sending to a removed server for as long.
LEARNER_PATIENCE = 5.0
# Whether to use joint consensus even if only one server joins or leaves, for which a single step would be enough.
ALWAYS_JOINT = False
# endregion

# region 2F: constants of your own
# Two safeguards: a server asks the others before it starts an election, and a leader steps down if no majority answers it.
PRE_VOTE = True
CHECK_QUORUM = True
# endregion

# region 2G: constants of your own
# Seconds. A leader gives up a transfer after one election timeout of its own (at most 1 s). Until then it sends TimeoutNow
# again from time to time, because the earlier one may have been lost.
TRANSFER_LIMIT = ELECTION_TIMEOUT[1]
ASK_AGAIN_AFTER = 0.2
# endregion

# region 3B: constants of your own
# Seconds. read_index gives up after this time. On a follower it takes up to 1.5 times as long; the contract allows 2 s.
READ_WITHIN = 1.0
# Seconds. Voters wait for ELECTION_TIMEOUT[0] by clocks that may be faster than the leader's, so a lease is shorter.
LEASE = ELECTION_TIMEOUT[0] / MAX_DRIFT
# Part 2. A follower asks for a lease once it gets this many reads by lease within a second. Fewer reads are not worth a
# lease, because writes must wait for its holder. While there are enough reads, the follower asks again after a part of
# LEASE, drawn at random from ASK_AFTER. So it asks before its lease ends, and not at the same time as all other holders.
READS_WORTH_A_LEASE = 10
ASK_AFTER = (0.3, 0.5)
# endregion


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
    # region 3B: what else to send, so that an answer proves that you still led when you sent this message
    # hint: New fields need a default value.
    # The round that this message belongs to, and whether the leader will rely on the answer for a lease.
    round: int = 0
    lease: bool = False
    # endregion


@dataclass
class AppendEntriesReply:
    term: int
    success: bool
    # region 2B: what else a leader needs to know when a follower refuses (the end of §5.3)
    # hint: New fields need a default value. None means: not given.
    # The term of the conflicting entry, and the index of the follower's first entry of that term. If the log is too short,
    # there is no such entry: conflict_index is then the first index that the follower lacks.
    conflict_term: int | None = None
    conflict_index: int | None = None
    # endregion


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
    # region 2D: what else a leader needs to know after each chunk
    # hint: Replies get lost, chunks arrive twice, and a server that restarts loses the part of the snapshot that it had.
    # How many bytes the follower has so far; the leader continues there. None: not given.
    received: int | None = None
    # endregion


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
    # region 3B: how long the lease lasts
    # hint: New fields need a default value.
    # Seconds by the leader's clock. The follower counts them from the moment when it asked.
    seconds: float = 0.0
    # endregion


# region 2D: what you need to remember about a snapshot in transfer
@dataclass
class Transfer:
    """A snapshot in transfer: at the leader, what to send next; at the follower, what has arrived."""

    term: int  # the leader's
    index: int
    index_term: int
    data: bytes
    offset: int = 0
    # region 2E: the configuration as of `index`
    # None: not given.
    members: list[int] | None = None
    old_members: list[int] | None = None
    # endregion


# endregion


# region 2E: what you need for configurations
# The kind of an entry that is a configuration.
CONFIGURATION = "configuration"


def _voters(entry: LogEntry) -> frozenset[int]:
    """All servers that vote under this configuration."""
    return frozenset(entry.members or ()) | frozenset(entry.old_members or ())


# endregion


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
        # region 2A: what else an election needs: when your timer runs out, and who voted for you
        # hint: Choose a new random timeout each time (§5.2): time.monotonic() + random.uniform(*ELECTION_TIMEOUT).
        self.votes: set[int] = set()
        self.election_deadline = 0.0
        # Notified when the role changes, so that the two loops below need not poll.
        self.changed = threading.Condition(self.lock)
        self._restart_election_timer()
        # endregion

        # region 2B: what else a leader knows about the others, and how your threads wake each other
        # hint: Figure 2: next_index and match_index. Each newly elected leader starts with fresh ones.
        self.next_index: dict[int, int] = {}
        self.match_index: dict[int, int] = {}
        # The message in flight to each server, and since when.
        self.in_flight: dict[int, tuple[object, float]] = {}
        # The commit_index last sent to each server.
        self.told_commit: dict[int, int] = {}
        # The first is notified when there may be something to send, the second when there may be something to apply.
        self.to_send = threading.Condition(self.lock)
        self.to_apply = threading.Condition(self.lock)
        # endregion

        # region 2D: snapshots in transfer
        self.outgoing: dict[int, Transfer] = {}
        self.incoming: Transfer | None = None
        # A snapshot that the service must get before any entry.
        self.to_restore: ApplyMsg | None = None
        # endregion

        # region 3B: whether this server has promised a leader to vote for nobody else for a while, and until when
        self.promised = False
        # endregion

        # region 2C: continue from what the server had saved before it crashed
        # hint: persister.state() is b"" when nothing was ever saved.
        self._restore()
        # The entries from this index on are not saved yet. After a restart, the first save writes everything anew.
        self.unsaved_from = self.base
        # endregion

        # region 2E: who votes, and since which index of the log
        # hint: The latest configuration in the log counts, committed or not (§6). If the log has none, `members` counts.
        # hint: A snapshot removes configurations from the log: remember the one in force at the last entry removed.
        self.old_members: frozenset[int] = frozenset()  # C_old while C_old,new is in force (self.members is C_new then)
        self.configured_at = 0
        # At a leader: servers that catch up and have no vote yet; removed servers, and until when to send to them.
        self.learners: frozenset[int] = frozenset()
        self.leaving: dict[int, float] = {}
        # The leader, as far as this server knows, and when it last heard from a leader.
        self.leader_id: int | None = None
        self.heard_leader_at = float("-inf")
        if self.entries[0].members is None:
            # The stand-in holds the configuration as of the last entry removed; at first, the initial one.
            self.entries[0].members = sorted(members)
        self._use_latest_configuration()
        # endregion

        # region 2F: what a server needs to collect pre-votes, and when each server last answered this leader
        self.asking: RequestVoteArgs | None = None
        self.pre_votes: set[int] = set()
        self.answered_at: dict[int, float] = {}
        # endregion

        # region 2G: what a leader remembers while it hands the leadership over
        # The server that is to lead, until when to wait for it, and when TimeoutNow was last sent to it.
        self.target: int | None = None
        self.transfer_until = 0.0
        self.asked_at = float("-inf")
        # endregion

        # region 3B: rounds of messages, whose answers prove that this server still leads
        # hint: An answer proves leadership at the moment when its message was sent, not when the answer arrived.
        # The number of the latest round (in every message); when each round began; the last round that each server answered.
        self.round = 0
        self.round_began: dict[int, float] = {}
        self.answered_round: dict[int, int] = {}
        # Notified when a round is answered.
        self.answered = threading.Condition(self.lock)
        # The first round whose messages ask for a lease; None: no service has asked for one in this term.
        self.lease_round: int | None = None
        # The last term in which this leader has sent TimeoutNow to a server: there is no lease in that term any more.
        self.gave_up_lease_in = 0
        # A server that promised a leader to vote for nobody keeps the promise after a restart: a lease may rely on it.
        self.silent_until = time.monotonic() + ELECTION_TIMEOUT[0] if self.promised else 0.0
        # The term of the last leader that asked for a lease.
        self.promised_to = 0
        # Part 2. At a leader: for each server, when the lease that it was granted ends at the latest. At a follower: the
        # term and the end of its own lease, when the last reads by lease came, and when to ask for a lease again.
        self.granted: dict[int, float] = {}
        self.own_lease = (0, 0.0)
        self.lease_reads: list[float] = []
        self.ask_at = 0.0
        # At a leader: for each server, the end of the log when it was last granted a lease in this term.
        self.log_at_grant: dict[int, int] = {}
        # endregion

        # region 2A: start your threads here, with daemon=True; __init__ must return at once
        # hint: One thread starts an election whenever the timer has run out; one sends heartbeats while this server leads.
        threading.Thread(target=self._election_loop, daemon=True).start()
        threading.Thread(target=self._heartbeat_loop, daemon=True).start()
        # endregion

        # region 2B: the threads of this lab: one that applies entries, and perhaps one that sends them
        threading.Thread(target=self._replicate_loop, daemon=True).start()
        threading.Thread(target=self._apply_loop, daemon=True).start()
        # endregion

    # --- what the service and the tests call ---

    def get_state(self) -> tuple[int, bool]:
        """Returns the current term, and whether this server believes that it leads."""
        with self.lock:
            return self.current_term, self.role == LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        """Begin agreement on `command`. Returns (the index that it will have, term, whether this server leads) at once."""
        # region 2B: a leader appends the command to its own log; everything else happens in other threads
        with self.lock:
            if self.role != LEADER:
                return -1, self.current_term, False
            # region 2G: take no commands while you hand the leadership over: the target could never catch up
            if self._is_handing_over():
                return -1, self.current_term, True
            # endregion
            self._append(LogEntry(self.current_term, command))
            return self._last_index(), self.current_term, True
        # skeleton: return -1, -1, False
        # endregion

    def snapshot(self, index: int, data: bytes) -> None:
        """Lab 2D. The service has put everything up to `index` into `data`: the log up to there is no longer needed."""
        # region 2D: cut the log, and save what is left of it together with the snapshot
        with self.lock:
            if self.base < index <= self.last_applied:
                self._cut_log(index, self._term_at(index))
                self._persist(data)
        # endregion

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        """Lab 2E. Make `members` the servers that vote. Once the configuration entry is in this leader's log, returns (its
        index, term, True). That may take a while, because new servers must catch up first, but not forever.

        A leader returns (-1, term, True) if another change is under way; if it has not committed an entry of its own term
        yet; if a new server does not catch up; if `members` is empty, or has an unknown server. In part 1 also if more than
        one server joins or leaves. Any other server returns (leader, term, False), where leader is the leader's number, or
        -1 if it is unknown.
        """
        # region 2E: let new servers catch up, then append the configuration; the rest happens in other threads
        with self.lock:
            if self.role != LEADER:
                return self._known_leader(), self.current_term, False
            term = self.current_term
            if not self._may_change_to(members):
                return -1, term, True
            self._begin_learning(members - self.members)
            caught_up = self._wait_for_learners(term)
            if self.role != LEADER or self.current_term != term:
                return self._known_leader(), self.current_term, False
            self.learners = frozenset()
            if not caught_up or not self._may_change_to(members):
                log("members", f"S{sorted(members - self.members)} did not catch up: no change")
                return -1, term, True
            joint = ALWAYS_JOINT or len(members ^ self.members) > 1
            index = self._last_index() + 1
            self._append_configuration(members, self.members if joint else frozenset())
            return index, term, True
        # skeleton: return -1, -1, False
        # endregion

    def transfer_leadership(self, target: int) -> tuple[int, int, bool]:
        """Lab 2G. Begin to hand the leadership over to server `target`. Returns (target, term, True) at once.

        A leader returns (-1, term, True) if `target` is the leader itself, an unknown server, or a server that does not
        vote in every configuration in force; also if another transfer is under way. Any other server returns (leader, term,
        False), where leader is the leader's number, or -1 if it is unknown.

        While a transfer is under way, start() and change_membership() return (-1, term, True): the caller should try again
        later. A transfer ends when the leader sees a higher term, or after one election timeout of its own, at most 1 s.
        """
        # region 2G: remember the target; as soon as its log equals yours, send it TimeoutNow (dissertation, 3.10)
        with self.lock:
            if self.role != LEADER:
                return self._known_leader(), self.current_term, False
            voters = self.members & (self.old_members or self.members)
            if target == self.me or target not in voters or self._is_handing_over():
                return -1, self.current_term, True
            log("transfer", f"to S{target}")
            self.target, self.transfer_until = target, time.monotonic() + TRANSFER_LIMIT
            self.asked_at = float("-inf")
            self._ask_target()
            return target, self.current_term, True
        # skeleton: return -1, -1, False
        # endregion

    def read_index(self) -> int:
        """Lab 3B. Returns an index: a read is linearizable once the service has applied the log up to there. Returns -1 if
        it cannot get one. Waits for messages, at most 2 s. A follower asks the leader."""
        # region 3B: the commit index, once a majority has answered messages that were sent after this call
        # hint: A new leader does not know what is committed until it has committed an entry of its own term (6.4).
        with self.lock:
            if self.role == LEADER:
                return self._confirmed_index()
            leader, args = self.leader_id, ReadIndexArgs(self.current_term, self.me)
        return -1 if leader is None else self._ask_leader(leader, args)
        # skeleton: return -1
        # endregion

    def lease_index(self) -> int:
        """Lab 3B. Like read_index(), but returns at once, without waiting for any message: an index if this server holds a
        lease, otherwise -1. In part 1 only leaders hold leases; in part 2 followers do, too."""
        # region 3B: the commit index, if no other server can have been elected yet (dissertation, 6.4.1)
        # hint: A lease begins when its round of messages was sent, not when the answers arrived.
        with self.lock:
            if self.role != LEADER:
                return self._index_of_holder()
            self._ask_for_lease()
            if not self._has_committed():
                return -1
            index = self.commit_index
            return index if self._holds_lease() else -1
        # skeleton: return -1
        # endregion

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
        # region 2A: Figure 2, RequestVote RPC, receiver implementation
        # hint: Take the lock. First the rule for all servers: a higher term makes you a follower (§5.1). Then steps 1 and 2.
        with self.lock:
            # region 2G: an election that the leader asked for is no disturbance: let it past the next check
            if args.leadership_transfer:
                self._see_term(args.term)
            # endregion
            # region 2E: a server that was removed, and does not know it, must not disturb the others (the end of §6)
            if args.term > self.current_term and self._hears_leader():
                return RequestVoteReply(term=self.current_term, vote_granted=False)
            # endregion
            # region 3B: a promise to a leader of an earlier term holds even if our term has risen since
            promise_holds = self.promised and args.term > self.promised_to and self._hears_leader()
            if promise_holds and not args.leadership_transfer:
                return RequestVoteReply(term=self.current_term, vote_granted=False)
            # endregion
            self._see_term(args.term)
            granted = (
                args.term == self.current_term
                and self.voted_for in (None, args.candidate_id)
                and self._is_up_to_date(args.last_log_term, args.last_log_index)
            )
            if granted:
                self._vote_for(args.candidate_id)
                # Giving a vote is one of the three events that restart the timer: the candidate deserves its chance.
                self._restart_election_timer()
                log("vote", f"for S{args.candidate_id} in term {args.term}")
            return RequestVoteReply(term=self.current_term, vote_granted=granted)
        # skeleton: return RequestVoteReply(term=self.current_term, vote_granted=False)
        # endregion

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Figure 2, AppendEntries RPC. Without entries it is the leader's heartbeat."""
        # region 2A: for now, heartbeats only: Figure 2, AppendEntries RPC, receiver implementation, step 1
        # hint: A message from a leader of your term or a higher one restarts your timer, and ends your candidacy (§5.2).
        with self.lock:
            self._see_term(args.term)
            if args.term < self.current_term:
                # This is a leader of an older term. It learns from our term that it must step down. Our timer runs on.
                return AppendEntriesReply(term=self.current_term, success=False)
            self._hear_leader()
            # region 2E: clients ask who leads
            self.leader_id = args.leader_id
            # endregion
            # region 3B: the answer is a promise to vote for nobody else for a while, even after a restart
            if args.lease:
                self.promised_to = args.term
            if args.lease and not self.promised:
                self.promised = True
                self._persist()
            # endregion
            # region 2B: Figure 2, AppendEntries RPC, receiver implementation, steps 2 to 5
            refusal = self._conflict(args)
            if refusal is not None:
                return refusal
            self._store(args)
            # Step 5. Entries after the last new one may come from an old leader, so do not commit those.
            self._commit(min(args.leader_commit, args.prev_log_index + len(args.entries)))
            # endregion
            return AppendEntriesReply(term=self.current_term, success=True)
        # skeleton: return AppendEntriesReply(term=self.current_term, success=False)
        # endregion

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        """Lab 2D. Figure 13, InstallSnapshot RPC: one chunk of the leader's snapshot."""
        # region 2D: Figure 13, InstallSnapshot RPC, receiver implementation
        # hint: The chunks of a snapshot can arrive twice, late, or not at all. Install only what is complete and newer.
        with self.lock:
            self._see_term(args.term)
            if args.term < self.current_term:
                return InstallSnapshotReply(term=self.current_term)
            self._hear_leader()
            # region 2E: clients ask who leads
            self.leader_id = args.leader_id
            # endregion
            whole = self._collect(args)
            received = self.incoming.offset if self.incoming else 0
            if whole is not None:
                self._install(whole)
            return InstallSnapshotReply(term=self.current_term, received=received)
        # skeleton: return InstallSnapshotReply(term=self.current_term)
        # endregion

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        """Lab 2F. Would I vote for `args.candidate_id` as a candidate in `args.term`? The question changes nothing here."""
        # region 2F: refuse a server that is behind, and everybody while there is a leader (dissertation, 9.6)
        # hint: args.term is the term that an election would begin. It may never come, so do not adopt it.
        with self.lock:
            granted = (
                not self._hears_leader()
                and (
                    args.term > self.current_term
                    or (args.term == self.current_term and self.voted_for in (None, args.candidate_id))
                )
                and self._is_up_to_date(args.last_log_term, args.last_log_index)
            )
            return RequestVoteReply(term=self.current_term, vote_granted=granted)
        # skeleton: return RequestVoteReply(term=self.current_term, vote_granted=False)
        # endregion

    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        """Lab 2G. The leader wants this server to lead: start an election at once, without asking for pre-votes."""
        # region 2G: start an election, unless args.term is old or this server has no vote (dissertation, 3.10)
        # hint: Adopt a higher term first. Set leadership_transfer=True in the RequestVotes of this election.
        with self.lock:
            leads = self.role == LEADER and args.term == self.current_term
            if args.term < self.current_term or leads or self.me not in self.members | self.old_members:
                return TimeoutNowReply(term=self.current_term)
            self._see_term(args.term)
            request = dataclasses.replace(self._become_candidate(), leadership_transfer=True)
            for server in self._others():
                threading.Thread(target=self._ask_for_vote, args=(server, request), daemon=True).start()
            return TimeoutNowReply(term=self.current_term)
        # skeleton: return TimeoutNowReply(term=self.current_term)
        # endregion

    def read_index_of(self, args: ReadIndexArgs) -> ReadIndexReply:
        """Lab 3B. A follower asks for a read index."""
        # region 3B: answer as if a client had asked here, with -1 if this server does not lead
        with self.lock:
            self._see_term(args.term)
            index = self._confirmed_index() if self.role == LEADER else -1
            return ReadIndexReply(term=self.current_term, index=index)
        # skeleton: return ReadIndexReply(term=self.current_term, index=-1)
        # endregion

    def lease_of(self, args: LeaseArgs) -> LeaseReply:
        """Lab 3B, part 2. A follower asks for a lease, to answer reads itself. From the moment when the lease is granted
        until the lease has ended, no entry may be committed before the follower has that entry."""
        # region 3B: part 2: grant it if this server holds a lease itself, and the follower is not behind
        # hint: While a follower's lease lasts, no other leader may commit. So make it end before this server's own lease.
        with self.lock:
            self._see_term(args.term)
            if self.role != LEADER or not self._may_grant(args.server_id):
                return LeaseReply(term=self.current_term, granted=False)
            return self._grant(args.server_id)
        # skeleton: return LeaseReply(term=self.current_term, granted=False)
        # endregion

    # region 2A: the election, the heartbeats, and whatever helpers you want
    # hint: To start an election (Figure 2, Candidates), begin a new term, vote for yourself, and ask all others at once.
    # hint: With votes from more than half of the members, you lead. Send heartbeats to all every HEARTBEAT_EVERY seconds.
    # hint: peers[i].call(...) waits for the reply: make each call in a thread of its own, and hold no lock meanwhile.
    # --- elections (§5.2) ---

    def _election_loop(self) -> None:
        """Start an election whenever the timer has run out and this server does not lead."""
        while True:
            with self.lock:
                while self.role == LEADER or time.monotonic() < self.election_deadline:
                    left = self.election_deadline - time.monotonic()
                    self.changed.wait(None if self.role == LEADER else max(0.0, left))
                # region 2E: a server without a vote waits
                if not self._may_stand():
                    self._restart_election_timer()
                    continue
                # endregion
                # region 2F: ask first whether the others would vote for you
                if PRE_VOTE and not self._is_majority({self.me}):
                    self._begin_pre_vote()
                    continue
                # endregion
                args = self._become_candidate()
                others = self._others()
            for server in others:
                threading.Thread(target=self._ask_for_vote, args=(server, args), daemon=True).start()

    def _become_candidate(self) -> RequestVoteArgs:
        """Figure 2, Candidates: a new term, a vote for myself, a fresh timer. Called with the lock held."""
        self.role = CANDIDATE
        self.current_term += 1
        self._vote_for(self.me)
        self.votes = {self.me}
        self._restart_election_timer()
        # region 2E: this term has no leader yet
        self.leader_id = None
        # endregion
        log("election", f"candidate in term {self.current_term}")
        self._lead_if_elected()
        return RequestVoteArgs(
            term=self.current_term,
            candidate_id=self.me,
            last_log_index=self._last_index(),
            last_log_term=self.entries[-1].term,
        )

    def _ask_for_vote(self, server: int, args: RequestVoteArgs) -> None:
        reply = self.peers[server].call("request_vote", args)
        if reply is None:
            return
        with self.lock:
            self._see_term(reply.term)
            # The answer may be late. It counts only if this server is still a candidate in the term in which it asked.
            if reply.vote_granted and self.role == CANDIDATE and self.current_term == args.term:
                self.votes.add(server)
                self._lead_if_elected()

    def _lead_if_elected(self) -> None:
        """Become the leader if more than half of the members have voted for us. Called with the lock held."""
        if self._is_majority(self.votes):
            self.role = LEADER
            # region 2E: no server is catching up yet, and none is being removed
            self.leader_id = self.me
            self.learners = frozenset()
            self.leaving.clear()
            # endregion
            # region 2G: an earlier transfer is over
            self.target = None
            # endregion
            # region 3B: nobody has answered a round of this term or asked for a lease in it
            self.answered_round.clear()
            self.lease_round = None
            self.log_at_grant.clear()
            # endregion
            # region 2F: when each server last answered you: act as if all had answered just now
            self.asking = None
            self.answered_at = dict.fromkeys(range(len(self.peers)), time.monotonic())
            # endregion
            # region 2B: Figure 2, volatile state on leaders
            for server in range(len(self.peers)):
                self.next_index[server] = self._last_index() + 1
                self.match_index[server] = 0
                self.told_commit[server] = 0
            self.in_flight.clear()
            # region 2D: forget the transfers of an earlier term as leader
            self.outgoing.clear()
            # endregion
            if NOOP_ON_ELECTION:
                # Committing a no-op commits everything before it, too, without waiting for a client (§8).
                self._append(LogEntry(self.current_term, None, kind="noop"))
            # endregion
            self.changed.notify_all()
            log("leader", f"of term {self.current_term} by {sorted(self.votes)}")

    # --- heartbeats (§5.2) ---

    def _heartbeat_loop(self) -> None:
        """While leading, send heartbeats to everybody, at once and then at regular intervals."""
        while True:
            with self.lock:
                while self.role != LEADER:
                    self.changed.wait()
                # region 3B: the answers to heartbeats also prove that this server leads
                self._begin_round()
                # endregion
                # region 2F: a leader that no majority answers must step down, because it blocks the others
                if CHECK_QUORUM and not self._is_answered():
                    self._step_down("no majority answers")
                    continue
                # endregion
                for server in self._others():
                    # region 2B: followers check a heartbeat like any other AppendEntries, so it needs the same fields
                    args = self._append_args(server, MAX_BATCH if HEARTBEATS_CARRY_ENTRIES else 0)
                    # skeleton: args = AppendEntriesArgs(
                    # skeleton:     term=self.current_term,
                    # skeleton:     leader_id=self.me,
                    # skeleton:     prev_log_index=self._last_index(),
                    # skeleton:     prev_log_term=self.entries[-1].term,
                    # skeleton: )
                    # endregion
                    # Each call has its own thread: a call to a dead server takes seconds, and the others must not wait.
                    threading.Thread(target=self._send_append, args=(server, args), daemon=True).start()
                # region 2B: entries that were lost are sent again from time to time
                self.to_send.notify_all()
                # endregion
            time.sleep(HEARTBEAT_EVERY)

    def _send_append(self, server: int, args: AppendEntriesArgs) -> None:
        """Send one AppendEntries and learn from the answer. Runs in a thread of its own."""
        reply = self.peers[server].call("append_entries", args)
        with self.lock:
            # region 2B: what does the reply prove, and what does it not prove?
            # hint: The reply may be late: from another term, or older than what you know already (Figure 2, Leaders).
            self._landed(server, args)
            # endregion
            if reply is None:
                return
            self._see_term(reply.term)
            # region 2B: move next_index and match_index, and commit
            if self.role != LEADER or self.current_term != args.term:
                return
            # region 2F: any answer counts, whatever it says
            self.answered_at[server] = time.monotonic()
            # endregion
            # region 3B: the reply proves that this server led when it sent the round
            self.answered_round[server] = max(self.answered_round.get(server, 0), args.round)
            self.answered.notify_all()
            # endregion
            # region 2E: a removed server that knows of its removal needs nothing more
            if reply.success and self.configured_at <= args.leader_commit:
                self.leaving.pop(server, None)
            # endregion
            if reply.success:
                # The reply proves that the server has what was sent with this very request, and no more.
                self._matched(server, args.prev_log_index + len(args.entries))
            elif args.prev_log_index == self.next_index[server] - 1:
                # A refusal of an older request says nothing new.
                self._back_up(server, reply)
            # endregion

    # --- helpers; all are called with the lock held ---

    def _see_term(self, term: int) -> None:
        """Figure 2, All Servers: a higher term makes us a follower, which may vote again. The same term changes nothing."""
        if term > self.current_term:
            self.current_term = term
            self._vote_for(None)
            if self.role == LEADER:
                # No timer ran while we led: a new follower needs a new deadline.
                self._restart_election_timer()
            if self.role != FOLLOWER:
                log("term", f"{self.role} no more: term {term}")
            self.role = FOLLOWER
            # region 2E: the leader of the new term is not known yet
            self.leader_id = None
            # endregion
            self.changed.notify_all()

    def _hear_leader(self) -> None:
        """Another server leads this term: a candidate gives up, but keeps its vote (it is the same term)."""
        self.role = FOLLOWER
        self._restart_election_timer()
        # region 2E: remember when that was
        self.heard_leader_at = time.monotonic()
        # endregion
        # region 2F: no need to ask for votes any more
        self.asking = None
        # endregion

    def _vote_for(self, candidate: int | None) -> None:
        self.voted_for = candidate
        # region 2C: a vote that is not saved could be given twice
        self._persist()
        # endregion

    def _is_up_to_date(self, last_term: int, last_index: int) -> bool:
        """Whether a log is at least as up-to-date as ours (§5.4.1): the later last term wins; if equal, the longer log."""
        return (last_term, last_index) >= (self.entries[-1].term, self._last_index())

    def _last_index(self) -> int:
        return self.base + len(self.entries) - 1

    def _restart_election_timer(self) -> None:
        """A new random timeout each time, so that two candidates do not collide forever (§5.2). The election loop needs no
        notification: the deadline only moves later, and the loop checks it again at the old deadline."""
        self.election_deadline = time.monotonic() + random.uniform(*ELECTION_TIMEOUT)

    def _is_majority(self, servers: set[int]) -> bool:
        """Whether `servers` are more than half of the members."""
        # region 2E: while there are two configurations, a majority of each
        # hint: The vote of a server that is in neither does not count, and you may be such a server yourself.
        if self.old_members and len(servers & self.old_members) * 2 <= len(self.old_members):
            return False
        # endregion
        return len(servers & self.members) * 2 > len(self.members)

    def _others(self) -> list[int]:
        """The servers to send to."""
        # region 2E: all who vote; a leader also sends to servers that join, and to removed ones
        # skeleton: others = self.members
        others = self.members | self.old_members
        if self.role == LEADER:
            now = time.monotonic()
            others |= self.learners | {server for server, until in self.leaving.items() if now < until}
        # endregion
        return [server for server in sorted(others) if server != self.me]

    # endregion

    # region 2B: replication: what to send, what an answer means, when to commit, and the thread that applies
    # hint: Only one thread calls apply_ch.put, and it holds no lock meanwhile: copy what is to be applied, then put.
    # hint: When a follower accepts an AppendEntries, match_index = prev_log_index + len(entries) of that request.
    # hint: When it refuses, next_index goes back, a whole term at a time (the end of §5.3), and never below 1.
    # --- replication, the leader's side (§5.3) ---

    def _append(self, entry: LogEntry) -> None:
        """Append a new entry to the leader's log. Called with the lock held."""
        self.entries.append(entry)
        # region 2E: a configuration counts from here on
        if entry.kind == CONFIGURATION:
            self._use_latest_configuration()
        # endregion
        # region 2C: an entry that is not saved must not count for a majority
        self._persist()
        # endregion
        self._advance_commit()
        self.to_send.notify_all()

    def _replicate_loop(self) -> None:
        """While leading, send each server what it lacks as soon as there is something, one message at a time to each."""
        while True:
            with self.lock:
                receivers = [server for server in self._others() if self._has_news_for(server)]
                if not receivers:
                    self.to_send.wait()
                for server in receivers:
                    # region 2D: a server that lacks entries that are no longer in the log gets the snapshot
                    if self.next_index[server] <= self.base:
                        self._send_chunk(server)
                        continue
                    # endregion
                    args = self._append_args(server, MAX_BATCH)
                    self.in_flight[server] = (args, time.monotonic())
                    threading.Thread(target=self._send_append, args=(server, args), daemon=True).start()

    def _has_news_for(self, server: int) -> bool:
        """Whether to send now, because something is new and no recent message is unanswered. Called with the lock held."""
        if self.role != LEADER:
            return False
        _, since = self.in_flight.get(server, (None, None))
        if since is not None and time.monotonic() < since + RESEND_AFTER:
            return False
        return self.next_index[server] <= self._last_index() or self.told_commit[server] < self.commit_index

    def _append_args(self, server: int, most: int) -> AppendEntriesArgs:
        """Up to `most` of the entries that the server lacks, and the entry before them. Called with the lock held."""
        first = max(self.next_index[server], self.base + 1)
        self.told_commit[server] = self.commit_index
        return AppendEntriesArgs(
            term=self.current_term,
            leader_id=self.me,
            prev_log_index=first - 1,
            prev_log_term=self._term_at(first - 1),
            entries=self.entries[first - self.base : first - self.base + most],
            leader_commit=self.commit_index,
            # region 3B: see AppendEntriesArgs
            round=self.round,
            lease=self.lease_round is not None,
            # endregion
        )

    def _landed(self, server: int, args: object) -> None:
        """A call has ended, with or without a reply: nothing is in flight now, unless something was sent since."""
        if self.in_flight.get(server, (None, None))[0] is args:
            del self.in_flight[server]
            self.to_send.notify_all()

    def _matched(self, server: int, index: int) -> None:
        """The server's log equals ours up to `index`. Called with the lock held."""
        if index > self.match_index[server]:
            self.match_index[server] = index
            # region 2E: change_membership may be waiting for it to catch up
            self.changed.notify_all()
            # endregion
            self._advance_commit()
        self.next_index[server] = max(self.next_index[server], self.match_index[server] + 1)
        self.to_send.notify_all()
        # region 2G: perhaps this is what the target lacked
        if server == self.target:
            self._ask_target()
        # endregion

    def _back_up(self, server: int, reply: AppendEntriesReply) -> None:
        """The server's log differs just before next_index: go back by a whole term. Called with the lock held."""
        index = self.next_index[server] - 1
        if reply.conflict_index is not None:
            # If we have entries of that term, too, the logs may agree as far as the last of them.
            own = self._last_of(reply.conflict_term, index)
            index = min(index, own + 1 if own is not None else reply.conflict_index)
        self.next_index[server] = max(index, self.match_index[server] + 1)
        self.to_send.notify_all()

    def _last_of(self, term: int | None, upto: int) -> int | None:
        """The last index of `term` in our log, looking back from `upto`. Called with the lock held."""
        if term is None:
            return None
        while upto > self.base and self._term_at(upto) > term:
            upto -= 1
        return upto if upto > self.base and self._term_at(upto) == term else None

    def _advance_commit(self) -> None:
        """Figure 2, Leaders: commit what a majority has, if it is of this term. Called with the lock held."""
        index = self._held_by_most(self.members)
        # region 2E: while there are two configurations, a majority of each must have the entry
        if self.old_members:
            index = min(index, self._held_by_most(self.old_members))
        # endregion
        # region 3B: every holder of a lease must have the entry, too; otherwise it answers reads without the entry (part 2)
        index = min([index, *(self.match_index[server] for server in self._holders())])
        # endregion
        # An entry of an older term may still be overwritten, however many have it (§5.4.2, Figure 8).
        if index > self.commit_index and self._term_at(index) == self.current_term:
            self._commit(index)

    def _held_by_most(self, members: frozenset[int]) -> int:
        """The last index that more than half of `members` have. Called with the lock held."""
        have = sorted(self._last_index() if server == self.me else self.match_index[server] for server in members)
        return have[(len(have) - 1) // 2]

    # --- replication, the follower's side (§5.3) ---

    def _conflict(self, args: AppendEntriesArgs) -> AppendEntriesReply | None:
        """Step 2: refuse entries that do not follow on from our log, and say where to look instead. Lock held."""
        index = args.prev_log_index
        if index > self._last_index():
            return AppendEntriesReply(self.current_term, False, conflict_index=self._last_index() + 1)
        # What a snapshot covers is committed, so it agrees with any leader's log.
        if index <= self.base or self._term_at(index) == args.prev_log_term:
            return None
        term = self._term_at(index)
        while index - 1 > self.base and self._term_at(index - 1) == term:
            index -= 1
        return AppendEntriesReply(self.current_term, False, conflict_term=term, conflict_index=index)

    def _store(self, args: AppendEntriesArgs) -> None:
        """Steps 3 and 4: only a conflict removes entries, as an old request may be shorter than our log. Lock held."""
        for index, entry in enumerate(args.entries, args.prev_log_index + 1):
            if index <= self.base:
                continue
            if index <= self._last_index() and self._term_at(index) == entry.term:
                continue
            # From here on, everything in the request is new. What our log has from here on came from an old leader.
            self.entries[index - self.base :] = args.entries[index - args.prev_log_index - 1 :]
            # region 2E: a configuration may have been added or removed
            if self.configured_at >= index or any(entry.kind == CONFIGURATION for entry in args.entries):
                self._use_latest_configuration()
            # endregion
            # region 2C: the answer promises that these entries survive a crash
            # If other entries were saved here, these replace them.
            self.unsaved_from = min(self.unsaved_from, index)
            self._persist()
            # endregion
            break

    # --- the commit, and the service (§5.3) ---

    def _commit(self, index: int) -> None:
        """Everything up to `index` is committed. The commit index never goes back. Called with the lock held."""
        if index > self.commit_index:
            self.commit_index = index
            self.to_apply.notify_all()
            self.to_send.notify_all()
            # region 2E: what follows when a configuration is committed
            self._configuration_committed()
            # endregion

    def _apply_loop(self) -> None:
        """Hand committed entries to the service, in order. Only this thread does that, and it holds no lock meanwhile."""
        while True:
            with self.lock:
                while self.last_applied >= self.commit_index:
                    self.to_apply.wait()
                messages = []
                # region 2D: a snapshot goes first
                if self.to_restore is not None:
                    messages.append(self.to_restore)
                    self.last_applied = self.to_restore.index
                    self.to_restore = None
                # endregion
                while self.last_applied < self.commit_index:
                    self.last_applied += 1
                    entry = self.entries[self.last_applied - self.base]
                    # region 2E: a configuration names all who vote from here on, in either set
                    voters = _voters(entry) if entry.kind == CONFIGURATION else None
                    message = ApplyMsg(self.last_applied, entry.term, entry.command, kind=entry.kind, members=voters)
                    # skeleton: message = ApplyMsg(self.last_applied, entry.term, entry.command, kind=entry.kind)
                    # endregion
                    messages.append(message)
            for message in messages:
                self.apply_ch.put(message)

    def _term_at(self, index: int) -> int:
        """The term of the entry at `index`, which is neither before entries[0] nor past the end. Lock held."""
        return self.entries[index - self.base].term

    # endregion

    # region 2C: what is saved, and how it comes back
    # hint: Save what Figure 2 lists under "persistent state on all servers". Turn it into bytes with json or pickle.
    # hint: Whenever the term, the vote or the log has changed, save before you answer.
    # --- persistence (Figure 2, State) ---

    def _persist(self, snapshot: bytes | None = None) -> None:
        """Save what must survive a crash, before any message depends on it. Called with the lock held.

        Each save adds one line of JSON: the term, the vote, and the log from `unsaved_from` on. So a save costs the same
        however long the log is. A snapshot makes most of the saved lines useless, so then everything is written anew.

        If the disk fails, the OSError ends this thread, and the lab stops this server: it must not answer any more."""
        if snapshot is not None:
            self.unsaved_from = self.base
        entries = [list(vars(entry).values()) for entry in self.entries[self.unsaved_from - self.base :]]
        # region 3B: also save the promise, because a leader's lease may rely on it
        # skeleton: state = json.dumps((self.current_term, self.voted_for, self.base, self.unsaved_from, entries))
        state = json.dumps((self.current_term, self.voted_for, self.base, self.unsaved_from, entries, self.promised))
        # endregion
        line = state.encode() + b"\n"
        if self.unsaved_from == self.base:
            self.persister.save(line, snapshot)
        else:
            self.persister.append(line)
        self.unsaved_from = self._last_index() + 1

    def _restore(self) -> None:
        """Continue from what was saved, if anything was. Each line replaces the log from its first entry on."""
        for line in self.persister.state().splitlines():
            # region 3B: also restore the promise, because a leader's lease may rely on it
            # skeleton: self.current_term, self.voted_for, self.base, first, entries = json.loads(line)
            self.current_term, self.voted_for, self.base, first, entries, self.promised = json.loads(line)
            # endregion
            self.entries[first - self.base :] = [LogEntry(*entry) for entry in entries]
        # region 2D: the service has lost its state, too: give it the snapshot first
        # hint: What the snapshot covers is committed. Nothing else is known to be (commit_index is volatile).
        if self.base:
            self.commit_index = self.base
            self.to_restore = self._snapshot_message(self.persister.snapshot())
        # endregion

    # endregion

    # region 2D: sending and receiving snapshots, and cutting the log
    # hint: next_index <= base: what this server lacks is gone from your log, so send it the snapshot, chunk by chunk.
    # hint: A follower whose entry at last_included_index is of last_included_term keeps what follows that entry (§7).
    # --- snapshots (§7) ---

    def _cut_log(self, index: int, term: int) -> None:
        """Discard the log up to `index`; the term of that entry stays, in entries[0]. Called with the lock held."""
        rest = self.entries[index - self.base + 1 :]
        # region 2E: the stand-in remembers the configuration, too
        last = self._configuration_at(index)
        # endregion
        self.entries = [LogEntry(term, None), *rest]
        self.base = index
        # region 2E: the configuration is in the stand-in from here on
        self.entries[0].members, self.entries[0].old_members = last.members, last.old_members
        # endregion

    def _send_chunk(self, server: int) -> None:
        """Send the next chunk of the snapshot. A transfer that has begun is finished even if a newer snapshot is taken:
        otherwise a busy leader would never finish one. Called with the lock held."""
        transfer = self.outgoing.get(server)
        if transfer is None:
            transfer = Transfer(self.current_term, self.base, self._term_at(self.base), self.persister.snapshot())
            # region 2E: the configuration belongs to the snapshot
            transfer.members, transfer.old_members = self.entries[0].members, self.entries[0].old_members
            # endregion
            self.outgoing[server] = transfer
        chunk = transfer.data[transfer.offset : transfer.offset + SNAPSHOT_CHUNK]
        args = InstallSnapshotArgs(
            term=self.current_term,
            leader_id=self.me,
            last_included_index=transfer.index,
            last_included_term=transfer.index_term,
            offset=transfer.offset,
            data=chunk,
            done=transfer.offset + len(chunk) >= len(transfer.data),
            # region 2E: and who votes
            members=transfer.members,
            old_members=transfer.old_members,
            # endregion
        )
        self.in_flight[server] = (args, time.monotonic())
        threading.Thread(target=self._send_install, args=(server, args, transfer), daemon=True).start()

    def _send_install(self, server: int, args: InstallSnapshotArgs, transfer: Transfer) -> None:
        """Send one chunk and learn from the answer. Runs in a thread of its own."""
        reply = self.peers[server].call("install_snapshot", args)
        with self.lock:
            self._landed(server, args)
            if reply is None:
                return
            self._see_term(reply.term)
            # region 2F: any answer counts
            if self.current_term == args.term:
                self.answered_at[server] = time.monotonic()
            # endregion
            if self.role != LEADER or self.current_term != args.term or self.outgoing.get(server) is not transfer:
                return
            end = args.offset + len(args.data)
            transfer.offset = end if reply.received is None else reply.received
            if args.done and transfer.offset == end:
                del self.outgoing[server]
                self._matched(server, transfer.index)

    def _collect(self, args: InstallSnapshotArgs) -> Transfer | None:
        """Add a chunk to those received before. Returns the snapshot if it is complete now. Called with the lock held."""
        known = self.incoming
        if known is None or (known.term, known.index) != (args.term, args.last_included_index):
            known = Transfer(args.term, args.last_included_index, args.last_included_term, b"")
            if self.incoming is not None and (self.incoming.term, self.incoming.index) > (known.term, known.index):
                return None
            # region 2E: the configuration belongs to the snapshot
            known.members, known.old_members = args.members, args.old_members
            # endregion
            self.incoming = known
        # A chunk that arrived before, or one after a gap, changes nothing: the reply says where to continue.
        if args.offset != known.offset:
            return None
        known.data += args.data
        known.offset += len(args.data)
        return known if args.done else None

    def _install(self, new: Transfer) -> None:
        """A snapshot is complete: take it, unless what we have is newer. Called with the lock held."""
        if new.index <= self.commit_index:
            return
        if new.index <= self._last_index() and self._term_at(new.index) == new.index_term:
            # It covers the beginning of our own log. The rest stays, because a leader may have counted it (Figure 13, 6).
            self._cut_log(new.index, new.index_term)
        else:
            # region 2E: nothing is left of the log but the configuration that the snapshot brings
            last = self._configuration_at(new.index)
            if new.members is not None:
                last = LogEntry(0, None, CONFIGURATION, new.members, new.old_members)
            # endregion
            self.entries = [LogEntry(new.index_term, None)]
            self.base = new.index
            # region 2E: that configuration counts now
            self.entries[0].members, self.entries[0].old_members = last.members, last.old_members
            # endregion
        # region 2E: who votes now
        self._use_latest_configuration()
        # endregion
        self._persist(new.data)
        self.to_restore = self._snapshot_message(new.data)
        self._commit(new.index)

    def _snapshot_message(self, data: bytes) -> ApplyMsg:
        return ApplyMsg(self.base, self.entries[0].term, kind="snapshot", snapshot=data)

    # endregion

    # region 2E: configurations: which one counts, how one follows another, and who may stand for election
    # hint: Whenever the log changes, look for the latest configuration in it. It counts, and it can disappear again.
    # hint: Whichever leader commits C_old,new appends C_new. A leader outside C_new steps down once C_new is committed.
    # --- membership (§6; dissertation, chapter 4) ---

    def _use_latest_configuration(self) -> None:
        """Use the latest configuration in the log, committed or not. Called with the lock held."""
        before = self.members | self.old_members
        at = self._configured_at(self._last_index())
        entry = self.entries[at - self.base]
        self.members, self.old_members = frozenset(entry.members or ()), frozenset(entry.old_members or ())
        self.configured_at = at
        if self.role == LEADER:
            # Tell removed servers that they are removed. A server that is not told in time has lost its vote all the same.
            self.leaving.update(dict.fromkeys(before - _voters(entry), time.monotonic() + LEARNER_PATIENCE))

    def _configured_at(self, index: int) -> int:
        """The index of the configuration that counts at `index`: an entry's, or the stand-in's. Lock held."""
        while index > self.base and self.entries[index - self.base].kind != CONFIGURATION:
            index -= 1
        return index

    def _configuration_at(self, index: int) -> LogEntry:
        """The configuration that counts at `index`, or at the end of a log that is shorter. Called with the lock held."""
        return self.entries[self._configured_at(min(index, self._last_index())) - self.base]

    def _append_configuration(self, members: frozenset[int], old_members: frozenset[int] = frozenset()) -> None:
        """Append a configuration. Called with the lock held, at a leader."""
        old = sorted(old_members) if old_members else None
        log("members", f"{sorted(members)}" + (f" together with {old}" if old else ""))
        self._append(LogEntry(self.current_term, None, CONFIGURATION, sorted(members), old))

    def _configuration_committed(self) -> None:
        """If the latest configuration is committed now, the leader takes the next step. Called with the lock held."""
        if self.role != LEADER or self.configured_at > self.commit_index:
            return
        if self.old_members:
            # A majority of each set has C_old,new: nobody is elected without it any more, so C_new may follow.
            self._append_configuration(self.members)
        elif self.me not in self.members:
            # The others go on without us. This message tells them that C_new is committed; if it is lost, later ones do.
            for server in self._others():
                args = self._append_args(server, MAX_BATCH)
                threading.Thread(target=self._send_append, args=(server, args), daemon=True).start()
            self._step_down("removed")

    def _step_down(self, why: str) -> None:
        """Stop leading, in the same term. Called with the lock held."""
        log("leader", f"no more: {why}")
        self.role = FOLLOWER
        self.leader_id = None
        self._restart_election_timer()
        self.changed.notify_all()

    def _may_change_to(self, members: frozenset[int]) -> bool:
        """Whether this leader may begin a change now. Called with the lock held."""
        return (
            bool(members)
            and members <= frozenset(range(len(self.peers)))
            # One change at a time: no server is catching up, and the configuration is committed and not half of a change.
            and not self.learners
            and self.configured_at <= self.commit_index
            and not self.old_members
            # An entry of our own term is committed. Otherwise an earlier leader's change, which we do not have, may still
            # be committed, and two changes from the same C_old need not overlap (a bug of the dissertation, found in 2015).
            and self._term_at(self.commit_index) == self.current_term
            # region 2G: and no transfer is under way
            and not self._is_handing_over()
            # endregion
        )

    def _begin_learning(self, servers: frozenset[int]) -> None:
        """From now on these servers get everything, but have no vote. Called with the lock held."""
        self.learners = servers
        for server in servers:
            self.leaving.pop(server, None)
            self.outgoing.pop(server, None)
            # It may have lost what it had as a member, so it must acknowledge its entries again.
            self.match_index[server] = 0
            self.next_index[server] = self._last_index() + 1
            self.in_flight.pop(server, None)
        self.to_send.notify_all()

    def _wait_for_learners(self, term: int) -> bool:
        """Wait until all learners have caught up, that is, until a round takes less than an election timeout. In a round,
        they get all that they lack when it begins (dissertation, 4.2.1). Called with the lock held; waiting releases it."""
        give_up = time.monotonic() + LEARNER_PATIENCE
        while True:
            goal, since = self._last_index(), time.monotonic()
            while any(self.match_index[server] < goal for server in self.learners):
                left = give_up - time.monotonic()
                if left <= 0 or self.role != LEADER or self.current_term != term:
                    return False
                self.changed.wait(left)
            if time.monotonic() < since + ELECTION_TIMEOUT[0]:
                return True

    def _may_stand(self) -> bool:
        """Whether this server has a vote in the last configuration that it knows to be committed, or in a later one. A
        server that is being removed may be needed until its removal is committed. Called with the lock held."""
        at = self._configured_at(self.commit_index)
        later = (entry for entry in self.entries[at - self.base + 1 :] if entry.kind == CONFIGURATION)
        return any(self.me in _voters(entry) for entry in (self.entries[at - self.base], *later))

    def _hears_leader(self) -> bool:
        """Whether there is a leader: this server, or one heard within the shortest election timeout. Lock held."""
        # region 3B: a server that has restarted does not know whether it heard a leader before
        if time.monotonic() < self.silent_until:
            return True
        # endregion
        return self.role == LEADER or time.monotonic() < self.heard_leader_at + ELECTION_TIMEOUT[0]

    def _known_leader(self) -> int:
        return -1 if self.leader_id is None else self.leader_id

    # endregion

    # region 2F: asking the others before an election, and stepping down if no majority answers
    # hint: Count only answers to your latest questions. With pre-votes from a majority, start an election as before.
    # --- PreVote and CheckQuorum (dissertation, 9.6 and 6.2) ---

    def _begin_pre_vote(self) -> None:
        """The timer has run out: ask everybody whether they would vote for us. Our term stays. Lock held."""
        self._restart_election_timer()
        self.leader_id = None
        self.pre_votes = {self.me}
        self.asking = args = RequestVoteArgs(
            term=self.current_term + 1,
            candidate_id=self.me,
            last_log_index=self._last_index(),
            last_log_term=self.entries[-1].term,
        )
        for server in self._others():
            threading.Thread(target=self._ask_for_pre_vote, args=(server, args), daemon=True).start()

    def _ask_for_pre_vote(self, server: int, args: RequestVoteArgs) -> None:
        reply = self.peers[server].call("pre_vote", args)
        if reply is None:
            return
        with self.lock:
            if not reply.vote_granted:
                # A refusal may carry the refusing server's higher term. If we ignored it, we would be refused forever.
                self._see_term(reply.term)
                return
            if self.asking is not args or self.current_term + 1 != args.term:
                return  # this answers an earlier round
            self.pre_votes.add(server)
            if not self._is_majority(self.pre_votes):
                return
            self.asking = None
            args = self._become_candidate()
            others = self._others()
        for other in others:
            threading.Thread(target=self._ask_for_vote, args=(other, args), daemon=True).start()

    def _is_answered(self) -> bool:
        """Whether a majority has answered this leader within an election timeout. Called with the lock held."""
        since = time.monotonic() - ELECTION_TIMEOUT[1]
        return self._is_majority({self.me} | {server for server, when in self.answered_at.items() if when >= since})

    # endregion

    # region 2G: handing the leadership over
    # hint: Send TimeoutNow only once the target has acknowledged your whole log. It can be lost, so send it more than once.
    # --- leadership transfer (dissertation, 3.10) ---

    def _is_handing_over(self) -> bool:
        """Whether a transfer is under way. After TRANSFER_LIMIT it is given up. Called with the lock held, at a leader."""
        if self.target is not None and time.monotonic() >= self.transfer_until:
            log("transfer", f"S{self.target} does not lead: given up")
            self.target = None
        return self.target is not None

    def _ask_target(self) -> None:
        """Send TimeoutNow if the target has our whole log, and was not sent one a moment ago. Called with the lock held."""
        if not self._is_handing_over() or time.monotonic() < self.asked_at + ASK_AGAIN_AFTER:
            return
        assert self.target is not None
        if self.match_index[self.target] == self._last_index():
            # region 3B: from now on another server may be elected at any time
            if self._holders():
                return  # part 2: first, all leases at followers must end; no more are granted meanwhile
            self.lease_round = None
            self.gave_up_lease_in = self.current_term
            # endregion
            self.asked_at = time.monotonic()
            args = TimeoutNowArgs(self.current_term, self.me)
            threading.Thread(target=self._send_timeout_now, args=(self.target, args), daemon=True).start()

    def _send_timeout_now(self, server: int, args: TimeoutNowArgs) -> None:
        reply = self.peers[server].call("timeout_now", args)
        if reply is not None:
            with self.lock:
                self._see_term(reply.term)

    # endregion

    # region 3B: reads without an entry in the log
    # hint: Several reads may share a round of messages, if it is sent after all of them have arrived.
    # --- reads (dissertation, 6.4) ---

    def _confirmed_index(self) -> int:
        """The commit index, once a majority has answered a round that began after this call; -1 if none does in time.
        Called with the lock held, at a leader; waiting releases it."""
        term, deadline = self.current_term, time.monotonic() + READ_WITHIN
        if not self._has_committed() and not self._wait_for_commit(term, deadline):
            return -1
        index, mine = self.commit_index, self.round + 1
        while self._answered_round() < mine:
            if not self._still_leads(term, deadline):
                return -1
            # One round at a time: reads that arrive meanwhile share the next one.
            if self.round <= self._answered_round() or time.monotonic() >= self.round_began[self.round] + RESEND_AFTER:
                self._begin_round()
                for server in self._others():
                    args = self._append_args(server, 0)
                    threading.Thread(target=self._send_append, args=(server, args), daemon=True).start()
                continue
            self.answered.wait(min(RESEND_AFTER, max(0.0, deadline - time.monotonic())))
        return index if self.role == LEADER and self.current_term == term else -1

    def _has_committed(self) -> bool:
        """Whether this leader has committed an entry of its own term. If there is none yet, append one. Lock held."""
        if self.entries[-1].term != self.current_term:
            self._append(LogEntry(self.current_term, None, kind="noop"))
        return self._term_at(self.commit_index) == self.current_term

    def _wait_for_commit(self, term: int, deadline: float) -> bool:
        """Wait until this leader has committed an entry of its own term. Called with the lock held."""
        while self._still_leads(term, deadline):
            if self._term_at(self.commit_index) == term:
                return True
            self.to_apply.wait(max(0.0, deadline - time.monotonic()))
        return False

    def _still_leads(self, term: int, deadline: float) -> bool:
        return self.role == LEADER and self.current_term == term and time.monotonic() < deadline

    def _begin_round(self) -> None:
        """Messages that are sent from now on belong to a new round. Called with the lock held, at a leader."""
        self.round += 1
        self.round_began[self.round] = time.monotonic()
        # Only the last round that a majority has answered, and later ones, are needed.
        answered = self._answered_round()
        for number in [number for number in self.round_began if number < answered]:
            del self.round_began[number]

    def _answered_round(self) -> int:
        """The last round that a majority has answered. Called with the lock held, at a leader."""
        answered = self._answered_by_most(self.members)
        return min(answered, self._answered_by_most(self.old_members)) if self.old_members else answered

    def _answered_by_most(self, members: frozenset[int]) -> int:
        """The last round that more than half of `members` have answered. Called with the lock held."""
        rounds = sorted(self.round if each == self.me else self.answered_round.get(each, 0) for each in members)
        return rounds[(len(rounds) - 1) // 2]

    def _ask_for_lease(self) -> None:
        """From now on, messages ask their receivers to refuse votes for a while. Called with the lock held, at a leader."""
        if self.lease_round is None and self.gave_up_lease_in != self.current_term:
            self._begin_round()
            self.lease_round = self.round

    def _holds_lease(self) -> bool:
        """Whether no other server can have been elected. Called with the lock held, at a leader."""
        answered = self._answered_round()
        if self.lease_round is None or answered < self.lease_round:
            return False
        return time.monotonic() < self.round_began[answered] + LEASE

    def _ask_leader(self, leader: int, args: ReadIndexArgs) -> int:
        """Ask the leader for a read index. Called without the lock, because the call may take seconds."""
        answers: list[ReadIndexReply] = []
        answered = threading.Event()

        def ask() -> None:
            reply = self.peers[leader].call("read_index_of", args)
            if reply is not None:
                answers.append(reply)
            answered.set()

        threading.Thread(target=ask, daemon=True).start()
        answered.wait(1.5 * READ_WITHIN)
        if not answers:
            return -1
        with self.lock:
            self._see_term(answers[0].term)
        return answers[0].index

    # --- leases at followers (part 2) ---

    def _index_of_holder(self) -> int:
        """At a follower: the index for a read, if it holds a lease; otherwise -1. If there are enough reads, it asks for a
        lease, and for the next one before this one ends. Called with the lock held."""
        # This is the end of the log, because what this server has acknowledged may be committed, and others may have shown
        # it already. Nothing of an older leader can be left there, since the log has a committed entry of the leader's term.
        index = self._last_index()
        now = time.monotonic()
        term, until = self.own_lease
        self.lease_reads = [*self.lease_reads[1 - READS_WORTH_A_LEASE :], now]
        often = len(self.lease_reads) == READS_WORTH_A_LEASE and now < self.lease_reads[0] + 1.0
        if often and now >= self.ask_at and self.leader_id is not None:
            self.ask_at = now + LEASE * random.uniform(*ASK_AFTER)
            args = LeaseArgs(self.current_term, self.me)
            threading.Thread(target=self._ask_for_own_lease, args=(self.leader_id, args, now), daemon=True).start()
        return index if term == self.current_term and now < until else -1

    def _ask_for_own_lease(self, leader: int, args: LeaseArgs, asked: float) -> None:
        """Ask the leader for a lease, in a thread of its own. The answer may be late: the lease counts from the question."""
        reply = self.peers[leader].call("lease_of", args)
        if reply is None:
            return
        with self.lock:
            self._see_term(reply.term)
            if reply.granted:
                self.own_lease = max(self.own_lease, (reply.term, asked + reply.seconds / MAX_DRIFT))

    def _may_grant(self, server: int) -> bool:
        """Whether a follower may have a lease now. Called with the lock held, at a leader."""
        if server not in self.members or self._is_handing_over():
            return False
        self._ask_for_lease()
        # Commits wait for a holder, so it always has what is committed. A holder that stores nothing more must not block
        # commits forever. So to get the next lease, it needs everything that was in the log when it got the last one.
        if self.match_index[server] < self.log_at_grant.get(server, 0):
            return False
        # A holder that is behind would hold up every commit.
        return self._has_committed() and self._holds_lease() and self.match_index[server] >= self.commit_index

    def _grant(self, server: int) -> LeaseReply:
        """Give a follower a lease that ends with this leader's own. Called with the lock held, at a leader."""
        until = self.round_began[self._answered_round()] + LEASE
        self.granted[server] = max(self.granted.get(server, until), until)
        # Until then this server votes for nobody either, even if it stops leading or restarts.
        self.silent_until = max(self.silent_until, until)
        if not self.promised:
            self.promised = True
            self._persist()
        left = int((until - time.monotonic()) * 1000) / 1000  # rounded down, so that it is easy to read in the trace
        threading.Thread(target=self._commit_after, args=(until,), daemon=True).start()
        self.log_at_grant[server] = self._last_index()
        return LeaseReply(self.current_term, True, left)

    def _commit_after(self, until: float) -> None:
        """When a holder's lease has ended, commit what has waited for that holder. Runs in a thread of its own."""
        time.sleep(max(0.0, until - time.monotonic()))
        with self.lock:
            if self.role == LEADER:
                self._advance_commit()

    def _holders(self) -> dict[int, float]:
        """The servers whose leases may not have ended, and when they end. Called with the lock held."""
        now = time.monotonic()
        self.granted = {server: until for server, until in self.granted.items() if now < until}
        return self.granted

    # endregion
