"""Lazy, labs 2A to 2D: nothing but the tick of a leader ever sends entries, so start() waits for the next one and the
followers hear of a commit one tick later. Election timeouts as long as the labs allow. Steps are methods of an immutable
state that is replaced as a whole; it is saved before anybody else sees it. The log is a dict by index."""

from __future__ import annotations

import pickle
import random
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister

TICK = 0.1
TIMEOUT = (0.8, 1.6)
MOST_ENTRIES = 100
CHUNK = 4000
CHUNKS_A_TICK = 4


@dataclass(frozen=True)
class LogEntry:
    term: int
    command: Any


@dataclass(frozen=True)
class RequestVoteArgs:
    term: int
    candidate_id: int
    last_log_index: int
    last_log_term: int


@dataclass(frozen=True)
class RequestVoteReply:
    term: int
    vote_granted: bool


@dataclass(frozen=True)
class AppendEntriesArgs:
    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[LogEntry] = field(default_factory=list)
    leader_commit: int = 0


@dataclass(frozen=True)
class AppendEntriesReply:
    term: int
    success: bool
    # The terms of the follower's log up to prev_log_index, the latest first, at most 20: [term, first index, last index].
    runs: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class InstallSnapshotArgs:
    term: int
    leader_id: int
    last_included_index: int
    last_included_term: int
    offset: int
    data: bytes
    done: bool


@dataclass(frozen=True)
class InstallSnapshotReply:
    term: int
    has_offsets: list[int] | None = None


@dataclass(frozen=True)
class Saved:
    """All that is persistent."""

    term: int = 0
    vote: int | None = None
    base: int = 0
    base_term: int = 0
    log: dict[int, LogEntry] = field(default_factory=dict)

    @property
    def last(self) -> int:
        return self.base + len(self.log)

    def term_at(self, index: int) -> int | None:
        if index == self.base:
            return self.base_term
        return self.log[index].term if index in self.log else None

    @property
    def end(self) -> tuple[int, int]:
        return self.term_at(self.last) or 0, self.last

    def in_term(self, term: int) -> Saved:
        return replace(self, term=term, vote=None) if term > self.term else self

    def with_entries(self, first: int, entries: list[LogEntry]) -> Saved:
        """The entries from ``first`` on, and nothing behind them, if one of them is new or another; else all as it is."""
        for index, entry in enumerate(entries, first):
            if index > self.base and self.term_at(index) != entry.term:
                kept = {at: old for at, old in self.log.items() if at < index}
                return replace(self, log=kept | dict(enumerate(entries[index - first :], index)))
        return self

    def cut(self, index: int, term: int) -> Saved:
        fits = self.term_at(index) == term
        rest = {at: entry for at, entry in self.log.items() if at > index} if fits else {}
        return replace(self, base=index, base_term=term, log=rest)


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
        self.members = members
        self.lock = threading.Lock()
        self.saved: Saved = pickle.loads(persister.state() or pickle.dumps(Saved()))
        self.role = "follower"
        self.votes: set[int] = set()
        self.commit_index = self.saved.base
        self.applied = 0
        self.next_index: dict[int, int] = {}
        self.match_index: dict[int, int] = {}
        # At the leader: which parts of which snapshot a server has said it has. At a follower: the parts that came.
        self.has: dict[int, tuple[int, set[int]]] = {}
        self.parts: dict[int, bytes] = {}
        self.parts_of = (0, 0)
        self._calm()
        for loop in (self._clock, self._leader, self._applier):
            threading.Thread(target=loop, daemon=True).start()

    def _become(self, new: Saved, snapshot: bytes | None = None) -> None:
        """Save first: should that fail, this server is what it was, and says nothing."""
        if new is not self.saved or snapshot is not None:
            self.persister.save(pickle.dumps(new), snapshot)
            self.saved = new

    def _calm(self) -> None:
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)

    def _meet(self, term: int) -> None:
        if term > self.saved.term:
            self._become(self.saved.in_term(term))
            if self.role == "leader":
                self._calm()
            self.role = "follower"

    # --- the service ---

    def get_state(self) -> tuple[int, bool]:
        with self.lock:
            return self.saved.term, self.role == "leader"

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self.lock:
            mine = self.saved
            if self.role != "leader":
                return -1, mine.term, False
            self._become(mine.with_entries(mine.last + 1, [LogEntry(mine.term, command)]))
            return self.saved.last, mine.term, True

    def snapshot(self, index: int, data: bytes) -> None:
        with self.lock:
            term = self.saved.term_at(index)
            if self.saved.base < index <= self.applied and term is not None:
                self._become(self.saved.cut(index, term), data)

    def _applier(self) -> None:
        while True:
            message = None
            with self.lock:
                mine = self.saved
                if self.applied < mine.base:
                    self.applied = mine.base
                    snapshot = self.persister.snapshot()
                    message = ApplyMsg(mine.base, mine.base_term, kind="snapshot", snapshot=snapshot)
                elif self.applied < self.commit_index:
                    self.applied += 1
                    entry = mine.log[self.applied]
                    message = ApplyMsg(self.applied, entry.term, entry.command)
            if message is None:
                time.sleep(0.01)
            else:
                self.apply_ch.put(message)

    # --- elections ---

    def _clock(self) -> None:
        while True:
            time.sleep(0.03)
            with self.lock:
                if self.role == "leader" or time.monotonic() < self.deadline:
                    continue
                self._become(replace(self.saved, term=self.saved.term + 1, vote=self.me))
                self.role = "candidate"
                self.votes = {self.me}
                self._calm()
                term, index = self.saved.end
                args = RequestVoteArgs(self.saved.term, self.me, index, term)
                self._lead_if_elected()
            for server in self.members - {self.me}:
                threading.Thread(target=self._campaign, args=(server, args), daemon=True).start()

    def _campaign(self, server: int, args: RequestVoteArgs) -> None:
        reply = self.peers[server].call("request_vote", args)
        if reply is None:
            return
        with self.lock:
            self._meet(reply.term)
            if reply.vote_granted and self.role == "candidate" and self.saved.term == args.term:
                self.votes.add(server)
                self._lead_if_elected()

    def _lead_if_elected(self) -> None:
        if 2 * len(self.votes) > len(self.members):
            self.role = "leader"
            self.next_index = dict.fromkeys(self.members, self.saved.last + 1)
            self.match_index = dict.fromkeys(self.members, 0)
            self.has = {}

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.lock:
            self._meet(args.term)
            mine = self.saved
            newer = (args.last_log_term, args.last_log_index) >= mine.end
            granted = args.term == mine.term and mine.vote in (None, args.candidate_id) and newer
            if granted:
                if mine.vote is None:
                    self._become(replace(mine, vote=args.candidate_id))
                self._calm()
            return RequestVoteReply(mine.term, granted)

    # --- the leader ---

    def _leader(self) -> None:
        while True:
            with self.lock:
                calls = []
                if self.role == "leader":
                    self._advance()
                    for server in self.members - {self.me}:
                        calls += self._messages_to(server)
            for call in calls:
                threading.Thread(target=self._send, args=call, daemon=True).start()
            # Until there is a tick to be kept, look more often: a new leader should say so soon.
            time.sleep(TICK if calls else 0.02)

    def _advance(self) -> None:
        mine = self.saved
        self.match_index[self.me] = mine.last
        index = sorted(self.match_index.values())[(len(self.members) - 1) // 2]
        if index > self.commit_index and mine.term_at(index) == mine.term:
            self.commit_index = index

    def _messages_to(self, server: int) -> list[tuple[int, str, Any]]:
        mine = self.saved
        prev = self.next_index[server] - 1
        if prev < mine.base:
            return [(server, "install_snapshot", args) for args in self._chunks(server)]
        entries = [mine.log[index] for index in range(prev + 1, min(mine.last, prev + MOST_ENTRIES) + 1)]
        prev_term = mine.term_at(prev) or 0
        args = AppendEntriesArgs(mine.term, self.me, prev, prev_term, entries, self.commit_index)
        return [(server, "append_entries", args)]

    def _chunks(self, server: int) -> list[InstallSnapshotArgs]:
        """The next few parts of our newest snapshot that the server is not known to have."""
        mine, data = self.saved, self.persister.snapshot()
        index, has = self.has.setdefault(server, (mine.base, set()))
        if index != mine.base:
            _, has = self.has[server] = (mine.base, set())
        offsets = range(0, max(1, len(data)), CHUNK)
        # The last one makes it whole, so it goes last, and alone.
        missing = [at for at in offsets[:-1] if at not in has][:CHUNKS_A_TICK] or [offsets[-1]]
        return [
            InstallSnapshotArgs(
                mine.term, self.me, mine.base, mine.base_term, at, data[at : at + CHUNK], at == offsets[-1]
            )
            for at in missing
        ]

    def _send(self, server: int, method: str, args: Any) -> None:
        reply = self.peers[server].call(method, args)
        if reply is None:
            return
        with self.lock:
            self._meet(reply.term)
            if self.role != "leader" or self.saved.term != args.term:
                return
            if method == "append_entries":
                self._appended(server, args, reply)
            else:
                self._installed(server, args, reply)

    def _appended(self, server: int, args: AppendEntriesArgs, reply: AppendEntriesReply) -> None:
        match = self.match_index[server]
        if reply.success:
            self.match_index[server] = max(match, args.prev_log_index + len(args.entries))
            self.next_index[server] = max(self.next_index[server], self.match_index[server] + 1)
            self._advance()
        elif args.prev_log_index == self.next_index[server] - 1:
            self.next_index[server] = max(match + 1, self._retreat(args, reply))

    def _retreat(self, args: AppendEntriesArgs, reply: AppendEntriesReply) -> int:
        """Behind the last index where both logs have the same term, as far as the reply shows."""
        if not reply.runs:
            return args.prev_log_index
        end = (
            args.prev_log_index
        )  # the follower's entries of a term are from its start up to here, exclusive of the next
        for term, first, upto in reply.runs:
            for index in range(min(upto, args.prev_log_index - 1), first - 1, -1):
                if self.saved.term_at(index) == term:
                    return index + 1
            end = min(end, first)
        return max(1, end)

    def _installed(self, server: int, args: InstallSnapshotArgs, reply: InstallSnapshotReply) -> None:
        index, has = self.has.get(server, (0, set()))
        if index != args.last_included_index:
            return
        if reply.has_offsets is None:
            has.add(args.offset)
        else:
            has.clear()
            has.update(reply.has_offsets)
        if args.done and (reply.has_offsets is None or args.offset in has):
            del self.has[server]
            self.match_index[server] = max(self.match_index[server], index)
            self.next_index[server] = max(self.next_index[server], self.match_index[server] + 1)

    # --- the follower ---

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self.lock:
            self._meet(args.term)
            if args.term < self.saved.term:
                return AppendEntriesReply(self.saved.term, False)
            self.role = "follower"
            self._calm()
            mine, prev = self.saved, args.prev_log_index
            if prev >= mine.base and mine.term_at(prev) != args.prev_log_term:
                return AppendEntriesReply(mine.term, False, self._runs(prev))
            self._become(mine.with_entries(prev + 1, args.entries))
            self.commit_index = max(self.commit_index, min(args.leader_commit, prev + len(args.entries)))
            return AppendEntriesReply(mine.term, True)

    def _runs(self, prev: int) -> list[list[int]]:
        """[term, first index, last index] of each term in the log up to ``prev``."""
        mine = self.saved
        runs: list[list[int]] = []
        for index in range(min(prev, mine.last), mine.base - 1, -1):
            term = mine.term_at(index) or 0
            if runs and runs[-1][0] == term:
                runs[-1][1] = index
            elif len(runs) < 20:
                runs.append([term, index, index])
            else:
                break
        return runs

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        with self.lock:
            self._meet(args.term)
            if args.term < self.saved.term:
                return InstallSnapshotReply(self.saved.term)
            self.role = "follower"
            self._calm()
            if args.last_included_index <= self.commit_index:
                return InstallSnapshotReply(self.saved.term)
            this = (args.term, args.last_included_index)
            if this != self.parts_of:
                self.parts_of, self.parts = this, {}
            self.parts[args.offset] = args.data
            if args.done and self._is_whole(args.offset):
                data = b"".join(self.parts[at] for at in sorted(self.parts))
                self._become(self.saved.cut(args.last_included_index, args.last_included_term), data)
                self.commit_index = args.last_included_index
                self.parts = {}
                return InstallSnapshotReply(self.saved.term)
            if args.done:
                del self.parts[args.offset]  # it is sent once more when the others are here
            return InstallSnapshotReply(self.saved.term, sorted(self.parts))

    def _is_whole(self, last: int) -> bool:
        reached = 0
        for at in sorted(self.parts):
            if at != reached:
                return False
            reached = at + len(self.parts[at])
        return max(self.parts) == last
