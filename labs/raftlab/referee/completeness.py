"""Leader Completeness: an entry committed in one term is in the log of every leader of a later term (§5.4, Figure 3).

The referee checks three things: the last index and term that a winning candidate named in its RequestVote; the entries in a
leader's messages; and votes for candidates whose log ends before a committed entry that the voter has stored.

Styles it must accept: leaders of older terms that do not know of the commit; candidates that lose; votes in a term no
later than that of the commit, since the voter may have decided before it stored the entry.
"""

from __future__ import annotations

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit


class Completeness(Invariant):
    """The rule, which uses the records of :class:`AppendOnly` and :class:`Commit`."""

    def __init__(self, append_only: AppendOnly, commit: Commit) -> None:
        self._append_only = append_only
        self._commit = commit
        # By term and candidate: the (term, index) of the last entry in its log.
        self._last_entries: dict[int, dict[int, tuple[int, int]]] = {}
        # The number of processed commits, and the last index that they cover.
        self._processed = 0
        self._processed_upto = 0
        # By committed index: the term of its entry, and the term in which it was committed.
        self._committed_terms: dict[int, tuple[int, int]] = {}

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "request_vote":
            end = (args["last_log_term"], args["last_log_index"])
            self._last_entries.setdefault(args["term"], {})[src] = end
        elif method == "append_entries":
            term = args["term"]
            log = self._append_only.logs[term]
            for index in self._append_only.new_indexes:
                committed, by = self._committed_terms.get(index, (0, term))
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
        for term, index, stored in self._commit.commits:
            if server in stored and args["term"] > term and end < (term, index):
                text = (
                    f"expected S{server} to refuse S{caller}, whose log ends with index {end[1]} of term {end[0]}: "
                    f"S{server} has stored index {index} of term {term}, which is committed"
                )
                raise broken(rules.NEWER_LOG, text, frozenset((server, caller)))

    def applied(self, server: int, msg: ApplyMsg) -> None:
        commits = self._commit.commits
        while self._processed < len(commits):
            term, index, _ = commits[self._processed]
            self._processed += 1
            log = self._append_only.logs[term]
            for at in range(self._processed_upto + 1, index + 1):
                if at in log:
                    self._committed_terms[at] = (log[at][0], term)
            self._processed_upto = index
            for later in self._append_only.leaders:
                self._check_end(later)

    def _check_end(self, term: int) -> None:
        """Fail if the leader of ``term`` was elected with a log that ends before an entry committed in an earlier term."""
        leader = self._append_only.leaders[term]
        end = self._last_entries.get(term, {}).get(leader)
        if end is None or not self._commit.commits:
            return
        for by, index, _ in reversed(self._commit.commits):
            if by < term and end < (by, index):
                text = (
                    f"expected the leader of term {term} to have index {index}, which was committed in term {by}, "
                    f"but S{leader} was elected with a log that ends with index {end[1]} of term {end[0]}"
                )
                raise broken(rules.LEADER_COMPLETENESS, text, frozenset((leader,)))
            if by < term:
                return  # earlier commits are covered by this one
