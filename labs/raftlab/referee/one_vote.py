"""One vote per term: a server gives its vote to at most one candidate in any one term (Figure 2, RequestVote 2; §5.2).

For the referee, S votes for C in term T if S answers a RequestVote of term T with ``vote_granted``, or if S itself asks
for votes in T (a candidate votes for itself).

Styles it must accept: the same vote granted again to the same candidate (a repeated or duplicated request); a reply whose
own ``term`` is already higher because the server moved on while it answered; a candidate that asks the same peer twice.
Before lab 2C nothing has to survive a restart, so votes count per incarnation.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken


class OneVote(Invariant):
    """The rule."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        # By server and term: the candidate, and the incarnation in which the vote was granted.
        self._votes: dict[tuple[int, int], tuple[int, int]] = {}
        self._incarnations: dict[int, int] = {}

    def booted(self, server: int, incarnation: int) -> None:
        self._incarnations[server] = incarnation
        if incarnation > 1 and not self._durable:
            self._votes = {key: vote for key, vote in self._votes.items() if key[0] != server}

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "request_vote":
            self._vote(src, args["term"], src)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "request_vote" and reply["vote_granted"]:
            self._vote(server, args["term"], caller)

    def _vote(self, server: int, term: int, candidate: int) -> None:
        incarnation = self._incarnations.get(server, 0)
        first, given = self._votes.setdefault((server, term), (candidate, incarnation))
        if first != candidate:
            mine, other = (f"S{who}" if who != server else "itself" for who in (first, candidate))
            then = "then" if given == incarnation else "then, after a restart,"
            text = f"expected S{server} to vote once in term {term}, but it voted for {mine} and {then} for {other}"
            rule = rules.ONE_VOTE if given == incarnation else rules.SURVIVES
            raise broken(rule, text, frozenset((server, first, candidate)))
