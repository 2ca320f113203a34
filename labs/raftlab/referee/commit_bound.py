"""The last index that each server may know to be committed, and the last index that an answer to AppendEntries confirms.
These are not rules, but records that other rules use.

If an AppendEntries begins before a follower's commit index, the follower may agree only up to its commit index, and
leave the entries after that for a later message. Its reply still says success, so such a success proves nothing about
the entries that it left. The referee does not know a server's commit index, but it knows an upper bound of it.

A success usually confirms the entries up to the end of its request. But a follower may keep requests that arrive too
early, take their entries as soon as those before them have arrived, and say in a field of its own how far it has come.
Such a field counts if its value is above the end of the request. The success then confirms the entries up to that value,
as far as the follower can have them: those that it has confirmed to this leader before, those that are committed, and
those that have arrived from this leader and follow them without a gap.
"""

from __future__ import annotations

from collections import Counter

from raftlab.api import ApplyMsg
from raftlab.referee.base import Invariant, Message

# Whenever this many requests of a term have arrived at a server, those whose entries are all confirmed are forgotten.
_FORGET_EVERY = 50


class CommitBound(Invariant):
    """The record of the last index that each server may know to be committed.

    Attributes:
        bound: The highest index that each server may know to be committed. Restarts do not lower it, because a server
            may save its commit index.
    """

    def __init__(self) -> None:
        self.bound: Counter[int] = Counter()
        # By server and term: for each prev_log_index of a request with entries, the last index of these entries.
        self._arrived: dict[tuple[int, int], dict[int, int]] = {}
        self._confirmed: dict[tuple[int, int], int] = {}  # by server and term: the highest result of confirmed()
        # Like `bound`, but without what a server could have committed as a leader. It may have lost such entries since.
        self._committed: Counter[int] = Counter()

    def confirmed(self, server: int, args: Message, reply: Message) -> int:
        """The last index that ``server`` may have confirmed to the leader with this success."""
        upto: int = args["prev_log_index"] + len(args["entries"])
        claimed: int = reply.get("claimed", 0)
        if claimed <= upto:
            return upto
        # The request may be a heartbeat that begins before entries that the server has confirmed, or before the leader's
        # first entries of this term.
        upto = max(upto, self._confirmed.get((server, args["term"]), 0), self._committed[server])
        for prev, last in sorted(self._arrived.get((server, args["term"]), {}).items()):
            if prev <= upto:
                upto = max(upto, last)
        return min(upto, claimed)

    def is_certain(self, server: int, args: Message) -> bool:
        """Whether a success from ``server`` means that the server has every entry of this AppendEntries."""
        return bool(args["prev_log_index"] >= self.bound[server])

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "append_entries":
            self._raise(src, args["leader_commit"])

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        if method == "append_entries":
            prev, last = args["prev_log_index"], args["prev_log_index"] + len(args["entries"])
            if args["entries"]:
                arrived = self._arrived.setdefault((server, args["term"]), {})
                arrived[prev] = max(arrived.get(prev, 0), last)
                if len(arrived) % _FORGET_EVERY == 0:  # each claim looks at all of them
                    known = self._confirmed.get((server, args["term"]), 0)
                    self._arrived[server, args["term"]] = {p: end for p, end in arrived.items() if end > known}
            self._raise(server, min(args["leader_commit"], last))
        elif method == "install_snapshot":
            self._raise(server, args["last_included_index"])

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            confirmed = self.confirmed(server, args, reply)
            # This reply lets the caller commit at most up to there.
            self.bound[caller] = max(self.bound[caller], confirmed)
            of_term = (server, args["term"])
            self._confirmed[of_term] = max(self._confirmed.get(of_term, 0), confirmed)

    def applied(self, server: int, msg: ApplyMsg) -> None:
        self._raise(server, msg.index)

    def _raise(self, server: int, index: int) -> None:
        if index > self.bound[server]:
            self.bound[server] = index
        if index > self._committed[server]:
            self._committed[server] = index
