"""Tests of the referee's rules for lab 2G: what breaks them, and above all what must not break them."""

from __future__ import annotations

from typing import Any

import pytest

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.failure import LabFailure, Rule
from raftlab.referee.referee import Referee
from tests.conftest import let_anyone_lead


class History:
    """Events of three servers. S0 leads term 1. Each method returns the history."""

    def __init__(self, lab: str = "2G", pre_vote: bool = True) -> None:
        self.referee = Referee(lab, 3)
        let_anyone_lead(self.referee)
        for server in range(3):
            self.referee.booted(server, 1)
        if pre_vote:
            ask = {"term": 1, "candidate_id": 0, "last_log_index": 0, "last_log_term": 0}
            for voter in (1, 2):
                self.referee.sent(0, voter, "pre_vote", ask)
                self.referee.arrived(voter, 0, "pre_vote", ask)
                self.referee.answered(voter, 0, "pre_vote", ask, {"term": 0, "vote_granted": True})

    def send(self, dst: int, prev: int, count: int, answer: bool = True, commit: int = 0) -> History:
        """S0 sends ``count`` entries after index ``prev`` to ``dst``, which confirms them if ``answer``."""
        args: dict[str, Any] = {
            "term": 1, "leader_id": 0, "prev_log_index": prev, "prev_log_term": 1 if prev else 0,
            "entries": [{"term": 1, "command": f"{index}"} for index in range(prev + 1, prev + count + 1)],
            "leader_commit": commit,
        }  # fmt: skip
        self.referee.sent(0, dst, "append_entries", args)
        self.referee.arrived(dst, 0, "append_entries", args)
        self.referee.saved(dst)
        if answer:
            self.referee.answered(dst, 0, "append_entries", args, {"term": 1, "success": True})
        return self

    def ask(self, target: int) -> History:
        self.referee.transfer_requested(0, target)
        return self

    def tell(self, dst: int, term: int = 1, arrives: bool = True) -> History:
        """S0 sends TimeoutNow to ``dst``."""
        args = {"term": term, "leader_id": 0}
        self.referee.sent(0, dst, "timeout_now", args)
        if arrives:
            self.referee.arrived(dst, 0, "timeout_now", args)
        return self

    def stand(self, server: int, term: int, flag: bool = True) -> History:
        """``server`` asks for votes in ``term``."""
        args = {"term": term, "candidate_id": server, "last_log_index": 2, "last_log_term": 1}
        self.referee.sent(server, 0, "request_vote", args | ({"leadership_transfer": True} if flag else {}))
        return self

    def restart(self, server: int) -> History:
        self.referee.booted(server, 2)
        return self


def breaks(rule: Rule, history: History, step: str, *args: Any) -> None:
    with pytest.raises(LabFailure) as caught:
        getattr(history, step)(*args)
    assert caught.value.failure.rule == rule


# --- an election on request ---


def test_only_a_server_that_was_told_to_stand_says_so() -> None:
    History().send(1, 0, 2).tell(1).stand(1, 2).stand(1, 2)
    breaks(rules.ELECTION_ON_REQUEST, History().send(1, 0, 2), "stand", 1, 2)
    breaks(rules.ELECTION_ON_REQUEST, History().send(1, 0, 2).tell(1, arrives=False), "stand", 1, 2)
    breaks(rules.ELECTION_ON_REQUEST, History().send(1, 0, 2).tell(1), "stand", 2, 2)


def test_a_request_to_stand_holds_for_one_term_and_one_incarnation() -> None:
    breaks(rules.ELECTION_ON_REQUEST, History().send(1, 0, 2).tell(1).stand(1, 2), "stand", 1, 3)
    breaks(rules.ELECTION_ON_REQUEST, History().send(1, 0, 2).tell(1).restart(1), "stand", 1, 2)


def test_earlier_labs_do_not_look_at_the_flag() -> None:
    """A Raft may implement lab 2G before it is tested in lab 2E. A leader that is removed may then hand over without
    being asked."""
    History("2E").send(1, 0, 2).stand(1, 2)


# --- terms without pre-votes ---


def test_a_server_that_was_told_to_stand_needs_no_pre_votes() -> None:
    for lab in ("2F", "2G"):
        history = History(lab).send(1, 0, 2).tell(1).stand(1, 2, flag=False)
        history.referee.observed(1, 2, False)
        breaks(rules.PRE_VOTE_CHANGES_NOTHING, history, "stand", 1, 3, False)
        breaks(rules.PRE_VOTE_CHANGES_NOTHING, History(lab).send(1, 0, 2).tell(1, arrives=False), "stand", 1, 2, False)


def test_the_new_term_may_be_saved_just_before_a_crash() -> None:
    history = History().send(1, 0, 2).tell(1).restart(1)
    history.referee.observed(1, 2, False)


def test_a_raft_without_lab_2f_may_do_lab_2g() -> None:
    History(pre_vote=False).send(1, 0, 2).stand(1, 2, flag=False).stand(2, 3, flag=False)
    breaks(rules.PRE_VOTE_CHANGES_NOTHING, History("2F", pre_vote=False), "stand", 1, 2, False)


# --- the whole log first ---


def test_timeout_now_before_the_target_has_the_whole_log() -> None:
    History().send(1, 0, 2).tell(1)
    breaks(rules.WHOLE_LOG_FIRST, History().send(1, 0, 2).send(1, 2, 1, answer=False).ask(1), "tell", 1)
    # S2 has confirmed everything, but it is not the target.
    breaks(rules.WHOLE_LOG_FIRST, History().send(1, 0, 1).send(2, 0, 3).ask(1), "tell", 1)
    breaks(rules.WHOLE_LOG_FIRST, History().send(2, 0, 3), "tell", 1)


def test_an_empty_log_is_no_reason_to_wait() -> None:
    History().tell(1)


def test_a_heartbeat_confirms_what_is_before_it() -> None:
    History().send(2, 0, 3).send(1, 0, 3, answer=False).send(1, 3, 0).tell(1)


def test_timeout_now_may_leave_after_the_log_has_grown() -> None:
    """A thread decides to send TimeoutNow. Before the message leaves, the transfer is given up and the log grows."""
    History().send(1, 0, 2).ask(1).send(2, 0, 3).tell(1)
    # If a transfer is requested after the log has grown, the leader must wait for the whole log.
    breaks(rules.WHOLE_LOG_FIRST, History().send(1, 0, 2).send(2, 0, 3).ask(1), "tell", 1)


def test_a_commit_index_in_an_answer_counts() -> None:
    """S1 already knows that the whole log is committed. When a message begins before S1's commit index, S1's answer
    confirms the log up to this index, as answers of etcd's followers do."""
    history = History().send(1, 0, 3, answer=False).send(2, 0, 3)
    history.referee.applied(2, ApplyMsg(1, 1, "1"))
    history.send(1, 3, 0, answer=False, commit=3)
    history.send(1, 0, 1).tell(1)
