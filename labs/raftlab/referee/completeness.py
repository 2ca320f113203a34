"""Leader Completeness: an entry committed in one term is in the log of every leader of a later term (§5.4, Figure 3).

The referee checks three things: the last index and term that a winning candidate named in its RequestVote; the entries
in a leader's messages; and votes for candidates whose log ends before a committed entry that the voter has stored. If a
server has restarted since it stored that entry, and nothing has shown since then that it still has the entry, the
failure mentions the restart.

The rule must accept: leaders of older terms that do not know of the commit; candidates that lose; votes in the term of
the commit or an earlier term, because the voter may have voted before it stored the entry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit

# The maximum number of entries of all servers that are remembered in a run. With more entries, failures say less about
# restarts, but the verdicts are the same.
_MAX_REMEMBERED = 500_000


class Memory(Invariant):
    """What each server had stored before it restarted, and when it had last saved. This is not a rule, but a record
    that other rules use.

    Args:
        clock: Returns the current time, in seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # What each server did with an entry, and when: as a leader it "sent" the entry, or it "acknowledged" the entry.
        # By server, then by index and term. `_stored` is for the current incarnation, `_before` for earlier ones.
        self._stored: dict[int, dict[tuple[int, int], tuple[str, float]]] = {}
        self._before: dict[int, dict[tuple[int, int], tuple[str, float]]] = {}
        self._last_save: dict[int, float] = {}
        # By server: when it last restarted, and when it had last saved before that; below 0 if it had not saved.
        self._restart: dict[int, tuple[float, float]] = {}
        # By server: the last index that the server has been seen to have since that restart.
        self._seen: dict[int, int] = {}
        self._remembered = 0

    def booted(self, server: int, incarnation: int) -> None:
        if incarnation > 1:
            self._before[server] = {**self._before.get(server, {}), **self._stored.pop(server, {})}
            self._restart[server] = (self._clock(), self._last_save.get(server, -1.0))
            self._seen[server] = 0

    def saved(self, server: int) -> None:
        self._last_save[server] = self._clock()

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "append_entries":
            self._has(src, "sent", args)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            self._has(server, "acknowledged", args)

    def _has(self, server: int, did: str, args: Message) -> None:
        prev, entries = args["prev_log_index"], args["entries"]
        self._seen[server] = max(self._seen.get(server, 0), prev + len(entries))
        if not entries or self._remembered > _MAX_REMEMBERED:
            return
        stored = self._stored.setdefault(server, {})
        now = self._clock()
        for index, entry in enumerate(entries, prev + 1):
            if (index, entry["term"]) not in stored:
                stored[index, entry["term"]] = (did, now)
                self._remembered += 1

    def lost(self, server: int, index: int, term: int) -> str:
        """The beginning of a failure's text. It says that a server had an entry and did not save the entry before a
        restart.

        The text is empty if the server saved something after it had the entry, if it has not restarted since then, or if
        it has been seen to have the entry again."""
        did, when, restart, saved = self._story(server, index, term)
        if not did or saved >= when:
            return ""
        last = f"its last save was at {saved:.3f}" if saved >= 0 else "it had saved nothing"
        text = f"expected S{server} still to have index {index} of term {term} after its restart at {restart:.3f}"
        return f"{text}, but it has lost it. It {did} that entry at {when:.3f}, and {last}"

    def restarted(self, server: int, index: int, term: int) -> str:
        """The end of a failure's text. It says that a server has saved and restarted since it had an entry. Empty if
        the server has not restarted since, or if it has been seen to have the entry again."""
        did, _, restart, saved = self._story(server, index, term)
        return f"has restarted since, at {restart:.3f} (its last save before that was at {saved:.3f})" if did else ""

    def _story(self, server: int, index: int, term: int) -> tuple[str, float, float, float]:
        """What ``server`` did with an entry ("sent" or "acknowledged"), when that was, when the server restarted, and when
        it had last saved before the restart. The first value is empty if the server has not restarted since then, or if
        it has been seen to have the entry again."""
        did, when = self._before.get(server, {}).get((index, term), ("", 0.0))
        if self._seen.get(server, 0) >= index:
            did = ""
        return did, when, *self._restart.get(server, (0.0, 0.0))


class Completeness(Invariant):
    """Leader Completeness. The rule uses the records of :class:`AppendOnly` and :class:`Commit`.

    Args:
        append_only: The record of leaders' logs.
        commit: The record of commits.
        memory: The record of what servers had stored before they restarted.
    """

    def __init__(self, append_only: AppendOnly, commit: Commit, memory: Memory) -> None:
        self._append_only = append_only
        self._commit = commit
        self._memory = memory
        # By term and candidate: the servers that voted for the candidate, in the order of their votes.
        self._voters: dict[tuple[int, int], list[int]] = {}
        # By term and candidate: the (term, index) of the last entry in the candidate's log.
        self._last_entries: dict[int, dict[int, tuple[int, int]]] = {}
        # By term: how many commits were examined, and the latest of them that was made in an earlier term.
        self._earlier_commits: dict[int, tuple[int, tuple[int, int, frozenset[int]] | None]] = {}
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
                        f"expected S{src} to have the entry of term {committed} at index {index}, but it has one of term "
                        f"{log[index][0]}. It leads term {term}, and that entry was committed in term {by}"
                    )
                    raise broken(rules.LEADER_COMPLETENESS, text, frozenset((src,)))
            self._check_end(term)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method != "request_vote" or not reply["vote_granted"]:
            return
        self._voters.setdefault((args["term"], caller), []).append(server)
        end = (args["last_log_term"], args["last_log_index"])
        for term, index, stored in self._commit.commits:
            if server in stored and args["term"] > term and end < (term, index):
                lost = self._memory.lost(server, index, term)
                if lost:
                    text = f"{lost}. Now it votes for S{caller}, whose log ends with index {end[1]} of term {end[0]}"
                    raise broken(rules.SURVIVES, text, frozenset((server,)))
                since = self._memory.restarted(server, index, term)
                text = (
                    f"expected S{server} not to vote for S{caller}, but it did. S{caller}'s log ends with index {end[1]} of "
                    f"term {end[0]}, but S{server} has stored index {index} of term {term}, which is committed"
                )
                text = f"{text}. It {since}" if since else text
                raise broken(rules.NEWER_LOG, text, frozenset((server, caller)))

    def applied(self, server: int, msg: ApplyMsg) -> None:
        commits = self._commit.commits
        while self._processed < len(commits):
            term, index, _ = commits[self._processed]
            self._processed += 1
            log = self._append_only.logs[term]
            new: Iterable[int] = range(self._processed_upto + 1, index + 1)
            if index - self._processed_upto > len(log):  # a hostile leader can send an entry at any index
                new = [at for at in log if self._processed_upto < at <= index]
            for at in new:
                if at in log:
                    self._committed_terms[at] = (log[at][0], term)
            self._processed_upto = index
            for later in self._append_only.leaders:
                self._check_end(later)

    def committed_term(self, index: int) -> int | None:
        """The term of the committed entry at ``index``; ``None`` if the messages so far do not show it."""
        term, _ = self._committed_terms.get(index, (None, None))
        return term

    def _check_end(self, term: int) -> None:
        """Fail if the leader of ``term`` was elected with a log that ends before an entry committed in an earlier term."""
        leader = self._append_only.leaders[term]
        end = self._last_entries.get(term, {}).get(leader)
        commits = self._commit.commits
        if end is None or not commits:
            return
        # The latest commit of an earlier term covers all commits before it.
        seen, latest = self._earlier_commits.get(term, (0, None))
        if seen < len(commits):
            latest = next((commit for commit in reversed(commits[seen:]) if commit[0] < term), latest)
            self._earlier_commits[term] = len(commits), latest
        if latest is not None and end < latest[:2]:
            by, index, stored = latest
            for server in (leader, *self._voters.get((term, leader), ())):
                lost = self._memory.lost(server, index, by) if server in stored else ""
                if lost:
                    what = "Now it leads" if server == leader else f"It has voted for S{leader}, which leads"
                    text = f"{lost}. {what} term {term} with a log that ends with index {end[1]} of term {end[0]}"
                    raise broken(rules.SURVIVES, text, frozenset((server,)))
            text = (
                f"expected the leader of term {term} to have index {index}, but S{leader} was elected with a log that ends "
                f"with index {end[1]} of term {end[0]}. Index {index} was committed in term {by}"
            )
            if leader in stored and (since := self._memory.restarted(leader, index, by)):
                text = f"{text}. S{leader} had stored it, but {since}"
            raise broken(rules.LEADER_COMPLETENESS, text, frozenset((leader,)))
