"""Requests that the tests of lab 2C send to S0, the one real server, before S0 crashes or while its saves fail. After S0 has
restarted, a check requires that S0 keeps the promises in its answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.scripted_servers import (
    append,
    ask_vote,
    entries,
    expect_entry,
    expect_term,
    request_vote,
    send_append,
    wait_for_campaign,
)


class Request(NamedTuple):
    """One request to S0, whose log has three entries of ``term``. An entry is given as (index, its term minus ``term``).

    Attributes:
        send: sends the request for ``term``, and returns without waiting for the answer.
        kept: the last entry that S0 must have after a restart, whatever it answered.
        stored: the last entry that S0 must have if it answered with success.
    """

    send: Callable[[Cluster, int], Rpc]
    kept: tuple[int, int]
    stored: tuple[int, int]


REQUESTS = {
    "a vote": Request(lambda c, term: request_vote(c, 2, term + 100), (3, 0), (3, 0)),
    "a vote refused": Request(lambda c, term: request_vote(c, 2, term + 100, (0, 0)), (3, 0), (3, 0)),
    "a newer term": Request(lambda c, term: send_append(c, 2, term + 100, (3, term)), (3, 0), (3, 0)),
    "entries": Request(lambda c, term: send_append(c, 1, term, (3, term), entries(term, *"de")), (3, 0), (5, 0)),
    "entries it has, and more": Request(
        lambda c, term: send_append(c, 1, term, (1, term), entries(term, *"bcde")), (3, 0), (5, 0)
    ),
    "another entry": Request(
        lambda c, term: send_append(c, 2, term + 100, (1, term), entries(term + 100, "B")), (1, 0), (2, 100)
    ),
}


def prepare(c: Cluster, request: str, term: int) -> None:
    """Send S0 its three entries of ``term``. If ``request`` asks for a vote, also let S0 vote for S1 in an earlier term."""
    reply = append(c, 1, term, (0, 0), entries(term, *"abc"))
    c.expect(reply["success"], "expected S0 to take new entries, but it refused", rules.LOG_MATCHING, [0])
    if request in ("a vote", "a vote refused"):
        # A server that has just heard a leader may ignore vote requests (§6), but not once it is a candidate itself.
        wait_for_campaign(c, above=term)
        ask_vote(c, 1, term + 50)


def expect_answer_kept(c: Cluster, request: str, term: int, answer: Message, rule: Rule) -> None:
    """Require that S0, after a restart, keeps the promises in its answer. ``answer`` is empty if S0 sent none; ``rule`` is
    the rule that S0 breaks if it has lost an entry."""
    if request in ("a vote", "a vote refused"):
        ask_vote(c, 2, term + 50)  # the referee remembers that S0 has voted for S1 in this term
    if answer.get("vote_granted"):
        ask_vote(c, 1, term + 100)  # the referee remembers the first vote
    expect_term(c, answer.get("term", term))
    index, newer = REQUESTS[request].stored if answer.get("success") else REQUESTS[request].kept
    expect_entry(c, 1, term + 500, (index, term + newer), rule)
