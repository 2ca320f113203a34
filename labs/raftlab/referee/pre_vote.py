"""A pre-vote changes no term and no vote (dissertation, 9.6). From lab 2F on.

Seen from outside: a server's term, as it says it in get_state, in its requests and in its answers, grows for two reasons
only. It has met that term, in a request or an answer of somebody else's; or it has stood for election in it, with the
pre-votes of a majority. A term that is asked about in a pre-vote is nobody's, so meeting it there is no reason.

Styles it must accept: answers to a pre-vote that name the asked or the own term; candidates that ask more than once, or
some servers only; a single member, which needs to ask nobody; configurations of which the others know nothing yet.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit
from raftlab.referee.configuration import Configuration


class PreVote(Invariant):
    def __init__(self, commit: Commit) -> None:
        self._commit = commit
        self._met: dict[int, int] = {}  # the highest term that each server may be in
        self._granted: dict[tuple[int, int], set[int]] = {}  # by server and term: who would vote for it

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "pre_vote":
            self._is_in(src, args["term"])

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        if method != "pre_vote":
            self._meet(server, args["term"])

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method != "pre_vote":
            self._is_in(server, reply["term"])
        elif reply["vote_granted"]:
            self._granted.setdefault((caller, args["term"]), {caller}).add(server)
        self._meet(caller, reply["term"])

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        self._is_in(server, term)

    def _meet(self, server: int, term: int) -> None:
        if term > self._met.get(server, 0):
            self._met[server] = term

    def _is_in(self, server: int, term: int) -> None:
        if term <= self._met.get(server, 0):
            return
        granted = self._granted.get((server, term), {server})
        commit = self._commit
        possible = [*commit.chain.values(), *commit.known.values(), *map(Configuration, commit.wanted)]
        if not any(Configuration(group).majority(granted) for each in possible for group in each.groups if group):
            text = f"expected S{server} to stay in term {self._met.get(server, 0)} until most members would vote for it"
            seen = f"but it is in term {term}, for which {sorted(granted)} would"
            raise broken(rules.PRE_VOTE_CHANGES_NOTHING, f"{text}, {seen}", frozenset((server,)))
        self._met[server] = term
