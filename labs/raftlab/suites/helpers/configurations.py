"""What tests of lab 2E share: configurations on their way, who can commit, and puppets that vote or store only if told."""

from __future__ import annotations

from collections.abc import Callable, Collection

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.event_loop import Hold
from raftlab.harness.membership import Asked, configured, ready_leader, refused
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.scripted_servers import Follower, asked, campaign, grant

PART_2 = "This is part 2: it needs joint consensus."


def without(members: range | list[int] | tuple[int, ...], *away: int) -> list[int]:
    return [server for server in members if server not in away]


def expect_members(c: Cluster, members: list[int], index: int, said: str) -> None:
    """Some service is told of exactly these members, at ``index`` or behind it."""
    c.wait_for(5.0, lambda: configured(c, members, index) > 0)
    seen = [
        value[1] for at, value in sorted(c.event_loop.referee.applies.values.items()) if value[0] == "configuration"
    ]
    text = f"expected the services to be told of the members {members} {said}, but they were told of {seen}"
    c.expect(configured(c, members, index) > 0, text, rules.MEMBERS_TOLD)


def configuration(term: int, members: list[int], old: list[int] | None = None) -> Message:
    """An entry that is one; with ``old``, C_old,new."""
    return {"term": term, "command": None, "kind": "configuration", "members": members, "old_members": old}


def carries(members: Collection[int], joint: bool | None = None) -> Callable[[Message], bool]:
    """For ``hold``: AppendEntries that bring the configuration with these members; only C_old,new, or only C_new, if
    told."""

    def look(args: Message) -> bool:
        found = [entry for entry in args["entries"] if entry.get("members") == sorted(members)]
        return any(joint is None or bool(entry.get("old_members")) == joint for entry in found)

    return look


def hold_change(c: Cluster, change: Asked, leg: str, joint: bool | None = None) -> Hold:
    """Hold the requests that bring the configuration, or their answers, until there is one. A leader that refuses what
    it is asked for fails the test."""
    hold = c.hold("append_entries", src=change.server, leg=leg, when=carries(change.members, joint))
    if not c.wait_for(10.0, lambda: bool(hold.messages) or not change.pending) or not hold.messages:
        c.wait_for(1.0, lambda: bool(hold.messages))
    if not hold.messages and not change.pending and (change.answer() or (0, 0, False))[::2] == (-1, True):
        refused(c, change.server, change.members)
    return hold


def commits_nothing(c: Cluster, server: int, why: str, rule: Rule = rules.MEMBERS_COUNT) -> None:
    """A command given to ``server``, if it leads (still), is applied by nobody."""
    command = f"in vain, {c.now:.3f}"
    index, _, leads = c.propose(server, command)
    if leads:
        c.wait_for(1.5, lambda: c.committed(index)[1] == command)
        count, there = c.committed(index)
        said = f"expected nobody to apply index {index}, {why}, but {count} did"
        c.expect(there != command, said, rule, [server])


def commits_alone(c: Cluster, members: Collection[int], why: str, rule: Rule = rules.MEMBERS_COUNT) -> None:
    """Exactly ``members`` can reach each other, and they are enough: they elect, and commit."""
    c.partition(sorted(members))
    c.agree(f"{why}, {c.now:.3f}", 1, among=sorted(members), within=20.0)


def crash_in_change(c: Cluster, now: Collection[int], then: Collection[int], phase: str, joint: bool) -> int:
    """Begin a change and crash the leader in the middle of it; the leader that was."""
    c.agree(f"before the leader crashes, {phase}", 1, within=20.0)
    leader = ready_leader(c, now)
    new = sorted(set(then) - set(now))
    kept = c.hold("append_entries", dst=new[0]) if new and phase == "while others catch up" else None
    change = Asked(c, leader, then)
    c.note(f"S{leader} is going to crash {phase}")
    hold: Hold | None = None
    if phase in ("with the entry", "with C_old,new"):
        hold = hold_change(c, change, "request", joint)
    elif phase in ("once the entry is sent", "once C_old,new is sent"):
        hold = hold_change(c, change, "reply", joint)
    elif phase == "with C_new":
        hold = hold_change(c, change, "request", False)
    elif phase == "once C_new is sent":
        hold = hold_change(c, change, "reply", False)
    elif phase == "while others catch up":
        c.sleep(0.3)
    else:
        c.wait_for(10.0, lambda: not change.pending)
        c.sleep(0.2)
    c.crash(leader)
    for each in (hold, kept):
        if each is not None:
            each.drop()
    return leader


class Voters:
    """Puppets 1 to n - 1 as voters for S0. They store nothing, so whatever S0 does as a leader is never committed."""

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.granting: set[int] = set()
        for scripted_server in c.scripted:
            scripted_server.answer["request_vote"] = lambda rpc: grant(rpc) if rpc.dst in self.granting else None

    def elects(self, grants: Collection[int], wins: bool, said: str, rule: Rule, hint: str = "") -> None:
        """S0 stands for election and gets the votes of ``grants``, which are enough, or are not."""
        c = self.c
        self.granting = set(grants)
        above, _ = c.get_state(0)
        c.wait_for(ELECTION_LIMIT, lambda: bool(asked(c, above)) or c.get_state(0)[1])
        if not c.get_state(0)[1]:
            campaign(c, above)
        wait = ELECTION_LIMIT if wins else 2.5
        c.wait_for(wait, lambda: c.get_state(0)[1])
        leads = c.get_state(0)[1]
        want = "S0 to lead" if wins else "S0 not to lead"
        text = f"expected {want} with the votes of {[0, *sorted(grants)]}, {said}, but it {'does' if leads else 'does not'}"
        c.expect(leads == wins, text, rule, [0], hint)


class Storing:
    """Puppets as followers that keep logs, up to a limit that the test moves, and vote for S0. Those in ``silent_to`` do
    not answer when the configuration with these members comes."""

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.followers = {scripted_server.number: Follower(c, scripted_server.number) for scripted_server in c.scripted}
        self.silent_to: dict[int, list[int]] = {}
        for scripted_server in c.scripted:
            scripted_server.answer["append_entries"] = self._append

    def _append(self, rpc: Rpc) -> Message | None:
        members = self.silent_to.get(rpc.dst)
        return None if members and carries(members, False)(rpc.args) else self.followers[rpc.dst].append(rpc)

    def stop_at(self, index: int, *numbers: int) -> None:
        for number in numbers:
            self.followers[number].limit = index

    def go_on(self, *numbers: int) -> None:
        for number in numbers:
            self.followers[number].limit = 1_000_000

    def in_the_end(self, done: Callable[[], bool]) -> bool:
        """Wait for up to 10 s. S0 may have lost its term while nobody answered: then it needs a command to commit in
        the next one, so there are some."""
        for number in range(20):
            if self.c.wait_for(2 * ELECTION_LIMIT / 20, done):
                return True
            self.c.propose(0, f"and on, {number}")
        return done()
