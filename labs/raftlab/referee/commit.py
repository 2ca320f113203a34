"""Commit by majority: an entry of the leader's own term is committed once a majority stores it, and so are all entries
before it (§5.3, §5.4.2, Figure 2, Leaders). From lab 2E on, only members count towards the majority. Under C_old,new a
majority of each of the two sets is needed (§6).

The referee checks this: an index may be applied only once some leader can have committed it. A leader can have committed
it once a majority, which includes the leader, has an entry of the leader's own term at that index or a later index. For
the referee, any other server has the entry once it has answered the leader's AppendEntries for the entry with success, or
has said in a later success that it has the entry (see commit_bound.py). The configuration that counts is the latest one
in that leader's log, as far as the leader's messages show it.

The rule must accept: leaders that commit when a heartbeat is answered; leaders that commit many entries at once, also
those of earlier terms together with a no-op entry of their own; followers that learn of the commit before the leader
applies the entry; followers that agree only up to their commit index and take the rest of the message later; followers
that keep entries that arrive too early, and confirm them later; restarted servers that apply everything again. With
configurations, it must also accept: entries counted under a configuration that was appended after them, even if that
configuration has not been sent yet; leaders that do not know the newest configuration; a single member, which commits
without sending anything.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.referee.append_only import AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit_bound import CommitBound
from raftlab.referee.configuration import Configuration, names


class Commit(Invariant):
    """Commit by majority, and the record of commits that other rules use.

    Attributes:
        match_index: ``match_index[term][server]`` is the last index that the leader of ``term`` may know to be on
            ``server``.
        committed_upto: Every index up to this one is committed.
        commits: Each commit as (term, index, servers): the leader's term, the index of an entry of that term whose
            copies were counted, and the servers that stored this entry.
        committed_configurations: The committed configurations by index; index 0 has the initial one. Some may be
            missing after a snapshot.
        sent_configurations: The configurations that leaders have sent, by index and term.
        applied_upto: The last index that any service has applied.
        requested: The sets of members that the test has asked for. A leader may act on a request before it sends anything.
    """

    def __init__(self, members: Collection[int], append_only: AppendOnly, commit_bound: CommitBound) -> None:
        self._append_only = append_only
        self._commit_bound = commit_bound
        self.match_index: dict[int, dict[int, int]] = {}
        # Like match_index, but without the entries that a success may leave out (see commit_bound.py).
        self._certain: dict[int, dict[int, int]] = {}
        # By term: the highest commit index that the term's leader has sent.
        self._leader_commit: dict[int, int] = {}
        self._recorded_upto = 0
        self.committed_upto = 0
        self.commits: list[tuple[int, int, frozenset[int]]] = []
        self.committed_configurations: dict[int, Configuration] = {0: Configuration(frozenset(members))}
        self.sent_configurations: dict[tuple[int, int], Configuration] = {}
        self.applied_upto = 0
        self._all = len(members)
        self.requested: set[frozenset[int]] = set()

    def change_requested(self, server: int, members: frozenset[int]) -> None:
        self.requested.add(members)

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "append_entries":
            term = args["term"]
            self._leader_commit[term] = max(self._leader_commit.get(term, 0), args["leader_commit"])

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            matched = self.match_index.setdefault(args["term"], {})
            upto = self._commit_bound.confirmed(server, args, reply)
            if upto > matched.get(server, 0):
                matched[server] = upto
            upto = args["prev_log_index"] + len(args["entries"])
            certain = self._certain.setdefault(args["term"], {})
            if not self._commit_bound.is_certain(server, args):
                upto = args["prev_log_index"]
            if upto > certain.get(server, 0):
                certain[server] = upto

    def applied(self, server: int, msg: ApplyMsg) -> None:
        if msg.kind == "configuration" and msg.members is not None and msg.index not in self.committed_configurations:
            self.committed_configurations[msg.index] = self._configuration_applied_by(msg, msg.members)
        self.applied_upto = max(self.applied_upto, msg.index)
        if msg.kind == "snapshot":
            return
        if msg.index > self.committed_upto:
            self._check(server, msg)
        if msg.index > self._recorded_upto:
            self._record(server, msg)

    def _check(self, server: int, msg: ApplyMsg) -> None:
        """Fail if no leader can have committed the index of ``msg``. Otherwise, set ``committed_upto`` to
        the last index that such a leader can have committed."""
        configuration = self.configuration_at(msg.index)
        if len(configuration.voters) == 1:
            self.committed_upto = msg.index  # a single member commits without sending anything that could be checked
            return
        for term in sorted(self.match_index, reverse=True):
            index = self._possible_commit(term, msg.index, configuration)
            if index >= msg.index:
                self.committed_upto = index
                return
        raise self._too_early(server, msg.index, configuration)

    def _record(self, server: int, msg: ApplyMsg) -> None:
        """Record the commit that let ``server`` apply ``msg``. Unlike :meth:`_check`, this counts only copies that are
        certain. A leader may send an entry before it has saved the entry (dissertation, 10.2.1), so the leader's own
        copy is certain only up to the index that the leader has committed."""
        applied = self._recorded_upto = msg.index
        configuration = self.configuration_at(applied)
        if len(configuration.voters) == 1:
            return
        for term in sorted(self._certain, reverse=True):
            certain, leader = self._certain[term], self._append_only.leaders[term]
            if self._append_only.logs[term].get(applied, (msg.term,))[0] != msg.term:
                continue
            own = max(self._leader_commit.get(term, 0), applied if server == leader else 0)
            index = self._possible_commit(term, applied, configuration, certain, own)
            # Only the entries up to ``own`` are certain to be committed, so leave out any later ones.
            index = self._last_own(term, min(index, own))
            if index >= applied:
                self._recorded_upto = index
                have = [who for who, upto in certain.items() if upto >= index]
                self.commits.append((term, index, frozenset((*have, leader))))
                return

    def copies(self, index: int) -> set[int]:
        """The servers that can have stored the entry at ``index``: servers that have acknowledged it to some leader,
        and leaders that have sent it."""
        stored = {who for matched in self.match_index.values() for who, upto in matched.items() if upto >= index}
        return stored | {
            self._append_only.leaders[term] for term, log in self._append_only.logs.items() if index in log
        }

    def configured_at(self, index: int) -> int:
        """The index of the latest committed configuration at ``index`` or before."""
        return max(at for at in self.committed_configurations if at <= index)

    def configuration_at(self, index: int) -> Configuration:
        """The latest committed configuration at ``index`` or before."""
        return self.committed_configurations[self.configured_at(index)]

    def own_term_majority_index(
        self, term: int, configuration: Configuration, before: float = math.inf,
        matched: dict[int, int] | None = None, own: int | None = None,
    ) -> int:  # fmt: skip
        """The last entry of ``term`` that the leader of ``term`` knows to be on a majority (§5.4.2).

        Args:
            term: The leader's term.
            configuration: The servers of which a majority is needed.
            before: Only indexes below this one are considered.
            matched: The last index on each server; ``None``: as in ``match_index``.
            own: The last index of the leader's own log that counts; ``None``: the last index that the leader has sent.

        Returns:
            The entry's index, or 0 if there is none.
        """
        leader = self._append_only.leaders.get(term)
        if leader is None:
            return 0
        matched = self.match_index.get(term, {}) if matched is None else matched
        own = self._append_only.last_indexes[term] if own is None else own
        reach = configuration.majority_index(matched, leader, own)
        return self._last_own(term, reach if reach < before else before - 1)

    def _last_own(self, term: int, upto: float) -> int:
        """The index, at most ``upto``, of the last entry of ``term`` in the log of that term's leader; 0 if there is
        none."""
        own = self._append_only.own_indexes[term]
        count = bisect_right(own, upto)
        return own[count - 1] if count else 0

    def _possible_commit(
        self, term: int, at: int, configuration: Configuration,
        matched: dict[int, int] | None = None, own: int | None = None,
    ) -> int:  # fmt: skip
        """The last index that the leader of ``term`` may have committed; 0 if it cannot have committed index ``at``.

        Args:
            term: The leader's term.
            at: The index.
            configuration: The configuration before ``at``.
            matched: As for :meth:`own_term_majority_index`.
            own: As for :meth:`own_term_majority_index`.
        """
        log = self._append_only.logs.get(term, {})
        since = max(index for index in self.committed_configurations if index <= at)
        if at in log and isinstance(log[at][1], Configuration):
            since, configuration = at, log[at][1]
        # Later configurations that are certainly in the leader's log replace earlier ones. Others may be in that log,
        # too.
        known = self._append_only.configurations[term]
        later = {index: known[index] for index in known if index > at}
        last = configuration
        counted = 0
        for index in sorted(later):
            counted = max(counted, self.own_term_majority_index(term, last, index, matched, own))
            since, last = index, later[index]
        counted = max(counted, self.own_term_majority_index(term, last, matched=matched, own=own))
        others: list[Configuration] = []
        for (index, of_term), other in self.sent_configurations.items():
            if index > at and of_term <= term and (index not in log or log[index][0] == of_term):
                others.append(other)
        if last.old:
            # The leader's log may contain a C_new that has not been sent, but only after C_old,new was committed.
            if (
                since <= self.committed_upto
                or self.own_term_majority_index(term, last, matched=matched, own=own) >= since
            ):
                others.append(Configuration(last.members))
        else:
            others += [Configuration(members) for members in self.requested if len(members ^ last.members) == 1]
        for other in others:
            # A leader that becomes the only member commits without sending anything.
            alone = other.voters == {self._append_only.leaders.get(term)}
            counted = max(counted, at if alone else self.own_term_majority_index(term, other, matched=matched, own=own))
        return counted if counted >= at else 0

    def _configuration_applied_by(self, msg: ApplyMsg, members: frozenset[int]) -> Configuration:
        """The configuration that ``msg`` applies. ``msg`` has only one set of members. The entry that a
        leader sent shows whether the configuration is C_old,new."""
        there = {term: known for (index, term), known in self.sent_configurations.items() if index == msg.index}
        same = {term: known for term, known in there.items() if members in (known.voters, known.members)}
        if msg.term in same:
            return same[msg.term]
        return same[max(same)] if same else Configuration(members)

    def _too_early(self, server: int, index: int, configuration: Configuration) -> Exception:
        # For each term: the servers that have acknowledged the entry to the term's leader, and this leader, which may
        # have the entry.
        copies = [
            configuration.voters
            & {self._append_only.leaders.get(term, -1), *(who for who, upto in matched.items() if upto >= index)}
            for term, matched in self.match_index.items()
        ]
        if any(map(configuration.has_majority, copies)):
            text = (
                f"expected S{server} to apply index {index} only after a majority has stored an entry of the leader's own "
                f"term at that index or later, but S{server} applied it earlier"
            )
            return broken(rules.COMMIT_OWN_TERM, text, frozenset((server,)))
        if len(self.committed_configurations) == 1 and configuration.voters == frozenset(range(self._all)):
            text = (
                f"expected a majority to have stored index {index} before S{server} applies it, but as far as any leader "
                f"knew, only {max(map(len, copies), default=1)} of {self._all} servers had it"
            )
            return broken(rules.COMMIT_MAJORITY, text, frozenset((server,)))
        text = (
            f"expected most of {configuration.groups_text} to have stored index {index} before S{server} applies it, "
            f"but only {names(set().union(*copies))} can have stored it"
        )
        return broken(rules.BOTH_MAJORITIES if configuration.old else rules.MEMBERS_COUNT, text, frozenset((server,)))
