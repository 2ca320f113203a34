"""The state machine of a server. It has no threads, no clock and no disk. Its owner passes it ticks, requests and replies.
It leaves the requests to send in ``outbox`` and returns the reply. The owner sends a reply only once everything before it is
saved."""

from __future__ import annotations

import random
from collections.abc import Callable

from log import Config, Log
from messages import (
    AppendArgs,
    AppendReply,
    Entry,
    InstallArgs,
    InstallReply,
    Outgoing,
    TimeoutNowArgs,
    TimeoutNowReply,
    VoteArgs,
    VoteReply,
)
from progress import Progress, Transfer

HEARTBEAT_TICKS = 2
ELECTION_TICKS = 8
QUORUM_TICKS = 16
LEAVING_TICKS = 60
MOST_ENTRIES = 64
CHUNK = 4096


class Core:
    """One server.

    Args:
        me: its number.
        log: its log.
        lease: whether it ignores candidates while it hears a leader (lab 2E).
        careful: whether it asks for pre-votes and, as a leader, checks that a quorum answers (lab 2F).
        note: a function that writes a line into the trace.
    """

    def __init__(self, me: int, log: Log, lease: bool, careful: bool, note: Callable[[str, str], None]) -> None:
        self.me = me
        self.log = log
        self.lease = lease
        self.careful = careful
        self.note = note
        self.term = 0
        self.vote = -1
        self.commit = log.base
        self.role = "follower"
        self.leader = -1
        self.elapsed = 0
        self.heartbeat_elapsed = 0
        self.timeout = self._draw()
        self.votes: set[int] = set()
        self.question: VoteArgs | None = None
        self.progress: dict[int, Progress] = {}
        self.target = -1  # the server that this leader hands over to; `target_ticks` are the ticks left for it
        self.target_ticks = 0
        # The number of the last round of heartbeats, the first round in which this leader asks the others not to vote ("to
        # be quiet"), and whether it may have a lease.
        self.round = 0
        self.quiet_from: int | None = None
        self.may_lease = True
        # Whether any leader has ever asked this server to be quiet, the term of the last one that did, and for how many more
        # ticks this server must be quiet.
        self.sworn = False
        self.sworn_to = 0
        self.quiet_ticks = 0
        self.outbox: list[Outgoing] = []
        # The snapshot's last index and term. The log may still have a few entries that the snapshot covers.
        self.snapshot_index = log.base
        self.snapshot_term = log.base_term
        self.snapshot_data = b""
        self.incoming: tuple[int, int, bytes] = (
            0,
            0,
            b"",
        )  # the snapshot that is arriving: leader's term, last index, data so far
        # What the owner must do: save the state, save a new snapshot, send entries to all.
        self.dirty = False
        self.new_snapshot = False
        self.fan_out = False

    # --- roles ---

    @staticmethod
    def _draw() -> int:
        return random.randrange(ELECTION_TICKS, 2 * ELECTION_TICKS)

    def _reset(self, term: int) -> None:
        if term != self.term:
            self.term, self.vote = term, -1
            self.dirty = True
        self.leader = -1
        self.elapsed = self.heartbeat_elapsed = 0
        self.timeout = self._draw()
        self.votes = set()
        self.question = None
        self.progress = {}
        self.target = -1

    def _follow(self, term: int, leader: int) -> None:
        if self.role == "leader":
            self.note("leader", f"steps down, now in term {term}")
        self._reset(term)
        self.role, self.leader = "follower", leader

    def _may_stand(self) -> bool:
        """Whether this server votes in the last committed configuration or in a later one."""
        later = [each for each in self.log.configs if each.index > self.commit]
        return any(self.me in each.voters for each in (self.log.config_at(self.commit), *later))

    def tick(self) -> None:
        self.elapsed += 1
        self.quiet_ticks -= 1
        if self.role == "leader":
            self._tick_leader()
        elif self.elapsed >= self.timeout:
            self.elapsed = 0
            if not self._may_stand():
                self.leader = -1
            elif self.careful:
                self._ask()
            else:
                self._campaign()

    def _tick_leader(self) -> None:
        for peer, progress in list(self.progress.items()):
            if progress.leaving is not None:
                progress.leaving -= 1
                if progress.leaving <= 0:
                    del self.progress[peer]
        self.target_ticks -= 1
        if self.target_ticks <= 0:
            self.target = -1
        if self.elapsed >= QUORUM_TICKS:
            self.elapsed = 0
            answered = {self.me, *(peer for peer, progress in self.progress.items() if progress.active)}
            if self.careful and not self.log.config.quorum(answered):
                self._follow(self.term, -1)
                return
            for progress in self.progress.values():
                progress.active = False
        self.heartbeat_elapsed += 1
        if self.heartbeat_elapsed >= HEARTBEAT_TICKS:
            self.heartbeat_elapsed = 0
            self.begin_round()

    # --- elections ---

    def _end_of_log(self) -> tuple[int, int]:
        return self.log.term(self.log.last), self.log.last

    def _request(self, term: int, told: bool = False) -> VoteArgs:
        return VoteArgs(term, self.me, self.log.last, self.log.term(self.log.last), told)

    def _ask(self) -> None:
        """Ask for pre-votes. Neither the term nor the vote changes."""
        self.role, self.leader = "pre-candidate", -1
        self.timeout = self._draw()
        self.votes = {self.me}
        self.question = self._request(self.term + 1)
        if self.log.config.quorum(self.votes):
            self._campaign()
            return
        for peer in sorted(self.log.config.voters - {self.me}):
            self.outbox.append(Outgoing(peer, "pre_vote", self.question))

    def _campaign(self, told: bool = False) -> None:
        """Stand for election. The requests leave at once. This server's own vote counts once it is saved (:meth:`saved`)."""
        self._reset(self.term + 1)
        self.role, self.vote = "candidate", self.me
        self.note("election", f"term {self.term}")
        for peer in sorted(self.log.config.voters - {self.me}):
            self.outbox.append(Outgoing(peer, "request_vote", self._request(self.term, told)))

    def saved(self, term: int, vote: int, last: int, last_term: int) -> None:
        """Take note that everything up to this term, vote and entry is on the disk."""
        if self.log.stable < last and self.log.term(last) == last_term:
            self.log.stable = last
        if self.role == "candidate" and (term, vote) == (self.term, self.me):
            self._count_vote(self.me)
        elif self.role == "leader" and self._advance():
            self.fan_out = True

    def _count_vote(self, voter: int) -> None:
        self.votes.add(voter)
        # A server must not lead before its own vote is saved. After a crash it could otherwise be elected in this term
        # again.
        if self.me in self.votes and self.log.config.quorum(self.votes):
            self._lead()

    def _lead(self) -> None:
        self._reset(self.term)
        self.role, self.leader = "leader", self.me
        self.quiet_from, self.may_lease = None, True
        self.note("leader", f"of term {self.term}")
        before = self.log.configs[-2].voters if len(self.log.configs) > 1 else frozenset()
        for peer in sorted((self.log.config.voters | before) - {self.me}):
            leaving = None if peer in self.log.config.voters else LEAVING_TICKS
            self.progress[peer] = Progress(self.log.last + 1, active=True, leaving=leaving)
        self.propose(Entry(self.term, None, "noop"))

    def _in_lease(self, candidate: int) -> bool:
        """Whether there is a leader, as far as this server knows. If that leader asks, it no longer leads."""
        return self.role == "leader" or (self.leader not in (-1, candidate) and self.elapsed < ELECTION_TICKS)

    def on_vote(self, args: VoteArgs, pre: bool) -> VoteReply:
        protected = (pre or self.lease) and not args.leadership_transfer
        if args.term > self.term and protected and self._in_lease(args.candidate_id):
            return VoteReply(self.term, False)
        if self.quiet_ticks > 0 and args.term > self.sworn_to and not args.leadership_transfer:
            return VoteReply(self.term, False)
        newer = (args.last_log_term, args.last_log_index) >= self._end_of_log()
        if pre and args.term > self.term:
            return VoteReply(args.term if newer else self.term, newer)
        if args.term > self.term:
            self._follow(args.term, -1)
        free = self.vote == args.candidate_id or (self.vote == -1 and self.leader == -1)
        if args.term < self.term or not free or not newer or (pre and self._in_lease(args.candidate_id)):
            return VoteReply(self.term, False)
        if not pre:
            self.elapsed = 0
            self.dirty = self.dirty or self.vote == -1
            self.vote = args.candidate_id
        return VoteReply(self.term, True)

    def on_voted(self, peer: int, args: VoteArgs, reply: VoteReply, pre: bool) -> None:
        if reply.term > self.term and not (pre and reply.vote_granted):
            self._follow(reply.term, -1)
        if not reply.vote_granted:
            return
        if pre:
            if self.role == "pre-candidate" and self.question is args:
                self.votes.add(peer)
                if self.log.config.quorum(self.votes):
                    self._campaign()
        elif self.role == "candidate" and args.term == self.term:
            self._count_vote(peer)

    # --- the leader ---

    def propose(self, entry: Entry) -> int:
        """Append an entry. It is sent when the owner calls :meth:`send_all`."""
        self.log.append([entry])
        self.dirty = self.fan_out = True
        return self.log.last

    def send_all(self) -> None:
        """Send new entries and a new commit index to all."""
        self.fan_out = False
        if self.role == "leader":
            for peer in list(self.progress):
                self._send_append(peer, True)

    def _send_heartbeat(self, peer: int) -> None:
        """Send a heartbeat, whose prev and commit index are not beyond the entries that ``peer`` is known to have."""
        match = self.progress[peer].match
        if self.log.term(match) < 0:
            match = 0  # the log no longer has that entry
        prev_term, quiet = self.log.term(match) if match else 0, self.quiet_from is not None
        args = AppendArgs(self.term, self.me, match, prev_term, [], min(match, self.commit), self.round, quiet)
        self.outbox.append(Outgoing(peer, "append_entries", args, heartbeat=True))

    def _send_append(self, peer: int, even_if_empty: bool) -> bool:
        progress = self.progress.get(peer)
        if progress is None or progress.waits():
            return False
        prev = progress.next - 1
        if self.log.term(prev) < 0:
            return progress.active and self._send_snapshot(peer, progress)
        entries = self.log.slice(progress.next, progress.next + MOST_ENTRIES)
        if not entries and not even_if_empty:
            return False
        if progress.state == "replicate":
            if entries:
                progress.next += len(entries)
                progress.inflight.append(progress.next - 1)
        else:
            progress.paused = True
        args = AppendArgs(self.term, self.me, prev, self.log.term(prev), entries, self.commit)
        self.outbox.append(Outgoing(peer, "append_entries", args))
        return True

    def on_appended(self, sent: Outgoing, reply: AppendReply | None) -> None:
        args: AppendArgs = sent.args
        if reply is not None and reply.term > self.term:
            self._follow(reply.term, -1)
        progress = self.progress.get(sent.to)
        if self.role != "leader" or args.term != self.term or progress is None:
            return
        end = args.prev_log_index + len(args.entries)
        if reply is None:
            if progress.state == "replicate" and end in progress.inflight:
                progress.become("probe")
            return
        progress.active = True
        progress.round = max(progress.round, args.round)
        if sent.heartbeat:
            progress.paused = False
            progress.inflight = progress.inflight[1:] if len(progress.inflight) > 1 else progress.inflight
            if progress.match < self.log.last or progress.state == "probe":
                self._send_append(sent.to, True)
            return
        if not reply.success:
            hint = args.prev_log_index - 1
            if reply.hint is not None:
                hint = self.log.conflict(reply.hint, reply.hint_term or 0)[0]
            if progress.refuse(args.prev_log_index, hint):
                self._send_append(sent.to, True)
            return
        waited = progress.waits()
        told = sent.to == self.target and progress.match == self.log.last
        agreed = end if reply.agreed is None else min(reply.agreed, self.log.last)
        news = progress.update(agreed)
        if progress.state == "probe" and (news or agreed == progress.match):
            progress.become("replicate")
        elif progress.state == "snapshot" and self.log.term(progress.match) >= 0:
            progress.transfer = None
            progress.become("replicate")
        if sent.to == self.target and not told:
            self._tell_target()
        if progress.leaving is not None and min(args.leader_commit, agreed) >= self.log.config.index:
            del self.progress[sent.to]
            return
        if news and self._advance():
            self.send_all()
        elif waited:
            self._send_append(sent.to, True)
        while self._send_append(sent.to, False):
            pass

    def _advance(self) -> bool:
        """Commit what a quorum has, if the last such entry is of this term. Returns whether the commit index has grown."""
        match = {peer: progress.match for peer, progress in self.progress.items()}
        match[self.me] = self.log.stable
        index = self.log.config.committed(match)
        if index <= self.commit or self.log.term(index) != self.term:
            return False
        self.commit = index
        config = self.log.config
        if config.index <= self.commit:
            if config.old:
                self.configure(config.new, frozenset())
            elif self.me not in config.voters:
                self.send_all()
                self._follow(self.term, -1)
        return True

    # --- reads ---

    def begin_round(self) -> int:
        self.round += 1
        for peer in self.progress:
            self._send_heartbeat(peer)
        return self.round

    def answered_round(self) -> int:
        """The last round that a quorum has answered."""
        rounds = {self.me: self.round, **{peer: progress.round for peer, progress in self.progress.items()}}
        quorums = [each for each in rounds.values() if self.log.config.quorum(p for p in rounds if rounds[p] >= each)]
        return max(quorums, default=0)

    def knows_commit(self) -> bool:
        return self.log.term(self.commit) == self.term

    def on_index_asked(self, term: int) -> None:
        if term > self.term:
            self._follow(term, -1)

    # --- handing over ---

    def hand_over(self, target: int) -> bool:
        """Begin to hand over, if this leader can. It checks now, and at each reply of the target, whether the target has
        every entry. Returns whether it has begun."""
        config = self.log.config
        groups = [group for group in (config.new, config.old) if group]
        if target == self.me or self.target != -1 or not all(target in group for group in groups):
            return False
        self.target, self.target_ticks = target, ELECTION_TICKS
        self._tell_target()
        self._send_append(target, True)
        return True

    def _tell_target(self) -> None:
        progress = self.progress.get(self.target)
        if progress is not None and progress.match == self.log.last:
            self.quiet_from, self.may_lease = None, False
            self.outbox.append(Outgoing(self.target, "timeout_now", TimeoutNowArgs(self.term, self.me)))

    def on_timeout_now(self, args: TimeoutNowArgs) -> TimeoutNowReply:
        leads = self.role == "leader" and self.term == args.term
        if args.term >= self.term and not leads and self.me in self.log.config.voters:
            if args.term > self.term:
                self._follow(args.term, args.leader_id)
            self._campaign(told=True)
        return TimeoutNowReply(self.term)

    def on_told(self, reply: TimeoutNowReply) -> None:
        if reply.term > self.term:
            self._follow(reply.term, -1)

    # --- members ---

    def may_configure(self, members: frozenset[int], servers: int) -> bool:
        config = self.log.config
        return (
            bool(members)
            and members <= frozenset(range(servers))
            and not any(progress.learner for progress in self.progress.values())
            and config.index <= self.commit
            and not config.old
            and self.log.term(self.commit) == self.term
            and self.target == -1
        )

    def learn(self, servers: frozenset[int]) -> None:
        for peer in sorted(servers - {self.me}):
            self.progress[peer] = Progress(self.log.last + 1, learner=True)
            self._send_append(peer, True)

    def forget_learners(self) -> None:
        self.progress = {peer: progress for peer, progress in self.progress.items() if not progress.learner}

    def learned(self) -> bool:
        """Whether every learner has nearly all entries."""
        return all(
            progress.match > 0 and progress.match + MOST_ENTRIES // 8 >= self.log.last
            for progress in self.progress.values()
            if progress.learner
        )

    def configure(self, new: frozenset[int], old: frozenset[int]) -> int:
        before = self.log.config.voters
        index = self.propose(Entry(self.term, None, "configuration", sorted(new), sorted(old) if old else None))
        self.note("members", f"{sorted(new)}, old {sorted(old)}, at {index}")
        for peer in sorted((before | new | old) - {self.me}):
            progress = self.progress.setdefault(peer, Progress(self.log.last))
            progress.learner = False
            progress.leaving = None if peer in new | old else LEAVING_TICKS
        return index

    # --- the follower ---

    def on_append(self, args: AppendArgs) -> AppendReply:
        if args.term < self.term:
            return AppendReply(self.term, False)
        if args.term > self.term or self.role != "follower":
            self._follow(args.term, args.leader_id)
        self.elapsed, self.leader = 0, args.leader_id
        if args.quiet:
            self.quiet_ticks, self.sworn_to = ELECTION_TICKS, args.term
            self.dirty = self.dirty or not self.sworn
            self.sworn = True
        prev = args.prev_log_index
        if prev < self.commit:
            # The message begins before our commit index, and up to that index the two logs are the same. If the message
            # also has later entries, the leader sends those again, beginning after our commit index.
            return AppendReply(self.term, True, self.commit)
        if self.log.term(prev) != args.prev_log_term:
            hint, hint_term = self.log.conflict(prev, args.prev_log_term)
            return AppendReply(self.term, False, None, hint, hint_term)
        end = prev + len(args.entries)
        if self.log.merge(prev, args.entries):
            self.dirty = True
        self.commit = max(self.commit, min(args.leader_commit, end))
        return AppendReply(self.term, True, end)

    # --- snapshots ---

    def compact(self, index: int, data: bytes) -> None:
        """Use a snapshot that the service has taken."""
        if index > self.snapshot_index:
            self.snapshot_index, self.snapshot_term = index, self.log.term(index)
            self.snapshot_data = data
            self.log.compact(index)
            self.dirty = self.new_snapshot = True

    def _send_snapshot(self, peer: int, progress: Progress) -> bool:
        transfer = progress.transfer
        if transfer is None or transfer.index < self.log.base:
            config = self.log.config_at(self.snapshot_index)
            old = sorted(config.old) if config.old else None
            transfer = Transfer(self.snapshot_index, self.snapshot_term, self.snapshot_data, sorted(config.new), old)
        progress.become("snapshot")
        progress.transfer = transfer
        self._send_chunk(peer, transfer)
        return True

    def _send_chunk(self, peer: int, transfer: Transfer) -> None:
        data = transfer.data[transfer.offset : transfer.offset + CHUNK]
        done = transfer.offset + len(data) >= len(transfer.data)
        what = (transfer.index, transfer.term, transfer.offset, data, done, transfer.members, transfer.old_members)
        self.outbox.append(Outgoing(peer, "install_snapshot", InstallArgs(self.term, self.me, *what)))

    def on_installed(self, peer: int, args: InstallArgs, reply: InstallReply | None) -> None:
        if reply is not None and reply.term > self.term:
            self._follow(reply.term, -1)
        progress = self.progress.get(peer)
        if self.role != "leader" or args.term != self.term or progress is None or progress.transfer is None:
            return
        transfer = progress.transfer
        if progress.state != "snapshot" or (transfer.index, transfer.offset) != (args.last_included_index, args.offset):
            return
        if reply is None:
            # The chunk or its reply was lost. Continue after the next reply to a heartbeat.
            progress.become("probe")
            progress.paused = True
            return
        progress.active = True
        end = args.offset + len(args.data)
        transfer.offset = end if reply.received is None else min(end, reply.received)
        if not args.done or transfer.offset < end:
            self._send_chunk(peer, transfer)
            return
        progress.transfer = None
        progress.update(transfer.index)
        progress.become("probe")
        self._tell_target()
        if self._advance():
            self.send_all()
        else:
            self._send_append(peer, True)

    def on_install(self, args: InstallArgs) -> InstallReply:
        if args.term < self.term:
            return InstallReply(self.term)
        if args.term > self.term or self.role != "follower":
            self._follow(args.term, args.leader_id)
        self.elapsed, self.leader = 0, args.leader_id
        end = args.offset + len(args.data)
        if args.last_included_index <= self.commit:
            return InstallReply(self.term, end)
        if self.incoming[:2] != (args.term, args.last_included_index):
            self.incoming = (args.term, args.last_included_index, b"")
        data = self.incoming[2]
        if args.offset == len(data):
            data += args.data
            self.incoming = (*self.incoming[:2], data)
            if args.done:
                self._install(args, data)
        return InstallReply(self.term, min(end, len(data)))

    def _install(self, args: InstallArgs, data: bytes) -> None:
        index, term = args.last_included_index, args.last_included_term
        self.incoming = (0, 0, b"")
        self.commit = index
        if self.log.term(index) == term:
            return  # the log has every entry up to there, and they are committed, so the snapshot is not needed
        config = self.log.config_at(index)
        if args.members is not None:
            config = Config(index, frozenset(args.members), frozenset(args.old_members or ()))
        self.log.restart(index, term, config)
        self.snapshot_index, self.snapshot_term, self.snapshot_data = index, term, data
        self.dirty = self.new_snapshot = True
