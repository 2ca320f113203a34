"""Terms only grow: a server's term never goes back (Figure 2, State; §5.1). From lab 2C on not even by a restart.

Seen from outside through ``get_state``: two calls, the second begun after the first was answered. Requests prove nothing
here, because a thread may send a message of an older term late. Across a restart a server is held to what it said in
replies to others, which Figure 2 wants saved before they leave.

Styles it must accept: anything that answers ``get_state`` from its current state, be it saved already or not; answers to
a pre-vote that name the term asked for, which nobody may ever be in.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken


class Terms(Invariant):
    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self._seen: dict[int, int] = {}
        self._promised: dict[int, int] = {}
        self._restarted: set[int] = set()

    def booted(self, server: int, incarnation: int) -> None:
        self._seen[server] = self._promised.get(server, 0)
        self._restarted.add(server)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if self._durable and method != "pre_vote" and reply["term"] > self._promised.get(server, 0):
            self._promised[server] = reply["term"]

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        before = self._seen.get(server, term)
        if term < before:
            text = f"expected S{server}'s term to stay at {before} or grow, but get_state() now says {term}"
            forgot = server in self._restarted and before == self._promised.get(server)
            raise broken(rules.SURVIVES if forgot else rules.TERMS_ONLY_GROW, text, frozenset((server,)))
        self._seen[server] = term
        self._restarted.discard(server)
