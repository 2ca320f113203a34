"""One vote per term: a server gives its vote to at most one candidate in any one term (Figure 2, RequestVote 2; §5.2).

For the referee, S votes for C in term T if S answers a RequestVote of term T with ``vote_granted``. S votes for itself
if it asks for votes in T or leads T. If S has asked for votes in T but has not led T, the referee forgets S's vote for
itself when S restarts. The reason: a candidate may send its requests before its own vote is durable, as long as it does
not count that vote. If it crashes before the vote is durable, the candidacy ends.

The rule must accept: the same vote granted again to the same candidate (a repeated or duplicated request); a reply
whose own ``term`` is already higher because the server moved on while it answered; a candidate that asks the same peer
twice; a candidate that sends its requests, and crashes before its own vote is saved. Before lab 2C nothing has to
survive a restart, so votes count per incarnation.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken


class OneVote(Invariant):
    """The rule that a server votes for at most one candidate in a term."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        # By server and term: the candidate, and the incarnation in which the vote was granted.
        self._votes: dict[tuple[int, int], tuple[int, int]] = {}
        # By server: the terms in which the server has asked for votes in its current incarnation, but has not led yet.
        self._asked: dict[int, set[int]] = {}
        self._incarnations: dict[int, int] = {}
        # By server and term: what happened after the server voted. Used only for the failure's sentence.
        self._since: dict[tuple[int, int], str] = {}

    def booted(self, server: int, incarnation: int) -> None:
        self._incarnations[server] = incarnation
        asked = self._asked.pop(server, set())
        self._since = {(voter, term): what for (voter, term), what in self._since.items() if voter != server}
        self._votes = {
            (voter, term): vote
            for (voter, term), vote in self._votes.items()
            if voter != server or (self._durable and term not in asked)
        }

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        term = args["term"]
        if method == "request_vote":
            if (src, term) not in self._votes:
                self._asked.setdefault(src, set()).add(term)
            self._vote(src, term, src)
        elif method in ("append_entries", "install_snapshot"):
            self._leads(src, term)

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        if method in ("append_entries", "install_snapshot") and (server, args["term"]) in self._votes:
            self._since.setdefault((server, args["term"]), f"it had heard S{caller}, the leader of that term")

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        if is_leader:
            self._leads(server, term)

    def led(self, server: int, term: int) -> None:
        self._leads(server, term)

    def _leads(self, server: int, term: int) -> None:
        self._asked.get(server, set()).discard(term)
        self._vote(server, term, server)
        self._since[server, term] = "it had led that term"

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "request_vote" and reply["vote_granted"]:
            self._vote(server, args["term"], caller, reply["term"])

    def _vote(self, server: int, term: int, candidate: int, now: int = 0) -> None:
        """Record that ``server`` votes for ``candidate`` in ``term``. ``now`` is the server's own term in the reply; 0
        if unknown."""
        incarnation = self._incarnations.get(server, 0)
        first, given = self._votes.setdefault((server, term), (candidate, incarnation))
        if first != candidate:
            mine, other = (f"S{who}" if who != server else "itself" for who in (first, candidate))
            then = "then" if given == incarnation else "then, after a restart,"
            text = f"expected S{server} to vote once in term {term}, but it voted for {mine} and {then} for {other}"
            if now > term:
                text = f"{text}, when it was in term {now}"
            elif given == incarnation and other != "itself" and (server, term) in self._since:
                text = f"{text}, after {self._since[server, term]}"
            rule = rules.ONE_VOTE if given == incarnation else rules.SURVIVES
            raise broken(rule, text, frozenset((server, first, candidate)))
