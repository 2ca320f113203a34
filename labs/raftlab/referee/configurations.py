"""Changes of the configuration (§6; dissertation, 4.1 to 4.3). Changes are made one at a time, and each either changes
one server or goes through C_old,new. Only a leader that has committed an entry of its own term may make a change. A
leader must have the votes of its own configuration.

The referee checks entries of kind "configuration" and the replies to RequestVote. To judge a change, it must know the
configuration before the change: from the messages of the leader that sends the change, or because that configuration was
applied. If the referee does not know that configuration, it does not judge the change. commit.py decides whether an
entry may be committed.

The rule must accept: joint consensus for every change, even of one server; a configuration that changes nothing; a new
leader whose first entry repeats the latest configuration in its log, even C_old,new, instead of a no-op (Apache Ratis
does this); a C_old,new that a later entry with C_old undoes; a C_new that is appended at the moment when C_old,new
becomes committed; voters and candidates that use a configuration that no other server knows yet; a leader that is the
only member.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.append_only import UNKNOWN, AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit
from raftlab.referee.configuration import Configuration, names, pre_votes_note


class Configurations(Invariant):
    """The rule about changes of the configuration. It uses the records of :class:`AppendOnly` and :class:`Commit`."""

    def __init__(self, servers: int, append_only: AppendOnly, commit: Commit) -> None:
        self._all_servers = frozenset(range(servers))
        self._append_only = append_only
        self._commit = commit
        # By term and candidate: the servers that voted for the candidate, and the configurations that may be the latest
        # in its log.
        self._votes: dict[tuple[int, int], set[int]] = {}
        self._pre_votes: dict[tuple[int, int], set[int]] = {}  # by term and candidate; they do not count as votes
        self._may_count: dict[tuple[int, int], list[Configuration]] = {}
        self._checked_terms: set[int] = set()  # terms whose leader's votes have been checked

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "request_vote":
            key = (args["term"], src)
            if key not in self._may_count:
                self._may_count[key] = self._possible(args["last_log_index"], args["last_log_term"])
            return
        if method not in ("append_entries", "install_snapshot"):
            return
        term = args["term"]
        if term not in self._checked_terms:
            self._checked_terms.add(term)
            self._check_votes(src, term)
        if method == "append_entries":
            log = self._append_only.logs[term]
            for index in self._append_only.new_indexes:
                of_term, entry = log[index]
                if isinstance(entry, Configuration) and (index, of_term) not in self._commit.sent_configurations:
                    self._check(src, term, index, of_term, entry)
                    self._commit.sent_configurations[index, of_term] = entry

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "request_vote" and reply["vote_granted"]:
            self._votes.setdefault((args["term"], caller), {caller}).add(server)
        elif method == "pre_vote" and reply["vote_granted"]:
            self._pre_votes.setdefault((args["term"], caller), {caller}).add(server)

    # --- elections ---

    def _possible(self, last_index: int, last_term: int) -> list[Configuration]:
        """The configurations that may be the latest in the log of a candidate whose last entry has this index and term.
        If the candidate can win at all, its log has the committed configurations. Its log may also have other
        configurations: some that were sent, and some that only a leader has."""
        commit = self._commit
        since = max((index for index in commit.committed_configurations if index <= last_index), default=0)
        possible = [commit.committed_configurations[since]]
        possible += [
            other
            for (index, term), other in commit.sent_configurations.items()
            if since < index <= last_index and term <= last_term
        ]
        for base in list(possible):
            if base.old:
                possible.append(Configuration(base.members))
            possible += [Configuration(members) for members in commit.requested if len(members ^ base.members) == 1]
        return possible

    def _check_votes(self, leader: int, term: int) -> None:
        possible = self._may_count.get((term, leader))
        if possible is None:
            return  # a single member, which asks nobody for votes
        votes = self._votes.get((term, leader), {leader})
        if not any(configuration.has_majority(votes) for configuration in possible):
            committed = possible[0]
            rule = rules.BOTH_MAJORITIES if committed.old else rules.MEMBERS_COUNT
            text = f"expected S{leader} to lead term {term} only with the votes of most of {committed.groups_text}"
            text = f"{text}, but it has only those of {names(votes)}"
            pre_votes = self._pre_votes.get((term, leader), set())
            if any(configuration.has_majority(votes | pre_votes) for configuration in possible):
                # The leader has probably counted pre-votes as votes. Then the configuration is not the cause.
                rule, text = rules.MAJORITY, f"{text}{pre_votes_note(pre_votes, votes)}"
            raise broken(rule, text, frozenset((leader,)))

    # --- changes ---

    def _check(self, src: int, term: int, index: int, of_term: int, new: Configuration) -> None:
        here = f"S{src} sends {new!r} at index {index}"
        if not new.members or not new.voters <= self._all_servers:
            text = f"expected a configuration to name existing servers, and at least one, but {here}"
            raise broken(rules.CHANGE_ANSWERS, text, frozenset((src,)))
        at, before = self._before(term, index)
        if before is None or (new == before and self._begins_term(term, index, of_term)):
            return
        if at and not self._committed(at, before, index):
            text = f"expected {before!r} at index {at} to be committed before the next one is sent, but {here}"
            text = f"{text}, when only {names(self._commit.copies(at))} can have stored index {at}"
            raise broken(rules.ONE_CHANGE, text, frozenset((src,)))
        if before.old and not new.old and new.members in (before.members, before.old):
            return
        if before.old or (new.old and new.old != before.members):
            text = (
                f"expected {before!r} to be followed by C_new alone"
                if before.old
                else f"expected {before!r} to be C_old"
            )
            raise broken(rules.JOINT_CONSENSUS, f"{text}, but {here}", frozenset((src,)))
        if new.old:
            return
        if len(new.members ^ before.members) > 1:
            text = f"expected a change of more than one server to go through C_old,new, but after {before!r} {here}"
            raise broken(rules.JOINT_CONSENSUS, text, frozenset((src,)))
        if new.members != before.members and not self._has_committed(of_term, before, index):
            text = f"expected the leader of term {of_term} to commit an entry of that term before a change, but {here}"
            raise broken(rules.OWN_TERM_FIRST, text, frozenset((src,)))

    def _begins_term(self, term: int, index: int, of_term: int) -> bool:
        """Whether the entry at ``index`` in the log of the leader of ``term`` may be the first one of its own term."""
        earlier = self._append_only.logs[term].get(index - 1)
        return earlier is None or earlier[0] < of_term

    def _before(self, term: int, index: int) -> tuple[int, Configuration | None]:
        """The last configuration before ``index`` in the log of the leader of ``term``, as (its index, configuration). The
        configuration is ``None`` if the referee cannot know it."""
        log = self._append_only.logs[term]
        for at in range(index - 1, -1, -1):
            if at <= self._commit.applied_upto:
                since = max(there for there in self._commit.committed_configurations if there <= at)
                return since, self._commit.committed_configurations[since]
            of_term, entry = log.get(at, (0, UNKNOWN))
            if entry is UNKNOWN:
                entry = self._commit.sent_configurations.get((at, of_term), UNKNOWN)
            if isinstance(entry, Configuration):
                return at, entry
            if entry is UNKNOWN and at:
                return at, None
        return 0, self._commit.committed_configurations[0]

    def _committed(self, at: int, configuration: Configuration, before: int) -> bool:
        """Whether a leader whose log ended before index ``before`` may have committed the configuration at index ``at``."""
        if at <= self._commit.committed_upto or len(configuration.voters) == 1:
            return True
        return any(
            self._commit.own_term_majority_index(term, configuration, before) >= at for term in self._append_only.logs
        )

    def _has_committed(self, term: int, configuration: Configuration, before: int) -> bool:
        """Whether the leader of ``term`` may have committed an entry of that term before index ``before``."""
        if len(configuration.voters) == 1 or term not in self._append_only.leaders:
            return True
        own = [index for index, entry in self._append_only.logs[term].items() if entry[0] == term and index < before]
        return bool(own) and self._commit.own_term_majority_index(term, configuration, before) >= min(own)
