"""Tests of how `Cluster` deals with leaders that hand over (lab 2G). They use small fake Rafts in the simulator."""

from __future__ import annotations

import pytest

from raftlab.explain.failure import LabFailure
from raftlab.harness.trace import OutgoingEvent, line
from raftlab.messages import protocol
from tests.conftest import Write, sim_cluster

# A fake Raft: S0 leads, and refuses the first three commands, as a leader does while it hands over.
BUSY = {
    "init": "self.calls, self.leads, self.term = 0, me == 0, 1",
    "methods": """
        def start(self, command):
            if not self.leads: return -1, 1, False
            self.calls += 1
            if self.calls <= 3: return -1, 1, True
            self.apply_ch.put(ApplyMsg(1, 1, command))
            return 1, 1, True

        def transfer_leadership(self, target):
            return (target, 1, True) if self.leads else (0, 1, False)
    """,
}


def test_a_leader_that_hands_over_is_asked_again(write_raft: Write) -> None:
    with sim_cluster(write_raft(**BUSY), lab="2G") as c:
        c.start_all()
        assert c.propose(0, "x") == (-1, 1, True)
        assert c.agree("y", 1) == 1
        assert c.committed(1) == (1, "y")


def test_answers_of_a_transfer(write_raft: Write) -> None:
    with sim_cluster(write_raft(**BUSY), servers=3, lab="2G") as c:
        c.start_all()
        assert c.transfer(0, 1) == (1, 1, True)
        assert c.transfer(2, 1) == (0, 1, False)
        assert c.transferred(0, [c.ask_transfer(0, 1), c.ask_transfer(0, 2)]) == [(1, 1, True), (2, 1, True)]
        c.crash(2)
        assert c.transfer(2, 1) == (-1, -1, False)


def test_an_answer_of_the_wrong_shape(write_raft: Write) -> None:
    wrong = "def transfer_leadership(self, target):\n    return target, True"
    with sim_cluster(write_raft(methods=wrong), lab="2G") as c:
        c.start_all()
        with pytest.raises(LabFailure, match=r"expected transfer_leadership\(\) to return \(target, term, is_leader\)"):
            c.transfer(0, 0)


def test_the_trace_shows_the_flag_only_if_it_is_set() -> None:
    request = {"term": 3, "candidate_id": 1, "last_log_index": 4, "last_log_term": 2}
    for flag, shown in ((None, ""), (False, ""), (True, " leadership_transfer=True")):
        message = protocol.encode(request if flag is None else {**request, "leadership_transfer": flag})
        text = line(OutgoingEvent(0.5, "send", 1, 2, 8, "request_vote", message))
        assert text == f"   0.500 S1→S2 RequestVote term=3 last=(4,2){shown}"
