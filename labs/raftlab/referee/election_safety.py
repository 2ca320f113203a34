"""Election Safety: at most one server leads in any one term (§5.2, Figure 3).

For the referee, a server leads term T if it sends AppendEntries (or InstallSnapshot) of term T, or if its ``get_state``
or ``start`` reports that it leads T.

The rule must accept: a deposed leader that sends a message of its old term late (it did lead that term); leaders that
never send an empty heartbeat; a leader that is cut off and still believes that it leads. Before lab 2C a restarted
server may have forgotten its terms, so the referee forgets which terms that server led.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken


class ElectionSafety(Invariant):
    """The rule that at most one server leads in a term."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self._leaders: dict[int, int] = {}

    def booted(self, server: int, incarnation: int) -> None:
        if incarnation > 1 and not self._durable:
            # The server may lead the same terms again, or another server may lead them. The terms of other servers
            # still count.
            self._leaders = {term: leader for term, leader in self._leaders.items() if leader != server}

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method in ("append_entries", "install_snapshot"):
            self._leads(src, args["term"])

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        if is_leader:
            self._leads(server, term)

    def led(self, server: int, term: int) -> None:
        self._leads(server, term)

    def _leads(self, server: int, term: int) -> None:
        first = self._leaders.setdefault(term, server)
        if first != server:
            text = f"expected at most one leader in term {term}, but S{first} and S{server} both lead it"
            raise broken(rules.ELECTION_SAFETY, text, frozenset((first, server)))
