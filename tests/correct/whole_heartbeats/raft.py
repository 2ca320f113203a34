"""A Raft of labs 2A to 2F that sends heartbeats separately from entries. A heartbeat has prev_log_index 0, carries no
entries and commits nothing. For each follower, the leader has a thread that sends it entries and commit indexes. These
threads end with the leadership.

One loop plays the three roles in turn. A leader resigns if it has had no answers from a majority for a while. In every lab,
servers ignore candidates while they know a leader. A candidate asks for votes before it saves its vote for itself.
After refusals, a leader goes back in growing steps. Only the last two configurations are kept.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
from store import Members, Store, members_of

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, Status, log

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2D" or "2E", which switch off pre-votes.
UPTO = "2F"
HEARTBEAT = 0.1
# The election timeout is drawn at random between this many seconds and twice as many.
TIMEOUT = 0.4
# A leader resigns after this many seconds without answers from a majority.
LEASE = 0.6
# A replicator sends the next request after this many seconds without an answer.
RETRY = 0.3
BATCH = 64
CHUNK = 4096
CATCH_UP_WITHIN = 5.0
NEARLY = 8
# For how many seconds a removed server is still sent entries.
FAREWELL = 3.0


def _draw() -> float:
    return random.uniform(TIMEOUT, 2 * TIMEOUT)


@dataclass
class Follower:
    """What a leader knows of another server."""

    next_index: int
    contact: float
    match_index: int = 0
    told: int = 0
    step: int = 1
    sent: object = None  # the request that has no answer yet
    offset: int = 0
    chunks_of: int = 0
    voter: bool = True
    until: float | None = None  # if it was removed: when the leader stops sending to it


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
        self.apply_ch = apply_ch
        self.store = Store(persister, members)
        self.snapshot_data = persister.snapshot()
        self.news = threading.Condition(threading.RLock())
        self.role = "follower"
        self.leader = -1
        self.contact = time.monotonic()
        self.commit_index = self.store.base
        self.last_applied = 0
        self.followers: dict[int, Follower] = {}
        self.start_index = 0  # the index of the first entry of this leadership
        self.votes: set[int] = set()
        self.round = 0
        self.incoming: tuple[int, int, bytes] = (0, 0, b"")
        threading.Thread(target=self._main, name="main", daemon=True).start()
        threading.Thread(target=self._apply, name="apply", daemon=True).start()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Take the lock. After a failed save, memory and disk may differ, so every thread ends."""
        with self.news:
            self.store.check()
            yield

    # --- the main loop: the three roles in turn ---

    def _main(self) -> None:
        while True:
            with self._locked():
                if self.role == "follower":
                    self._be_follower()
                elif self.role == "candidate":
                    self._be_candidate()
                else:
                    self._be_leader()

    def _wait_until(self, when: float, done: Callable[[], bool]) -> None:
        while not done() and (left := when - time.monotonic()) > 0:
            self.news.wait(left)
            self.store.check()

    def _be_follower(self) -> None:
        self._wait_until(time.monotonic() + _draw(), lambda: self.role != "follower")
        if self.role == "follower" and time.monotonic() - self.contact >= TIMEOUT:
            self.leader = -1
            if self._may_stand():
                self.role = "candidate"

    def _be_candidate(self) -> None:
        """One round: pre-votes if the lab has them, then an election."""
        self.round += 1
        mine, deadline = self.round, time.monotonic() + _draw()
        self.leader = -1
        if UPTO >= "2F" and not self.store.latest.majority({self.me}):
            self._ask("pre_vote", self.store.term + 1)
            self._wait_until(deadline, lambda: self._is_over(mine) or self.store.latest.majority(self.votes))
            if self._is_over(mine) or not self.store.latest.majority(self.votes):
                return
            deadline = time.monotonic() + _draw()
        self.round += 1
        mine = self.round
        self.store.term += 1
        self.store.save()
        log("election", f"term {self.store.term}")
        self._ask("request_vote", self.store.term)
        # The others have been asked already. Our own vote counts only now, because it must be saved first.
        self.store.vote_term, self.store.vote = self.store.term, self.me
        self.store.save()
        self.votes.add(self.me)
        self._wait_until(deadline, lambda: self._is_over(mine) or self.store.latest.majority(self.votes))
        if not self._is_over(mine) and self.store.latest.majority(self.votes):
            self._begin_to_lead()

    def _is_over(self, mine: int) -> bool:
        return self.role != "candidate" or self.round != mine

    def _be_leader(self) -> None:
        term = self.store.term
        self._wait_until(time.monotonic() + LEASE / 4, lambda: self.role != "leader")
        if self.role != "leader" or self.store.term != term:
            return
        now = time.monotonic()
        reached = {peer for peer, follower in self.followers.items() if now - follower.contact < LEASE}
        if not self.store.latest.majority(reached | {self.me}):
            log("leader", f"reaches only {sorted(reached)}: the lease is over")
            self._resign()
        for peer, follower in list(self.followers.items()):
            if follower.until is not None and now > follower.until:
                self._drop(peer)

    def _resign(self) -> None:
        self.role, self.leader = "follower", -1
        self.contact = time.monotonic()
        self.followers = {}
        self.news.notify_all()

    def _follow(self, term: int, leader: int = -1) -> None:
        """Become a follower, because there is a higher term or a leader of this term."""
        if term > self.store.term:
            self.store.term = term
            self.store.save()
            self.leader = -1
        if self.role != "follower":
            self._resign()
        if leader >= 0:
            self.leader, self.contact = leader, time.monotonic()

    def _may_stand(self) -> bool:
        return self.me in self.store.latest.all() or (
            self.store.latest.index > self.commit_index and self.me in self.store.committed.all()
        )

    # --- votes ---

    def _ask(self, method: str, term: int) -> None:
        self.votes = {self.me} if method == "pre_vote" else set()
        last_term, last_index = self.store.end()
        args = RequestVoteArgs(term, self.me, last_index, last_term)
        for peer in sorted(self.store.latest.all() - {self.me}):
            threading.Thread(target=self._call_vote, args=(method, peer, args, self.round), daemon=True).start()

    def _call_vote(self, method: str, peer: int, args: RequestVoteArgs, mine: int) -> None:
        reply = self.peers[peer].call(method, args)
        with self._locked():
            if reply is None or (method == "pre_vote" and reply.vote_granted and self._is_over(mine)):
                return
            if reply.term > self.store.term and not (method == "pre_vote" and reply.vote_granted):
                self._follow(reply.term)
            elif reply.vote_granted and not self._is_over(mine):
                self.votes.add(peer)
                self.news.notify_all()

    def _knows_leader(self, candidate: int) -> bool:
        if self.role == "leader":
            return True
        return self.leader not in (-1, candidate) and time.monotonic() - self.contact < TIMEOUT

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._locked():
            store = self.store
            if args.term > store.term and self._knows_leader(args.candidate_id):
                return RequestVoteReply(store.term, False)
            if args.term > store.term:
                self._follow(args.term)
            taken = store.vote_term == args.term and store.vote != args.candidate_id
            if args.term < store.term or taken or (args.last_log_term, args.last_log_index) < store.end():
                return RequestVoteReply(store.term, False)
            if store.vote_term != args.term:
                store.vote_term, store.vote = args.term, args.candidate_id
                store.save()
            self.contact = time.monotonic()
            return RequestVoteReply(store.term, True)

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._locked():
            store = self.store
            old = args.term < store.term or (
                args.term == store.term and store.vote_term == args.term and store.vote != args.candidate_id
            )
            newer = (args.last_log_term, args.last_log_index) >= store.end()
            return RequestVoteReply(store.term, not old and newer and not self._knows_leader(args.candidate_id))

    # --- the leader ---

    def _begin_to_lead(self) -> None:
        store, now = self.store, time.monotonic()
        self.role, self.leader = "leader", self.me
        log("leader", f"of term {store.term}")
        self.start_index = store.last + 1
        self.followers = {}
        for peer in sorted(store.latest.all() - {self.me}):
            self._take_on(peer, Follower(store.last + 1, now))
        for peer in sorted(store.committed.all() - store.latest.all() - {self.me}):
            self._take_on(peer, Follower(store.last + 1, now, voter=False, until=now + FAREWELL))
        self._add(LogEntry(store.term, None, "noop"))

    def _take_on(self, peer: int, follower: Follower) -> None:
        self.followers[peer] = follower
        for work in (self._beat, self._replicate):
            threading.Thread(target=work, args=(peer, follower, self.store.term), daemon=True).start()

    def _drop(self, peer: int) -> None:
        del self.followers[peer]
        self.news.notify_all()

    def _serves(self, peer: int, follower: Follower, term: int) -> bool:
        return self.role == "leader" and self.store.term == term and self.followers.get(peer) is follower

    def _beat(self, peer: int, follower: Follower, term: int) -> None:
        args = AppendEntriesArgs(term, self.me)
        while True:
            with self._locked():
                if not self._serves(peer, follower, term):
                    return
            threading.Thread(target=self._call_heartbeat, args=(peer, follower, args), daemon=True).start()
            time.sleep(random.uniform(0.9, 1.1) * HEARTBEAT)

    def _call_heartbeat(self, peer: int, follower: Follower, args: AppendEntriesArgs) -> None:
        reply = self.peers[peer].call("append_entries", args)
        with self._locked():
            self._heard(follower, reply)

    def _heard(self, follower: Follower, reply: Any) -> None:
        if reply is not None:
            follower.contact = time.monotonic()
            if reply.term > self.store.term:
                self._follow(reply.term)

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self._locked():
            if self.role != "leader":
                return -1, self.store.term, False
            return self._add(LogEntry(self.store.term, command)), self.store.term, True

    def _add(self, entry: LogEntry) -> int:
        self.store.append([entry])
        index = self.store.last
        self.store.save()
        self._recalculate()
        self.news.notify_all()
        return index

    def _replicate(self, peer: int, follower: Follower, term: int) -> None:
        """Send entries, commits and snapshots to a follower, one request at a time."""
        while True:
            with self._locked():
                while self._serves(peer, follower, term) and not self._has_news_for(follower):
                    self.news.wait()
                if not self._serves(peer, follower, term):
                    return
                method, args = self._next_request(follower)
                follower.sent = args
                threading.Thread(target=self._call_replicate, args=(peer, follower, method, args), daemon=True).start()
                self._wait_until(
                    time.monotonic() + RETRY,
                    lambda: follower.sent is not args or not self._serves(peer, follower, term),  # noqa: B023
                )

    def _has_news_for(self, follower: Follower) -> bool:
        return follower.next_index <= self.store.last or follower.told < self.commit_index

    def _next_request(self, follower: Follower) -> tuple[str, Any]:
        store, prev = self.store, follower.next_index - 1
        prev_term = store.term_at(prev)
        if prev_term is not None:
            entries = store.between(prev + 1, min(store.last, prev + BATCH))
            args = AppendEntriesArgs(store.term, self.me, prev, prev_term, entries, self.commit_index)
            return "append_entries", args
        if follower.chunks_of != store.base:
            follower.chunks_of, follower.offset = store.base, 0
        data = self.snapshot_data[follower.offset : follower.offset + CHUNK]
        done = follower.offset + len(data) >= len(self.snapshot_data)
        members = store.base_members
        where = (store.base, store.base_term, follower.offset, data, done, list(members.new), list(members.old) or None)
        return "install_snapshot", InstallSnapshotArgs(store.term, self.me, *where)

    def _call_replicate(self, peer: int, follower: Follower, method: str, args: Any) -> None:
        reply = self.peers[peer].call(method, args)
        with self._locked():
            self._heard(follower, reply)
            if self._serves(peer, follower, args.term):
                if reply is None:
                    # Wait before the next request, because a call to a server that is down may fail at once.
                    self._wait_until(time.monotonic() + HEARTBEAT / 2, lambda: follower.sent is not args)
                elif method == "append_entries":
                    self._on_appended(follower, args, reply)
                else:
                    self._on_chunk(follower, args, reply)
            if follower.sent is args:
                follower.sent = None
            self.news.notify_all()

    def _on_appended(self, follower: Follower, args: AppendEntriesArgs, reply: AppendEntriesReply) -> None:
        end = args.prev_log_index + len(args.entries)
        if reply.success:
            follower.step = 1
            follower.match_index = max(follower.match_index, end)
            follower.next_index = max(follower.next_index, follower.match_index + 1)
            follower.told = max(follower.told, min(args.leader_commit, end))
            if follower.until is not None and follower.told >= self.store.latest.index:
                follower.until = 0.0
            self._recalculate()
        elif args.prev_log_index == follower.next_index - 1:
            back = follower.next_index - follower.step
            follower.step *= 2
            if reply.last_log is not None:
                back = min(back, reply.last_log + 1)
            if args.prev_log_index > self.store.base:
                back = max(back, self.store.base + 1)  # try the whole log before the snapshot
            follower.next_index = max(1, follower.match_index + 1, back)

    def _on_chunk(self, follower: Follower, args: InstallSnapshotArgs, reply: InstallSnapshotReply) -> None:
        end = args.offset + len(args.data)
        if follower.chunks_of != args.last_included_index or follower.offset != args.offset:
            return
        follower.offset = end if reply.next_offset is None else min(end, reply.next_offset)
        if args.done and follower.offset == end:
            follower.chunks_of = 0
            follower.match_index = max(follower.match_index, args.last_included_index)
            follower.next_index = max(follower.next_index, follower.match_index + 1)
            self._recalculate()

    def _recalculate(self) -> None:
        """Commit the entries of this leadership that a majority has. Then take the next step of a membership change, if
        there is one."""
        if self.role != "leader":
            return
        store = self.store
        for index in range(store.last, max(self.commit_index, self.start_index - 1), -1):
            have = {peer for peer, follower in self.followers.items() if follower.match_index >= index}
            if store.latest.majority(have | {self.me}):
                self.commit_index = index
                self.news.notify_all()
                break
        if store.latest.index <= self.commit_index:
            if store.latest.old:
                self._configure(store.latest.new, ())
            elif self.me not in store.latest.new:
                self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Send each server one more message, from which it learns that this leader's removal is committed."""
        for peer, follower in self.followers.items():
            method, args = self._next_request(follower)
            threading.Thread(target=self.peers[peer].call, args=(method, args), daemon=True).start()
        self._resign()

    # --- members ---

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        with self._locked():
            store, term = self.store, self.store.term
            if self.role != "leader":
                return self.leader, term, False
            busy = any(not follower.voter and follower.until is None for follower in self.followers.values())
            ready = store.latest.index <= self.commit_index and not store.latest.old
            exist = bool(members) and members <= set(range(len(self.peers)))
            if busy or not ready or not exist or self.commit_index < self.start_index:
                return -1, term, True
            learners: dict[int, Follower] = {}
            for peer in sorted(members - set(store.latest.new) - {self.me}):
                learners[peer] = Follower(store.last + 1, 0.0, voter=False)
                self._take_on(peer, learners[peer])
            self.news.notify_all()
            self._wait_until(
                time.monotonic() + CATCH_UP_WITHIN,
                lambda: self.role != "leader" or store.term != term or all(map(self._is_near, learners.values())),
            )
            if self.role != "leader" or store.term != term:
                return -1 if self.leader == self.me else self.leader, store.term, False
            if not all(map(self._is_near, learners.values())):
                for peer in learners:
                    self._drop(peer)
                return -1, term, True
            old = store.latest.new
            return self._configure(members, old if len(set(old) ^ members) > 1 else ()), term, True

    def _is_near(self, follower: Follower) -> bool:
        return follower.match_index > 0 and self.store.last - follower.match_index < NEARLY

    def _configure(self, new: Any, old: Any) -> int:
        voters, now = {*new, *old}, time.monotonic()
        for peer in sorted((voters | self.store.latest.all()) - {self.me}):
            if peer not in self.followers:
                self._take_on(peer, Follower(self.store.last + 1, now))
            self.followers[peer].voter = peer in voters
            self.followers[peer].until = None if peer in voters else now + FAREWELL
        entry = LogEntry(self.store.term, None, "configuration", sorted(new), sorted(old) or None)
        log("members", f"{entry.members}, old {entry.old_members}")
        return self._add(entry)

    # --- the follower ---

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self._locked():
            store = self.store
            if args.term < store.term:
                return AppendEntriesReply(store.term, False, store.last)
            self._follow(args.term, args.leader_id)
            prev = args.prev_log_index
            if prev > store.base and store.term_at(prev) != args.prev_log_term:
                return AppendEntriesReply(store.term, False, store.last)
            for index, entry in enumerate(args.entries, prev + 1):
                if index > store.base and store.term_at(index) != entry.term:
                    if index <= store.last:
                        store.cut_end(index)
                    store.append(args.entries[index - prev - 1 :])
                    store.save()
                    break
            end = min(args.leader_commit, prev + len(args.entries))
            if end > self.commit_index:
                self.commit_index = end
                self.news.notify_all()
            return AppendEntriesReply(store.term, True, store.last)

    # --- the service ---

    def _apply(self) -> None:
        while True:
            with self._locked():
                while self.last_applied >= self.commit_index:
                    self.news.wait()
                message = self._next_to_apply()
            self.apply_ch.put(message)

    def _next_to_apply(self) -> ApplyMsg:
        store = self.store
        if self.last_applied < store.base:
            self.last_applied = store.base
            return ApplyMsg(store.base, store.base_term, kind="snapshot", snapshot=self.snapshot_data)
        self.last_applied += 1
        (entry,) = store.between(self.last_applied, self.last_applied)
        members = None
        if entry.members is not None:
            members = frozenset(members_of(0, entry.members, entry.old_members).all())
        return ApplyMsg(self.last_applied, entry.term, entry.command, entry.kind, members=members)  # type: ignore[arg-type]

    def get_state(self) -> tuple[int, bool]:
        with self._locked():
            return self.store.term, self.role == "leader"

    def status(self) -> Status:
        store = self.store
        vote = store.vote if store.vote_term == store.term else None
        return Status(store.term, vote, self.role, self.commit_index, self.last_applied, store.base + 1, store.last)

    def snapshot(self, index: int, data: bytes) -> None:
        with self._locked():
            if self.store.base < index <= self.last_applied:
                self.store.cut_start(index)
                self.snapshot_data = data
                self.store.save(data)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        with self._locked():
            store = self.store
            if args.term < store.term:
                return InstallSnapshotReply(store.term)
            self._follow(args.term, args.leader_id)
            end = args.offset + len(args.data)
            if args.last_included_index <= self.commit_index:
                return InstallSnapshotReply(store.term, end)
            if self.incoming[:2] != (args.term, args.last_included_index):
                self.incoming = (args.term, args.last_included_index, b"")
            data = self.incoming[2]
            if args.offset == len(data):
                data += args.data
                self.incoming = (*self.incoming[:2], data)
                if args.done:
                    self._install(args, data)
            return InstallSnapshotReply(store.term, min(end, len(data)))

    def _install(self, args: InstallSnapshotArgs, data: bytes) -> None:
        store, index, term = self.store, args.last_included_index, args.last_included_term
        self.incoming = (0, 0, b"")
        if store.term_at(index) == term:
            store.cut_start(index)
        else:
            members: Members = store.members_at(index)
            if args.members is not None:
                members = members_of(index, args.members, args.old_members)
            store.replace(index, term, members)
        self.snapshot_data = data
        store.save(data)
        self.commit_index = index
        self.news.notify_all()
