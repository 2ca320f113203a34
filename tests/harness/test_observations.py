"""Tests of the sentences that say what happened while a test waited in vain. Each test makes one such sentence from a
short trace."""

from __future__ import annotations

from typing import Any

import pytest

from raftlab.harness import observations
from raftlab.harness.observations import Accepted, Observation
from raftlab.harness.trace import Event, OutgoingEvent, ReplyEvent, Trace, _pack


class Script:
    """Builds a trace RPC by RPC."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.number = 0

    @property
    def events(self) -> list[Event]:
        return self.trace.events

    def rpc(
        self, time: float, src: int, dst: int, method: str, args: dict[str, Any], reply: dict[str, Any] | None = None
    ) -> int:
        """Add an RPC. Without ``reply`` it is never answered. Returns the RPC's number."""
        self.number += 1
        self.trace.add(OutgoingEvent(time, "send", src, dst, self.number, method, _pack(args)))
        if reply is not None:
            data = _pack(reply)
            self.trace.add(OutgoingEvent(time + 0.001, "answer", dst, src, self.number, method, data))
            self.trace.add(ReplyEvent(time + 0.002, "reply", src, dst, self.number, method, data))
        return self.number

    def vote(
        self, time: float, src: int, dst: int, term: int, granted: bool | None = None, told: int | None = None
    ) -> int:
        reply = None if granted is None else {"term": told or term, "vote_granted": granted}
        args = {"term": term, "candidate_id": src, "last_log_index": 0, "last_log_term": 0}
        return self.rpc(time, src, dst, "request_vote", args, reply)

    def append(
        self,
        time: float,
        src: int,
        dst: int,
        prev: int,
        entries: int = 0,
        commit: int = 0,
        success: bool | None = True,
        term: int = 1,
    ) -> int:
        args = {"term": term, "prev_log_index": prev, "prev_log_term": 1, "entries": [{}] * entries}
        reply = None if success is None else {"term": 1, "success": success}
        return self.rpc(time, src, dst, "append_entries", {**args, "leader_commit": commit}, reply)


@pytest.fixture
def script() -> Script:
    return Script()


def election(script: Script, now: float = 5.0, members: int = 3) -> str:
    return observations.election(script.events, now, 0.0, range(members), members).text


def test_no_server_asks_for_votes(script: Script) -> None:
    assert election(script) == "nobody asked for votes"
    script.append(1.0, 0, 1, 0)
    assert election(script) == "nobody asked for votes, while S0 sent AppendEntries of term 1"


def test_no_server_answers_a_candidate(script: Script) -> None:
    for term in (1, 2, 3):
        script.vote(term, 1, 0, term)
        script.vote(term, 1, 2, term)
    assert election(script) == "S1 asked for votes in terms 1 to 3, and nobody answered"


def test_votes_are_refused_for_no_reason(script: Script) -> None:
    script.vote(0.5, 0, 1, 1, granted=True)
    for term in (2, 3, 4):
        for voter in (0, 1):
            script.vote(term, 2, voter, term, granted=False)
    assert election(script) == (
        "S2 asked for votes in terms 2 to 4; in term 4, S0 and S1 refused, having given no vote in that "
        "term, only in earlier ones (the request names (0, 0) as the last entry)"
    )


def test_a_vote_that_another_candidate_has(script: Script) -> None:
    script.vote(3.9, 1, 0, 3, granted=True)
    script.vote(4.0, 2, 0, 3, granted=False)
    script.vote(4.0, 2, 1, 3, granted=False)
    assert "S0 refused, having voted for S1, and S1 refused, having asked for votes in that term as well" in election(
        script, members=5
    )


def test_a_split_vote_again_and_again(script: Script) -> None:
    for term in range(1, 5):
        for src, dst in ((0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)):
            script.vote(term, src, dst, term, granted=False)
    assert election(script) == "S0, S1 and S2 asked for votes at the same time in terms 1 to 4, each for itself"


def test_a_term_that_is_ignored(script: Script) -> None:
    for term in (3, 4, 5):
        script.vote(term - 2, 0, 1, term, granted=False, told=101)
    expected = "S0 was answered with term 101, and still asked for votes in terms 4 and 5"
    assert election(script) == expected
    assert observations.campaigns(script.events, 0.0, 0).text == expected


def test_a_newer_term_that_is_heard_of_too_late_is_not_ignored(script: Script) -> None:
    """An answer with a newer term arrives when the next election has already begun. After that, one more request of this
    election is sent. This does not show that the newer term was ignored."""
    asked = script.vote(1.0, 0, 1, 3)
    script.vote(2.0, 0, 1, 4, granted=False)
    refusal = _pack({"term": 101, "vote_granted": False})
    script.trace.add(OutgoingEvent(2.1, "answer", 1, 0, asked, "request_vote", refusal))
    script.trace.add(ReplyEvent(2.2, "reply", 0, 1, asked, "request_vote", refusal))
    script.vote(2.3, 0, 2, 4, granted=False)
    assert "was answered" not in election(script)


def test_a_candidate_that_gives_up(script: Script) -> None:
    script.vote(0.5, 0, 1, 1, granted=False)
    assert election(script) == "S0 asked for votes in term 1, and then nobody asked again"


def test_a_candidate_that_asks_too_few(script: Script) -> None:
    script.vote(4.5, 0, 1, 1, granted=True)
    assert election(script, members=5) == "in term 1, S0 asked only S1 for votes"


def test_elected_servers_that_do_not_go_on_leading(script: Script) -> None:
    script.vote(0.5, 0, 1, 1, granted=True)
    assert election(script) == "S0 got the votes of S0 and S1 in term 1, and sent no AppendEntries"
    script.append(0.6, 0, 1, 0)
    assert election(script) == "no elected leader lasted: S0 in term 1"
    expected = "S0 was elected in term 1 and sends AppendEntries of that term, but does not say that it leads"
    assert election(script, now=0.7) == expected
    script.vote(1.5, 2, 1, 2, granted=True)
    script.append(1.6, 2, 1, 0, term=2)
    assert election(script) == "no elected leader lasted: S0 in term 1, S2 in term 2"
    assert election(script, now=1.7) == "no elected leader lasted: S0 in term 1, S2 in term 2"


def test_pre_votes_that_are_refused(script: Script) -> None:
    script.rpc(1.0, 0, 1, "pre_vote", {"term": 2}, {"term": 1, "vote_granted": False})
    assert election(script) == "S0 asked for pre-votes in vain: S1 said no"


def agreement(script: Script, applied: dict[int, int], index: int = 3) -> str:
    accepted = [Accepted(0, 1.0, index, 1)]
    return observations.agreement(script.events, 3.0, 0.0, accepted, range(3), 3, applied).text


def test_nobody_takes_a_command(script: Script) -> None:
    found = observations.agreement(script.events, 3.0, 0.0, [], range(3), 3, {})
    assert found.text == "no start() said that it leads; nobody asked for votes"
    script.append(2.9, 0, 1, 0)
    found = observations.agreement(script.events, 3.0, 0.0, [], range(3), 3, {})
    assert found.text == "no start() said that it leads, though S0 sends AppendEntries of term 1"


def test_a_command_that_is_not_sent(script: Script) -> None:
    script.append(1.1, 0, 1, 3, success=False)
    assert agreement(script, {}) == "S0 took it at index 3, and sent it to nobody"


def test_a_command_that_is_stored_and_not_committed(script: Script) -> None:
    for server in (1, 2):
        script.append(1.1, 0, server, 2, 1)
    took = "S0 took it at index 3; S1 and S2 have stored it, but S0 has applied"
    assert agreement(script, {0: 2}) == f"{took} only index 2 and those before"
    assert agreement(script, {}) == f"{took} nothing"
    script.append(1.2, 0, 1, 3, commit=3)
    took = took.replace(", but S0", ", and S0 sends commit=3, but")
    assert agreement(script, {0: 2}) == f"{took} only index 2 and those before"


def test_a_follower_that_does_not_apply(script: Script) -> None:
    script.append(1.1, 0, 1, 2, 1)
    script.append(1.2, 0, 1, 3, commit=3)
    assert agreement(script, {0: 3, 2: 3}) == "S0 took it at index 3; S1 was told commit=3, and has applied nothing"
    applied = "has applied only index 2 and those before"
    assert (
        agreement(script, {0: 3, 1: 2, 2: 3})
        == f"S0 took it at index 3; S1 was told commit=3 in heartbeats, and {applied}"
    )


def test_a_follower_that_refuses(script: Script) -> None:
    last = 0
    for tenth in range(1, 20):
        last = script.append(1.0 + tenth / 10, 0, 1, 2, 1, success=False)
    found = observations.lagging(script.events, 0.0, 1, 3, 0)
    assert found == Observation("S1 refused S0's AppendEntries with prev=(2,1) 19 times", frozenset({last - 1, last}))
    for tenth in range(1, 20):
        script.append(3.0 + tenth / 10, 0, 2, 30 - tenth, 1, success=False)
    assert observations.lagging(script.events, 0.0, 2, 3, 0).text == (
        "S2 refused 19 AppendEntries of S0 in a row, with prev_log_index from 29 to 11"
    )


def test_a_follower_that_is_not_sent_everything(script: Script) -> None:
    script.append(1.0, 0, 1, 1, 1)
    assert observations.lagging(script.events, 0.0, 1, 5, 0).text == (
        "S1 has taken everything that S0 sent it, up to index 2"
    )
    assert observations.lagging(script.events, 0.0, 2, 5, 0).text == "nobody sent S2 entries or heartbeats"


def test_the_chunks_of_a_snapshot(script: Script) -> None:
    for second in range(3):
        args = {"term": 1, "last_included_index": 30, "offset": 4096, "done": False}
        script.rpc(second, 0, 1, "install_snapshot", args, {"term": 1})
    assert observations.lagging(script.events, 0.0, 1, 31, 0).text == (
        "S0 sent S1 the same chunk 3 times (offset 4096 of the snapshot up to 30)"
    )


def test_a_transfer_after_which_the_target_does_not_lead(script: Script) -> None:
    assert observations.transfer(script.events, 5.0, 0.0, 0, 1, 3).text == "S0 sent no TimeoutNow"
    script.rpc(1.0, 0, 1, "timeout_now", {"term": 1}, {"term": 1})
    assert observations.transfer(script.events, 5.0, 0.0, 0, 1, 3).text == (
        "S0 sent TimeoutNow once, and S1 asked for no votes"
    )


def test_what_a_clerk_was_told(script: Script) -> None:
    clerk = 1000
    assert observations.answers_to(script.events, clerk, 0.0).text.endswith("sent no request")
    for status in ("not_leader", "not_leader", "ok"):
        script.rpc(1.0, clerk, 0, "client_request", {"serial": 1}, {"status": status})
    assert observations.answers_to(script.events, clerk, 0.0).text == "S0 said ok once, S0 said not_leader 2 times"


def test_the_most_frequent_message_of_a_flood(script: Script) -> None:
    for _ in range(5):
        script.append(1.0, 0, 1, 10, success=False)
    assert observations.most_frequent(script.events, 0, 0.0) == (
        "5 of them AppendEntries to S1, which refused 5 of them, the last with prev=(10,1)"
    )


def test_who_lets_a_candidate_disturb_the_leader(script: Script) -> None:
    def text() -> str:
        return observations.disturbed(script.events, 0.0, 3).text

    script.append(1.0, 0, 1, 0)
    script.vote(1.2, 3, 1, 2, granted=False, told=1)
    assert text() == ""
    script.vote(1.2, 3, 0, 2, granted=False)
    assert text() == "S0, the leader itself, adopted term 2 from a RequestVote of S3"
    script.vote(1.2, 3, 2, 2, granted=True)
    assert text() == "S2, which should hear the leader, adopted term 2 from a RequestVote of S3"
