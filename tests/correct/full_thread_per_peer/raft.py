"""Thread per peer, labs 2A to 2D: a replicator for each, which lives as long as the server, and heartbeats from a thread
of their own. Small batches, several on their way at once (a leader probes first, then streams); empty heartbeats, which
also tell the commit; InstallSnapshot exactly as in Figure 13, so only AppendEntries proves anything; json."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, Status, log

HEARTBEAT = 0.1
TIMEOUT = (0.4, 0.8)
BATCH = 3
WINDOW = 8
# Seconds without an answer after which a replicator starts over from what is proved.
PATIENCE = 0.25
CHUNK = 4096


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
    # The first index worth trying next; 0: not told.
    try_index: int = 0


@dataclass
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool


@dataclass
class InstallSnapshotReply:
    term: int


class Log:
    """Entries by index, the first ones of which a snapshot may have replaced."""

    def __init__(self, base: int, base_term: int, entries: list[LogEntry]) -> None:
        self.base = base
        self.base_term = base_term
        self.entries = entries

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def term(self, index: int) -> int | None:
        """None where nothing is known."""
        if index == self.base:
            return self.base_term
        return self.entries[index - self.base - 1].term if self.base < index <= self.last else None

    def slice(self, first: int, end: int) -> list[LogEntry]:
        return self.entries[first - self.base - 1 : end - self.base - 1]

    def compact(self, index: int, term: int) -> None:
        self.entries = self.entries[index - self.base :] if self.term(index) == term else []
        self.base, self.base_term = index, term


@dataclass
class Progress:
    """How far a leader is with one server."""

    next_index: int
    match_index: int = 0
    streaming: bool = False  # else probing: one message at a time, until one is taken
    window: int = 1
    on_the_way: int = 0
    heard: float = 0.0
    # Grows when the replicator starts over. Answers to what was sent before do not count as arrivals then.
    attempt: int = 0
    # The snapshot on its way (index, term, bytes) and how much of it has been answered.
    sending: tuple[int, int, bytes] | None = None
    offset: int = 0


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
        self.persister = persister
        self.apply_ch = apply_ch
        self.others = sorted(members - {me})
        self.majority = len(members) // 2 + 1
        self.cond = threading.Condition(threading.Lock())
        self.disk_error: OSError | None = None

        self.term = 0
        self.voted_for: int | None = None
        self.log = Log(0, 0, [])
        self._load()
        self.commit_index = self.log.base
        self.last_applied = 0
        self.role = "follower"
        self.votes: set[int] = set()
        self.progress: dict[int, Progress] = {}
        self.chunks: dict[int, bytes] = {}  # of the snapshot coming in, by offset
        self.chunks_of = (0, 0)  # leader's term, last included index
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)

        threading.Thread(target=self._elections, name="elections", daemon=True).start()
        threading.Thread(target=self._heartbeats, name="heartbeats", daemon=True).start()
        threading.Thread(target=self._applier, name="applier", daemon=True).start()
        for peer in self.others:
            threading.Thread(target=self._replicator, args=(peer,), name=f"replicator of S{peer}", daemon=True).start()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """The lock. Once the disk has failed nobody gets any further: memory and disk are no longer the same."""
        with self.cond:
            if self.disk_error is not None:
                raise self.disk_error
            yield

    # --- storage ---

    def _save(self, snapshot: bytes | None = None) -> None:
        state = {
            "term": self.term,
            "vote": self.voted_for,
            "base": [self.log.base, self.log.base_term],
            "log": [[entry.term, entry.command] for entry in self.log.entries],
        }
        try:
            self.persister.save(json.dumps(state, separators=(",", ":")).encode(), snapshot)
        except OSError as error:
            self.disk_error = error
            raise

    def _load(self) -> None:
        if self.persister.state():
            state = json.loads(self.persister.state())
            self.term, self.voted_for = state["term"], state["vote"]
            self.log = Log(*state["base"], [LogEntry(*pair) for pair in state["log"]])

    # --- service ---

    def get_state(self) -> tuple[int, bool]:
        with self._locked():
            return self.term, self.role == "leader"

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self._locked():
            if self.role != "leader":
                return -1, self.term, False
            self.log.entries.append(LogEntry(self.term, command))
            self._save()
            self._count_copies()
            self.cond.notify_all()
            return self.log.last, self.term, True

    def snapshot(self, index: int, data: bytes) -> None:
        with self._locked():
            term = self.log.term(index)
            if self.log.base < index <= self.commit_index and term is not None:
                self.log.compact(index, term)
                self._save(data)

    def status(self) -> Status:
        bounds = self.log.base + 1, self.log.last
        return Status(self.term, self.voted_for, self.role, self.commit_index, self.last_applied, *bounds)

    def _applier(self) -> None:
        while True:
            messages = []
            with self._locked():
                while self.last_applied >= self.commit_index:
                    self.cond.wait()
                if self.last_applied < self.log.base:
                    # What the service lacks is no longer in the log: it was restarted, or a snapshot was installed.
                    self.last_applied = self.log.base
                    snapshot = self.persister.snapshot()
                    messages.append(ApplyMsg(self.log.base, self.log.base_term, kind="snapshot", snapshot=snapshot))
                for entry in self.log.slice(self.last_applied + 1, self.commit_index + 1):
                    self.last_applied += 1
                    messages.append(ApplyMsg(self.last_applied, entry.term, entry.command))
            for message in messages:
                self.apply_ch.put(message)

    # --- elections ---

    def _restart_timer(self) -> None:
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)

    def _see(self, term: int) -> None:
        if term > self.term:
            self.term, self.voted_for = term, None
            self._save()
            self._follow()

    def _follow(self) -> None:
        if self.role == "leader":
            self._restart_timer()
        self.role = "follower"
        self.cond.notify_all()

    def _elections(self) -> None:
        while True:
            with self._locked():
                left = self.deadline - time.monotonic()
                if self.role == "leader":
                    self.cond.wait()
                elif left > 0:
                    self.cond.wait(left)
                else:
                    self._stand()

    def _stand(self) -> None:
        self.role = "candidate"
        self.term += 1
        self.voted_for = self.me
        self._save()
        self.votes = {self.me}
        self._restart_timer()
        log("election", f"stands in term {self.term}")
        args = RequestVoteArgs(self.term, self.me, self.log.last, self.log.term(self.log.last) or 0)
        for peer in self.others:
            threading.Thread(target=self._ask, args=(peer, args), daemon=True).start()
        self._count_votes()

    def _ask(self, peer: int, args: RequestVoteArgs) -> None:
        reply = self.peers[peer].call("request_vote", args)
        if reply is None:
            return
        with self._locked():
            self._see(reply.term)
            if reply.vote_granted and self.role == "candidate" and self.term == args.term:
                self.votes.add(peer)
                self._count_votes()

    def _count_votes(self) -> None:
        if len(self.votes) >= self.majority:
            self.role = "leader"
            now = time.monotonic()
            self.progress = {peer: Progress(self.log.last + 1, heard=now) for peer in self.others}
            self.cond.notify_all()

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._locked():
            self._see(args.term)
            mine = (self.log.term(self.log.last) or 0, self.log.last)
            granted = (
                args.term == self.term
                and self.voted_for in (None, args.candidate_id)
                and (args.last_log_term, args.last_log_index) >= mine
            )
            if granted:
                if self.voted_for is None:
                    self.voted_for = args.candidate_id
                    self._save()
                self._restart_timer()
            return RequestVoteReply(self.term, granted)

    # --- heartbeats: they never wait for entries, and entries never for them ---

    def _heartbeats(self) -> None:
        while True:
            with self._locked():
                while self.role != "leader":
                    self.cond.wait()
                for peer, progress in self.progress.items():
                    # Behind the last entry that is proved, so that the commit may go as far; or before all of them.
                    prev = progress.match_index
                    prev_term = self.log.term(prev)
                    if prev_term is None:
                        prev, prev_term = 0, 0
                    args = AppendEntriesArgs(self.term, self.me, prev, prev_term, [], self.commit_index)
                    threading.Thread(target=self._beat, args=(peer, args), daemon=True).start()
            time.sleep(HEARTBEAT)

    def _beat(self, peer: int, args: AppendEntriesArgs) -> None:
        reply = self.peers[peer].call("append_entries", args)
        if reply is not None:
            with self._locked():
                self._see(reply.term)

    # --- replication, the leader's side ---

    def _replicator(self, peer: int) -> None:
        """Looks after one server, in every term in which we lead."""
        while True:
            with self._locked():
                if self.role != "leader":
                    self.cond.wait()
                    continue
                progress = self.progress[peer]
                now = time.monotonic()
                if progress.on_the_way and now >= progress.heard + PATIENCE:
                    self._start_over(progress, progress.match_index + 1 if progress.streaming else progress.next_index)
                job = self._next_job(progress)
                if job is None:
                    waits = max(0.001, progress.heard + PATIENCE - now) if progress.on_the_way else None
                    self.cond.wait(waits)
                    continue
                if not progress.on_the_way:
                    progress.heard = now
                progress.on_the_way += 1
                work = (peer, progress, progress.attempt, *job)
            # A call may hang for seconds: the replicator goes on, only the call waits.
            threading.Thread(target=self._carry, args=work, daemon=True).start()

    def _start_over(self, progress: Progress, next_index: int) -> None:
        progress.next_index = max(next_index, progress.match_index + 1)
        progress.streaming = False
        progress.window = 1
        progress.on_the_way = 0
        progress.attempt += 1

    def _next_job(self, progress: Progress) -> tuple[str, Any] | None:
        """The next message, and what it is; None when it is time to wait."""
        if progress.on_the_way >= (progress.window if progress.streaming else 1):
            return None
        if progress.sending is not None or progress.next_index <= self.log.base:
            return "install_snapshot", self._chunk(progress)
        if progress.streaming and progress.next_index > self.log.last:
            return None
        prev = progress.next_index - 1
        args = AppendEntriesArgs(
            term=self.term,
            leader_id=self.me,
            prev_log_index=prev,
            prev_log_term=self.log.term(prev) or 0,
            entries=self.log.slice(prev + 1, prev + 1 + BATCH),
            leader_commit=self.commit_index,
        )
        if progress.streaming:
            progress.next_index += len(args.entries)
        return "append_entries", args

    def _chunk(self, progress: Progress) -> InstallSnapshotArgs:
        if progress.sending is None:
            progress.sending = (self.log.base, self.log.base_term, self.persister.snapshot())
            progress.offset = 0
            progress.streaming = False
        index, term, data = progress.sending
        part = data[progress.offset : progress.offset + CHUNK]
        done = progress.offset + len(part) == len(data)
        return InstallSnapshotArgs(self.term, self.me, index, term, progress.offset, part, done)

    def _carry(self, peer: int, progress: Progress, attempt: int, method: str, args: Any) -> None:
        reply = self.peers[peer].call(method, args)
        with self._locked():
            current = attempt == progress.attempt
            if current:
                progress.on_the_way -= 1
                progress.heard = time.monotonic()
            self.cond.notify_all()
            if reply is not None:
                self._see(reply.term)
            if self.role != "leader" or self.term != args.term:
                return
            if reply is None:
                if current and method == "append_entries":
                    self._start_over(progress, min(progress.next_index, args.prev_log_index + 1))
            elif method == "append_entries":
                self._appended(progress, current, args, reply)
            elif current and progress.sending is not None:
                self._chunk_arrived(progress, args)

    def _appended(self, progress: Progress, current: bool, args: AppendEntriesArgs, reply: AppendEntriesReply) -> None:
        if reply.success:
            upto = args.prev_log_index + len(args.entries)
            progress.match_index = max(progress.match_index, upto)
            progress.next_index = max(progress.next_index, progress.match_index + 1)
            if current and progress.sending is None:
                progress.window = min(WINDOW, progress.window + 1) if progress.streaming else 2
                progress.streaming = True
            self._count_copies()
        elif current and progress.sending is None:
            # Overtaken by the one before it, or really not ours: probe again, never behind what is proved.
            back = min(args.prev_log_index, reply.try_index or args.prev_log_index)
            self._start_over(progress, back)

    def _chunk_arrived(self, progress: Progress, args: InstallSnapshotArgs) -> None:
        """Somebody has taken a chunk. That the snapshot is whole over there, the next AppendEntries shows."""
        progress.offset = args.offset + len(args.data)
        if args.done:
            progress.sending = None
            self._start_over(progress, args.last_included_index + 1)

    def _count_copies(self) -> None:
        copies = sorted([self.log.last, *(progress.match_index for progress in self.progress.values())], reverse=True)
        index = copies[self.majority - 1]
        if index > self.commit_index and self.log.term(index) == self.term:
            self.commit_index = index
            self.cond.notify_all()

    # --- replication, the follower's side ---

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self._locked():
            self._see(args.term)
            if args.term < self.term:
                return AppendEntriesReply(self.term, False)
            self._follow()
            self._restart_timer()
            prev = args.prev_log_index
            if prev > self.log.last:
                return AppendEntriesReply(self.term, False, self.log.last + 1)
            if prev >= self.log.base and self.log.term(prev) != args.prev_log_term:
                return AppendEntriesReply(self.term, False, self._first_of_term(prev))
            if self._take(prev, args.entries):
                self._save()
            upto = min(args.leader_commit, prev + len(args.entries))
            if upto > self.commit_index:
                self.commit_index = upto
                self.cond.notify_all()
            return AppendEntriesReply(self.term, True)

    def _first_of_term(self, index: int) -> int:
        term = self.log.term(index)
        while index - 1 > self.log.base and self.log.term(index - 1) == term:
            index -= 1
        return index

    def _take(self, prev: int, entries: list[LogEntry]) -> bool:
        """Store what is new. Whether anything was."""
        for number, entry in enumerate(entries):
            index = prev + 1 + number
            if index > self.log.base and self.log.term(index) != entry.term:
                self.log.entries[index - self.log.base - 1 :] = entries[number:]
                return True
        return False

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        with self._locked():
            self._see(args.term)
            if args.term < self.term:
                return InstallSnapshotReply(self.term)
            self._follow()
            self._restart_timer()
            if args.last_included_index > self.commit_index:
                self._collect(args)
            return InstallSnapshotReply(self.term)

    def _collect(self, args: InstallSnapshotArgs) -> None:
        this = (args.term, args.last_included_index)
        if this < self.chunks_of:
            return
        if this > self.chunks_of:
            self.chunks_of, self.chunks = this, {}
        if not args.done:
            if args.data:
                self.chunks[args.offset] = args.data
            return
        data = b""
        while len(data) < args.offset and len(data) in self.chunks:
            data += self.chunks[len(data)]
        if len(data) != args.offset:
            return  # a part is missing: the leader will notice, and send it all again
        self.chunks = {}
        self.log.compact(args.last_included_index, args.last_included_term)
        self._save(data + args.data)
        self.commit_index = args.last_included_index
        self.cond.notify_all()
