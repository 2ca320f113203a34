"""When an entry is committed: a leader has stored an entry of its own term on a majority; with it, all before it are
(§5.3, §5.4.2, Figure 2, Leaders).

Seen from outside: an index may be applied only once some leader has had, for an entry of its own term there or behind
it, successful answers to AppendEntries of that term from so many servers that with itself they are a majority.

Styles it must accept: leaders that commit on heartbeats, in batches, or many terms at once by a no-op entry; followers
that learn of the commit before the leader applies; restarted servers that apply everything again.
"""

from __future__ import annotations

from raftlab import rules
from raftlab.api import ApplyMsg
from raftlab.referee import Invariant, Message, broken
from raftlab.referee.append_only import AppendOnly


class Commit(Invariant):
    """``upto``: every index so far is committed. ``by``: in which term, by an entry at which index, with whose copies."""

    def __init__(self, servers: int, shown: AppendOnly) -> None:
        self._servers = servers
        self._shown = shown
        # For each term, how far each follower's log is known to be its leader's.
        self.matched: dict[int, dict[int, int]] = {}
        self.upto = 0
        self.by: list[tuple[int, int, frozenset[int]]] = []

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            matched = self.matched.setdefault(args["term"], {})
            upto = args["prev_log_index"] + len(args["entries"])
            if upto > matched.get(server, 0):
                matched[server] = upto

    def applied(self, server: int, msg: ApplyMsg) -> None:
        if msg.index <= self.upto or msg.kind == "snapshot" or self._servers == 1:
            return
        for term in sorted(self.matched, reverse=True):
            index = self._counted(term)
            if index >= msg.index:
                self.upto = index
                leader = self._shown.leaders[term]
                have = [who for who, upto in self.matched[term].items() if upto >= index]
                self.by.append((term, index, frozenset((*have, leader))))
                return
        # Of each term: who has told its leader that the entry is there. The leader itself may have it.
        copies = [
            {who for who, upto in matched.items() if upto >= msg.index} | {self._shown.leaders.get(term, -1)}
            for term, matched in self.matched.items()
        ]
        most = max(map(len, copies), default=1)
        if 2 * most > self._servers:
            text = (
                f"expected S{server} to apply index {msg.index} once a leader has an entry of its own term there, or "
                "behind it, on a majority, but it did so before"
            )
            raise broken(rules.COMMIT_OWN_TERM, text, frozenset((server,)))
        text = (
            f"expected a majority to have stored index {msg.index} before S{server} applies it, but no leader knew it to "
            f"be on more than {most} of {self._servers} servers"
        )
        raise broken(rules.COMMIT_MAJORITY, text, frozenset((server,)))

    def _counted(self, term: int) -> int:
        """The last index of the term's own that a majority has; 0 if there is none."""
        leader = self._shown.leaders.get(term)
        if leader is None:
            return 0
        log = self._shown.logs[term]
        copies = sorted((upto for who, upto in self.matched[term].items() if who != leader), reverse=True)
        needed = self._servers // 2  # besides the leader itself
        if len(copies) < needed:
            return 0
        return max(
            (index for index, entry in log.items() if index <= copies[needed - 1] and entry[0] == term), default=0
        )
