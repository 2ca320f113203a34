"""Helpers for lab 2E: interrupted changes, checks of which servers can commit, and scripted voters and followers."""

from __future__ import annotations

from collections.abc import Callable, Collection

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.event_loop import Hold
from raftlab.harness.membership import MembershipCall, configured, ready_leader, refused
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.referee.configuration import names
from raftlab.suites.helpers.scripted_servers import NO_LIMIT, ScriptedFollower, campaign_terms, grant, wait_for_campaign


def without(members: range | list[int] | tuple[int, ...], *excluded: int) -> list[int]:
    """``members`` except those in ``excluded``."""
    return [server for server in members if server not in excluded]


def expect_members(c: Cluster, members: list[int], index: int, when: str) -> None:
    """Require that within 5 s some service applies a configuration with exactly these members, at ``index`` or after it."""
    c.wait_for(5.0, lambda: configured(c, members, index) > 0)
    seen = [
        value[1] for at, value in sorted(c.event_loop.referee.applies.values.items()) if value[0] == "configuration"
    ]
    text = f"expected the services to get the members {members} {when}, but they got {seen}"
    c.expect(configured(c, members, index) > 0, text, rules.MEMBERS_TOLD)


def configuration_entry(term: int, members: list[int], old: list[int] | None = None) -> Message:
    """A configuration entry: C_new with these members, or C_old,new if ``old`` gives the old members."""
    return {"term": term, "command": None, "kind": "configuration", "members": members, "old_members": old}


def configuration_at(log: list[Message], members: list[int], since: int) -> int:
    """The first index >= ``since`` at which ``log`` has the configuration of exactly ``members``, not C_old,new; else 0."""
    for index, entry in enumerate(log[since - 1 :], since):
        if entry.get("kind") == "configuration" and entry["members"] == members and not entry.get("old_members"):
            return index
    return 0


def carries_configuration(members: Collection[int], joint: bool | None = None) -> Callable[[Message], bool]:
    """A filter for ``hold``: AppendEntries with a configuration entry of these members. ``joint`` restricts it to C_old,new
    (``True``) or to C_new (``False``)."""

    def matches(args: Message) -> bool:
        same_members = [entry for entry in args["entries"] if entry.get("members") == sorted(members)]
        return any(joint is None or bool(entry.get("old_members")) == joint for entry in same_members)

    return matches


def hold_change(c: Cluster, change: MembershipCall, leg: str, joint: bool | None = None) -> Hold:
    """Hold the requests with the new configuration, or the replies to them, and wait until one is held.

    Args:
        c: the cluster.
        change: the call of change_membership under way. If the leader refuses it, the test fails.
        leg: ``"request"`` or ``"reply"``.
        joint: as in :func:`carries_configuration`.

    Returns:
        The hold. It has no messages if the change ended or took too long.
    """
    hold = c.hold("append_entries", src=change.server, leg=leg, when=carries_configuration(change.members, joint))
    if not c.wait_for(10.0, lambda: bool(hold.messages) or not change.pending) or not hold.messages:
        c.wait_for(1.0, lambda: bool(hold.messages))
    if not hold.messages and not change.pending and (change.answer() or (0, 0, False))[::2] == (-1, True):
        refused(c, change.server, change.members)
    return hold


def commit_in_vain(c: Cluster, server: int) -> None:
    """Propose a command to ``server``, which cannot reach a majority, and wait 1.5 s. If a service applies the command, the
    referee ends the run: it counts the copies (``referee/commit.py``). Does nothing else if ``server`` does not lead."""
    command = f"in vain, {c.now:.3f}"
    index, _, leads = c.propose(server, command)
    if leads:
        c.wait_for(1.5, lambda: c.committed(index)[1] == command)


def expect_commit_among(c: Cluster, members: Collection[int], why: str, rule: Rule = rules.MEMBERS_COUNT) -> None:
    """Cut off all but ``members``, and require that these elect a leader and commit a command within 20 s."""
    c.partition(sorted(members))
    c.agree(f"{why}, {c.now:.3f}", 1, among=sorted(members), within=20.0)


def crash_leader_during_change(c: Cluster, now: Collection[int], then: Collection[int], phase: str, joint: bool) -> int:
    """Start a change from ``now`` to ``then``, and crash the leader at the given ``phase`` of the change.

    Args:
        c: the cluster.
        now: the members before the change.
        then: the members after it.
        phase: when the leader crashes: one of the phrases below, such as ``"with C_new"``.
        joint: whether the entry to wait for is C_old,new.

    Returns:
        The leader that crashed.
    """
    c.agree(f"before the leader crashes, {phase}", 1, within=20.0)
    leader = ready_leader(c, now)
    new = sorted(set(then) - set(now))
    catching_up = c.hold("append_entries", dst=new[0]) if new and phase == "while others catch up" else None
    change = MembershipCall(c, leader, then)
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
    for each in (hold, catching_up):
        if each is not None:
            each.drop()
    return leader


class ScriptedVoters:
    """All scripted servers as voters for S0. They store nothing, so S0 never commits anything as a leader.

    Attributes:
        granting: the servers that grant S0 their votes. The others do not answer.
    """

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.granting: set[int] = set()
        for scripted_server in c.scripted:
            scripted_server.answer["request_vote"] = lambda rpc: grant(rpc) if rpc.dst in self.granting else None

    def expect_win(self, grants: Collection[int], why: str, rule: Rule) -> None:
        """Let S0 start an election with the votes of ``grants``, and require that it leads within 5 s.

        ``why`` completes the sentence of the failure, and ``rule`` is the rule that S0 breaks.
        """
        self._hold_election(grants, ELECTION_LIMIT)
        text = f"expected S0 to lead with the votes of {names([0, *grants])} ({why}), but it does not"
        self.c.expect(self.c.get_state(0)[1], text, rule, [0])

    def expect_loss(self, grants: Collection[int], why: str, rule: Rule) -> None:
        """Like :meth:`expect_win`, but require that S0 does not lead for 2.5 s."""
        self._hold_election(grants, 2.5)
        text = f"expected S0 not to lead with the votes of {names([0, *grants])} ({why}), but it does"
        self.c.expect(not self.c.get_state(0)[1], text, rule, [0])

    def _hold_election(self, grants: Collection[int], seconds: float) -> None:
        """Let S0 start an election, and wait up to ``seconds`` until it leads."""
        c = self.c
        self.granting = set(grants)
        above, _ = c.get_state(0)
        c.wait_for(ELECTION_LIMIT, lambda: bool(campaign_terms(c, above)) or c.get_state(0)[1])
        if not c.get_state(0)[1]:
            wait_for_campaign(c, above)
        c.wait_for(seconds, lambda: c.get_state(0)[1])


class ScriptedFollowers:
    """Scripted servers as followers that keep logs up to a limit, and grant S0 their votes.

    Attributes:
        followers: by server number.
        ignored_configuration: by server number, the members of a C_new that the server does not acknowledge.
    """

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.followers = {
            scripted_server.number: ScriptedFollower(c, scripted_server.number) for scripted_server in c.scripted
        }
        self.ignored_configuration: dict[int, list[int]] = {}
        for scripted_server in c.scripted:
            scripted_server.answer["append_entries"] = self._append

    def _append(self, rpc: Rpc) -> Message | None:
        members = self.ignored_configuration.get(rpc.dst)
        return (
            None if members and carries_configuration(members, False)(rpc.args) else self.followers[rpc.dst].append(rpc)
        )

    def limit_logs(self, index: int, *numbers: int) -> None:
        """From now on, these servers do not answer an AppendEntries whose last entry is after ``index``."""
        for number in numbers:
            self.followers[number].limit = index

    def lift_limits(self, *numbers: int) -> None:
        """From now on, these servers answer every AppendEntries."""
        for number in numbers:
            self.followers[number].limit = NO_LIMIT

    def wait_for(self, done: Callable[[], bool]) -> bool:
        """Wait up to 10 s for ``done``. Returns whether it came true.

        S0 may have stepped down while no server answered. In its next term, S0 then needs a new command before it can commit
        anything, so this function proposes one twice per second.
        """
        for number in range(20):
            if self.c.wait_for(2 * ELECTION_LIMIT / 20, done):
                return True
            self.c.propose(0, f"and on, {number}")
        return done()
