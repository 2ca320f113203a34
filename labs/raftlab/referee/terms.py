"""Terms only grow: a server's term never goes back (Figure 2, State; §5.1). From lab 2C on not even by a restart.

Seen from outside only through ``get_state``: two calls, the second begun after the first was answered. Messages prove
nothing here, because a thread may send a message of an older term late.

Styles it must accept: anything that answers ``get_state`` from its current state.
"""

from __future__ import annotations

from raftlab import rules
from raftlab.referee import Invariant, broken


class Terms(Invariant):
    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self._seen: dict[int, int] = {}

    def booted(self, server: int, incarnation: int) -> None:
        if not self._durable:
            self._seen.pop(server, None)

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        before = self._seen.get(server, term)
        if term < before:
            text = f"expected S{server}'s term to stay at {before} or grow, but get_state() now says {term}"
            raise broken(rules.TERMS_ONLY_GROW, text, frozenset((server,)))
        self._seen[server] = term
