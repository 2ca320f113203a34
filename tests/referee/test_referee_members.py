"""Tests of the referee's rules for labs 2E and 2F: what breaks them, and above all what must not break them."""

from __future__ import annotations

from typing import Any

import pytest

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.failure import LabFailure
from raftlab.referee.referee import Referee
from tests.conftest import let_anyone_lead

C3, C4, C1 = [0, 1, 2], [0, 1, 2, 3], [0]


def conf(term: int, members: list[int], old: list[int] | None = None) -> dict[str, Any]:
    return {"term": term, "command": None, "kind": "configuration", "members": members, "old_members": old}


def command(term: int, text: str) -> dict[str, Any]:
    return {"term": term, "command": text, "kind": "command"}


class History:
    """Events of six servers. S0 leads term 1, and at first only ``members`` have a vote. Each method returns the history."""

    def __init__(self, lab: str = "2E", members: list[int] = C3) -> None:
        self.referee = Referee(lab, 6, False, members)
        let_anyone_lead(self.referee)
        for server in range(6):
            self.referee.booted(server, 1)

    def send(self, dst: int, prev: int, *entries: dict[str, Any], term: int = 1, answer: bool = True) -> History:
        args = {
            "term": term, "prev_log_index": prev, "prev_log_term": term if prev else 0, "entries": list(entries),
            "leader_commit": 0,
        }  # fmt: skip
        self.referee.sent(0, dst, "append_entries", args)
        self.referee.arrived(dst, 0, "append_entries", args)
        self.referee.saved(dst)
        if answer:
            self.referee.answered(dst, 0, "append_entries", args, {"term": term, "success": True})
        return self

    def apply(self, server: int, index: int, members: list[int] | None = None) -> History:
        kind = "command" if members is None else "configuration"
        applied = None if members is None else frozenset(members)
        self.referee.applied(server, ApplyMsg(index, 1, f"{index}" if members is None else None, kind, None, applied))
        return self


def begun() -> History:
    """A history in which index 1 is committed in term 1."""
    return History().send(1, 0, command(1, "1")).apply(0, 1)


def test_a_change_of_several_servers_needs_joint_consensus() -> None:
    history = begun().send(1, 1, conf(1, C4)).send(3, 0, command(1, "1"), conf(1, C4))
    history.apply(0, 2, C4)
    with pytest.raises(LabFailure) as caught:
        begun().send(1, 1, conf(1, [0, 3, 4]))
    assert caught.value.failure.rule == rules.JOINT_CONSENSUS


def test_a_second_change_before_the_first_is_committed() -> None:
    with pytest.raises(LabFailure) as caught:
        begun().send(3, 1, conf(1, C4)).send(4, 2, conf(1, [0, 1, 2, 3, 4]))
    assert caught.value.failure.rule == rules.ONE_CHANGE


def test_a_new_leader_may_repeat_the_latest_configuration() -> None:
    """Apache Ratis does this instead of a no-op. In the middle of a term, the repeated configuration would count as
    a second change."""
    for change in (conf(1, C4), conf(1, [3, 4, 5], C3)):
        history = begun().send(3, 1, change)
        history.send(4, 0, command(1, "1"), change, {**change, "term": 2}, term=2)
        with pytest.raises(LabFailure) as caught:
            begun().send(3, 1, change, change)
        assert caught.value.failure.rule == rules.ONE_CHANGE


def test_a_change_before_an_entry_of_the_leaders_own_term() -> None:
    with pytest.raises(LabFailure) as caught:
        History().send(1, 0, conf(1, C4))
    assert caught.value.failure.rule == rules.OWN_TERM_FIRST


def test_joint_consensus_needs_both_majorities() -> None:
    joint = conf(1, [3, 4, 5], C3)
    history = begun().send(3, 1, joint).send(4, 1, joint).send(5, 1, joint)
    with pytest.raises(LabFailure) as caught:
        history.apply(0, 2, [0, 1, 2, 3, 4, 5])
    assert caught.value.failure.rule == rules.BOTH_MAJORITIES
    history = begun().send(3, 1, joint).send(4, 1, joint).send(1, 1, joint)
    history.apply(0, 2, [0, 1, 2, 3, 4, 5])
    # C_new follows. S0 is not a member of C_new, so it does not count.
    history.send(3, 2, conf(1, [3, 4, 5])).send(4, 2, conf(1, [3, 4, 5])).apply(0, 3, [3, 4, 5])


def test_copies_of_a_learner_do_not_count() -> None:
    with pytest.raises(LabFailure) as caught:
        begun().send(3, 0, command(1, "1"), command(1, "2")).apply(0, 2)
    assert caught.value.failure.rule in (rules.MEMBERS_COUNT, rules.COMMIT_MAJORITY)


def test_a_leader_that_becomes_the_only_member_commits_alone() -> None:
    history = History(members=[0, 1]).send(1, 0, command(1, "1")).apply(0, 1)
    history.referee.change_requested(0, frozenset(C1))
    # The entries that S0 had before the change, and the change itself, are committed at once, without a message.
    history.apply(0, 2).apply(0, 3, C1).apply(0, 4)


def test_a_granted_pre_vote_raises_the_term_of_the_candidate_only() -> None:
    ask = {"term": 1, "last_log_index": 0, "last_log_term": 0}
    referee = History("2F").referee
    for voter in (1, 2):
        referee.sent(0, voter, "pre_vote", ask)
    referee.answered(1, 0, "pre_vote", ask, {"term": 0, "vote_granted": True})
    referee.sent(0, 1, "request_vote", ask)
    referee.observed(0, 1, False)
    with pytest.raises(LabFailure) as caught:
        # S2 was asked for a pre-vote for term 1, but has received no message of that term.
        referee.observed(2, 1, False)
    assert caught.value.failure.rule == rules.PRE_VOTE_CHANGES_NOTHING


def test_pre_votes_that_were_counted_as_votes_are_named() -> None:
    ask = {"term": 1, "last_log_index": 0, "last_log_term": 0}
    history = History("2F")
    for voter in (1, 2):
        history.referee.sent(0, voter, "pre_vote", ask)
        history.referee.answered(voter, 0, "pre_vote", ask, {"term": 0, "vote_granted": True})
    history.referee.sent(0, 1, "request_vote", ask)
    with pytest.raises(LabFailure) as caught:
        history.send(1, 0)
    assert caught.value.failure.rule is rules.MAJORITY
    assert caught.value.failure.text == (
        "expected S0 to lead term 1 only with the votes of most of S0, S1, S2, but it has only those of S0. "
        "It has pre-votes of S1, S2, but pre-votes are not votes"
    )


def test_a_negative_index_is_judged_like_any_other() -> None:
    """A server that names index -1 as the end of its log is wrong, but this mistake must not become an error of the
    judge."""
    history = begun()
    args = {"term": 2, "candidate_id": 1, "last_log_index": -1, "last_log_term": 0}
    history.referee.sent(1, 2, "request_vote", args)
    history.referee.arrived(2, 1, "request_vote", args)
    with pytest.raises(LabFailure) as caught:
        history.referee.answered(2, 1, "request_vote", args, {"term": 2, "vote_granted": True})
    assert caught.value.failure.rule == rules.SAVE_FIRST
