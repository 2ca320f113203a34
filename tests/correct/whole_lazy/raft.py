"""A lazy Raft of labs 2A to 2F and 3B. A leader sends everything to every server, member or not. So new members have caught
up before they join, and removed servers still get messages. Every change is joint, even of one server. A leader sends only
on its tick, so entries, commit indexes and reads wait for the next tick. Election timeouts are as long as the labs allow.
The saved state is immutable and is replaced as a whole. If a leader has ever asked a server not to vote, for the sake of a
lease, that server also does not vote for a while after each start."""

from __future__ import annotations

import pickle
import random
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from raftlab.api import MAX_DRIFT, ApplyChannel, ApplyMsg, Peer, Persister

# The last of labs 2D to 2F that this Raft implements. Tests also set it to "2E", which switches off pre-votes, or to "2D".
# With "2D", servers also vote while they hear a leader.
UPTO = "2F"
TICK = 0.1
TIMEOUT = (0.8, 1.6)
MOST_ENTRIES = 100
CHUNK = 4000
CHUNKS_A_TICK = 4
READ_WITHIN = 1.2


@dataclass(frozen=True)
class LogEntry:
    term: int
    command: Any
    kind: str = "command"
    members: list[int] | None = None
    old_members: list[int] | None = None


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
    hush: bool = False  # whether the leader's lease needs the receiver to vote for nobody for a while


@dataclass(frozen=True)
class AppendEntriesReply:
    term: int
    success: bool
    # The last 20 terms in the follower's log up to prev_log_index, the latest first: [term, first index, last index].
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
    members: list[int] | None = None
    old_members: list[int] | None = None


@dataclass(frozen=True)
class InstallSnapshotReply:
    term: int
    has_offsets: list[int] | None = None


@dataclass(frozen=True)
class ReadIndexArgs:
    term: int
    server_id: int


@dataclass(frozen=True)
class ReadIndexReply:
    term: int
    index: int


@dataclass(frozen=True)
class Saved:
    """Everything that is persistent."""

    term: int = 0
    vote: int | None = None
    base: int = 0
    base_term: int = 0
    log: dict[int, LogEntry] = field(default_factory=dict)
    first: LogEntry = LogEntry(0, None)  # the configuration in force at base
    hushed: bool = False

    def configured(self, upto: int) -> tuple[int, LogEntry]:
        for index in range(min(upto, self.last), self.base, -1):
            if self.log[index].kind == "configuration":
                return index, self.log[index]
        return self.base, self.first

    @property
    def groups(self) -> list[list[int]]:
        entry = self.configured(self.last)[1]
        return [group for group in (entry.members, entry.old_members) if group]

    def most(self, servers: set[int]) -> bool:
        return all(2 * len(servers & set(group)) > len(group) for group in self.groups)

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
        """Replace the log from ``first`` on with these entries, if one of them is new or different. Otherwise change
        nothing."""
        for index, entry in enumerate(entries, first):
            if index > self.base and self.term_at(index) != entry.term:
                kept = {at: old for at, old in self.log.items() if at < index}
                return replace(self, log=kept | dict(enumerate(entries[index - first :], index)))
        return self

    def cut(self, index: int, term: int, first: LogEntry | None = None) -> Saved:
        fits = self.term_at(index) == term
        rest = {at: entry for at, entry in self.log.items() if at > index} if fits else {}
        first = self.configured(index)[1] if fits or first is None else first
        return replace(self, base=index, base_term=term, log=rest, first=first)


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
        self.lock = threading.Lock()
        first = LogEntry(0, None, "configuration", sorted(members))
        self.saved: Saved = pickle.loads(persister.state() or pickle.dumps(Saved(first=first)))
        self.others = [server for server in range(len(peers)) if server != me]
        self.leader = -1
        # When a leader was last heard, and its term. A server that must be silent after a start acts as if it had just heard
        # a leader.
        self.heard, self.heard_term = (time.monotonic() if self.saved.hushed else -100.0), 0
        # At the leader: the number of the last tick, the times of the last ticks, the last tick that each server has
        # answered, and the first tick whose messages ask for silence.
        self.tick = 0
        self.ticked: dict[int, float] = {}
        self.tick_of: dict[int, int] = {}
        self.hush_from: int | None = None
        self.changing = False
        self.answered: dict[int, float] = {}
        self.round = 0
        self.role = "follower"
        self.votes: set[int] = set()
        self.commit_index = self.saved.base
        self.applied = 0
        self.next_index: dict[int, int] = {}
        self.match_index: dict[int, int] = {}
        # At the leader: for each server, the parts of a snapshot that it has acknowledged. At a follower: the parts that
        # have arrived.
        self.has: dict[int, tuple[int, set[int]]] = {}
        self.parts: dict[int, bytes] = {}
        self.parts_of = (0, 0)
        self._calm()
        for loop in (self._clock, self._leader, self._applier):
            threading.Thread(target=loop, daemon=True).start()

    def _become(self, new: Saved, snapshot: bytes | None = None) -> None:
        """Save the new state, and only then use it. If saving fails, the server keeps its old state and does not answer."""
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
            self.leader = -1

    def _hears_leader(self) -> bool:
        return self.role == "leader" or time.monotonic() < self.heard + TIMEOUT[0]

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

    def change_membership(self, members: frozenset[int]) -> tuple[int, int, bool]:
        with self.lock:
            term = self.saved.term
            if self.role != "leader":
                return self.leader, term, False
            at, entry = self.saved.configured(self.saved.last)
            settled = at <= self.commit_index and not entry.old_members and not self.changing
            known = all(0 <= server < len(self.peers) for server in members)
            if not members or not known or not settled or self.saved.term_at(self.commit_index) != term:
                return -1, term, True
            self.changing = True
            new = members - set(entry.members or ())
            for server in new:
                self.match_index[server] = 0
        give_up = time.monotonic() + 4.0
        while True:
            time.sleep(0.05)
            with self.lock:
                if self.role != "leader" or self.saved.term != term:
                    self.changing = False
                    return self.leader, self.saved.term, False
                if all(self.match_index[server] >= self.saved.last - 5 for server in new if server != self.me) and all(
                    self.match_index[server] > 0 for server in new if server != self.me
                ):
                    self.changing = False
                    old = self.saved.configured(self.saved.last)[1].members
                    return self._append_configuration(sorted(members), old), term, True
                if time.monotonic() > give_up:
                    self.changing = False
                    return -1, term, True

    def _append_configuration(self, members: list[int], old: list[int] | None) -> int:
        mine = self.saved
        entry = LogEntry(mine.term, None, "configuration", members, old)
        self._become(mine.with_entries(mine.last + 1, [entry]))
        return self.saved.last

    def snapshot(self, index: int, data: bytes) -> None:
        with self.lock:
            term = self.saved.term_at(index)
            if self.saved.base < index <= self.applied and term is not None:
                self._become(self.saved.cut(index, term), data)

    # --- reads ---

    def read_index(self) -> int:
        with self.lock:
            leads, leader = self.role == "leader", self.leader
            args = ReadIndexArgs(self.saved.term, self.me)
        if leads:
            return self._read_index()
        answers: list[int] = []
        asking = threading.Thread(target=self._ask_for_index, args=(leader, args, answers), daemon=True)
        if leader != -1:
            asking.start()
            asking.join(1.5)
        return answers[0] if answers else -1

    def _ask_for_index(self, leader: int, args: ReadIndexArgs, answers: list[int]) -> None:
        reply = self.peers[leader].call("read_index_of", args)
        if reply is not None:
            with self.lock:
                self._meet(reply.term)
            answers.append(reply.index)

    def read_index_of(self, args: ReadIndexArgs) -> ReadIndexReply:
        with self.lock:
            self._meet(args.term)
        index = self._read_index()
        with self.lock:
            return ReadIndexReply(self.saved.term, index)

    def _read_index(self) -> int:
        """Poll every 10 ms, first until an entry of the leader's own term is committed, then until a majority has answered a
        later tick."""
        give_up = time.monotonic() + READ_WITHIN
        with self.lock:
            term = self.saved.term
        index = after = -1
        while time.monotonic() < give_up:
            with self.lock:
                if self.role != "leader" or self.saved.term != term:
                    return -1
                if index < 0 and self._knows_commit():
                    index, after = self.commit_index, self.tick
                if index >= 0 and self._confirmed_tick() > after:
                    return index
            time.sleep(0.01)
        return -1

    def lease_index(self) -> int:
        with self.lock:
            if self.role != "leader" or not self._knows_commit():
                return -1
            index = self.commit_index
            if self.hush_from is None:
                self.hush_from = self.tick + 1
            tick = self._confirmed_tick()
            if tick < self.hush_from:
                return -1
            began = self.ticked.get(tick, -100.0)
            return index if time.monotonic() < began + TIMEOUT[0] / MAX_DRIFT else -1

    def _knows_commit(self) -> bool:
        """Whether an entry of the leader's own term is committed. If there is none yet, append one."""
        mine = self.saved
        if mine.end[0] != mine.term:
            self._become(mine.with_entries(mine.last + 1, [LogEntry(mine.term, None, "noop")]))
        return mine.term_at(self.commit_index) == mine.term

    def _confirmed_tick(self) -> int:
        """The last tick whose messages a majority of each group has answered."""
        ticks = {**self.tick_of, self.me: self.tick}
        return max(tick for tick in ticks.values() if self.saved.most({who for who in ticks if ticks[who] >= tick}))

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
                    message = ApplyMsg(
                        self.applied, entry.term, entry.command, "noop" if entry.kind == "noop" else "command"
                    )
                    if entry.kind == "configuration":
                        voters = frozenset(entry.members or ()) | frozenset(entry.old_members or ())
                        message = ApplyMsg(self.applied, entry.term, kind="configuration", members=voters)
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
                self._calm()
                self.leader = -1
                if not self._may_stand():
                    continue
                self.round += 1
                this, said_yes, term = self.round, {self.me}, self.saved.term
                last_term, index = self.saved.end
                args = RequestVoteArgs(term + 1, self.me, index, last_term)
                if UPTO < "2F":
                    said_yes |= set(self.others)
            self._ask(self.me, args, this, said_yes)
            for server in self.others if UPTO >= "2F" else []:
                threading.Thread(target=self._ask, args=(server, args, this, said_yes), daemon=True).start()

    def _may_stand(self) -> bool:
        """Whether we vote in the last configuration known to be committed, or in a later one."""
        at, entry = self.saved.configured(self.commit_index)
        later = [other for index, other in self.saved.log.items() if index > at and other.kind == "configuration"]
        return any(self.me in [*(each.members or ()), *(each.old_members or ())] for each in [entry, *later])

    def _ask(self, server: int, args: RequestVoteArgs, this: int, said_yes: set[int]) -> None:
        """Ask one server for a pre-vote and count it. With a majority of pre-votes, start the election."""
        if server != self.me:
            reply = self.peers[server].call("pre_vote", args)
            if reply is None:
                return
        with self.lock:
            if server != self.me and not reply.vote_granted:
                self._meet(reply.term)
                return
            said_yes.add(server)
            if self.role == "leader":
                return  # elected meanwhile, with votes that came late
            if self.round != this or self.saved.term + 1 != args.term or not self.saved.most(said_yes):
                return
            self.round += 1
            self._become(replace(self.saved, term=args.term, vote=self.me))
            self.role = "candidate"
            self.votes = {self.me}
            self._calm()
            self._lead_if_elected()
        for other in self.others:
            threading.Thread(target=self._campaign, args=(other, args), daemon=True).start()

    def pre_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.lock:
            mine = self.saved
            newer = (args.last_log_term, args.last_log_index) >= mine.end
            granted = args.term > mine.term and newer and not self._hears_leader()
            return RequestVoteReply(args.term if granted else mine.term, granted)

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
        if self.saved.most(self.votes):
            self.role = "leader"
            self.leader = self.me
            self.changing = False
            self.next_index = dict.fromkeys(range(len(self.peers)), self.saved.last + 1)
            self.match_index = dict.fromkeys(range(len(self.peers)), 0)
            self.answered = dict.fromkeys(range(len(self.peers)), time.monotonic())
            self.tick_of = dict.fromkeys(range(len(self.peers)), 0)
            self.hush_from = None
            self.has = {}

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        with self.lock:
            sticky = (UPTO >= "2E" and args.term > self.saved.term) or (
                self.saved.hushed and args.term > self.heard_term
            )
            if sticky and self._hears_leader():
                return RequestVoteReply(self.saved.term, False)
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
                    fresh = {who for who, when in self.answered.items() if when > time.monotonic() - TIMEOUT[1]}
                    if UPTO >= "2F" and not self.saved.most(fresh | {self.me}):
                        self._retire()
                if self.role == "leader":
                    self.tick += 1
                    self.ticked[self.tick] = time.monotonic()
                    self.ticked.pop(self.tick - 100, None)
                    for server in self.others:
                        calls += self._messages_to(server)
                tick = self.tick
            for call in calls:
                threading.Thread(target=self._send, args=(*call, tick), daemon=True).start()
            # Check more often while this server does not lead, because a new leader should announce itself soon.
            time.sleep(TICK if calls else 0.02)

    def _advance(self) -> None:
        mine = self.saved
        self.match_index[self.me] = mine.last
        index = min(
            sorted(self.match_index[server] for server in group)[(len(group) - 1) // 2] for group in mine.groups
        )
        if index > self.commit_index and mine.term_at(index) == mine.term:
            self.commit_index = index
        at, entry = mine.configured(mine.last)
        if at > self.commit_index:
            return
        if entry.old_members and entry.members:
            self._append_configuration(entry.members, None)
        elif self.me not in (entry.members or ()):
            self._retire()

    def _retire(self) -> None:
        self.role = "follower"
        self.leader = -1
        self._calm()

    def _messages_to(self, server: int) -> list[tuple[int, str, Any]]:
        mine = self.saved
        prev = self.next_index[server] - 1
        if prev < mine.base:
            return [(server, "install_snapshot", args) for args in self._chunks(server)]
        entries = [mine.log[index] for index in range(prev + 1, min(mine.last, prev + MOST_ENTRIES) + 1)]
        prev_term = mine.term_at(prev) or 0
        hush = self.hush_from is not None
        args = AppendEntriesArgs(mine.term, self.me, prev, prev_term, entries, self.commit_index, hush)
        return [(server, "append_entries", args)]

    def _chunks(self, server: int) -> list[InstallSnapshotArgs]:
        """The next few parts of our newest snapshot that the server has not acknowledged."""
        mine, data = self.saved, self.persister.snapshot()
        index, has = self.has.setdefault(server, (mine.base, set()))
        if index != mine.base:
            _, has = self.has[server] = (mine.base, set())
        offsets = range(0, max(1, len(data)), CHUNK)
        # The last part makes the follower install the snapshot, so it is sent alone, after all others.
        missing = [at for at in offsets[:-1] if at not in has][:CHUNKS_A_TICK] or [offsets[-1]]
        return [
            InstallSnapshotArgs(
                mine.term,
                self.me,
                mine.base,
                mine.base_term,
                at,
                data[at : at + CHUNK],
                at == offsets[-1],
                mine.first.members,
                mine.first.old_members,
            )
            for at in missing
        ]

    def _send(self, server: int, method: str, args: Any, tick: int) -> None:
        reply = self.peers[server].call(method, args)
        if reply is None:
            return
        with self.lock:
            self._meet(reply.term)
            if self.role != "leader" or self.saved.term != args.term:
                return
            self.answered[server] = time.monotonic()
            if method == "append_entries":
                self.tick_of[server] = max(self.tick_of[server], tick)
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
        """The index after the last one where both logs have the same term, as far as the reply shows."""
        if not reply.runs:
            return args.prev_log_index
        end = (
            args.prev_log_index
        )  # the follower's entries of a term are from the term's first index up to here (exclusive)
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
            self._follow(args.leader_id)
            mine, prev = self.saved, args.prev_log_index
            if prev >= mine.base and mine.term_at(prev) != args.prev_log_term:
                if args.hush and not mine.hushed:
                    self._become(replace(mine, hushed=True))
                return AppendEntriesReply(mine.term, False, self._runs(prev))
            mine = replace(mine, hushed=True) if args.hush and not mine.hushed else mine
            self._become(mine.with_entries(prev + 1, args.entries))
            self.commit_index = max(self.commit_index, min(args.leader_commit, prev + len(args.entries)))
            return AppendEntriesReply(mine.term, True)

    def _follow(self, leader: int) -> None:
        self.role = "follower"
        self._calm()
        self.leader, self.heard, self.heard_term = leader, time.monotonic(), self.saved.term
        self.round += 1

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
            self._follow(args.leader_id)
            if args.last_included_index <= self.commit_index:
                return InstallSnapshotReply(self.saved.term)
            this = (args.term, args.last_included_index)
            if this != self.parts_of:
                self.parts_of, self.parts = this, {}
            self.parts[args.offset] = args.data
            if args.done and self._is_whole(args.offset):
                data = b"".join(self.parts[at] for at in sorted(self.parts))
                first = LogEntry(0, None, "configuration", args.members, args.old_members) if args.members else None
                self._become(self.saved.cut(args.last_included_index, args.last_included_term, first), data)
                self.commit_index = args.last_included_index
                self.parts = {}
                return InstallSnapshotReply(self.saved.term)
            if args.done:
                del self.parts[args.offset]  # the leader sends this part again once the others have arrived
            return InstallSnapshotReply(self.saved.term, sorted(self.parts))

    def _is_whole(self, last: int) -> bool:
        reached = 0
        for at in sorted(self.parts):
            if at != reached:
                return False
            reached = at + len(self.parts[at])
        return max(self.parts) == last
