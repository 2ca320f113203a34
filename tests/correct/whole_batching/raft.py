"""A Raft of labs 2A to 2F that batches. start() only appends; a few milliseconds later, one save and one message to each
server cover everything that was appended. Roles are objects. A new leader appends a no-op if its log has uncommitted
entries.

By binary search, the leader finds the last entry that two logs share. Refusals carry no hint. Every membership change
goes through C_old,new, and C_new follows in the next batch. Once a majority has answered, the leader has a lease, which
counts from the time when the answered messages were sent.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from roles import Asking, Candidate, Follower, Leader, Remote, Voters
from store import Store

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, Status, log

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes, or to "2D".
# With "2D", servers also vote while they hear a leader.
UPTO = "2F"
BATCH_DELAY = 0.006
BEAT = 0.1
TIMEOUT = (0.45, 0.9)
# After this many seconds without an answer, a server is sent the next message anyway if there is something new.
PATIENCE = 0.15
MOST_ENTRIES = 80
CHUNK = 4096
CATCH_UP_WITHIN = 5.0
FAREWELL = 2.0


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
        self.changed = threading.Condition(threading.Lock())
        self.broken: OSError | None = None
        self.store = Store(persister, members)
        self.commit = self.store.base
        self.applied = 0
        self.role: Follower | Asking | Candidate | Leader = Follower()
        self.news = False  # whether there is something to save or send
        # The snapshot that is arriving: its leader's term, its last index, and its bytes so far.
        self.incoming: tuple[int, int, bytes] = (0, 0, b"")
        self.deadline = 0.0
        self._restart_timer()
        for loop in (self._time, self._batches, self._applier):
            threading.Thread(target=loop, name=loop.__name__, daemon=True).start()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Take the lock. Changes are saved before the lock is released, unless they can wait for the next batch. After
        a failed save, no thread can take the lock any more."""
        with self.changed:
            if self.broken is not None:
                raise self.broken
            try:
                yield
            except OSError as fault:
                self.broken = fault
                self.changed.notify_all()
                raise

    # --- the service ---

    def get_state(self) -> tuple[int, bool]:
        with self._alone():
            return self.store.term, isinstance(self.role, Leader)

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self._alone():
            if not isinstance(self.role, Leader):
                return -1, self.store.term, False
            return self._append(LogEntry(self.store.term, command)), self.store.term, True

    def _append(self, entry: LogEntry) -> int:
        self.store.put(self.store.last + 1, [entry])
        self._tell_news()
        return self.store.last

    def _tell_news(self) -> None:
        self.news = True
        self.changed.notify_all()

    def snapshot(self, index: int, data: bytes) -> None:
        with self._alone():
            if self.store.base < index <= self.applied:
                self.store.cut(index, self.store.term_of(index))
                self.store.flush(data)

    def status(self) -> Status:
        store, role = self.store, type(self.role).__name__.lower()
        return Status(store.term, store.vote, role, self.commit, self.applied, store.base + 1, store.last)

    def _applier(self) -> None:
        while True:
            with self._alone():
                while self.applied >= self.commit:
                    self.changed.wait()
                    if self.broken is not None:
                        raise self.broken
                if self.applied < self.store.base:
                    self.applied = self.store.base
                    data = self.store.snapshot()
                    msg = ApplyMsg(self.applied, self.store.base_term, kind="snapshot", snapshot=data)
                else:
                    self.applied += 1
                    entry = self.store.entry(self.applied)
                    who = None
                    if entry.members is not None:
                        who = frozenset(entry.members) | frozenset(entry.old_members or ())
                    msg = ApplyMsg(self.applied, entry.term, entry.command, entry.kind, members=who)  # type: ignore[arg-type]
            self.apply_ch.put(msg)

    # --- elections ---

    def _restart_timer(self) -> None:
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)

    def _time(self) -> None:
        while True:
            with self._alone():
                left = self.deadline - time.monotonic()
                if isinstance(self.role, Leader):
                    self.changed.wait()
                elif left > 0:
                    self.changed.wait(left)
                else:
                    self._ask()

    def _follow(self, term: int, leader: int = -1) -> None:
        """Become a follower in this term. ``leader`` is the leader whose message has just arrived, if there is one."""
        if term > self.store.term:
            self.store.enter(term)
        if isinstance(self.role, Leader) or leader >= 0:
            self._restart_timer()
        self.role = Follower(leader, time.monotonic() if leader >= 0 else float("-inf"))
        self.changed.notify_all()

    def _meet(self, term: int) -> None:
        if term > self.store.term:
            self._follow(term)
            self.store.flush()

    def _call(self, server: int, method: str, args: Any, then: Any) -> None:
        def work() -> None:
            reply = self.peers[server].call(method, args)
            if reply is not None:
                with self._alone():
                    then(server, args, reply)

        threading.Thread(target=work, daemon=True).start()

    def _may_stand(self) -> bool:
        """Whether we vote in any configuration that is not known to have been replaced."""
        voters = self.store.voters
        known = max(at for at in voters if at <= max(self.commit, self.store.base))
        return any(self.me in who.all for at, who in voters.items() if at >= known)

    def _ask(self) -> None:
        self._restart_timer()
        self.role = Follower()
        if not self._may_stand():
            return
        last_term, last = self.store.end
        args = RequestVoteArgs(self.store.term + 1, self.me, last, last_term)
        if UPTO < "2F":
            self._stand(args)
            return
        self.role = Asking(args, {self.me})
        self.store.flush()
        for server in self.store.latest[1].all - {self.me}:
            self._call(server, "pre_vote", args, self._pre_voted)
        self._count_yes(self.role)

    def _pre_voted(self, server: int, args: RequestVoteArgs, reply: RequestVoteReply) -> None:
        if not reply.vote_granted:
            self._meet(reply.term)
        elif isinstance(self.role, Asking) and self.role.args is args:
            self.role.yes.add(server)
            self._count_yes(self.role)

    def _count_yes(self, asking: Asking) -> None:
        if self.store.latest[1].most(asking.yes):
            self._stand(asking.args)

    def _stand(self, args: RequestVoteArgs) -> None:
        self.store.enter(args.term, self.me)
        self.store.flush()
        self.role = Candidate(args, {self.me})
        self._restart_timer()
        log("election", f"stands in term {args.term}")
        for server in self.store.latest[1].all - {self.me}:
            self._call(server, "request_vote", args, self._voted)
        self._count_votes(self.role)

    def _voted(self, server: int, args: RequestVoteArgs, reply: RequestVoteReply) -> None:
        self._meet(reply.term)
        if reply.vote_granted and isinstance(self.role, Candidate) and self.role.args is args:
            self.role.votes.add(server)
            self._count_votes(self.role)

    def _count_votes(self, candidate: Candidate) -> None:
        if self.store.latest[1].most(candidate.votes):
            leader = self.role = Leader(time.monotonic())
            self._look_after(leader)
            if self.commit < self.store.last:
                self._append(LogEntry(self.store.term, None, "noop"))
            self._tell_news()

    def _hears_leader(self, asker: int) -> bool:
        role = self.role
        if isinstance(role, Follower):
            # If the leader itself asks for votes, it no longer leads.
            return role.leader != asker and time.monotonic() < role.heard_at + TIMEOUT[0]
        return isinstance(role, Leader)

    def _would_vote(self, args: RequestVoteArgs) -> bool:
        free = args.term > self.store.term or (
            args.term == self.store.term and self.store.vote in (None, args.candidate_id)
        )
        return free and (args.last_log_term, args.last_log_index) >= self.store.end

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._alone():
            self.store.flush()
            granted = self._would_vote(args) and not self._hears_leader(args.candidate_id)
            return RequestVoteReply(self.store.term, granted)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._alone():
            if args.term <= self.store.term or UPTO < "2E" or not self._hears_leader(args.candidate_id):
                self._meet(args.term)
                if args.term == self.store.term and self._would_vote(args):
                    self.store.enter(args.term, args.candidate_id)
                    self.store.flush()
                    self._restart_timer()
                    return RequestVoteReply(self.store.term, True)
            self.store.flush()
            return RequestVoteReply(self.store.term, False)

    # --- the leader ---

    def _batches(self) -> None:
        """The thread that does all saving and sending of a leader."""
        while True:
            with self._alone():
                role = self.role
                if not isinstance(role, Leader):
                    self.changed.wait()
                    continue
                left = role.next_beat - time.monotonic()
                if not self.news and left > 0:
                    self.changed.wait(left)
                    continue
            time.sleep(BATCH_DELAY)
            with self._alone():
                if self.role is role:
                    self._batch(role)

    def _batch(self, leader: Leader) -> None:
        self.news = False
        self._next_configuration()
        self.store.flush()
        self._look_after(leader)
        self._count_copies(leader)
        now = time.monotonic()
        beat = now >= leader.next_beat
        if beat:
            leader.next_beat = now + BEAT
            if UPTO >= "2F" and self._lease(leader) + TIMEOUT[1] < now:
                log("leader", f"the lease of term {self.store.term} has run out")
                self._follow(self.store.term)
                return
        for server, remote in leader.remotes.items():
            behind = remote.match < self.store.last or remote.told_commit < self.commit
            if beat or (behind and (remote.pending is None or now > remote.sent_at + PATIENCE)):
                self._send(server, remote)
        at, who = self.store.latest
        if at <= self.commit and self.me not in who.all:
            self._follow(self.store.term)

    def _lease(self, leader: Leader) -> float:
        sent = {server: remote.confirmed for server, remote in leader.remotes.items()}
        return self.store.latest[1].reached({**sent, self.me: time.monotonic()})

    def _send(self, server: int, remote: Remote) -> None:
        store = self.store
        least = max(remote.match, store.base - 1)
        remote.most = max(remote.most, least)
        remote.sent_at = time.monotonic()
        if remote.parcel is not None or remote.most < store.base:
            remote.pending = self._chunk(remote)
            self._call(server, "install_snapshot", remote.pending, self._installed)
            return
        # Try our last entry first, because most logs agree there. If the server refuses, halve the range at each try. Send
        # entries once the index is known.
        found = remote.match == remote.most
        prev = least if found else remote.most if not remote.probed else (least + remote.most + 1) // 2
        remote.probed = True
        remote.told_commit = self.commit
        remote.pending = AppendEntriesArgs(
            term=store.term,
            leader_id=self.me,
            prev_log_index=prev,
            prev_log_term=store.term_of(prev),
            entries=store.part(prev + 1, MOST_ENTRIES) if found else [],
            leader_commit=self.commit,
        )
        self._call(server, "append_entries", remote.pending, self._appended)

    def _answered(self, server: int, args: Any, reply: Any) -> tuple[Leader, Remote, bool] | None:
        """The leader that this reply still concerns, the server that answered, and whether the leader waits for this reply.
        ``None`` if the reply no longer matters."""
        self._meet(reply.term)
        role = self.role
        if not isinstance(role, Leader) or args.term != self.store.term or server not in role.remotes:
            return None
        remote = role.remotes[server]
        current = remote.pending is args
        if current:
            remote.pending = None
            remote.confirmed = max(remote.confirmed, remote.sent_at)
        return role, remote, current

    def _appended(self, server: int, args: AppendEntriesArgs, reply: AppendEntriesReply) -> None:
        found = self._answered(server, args, reply)
        if found is None:
            return
        leader, remote, current = found
        if reply.success:
            upto = args.prev_log_index + len(args.entries)
            # The two logs agree at `most`, so they also agree on the entries of this message.
            remote.match = max(remote.match, upto)
            remote.most = max(remote.most, remote.match)
            if remote.leaves_at is not None and min(upto, args.leader_commit) >= self.store.latest[0]:
                del leader.remotes[server]  # the server knows that it was removed
            self._count_copies(leader)
        elif current and args.prev_log_index > remote.match:
            remote.most = args.prev_log_index - 1
        if remote.match < self.store.last or remote.told_commit < self.commit:
            self._tell_news()
        self.changed.notify_all()  # another change may be waiting for this one

    def _count_copies(self, leader: Leader) -> None:
        copies: dict[int, float] = {server: remote.match for server, remote in leader.remotes.items()}
        index = self.store.latest[1].reached({**copies, self.me: self.store.saved_last})
        if index > self.commit and self.store.term_of(int(index)) == self.store.term:
            self.commit = int(index)
            self._tell_news()

    # --- members ---

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        with self._alone():
            leader, term = self.role, self.store.term
            if not isinstance(leader, Leader):
                return leader.leader if isinstance(leader, Follower) else -1, term, False
            at, who = self.store.latest
            busy = at > self.commit or who.old or leader.learners is not None
            known = members and members <= set(range(len(self.peers)))
            if busy or not known or self.store.term_of(self.commit) != term:
                return -1, term, True
            leader.learners = members - who.all - {self.me}
            for server in leader.learners:
                leader.remotes.pop(server, None)
            self._look_after(leader)
            self._tell_news()
            mark, give_up = self.store.last, time.monotonic() + CATCH_UP_WITHIN
            while self.role is leader and time.monotonic() < give_up:
                now = time.monotonic()
                if all(self._has_caught_up(leader.remotes[server], mark, now) for server in leader.learners):
                    leader.learners = None
                    entry = LogEntry(term, None, "configuration", sorted(members), sorted(who.members))
                    return self._append(entry), term, True
                self.changed.wait(give_up - now)
                if self.broken is not None:
                    raise self.broken
            if self.role is leader:
                leader.learners = None
                return -1, term, True
            other = self.role
            return other.leader if isinstance(other, Follower) else -1, self.store.term, False

    def _has_caught_up(self, remote: Remote, mark: int, now: float) -> bool:
        """Whether the learner has every entry from before the request for the change, and is fast enough."""
        return remote.match >= max(mark, self.commit) and now - remote.confirmed < TIMEOUT[0]

    def _look_after(self, leader: Leader) -> None:
        now = time.monotonic()
        wanted = (self.store.latest[1].all | (leader.learners or frozenset())) - {self.me}
        for server in wanted:
            remote = leader.remotes.setdefault(server, Remote(0, self.store.last, now))
            remote.leaves_at = None
        for server in set(leader.remotes) - wanted:
            remote = leader.remotes[server]
            remote.leaves_at = remote.leaves_at or now + FAREWELL
            if now > remote.leaves_at:
                del leader.remotes[server]

    def _next_configuration(self) -> None:
        at, who = self.store.latest
        if who.old and at <= self.commit:
            self._append(LogEntry(self.store.term, None, "configuration", sorted(who.members)))

    # --- the follower ---

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self._alone():
            store, prev = self.store, args.prev_log_index
            if args.term < store.term:
                store.flush()
                return AppendEntriesReply(store.term, False)
            self._follow(args.term, args.leader_id)
            joins = prev < store.base or store.term_of(prev) == args.prev_log_term
            if joins:
                for index, entry in enumerate(args.entries, prev + 1):
                    if index > store.base and store.term_of(index) != entry.term:
                        store.put(index, args.entries[index - prev - 1 :])
                        break
                upto = min(args.leader_commit, prev + len(args.entries))
                self.commit = max(self.commit, upto)
            store.flush()
            return AppendEntriesReply(store.term, joins)

    # --- snapshots ---

    def _chunk(self, remote: Remote) -> InstallSnapshotArgs:
        store = self.store
        if remote.parcel is None:
            remote.parcel = store.base, store.base_term, store.snapshot(), store.voters[min(store.voters)]
            remote.offset = 0
        index, term, data, who = remote.parcel
        part = data[remote.offset : remote.offset + CHUNK]
        return InstallSnapshotArgs(
            term=store.term,
            leader_id=self.me,
            last_included_index=index,
            last_included_term=term,
            offset=remote.offset,
            data=part,
            done=remote.offset + len(part) >= len(data),
            members=sorted(who.members),
            old_members=sorted(who.old) or None,
        )

    def _installed(self, server: int, args: InstallSnapshotArgs, reply: InstallSnapshotReply) -> None:
        found = self._answered(server, args, reply)
        if found is None or not found[2] or found[1].parcel is None:
            return
        leader, remote, _ = found
        end = args.offset + len(args.data)
        offset = end if reply.next_offset is None else reply.next_offset
        if offset > end or (args.done and offset == end):
            remote.parcel = None
            remote.match = max(remote.match, args.last_included_index)
            remote.most = max(remote.most, remote.match)
            self._count_copies(leader)
        else:
            remote.offset = offset
        self._tell_news()

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        with self._alone():
            store, index = self.store, args.last_included_index
            if args.term < store.term:
                store.flush()
                return InstallSnapshotReply(store.term)
            self._follow(args.term, args.leader_id)
            end = args.offset + len(args.data)
            if index <= self.commit:
                store.flush()
                return InstallSnapshotReply(store.term, end + 1)
            if self.incoming[:2] != (args.term, index):
                self.incoming = (args.term, index, b"")
            data = self.incoming[2]
            if args.offset == len(data):
                data += args.data
                self.incoming = (args.term, index, data)
            if args.done and end == len(data):
                who = Voters(frozenset(args.members), frozenset(args.old_members or ())) if args.members else None
                store.cut(index, args.last_included_term, who)
                store.flush(data)
                self.commit = index
                self.incoming = (0, 0, b"")
            store.flush()
            return InstallSnapshotReply(store.term, min(end, len(data)))
