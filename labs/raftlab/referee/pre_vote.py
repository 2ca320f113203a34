"""A pre-vote changes no term and no vote (dissertation, 9.6). From lab 2F on.

The referee checks a server's term in get_state, in its requests and in its replies. The term may grow only for one of
three reasons: the server has received that term in another server's request or reply; it starts an election in that
term, with the pre-votes of a majority; or the leader of the previous term has told it to start an election (TimeoutNow,
lab 2G). No server is in the term of a pre-vote request yet, so receiving such a request is not a reason.

The rule must accept: replies to a pre-vote with either the requested term or the server's own; candidates that ask more
than once, or ask only some servers; a single member, which asks no one; configurations that the others do not know yet.
Lab 2G does not need lab 2F. In lab 2G the rule holds once a server has asked for a pre-vote: a server that uses
pre-votes asks before the first election.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit
from raftlab.referee.configuration import Configuration, names


class PreVote(Invariant):
    """The rule that a pre-vote changes nothing.

    Args:
        commit: The record of configurations.
        required: Whether servers must ask for pre-votes. Otherwise the rule applies once a server has asked for them.
    """

    def __init__(self, commit: Commit, required: bool) -> None:
        self._commit = commit
        self._holds = required
        self._received: dict[int, int] = {}  # the highest term that each server may be in
        # By candidate and term: the servers that granted the candidate a pre-vote.
        self._granted: dict[tuple[int, int], set[int]] = {}

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "pre_vote":
            self._is_in(src, args["term"])
        else:
            self._holds = True

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        if method != "pre_vote":
            # A server that received TimeoutNow may save the next term, crash, and be in that term after a restart.
            self._receive(server, args["term"] + (method == "timeout_now"))

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method != "pre_vote":
            self._is_in(server, reply["term"])
        elif reply["vote_granted"]:
            self._granted.setdefault((caller, args["term"]), {caller}).add(server)
        self._receive(caller, reply["term"])

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        self._is_in(server, term)

    def _receive(self, server: int, term: int) -> None:
        if term > self._received.get(server, 0):
            self._received[server] = term

    def _is_in(self, server: int, term: int) -> None:
        if term <= self._received.get(server, 0):
            return
        if not self._holds:
            self._received[server] = term
            return
        granted = self._granted.get((server, term), {server})
        commit = self._commit
        possible = [
            *commit.committed_configurations.values(),
            *commit.sent_configurations.values(),
            *map(Configuration, commit.requested),
        ]
        if not any(Configuration(group).has_majority(granted) for each in possible for group in each.groups if group):
            text = f"expected S{server} to stay in term {self._received.get(server, 0)} until most members would vote for it"
            has = (
                f"it has only the pre-votes of {names(granted)}"
                if granted - {server}
                else "no other server has given it a pre-vote"
            )
            seen = f"but it is in term {term}, for which {has}"
            raise broken(rules.PRE_VOTE_CHANGES_NOTHING, f"{text}, {seen}", frozenset((server,)))
        self._received[server] = term
