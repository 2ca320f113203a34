"""A Raft of labs 2A to 2F with an executor. One pool makes all calls, an RLock guards the state, and Events wake the
threads.

Lost messages are resent at once. A new commit index is also sent at once, not with the next heartbeat. For each entry, the
voters in force after that entry are stored beside the log. Adding one server is a change in one step; every other change is
joint. Learners become voters once they have every committed entry. The last few entries that a snapshot covers stay in
memory.
"""

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
from views import Change, Electorate, Other, Parcel

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, log

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes, or to "2D".
# With "2D", servers also vote while they hear a leader.
UPTO = "2F"
BEAT = 0.1
MIN_TIMEOUT, MAX_TIMEOUT = 0.5, 1.0
CHUNK = 4096
MOST_ENTRIES = 100
# How many entries stay in memory, though not on disk, after a snapshot has covered them. Servers that lag only a little get
# these entries instead of the snapshot.
TRAIL = 6
# A call to a dead server blocks for up to 7 s, so there must be enough workers for 7 s worth of heartbeats, plus a few
# other calls.
WORKERS_PER_PEER = 120
# A call is overdue after this many seconds. Then the leader may make the next call without waiting for the overdue one.
OVERDUE = 0.2
TRIES = 4
CATCH_UP = 4.0
# For how many seconds a removed server still gets messages, from which it learns that it was removed.
FAREWELL = 2.0


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
        self.lock = threading.RLock()
        self.broken: BaseException | None = None
        self.pool = ThreadPoolExecutor(max_workers=WORKERS_PER_PEER * len(peers), thread_name_prefix="call")

        self.current_term = 0
        self.voted_for: int | None = None
        # `memory` has the entries from index `start_index` + 1 on. The snapshot on disk goes up to `covered`.
        self.start_index = self.start_term = 0
        self.memory: list[LogEntry] = []
        # The voters after the entry at `start_index` and after each entry in `memory`, so this list is longer by one.
        self.in_force = [Electorate(0, members)]
        self.covered = self.covered_term = 0
        self._restore()
        self.commit_index = self.covered
        self.last_applied = 0

        self.role = Role.FOLLOWER
        self.leader = -1
        self.survey: RequestVoteArgs | None = None
        # The servers that voted for us, or granted a pre-vote while pre-votes are collected.
        self.votes: set[int] = set()
        self.change: Change | None = None
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
        """Take the lock. After an exception, above all from a failed save, memory and disk may differ, so no thread can take
        the lock any more."""
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
        who = self.in_force[self.covered - self.start_index]
        state = {
            "who": [who.since, sorted(who.members), sorted(who.old)],
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
        since, members, old = state["who"]
        self.in_force = [Electorate(since, frozenset(members), frozenset(old))]
        self._put(self.start_index + 1, [LogEntry(**entry) for entry in state["entries"]])

    # --- the log ---

    def _last(self) -> int:
        return self.start_index + len(self.memory)

    def _term_at(self, index: int) -> int:
        return self.start_term if index == self.start_index else self.memory[index - self.start_index - 1].term

    def _put(self, first: int, entries: list[LogEntry]) -> None:
        """Replace the log from ``first`` on."""
        number = first - self.start_index
        self.memory[number - 1 :] = entries
        del self.in_force[number:]
        for index, entry in enumerate(entries, first):
            who = self.in_force[-1]
            if entry.members is not None:
                who = Electorate(index, frozenset(entry.members), frozenset(entry.old_members or ()))
            self.in_force.append(who)

    def _forget_before(self, index: int) -> None:
        if index > self.start_index:
            self.start_term = self._term_at(index)
            del self.memory[: index - self.start_index]
            del self.in_force[: index - self.start_index]
            self.start_index = index

    # --- the service ---

    def get_state(self) -> tuple[int, bool]:
        with self._alone():
            return self.current_term, self.role is Role.LEADER

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self._alone():
            if self.role is not Role.LEADER:
                return -1, self.current_term, False
            term = self.current_term
            return self._append(LogEntry(term, command)), term, True

    def _append(self, entry: LogEntry) -> int:
        index = self._last() + 1
        self._put(index, [entry])
        self._persist()
        self._adjust_view()
        self._count_copies()
        if self.role is Role.LEADER:
            self._spread()
        return index

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
                    if entry.members is not None:
                        voters = self.in_force[self.last_applied - self.start_index].everybody()
                        ready.append(ApplyMsg(self.last_applied, entry.term, kind="configuration", members=voters))
                    else:
                        ready.append(ApplyMsg(self.last_applied, entry.term, entry.command))
            for msg in ready:
                self.apply_ch.put(msg)

    # --- time ---

    def _live(self) -> None:
        """Send heartbeats while leading; otherwise start elections."""
        while True:
            with self._alone():
                now = time.monotonic()
                if UPTO >= "2F" and self.role is Role.LEADER and not self._has_majority(now, MAX_TIMEOUT):
                    log("leader", f"hears no majority, gives up term {self.current_term}")
                    self._follow()
                if self.role is Role.LEADER:
                    if now >= self.next_beat:
                        self.next_beat = now + BEAT
                        self._beat()
                    wake_up = self.next_beat
                else:
                    if now >= self.deadline:
                        self._ask_around()
                        continue
                    wake_up = self.deadline
            self.pulse.wait(max(0.0, wake_up - now))
            self.pulse.clear()

    def _restart_timer(self) -> None:
        self.deadline = time.monotonic() + random.uniform(MIN_TIMEOUT, MAX_TIMEOUT)

    def _has_majority(self, now: float, within: float) -> bool:
        heard = {server for server, other in self.view.items() if now - other.heard_at < within}
        return self.in_force[-1].decides(heard | {self.me})

    # --- calls ---

    def _call(self, server: int, method: str, args: Any, then: Callable[[int, Any, Any], None]) -> None:
        def exchange() -> None:
            reply = self.peers[server].call(method, args)
            # The reply is handled here and not in a callback of the future: if the future is already done when the callback
            # is added, the callback runs at once, in the middle of our caller's loop.
            with self._alone():
                # A granted pre-vote may carry the requested term, which nobody is in yet.
                real = reply is not None and not (method == "pre_vote" and reply.vote_granted)
                if real and reply.term > self.current_term:
                    self._adopt(reply.term)
                then(server, args, reply)

        # The future swallows an exception of `exchange`, but `_alone` records it, and the other threads raise it.
        self.pool.submit(exchange)

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
        self.leader = -1
        self.survey = None
        self._look_at_change()

    def _may_stand(self) -> bool:
        """Whether we vote in the last configuration known to be committed, or in a later one."""
        return any(self.me in who.everybody() for who in self.in_force[self.commit_index - self.start_index :])

    def _ask_around(self) -> None:
        self._restart_timer()
        self.leader = -1
        if not self._may_stand():
            return
        if UPTO < "2F":
            self._campaign()
            return
        self.votes = {self.me}
        self.role = Role.FOLLOWER
        self.survey = self._ballot(self.current_term + 1)
        for server in self.in_force[-1].everybody() - {self.me}:
            self._call(server, "pre_vote", self.survey, self._surveyed)
        self._evaluate()

    def _surveyed(self, server: int, args: RequestVoteArgs, reply: RequestVoteReply | None) -> None:
        if reply is not None and reply.vote_granted and self.survey is args:
            self.votes.add(server)
            self._evaluate()

    def _evaluate(self) -> None:
        if self.survey is not None and self.in_force[-1].decides(self.votes):
            self._campaign()

    def _ballot(self, term: int) -> RequestVoteArgs:
        return RequestVoteArgs(
            term=term, candidate_id=self.me, last_log_index=self._last(), last_log_term=self._term_at(self._last())
        )

    def _campaign(self) -> None:
        self.role = Role.CANDIDATE
        self.current_term += 1
        self.voted_for = self.me
        self._persist()
        self.votes = {self.me}
        self._restart_timer()
        self.survey = None
        ballot = self._ballot(self.current_term)
        for server in self.in_force[-1].everybody() - {self.me}:
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
        if not self.in_force[-1].decides(self.votes):
            return
        self.role = Role.LEADER
        self.leader = self.me
        now = time.monotonic()
        self.view = {}
        self._adjust_view()
        self.next_beat = now
        self.pulse.set()

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._alone():
            if args.term > self.current_term and not (UPTO >= "2E" and self._is_content(args.candidate_id)):
                self._adopt(args.term)
            granted = args.term == self.current_term and self._suits(args)
            if granted:
                self.voted_for = args.candidate_id
                self._persist()
                self._restart_timer()
            return RequestVoteReply(term=self.current_term, vote_granted=granted)

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._alone():
            granted = args.term >= self.current_term and self._suits(args) and not self._is_content(args.candidate_id)
            return RequestVoteReply(term=self.current_term, vote_granted=granted)

    def _suits(self, args: RequestVoteArgs) -> bool:
        free = args.term > self.current_term or self.voted_for in (None, args.candidate_id)
        return free and (args.last_log_term, args.last_log_index) >= (self._term_at(self._last()), self._last())

    def _is_content(self, asker: int) -> bool:
        """Whether this server leads, or hears a leader other than ``asker``. Then it ignores candidates (§6)."""
        now = time.monotonic()
        if self.role is Role.LEADER:
            return self._has_majority(now, MIN_TIMEOUT)
        return self.role is Role.FOLLOWER and asker != self.leader and now - self.leader_heard_at < MIN_TIMEOUT

    # --- members ---

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        with self._alone():
            term, who = self.current_term, self.in_force[-1]
            if self.role is not Role.LEADER:
                return self.leader, term, False
            settled = who.since <= self.commit_index and not who.old and self._term_at(self.commit_index) == term
            if not members or members - set(range(len(self.peers))) or not settled or self.change is not None:
                return -1, term, True
            change = self.change = Change(term, members, members - who.everybody(), Future())
            for server in change.learners:
                self.view.pop(server, None)
            self._adjust_view()
            self._look_at_change()
            self._spread()
        try:
            index = change.index.result(timeout=CATCH_UP)
        except TimeoutError:
            index = -1
        with self._alone():
            if self.change is change:
                self.change = None
            if change.index.done():
                index = change.index.result()
            if self.role is Role.LEADER and self.current_term == term:
                self._adjust_view()
            elif index < 0:
                return -1 if self.leader == self.me else self.leader, self.current_term, False
            return index, term, True

    def _look_at_change(self) -> None:
        """Check whether the learners of the change have caught up, or whether it has failed."""
        change = self.change
        if change is None:
            return
        if self.role is not Role.LEADER or self.current_term != change.term:
            self.change = None
            change.index.set_result(-1)
        elif all(self.view[server].match_index >= self.commit_index for server in change.learners - {self.me}):
            self.change = None
            now = self.in_force[-1].members
            one_more = change.members > now and len(change.members) == len(now) + 1
            old = None if one_more else sorted(now)
            index = self._append(LogEntry(change.term, None, "configuration", sorted(change.members), old))
            change.index.set_result(index)

    def _adjust_view(self) -> None:
        now = time.monotonic()
        wanted = self.in_force[-1].everybody() | (self.change.learners if self.change is not None else frozenset())
        for server in wanted - {self.me}:
            other = self.view.setdefault(server, Other(self._last() + 1, now))
            other.leaves_at = None
        for server, other in list(self.view.items()):
            if server not in wanted and other.leaves_at is None:
                other.leaves_at = now + FAREWELL
            if other.leaves_at is not None and now >= other.leaves_at:
                del self.view[server]

    def _next_configuration(self) -> None:
        """A leader's next step once the last configuration is committed."""
        who = self.in_force[-1]
        if who.since > self.commit_index or self.role is not Role.LEADER:
            return
        if who.old:
            self._append(LogEntry(self.current_term, None, "configuration", sorted(who.members)))
        elif self.me not in who.members:
            self._follow()

    # --- replication, the leader ---

    def _beat(self) -> None:
        self._adjust_view()
        for server, other in self.view.items():
            args = self._entries_for(other, 0)
            self._call(server, "append_entries", args, self._answered)

    def _spread(self) -> None:
        """Send each server what is new for it, unless its answer to the last message is still missing."""
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
        """Whether the server may be sent the next message: its call has ended, or is overdue."""
        if other.call is not args and time.monotonic() - other.call_since < OVERDUE:
            return other.call is None
        other.call = None
        return True

    def _answered(self, server: int, args: AppendEntriesArgs, reply: AppendEntriesReply | None) -> None:
        if not self._leading_since(args):
            return
        other = self.view.get(server)
        if other is None:
            return
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
                self._look_at_change()
                if not self._leading_since(args):
                    return
            if other.leaves_at is not None and min(upto, args.leader_commit) >= self.in_force[-1].since:
                self.view.pop(server, None)  # this server now knows that it was removed
                return
            other.next_index = max(other.next_index, other.match_index + 1)
        elif args.prev_log_index == other.next_index - 1:
            other.next_index = max(other.match_index + 1, self._common(args, reply) + 1)
        if self._over(other, args):
            self._tell(server, other)

    def _common(self, args: AppendEntriesArgs, reply: AppendEntriesReply) -> int:
        """The last index at which the two logs may agree, as far as a refusal shows. The leader's entry there has no
        later term than the follower's hint."""
        if reply.maybe_common < 0:
            return max(0, args.prev_log_index - 1)
        index = min(reply.maybe_common, args.prev_log_index - 1)
        while index > self.start_index and self._term_at(index) > reply.maybe_common_term:
            index -= 1
        return max(0, index)

    def _count_copies(self) -> None:
        for index in range(self._last(), self.commit_index, -1):
            if self._term_at(index) != self.current_term:
                return
            if self.in_force[-1].decides(
                {self.me, *(at for at, other in self.view.items() if other.match_index >= index)}
            ):
                self._commit(index)
                self._spread()
                self._next_configuration()
                return

    def _commit(self, index: int) -> None:
        if index > self.commit_index:
            self.commit_index = index
            self.to_apply.set()

    # --- replication, the follower ---

    def _hear(self, leader: int) -> None:
        self._follow()
        self.leader = leader
        self._restart_timer()
        self.leader_heard_at = time.monotonic()

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self._alone():
            if args.term > self.current_term:
                self._adopt(args.term)
            if args.term < self.current_term:
                return AppendEntriesReply(term=self.current_term, success=False)
            self._hear(args.leader_id)
            before = args.prev_log_index
            if before > self._last() or (before > self.covered and self._term_at(before) != args.prev_log_term):
                return self._refuse(args)
            for number, entry in enumerate(args.entries):
                index = before + 1 + number
                if index > self.covered and (index > self._last() or self._term_at(index) != entry.term):
                    self._put(index, args.entries[number:])
                    self._persist()
                    break
            self._commit(min(args.leader_commit, before + len(args.entries)))
            return AppendEntriesReply(term=self.current_term, success=True)

    def _refuse(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        """Refuse, and name the last entry that the leader may also have. This entry is before prev_log_index, and its
        term is not later than prev_log_term."""
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
            who = self.in_force[self.covered - self.start_index]
            parcel = other.parcel = Parcel(self.covered, self.covered_term, self.persister.snapshot(), who)
        data = parcel.data[parcel.offset : parcel.offset + CHUNK]
        args = InstallSnapshotArgs(
            term=self.current_term,
            leader_id=self.me,
            last_included_index=parcel.index,
            last_included_term=parcel.index_term,
            offset=parcel.offset,
            data=data,
            done=parcel.offset + len(data) == len(parcel.data),
            members=sorted(parcel.who.members) if parcel.who else None,
            old_members=sorted(parcel.who.old) if parcel.who and parcel.who.old else None,
        )
        other.call = args
        other.call_since = time.monotonic()
        self._call(server, "install_snapshot", args, self._chunk_answered)

    def _chunk_answered(self, server: int, args: InstallSnapshotArgs, reply: InstallSnapshotReply | None) -> None:
        if not self._leading_since(args):
            return
        other = self.view.get(server)
        if other is None:
            return
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
            self._look_at_change()
            if not self._leading_since(args):
                return
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
            self._hear(args.leader_id)
            return InstallSnapshotReply(term=self.current_term, went_well=self._take_chunk(args))

    def _take_chunk(self, args: InstallSnapshotArgs) -> bool:
        if args.last_included_index <= self.commit_index:
            return True  # the snapshot is not needed
        if args.offset == 0:
            self.incoming_term = args.term
            old = frozenset(args.old_members or ())
            who = Electorate(args.last_included_index, frozenset(args.members), old) if args.members else None
            self.incoming = Parcel(args.last_included_index, args.last_included_term, b"", who)
        parcel = self.incoming
        if parcel is None or (self.incoming_term, parcel.index) != (args.term, args.last_included_index):
            return False
        if args.offset + len(args.data) <= len(parcel.data) and not args.done:
            return True  # this chunk arrived before, and only the reply was lost
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
            self.in_force = [parcel.who or self.in_force[self.covered - self.start_index]]
            self.start_index, self.start_term = index, parcel.index_term
        self.covered, self.covered_term = index, parcel.index_term
        self._persist(parcel.data)
        self._commit(index)
