"""What lab 2C asks of one real server, S0, before it crashes or while its disk fails, and what S0 must keep to then."""

from __future__ import annotations

from collections.abc import Callable

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.scripted_servers import (
    append,
    ask_vote,
    campaign,
    entries,
    has,
    in_term,
    request_vote,
    send_append,
)

# What is asked of S0, whose log is three entries of `term`; the last entry that it must have afterwards in any case; the
# last one once it said success. Entries are named (index, what their term is above `term`).
REQUESTS: dict[str, tuple[Callable[[Cluster, int], Rpc], tuple[int, int], tuple[int, int]]] = {
    "a vote": (lambda c, term: request_vote(c, 2, term + 100), (3, 0), (3, 0)),
    "a newer term": (lambda c, term: send_append(c, 2, term + 100, (3, term)), (3, 0), (3, 0)),
    "entries": (lambda c, term: send_append(c, 1, term, (3, term), entries(term, *"de")), (3, 0), (5, 0)),
    "entries it has, and more": (
        lambda c, term: send_append(c, 1, term, (1, term), entries(term, *"bcde")),
        (3, 0),
        (5, 0),
    ),
    "another entry": (
        lambda c, term: send_append(c, 2, term + 100, (1, term), entries(term + 100, "B")),
        (1, 0),
        (2, 100),
    ),
}


def prepare(c: Cluster, request: str, term: int) -> None:
    """Give S0 its three entries."""
    reply = append(c, 1, term, (0, 0), entries(term, *"abc"))
    c.expect(reply["success"], "expected S0 to take new entries, but it refused", rules.LOG_MATCHING, [0])
    if request == "a vote":
        # A server that has just heard a leader may ignore requests for a vote (§6): not so when it campaigns itself.
        campaign(c, above=term)


def stands_by(c: Cluster, request: str, term: int, answer: Message, rule: Rule) -> None:
    """After its restart S0 keeps to its answer, which is empty when none came."""
    if answer.get("vote_granted"):
        ask_vote(c, 1, term + 100)  # the referee knows of the first vote
    in_term(c, answer.get("term", term))
    _, kept, stored = REQUESTS[request]
    index, newer = stored if answer.get("success") else kept
    has(c, 1, term + 500, (index, term + newer), rule)
