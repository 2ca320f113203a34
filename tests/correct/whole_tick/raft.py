"""A Raft of labs 2A to 2G and 3B that is driven by ticks. The state machine in core.py has no threads; a ticker and the
handlers call it. Writes are asynchronous. Requests leave before the state that they depend on is saved. Replies wait for the
disk. A server counts its own vote, and its own copy of an entry, only once they are on the disk.

A leader is probing, replicating or sending a snapshot to each follower. The commit index is saved, too, and the log keeps a
few entries that the snapshot covers. Each read by index begins a round of heartbeats. How long a server must not vote is
counted in ticks, and how long a lease lasts is measured by the clock.
"""

from __future__ import annotations

import pickle
import queue
import threading
import time
from typing import Any

from core import ELECTION_TICKS, Core
from log import Config, Log
from messages import (
    AppendArgs,
    AppendReply,
    Entry,
    InstallArgs,
    InstallReply,
    Outgoing,
    ReadIndexArgs,
    ReadIndexReply,
    TimeoutNowArgs,
    TimeoutNowReply,
    VoteArgs,
    VoteReply,
)

from raftlab.api import MAX_DRIFT, ApplyChannel, ApplyMsg, Peer, Persister, Status, log

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes and the check
# of the quorum, or to "2D". With "2D", servers also vote while they hear a leader.
UPTO = "2F"
TICK = 0.05
# Within how many seconds new servers must catch up.
CATCH_UP_WITHIN = 5.0
READ_WITHIN = 1.3
# How long a lease lasts, in seconds. A server must be quiet for ELECTION_TICKS ticks. The first of them may come at
# once, so it does not count.
LEASE = (ELECTION_TICKS - 1) * TICK / MAX_DRIFT


class Write:
    """The state at one moment, and the replies that may be sent once it is saved."""

    def __init__(self, core: Core, replies: list[tuple[queue.Queue[Any], Any]]) -> None:
        self.replies = replies
        self.dirty = core.dirty
        self.snapshot = core.snapshot_data if core.new_snapshot else None
        self.snapshot_index = core.snapshot_index
        self.mark = (core.term, core.vote, core.log.last, core.log.term(core.log.last))
        self.state = b""
        if core.dirty:
            bounds = (core.log.base, core.log.base_term, core.snapshot_index, core.snapshot_term)
            entries = [tuple(vars(entry).values()) for entry in core.log.entries]
            config = core.log.configs[0]
            voters = (config.index, sorted(config.new), sorted(config.old))
            self.state = pickle.dumps((core.term, core.vote, core.commit, core.sworn, bounds, voters, entries))
            core.dirty = core.new_snapshot = False


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
        self.persister = persister
        self.apply_ch = apply_ch
        self.changed = threading.Condition(threading.Lock())
        self.writes: queue.Queue[Write] = queue.Queue()
        self.core = self._load(me, members)
        self.applied = 0
        self.began = {0: float("-inf")}  # when each of the last rounds began
        self.stored_snapshot = self.core.snapshot_index  # the last index of the snapshot on the disk
        for work in (self._ticker, self._storage, self._applier):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def _load(self, me: int, members: frozenset[int]) -> Core:
        lease, careful = UPTO >= "2E", UPTO >= "2F"
        saved = self.persister.state()
        if not saved:
            return Core(me, Log(0, 0, Config(0, members), []), lease, careful, log)
        term, vote, commit, sworn, bounds, (index, new, old), entries = pickle.loads(saved)
        base, base_term, snapshot_index, snapshot_term = bounds
        config = Config(index, frozenset(new), frozenset(old))
        core = Core(me, Log(base, base_term, config, [Entry(*values) for values in entries]), lease, careful, log)
        core.term, core.vote, core.commit = term, vote, max(commit, snapshot_index)
        core.sworn, core.quiet_ticks = sworn, ELECTION_TICKS if sworn else 0
        core.log.stable = core.log.last
        core.snapshot_index, core.snapshot_term = snapshot_index, snapshot_term
        core.snapshot_data = self.persister.snapshot()
        return core

    # --- threads ---

    def _flush(self, *replies: tuple[queue.Queue[Any], Any]) -> None:
        """Send the requests, and queue the write that the replies wait for. Called after each step, with the lock held."""
        core = self.core
        self._send()
        if core.dirty or replies:
            self.writes.put(Write(core, list(replies)))
        self.changed.notify_all()

    def _send(self) -> None:
        if self.core.fan_out:
            self.core.send_all()
        for number in range(max(self.began) + 1, self.core.round + 1):
            self.began[number] = time.monotonic()
            self.began.pop(number - 200, None)
        for outgoing in self.core.outbox:
            threading.Thread(target=self._call, args=(outgoing,), daemon=True).start()
        self.core.outbox = []

    def _ticker(self) -> None:
        while True:
            time.sleep(TICK)
            with self.changed:
                self.core.tick()
                self._flush()

    def _call(self, outgoing: Outgoing) -> None:
        reply = self.peers[outgoing.to].call(outgoing.method, outgoing.args)
        with self.changed:
            if outgoing.method == "append_entries":
                self.core.on_appended(outgoing, reply)
            elif outgoing.method == "install_snapshot":
                self.core.on_installed(outgoing.to, outgoing.args, reply)
            elif outgoing.method == "timeout_now":
                if reply is not None:
                    self.core.on_told(reply)
            elif reply is not None:
                self.core.on_voted(outgoing.to, outgoing.args, reply, outgoing.method == "pre_vote")
            self._flush()

    def _storage(self) -> None:
        """The thread that saves, several writes at a time. If a save fails, nothing is answered or counted any more."""
        while True:
            batch = [self.writes.get()]
            while not self.writes.empty():
                batch.append(self.writes.get())
            dirty = [write for write in batch if write.dirty]
            with self.changed:
                self._send()  # send what start() has appended while the disk works
            if dirty:
                snapshots = [write.snapshot for write in dirty if write.snapshot is not None]
                self.persister.save(dirty[-1].state, snapshots[-1] if snapshots else None)
                with self.changed:
                    self.stored_snapshot = dirty[-1].snapshot_index
                    self.core.saved(*dirty[-1].mark)
                    self._flush()
            for write in batch:
                for waiting, reply in write.replies:
                    waiting.put(reply)

    def _applier(self) -> None:
        """The thread that applies what is both committed and saved on this server."""
        while True:
            with self.changed:
                while not (messages := self._to_apply()):
                    self.changed.wait()
            for message in messages:
                self.apply_ch.put(message)

    def _to_apply(self) -> list[ApplyMsg]:
        core, messages = self.core, []
        if self.applied < core.log.base:
            if self.stored_snapshot < core.snapshot_index:
                return []
            self.applied = core.snapshot_index
            messages.append(ApplyMsg(self.applied, core.snapshot_term, kind="snapshot", snapshot=core.snapshot_data))
        for index in range(self.applied + 1, min(core.commit, core.log.stable) + 1):
            (entry,) = core.log.slice(index, index + 1)
            voters = frozenset(entry.members or ()) | frozenset(entry.old_members or ())
            members = voters if entry.kind == "configuration" else None
            messages.append(ApplyMsg(index, entry.term, entry.command, entry.kind, members=members))  # type: ignore[arg-type]
            self.applied = index
        return messages

    # --- the service ---

    def get_state(self) -> tuple[int, bool]:
        with self.changed:
            return self.core.term, self.core.role == "leader"

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self.changed:
            if self.core.role != "leader":
                return -1, self.core.term, False
            if self.core.target != -1:
                return -1, self.core.term, True
            index, term = self.core.propose(Entry(self.core.term, command)), self.core.term
            self.writes.put(Write(self.core, []))
            return index, term, True

    def snapshot(self, index: int, data: bytes) -> None:
        with self.changed:
            if index <= self.applied:
                self.core.compact(index, data)
                self._flush()

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        with self.changed:
            core, term = self.core, self.core.term
            if core.role != "leader":
                return core.leader, term, False
            if not core.may_configure(members, len(self.peers)):
                return -1, term, True
            core.learn(members - core.log.config.voters)
            self._flush()
            give_up = time.monotonic() + CATCH_UP_WITHIN
            while core.role == "leader" and core.term == term:
                if core.learned() and core.target != -1:
                    core.forget_learners()
                    return -1, term, True
                if core.learned():
                    old = core.log.config.new
                    index = core.configure(members, old if len(old ^ members) > 1 else frozenset())
                    self._flush()
                    return index, term, True
                left = give_up - time.monotonic()
                if left <= 0:
                    core.forget_learners()
                    return -1, term, True
                self.changed.wait(left)
            return -1 if core.leader == core.me else core.leader, core.term, False

    def transfer_leadership(self, target: int) -> tuple[int, int, bool]:
        with self.changed:
            core = self.core
            if core.role != "leader":
                return core.leader, core.term, False
            begun = core.hand_over(target)
            self._flush()
            return target if begun else -1, core.term, True

    def read_index(self) -> int:
        with self.changed:
            core = self.core
            if core.role == "leader":
                return self._confirmed_commit()
            leader, args = core.leader, ReadIndexArgs(core.term, core.me)
        answers: queue.Queue[ReadIndexReply | None] = queue.Queue()

        def ask() -> None:
            answers.put(self.peers[leader].call("read_index_of", args))

        if leader == -1:
            return -1
        threading.Thread(target=ask, daemon=True).start()
        try:
            reply = answers.get(timeout=READ_WITHIN + 0.2)
        except queue.Empty:
            return -1
        return -1 if reply is None else reply.index

    def _confirmed_commit(self) -> int:
        core, term, end = self.core, self.core.term, time.monotonic() + READ_WITHIN
        index = number = -1
        while core.role == "leader" and core.term == term and time.monotonic() < end:
            if number < 0 and core.knows_commit():
                index, number = core.commit, core.begin_round()
                self._flush()
            if number >= 0 and core.answered_round() >= number:
                return index
            self.changed.wait(max(0.0, end - time.monotonic()))
        return -1

    def lease_index(self) -> int:
        with self.changed:
            core = self.core
            if core.role != "leader" or not core.knows_commit() or not core.may_lease:
                return -1
            index, number = core.commit, core.answered_round()
            if core.quiet_from is None:
                core.quiet_from = core.round + 1
                core.begin_round()
                self._flush()
            fresh = time.monotonic() < self.began.get(number, float("-inf")) + LEASE
            return index if number >= core.quiet_from and fresh else -1

    def status(self) -> Status:
        core = self.core
        vote = None if core.vote < 0 else core.vote
        return Status(core.term, vote, core.role, core.commit, self.applied, core.log.base + 1, core.log.last)

    # --- handlers ---

    def _handle(self, step: Any, *args: Any) -> Any:
        waiting: queue.Queue[Any] = queue.Queue()
        with self.changed:
            reply = step(*args)
            self._flush((waiting, reply))
        return waiting.get()

    def request_vote(self, args: VoteArgs) -> VoteReply:
        return self._handle(self.core.on_vote, args, False)

    def pre_vote(self, args: VoteArgs) -> VoteReply:
        return self._handle(self.core.on_vote, args, True)

    def append_entries(self, args: AppendArgs) -> AppendReply:
        return self._handle(self.core.on_append, args)

    def install_snapshot(self, args: InstallArgs) -> InstallReply:
        return self._handle(self.core.on_install, args)

    def read_index_of(self, args: ReadIndexArgs) -> ReadIndexReply:
        with self.changed:
            self.core.on_index_asked(args.term)
            self._flush()
            index = self._confirmed_commit()
            return ReadIndexReply(self.core.term, index)

    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        return self._handle(self.core.on_timeout_now, args)
