"""Lab 2E for the harness: servers that come and go, as scripts for :class:`raftlab.harness.cluster.Cluster`.

``members`` are sets of server numbers. Times are seconds of the lab's time.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure
from raftlab.harness.cluster import SETTLE, Cluster

# change_membership answers within this time, also about a server that never catches up.
CHANGE_LIMIT = 15.0
# With nothing in the way, a change is made within this time: catching up, both entries, an election in between.
MADE_WITHIN = 30.0
# A leader that refuses for so long has had the time to commit an entry of its own term, and to end what was under way.
REFUSED_FOR = 6.0

Answer = tuple[int, int, bool]


class MembershipCall:
    """A call of ``change_membership`` under way on ``server``."""

    def __init__(self, c: Cluster, server: int, members: Collection[int]) -> None:
        self.server = server
        self.members = frozenset(members)
        self._c = c
        self._since = c.now
        self._life = c.server_state(server).incarnation
        self._call = c.ask_members(server, self.members)

    @property
    def pending(self) -> bool:
        return self._c.event_loop.pending(self._call)

    def answer(self) -> Answer | None:
        """Wait for the answer: ``None`` when the server went down instead. Fails when there is none in time."""
        c, server = self._c, self.server
        if not c.wait_for(self._since + CHANGE_LIMIT - c.now, lambda: not self.pending):
            text = f"expected S{server}.change_membership({sorted(self.members)}) to answer within {CHANGE_LIMIT:.0f} s"
            c.fail(f"{text}, but it has not", rules.LEARNERS, [server])
        result: Any = c.event_loop.result(self._call)
        if result is None and not (c.server_state(server).up and c.server_state(server).incarnation == self._life):
            return None
        if not (isinstance(result, list) and [type(part) for part in result] == [int, int, bool]):
            text = f"expected change_membership() to return (index, term, is_leader), but S{server} returned {result!r}"
            raise LabFailure(Failure("bad-result", text))
        return result[0], result[1], result[2]


def change(c: Cluster, server: int, members: Collection[int]) -> Answer:
    """``change_membership`` on one server, once, and its answer. A server that is down does not lead."""
    return (MembershipCall(c, server, members).answer() if c.server_state(server).up else None) or (-1, -1, False)


def leader_of(c: Cluster, members: Collection[int], within: float = 7.0) -> int:
    """Wait until one of ``members`` leads, and all the others of them that are connected are in its term."""
    return _leading(c, members, within)[0]


def ready_leader(c: Cluster, members: Collection[int], within: float = 20.0) -> int:
    """As :func:`leader_of`, and it has committed an entry of its own term, before which it may refuse a change. Most often
    it has; on a busy machine another may have been elected since the last command was."""
    deadline = c.now + within
    applies = c.event_loop.referee.applies
    while True:
        leader, term = _leading(c, members, 7.0)
        if applies.term.get(leader) == term:
            return leader
        index, at_term, leads = c.propose(leader, f"S{leader} leads term {term}")
        if leads and at_term == term:
            c.wait_for(5.0, lambda at=index, by=leader: by in applies.servers_at.get(at, ()))  # type: ignore[misc]
        said = f"expected a leader of {sorted(members)} to commit an entry of its own term within {within:.0f} s"
        c.expect(c.now < deadline, f"{said}, but none has", rules.AGREEMENT, [leader])


def _leading(c: Cluster, members: Collection[int], within: float) -> tuple[int, int]:
    """The leader, and its term."""
    deadline = c.now + within
    there = [server for server in c.connected() if server in members]
    while True:
        leader = c.one_leader(among=there)
        states = c.states(there)
        if states[leader][1] and {term for term, _ in states.values()} == {states[leader][0]}:
            return leader, states[leader][0]
        if c.now >= deadline:
            seen = ", ".join(f"S{server}: {term}" for server, (term, _) in states.items())
            c.fail(f"expected one leader and all of {there} in its term, but the terms are {seen}", rules.TERMS_AGREE)
        c.sleep(SETTLE)


def configured(c: Cluster, members: Collection[int], since: int = 1) -> int:
    """The first index from ``since`` on at which a service has seen that ``members``, and no others, vote; 0: none."""
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
    """Let ``members`` be those who vote, whatever it takes: whoever leads (``among`` the given ones) is asked, and asked
    again, until some service has seen the configuration. Returns the index that ``change_membership`` spoke of."""
    deadline = c.now + MADE_WITHIN
    refused_since: float | None = None
    while c.now < deadline:
        for server in c.connected() if among is None else sorted(among):
            term, leads = c.states([server]).get(server, (0, False))
            if not leads:
                continue
            answer = change(c, server, members)
            index, _, leads = answer
            if leads and index > 0:
                refused_since = None
                if c.wait_for(5.0, lambda at=index: configured(c, members, at) > 0):  # type: ignore[misc]
                    return index
            elif leads or c.states([server]).get(server, (0, False)) == (term, True):
                refused_since = c.now if refused_since is None else refused_since
                if c.now > refused_since + REFUSED_FOR:
                    refused(c, server, members, answer)
                # It may have nothing of its own term to commit.
                c.propose(server, f"S{server} leads term {term}")
        c.sleep(0.2)
    return c.fail(
        f"expected {sorted(members)} to be the members within {MADE_WITHIN:.0f} s, but no service has seen that",
        rules.MEMBERS_TOLD,
    )


def refused(c: Cluster, server: int, members: Collection[int], answer: Answer = (-1, 0, True)) -> None:
    """A leader goes on refusing what it could do: say why, if the reason is plain."""
    if not answer[2]:
        text = f"expected S{server}, which leads, to change the members to {sorted(members)}, but it answers {answer}"
        hint = "Begin with step 1 of the handout of lab 2E." if answer == (-1, -1, False) else ""
        c.fail(text, rules.CHANGE_ANSWERS, [server], hint)
    commit = c.event_loop.referee.commit
    before = frozenset(c.members) if commit is None else commit.configuration_at(commit.applied_upto).members
    text = f"expected S{server} to change the members from {sorted(before)} to {sorted(members)}, but it refuses"
    if len(before ^ frozenset(members)) > 1:
        text = f"{text}: more than one server comes or goes, and this part (2) needs joint consensus"
        c.fail(
            text, rules.JOINT_CONSENSUS, [server], hint="Part 1 is done with one server at a time. Go on with part 2."
        )
    c.fail(text, rules.CHANGE_ANSWERS, [server])


def agree_by(c: Cluster, command: str, members: Collection[int] | None = None, within: float = 20.0) -> None:
    """Have ``command`` committed by whoever leads, and applied by all of ``members`` (``None``: by all who are members by
    then, as a change may still be under way). For a while the leader may be one that was removed: it can be elected as long
    as it does not know that this is committed, finds out by this very command, and steps down. Whoever comes next may need
    another command before it commits anything, so there are some."""
    deadline = c.now + within
    index = c.agree(command, 1, within=within)
    there = c.event_loop.referee.applies.servers_at
    commit = c.event_loop.referee.commit

    def wanted() -> set[int]:
        if members is not None or commit is None:
            return set(members or c.members)
        return set(commit.configuration_at(commit.applied_upto).members)

    while not c.wait_for(2.0, lambda: there.get(index, set()) >= wanted()) and c.now < deadline:
        c.agree(f"{command}, {c.now:.3f}", 1, within=within)
    have = sorted(there.get(index, set()) & wanted())
    said = f"expected {command!r} to be applied by all of {sorted(wanted())} within {within:.0f} s, but {have} have it"
    c.expect(len(have) == len(wanted()), said, rules.AGREEMENT)
