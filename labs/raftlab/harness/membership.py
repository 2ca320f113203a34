"""Helpers for the tests of lab 2E: they change the members of the cluster and wait for the change.

``members`` are sets of server numbers. Times are seconds of the lab's time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure, short
from raftlab.harness.cluster import SETTLE, Cluster
from raftlab.harness.observations import Accepted

# Seconds within which change_membership must return, even if a new server never catches up (from the handout of lab 2E).
CHANGE_LIMIT = 15.0
# Seconds within which a change must be complete if nothing interferes. In this time new servers catch up, both entries are
# committed, and there may be an election.
CHANGE_COMPLETE_WITHIN = 30.0
# Seconds after which a leader has no reason left to refuse a change: it has had time to commit an entry of its own term and
# to finish an earlier change.
REFUSED_FOR = 6.0

# (index, term, is_leader), as change_membership returns them.
Answer = tuple[int, int, bool]


class MembershipCall:
    """A call of ``change_membership(members)`` on ``server``, which begins immediately. Several calls may be in progress."""

    def __init__(self, c: Cluster, server: int, members: Collection[int]) -> None:
        self.server = server
        self.members = frozenset(members)
        self._c = c
        self._since = c.now
        self._incarnation = c.server_state(server).incarnation
        self._call = c.ask_members(server, self.members)

    @property
    def pending(self) -> bool:
        """Whether the call may still return."""
        return self._c.event_loop.pending(self._call)

    def answer(self) -> Answer | None:
        """Wait for the call to return. Fails if it takes more than :data:`CHANGE_LIMIT` seconds.

        Returns:
            What the call returned, or ``None`` if the server crashed before that.
        """
        c, server = self._c, self.server
        if not c.wait_for(self._since + CHANGE_LIMIT - c.now, lambda: not self.pending):
            text = f"expected S{server}.change_membership({sorted(self.members)}) to answer within {CHANGE_LIMIT:.0f} s"
            c.fail(f"{text}, but it has not", rules.LEARNERS, [server])
        result: Any = c.event_loop.result(self._call)
        if result is None and not (
            c.server_state(server).up and c.server_state(server).incarnation == self._incarnation
        ):
            return None
        if not (isinstance(result, list) and [type(part) for part in result] == [int, int, bool]):
            text = f"expected change_membership() to return (index, term, is_leader), but S{server} returned {short(result)}"
            raise LabFailure(Failure("bad-result", text))
        return result[0], result[1], result[2]


def change(c: Cluster, server: int, members: Collection[int]) -> Answer:
    """Call ``change_membership`` once and wait for its result: ``(-1, -1, False)`` if the server is down."""
    return (MembershipCall(c, server, members).answer() if c.server_state(server).up else None) or (-1, -1, False)


def leader_of(c: Cluster, members: Collection[int], within: float = 7.0) -> int:
    """Wait up to ``within`` seconds until one of ``members`` leads and all other connected members are in its term."""
    return _leading(c, members, within)[0]


def ready_leader(c: Cluster, members: Collection[int], within: float = 20.0) -> int:
    """Wait up to ``within`` seconds until a leader (as in :func:`leader_of`) has committed an entry of its own term. A
    leader may refuse a change before that. Call this even if a command has just been applied: on a busy machine, there may
    have been an election since."""
    deadline = c.now + within
    applies = c.event_loop.referee.applies
    while True:
        leader, term = _leading(c, members, 7.0)
        if applies.term.get(leader) == term:
            return leader
        if c.now >= deadline:
            c.agree("in the leader's own term", 1, among=members, within=within)  # this says why nothing is committed
            return leader
        index, at_term, leads = c.propose(leader, f"S{leader} leads term {term}")
        if leads and at_term == term:
            c.wait_for(5.0, lambda at=index, by=leader: by in applies.servers_at.get(at, ()))  # type: ignore[misc]


def _leading(c: Cluster, members: Collection[int], within: float) -> tuple[int, int]:
    """Wait for a leader as :func:`leader_of` does. Returns the leader and its term."""
    deadline = c.now + within
    connected = [server for server in c.connected() if server in members]
    while True:
        leader = c.one_leader(among=connected)
        states = c.states(connected)
        term, leads = states.get(leader, (0, False))
        if leads and {other for other, _ in states.values()} == {term}:
            return leader, term
        if c.now >= deadline:
            seen = ", ".join(f"S{server}: {term}" for server, (term, _) in states.items())
            c.fail(
                f"expected one leader and all of {connected} in its term, but the terms are {seen}", rules.TERMS_AGREE
            )
        c.sleep(SETTLE)


def configured(c: Cluster, members: Collection[int], since: int = 1) -> int:
    """The lowest index >= ``since`` at which a server has applied the configuration of exactly ``members``; 0 if there is
    none. C_old,new does not count."""
    wanted = ("configuration", sorted(members))
    commit = c.event_loop.referee.commit
    for index, value in sorted(c.event_loop.referee.applies.values.items()):
        joint = (
            commit is not None
            and index in commit.committed_configurations
            and commit.committed_configurations[index].old
        )
        if index >= since and value == wanted and not joint:
            return index
    return 0


def reconfigure(c: Cluster, members: Collection[int], among: Collection[int] | None = None) -> int:
    """Change the members: ask the current leader repeatedly until a server has applied the configuration.

    Args:
        c: the cluster.
        members: the servers that should vote.
        among: the servers that may lead; ``None``: those that are connected.

    Returns:
        The index that ``change_membership`` returned. If the leader refuses the change because the configuration is already
        in effect, the index of that configuration.
    """
    since = c.now
    deadline = since + CHANGE_COMPLETE_WITHIN
    accepted: list[Accepted] = []
    refused_since: float | None = None
    while c.now < deadline:
        for server in c.connected() if among is None else sorted(among):
            term, leads = c.states([server]).get(server, (0, False))
            if not leads:
                continue
            answer = change(c, server, members)
            index, _, leads = answer
            if leads and index > 0:
                accepted.append(Accepted(server, c.now, index, term))
                refused_since = None
                if c.wait_for(5.0, lambda at=index: configured(c, members, at) > 0):  # type: ignore[misc]
                    return index
            elif leads or c.states([server]).get(server, (0, False)) == (term, True):
                refused_since = c.now if refused_since is None else refused_since
                if c.now > refused_since + REFUSED_FOR:
                    in_effect_since = _in_effect_since(c, members)
                    if answer[2] and in_effect_since is not None:
                        return in_effect_since  # these already are the members, so the leader may refuse the change
                    refused(c, server, members, answer)
                # A leader must not change the members before it has committed an entry of its own term, so propose one.
                c.propose(server, f"S{server} leads term {term}")
        c.sleep(0.2)
    text = f"expected {sorted(members)} to be the members within {CHANGE_COMPLETE_WITHIN:.0f} s"
    text = f"{text}, but no service has applied that configuration"
    return c.fail(text, rules.MEMBERS_TOLD, observed=c.why_not_applied(since, accepted))


def _in_effect_since(c: Cluster, members: Collection[int]) -> int | None:
    """The index of the latest committed configuration if it has exactly these members (0: from the start), else ``None``."""
    commit = c.event_loop.referee.commit
    if commit is None:
        return None
    now = commit.configuration_at(commit.applied_upto)
    same = now.members == frozenset(members) and not now.old
    return commit.configured_at(commit.applied_upto) if same else None


def refused(c: Cluster, server: int, members: Collection[int], answer: Answer = (-1, 0, True)) -> None:
    """Fail the test because a leader refuses a change that it could make.

    Args:
        c: the cluster.
        server: the leader.
        members: the servers that should vote.
        answer: what ``change_membership`` returned. If it says that the server does not lead, the failure shows it.
    """
    if not answer[2]:
        text = f"expected the leader S{server} to change the members to {sorted(members)}, but it answers {answer}"
        hint = "Begin with step 1 of the handout of lab 2E." if answer == (-1, -1, False) else ""
        c.fail(text, rules.CHANGE_ANSWERS, [server], hint)
    commit = c.event_loop.referee.commit
    before = frozenset(c.members) if commit is None else commit.configuration_at(commit.applied_upto).members
    text = f"expected S{server} to change the members from {sorted(before)} to {sorted(members)}, but it refuses"
    joint = commit is not None and any(each.old for each in commit.sent_configurations.values())
    if len(before ^ frozenset(members)) > 1 and not joint:
        text = f"{text}: more than one server comes or goes, which needs joint consensus (part 2)"
        c.fail(
            text, rules.JOINT_CONSENSUS, [server], hint="Part 1 is done with one server at a time. Go on with part 2."
        )
    c.fail(text, rules.CHANGE_ANSWERS, [server])


def agree_by(c: Cluster, command: str, members: Collection[int] | None = None, within: float = 20.0) -> None:
    """Propose a command and wait until all members have applied it.

    A removed server may still lead, because it can be elected until it knows that its removal is committed. It may learn
    this only when this command is replicated, and then steps down. Its successor may need another command before it can
    commit anything, so this function proposes further commands.

    Args:
        c: the cluster.
        command: the command.
        members: the servers that must apply it; ``None``: the members at each moment, because a change may be in progress.
        within: fail after this many seconds.
    """
    deadline = c.now + within
    index = c.agree(command, 1, within=within)
    applied = c.event_loop.referee.applies.servers_at
    commit = c.event_loop.referee.commit

    def wanted() -> set[int]:
        if members is not None or commit is None:
            return set(members or c.members)
        return set(commit.configuration_at(commit.applied_upto).members)

    while not c.wait_for(2.0, lambda: applied.get(index, set()) >= wanted()) and c.now < deadline:
        c.agree(f"{command}, {c.now:.3f}", 1, within=within)
    holders = sorted(applied.get(index, set()) & wanted())
    text = (
        f"expected {command!r} to be applied by all of {sorted(wanted())} within {within:.0f} s, but {holders} have it"
    )
    c.expect(
        len(holders) == len(wanted()),
        text,
        rules.AGREEMENT,
        observe=lambda: c.why_behind(deadline - within, index, wanted()),
    )
