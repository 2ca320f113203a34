"""Leader Completeness: what was committed in a term is in the log of every leader of a later term (§5.4, Figure 3).

Seen from outside in three places: the end of its log that a candidate named and then won with; what a leader's messages
show of its log; and the vote of a server that has stored a committed entry for a candidate whose log ends before it.

Styles it must accept: leaders of older terms that know nothing of the commit; candidates that lose; votes of a term not
later than that of the commit, which may have been decided before the entry was stored.
"""

from __future__ import annotations

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit


class Completeness(Invariant):
    def __init__(self, shown: AppendOnly, commit: Commit) -> None:
        self._shown = shown
        self._commit = commit
        self._ends: dict[int, dict[int, tuple[int, int]]] = {}  # term, candidate: the (term, index) of its last entry
        self._known = 0  # how many commits were looked at, and up to which index
        self._upto = 0
        self._terms: dict[int, tuple[int, int]] = {}  # of each committed index: its term, and the term of the commit

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "request_vote":
            end = (args["last_log_term"], args["last_log_index"])
            self._ends.setdefault(args["term"], {})[src] = end
        elif method == "append_entries":
            term = args["term"]
            log = self._shown.logs[term]
            for index in self._shown.fresh:
                committed, by = self._terms.get(index, (0, term))
                if by < term and log[index][0] != committed:
                    text = (
                        f"expected S{src}, which leads term {term}, to have the entry of term {committed} at index {index}, "
                        f"which was committed in term {by}, but it has one of term {log[index][0]}"
                    )
                    raise broken(rules.LEADER_COMPLETENESS, text, frozenset((src,)))
            self._check_end(term)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method != "request_vote" or not reply["vote_granted"]:
            return
        end = (args["last_log_term"], args["last_log_index"])
        for term, index, stored in self._commit.by:
            if server in stored and args["term"] > term and end < (term, index):
                text = (
                    f"expected S{server} to refuse S{caller}, whose log ends with index {end[1]} of term {end[0]}: "
                    f"S{server} has stored index {index} of term {term}, which is committed"
                )
                raise broken(rules.NEWER_LOG, text, frozenset((server, caller)))

    def applied(self, server: int, msg: ApplyMsg) -> None:
        commits = self._commit.by
        while self._known < len(commits):
            term, index, _ = commits[self._known]
            self._known += 1
            log = self._shown.logs[term]
            for at in range(self._upto + 1, index + 1):
                if at in log:
                    self._terms[at] = (log[at][0], term)
            self._upto = index
            for later in self._shown.leaders:
                self._check_end(later)

    def _check_end(self, term: int) -> None:
        """Whether the leader of ``term`` was elected with a log that reaches every earlier commit."""
        leader = self._shown.leaders[term]
        end = self._ends.get(term, {}).get(leader)
        if end is None or not self._commit.by:
            return
        for by, index, _ in reversed(self._commit.by):
            if by < term and end < (by, index):
                text = (
                    f"expected the leader of term {term} to have index {index}, which was committed in term {by}, "
                    f"but S{leader} was elected with a log that ends with index {end[1]} of term {end[0]}"
                )
                raise broken(rules.LEADER_COMPLETENESS, text, frozenset((leader,)))
            if by < term:
                return  # earlier commits are covered by this one
