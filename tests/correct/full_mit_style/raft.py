"""A Go solution of labs 2A to 2D, ported: a mutex, a ticker that polls, a "goroutine" for each RPC, an applier with a
condition variable. Everything from next_index on goes out with each start() and each heartbeat; a refused leader waits
for the next heartbeat; long election timeouts; nobody is -1; the log begins with the last entry of the snapshot."""

import enum
import pickle
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any, List, Optional, Tuple  # noqa: UP035

from raftlab.api import ApplyMsg

DEBUG = False
NOBODY = -1
TICK_MS = 30
HEARTBEAT_MS = 100
ELECTION_MS = (600, 1200)
CHUNK = 4096
# A snapshot's sender of whom nothing was heard for so long is given up, and another begins.
STUCK_MS = 800


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


@dataclass(frozen=True, slots=True)
class RequestVoteReply:
    term: int
    vote_granted: bool


@dataclass(frozen=True, slots=True)
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: List[LogEntry] = field(default_factory=list)  # noqa: UP006
    leader_commit: int = 0


@dataclass(frozen=True, slots=True)
class AppendEntriesReply:
    term: int
    success: bool
    x_term: int = -1  # of the conflicting entry, if there is one
    x_index: int = -1  # of the first entry of that term
    x_len: int = -1  # the log's length, where the log is too short


@dataclass(frozen=True, slots=True)
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool


@dataclass(frozen=True, slots=True)
class InstallSnapshotReply:
    term: int
    installed: Optional[bool] = None  # noqa: UP045


def go(func, *args):
    threading.Thread(target=func, args=args, daemon=True).start()


class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.mu = threading.Lock()
        self.apply_cond = threading.Condition(self.mu)
        self.peers = peers
        self.persister = persister
        self.me = me
        self.dead = None
        self.apply_ch = apply_ch
        self.members = members

        self.current_term = 0
        self.voted_for = NOBODY
        self.log = [LogEntry(0)]  # log[0] stands for the snapshot
        self.log_start = 0
        self.state = State.FOLLOWER
        self.commit_index = 0
        self.last_applied = 0
        self.next_index = {}
        self.match_index = {}
        self.snapshot_sent = {}  # server -> when its sender heard of it last, and which sender that is

        self.pending_snapshot = None
        self.incoming = b""
        self.incoming_id = (0, 0)

        self.read_persist()
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
        log = [(entry.term, entry.command) for entry in self.log]
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
        self.log = [LogEntry(term, command) for term, command in log]
        if self.log_start > 0:
            self.pending_snapshot = self.persister.snapshot()
            self.commit_index = self.log_start

    # --- the log ---

    def last_index(self):
        return self.log_start + len(self.log) - 1

    def at(self, index):
        return self.log[index - self.log_start]

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
            self.log.append(LogEntry(self.current_term, command))
            self.persist()
            self.advance_commit()
            self.broadcast()
            return self.last_index(), self.current_term, True
        finally:
            self.unlock()

    def snapshot(self, index, data):
        self.lock()
        try:
            if index <= self.log_start or index > self.commit_index:
                return
            self.log = [LogEntry(self.at(index).term), *self.log[index - self.log_start + 1 :]]
            self.log_start = index
            self.persist(data)
        finally:
            self.unlock()

    def applier(self):
        while True:
            self.lock()
            try:
                while self.pending_snapshot is None and self.last_applied >= self.commit_index:
                    self.apply_cond.wait()
                msgs = []
                if self.pending_snapshot is not None:
                    if self.log_start > self.last_applied:
                        msgs.append(
                            ApplyMsg(self.log_start, self.log[0].term, kind="snapshot", snapshot=self.pending_snapshot)
                        )
                        self.last_applied = self.log_start
                    self.pending_snapshot = None
                for index in range(self.last_applied + 1, self.commit_index + 1):
                    msgs.append(ApplyMsg(index, self.at(index).term, self.at(index).command))
                self.last_applied = max(self.last_applied, self.commit_index)
            finally:
                self.unlock()
            for msg in msgs:
                self.apply_ch.put(msg)

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
        self.state = State.FOLLOWER

    def ticker(self):
        while True:
            time.sleep(TICK_MS / 1000)
            self.lock()
            try:
                silent = time.monotonic() - self.last_heard
                if self.state is not State.LEADER and silent >= self.timeout:
                    self.start_election()
            finally:
                self.unlock()

    def start_election(self):
        self.state = State.CANDIDATE
        self.current_term += 1
        self.voted_for = self.me
        self.persist()
        self.reset_timer()
        self.dprintf("starts an election")
        votes = {self.me}
        args = RequestVoteArgs(self.current_term, self.me, self.last_index(), self.log[-1].term)
        for server in self.members:
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
        if len(votes) <= len(self.members) // 2:
            return
        self.state = State.LEADER
        self.dprintf("leads")
        for server in self.members:
            self.next_index[server] = self.last_index() + 1
            self.match_index[server] = 0
        self.snapshot_sent = {}
        go(self.heartbeats, self.current_term)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        self.lock()
        try:
            if args.term < self.current_term:
                return RequestVoteReply(self.current_term, False)
            if args.term > self.current_term:
                self.become_follower(args.term)
            up_to_date = args.last_log_term > self.log[-1].term or (
                args.last_log_term == self.log[-1].term and args.last_log_index >= self.last_index()
            )
            if self.voted_for not in (NOBODY, args.candidate_id) or not up_to_date:
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
                self.broadcast()
            finally:
                self.unlock()
            time.sleep(HEARTBEAT_MS / 1000)

    def broadcast(self):
        for server in self.members:
            if server == self.me:
                continue
            prev = self.next_index[server] - 1
            if prev < self.log_start:
                self.offer_snapshot(server)
                # Meanwhile a heartbeat, which proves nothing and may be refused.
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
            copies = 1
            for server in self.members:
                if server != self.me and self.match_index[server] >= index:
                    copies += 1
            if copies > len(self.members) // 2:
                self.commit_index = index
                self.apply_cond.notify_all()
                break

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        self.lock()
        try:
            if args.term < self.current_term:
                return AppendEntriesReply(self.current_term, False)
            self.become_follower(args.term)
            self.reset_timer()

            prev, entries = args.prev_log_index, args.entries
            if prev > self.last_index():
                return AppendEntriesReply(self.current_term, False, x_len=self.last_index())
            if prev < self.log_start:
                # Part of this is in our snapshot already.
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
                    self.persist()
                    break

            last_new = args.prev_log_index + len(args.entries)
            if min(args.leader_commit, last_new) > self.commit_index:
                self.commit_index = min(args.leader_commit, last_new)
                self.apply_cond.notify_all()
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
        go(self.send_snapshot, server, sender, self.current_term, self.log_start, self.log[0].term, snapshot)

    def send_snapshot(self, server, sender, term, index, index_term, snapshot):
        offset = 0
        while True:
            data = snapshot[offset : offset + CHUNK]
            done = offset + len(data) == len(snapshot)
            args = InstallSnapshotArgs(term, self.me, index, index_term, offset, data, done)
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
                    continue  # the same chunk again
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
            self.become_follower(args.term)
            self.reset_timer()
            if args.last_included_index <= self.commit_index:
                return InstallSnapshotReply(self.current_term, True)

            this = (args.term, args.last_included_index)
            if self.incoming_id != this:
                if args.offset > 0:
                    return InstallSnapshotReply(self.current_term, False)
                self.incoming_id = this
                self.incoming = b""
            # A chunk that has come before is written over itself; one behind a gap is not taken.
            if args.offset > len(self.incoming):
                return InstallSnapshotReply(self.current_term, False)
            if args.offset == len(self.incoming):
                self.incoming += args.data
            if not args.done or args.offset + len(args.data) != len(self.incoming):
                return InstallSnapshotReply(self.current_term, False)

            index = args.last_included_index
            if index <= self.last_index() and self.at(index).term == args.last_included_term:
                rest = self.log[index - self.log_start + 1 :]
            else:
                rest = []
            self.log = [LogEntry(args.last_included_term), *rest]
            self.log_start = index
            self.commit_index = index
            self.persist(self.incoming)
            self.pending_snapshot = self.incoming
            self.incoming = b""
            self.incoming_id = (0, 0)
            self.apply_cond.notify_all()
            return InstallSnapshotReply(self.current_term, True)
        finally:
            self.unlock()
