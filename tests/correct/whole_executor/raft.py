"""Executor, labs 2A to 2D: every call is a future of one pool, an RLock guards the state, Events wake the three threads.
What is lost is sent again at once; a new commit is told at once. Whoever hears a leader ignores candidates (§6), and so
does a leader that hears a majority; one that does not steps down. Some entries before the snapshot stay in memory. A
snapshot of which anything went wrong is sent again from its beginning. JSON; three modules."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from messages import (
    AppendEntriesArgs,
    AppendEntriesReply,
    InstallSnapshotArgs,
    InstallSnapshotReply,
    LogEntry,
    RequestVoteArgs,
    RequestVoteReply,
)
from views import Other, Parcel

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, log

BEAT = 0.1
MIN_TIMEOUT, MAX_TIMEOUT = 0.5, 1.0
CHUNK = 4096
MOST_ENTRIES = 100
# How many entries stay in memory (not on disk) although a snapshot covers them, for servers that lag only a little.
TRAIL = 6
# A call to a dead server blocks for up to 7 s: workers enough for the heartbeats of that time, and for a few more calls.
WORKERS_PER_PEER = 120
# A call that takes longer than this will not be waited for, if the server shows otherwise that it is alive.
OVERDUE = 0.2
TRIES = 4


class Role(StrEnum):
    FOLLOWER = "follower"
    CANDIDATE = "candidate"
    LEADER = "leader"


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
        self.others = [server for server in members if server != me]
        self.majority = len(members) // 2 + 1
        self.lock = threading.RLock()
        self.broken: BaseException | None = None
        self.pool = ThreadPoolExecutor(max_workers=WORKERS_PER_PEER * len(peers), thread_name_prefix="call")

        self.current_term = 0
        self.voted_for: int | None = None
        # Entries in memory from index `start` + 1 on; the snapshot on disk goes up to `covered`.
        self.start_index = self.start_term = 0
        self.memory: list[LogEntry] = []
        self.covered = self.covered_term = 0
        self._restore()
        self.commit_index = self.covered
        self.last_applied = 0

        self.role = Role.FOLLOWER
        self.votes: set[int] = set()
        self.view: dict[int, Other] = {}
        self.leader_heard_at = -MAX_TIMEOUT
        self.incoming: Parcel | None = None
        self.incoming_term = 0

        self.pulse = threading.Event()
        self.to_apply = threading.Event()
        self.to_apply.set()
        self._restart_timer()
        threading.Thread(target=self._live, name="life", daemon=True).start()
        threading.Thread(target=self._apply, name="apply", daemon=True).start()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """The lock. After a fault (a disk that failed, above all) memory is not what the disk says: nobody goes on."""
        with self.lock:
            if self.broken is not None:
                raise self.broken
            try:
                yield
            except BaseException as fault:
                self.broken = fault
                self.pulse.set()
                raise

    # --- storage ---

    def _persist(self, snapshot: bytes | None = None) -> None:
        state = {
            "current_term": self.current_term,
            "voted_for": self.voted_for,
            "covered": self.covered,
            "covered_term": self.covered_term,
            "entries": [asdict(entry) for entry in self.memory[self.covered - self.start_index :]],
        }
        self.persister.save(json.dumps(state).encode(), snapshot)

    def _restore(self) -> None:
        if not self.persister.state():
            return
        state = json.loads(self.persister.state())
        self.current_term = state["current_term"]
        self.voted_for = state["voted_for"]
        self.covered = self.start_index = state["covered"]
        self.covered_term = self.start_term = state["covered_term"]
        self.memory = [LogEntry(**entry) for entry in state["entries"]]

    # --- the log ---

    def _last(self) -> int:
        return self.start_index + len(self.memory)

    def _term_at(self, index: int) -> int:
        return self.start_term if index == self.start_index else self.memory[index - self.start_index - 1].term

    def _forget_before(self, index: int) -> None:
        if index > self.start_index:
            self.start_term = self._term_at(index)
            del self.memory[: index - self.start_index]
            self.start_index = index

    # --- the service ---

    def get_state(self) -> tuple[int, bool]:
        with self._alone():
            return self.current_term, self.role is Role.LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self._alone():
            if self.role is not Role.LEADER:
                return -1, self.current_term, False
            self.memory.append(LogEntry(self.current_term, command))
            self._persist()
            self._count_copies()
            self._spread()
            return self._last(), self.current_term, True

    def snapshot(self, index: int, data: bytes) -> None:
        with self._alone():
            if not self.covered < index <= self.commit_index:
                return
            self.covered, self.covered_term = index, self._term_at(index)
            self._persist(data)
            self._forget_before(index - TRAIL)

    def _apply(self) -> None:
        while True:
            self.to_apply.wait()
            self.to_apply.clear()
            with self._alone():
                ready = []
                if self.last_applied < self.start_index:
                    self.last_applied = self.covered
                    data = self.persister.snapshot()
                    ready.append(ApplyMsg(self.covered, self.covered_term, kind="snapshot", snapshot=data))
                while self.last_applied < self.commit_index:
                    self.last_applied += 1
                    entry = self.memory[self.last_applied - self.start_index - 1]
                    ready.append(ApplyMsg(self.last_applied, entry.term, entry.command))
            for msg in ready:
                self.apply_ch.put(msg)

    # --- time ---

    def _live(self) -> None:
        """Heartbeats while leading, else elections."""
        while True:
            with self._alone():
                now = time.monotonic()
                if self.role is Role.LEADER and not self._has_majority(now, MAX_TIMEOUT):
                    log("leader", f"hears no majority, gives up term {self.current_term}")
                    self._follow()
                if self.role is Role.LEADER:
                    if now >= self.next_beat:
                        self.next_beat = now + BEAT
                        self._beat()
                    wake_up = self.next_beat
                else:
                    if now >= self.deadline:
                        self._campaign()
                        continue
                    wake_up = self.deadline
            self.pulse.wait(max(0.0, wake_up - now))
            self.pulse.clear()

    def _restart_timer(self) -> None:
        self.deadline = time.monotonic() + random.uniform(MIN_TIMEOUT, MAX_TIMEOUT)

    def _has_majority(self, now: float, within: float) -> bool:
        return 1 + sum(now - other.heard_at < within for other in self.view.values()) >= self.majority

    # --- calls ---

    def _call(self, server: int, method: str, args: Any, then: Callable[[int, Any, Any], None]) -> None:
        def returned(call: Future[Any]) -> None:
            with self._alone():
                reply = call.result()
                if reply is not None and reply.term > self.current_term:
                    self._adopt(reply.term)
                then(server, args, reply)

        # A future keeps what its callback raises to itself. `_alone` has taken note, and the other threads raise it.
        self.pool.submit(self.peers[server].call, method, args).add_done_callback(returned)

    def _leading_since(self, args: Any) -> bool:
        return self.role is Role.LEADER and self.current_term == args.term

    # --- elections ---

    def _adopt(self, term: int) -> None:
        self.current_term, self.voted_for = term, None
        self._persist()
        self._follow()

    def _follow(self) -> None:
        if self.role is Role.LEADER:
            self._restart_timer()
            self.pulse.set()
        self.role = Role.FOLLOWER

    def _campaign(self) -> None:
        self.role = Role.CANDIDATE
        self.current_term += 1
        self.voted_for = self.me
        self._persist()
        self.votes = {self.me}
        self._restart_timer()
        ballot = RequestVoteArgs(
            term=self.current_term,
            candidate_id=self.me,
            last_log_index=self._last(),
            last_log_term=self._term_at(self._last()),
        )
        for server in self.others:
            self._call(server, "request_vote", ballot, self._voted)
        self._lead_if_elected()

    def _voted(self, server: int, args: RequestVoteArgs, reply: RequestVoteReply | None) -> None:
        if self.role is not Role.CANDIDATE or self.current_term != args.term:
            return
        if reply is None:
            self._call(server, "request_vote", args, self._voted)
        elif reply.vote_granted:
            self.votes.add(server)
            self._lead_if_elected()

    def _lead_if_elected(self) -> None:
        if len(self.votes) < self.majority:
            return
        self.role = Role.LEADER
        now = time.monotonic()
        self.view = {server: Other(self._last() + 1, now) for server in self.others}
        self.next_beat = now
        self.pulse.set()

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._alone():
            now = time.monotonic()
            if args.term > self.current_term and not self._is_content(now):
                self._adopt(args.term)
            granted = (
                args.term == self.current_term
                and self.voted_for in (None, args.candidate_id)
                and (args.last_log_term, args.last_log_index) >= (self._term_at(self._last()), self._last())
            )
            if granted:
                self.voted_for = args.candidate_id
                self._persist()
                self._restart_timer()
            return RequestVoteReply(term=self.current_term, vote_granted=granted)

    def _is_content(self, now: float) -> bool:
        """There is a working leader (§6): whoever asks for a vote now only disturbs."""
        if self.role is Role.LEADER:
            return self._has_majority(now, MIN_TIMEOUT)
        return self.role is Role.FOLLOWER and now - self.leader_heard_at < MIN_TIMEOUT

    # --- replication, the leader ---

    def _beat(self) -> None:
        for server, other in self.view.items():
            args = self._entries_for(other, 0)
            self._call(server, "append_entries", args, self._answered)

    def _spread(self) -> None:
        """To each server what is new for it, unless it is still busy with what came before."""
        for server, other in self.view.items():
            if other.call is None:
                self._tell(server, other)

    def _tell(self, server: int, other: Other) -> None:
        if other.parcel is not None or other.next_index <= self.start_index:
            self._send_chunk(server, other)
        elif other.next_index <= self._last() or other.told_commit < self.commit_index:
            other.call = self._entries_for(other, MOST_ENTRIES)
            other.call_since = time.monotonic()
            self._call(server, "append_entries", other.call, self._answered)
        else:
            other.call = None

    def _entries_for(self, other: Other, most: int) -> AppendEntriesArgs:
        before = max(other.next_index - 1, self.start_index)
        other.told_commit = self.commit_index
        first = before - self.start_index
        return AppendEntriesArgs(
            term=self.current_term,
            leader_id=self.me,
            prev_log_index=before,
            prev_log_term=self._term_at(before),
            entries=self.memory[first : first + most],
            leader_commit=self.commit_index,
        )

    def _over(self, other: Other, args: Any) -> bool:
        """Whether the server may be sent the next thing: its call has ended, or it is overdue."""
        if other.call is not args and time.monotonic() - other.call_since < OVERDUE:
            return other.call is None
        other.call = None
        return True

    def _answered(self, server: int, args: AppendEntriesArgs, reply: AppendEntriesReply | None) -> None:
        if not self._leading_since(args):
            return
        other = self.view[server]
        if reply is None:
            if other.call is args:
                other.call = None
                other.told_commit = min(other.told_commit, other.match_index)
                self._tell(server, other)
            return
        other.heard_at = time.monotonic()
        if reply.success:
            upto = args.prev_log_index + len(args.entries)
            if upto > other.match_index:
                other.match_index = upto
                self._count_copies()
            other.next_index = max(other.next_index, other.match_index + 1)
        elif args.prev_log_index == other.next_index - 1:
            other.next_index = max(other.match_index + 1, self._common(args, reply) + 1)
        if self._over(other, args):
            self._tell(server, other)

    def _common(self, args: AppendEntriesArgs, reply: AppendEntriesReply) -> int:
        """Up to where our logs may agree: there, the follower's entry is of a term not later than ours."""
        if reply.maybe_common < 0:
            return max(0, args.prev_log_index - 1)
        index = min(reply.maybe_common, args.prev_log_index - 1)
        while index > self.start_index and self._term_at(index) > reply.maybe_common_term:
            index -= 1
        return max(0, index)

    def _count_copies(self) -> None:
        copies = sorted([self._last(), *(other.match_index for other in self.view.values())])
        index = copies[-self.majority]
        if index > self.commit_index and self._term_at(index) == self.current_term:
            self._commit(index)
            self._spread()

    def _commit(self, index: int) -> None:
        if index > self.commit_index:
            self.commit_index = index
            self.to_apply.set()

    # --- replication, the follower ---

    def _hear(self) -> None:
        self._follow()
        self._restart_timer()
        self.leader_heard_at = time.monotonic()

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self._alone():
            if args.term > self.current_term:
                self._adopt(args.term)
            if args.term < self.current_term:
                return AppendEntriesReply(term=self.current_term, success=False)
            self._hear()
            before = args.prev_log_index
            if before > self._last() or (before > self.covered and self._term_at(before) != args.prev_log_term):
                return self._refuse(args)
            for number, entry in enumerate(args.entries):
                index = before + 1 + number
                if index > self.covered and (index > self._last() or self._term_at(index) != entry.term):
                    self.memory[index - self.start_index - 1 :] = args.entries[number:]
                    self._persist()
                    break
            self._commit(min(args.leader_commit, before + len(args.entries)))
            return AppendEntriesReply(term=self.current_term, success=True)

    def _refuse(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Skip what cannot be common: entries of a later term than the leader's there, and the one that it named."""
        index = min(self._last(), args.prev_log_index)
        if index == args.prev_log_index:
            index -= 1
        while index > self.covered and self._term_at(index) > args.prev_log_term:
            index -= 1
        term = self._term_at(index) if index >= self.start_index else 0
        return AppendEntriesReply(term=self.current_term, success=False, maybe_common=index, maybe_common_term=term)

    # --- snapshots ---

    def _send_chunk(self, server: int, other: Other) -> None:
        parcel = other.parcel
        if parcel is None or parcel.failures >= TRIES:
            parcel = other.parcel = Parcel(self.covered, self.covered_term, self.persister.snapshot())
        data = parcel.data[parcel.offset : parcel.offset + CHUNK]
        args = InstallSnapshotArgs(
            term=self.current_term,
            leader_id=self.me,
            last_included_index=parcel.index,
            last_included_term=parcel.index_term,
            offset=parcel.offset,
            data=data,
            done=parcel.offset + len(data) == len(parcel.data),
        )
        other.call = args
        other.call_since = time.monotonic()
        self._call(server, "install_snapshot", args, self._chunk_answered)

    def _chunk_answered(self, server: int, args: InstallSnapshotArgs, reply: InstallSnapshotReply | None) -> None:
        if not self._leading_since(args):
            return
        other = self.view[server]
        if reply is not None:
            other.heard_at = time.monotonic()
        if other.call is not args or other.parcel is None:
            return
        other.call = None
        if reply is None:
            other.parcel.failures += 1
        elif not reply.went_well:
            other.parcel = None
        elif args.done:
            other.parcel = None
            other.match_index = max(other.match_index, args.last_included_index)
            other.next_index = max(other.next_index, other.match_index + 1)
        else:
            other.parcel.offset += len(args.data)
            other.parcel.failures = 0
        self._tell(server, other)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        with self._alone():
            if args.term > self.current_term:
                self._adopt(args.term)
            if args.term < self.current_term:
                return InstallSnapshotReply(term=self.current_term)
            self._hear()
            return InstallSnapshotReply(term=self.current_term, went_well=self._take_chunk(args))

    def _take_chunk(self, args: InstallSnapshotArgs) -> bool:
        if args.last_included_index <= self.commit_index:
            return True  # no need of it
        if args.offset == 0:
            self.incoming_term = args.term
            self.incoming = Parcel(args.last_included_index, args.last_included_term, b"")
        parcel = self.incoming
        if parcel is None or (self.incoming_term, parcel.index) != (args.term, args.last_included_index):
            return False
        if args.offset + len(args.data) <= len(parcel.data) and not args.done:
            return True  # it came before, and only the answer was lost
        if len(parcel.data) != args.offset:
            return False
        parcel.data += args.data
        if args.done:
            self.incoming = None
            self._install(parcel)
        return True

    def _install(self, parcel: Parcel) -> None:
        index = parcel.index
        if index <= self._last() and self._term_at(index) == parcel.index_term:
            self._forget_before(index)
        else:
            self.memory = []
            self.start_index, self.start_term = index, parcel.index_term
        self.covered, self.covered_term = index, parcel.index_term
        self._persist(parcel.data)
        self._commit(index)
