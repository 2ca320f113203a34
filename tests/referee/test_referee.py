"""Tests of the referee's rules: what breaks each rule, with the message that students read, and what must not break it."""

from __future__ import annotations

from typing import Any

import pytest

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.failure import LabFailure, Rule
from raftlab.referee.referee import Referee
from tests.conftest import let_anyone_lead

Entry = tuple[int, Any]


class History:
    """A cluster whose events are passed to a referee one by one. Each method adds events and returns the history."""

    def __init__(self, servers: int = 3, lab: str = "2D", scripted: bool = False) -> None:
        self.referee = Referee(lab, servers, scripted)
        let_anyone_lead(self.referee)
        for server in range(servers):
            self.referee.booted(server, 1)

    def append(
        self, src: int, dst: int, term: int, prev: tuple[int, int] = (0, 0), *entries: Entry, save: bool = True
    ) -> History:
        """``src``, the leader of ``term``, sends ``entries``, which come after ``prev`` (index, term). ``dst`` accepts
        them."""
        args = self.send(src, dst, term, prev, *entries)
        self.referee.arrived(dst, src, "append_entries", args)
        if save:
            self.referee.saved(dst)
        self.referee.answered(dst, src, "append_entries", args, {"term": term, "success": True})
        return self

    def send(self, src: int, dst: int, term: int, prev: tuple[int, int] = (0, 0), *entries: Entry) -> dict[str, Any]:
        listed = [{"term": of, "command": command} for of, command in entries]
        args = {
            "term": term,
            "prev_log_index": prev[0],
            "prev_log_term": prev[1],
            "entries": listed,
            "leader_commit": 0,
        }
        self.referee.sent(src, dst, "append_entries", args)
        return args

    def vote(self, src: int, dst: int, term: int, last: tuple[int, int] = (0, 0), save: bool = True) -> History:
        """``dst`` votes for ``src``, whose log ends with ``last`` (index, term)."""
        args = {"term": term, "last_log_index": last[0], "last_log_term": last[1]}
        self.referee.sent(src, dst, "request_vote", args)
        self.referee.arrived(dst, src, "request_vote", args)
        if save:
            self.referee.saved(dst)
        self.referee.answered(dst, src, "request_vote", args, {"term": term, "vote_granted": True})
        return self

    def send_and_restart(self, src: int, dst: int, term: int) -> History:
        """``src`` sends a message that shows that it leads ``term``, and restarts."""
        self.send(src, dst, term)
        return self.restart(src)

    def apply(self, server: int, *commands: Any, first: int = 1) -> History:
        for index, command in enumerate(commands, first):
            self.referee.applied(server, ApplyMsg(index, 1, command))
        return self

    def chunk(self, src: int, index: int, offset: int, data: bytes, done: bool, of_term: int = 1) -> History:
        last = {"last_included_index": index, "last_included_term": of_term}
        args = {"term": 1, **last, "offset": offset, "data": data, "done": done}
        self.referee.sent(src, 1, "install_snapshot", args)
        return self

    def restart(self, server: int, incarnation: int = 2) -> History:
        self.referee.booted(server, incarnation)
        return self


def verdict(history: Any) -> tuple[str, Rule | None]:
    with pytest.raises(LabFailure) as caught:
        history()
    return caught.value.failure.text, caught.value.failure.rule


A, B = (1, "a"), (1, "b")


def two_committed() -> History:
    """S0 leads term 1, and entries 1 and 2 are committed on S0 and S1."""
    return History().append(0, 1, 1, (0, 0), A, B).apply(0, "a", "b")


BROKEN = {
    "a leader changes an entry": (
        lambda: History().append(0, 1, 1, (0, 0), A).append(0, 2, 1, (0, 0), B),
        "expected S0, the leader of term 1, to keep index 1 (term 1, 'a'), but now it sends term 1, 'b'",
        rules.LEADER_APPEND_ONLY,
    ),
    "a leader changes a term": (
        lambda: History().append(0, 1, 4, (2, 3), (4, "x")).append(0, 2, 4, (2, 2)),
        "expected S0, the leader of term 4, to keep index 2 (term 3), but now it sends term 2",
        rules.LEADER_APPEND_ONLY,
    ),
    "an entry of a later term": (
        lambda: History().append(0, 1, 3, (1, 1), (3, "x")).append(0, 1, 3, (1, 1), (3, "x"), (4, "y")),
        "expected S0, the leader of term 3, to send no entries of later terms, but it sends one of term 4 at index 3",
        rules.LEADER_APPEND_ONLY,
    ),
    "one entry, two commands": (
        lambda: History().append(0, 1, 1, (0, 0), A).append(1, 2, 2, (0, 0), (1, "x"), (2, "y")),
        "expected 'a' at index 1 of term 1, as S0 sent it, but S1 sends 'x'",
        rules.SAME_ENTRY,
    ),
    "one entry, two predecessors": (
        lambda: History().append(0, 1, 3, (1, 1), (3, "x")).append(1, 2, 4, (1, 2), (3, "x")),
        "expected the entry before index 2 of term 3 to be of term 1, as S0 sent it, but S1 sends one of term 2",
        rules.SAME_ENTRY,
    ),
    "applied by a minority": (
        lambda: History().append(0, 1, 1).apply(0, "a"),
        "expected a majority to have stored index 1 before S0 applies it, but as far as any leader knew, only 1 of "
        "3 servers had it",
        rules.COMMIT_MAJORITY,
    ),
    "half of four": (
        lambda: History(4).append(0, 1, 1, (0, 0), A).apply(0, "a"),
        "expected a majority to have stored index 1 before S0 applies it, but as far as any leader knew, only 2 of "
        "4 servers had it",
        rules.COMMIT_MAJORITY,
    ),
    "an old entry counted": (
        lambda: History().append(0, 1, 2, (0, 0), A).apply(0, "a"),
        "expected S0 to apply index 1 only after a majority has stored an entry of the leader's own term at that index or "
        "later, but S0 applied it earlier",
        rules.COMMIT_OWN_TERM,
    ),
    "elected without a committed entry": (
        lambda: two_committed().vote(2, 2, 2, (1, 1)).send(2, 1, 2, (1, 1)),
        "expected the leader of term 2 to have index 2, but S2 was elected with a log that ends with index 1 of "
        "term 1. Index 2 was committed in term 1",
        rules.LEADER_COMPLETENESS,
    ),
    "another entry where one is committed": (
        lambda: two_committed().send(2, 1, 3, (1, 1), (3, "x")),
        "expected S2 to have the entry of term 1 at index 2, but it has one of term 3. It leads term 3, and that entry "
        "was committed in term 1",
        rules.LEADER_COMPLETENESS,
    ),
    "a vote against a newer log": (
        lambda: two_committed().vote(2, 1, 2, (1, 1)),
        "expected S1 not to vote for S2, but it did. S2's log ends with index 1 of term 1, but S1 has stored index 2 of "
        "term 1, which is committed",
        rules.NEWER_LOG,
    ),
    "a vote not saved": (
        lambda: History().vote(0, 1, 1, save=False),
        "expected S1 to save its vote for S0 in term 1 before it answers, but it has saved nothing since it was asked",
        rules.SAVE_FIRST,
    ),
    "an entry not saved": (
        lambda: History().append(0, 1, 1, (0, 0), A).append(0, 1, 1, (1, 1), B, save=False),
        "expected S1 to save index 2 of term 1 before it says success, but it has saved nothing since that entry was sent",
        rules.SAVE_FIRST,
    ),
    "a vote forgotten": (
        lambda: History().vote(0, 1, 1).restart(1).vote(2, 1, 1),
        "expected S1 to vote once in term 1, but it voted for S0 and then, after a restart, for S2",
        rules.SURVIVES,
    ),
    "a leader forgets its vote for itself": (
        lambda: History().vote(0, 1, 1).send_and_restart(0, 1, 1).vote(2, 0, 1),
        "expected S0 to vote once in term 1, but it voted for itself and then, after a restart, for S2",
        rules.SURVIVES,
    ),
    "a candidate votes for another": (
        lambda: History().vote(0, 1, 1).vote(2, 0, 1),
        "expected S0 to vote once in term 1, but it voted for itself and then for S2",
        rules.ONE_VOTE,
    ),
    "a voter asks in the same term after a restart": (
        lambda: History().vote(2, 0, 1).restart(0).vote(0, 1, 1),
        "expected S0 to vote once in term 1, but it voted for S2 and then, after a restart, for itself",
        rules.SURVIVES,
    ),
    "a snapshot that no service took": (
        lambda: History().chunk(0, 10, 0, b"x", True),
        "expected a snapshot that some service has taken, but S0 sends one up to index 10, where no service took one",
        rules.WHOLE_SNAPSHOT,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_is_reported(name: str) -> None:
    history, text, rule = BROKEN[name]
    assert verdict(history) == (text, rule)


@pytest.mark.parametrize(
    ("offset", "data", "done", "text"),
    [
        (0, b"x" * 4097, False, "expected at most 4096 bytes in one message, but S0 sends 4097 at offset 0"),
        (2, b"xx", False, "expected the snapshot's own bytes, but S0 sends others at offset 2"),
        (0, b"xy", True, "expected S0 to set done only with the last of the 5000 bytes, but it sets done at offset 0"),
    ],
)
def test_a_chunk_that_is_not_of_the_snapshot_is_reported(offset: int, data: bytes, done: bool, text: str) -> None:
    history = History()
    history.referee.applies.snapshots[10] = b"xy" * 2500
    assert verdict(lambda: history.chunk(0, 10, offset, data, done)) == (
        f"{text} of the snapshot up to index 10",
        rules.WHOLE_SNAPSHOT,
    )


def test_a_snapshot_names_the_term_of_its_last_entry() -> None:
    def history() -> History:
        history = two_committed()
        history.referee.applies.snapshots.update(dict.fromkeys((1, 2, 3), b"x"))
        return history

    text = "expected S0 to name term 1, the term of index 2, with the snapshot up to there, but it sends"
    text = f"{text} last_included_term=3"
    assert verdict(lambda: history().chunk(0, 2, 0, b"x", True, of_term=3)) == (text, rules.WHOLE_SNAPSHOT)
    history().chunk(0, 1, 0, b"x", True).chunk(0, 2, 0, b"x", True)
    # No message has shown the entry at index 3.
    history().chunk(0, 3, 0, b"x", True, of_term=3)


def test_only_terms_of_replies_must_survive_a_restart() -> None:
    history = History().append(0, 1, 5)
    history.referee.observed(1, 7, False)  # term 7 is seen only in get_state(), so it need not be saved yet
    history.restart(1)
    history.referee.observed(1, 5, False)
    history.restart(1, 3)
    assert verdict(lambda: history.referee.observed(1, 4, False)) == (
        "expected S1's term to stay at 5 or grow, but get_state() now says 4",
        rules.SURVIVES,
    )


def test_an_index_of_any_size_takes_no_time() -> None:
    history, far = History().append(0, 1, 1, (0, 0), A), 2**60
    args = {**history.send(0, 1, 1, (far, 1), (1, "x")), "leader_commit": far + 1}
    history.referee.sent(0, 1, "append_entries", args)
    history.referee.answered(1, 0, "append_entries", args, {"term": 1, "success": True})
    history.apply(0, "a")
    assert history.referee.applies.service_took(1, b"one entry")
    assert not history.referee.applies.service_took(1, b"one entry")
    assert not history.referee.applies.service_took(far, b"nobody has applied so much")
    snapshot = ApplyMsg(far, 1, kind="snapshot", snapshot=b"nobody has applied so much")
    assert verdict(lambda: history.referee.applied(1, snapshot)) == (
        f"expected a snapshot that some service has taken, but S1 applied one up to index {far}, where no service took one",
        rules.WHOLE_SNAPSHOT,
    )


def test_correct_histories_break_no_rule() -> None:
    # An old entry is committed along with one of the leader's own term, a no-op or a command, in one message or in two.
    History().append(0, 1, 2, (0, 0), A, (2, None)).apply(0, "a", None).apply(1, "a", None)
    History().append(0, 1, 2, (0, 0), A).append(0, 1, 2, (1, 1), (2, "x")).apply(1, "a", "x").apply(0, "a", "x")
    # A successful heartbeat proves as much as entries do. Messages arrive twice and out of order.
    History().append(0, 1, 1, (0, 0), A, B).append(0, 1, 1, (0, 0), A, save=False).append(0, 2, 1, (2, 1)).apply(0, "a")
    # A candidate may lose, and a newer leader may have everything that was committed.
    two_committed().vote(2, 2, 2, (1, 1)).vote(1, 2, 3, (2, 1)).send(1, 2, 3, (2, 1))
    # A server repeats its vote, or accepts the same entries again, after a restart and without another save.
    History().vote(0, 1, 1).restart(1).vote(0, 1, 1, save=False)
    History().append(0, 1, 1, (0, 0), A).restart(1).append(0, 1, 1, (0, 0), A, save=False)
    # A candidate crashes before it has saved its vote for itself, and never counts that vote. Then it votes for another one.
    History().vote(0, 1, 1).restart(0).vote(2, 0, 1)
    # After such a crash, the candidate asks again in the same term, without counting its earlier votes, and is elected.
    History().vote(0, 1, 1).restart(0).vote(0, 2, 1).send(0, 1, 1)
    # A cluster's only server is a majority. A server that has restarted applies everything again.
    History(1).apply(0, "a").restart(0).apply(0, "a", "b")
    two_committed().restart(0).apply(0, "a", "b")
    # A former leader is sent its own entries, which it has saved already.
    history = History()
    history.referee.saved(0)
    history.send(0, 1, 1, (0, 0), A)
    history.append(1, 0, 2, (0, 0), A, save=False)
    # A message begins before the follower's commit index. The follower takes nothing from the message, and its success
    # only means that the two logs agree up to its commit index. So it need not save index 2, and may vote for a
    # candidate that lacks index 2.
    history = History()
    for dst in (1, 2):
        history.append(0, dst, 1, (0, 0), A)
    history.referee.arrived(1, 0, "append_entries", {**history.send(0, 1, 1, (1, 1)), "leader_commit": 1})
    history.append(0, 1, 1, (0, 0), A, B, save=False).apply(0, "a")
    history.vote(2, 1, 2, (1, 1)).send(2, 0, 2, (1, 1))
    # A follower that has saved a snapshot need not save the entries that the snapshot contains.
    history = History()
    history.referee.arrived(1, 0, "install_snapshot", {"term": 1, "last_included_index": 2})
    history.referee.saved(1)
    history.append(0, 1, 1, (0, 0), A, B, save=False)


def test_a_claim_may_count_entries_that_arrived_early() -> None:
    c, d = (1, "c"), (1, "d")

    def take_early(history: History, *entries: Entry, prev: tuple[int, int]) -> None:
        """S1 keeps a request that came too early, and refuses it."""
        history.referee.arrived(1, 0, "append_entries", history.send(0, 1, prev[1], prev, *entries))

    def claim(history: History, upto: int, end: int = 0, term: int = 1) -> History:
        """S1 answers a request that ends at ``end``, and says that it has the entries up to ``upto``."""
        args = history.send(0, 1, term, (end, term if end else 0))
        history.referee.arrived(1, 0, "append_entries", args)
        history.referee.answered(1, 0, "append_entries", args, {"term": term, "success": True, "claimed": upto})
        return history

    # The request that is answered ends before entries that S1 has confirmed already.
    history = two_committed()
    take_early(history, d, prev=(3, 1))
    history.append(0, 1, 1, (2, 1), c)
    claim(history, 4).apply(0, "c", "d", first=3)
    # It has confirmed so many requests that the referee no longer keeps all of them.
    history = History()
    for index in range(60):
        history.append(0, 1, 1, (index, min(index, 1)), A)
    take_early(history, A, prev=(60, 1))
    claim(history, 61).apply(0, *["a"] * 61)
    # The entries before are in the snapshot, or are committed, and the leader has not sent them in this term.
    for how in ("snapshot", "commit index"):
        history = History().append(0, 2, 1, (0, 0), A, B).apply(0, "a", "b")
        if how == "snapshot":
            history.referee.arrived(1, 0, "install_snapshot", {"term": 1, "last_included_index": 2})
        else:
            history.apply(1, "a", "b")
        history.referee.arrived(1, 0, "append_entries", history.send(0, 1, 2, (2, 1), (2, "x")))
        claim(history, 3, term=2)
        history.referee.applied(0, ApplyMsg(3, 2, "x"))
    # A gap remains, or the entries arrived in an earlier term.
    history = two_committed()
    take_early(history, d, prev=(3, 1))
    history.send(0, 1, 1, (2, 1), c)
    assert verdict(lambda: claim(history, 4).apply(0, "c", first=3))[1] == rules.COMMIT_MAJORITY
    history = two_committed()
    take_early(history, c, prev=(2, 1))
    assert verdict(lambda: claim(history, 3, term=2).apply(0, "c", first=3))[1] == rules.COMMIT_MAJORITY


def test_before_lab_2c_nothing_survives_a_restart() -> None:
    history = History(lab="2B").append(0, 1, 1, (0, 0), A, save=False)
    for server in range(3):
        history.restart(server)
    history.vote(1, 2, 1, save=False).append(1, 2, 1, (0, 0), B, save=False)


def test_scripted_servers_may_have_any_log() -> None:
    History(scripted=True).append(0, 1, 1, (0, 0), A).append(0, 2, 1, (0, 0), B).apply(0, "x")


# --- leaders are elected ---


def elect(referee: Referee, leader: int, term: int, *voters: int) -> None:
    args = {"term": term, "candidate_id": leader, "last_log_index": 0, "last_log_term": 0}
    for voter in voters:
        referee.sent(leader, voter, "request_vote", args)
        referee.arrived(voter, leader, "request_vote", args)
        referee.saved(voter)
        referee.answered(voter, leader, "request_vote", args, {"term": term, "vote_granted": True})


HEARTBEAT = {"leader_id": 0, "prev_log_index": 0, "prev_log_term": 0, "entries": [], "leader_commit": 0}


@pytest.mark.parametrize("lab", ["2A", "2D", "2E"])
@pytest.mark.parametrize("voters", [(), (1,)])
@pytest.mark.parametrize("how", ["sent", "observed"])
def test_a_leader_needs_votes(lab: str, voters: tuple[int, ...], how: str) -> None:
    def lead(term: int) -> None:
        if how == "sent":
            referee.sent(0, 1, "append_entries", {"term": term, **HEARTBEAT})
        else:
            referee.observed(0, term, True)

    referee = Referee(lab, 5)
    elect(referee, 0, 3, 1, 2)
    lead(3)
    lead(3)
    elect(referee, 0, 4, *voters)
    with pytest.raises(LabFailure) as caught:
        lead(4)
    seen = "it has only those of S0, S1" if voters else "it has asked nobody for votes in that term"
    text = "expected S0 to lead term 4 only with the votes of most of S0, S1, S2, S3, S4, but"
    if lab != "2E" or how != "sent":  # in lab 2E, the rule about configurations may be the first to notice the message
        assert caught.value.failure.text == f"{text} {seen}"
        assert caught.value.failure.rule is rules.MAJORITY


def test_a_single_voter_leads_without_votes() -> None:
    Referee("2D", 1).observed(0, 1, True)
    Referee("2E", 3, members=[0]).observed(0, 1, True)


def test_a_leader_may_count_by_a_configuration_that_was_asked_for() -> None:
    referee = Referee("2E", 5, members=[0, 1, 2, 3, 4])
    referee.change_requested(0, frozenset([0, 1, 2]))
    elect(referee, 0, 2, 1)
    referee.observed(0, 2, True)
