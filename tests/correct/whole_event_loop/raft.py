"""A Raft of labs 2A to 2G with an event loop. One thread owns all state and takes events from an inbox, so this file has no
lock. Events are handled in groups: first all events of a group, then one save, and then the replies, the messages and the
entries to apply.

A new leader appends a no-op. The configurations in the log are kept on a stack. Adding or removing one server is a change in
one step; every other change is joint. Learners catch up in rounds (dissertation §4.2.1). A leader counts the servers that
answer, and steps down if they are not a majority.
"""

from __future__ import annotations

import pickle
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from durable import Configuration, DurableState, told
from messages import (
    AppendEntriesArgs,
    AppendEntriesReply,
    InstallSnapshotArgs,
    InstallSnapshotReply,
    LogEntry,
    RequestVoteArgs,
    RequestVoteReply,
    TimeoutNowArgs,
    TimeoutNowReply,
)
from views import Change, Round, Shipment, View

from raftlab.api import ApplyChannel, ApplyMsg, Peer, Persister, log

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes, or to "2D".
# With "2D", servers also vote while they hear a leader.
UPTO = "2F"
HEARTBEAT = 0.09
TIMEOUT = (0.35, 0.7)
MOST_EVENTS = 32
MOST_ENTRIES = 64
CHUNK = 4096
# A learner must catch up within ROUNDS rounds, and all rounds together may take CATCH_UP_WITHIN seconds.
ROUNDS = 10
CATCH_UP_WITHIN = 6.0
# For how many seconds a leader tries to tell a server that it was removed.
FAREWELL = 3.0


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
        self.inbox: queue.Queue[Callable[[], None]] = queue.Queue()
        self.to_service: queue.Queue[ApplyMsg] = queue.Queue()
        # Used only by the loop's thread.
        saved = persister.state()
        self.durable: DurableState = pickle.loads(saved) if saved else DurableState([Configuration(0, members)])
        self.snapshot_bytes = persister.snapshot()
        self.commit_index = self.last_applied = self.durable.base
        self.role = "follower"
        self.leader = -1
        self.leader_heard_at = -TIMEOUT[1]
        self.question: RequestVoteArgs | None = None  # the pre-vote request under way
        self.yeses: set[int] = set()
        self.votes: set[int] = set()
        self.views: dict[int, View] = {}
        self.leaving: dict[int, float] = {}  # removed servers, and until when they still get messages
        self.answered: set[int] = set()  # servers that have answered this leader since `counted_at`
        self.counted_at = 0.0
        self.change: Change | None = None
        # The server that this leader hands over to, the time until which the leader tries, and whether it has sent that
        # server a TimeoutNow since the last heartbeat.
        self.heir: int | None = None
        self.heir_until = 0.0
        self.heir_told = False
        self.incoming: Shipment | None = None
        self.alarm = time.monotonic() + random.uniform(*TIMEOUT)
        # The changes that the current events have caused, and the messages to send once these changes are saved.
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

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        answer: queue.Queue[Any] = queue.Queue()
        self.inbox.put(lambda: self._on_change(members, answer))
        return answer.get()

    def transfer_leadership(self, target: int) -> tuple[int, int, bool]:
        return self._ask(self._on_transfer, target)

    def timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        return self._ask(self._on_timeout_now, args)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return self._ask(self._on_request_vote, args)

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return self._ask(self._on_pre_vote, args)

    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        return self._ask(self._on_append_entries, args)

    def install_snapshot(self, args: InstallSnapshotArgs) -> InstallSnapshotReply:
        return self._ask(self._on_install_snapshot, args)

    def _serve(self) -> None:
        """Pass entries to the service. This runs in a thread of its own, because the service may be slow."""
        while True:
            self.apply_ch.put(self.to_service.get())

    # --- the loop's thread ---

    def _loop(self) -> None:
        # A failed save ends this thread, so nothing is answered any more.
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
        """Save if there is something to save; then send what waited for it."""
        self._save()
        if self.change is not None:
            self._go_on_with_change(self.change)
            self._save()
        if self.role == "leader":
            self._advance_commit()
            self._save()
            self._replicate()
            self._tell_heir()
            self._retire_if_removed()
        for answer, value in self.answers:
            answer.put(value)
        for message in self.messages:
            threading.Thread(target=self._carry, args=message, daemon=True).start()
        for msg in self.applies:
            self.to_service.put(msg)
        self.answers, self.messages, self.applies = [], [], []

    def _save(self) -> None:
        if self.unsaved:
            self.persister.save(pickle.dumps(self.durable), self.unsaved_snapshot)
            self.unsaved, self.unsaved_snapshot = False, None

    def _carry(self, peer: int, method: str, args: Any, then: Callable[[int, Any, Any], None]) -> None:
        reply = self.peers[peer].call(method, args)
        self.inbox.put(lambda: then(peer, args, reply))

    def _rang(self) -> None:
        if self.role != "leader":
            self._ask_for_pre_votes()
            return
        now = time.monotonic()
        if UPTO >= "2F" and now - self.counted_at >= TIMEOUT[1]:
            if not self.durable.configuration.agrees(self.answered | {self.me}):
                log("leader", f"is answered by {sorted(self.answered)} only, gives up term {self.durable.current_term}")
                self._resign()
                return
            self.answered, self.counted_at = set(), now
        self.leaving = {peer: until for peer, until in self.leaving.items() if until > now}
        self._look_after()
        self.heir_told = False
        self.alarm = now + HEARTBEAT
        for peer in self.views:
            self._send_news(peer)

    def _restart_timer(self) -> None:
        self.alarm = time.monotonic() + random.uniform(*TIMEOUT)

    def _see(self, term: int) -> None:
        """Figure 2, All Servers: become a follower if this term is higher."""
        if term > self.durable.current_term:
            self.durable.current_term, self.durable.voted_for_candidate = term, None
            self.unsaved = True
            self._resign()

    def _resign(self) -> None:
        if self.role == "leader":
            self._restart_timer()  # while this server led, the timer was set for the next heartbeat
        self.role = "follower"
        self.leader = -1
        self.heir = None
        self.question = None

    # --- elections ---

    def _hears_leader(self, asker: int) -> bool:
        """A server that hears a leader refuses candidates. If the leader itself asks, it no longer leads."""
        if self.role == "leader":
            return True
        return asker != self.leader and time.monotonic() - self.leader_heard_at < TIMEOUT[0]

    def _up_to_date(self, args: RequestVoteArgs) -> bool:
        mine = self.durable
        return (args.last_log_term, args.last_log_index) >= (mine.term_of(mine.last), mine.last)

    def _may_stand(self) -> bool:
        """Whether we vote in the last configuration known to be committed, or in a later one."""
        stack = self.durable.configurations
        known = max(number for number, each in enumerate(stack) if number == 0 or each.index <= self.commit_index)
        return any(self.me in each.voters for each in stack[known:])

    def _ask_for_pre_votes(self) -> None:
        self._restart_timer()
        self.leader, self.leader_heard_at = -1, -TIMEOUT[1]
        if not self._may_stand():
            return
        if UPTO < "2F":
            self._campaign()
            return
        mine = self.durable
        self.question = RequestVoteArgs(mine.current_term + 1, self.me, mine.last, mine.term_of(mine.last))
        self.yeses = {self.me}
        for peer in mine.configuration.voters - {self.me}:
            self.messages.append((peer, "pre_vote", self.question, self._on_pre_voted))
        if mine.configuration.agrees(self.yeses):
            self._campaign()

    def _on_pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        mine = self.durable
        free = args.term > mine.current_term or (
            args.term == mine.current_term and mine.voted_for_candidate in (None, args.candidate_id)
        )
        granted = free and self._up_to_date(args) and not self._hears_leader(args.candidate_id)
        return RequestVoteReply(mine.current_term, granted)

    def _on_pre_voted(self, peer: int, args: RequestVoteArgs, reply: RequestVoteReply | None) -> None:
        if reply is None:
            return
        if not reply.vote_granted:
            self._see(reply.term)
        elif self.question is args:
            self.yeses.add(peer)
            if self.durable.configuration.agrees(self.yeses):
                self._campaign()

    def _on_request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        mine = self.durable
        wanted = UPTO < "2E" or args.leadership_transfer
        if not wanted and args.term > mine.current_term and self._hears_leader(args.candidate_id):
            return RequestVoteReply(mine.current_term, False)
        self._see(args.term)
        granted = (
            args.term == mine.current_term
            and mine.voted_for_candidate in (None, args.candidate_id)
            and self._up_to_date(args)
        )
        if granted:
            if mine.voted_for_candidate is None:
                mine.voted_for_candidate = args.candidate_id
                self.unsaved = True
            self._restart_timer()
        return RequestVoteReply(mine.current_term, granted)

    def _campaign(self, told: bool = False) -> None:
        mine = self.durable
        mine.current_term += 1
        mine.voted_for_candidate = self.me
        self.unsaved = True
        self.role = "candidate"
        self.question = None
        self.votes = {self.me}
        self._restart_timer()
        log("election", f"term {mine.current_term}")
        args = RequestVoteArgs(mine.current_term, self.me, mine.last, mine.term_of(mine.last), told)
        for peer in mine.configuration.voters - {self.me}:
            self.messages.append((peer, "request_vote", args, self._on_vote))
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
        mine = self.durable
        if not mine.configuration.agrees(self.votes):
            return
        self.role = "leader"
        self.leader = self.me
        self.question = None
        self.views = {}
        # Servers that the last change removed may not know yet that they were removed.
        now = time.monotonic()
        before = mine.configurations[-2].voters if len(mine.configurations) > 1 else frozenset()
        self.leaving = dict.fromkeys(before - mine.configuration.voters - {self.me}, now + FAREWELL)
        self._look_after()
        self.answered, self.counted_at = set(), now
        self._append(LogEntry(mine.current_term, None, "noop"))
        self.alarm = now  # the first heartbeats go out at once
        log("leader", f"term {mine.current_term}")

    # --- the leader's side of replication ---

    def _append(self, entry: LogEntry) -> None:
        self.durable.replace_behind(self.durable.last, [entry])
        self.unsaved = True

    def _on_start(self, command: Any) -> tuple[int, int, bool]:
        mine = self.durable
        if self.role != "leader":
            return -1, mine.current_term, False
        if self._hands_over():
            return -1, mine.current_term, True
        self._append(LogEntry(mine.current_term, command))
        return mine.last, mine.current_term, True

    def _replicate(self) -> None:
        for peer, view in self.views.items():
            if view.unanswered is None and view.next_index <= self.durable.last:
                self._send_news(peer)

    def _send_news(self, peer: int) -> None:
        """Send the entries that the server lacks, or a chunk of the snapshot, or else a heartbeat."""
        view, mine = self.views[peer], self.durable
        if view.shipment is None and view.next_index <= mine.base:
            term = mine.term_of_last_entry_in_snapshot
            view.shipment = Shipment(mine.current_term, mine.base, term, self.snapshot_bytes, mine.configurations[0])
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
        """The view of the peer, if there is a reply and it belongs to our present term as leader."""
        if reply is not None:
            self._see(reply.term)
        if self.role != "leader" or args.term != self.durable.current_term:
            return None
        if reply is not None:
            self.answered.add(peer)
        view = self.views.get(peer)
        if view is not None and view.unanswered is args:
            # A lost message is sent again with the next heartbeat.
            view.unanswered = args if reply is None else None
        return view if reply is not None else None

    def _on_appended(self, peer: int, args: AppendEntriesArgs, reply: AppendEntriesReply | None) -> None:
        view = self._leads(peer, args, reply)
        if view is None or reply is None:
            return
        if reply.success:
            view.match_index = max(view.match_index, args.prev_log_index + len(args.entries))
            view.next_index = max(view.next_index, view.match_index + 1)
            if peer in self.leaving and min(args.leader_commit, view.match_index) >= self.durable.configuration.index:
                del self.leaving[peer]
                self._look_after()
        elif args.prev_log_index == view.next_index - 1 and view.shipment is None:
            view.next_index = max(view.match_index + 1, min(args.prev_log_index, self._retreat(args, reply)))
            self._send_news(peer)

    def _retreat(self, args: AppendEntriesArgs, reply: AppendEntriesReply) -> int:
        """The next_index to try after a refusal."""
        if reply.conflict_index is None:
            return args.prev_log_index
        if reply.conflict_term is not None:
            for index in range(args.prev_log_index, self.durable.base, -1):
                if self.durable.term_of(index) == reply.conflict_term:
                    return index + 1
        return max(1, reply.conflict_index)

    def _advance_commit(self) -> None:
        mine = self.durable
        for index in range(mine.last, self.commit_index, -1):
            if mine.term_of(index) != mine.current_term:
                break
            if mine.configuration.agrees(
                {self.me} | {peer for peer, view in self.views.items() if view.match_index >= index}
            ):
                self._commit(index)
                break
        current = mine.configuration
        if current.old is not None and current.index <= self.commit_index:
            self._append_configuration(Configuration(0, current.new))
            self._save()
            self._advance_commit()

    # --- handing over ---

    def _hands_over(self) -> bool:
        if self.heir is not None and time.monotonic() >= self.heir_until:
            self.heir = None
        return self.heir is not None

    def _on_transfer(self, target: int) -> tuple[int, int, bool]:
        term, configuration = self.durable.current_term, self.durable.configuration
        if self.role != "leader":
            return self.leader, term, False
        votes = target in configuration.new and (configuration.old is None or target in configuration.old)
        if target == self.me or not votes or self._hands_over():
            return -1, term, True
        self.heir, self.heir_told = target, False
        self.heir_until = time.monotonic() + random.uniform(*TIMEOUT)
        return target, term, True

    def _tell_heir(self) -> None:
        """Send a TimeoutNow if the heir has every entry. This is called after each group of events, because the heir may
        just have caught up. After each heartbeat the message is sent again, because it may have been lost."""
        if not self._hands_over() or self.heir_told or self.heir is None or self.heir not in self.views:
            return
        if self.views[self.heir].match_index == self.durable.last:
            self.heir_told = True
            args = TimeoutNowArgs(self.durable.current_term, self.me)
            self.messages.append((self.heir, "timeout_now", args, self._on_told))

    def _on_told(self, peer: int, args: TimeoutNowArgs, reply: TimeoutNowReply | None) -> None:
        if reply is not None:
            self._see(reply.term)

    def _on_timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        mine = self.durable
        if args.term >= mine.current_term and self.me in mine.configuration.voters:
            self._see(args.term)
            if self.role != "leader":
                self._campaign(told=True)
        return TimeoutNowReply(mine.current_term)

    # --- members ---

    def _look_after(self) -> None:
        """Keep a view of exactly those servers that get messages: voters, learners, and servers that were removed lately."""
        learners = set(self.change.rounds) if self.change is not None else set()
        wanted = (self.durable.configuration.voters | learners | set(self.leaving)) - {self.me}
        for peer in wanted - set(self.views):
            self.views[peer] = View(self.durable.last + 1)
        for peer in set(self.views) - wanted:
            del self.views[peer]

    def _on_change(self, members: frozenset[int], answer: queue.Queue[Any]) -> None:
        mine = self.durable
        if self.role != "leader":
            self.answers.append((answer, (self.leader, mine.current_term, False)))
            return
        exist = bool(members) and members <= set(range(len(self.peers)))
        settled = mine.configuration.index <= self.commit_index and mine.configuration.old is None
        own_term = mine.term_of(self.commit_index) == mine.current_term
        if self.change is not None or not exist or not settled or not own_term or self._hands_over():
            self.answers.append((answer, (-1, mine.current_term, True)))
            return
        now = time.monotonic()
        self.change = Change(mine.current_term, members, answer, now + CATCH_UP_WITHIN)
        for peer in members - mine.configuration.voters:
            self.change.rounds[peer] = Round(1, mine.last, now)
            self.leaving.pop(peer, None)
            self.views.pop(peer, None)
        self._look_after()

    def _go_on_with_change(self, change: Change) -> None:
        """Check whether the learners have caught up, or have run out of time."""
        mine, now = self.durable, time.monotonic()
        if self.role != "leader" or mine.current_term != change.term:
            self._end_change(change, (self.leader, mine.current_term, False))
            return
        ready = True
        for peer, this in change.rounds.items():
            view = self.views[peer]
            if view.match_index < this.target or not view.match_index:
                ready = False
            elif now - this.since > TIMEOUT[0]:
                change.rounds[peer] = Round(this.number + 1, mine.last, now)
                ready = False
        if ready and self._hands_over():
            self._end_change(change, (-1, mine.current_term, True))
        elif ready:
            old = mine.configuration.new
            both = old if len(old ^ change.members) > 1 else None
            self._append_configuration(Configuration(0, change.members, both))
            self._end_change(change, (mine.last, mine.current_term, True))
        elif now >= change.until or any(this.number > ROUNDS for this in change.rounds.values()):
            self._end_change(change, (-1, mine.current_term, True))

    def _end_change(self, change: Change, answer: tuple[int, int, bool]) -> None:
        self.change = None
        self.answers.append((change.answer, answer))
        self._look_after()

    def _append_configuration(self, configuration: Configuration) -> None:
        before = self.durable.configuration.voters
        self._append(LogEntry(self.durable.current_term, None, "configuration", **configuration.fields()))
        until = time.monotonic() + FAREWELL
        self.leaving |= dict.fromkeys(before - configuration.voters - {self.me}, until)
        self._look_after()

    def _retire_if_removed(self) -> None:
        current = self.durable.configuration
        if current.index <= self.commit_index and self.me not in current.voters:
            # Send everybody one more message, which says that the entry is committed.
            for peer in self.views:
                self._send_news(peer)
            self._resign()

    # --- the follower's side ---

    def _hear(self, leader: int) -> None:
        self.role = "follower"
        self.leader, self.leader_heard_at = leader, time.monotonic()
        self.question = None
        self._restart_timer()

    def _on_append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        self._see(args.term)
        mine = self.durable
        if args.term < mine.current_term:
            return AppendEntriesReply(mine.current_term, False)
        self._hear(args.leader_id)
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
            voters = None
            if entry.members is not None:
                voters = frozenset(entry.members) | frozenset(entry.old_members or ())
            self.applies.append(
                ApplyMsg(self.last_applied, entry.term, entry.command, entry.kind, members=voters)  # type: ignore[arg-type]
            )

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
            **(parcel.configuration.fields() if parcel.configuration is not None else {}),
        )
        view.unanswered = args
        self.messages.append((peer, "install_snapshot", args, self._on_installed))

    def _on_installed(self, peer: int, args: InstallSnapshotArgs, reply: InstallSnapshotReply | None) -> None:
        view = self._leads(peer, args, reply)
        if view is None or reply is None or view.shipment is None:
            return
        parcel = view.shipment
        if (parcel.index, parcel.offset) != (args.last_included_index, args.offset):
            return  # this is the answer to a duplicate
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
        self._hear(args.leader_id)
        end = args.offset + len(args.data)
        if args.last_included_index <= self.commit_index:
            return InstallSnapshotReply(term, end)  # this server has committed everything that the snapshot covers
        parcel = self.incoming
        if parcel is None or (parcel.leader_term, parcel.index) != (args.term, args.last_included_index):
            who = told(args.last_included_index, args.members, args.old_members) if args.members else None
            parcel = Shipment(args.term, args.last_included_index, args.last_included_term, b"", who)
            self.incoming = parcel
        if args.offset == len(parcel.data):
            parcel.data += args.data
            if args.done:
                self._install(parcel)
        return InstallSnapshotReply(term, min(end, len(parcel.data)))

    def _install(self, parcel: Shipment) -> None:
        self.durable.cut(parcel.index, parcel.index_term, parcel.configuration)
        self._keep_snapshot(parcel.data)
        self.commit_index = self.last_applied = parcel.index
        self.applies.append(self._snapshot_message())
        self.incoming = None
