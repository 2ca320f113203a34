"""A Raft of labs 2A to 2G, ported from a Go solution. It has one mutex and no condition variable, so everything that waits
polls: ticker, applier, change_membership. Each RPC has a thread of its own, like a goroutine.

Each start() and each heartbeat sends everything from next_index on. Election timeouts are long, and -1 means nobody. Only
the latest configuration and the one before it are kept.
"""

import enum
import pickle
import random
import threading
import time
from typing import Tuple  # noqa: UP035

from messages import (
    AppendEntriesArgs,
    AppendEntriesReply,
    InstallSnapshotArgs,
    InstallSnapshotReply,
    LogEntry,
    RequestVoteArgs,
    RequestVoteReply,
    TimeoutNowArgs,
    TimeoutNowReply,
)

from raftlab.api import ApplyMsg

DEBUG = False
# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes, or to "2D".
# With "2D", servers also vote while they hear a leader.
UPTO = "2F"
NOBODY = -1
TICK_MS = 30
HEARTBEAT_MS = 100
ELECTION_MS = (600, 1200)
CHUNK = 4096
# If the thread that sends a snapshot gets no answer for this long, another thread replaces it.
STUCK_MS = 800
APPLY_MS = 10
# How long a change waits for its learners. A leader steps down after STRIKES heartbeats in a row that no majority answers.
LEARN_MS = 5000
STRIKES = 12
# How many heartbeats a removed server still gets.
FAREWELLS = 10
# How long a leader waits for the server that it hands over to.
HAND_OVER_MS = 1000


class State(enum.Enum):
    FOLLOWER = enum.auto()
    CANDIDATE = enum.auto()
    LEADER = enum.auto()


def go(func, *args):
    threading.Thread(target=func, args=args, daemon=True).start()


class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.mu = threading.Lock()
        self.peers = peers
        self.persister = persister
        self.me = me
        self.dead = None
        self.apply_ch = apply_ch

        self.current_term = 0
        self.voted_for = NOBODY
        # log[0] stands for everything that the snapshot covers. It has the configuration in force at the snapshot's last
        # entry.
        self.log = [LogEntry(0, None, "configuration", sorted(members))]
        self.log_start = 0
        self.state = State.FOLLOWER
        self.commit_index = 0
        self.last_applied = 0
        self.next_index = {}
        self.match_index = {}
        # By server: the time of its last answer to the thread that sends it a snapshot. The time is in a list that
        # belongs to that thread.
        self.snapshot_sent = {}
        self.leader = NOBODY
        self.leader_heard = -ELECTION_MS[1]
        self.questions = 0  # how many rounds of pre-votes there have been
        self.answered = set()  # the servers that have answered since the last heartbeat
        self.strikes = 0
        self.learners = None  # the learners that a change waits for
        self.farewells = {}  # removed server -> how many heartbeats it still gets
        self.handing_over = 0  # the number of the transfer under way; 0: none
        self.transfers = 0

        self.pending_snapshot = None
        self.incoming = b""
        self.incoming_id = (0, 0)

        self.read_persist()
        # The latest configuration and the one before it. The earlier one is committed, because a change starts only then. So
        # the earlier one is never removed from the log, and keeping two is enough.
        self.conf = self.conf_before = (self.log_start, self.log[0])
        self.look_for_configurations(1)
        self.reset_timer()
        go(self.ticker)
        go(self.applier)

    # mu.Lock(), mu.Unlock()

    def lock(self):
        self.mu.acquire()
        if self.dead is not None:
            self.mu.release()
            raise self.dead

    def unlock(self):
        self.mu.release()

    def dprintf(self, text, *args):
        if DEBUG:
            print(f"[S{self.me} T{self.current_term} {self.state.name}] {text % args}")

    # --- persistence ---

    def persist(self, snapshot=None):
        log = [(entry.term, entry.command, entry.kind, entry.members, entry.old_members) for entry in self.log]
        data = pickle.dumps((self.current_term, self.voted_for, self.log_start, log))
        try:
            self.persister.save(data, snapshot)
        except OSError as err:
            self.dead = err
            raise

    def read_persist(self):
        data = self.persister.state()
        if not data:
            return
        self.current_term, self.voted_for, self.log_start, log = pickle.loads(data)
        self.log = [LogEntry(*fields) for fields in log]
        if self.log_start > 0:
            self.pending_snapshot = self.persister.snapshot()
            self.commit_index = self.log_start

    # --- the log ---

    def last_index(self):
        return self.log_start + len(self.log) - 1

    def at(self, index):
        return self.log[index - self.log_start]

    def append(self, entry):
        self.log.append(entry)
        self.look_for_configurations(len(self.log) - 1)
        self.persist()
        self.advance_commit()
        self.broadcast()
        return self.last_index()

    def look_for_configurations(self, first):
        """Update the latest two configurations after log[first:] was replaced."""
        if self.conf[0] >= self.log_start + first:
            self.conf = self.conf_before
        for i in range(first, len(self.log)):
            if self.log[i].kind == "configuration":
                self.conf_before = self.conf
                self.conf = (self.log_start + i, self.log[i])

    def configuration_at(self, index):
        """The configuration that belongs in log[0] if the log is cut at ``index``."""
        i = index - self.log_start
        while self.log[i].kind != "configuration":
            i -= 1
        return LogEntry(self.at(index).term, None, "configuration", self.log[i].members, self.log[i].old_members)

    # --- the service ---

    def get_state(self) -> Tuple[int, bool]:  # noqa: UP006
        self.lock()
        try:
            return self.current_term, self.state is State.LEADER
        finally:
            self.unlock()

    def start(self, command):
        self.lock()
        try:
            if self.state is not State.LEADER:
                return -1, self.current_term, False
            term = self.current_term
            if self.handing_over:
                return -1, term, True
            return self.append(LogEntry(term, command)), term, True
        finally:
            self.unlock()

    def snapshot(self, index, data):
        self.lock()
        try:
            if index <= self.log_start or index > self.commit_index:
                return
            self.log = [self.configuration_at(index), *self.log[index - self.log_start + 1 :]]
            self.log_start = index
            self.persist(data)
        finally:
            self.unlock()

    def applier(self):
        while True:
            self.lock()
            try:
                msgs = []
                if self.pending_snapshot is not None:
                    if self.log_start > self.last_applied:
                        msgs.append(
                            ApplyMsg(self.log_start, self.log[0].term, kind="snapshot", snapshot=self.pending_snapshot)
                        )
                        self.last_applied = self.log_start
                    self.pending_snapshot = None
                for index in range(self.last_applied + 1, self.commit_index + 1):
                    entry = self.at(index)
                    if entry.kind == "configuration":
                        voters = frozenset(entry.voters())
                        msgs.append(ApplyMsg(index, entry.term, kind="configuration", members=voters))
                    else:
                        msgs.append(ApplyMsg(index, entry.term, entry.command))
                self.last_applied = max(self.last_applied, self.commit_index)
            finally:
                self.unlock()
            for msg in msgs:
                self.apply_ch.put(msg)
            if not msgs:
                time.sleep(APPLY_MS / 1000)

    # --- membership ---

    def change_membership(self, members):
        self.lock()
        try:
            term = self.current_term
            if self.state is not State.LEADER:
                return self.leader, term, False
            index, conf = self.conf
            if index > self.commit_index or conf.old_members or self.learners is not None or self.handing_over:
                return -1, term, True
            if not members or not members <= set(range(len(self.peers))) or self.at(self.commit_index).term != term:
                return -1, term, True
            learners = self.learners = members - conf.voters()
            for server in learners:
                self.farewells.pop(server, None)
                self.next_index[server] = self.last_index() + 1
                self.match_index[server] = 0
            target = self.last_index()
        finally:
            self.unlock()
        for _ in range(LEARN_MS // TICK_MS):
            self.lock()
            try:
                if self.state is not State.LEADER or self.current_term != term:
                    return (NOBODY if self.leader == self.me else self.leader), self.current_term, False
                if all(self.match_index[server] >= target for server in learners):
                    self.learners = None
                    if self.handing_over:
                        return -1, term, True
                    # Adding or removing one server is one step.
                    old = conf.members if len(members ^ set(conf.members)) > 1 else None
                    return self.append(LogEntry(term, None, "configuration", sorted(members), old)), term, True
            finally:
                self.unlock()
            time.sleep(TICK_MS / 1000)
        self.lock()
        try:
            if self.state is not State.LEADER or self.current_term != term:
                return (NOBODY if self.leader == self.me else self.leader), self.current_term, False
            self.learners = None
            return -1, term, True
        finally:
            self.unlock()

    def next_step(self):
        """Take the next step of a membership change, if the latest configuration is committed. The leader polls this."""
        index, conf = self.conf
        if index > self.commit_index:
            return
        if conf.old_members:
            self.append(LogEntry(self.current_term, None, "configuration", conf.members))
        elif self.me not in conf.members:
            self.become_follower(self.current_term)

    def audience(self):
        """The servers that a leader sends to: voters, learners, and servers that were removed lately."""
        _, conf = self.conf
        gone = self.conf_before[1].voters() - conf.voters()
        if self.conf[0] > self.commit_index:
            for server in gone:
                self.farewells[server] = FAREWELLS
        servers = conf.voters() | (self.learners or set()) | set(self.farewells)
        for server in servers:
            self.next_index.setdefault(server, self.last_index() + 1)
            self.match_index.setdefault(server, 0)
        return sorted(servers - {self.me})

    # --- handing over ---

    def transfer_leadership(self, target):
        self.lock()
        try:
            if self.state is not State.LEADER:
                return self.leader, self.current_term, False
            conf = self.conf[1]
            votes = target in conf.members and (not conf.old_members or target in conf.old_members)
            if target == self.me or not votes or self.handing_over:
                return NOBODY, self.current_term, True
            self.transfers += 1
            self.handing_over = self.transfers
            go(self.hand_over, target, self.current_term, self.transfers)
            return target, self.current_term, True
        finally:
            self.unlock()

    def hand_over(self, target, term, number):
        until = time.monotonic() + HAND_OVER_MS / 1000
        told = False
        while True:
            self.lock()
            try:
                if self.current_term != term or self.state is not State.LEADER or self.handing_over != number:
                    return
                if time.monotonic() >= until:
                    self.handing_over = 0
                    return
                if not told and self.match_index.get(target, 0) == self.last_index():
                    told = True
                    go(self.tell, target, TimeoutNowArgs(term, self.me))
            finally:
                self.unlock()
            time.sleep(APPLY_MS / 1000)

    def tell(self, target, args):
        reply = self.peers[target].call("timeout_now", args)
        if reply is None:
            return
        self.lock()
        try:
            if reply.term > self.current_term:
                self.become_follower(reply.term)
        finally:
            self.unlock()

    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        self.lock()
        try:
            if args.term > self.current_term and self.me in self.conf[1].voters():
                self.become_follower(args.term)
            if args.term == self.current_term and self.state is not State.LEADER and self.me in self.conf[1].voters():
                self.start_election(True)
            return TimeoutNowReply(self.current_term)
        finally:
            self.unlock()

    # --- elections ---

    def reset_timer(self):
        self.last_heard = time.monotonic()
        self.timeout = random.randint(*ELECTION_MS) / 1000

    def become_follower(self, term):
        if term > self.current_term:
            self.current_term = term
            self.voted_for = NOBODY
            self.persist()
        if self.state is State.LEADER:
            self.reset_timer()
            self.learners = None
            self.handing_over = 0
        self.state = State.FOLLOWER
        self.leader = NOBODY
        self.questions += 1

    def hear(self, args):
        self.become_follower(args.term)
        self.leader = args.leader_id
        self.leader_heard = time.monotonic()
        self.reset_timer()

    def hears_leader(self, asker):
        if self.state is State.LEADER:
            return True
        return asker != self.leader and time.monotonic() - self.leader_heard < ELECTION_MS[0] / 1000

    def up_to_date(self, args):
        return args.last_log_term > self.log[-1].term or (
            args.last_log_term == self.log[-1].term and args.last_log_index >= self.last_index()
        )

    def ticker(self):
        while True:
            time.sleep(TICK_MS / 1000)
            self.lock()
            try:
                silent = time.monotonic() - self.last_heard
                if self.state is State.LEADER:
                    self.next_step()
                elif silent >= self.timeout:
                    self.ask_around()
            finally:
                self.unlock()

    def ask_around(self):
        self.reset_timer()
        self.leader = NOBODY
        self.leader_heard = -ELECTION_MS[1]
        self.questions += 1
        index, conf = self.conf
        if self.me in conf.voters() or (index > self.commit_index and self.me in self.conf_before[1].voters()):
            if UPTO < "2F":
                self.start_election()
                return
            yes = {self.me}
            term = self.current_term + 1
            args = RequestVoteArgs(term, self.me, self.last_index(), self.log[-1].term)
            for server in conf.voters():
                if server != self.me:
                    go(self.collect_pre_vote, server, args, self.questions, yes)
            if conf.majority(yes):
                self.start_election()

    def collect_pre_vote(self, server, args, question, yes):
        reply = self.peers[server].call("pre_vote", args)
        if reply is None:
            return
        self.lock()
        try:
            if reply.vote_granted:
                if self.questions == question:
                    yes.add(server)
                    if self.conf[1].majority(yes):
                        self.start_election()
            elif reply.term > self.current_term:
                self.become_follower(reply.term)
        finally:
            self.unlock()

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        self.lock()
        try:
            granted = (
                not self.hears_leader(args.candidate_id)
                and self.up_to_date(args)
                and (
                    args.term > self.current_term
                    or (args.term == self.current_term and self.voted_for in (NOBODY, args.candidate_id))
                )
            )
            return RequestVoteReply(self.current_term, granted)
        finally:
            self.unlock()

    def start_election(self, told=False):
        self.state = State.CANDIDATE
        self.questions += 1
        self.current_term += 1
        self.voted_for = self.me
        self.persist()
        self.reset_timer()
        self.dprintf("starts an election")
        votes = {self.me}
        args = RequestVoteArgs(self.current_term, self.me, self.last_index(), self.log[-1].term, told)
        for server in self.conf[1].voters():
            if server != self.me:
                go(self.collect_vote, server, args, votes)
        self.count(votes)

    def collect_vote(self, server, args, votes):
        reply = self.peers[server].call("request_vote", args)
        if reply is None:
            return
        self.lock()
        try:
            if reply.term > self.current_term:
                self.become_follower(reply.term)
                return
            if self.current_term != args.term or self.state is not State.CANDIDATE:
                return
            if reply.vote_granted:
                votes.add(server)
                self.count(votes)
        finally:
            self.unlock()

    def count(self, votes):
        if not self.conf[1].majority(votes):
            return
        self.state = State.LEADER
        self.leader = self.me
        self.questions += 1
        self.dprintf("leads")
        self.next_index = {}
        self.match_index = {}
        self.snapshot_sent = {}
        self.farewells = {}
        self.answered = set()
        self.strikes = 0
        go(self.heartbeats, self.current_term)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        self.lock()
        try:
            if args.term < self.current_term:
                return RequestVoteReply(self.current_term, False)
            if args.term > self.current_term:
                if UPTO >= "2E" and not args.leadership_transfer and self.hears_leader(args.candidate_id):
                    return RequestVoteReply(self.current_term, False)
                self.become_follower(args.term)
            if self.voted_for not in (NOBODY, args.candidate_id) or not self.up_to_date(args):
                return RequestVoteReply(self.current_term, False)
            self.voted_for = args.candidate_id
            self.persist()
            self.reset_timer()
            return RequestVoteReply(self.current_term, True)
        finally:
            self.unlock()

    # --- replication ---

    def heartbeats(self, term):
        while True:
            self.lock()
            try:
                if self.current_term != term or self.state is not State.LEADER:
                    return
                self.strikes = 0 if self.conf[1].majority(self.answered | {self.me}) else self.strikes + 1
                self.answered = set()
                if UPTO >= "2F" and self.strikes >= STRIKES:
                    self.dprintf("is answered by too few")
                    self.become_follower(term)
                    return
                self.broadcast()
                self.farewells = {server: left - 1 for server, left in self.farewells.items() if left > 1}
            finally:
                self.unlock()
            time.sleep(HEARTBEAT_MS / 1000)

    def broadcast(self):
        for server in self.audience():
            prev = self.next_index[server] - 1
            if prev < self.log_start:
                self.offer_snapshot(server)
                # Meanwhile, send a heartbeat. Its only purpose is to keep the follower from standing, and it may be refused.
                args = AppendEntriesArgs(
                    self.current_term, self.me, self.log_start, self.log[0].term, [], self.commit_index
                )
            else:
                args = AppendEntriesArgs(
                    term=self.current_term,
                    leader_id=self.me,
                    prev_log_index=prev,
                    prev_log_term=self.at(prev).term,
                    entries=self.log[prev + 1 - self.log_start :],
                    leader_commit=self.commit_index,
                )
            go(self.send_append_entries, server, args)

    def send_append_entries(self, server, args):
        reply = self.peers[server].call("append_entries", args)
        if reply is None:
            return
        self.lock()
        try:
            if reply.term > self.current_term:
                self.become_follower(reply.term)
                return
            if self.current_term != args.term or self.state is not State.LEADER:
                return
            self.answered.add(server)
            if reply.success:
                self.match_index[server] = max(self.match_index[server], args.prev_log_index + len(args.entries))
                self.next_index[server] = max(self.next_index[server], self.match_index[server] + 1)
                self.advance_commit()
            elif args.prev_log_index == self.next_index[server] - 1:
                self.back_up(server, args, reply)
        finally:
            self.unlock()

    def back_up(self, server, args, reply):
        next_index = args.prev_log_index
        if reply.x_len >= 0:
            next_index = min(next_index, reply.x_len + 1)
        elif reply.x_term >= 0:
            next_index = min(next_index, reply.x_index)
            for index in range(args.prev_log_index - 1, self.log_start, -1):
                if self.at(index).term == reply.x_term:
                    next_index = index + 1
                    break
                if self.at(index).term < reply.x_term:
                    break
        self.next_index[server] = max(next_index, self.match_index[server] + 1, 1)

    def advance_commit(self):
        for index in range(self.last_index(), self.commit_index, -1):
            if self.at(index).term != self.current_term:
                break
            copies = {server for server, match in self.match_index.items() if match >= index}
            if self.conf[1].majority(copies | {self.me}):
                self.commit_index = index
                break

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        self.lock()
        try:
            if args.term < self.current_term:
                return AppendEntriesReply(self.current_term, False)
            self.hear(args)

            prev, entries = args.prev_log_index, args.entries
            if prev > self.last_index():
                return AppendEntriesReply(self.current_term, False, x_len=self.last_index())
            if prev < self.log_start:
                # Our snapshot covers some of these entries, so skip them.
                entries = entries[self.log_start - prev :]
                prev = self.log_start
            elif self.at(prev).term != args.prev_log_term:
                x_term = self.at(prev).term
                x_index = prev
                while x_index - 1 > self.log_start and self.at(x_index - 1).term == x_term:
                    x_index -= 1
                return AppendEntriesReply(self.current_term, False, x_term=x_term, x_index=x_index)

            for i, entry in enumerate(entries):
                index = prev + 1 + i
                if index > self.last_index() or self.at(index).term != entry.term:
                    self.log = self.log[: index - self.log_start] + entries[i:]
                    self.look_for_configurations(index - self.log_start)
                    self.persist()
                    break

            last_new = args.prev_log_index + len(args.entries)
            if min(args.leader_commit, last_new) > self.commit_index:
                self.commit_index = min(args.leader_commit, last_new)
            return AppendEntriesReply(self.current_term, True)
        finally:
            self.unlock()

    # --- snapshots ---

    def offer_snapshot(self, server):
        now = time.monotonic()
        sent = self.snapshot_sent.get(server)
        if sent is not None and now - sent[0] < STUCK_MS / 1000:
            return
        sender = [now]
        self.snapshot_sent[server] = sender
        snapshot = self.persister.snapshot()
        go(self.send_snapshot, server, sender, self.current_term, self.log_start, self.log[0], snapshot)

    def send_snapshot(self, server, sender, term, index, first, snapshot):
        offset = 0
        while True:
            data = snapshot[offset : offset + CHUNK]
            done = offset + len(data) == len(snapshot)
            conf = first.members, first.old_members
            args = InstallSnapshotArgs(term, self.me, index, first.term, offset, data, done, *conf)
            reply = self.peers[server].call("install_snapshot", args)
            self.lock()
            try:
                if reply is not None and reply.term > self.current_term:
                    self.become_follower(reply.term)
                if self.current_term != term or self.state is not State.LEADER:
                    return
                if self.snapshot_sent.get(server) is not sender:
                    return
                if reply is None:
                    continue  # send the same chunk again
                self.answered.add(server)
                sender[0] = time.monotonic()
                if not done:
                    offset += len(data)
                    continue
                del self.snapshot_sent[server]
                if reply.installed is not False:
                    self.match_index[server] = max(self.match_index[server], index)
                    self.next_index[server] = max(self.next_index[server], self.match_index[server] + 1)
                return
            finally:
                self.unlock()

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        self.lock()
        try:
            if args.term < self.current_term:
                return InstallSnapshotReply(self.current_term)
            self.hear(args)
            if args.last_included_index <= self.commit_index:
                return InstallSnapshotReply(self.current_term, True)

            this = (args.term, args.last_included_index)
            if self.incoming_id != this:
                if args.offset > 0:
                    return InstallSnapshotReply(self.current_term, False)
                self.incoming_id = this
                self.incoming = b""
            # A chunk that has arrived before is written again. A chunk after a gap is dropped.
            if args.offset > len(self.incoming):
                return InstallSnapshotReply(self.current_term, False)
            if args.offset == len(self.incoming):
                self.incoming += args.data
            if not args.done or args.offset + len(args.data) != len(self.incoming):
                return InstallSnapshotReply(self.current_term, False)

            index = args.last_included_index
            if index <= self.last_index() and self.at(index).term == args.last_included_term:
                self.log = [self.configuration_at(index), *self.log[index - self.log_start + 1 :]]
                self.log_start = index
            else:
                who = args if args.members else self.log[0]
                first = LogEntry(args.last_included_term, None, "configuration", who.members, who.old_members)
                self.log = [first]
                self.log_start = index
                self.conf = self.conf_before = (index, first)
            self.commit_index = index
            self.persist(self.incoming)
            self.pending_snapshot = self.incoming
            self.incoming = b""
            self.incoming_id = (0, 0)
            return InstallSnapshotReply(self.current_term, True)
        finally:
            self.unlock()
