"""A Raft of labs 2A to 2F with a thread for each peer. These threads, the replicators, live as long as the server. A
separate thread sends heartbeats, which also carry the commit index.

AppendEntries is pipelined: batches are small, and several are in flight. InstallSnapshot is exactly as in Figure 13.
Configurations are looked up in the log. Every membership change is joint, and a learner joins once it lacks only a few
entries.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from log import Log, Progress
from messages import (
    AppendEntriesArgs,
    AppendEntriesReply,
    InstallSnapshotArgs,
    InstallSnapshotReply,
    LogEntry,
    RequestVoteArgs,
    RequestVoteReply,
)

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, Status, log

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes, or to "2D".
# With "2D", servers also vote while they hear a leader.
UPTO = "2F"
HEARTBEAT = 0.1
TIMEOUT = (0.4, 0.8)
BATCH = 3
WINDOW = 8
# A replicator starts over from the last acknowledged entry after this many seconds without an answer.
PATIENCE = 0.25
CHUNK = 4096
# A learner has caught up when it lacks at most CLOSE entries. This must happen within CATCH_UP_WITHIN seconds.
CLOSE = 4
CATCH_UP_WITHIN = 5.0
# How many heartbeats a removed server still gets.
FAREWELLS = 20


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
        self.others = [peer for peer in range(len(peers)) if peer != me]
        self.cond = threading.Condition(threading.Lock())
        self.disk_error: OSError | None = None

        self.term = 0
        self.voted_for: int | None = None
        self.log = Log(0, LogEntry(0, None, "configuration", sorted(members)), [])
        self._load()
        self.commit_index = self.log.base
        self.last_applied = 0
        self.role = "follower"
        self.leader = -1
        self.leader_heard = -TIMEOUT[1]
        self.asking = 0  # the number of the current round of pre-votes; answers to earlier rounds do not count
        self.changing: set[int] | None = None  # the learners that are catching up
        self.votes: set[int] = set()
        self.progress: dict[int, Progress] = {}
        self.chunks: dict[int, bytes] = {}  # the chunks of an incoming snapshot, by offset
        self.chunks_of = (0, 0)  # the leader's term and last_included_index of that snapshot
        self.deadline = time.monotonic() + random.uniform(*TIMEOUT)

        threading.Thread(target=self._elections, name="elections", daemon=True).start()
        threading.Thread(target=self._heartbeats, name="heartbeats", daemon=True).start()
        threading.Thread(target=self._applier, name="applier", daemon=True).start()
        for peer in self.others:
            threading.Thread(target=self._replicator, args=(peer,), name=f"replicator of S{peer}", daemon=True).start()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Take the lock. After a failed save, memory and disk may differ, so no thread can take the lock any more."""
        with self.cond:
            if self.disk_error is not None:
                raise self.disk_error
            yield

    # --- storage ---

    def _save(self, snapshot: bytes | None = None) -> None:
        state = {
            "term": self.term,
            "vote": self.voted_for,
            "base": self.log.base,
            "log": [list(vars(entry).values()) for entry in (self.log.stand_in, *self.log.entries)],
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
            stand_in, *entries = [LogEntry(*values) for values in state["log"]]
            self.log = Log(state["base"], stand_in, entries)

    # --- service ---

    def get_state(self) -> tuple[int, bool]:
        with self._locked():
            return self.term, self.role == "leader"

    def start(self, command: Any) -> tuple[int, int, bool]:
        with self._locked():
            if self.role != "leader":
                return -1, self.term, False
            index = self._append(LogEntry(self.term, command))
            return index, self.term, True

    def _append(self, entry: LogEntry) -> int:
        self.log.entries.append(entry)
        index = self.log.last
        self._save()
        self._look_after()
        self._count_copies()
        self.cond.notify_all()
        return index

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
                    # The log no longer has the next entry to apply, because the server has restarted or installed a
                    # snapshot.
                    self.last_applied = self.log.base
                    snapshot = self.persister.snapshot()
                    term = self.log.stand_in.term
                    messages.append(ApplyMsg(self.log.base, term, kind="snapshot", snapshot=snapshot))
                for entry in self.log.slice(self.last_applied + 1, self.commit_index + 1):
                    self.last_applied += 1
                    if entry.kind == "configuration":
                        who = frozenset(entry.voters)
                        messages.append(ApplyMsg(self.last_applied, entry.term, kind="configuration", members=who))
                    else:
                        messages.append(ApplyMsg(self.last_applied, entry.term, entry.command))
            for message in messages:
                self.apply_ch.put(message)

    # --- members ---

    def _most(self, servers: set[int]) -> bool:
        """Whether these servers are a majority of the configuration in force, which is the last one in the log."""
        _, who = self.log.configured(self.log.last)
        return all(2 * len(servers.intersection(group)) > len(group) for group in who.groups)

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        with self._locked():
            term = self.term
            if self.role != "leader":
                return self.leader, term, False
            at, who = self.log.configured(self.log.last)
            under_way = self.changing is not None or at > self.commit_index or who.old_members is not None
            if under_way or not members or not members.issubset(range(len(self.peers))):
                return -1, term, True
            if self.log.term(self.commit_index) != term:
                return -1, term, True
            learners = self.changing = set(members) - who.voters
            # A server that was a member earlier may have lost its log since then, so forget what is known of it.
            for peer in learners:
                self.progress.pop(peer, None)
            self._look_after()
            self.cond.notify_all()
            give_up = time.monotonic() + CATCH_UP_WITHIN
            while self.role == "leader" and self.term == term:
                if all(self._is_close(peer) for peer in learners):
                    self.changing = None
                    entry = LogEntry(term, None, "configuration", sorted(members), who.members)
                    return self._append(entry), term, True
                left = give_up - time.monotonic()
                if left <= 0:
                    self.changing = None
                    self._look_after()
                    return -1, term, True
                self.cond.wait(left)
            return -1 if self.leader == self.me else self.leader, self.term, False

    def _is_close(self, peer: int) -> bool:
        match = self.progress[peer].match_index
        return match > 0 and match >= self.log.last - CLOSE

    def _look_after(self) -> None:
        """Keep the progress of members and learners, and of removed servers until they know that they were removed."""
        _, who = self.log.configured(self.log.last)
        wanted = (who.voters | (self.changing or set())) - {self.me}
        for peer in wanted:
            if peer not in self.progress:
                now = time.monotonic()
                self.progress[peer] = Progress(self.log.last + 1, heard=now, answered=now)
            self.progress[peer].farewells = None
        for peer in set(self.progress) - wanted:
            if self.progress[peer].farewells is None:
                self.progress[peer].farewells = FAREWELLS

    def _settle(self) -> None:
        """Take the next step of a membership change, if the last configuration is committed."""
        at, who = self.log.configured(self.log.last)
        if at > self.commit_index:
            return
        if who.old_members is not None:
            self._append(LogEntry(self.term, None, "configuration", who.members))
        elif self.me not in who.voters:
            log("leader", "is removed, and that is committed")
            self._follow()

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
            self.changing = None
        self.role = "follower"
        self.leader = -1
        self.asking += 1
        self.cond.notify_all()

    def _hear(self, leader: int) -> None:
        self._follow()
        self._restart_timer()
        self.leader, self.leader_heard = leader, time.monotonic()

    def _has_leader(self, args: RequestVoteArgs) -> bool:
        if self.role == "leader":
            return True
        # If the leader itself asks, it no longer leads.
        return args.candidate_id != self.leader and time.monotonic() < self.leader_heard + TIMEOUT[0]

    def _log_will_do(self, args: RequestVoteArgs) -> bool:
        mine = (self.log.term(self.log.last) or 0, self.log.last)
        return (args.last_log_term, args.last_log_index) >= mine

    def _elections(self) -> None:
        while True:
            with self._locked():
                left = self.deadline - time.monotonic()
                if self.role == "leader":
                    self.cond.wait()
                elif left > 0:
                    self.cond.wait(left)
                else:
                    self._ask_first()

    def _may_stand(self) -> bool:
        for index, who in self.log.configurations(self.log.last):
            if self.me in who.voters:
                return True
            if index <= self.commit_index:
                break
        return False

    def _ask_first(self) -> None:
        self._restart_timer()
        self.leader, self.leader_heard = -1, -TIMEOUT[1]
        self.asking += 1
        if self._may_stand():
            if UPTO < "2F":
                self._stand()
                return
            args = RequestVoteArgs(self.term + 1, self.me, self.log.last, self.log.term(self.log.last) or 0)
            yes = {self.me}
            _, who = self.log.configured(self.log.last)
            for peer in who.voters - {self.me}:
                threading.Thread(target=self._would_you, args=(peer, args, self.asking, yes), daemon=True).start()
            if self._most(yes):
                self._stand()

    def _would_you(self, peer: int, args: RequestVoteArgs, asking: int, yes: set[int]) -> None:
        reply = self.peers[peer].call("pre_vote", args)
        if reply is None:
            return
        with self._locked():
            # All Servers 2 of Figure 2 applies to every reply here, since no server answers with a term that it is not in.
            self._see(reply.term)
            if reply.vote_granted and self.asking == asking:
                yes.add(peer)
                if self._most(yes):
                    self._stand()

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._locked():
            free = args.term == self.term and self.voted_for in (None, args.candidate_id)
            granted = (args.term > self.term or free) and self._log_will_do(args) and not self._has_leader(args)
            return RequestVoteReply(self.term, granted)

    def _stand(self) -> None:
        self.role = "candidate"
        self.asking += 1
        self.term += 1
        self.voted_for = self.me
        self._save()
        self.votes = {self.me}
        self._restart_timer()
        log("election", f"stands in term {self.term}")
        args = RequestVoteArgs(self.term, self.me, self.log.last, self.log.term(self.log.last) or 0)
        _, who = self.log.configured(self.log.last)
        for peer in who.voters - {self.me}:
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
        if self._most(self.votes):
            self.role = "leader"
            self.leader = self.me
            self.asking += 1
            self.progress = {}
            self._look_after()
            self.cond.notify_all()
            self._settle()

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self._locked():
            if UPTO >= "2E" and args.term > self.term and self._has_leader(args):
                return RequestVoteReply(self.term, False)
            self._see(args.term)
            free = args.term == self.term and self.voted_for in (None, args.candidate_id)
            granted = free and self._log_will_do(args)
            if granted:
                if self.voted_for is None:
                    self.voted_for = args.candidate_id
                    self._save()
                self._restart_timer()
            return RequestVoteReply(self.term, granted)

    # --- heartbeats: they never wait for entries, and entries never wait for them ---

    def _heartbeats(self) -> None:
        while True:
            with self._locked():
                while self.role != "leader":
                    self.cond.wait()
                recently = time.monotonic() - TIMEOUT[1]
                if UPTO >= "2F" and not self._most(
                    {self.me} | {peer for peer, each in self.progress.items() if each.answered > recently}
                ):
                    log("leader", "no majority has answered of late")
                    self._follow()
                    continue
                for peer, progress in list(self.progress.items()):
                    if progress.farewells is not None:
                        progress.farewells -= 1
                        if progress.farewells < 0:
                            del self.progress[peer]
                            continue
                    # prev is the last acknowledged entry, so that the follower can commit up to it. If there is none, prev
                    # is index 0.
                    prev = progress.match_index
                    prev_term = self.log.term(prev)
                    if prev_term is None:
                        prev, prev_term = 0, 0
                    args = AppendEntriesArgs(self.term, self.me, prev, prev_term, [], self.commit_index)
                    threading.Thread(target=self._beat, args=(peer, args), daemon=True).start()
            time.sleep(HEARTBEAT)

    def _beat(self, peer: int, args: AppendEntriesArgs) -> None:
        reply = self.peers[peer].call("append_entries", args)
        if reply is None:
            return
        with self._locked():
            self._see(reply.term)
            progress = self.progress.get(peer)
            if self.role == "leader" and self.term == args.term and progress is not None:
                progress.answered = time.monotonic()
                at, _ = self.log.configured(self.log.last)
                if (
                    progress.farewells is not None
                    and reply.success
                    and min(args.leader_commit, args.prev_log_index) >= at
                ):
                    del self.progress[peer]

    # --- replication, the leader's side ---

    def _replicator(self, peer: int) -> None:
        """The thread that replicates to one server, in every term in which we lead."""
        while True:
            with self._locked():
                progress = self.progress.get(peer)
                if self.role != "leader" or progress is None:
                    self.cond.wait()
                    continue
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
            # A call may take seconds, so each call has a thread of its own, and the replicator goes on meanwhile.
            threading.Thread(target=self._carry, args=work, daemon=True).start()

    def _start_over(self, progress: Progress, next_index: int) -> None:
        progress.next_index = max(next_index, progress.match_index + 1)
        progress.streaming = False
        progress.window = 1
        progress.on_the_way = 0
        progress.attempt += 1

    def _next_job(self, progress: Progress) -> tuple[str, Any] | None:
        """The next message and its kind; None if there is nothing to send now."""
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
            progress.sending = (self.log.base, self.log.stand_in, self.persister.snapshot())
            progress.offset = 0
            progress.streaming = False
        index, stand_in, data = progress.sending
        part = data[progress.offset : progress.offset + CHUNK]
        done = progress.offset + len(part) == len(data)
        who = stand_in.members, stand_in.old_members
        return InstallSnapshotArgs(self.term, self.me, index, stand_in.term, progress.offset, part, done, *who)

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
            if reply is not None:
                progress.answered = time.monotonic()
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
            # The message overtook an earlier one, or the logs differ. Probe again, but never before the last acknowledged
            # entry.
            back = min(args.prev_log_index, reply.try_index or args.prev_log_index)
            self._start_over(progress, back)

    def _chunk_arrived(self, progress: Progress, args: InstallSnapshotArgs) -> None:
        """Note that a server has received a chunk. The reply to the next AppendEntries shows whether it has the whole
        snapshot."""
        progress.offset = args.offset + len(args.data)
        if args.done:
            progress.sending = None
            self._start_over(progress, args.last_included_index + 1)

    def _count_copies(self) -> None:
        match = {peer: progress.match_index for peer, progress in self.progress.items()}
        match[self.me] = self.log.last
        _, who = self.log.configured(self.log.last)
        index = min(sorted(match.get(peer, 0) for peer in group)[(len(group) - 1) // 2] for group in who.groups)
        if index > self.commit_index and self.log.term(index) == self.term:
            self.commit_index = index
            self.cond.notify_all()
            self._settle()

    # --- replication, the follower's side ---

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        with self._locked():
            self._see(args.term)
            if args.term < self.term:
                return AppendEntriesReply(self.term, False)
            self._hear(args.leader_id)
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
        """Store the new entries. Returns whether there were any."""
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
            self._hear(args.leader_id)
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
            return  # a part is missing; the leader will notice and send everything again
        self.chunks = {}
        told = LogEntry(0, None, "configuration", args.members, args.old_members) if args.members else None
        self.log.compact(args.last_included_index, args.last_included_term, told)
        self._save(data + args.data)
        self.commit_index = args.last_included_index
        self.cond.notify_all()
