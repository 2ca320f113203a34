"""Event loop, labs 2A to 2D: one thread owns everything and takes events from a queue; not one lock in this file.
Events are handled in groups: first all of them, then one save, then the answers, the messages and what is to be applied.
No-op on election; heartbeats carry entries, and the commit travels with them; the state is a pickle of dataclasses."""

from __future__ import annotations

import pickle
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, log

HEARTBEAT = 0.09
TIMEOUT = (0.35, 0.7)
MOST_EVENTS = 32
MOST_ENTRIES = 64
CHUNK = 4096


@dataclass
class LogEntry:
    term: int
    command: Any
    kind: str = "command"


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
    # Where the log is too short: no term, and the first index that is missing.
    conflict_term: int | None = None
    conflict_index: int | None = None


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
    received_so_far: int | None = None


@dataclass
class DurableState:
    """What is pickled, with names that need no comment."""

    current_term: int = 0
    voted_for_candidate: int | None = None
    index_of_last_entry_in_snapshot: int = 0
    term_of_last_entry_in_snapshot: int = 0
    log_entries_behind_snapshot: list[LogEntry] = field(default_factory=list)

    @property
    def base(self) -> int:
        return self.index_of_last_entry_in_snapshot

    @property
    def last(self) -> int:
        return self.base + len(self.log_entries_behind_snapshot)

    def entry(self, index: int) -> LogEntry:
        return self.log_entries_behind_snapshot[index - self.base - 1]

    def term_of(self, index: int) -> int:
        return self.term_of_last_entry_in_snapshot if index == self.base else self.entry(index).term

    def behind(self, index: int) -> list[LogEntry]:
        return self.log_entries_behind_snapshot[index - self.base :]

    def replace_behind(self, index: int, entries: list[LogEntry]) -> None:
        self.log_entries_behind_snapshot[index - self.base :] = entries

    def cut(self, index: int, term: int) -> None:
        """Forget everything up to ``index``; all of it, when what stands there is of another term."""
        fits = index <= self.last and self.term_of(index) == term
        self.log_entries_behind_snapshot = self.behind(index) if fits else []
        self.index_of_last_entry_in_snapshot, self.term_of_last_entry_in_snapshot = index, term


@dataclass
class Shipment:
    """A snapshot on its way: at the leader what is still to be sent, at a follower what has come."""

    leader_term: int
    index: int
    index_term: int
    data: bytes
    offset: int = 0


@dataclass
class View:
    """What a leader knows of another server."""

    next_index: int
    match_index: int = 0
    unanswered: Any = None
    shipment: Shipment | None = None


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
        self.quorum = len(members) // 2 + 1
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self.to_service: queue.Queue[ApplyMsg] = queue.Queue()
        # Below: touched by the loop's thread alone.
        self.durable: DurableState = pickle.loads(persister.state()) if persister.state() else DurableState()
        self.snapshot_bytes = persister.snapshot()
        self.commit_index = self.last_applied = self.durable.base
        self.role = "follower"
        self.votes: set[int] = set()
        self.views: dict[int, View] = {}
        self.incoming: Shipment | None = None
        self.alarm = time.monotonic() + random.uniform(*TIMEOUT)
        # What the events at hand have led to, and what leaves once it is saved.
        self.unsaved = False
        self.unsaved_snapshot: bytes | None = None
        self.answers: list[tuple[queue.Queue[Any], Any]] = []
        self.messages: list[tuple[int, str, Any, Callable[[int, Any, Any], None]]] = []
        self.applies: list[ApplyMsg] = []
        if self.durable.base:
            self.applies.append(self._snapshot_message())
        threading.Thread(target=self._serve, name="service", daemon=True).start()
        threading.Thread(target=self._loop, name="loop", daemon=True).start()

    # --- other threads: post an event and wait for its answer ---

    def _ask(self, work: Callable[..., Any], *args: Any) -> Any:
        answer: queue.Queue[Any] = queue.Queue()
        self.inbox.put(lambda: self.answers.append((answer, work(*args))))
        return answer.get()

    def get_state(self) -> tuple[int, bool]:
        return self._ask(lambda: (self.durable.current_term, self.role == "leader"))

    def start(self, command: Any) -> tuple[int, int, bool]:
        return self._ask(self._on_start, command)

    def snapshot(self, index: int, data: bytes) -> None:
        self._ask(self._on_snapshot, index, data)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return self._ask(self._on_request_vote, args)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        return self._ask(self._on_append_entries, args)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        return self._ask(self._on_install_snapshot, args)

    def _serve(self) -> None:
        """A thread of its own: the service may take its time."""
        while True:
            self.apply_ch.put(self.to_service.get())

    # --- the loop's thread ---

    def _loop(self) -> None:
        # A save that fails ends this thread, and nobody gets an answer any more.
        while True:
            self._release()
            try:
                work = self.inbox.get(timeout=max(0.0, self.alarm - time.monotonic()))
                work()
                for _ in range(MOST_EVENTS):
                    self.inbox.get_nowait()()
            except queue.Empty:
                pass
            if time.monotonic() >= self.alarm:
                self._rang()

    def _release(self) -> None:
        """Save, if there is anything to be saved; then let go what waited for it."""
        if self.unsaved:
            self.persister.save(pickle.dumps(self.durable), self.unsaved_snapshot)
            self.unsaved, self.unsaved_snapshot = False, None
        if self.role == "leader":
            self._advance_commit()
            self._replicate()
        for answer, value in self.answers:
            answer.put(value)
        for message in self.messages:
            threading.Thread(target=self._carry, args=message, daemon=True).start()
        for msg in self.applies:
            self.to_service.put(msg)
        self.answers, self.messages, self.applies = [], [], []

    def _carry(self, peer: int, method: str, args: Any, then: Callable[[int, Any, Any], None]) -> None:
        reply = self.peers[peer].call(method, args)
        self.inbox.put(lambda: then(peer, args, reply))

    def _rang(self) -> None:
        if self.role == "leader":
            self.alarm = time.monotonic() + HEARTBEAT
            for peer in self.others:
                self._send_news(peer)
        else:
            self._campaign()

    def _restart_timer(self) -> None:
        self.alarm = time.monotonic() + random.uniform(*TIMEOUT)

    def _see(self, term: int) -> None:
        """All servers: a higher term makes a follower."""
        if term > self.durable.current_term:
            if self.role == "leader":
                self._restart_timer()  # the alarm was the next heartbeat's
            self.durable.current_term, self.durable.voted_for_candidate = term, None
            self.unsaved = True
            self.role = "follower"

    # --- elections ---

    def _on_request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        self._see(args.term)
        mine = self.durable
        granted = (
            args.term == mine.current_term
            and mine.voted_for_candidate in (None, args.candidate_id)
            and (args.last_log_term, args.last_log_index) >= (mine.term_of(mine.last), mine.last)
        )
        if granted:
            if mine.voted_for_candidate is None:
                mine.voted_for_candidate = args.candidate_id
                self.unsaved = True
            self._restart_timer()
        return RequestVoteReply(mine.current_term, granted)

    def _campaign(self) -> None:
        mine = self.durable
        mine.current_term += 1
        mine.voted_for_candidate = self.me
        self.unsaved = True
        self.role = "candidate"
        self.votes = {self.me}
        self._restart_timer()
        log("election", f"term {mine.current_term}")
        args = RequestVoteArgs(mine.current_term, self.me, mine.last, mine.term_of(mine.last))
        self.messages += [(peer, "request_vote", args, self._on_vote) for peer in self.others]
        self._count_votes()

    def _on_vote(self, peer: int, args: RequestVoteArgs, reply: RequestVoteReply | None) -> None:
        if reply is not None:
            self._see(reply.term)
        if self.role != "candidate" or args.term != self.durable.current_term:
            return
        if reply is None:
            self.messages.append((peer, "request_vote", args, self._on_vote))
        elif reply.vote_granted:
            self.votes.add(peer)
            self._count_votes()

    def _count_votes(self) -> None:
        if len(self.votes) < self.quorum:
            return
        self.role = "leader"
        self.views = {peer: View(self.durable.last + 1) for peer in self.others}
        self.durable.log_entries_behind_snapshot.append(LogEntry(self.durable.current_term, None, "noop"))
        self.unsaved = True
        self.alarm = time.monotonic()  # the first heartbeats go out at once
        log("leader", f"term {self.durable.current_term}")

    # --- the leader's side of replication ---

    def _on_start(self, command: Any) -> tuple[int, int, bool]:
        mine = self.durable
        if self.role != "leader":
            return -1, mine.current_term, False
        mine.log_entries_behind_snapshot.append(LogEntry(mine.current_term, command))
        self.unsaved = True
        return mine.last, mine.current_term, True

    def _replicate(self) -> None:
        for peer, view in self.views.items():
            if view.unanswered is None and view.next_index <= self.durable.last:
                self._send_news(peer)

    def _send_news(self, peer: int) -> None:
        """The entries that the server lacks, or a piece of the snapshot; if there is nothing, a heartbeat."""
        view, mine = self.views[peer], self.durable
        if view.shipment is None and view.next_index <= mine.base:
            term = mine.term_of_last_entry_in_snapshot
            view.shipment = Shipment(mine.current_term, mine.base, term, self.snapshot_bytes)
        if view.shipment is not None:
            self._send_chunk(peer, view, view.shipment)
            return
        before = view.next_index - 1
        args = AppendEntriesArgs(
            term=mine.current_term,
            leader_id=self.me,
            prev_log_index=before,
            prev_log_term=mine.term_of(before),
            entries=mine.behind(before)[:MOST_ENTRIES],
            leader_commit=self.commit_index,
        )
        view.unanswered = args
        self.messages.append((peer, "append_entries", args, self._on_appended))

    def _leads(self, peer: int, args: Any, reply: Any) -> View | None:
        """The view of the peer, if the reply is one to the leader that this server is now."""
        if reply is not None:
            self._see(reply.term)
        if self.role != "leader" or args.term != self.durable.current_term:
            return None
        view = self.views[peer]
        if view.unanswered is args:
            # What was lost goes out again with the next heartbeat.
            view.unanswered = args if reply is None else None
        return view if reply is not None else None

    def _on_appended(self, peer: int, args: AppendEntriesArgs, reply: AppendEntriesReply | None) -> None:
        view = self._leads(peer, args, reply)
        if view is None or reply is None:
            return
        if reply.success:
            view.match_index = max(view.match_index, args.prev_log_index + len(args.entries))
            view.next_index = max(view.next_index, view.match_index + 1)
        elif args.prev_log_index == view.next_index - 1 and view.shipment is None:
            view.next_index = max(view.match_index + 1, min(args.prev_log_index, self._retreat(args, reply)))
            self._send_news(peer)

    def _retreat(self, args: AppendEntriesArgs, reply: AppendEntriesReply) -> int:
        """The next_index after a refusal."""
        if reply.conflict_index is None:
            return args.prev_log_index
        if reply.conflict_term is not None:
            for index in range(args.prev_log_index, self.durable.base, -1):
                if self.durable.term_of(index) == reply.conflict_term:
                    return index + 1
        return max(1, reply.conflict_index)

    def _advance_commit(self) -> None:
        for index in range(self.durable.last, self.commit_index, -1):
            if self.durable.term_of(index) != self.durable.current_term:
                return
            if 1 + sum(view.match_index >= index for view in self.views.values()) >= self.quorum:
                self._commit(index)
                return

    # --- the follower's side ---

    def _hear(self) -> None:
        self.role = "follower"
        self._restart_timer()

    def _on_append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        self._see(args.term)
        mine = self.durable
        if args.term < mine.current_term:
            return AppendEntriesReply(mine.current_term, False)
        self._hear()
        before = args.prev_log_index
        if before > mine.last:
            return AppendEntriesReply(mine.current_term, False, None, mine.last + 1)
        if before > mine.base and mine.term_of(before) != args.prev_log_term:
            wrong, first = mine.term_of(before), before
            while first - 1 > mine.base and mine.term_of(first - 1) == wrong:
                first -= 1
            return AppendEntriesReply(mine.current_term, False, wrong, first)
        for index, entry in enumerate(args.entries, before + 1):
            if index > mine.last or (index > mine.base and mine.term_of(index) != entry.term):
                mine.replace_behind(index - 1, args.entries[index - before - 1 :])
                self.unsaved = True
                break
        self._commit(min(args.leader_commit, before + len(args.entries)))
        return AppendEntriesReply(mine.current_term, True)

    def _commit(self, index: int) -> None:
        self.commit_index = max(self.commit_index, index)
        while self.last_applied < self.commit_index:
            self.last_applied += 1
            entry = self.durable.entry(self.last_applied)
            self.applies.append(ApplyMsg(self.last_applied, entry.term, entry.command, entry.kind))  # type: ignore[arg-type]

    # --- snapshots ---

    def _on_snapshot(self, index: int, data: bytes) -> None:
        if self.durable.base < index <= self.last_applied:
            self.durable.cut(index, self.durable.term_of(index))
            self._keep_snapshot(data)

    def _keep_snapshot(self, data: bytes) -> None:
        self.snapshot_bytes = self.unsaved_snapshot = data
        self.unsaved = True

    def _snapshot_message(self) -> ApplyMsg:
        term = self.durable.term_of_last_entry_in_snapshot
        return ApplyMsg(self.durable.base, term, kind="snapshot", snapshot=self.snapshot_bytes)

    def _send_chunk(self, peer: int, view: View, parcel: Shipment) -> None:
        data = parcel.data[parcel.offset : parcel.offset + CHUNK]
        args = InstallSnapshotArgs(
            term=self.durable.current_term,
            leader_id=self.me,
            last_included_index=parcel.index,
            last_included_term=parcel.index_term,
            offset=parcel.offset,
            data=data,
            done=parcel.offset + len(data) >= len(parcel.data),
        )
        view.unanswered = args
        self.messages.append((peer, "install_snapshot", args, self._on_installed))

    def _on_installed(self, peer: int, args: InstallSnapshotArgs, reply: InstallSnapshotReply | None) -> None:
        view = self._leads(peer, args, reply)
        if view is None or reply is None or view.shipment is None:
            return
        parcel = view.shipment
        if (parcel.index, parcel.offset) != (args.last_included_index, args.offset):
            return  # the answer to a copy
        end = args.offset + len(args.data)
        parcel.offset = end if reply.received_so_far is None else min(end, reply.received_so_far)
        if args.done and parcel.offset == end:
            view.shipment = None
            view.match_index = max(view.match_index, parcel.index)
            view.next_index = max(view.next_index, view.match_index + 1)
        else:
            self._send_chunk(peer, view, parcel)

    def _on_install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        self._see(args.term)
        term = self.durable.current_term
        if args.term < term:
            return InstallSnapshotReply(term)
        self._hear()
        end = args.offset + len(args.data)
        if args.last_included_index <= self.commit_index:
            return InstallSnapshotReply(term, end)  # we have all that, or more
        parcel = self.incoming
        if parcel is None or (parcel.leader_term, parcel.index) != (args.term, args.last_included_index):
            parcel = Shipment(args.term, args.last_included_index, args.last_included_term, b"")
            self.incoming = parcel
        if args.offset == len(parcel.data):
            parcel.data += args.data
            if args.done:
                self._install(parcel)
        return InstallSnapshotReply(term, min(end, len(parcel.data)))

    def _install(self, parcel: Shipment) -> None:
        self.durable.cut(parcel.index, parcel.index_term)
        self._keep_snapshot(parcel.data)
        self.commit_index = self.last_applied = parcel.index
        self.applies.append(self._snapshot_message())
        self.incoming = None
