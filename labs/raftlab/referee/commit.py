"""When an entry is committed: a leader has stored an entry of its own term on a majority; with it, all before it are
(§5.3, §5.4.2, Figure 2, Leaders). From lab 2E on: on a majority of the members, and while there are two configurations
of each of them (§6).

Seen from outside: an index may be applied only once some leader has had, for an entry of its own term there or behind
it, successful answers to AppendEntries of that term from so many servers that with itself they are a majority. Which
configuration counts is read from the entries: the latest one in that leader's log.

Styles it must accept: leaders that commit on heartbeats, in batches, or many terms at once by a no-op entry; followers
that learn of the commit before the leader applies; restarted servers that apply everything again. With configurations:
entries counted under one that came only later, be it not even sent yet; leaders that do not know of the newest one; a
single member, which commits without a word.
"""

from __future__ import annotations

import math
from collections.abc import Collection

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.configuration import Configuration


class Commit(Invariant):
    """``upto``: every index so far is committed. ``by``: in which term, by an entry at which index, with whose copies.
    ``chain``: the committed configurations by their indexes, as far as they are known; ``known``: those on their way, by
    index and term. ``applied_upto``: the last index that any service has seen."""

    def __init__(self, members: Collection[int], shown: AppendOnly) -> None:
        self._shown = shown
        # For each term, how far each follower's log is known to be its leader's.
        self.matched: dict[int, dict[int, int]] = {}
        self.upto = 0
        self.by: list[tuple[int, int, frozenset[int]]] = []
        self.chain: dict[int, Configuration] = {0: Configuration(frozenset(members))}
        self.known: dict[tuple[int, int], Configuration] = {}
        self.applied_upto = 0
        self._all = len(members)
        # What the test has asked for, as a leader may act on it before it tells anybody.
        self.wanted: set[frozenset[int]] = set()

    def asked(self, server: int, members: frozenset[int]) -> None:
        self.wanted.add(members)

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            matched = self.matched.setdefault(args["term"], {})
            upto = args["prev_log_index"] + len(args["entries"])
            if upto > matched.get(server, 0):
                matched[server] = upto

    def applied(self, server: int, msg: ApplyMsg) -> None:
        if msg.kind == "configuration" and msg.members is not None and msg.index not in self.chain:
            self.chain[msg.index] = self._told(msg, msg.members)
        self.applied_upto = max(self.applied_upto, msg.index)
        if msg.index <= self.upto or msg.kind == "snapshot":
            return
        in_force = self.in_force(msg.index)
        if len(in_force.voters) == 1:
            self.upto = msg.index  # it has asked nobody, so nothing was to be seen
            return
        for term in sorted(self.matched, reverse=True):
            index = self._counted(term, msg.index, in_force)
            if index >= msg.index:
                self.upto = index
                leader = self._shown.leaders[term]
                have = [who for who, upto in self.matched[term].items() if upto >= index]
                self.by.append((term, index, frozenset((*have, leader))))
                return
        raise self._too_early(server, msg.index, in_force)

    def in_force(self, index: int) -> Configuration:
        """The latest of the committed configurations up to ``index``."""
        return self.chain[max(at for at in self.chain if at <= index)]

    def held(self, term: int, configuration: Configuration, before: float = math.inf) -> int:
        """The last index of the term's own, below ``before``, that a majority of ``configuration`` has; 0 if there is
        none."""
        leader = self._shown.leaders.get(term)
        if leader is None:
            return 0
        log = self._shown.logs[term]
        reach = configuration.reach(self.matched.get(term, {}), leader, max(log, default=0))
        return max(
            (index for index, entry in log.items() if index <= reach and index < before and entry[0] == term), default=0
        )

    def _counted(self, term: int, at: int, in_force: Configuration) -> int:
        """How far the leader of ``term`` can have committed, if that is as far as ``at``; 0 if not."""
        log = self._shown.logs.get(term, {})
        since = max(index for index in self.chain if index <= at)
        if at in log and isinstance(log[at][1], Configuration):
            since, in_force = at, log[at][1]
        # Those behind `at` that are in its log for certain end the time of those before them; others may be in it.
        later = {index: entry[1] for index, entry in log.items() if index > at and isinstance(entry[1], Configuration)}
        last = in_force
        counted = 0
        for index in sorted(later):
            counted = max(counted, self.held(term, last, index))
            since, last = index, later[index]
        counted = max(counted, self.held(term, last))
        perhaps: list[Configuration] = []
        for (index, of_term), other in self.known.items():
            if index > at and of_term <= term and (index not in log or log[index][0] == of_term):
                perhaps.append(other)
        if last.old:
            # C_new may be in its log and on nobody's wire; but only once C_old,new is committed.
            if since <= self.upto or self.held(term, last) >= since:
                perhaps.append(Configuration(last.members))
        else:
            perhaps += [Configuration(members) for members in self.wanted if len(members ^ last.members) == 1]
        for other in perhaps:
            # Who becomes the only member need not show anybody what it commits.
            alone = other.voters == {self._shown.leaders.get(term)}
            counted = max(counted, at if alone else self.held(term, other))
        return counted if counted >= at else 0

    def _told(self, msg: ApplyMsg, members: frozenset[int]) -> Configuration:
        """The configuration that a service is told of; the wire knows whether it has two halves."""
        there = {term: known for (index, term), known in self.known.items() if index == msg.index}
        same = {term: known for term, known in there.items() if members in (known.voters, known.members)}
        if msg.term in same:
            return same[msg.term]
        return same[max(same)] if same else Configuration(members)

    def _too_early(self, server: int, index: int, in_force: Configuration) -> Exception:
        # Of each term: who has told its leader that the entry is there. The leader itself may have it.
        copies = [
            in_force.voters
            & {self._shown.leaders.get(term, -1), *(who for who, upto in matched.items() if upto >= index)}
            for term, matched in self.matched.items()
        ]
        if any(map(in_force.majority, copies)):
            text = (
                f"expected S{server} to apply index {index} once a leader has an entry of its own term there, or "
                "behind it, on a majority, but it did so before"
            )
            return broken(rules.COMMIT_OWN_TERM, text, frozenset((server,)))
        if len(self.chain) == 1 and in_force.voters == frozenset(range(self._all)):
            text = (
                f"expected a majority to have stored index {index} before S{server} applies it, but no leader knew it to "
                f"be on more than {max(map(len, copies), default=1)} of {self._all} servers"
            )
            return broken(rules.COMMIT_MAJORITY, text, frozenset((server,)))
        text = (
            f"expected most of {in_force.most} to have stored index {index} before S{server} applies it, but nobody "
            f"except {sorted(set().union(*copies))} can have"
        )
        return broken(rules.BOTH_MAJORITIES if in_force.old else rules.MEMBERS_COUNT, text, frozenset((server,)))
