"""Terms only grow: a server's term never goes back (Figure 2, State; §5.1). From lab 2C on, it does not go back in a
restart, either.

The referee compares successive calls of ``get_state`` that do not overlap. Requests prove nothing, because a thread may
send a message of an older term late. After a restart, the term must be at least the highest one in the server's earlier
replies, because Figure 2 requires a server to save its term before it sends a reply.

The rule must accept: a ``get_state`` that returns the current term before it is saved; replies to a pre-vote that name
the requested term, which no server may ever be in.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken


class Terms(Invariant):
    """The rule that a server's term never goes back."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        # By server: the last term in get_state, and the highest term in its replies. `_restarted` has the servers that
        # have restarted since that get_state.
        self._seen: dict[int, int] = {}
        self._answered: dict[int, int] = {}
        self._restarted: set[int] = set()

    def booted(self, server: int, incarnation: int) -> None:
        self._seen[server] = self._answered.get(server, 0)
        self._restarted.add(server)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if self._durable and method != "pre_vote" and reply["term"] > self._answered.get(server, 0):
            self._answered[server] = reply["term"]

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        before = self._seen.get(server, term)
        if term < before:
            text = f"expected S{server}'s term to stay at {before} or grow, but get_state() now says {term}"
            forgot = server in self._restarted and before == self._answered.get(server)
            raise broken(rules.SURVIVES if forgot else rules.TERMS_ONLY_GROW, text, frozenset((server,)))
        self._seen[server] = term
        self._restarted.discard(server)
