"""How configurations follow one another: one change at a time, one server at a time or by way of C_old,new, by a leader
that has committed an entry of its own term; and whoever leads has the votes of its members (§6; dissertation, 4.1 to 4.3).

Seen from outside in entries of kind "configuration" and in the answers to RequestVote. What came before an entry is known
from the messages of the leader that shows it, or because it is applied; where it is not known, nothing is said. That an
entry may be committed is known as in commit.py.

Styles it must accept: joint consensus for every change, also of one server; a configuration that changes nothing;
C_old,new that is taken back by another C_old entry; C_new that is appended on the very answer that commits C_old,new;
voters and candidates of whose configuration the others know nothing yet; a leader alone.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.append_only import UNSEEN, AppendOnly
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit
from raftlab.referee.configuration import Configuration


class Configurations(Invariant):
    def __init__(self, servers: int, shown: AppendOnly, commit: Commit) -> None:
        self._everybody = frozenset(range(servers))
        self._shown = shown
        self._commit = commit
        self._votes: dict[tuple[int, int], set[int]] = {}  # by term and candidate
        self._may_count: dict[tuple[int, int], list[Configuration]] = {}  # the same: whose votes may be enough
        self._elected: set[int] = set()  # terms looked at

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "request_vote":
            key = (args["term"], src)
            if key not in self._may_count:
                self._may_count[key] = self._possible(args["last_log_index"], args["last_log_term"])
            return
        if method not in ("append_entries", "install_snapshot"):
            return
        term = args["term"]
        if term not in self._elected:
            self._elected.add(term)
            self._check_votes(src, term)
        if method == "append_entries":
            log = self._shown.logs[term]
            for index in self._shown.fresh:
                of_term, entry = log[index]
                if isinstance(entry, Configuration) and (index, of_term) not in self._commit.known:
                    self._check(src, term, index, of_term, entry)
                    self._commit.known[index, of_term] = entry

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "request_vote" and reply["vote_granted"]:
            self._votes.setdefault((args["term"], caller), {caller}).add(server)

    # --- elections ---

    def _possible(self, last_index: int, last_term: int) -> list[Configuration]:
        """Under which configurations a candidate whose log ends there may stand. The committed ones are in its log, if it
        can win at all; those on their way, and those that only their leader knows, may be."""
        commit = self._commit
        since = max(index for index in commit.chain if index <= last_index)
        found = [commit.chain[since]]
        found += [
            other for (index, term), other in commit.known.items() if since < index <= last_index and term <= last_term
        ]
        for base in list(found):
            if base.old:
                found.append(Configuration(base.members))
            found += [Configuration(members) for members in commit.wanted if len(members ^ base.members) == 1]
        return found

    def _check_votes(self, leader: int, term: int) -> None:
        possible = self._may_count.get((term, leader))
        if possible is None:
            return  # it has asked nobody: a single member
        votes = self._votes.get((term, leader), {leader})
        if not any(configuration.majority(votes) for configuration in possible):
            in_force = possible[0]
            text = (
                f"expected S{leader} to lead term {term} by the votes of most of {in_force.most}, but it has those of"
            )
            rule = rules.BOTH_MAJORITIES if in_force.old else rules.MEMBERS_COUNT
            raise broken(rule, f"{text} {sorted(votes)} only", frozenset((leader,)))

    # --- one after the other ---

    def _check(self, src: int, term: int, index: int, of_term: int, new: Configuration) -> None:
        here = f"S{src} sends {new!r} at index {index}"
        if not new.members or not new.voters <= self._everybody:
            text = f"expected a configuration to name servers that there are, but {here}"
            raise broken(rules.CHANGE_ANSWERS, text, frozenset((src,)))
        at, before = self._before(term, index)
        if before is None:
            return
        if at and not self._committed(at, before, index):
            text = f"expected {before!r} at index {at} to be committed before the next change is begun, but {here}"
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
            text = f"expected more than one server to come or go by way of C_old,new only, but behind {before!r} {here}"
            raise broken(rules.JOINT_CONSENSUS, text, frozenset((src,)))
        if new.members != before.members and not self._has_committed(of_term, before, index):
            text = f"expected the leader of term {of_term} to commit an entry of that term before a change, but {here}"
            raise broken(rules.OWN_TERM_FIRST, text, frozenset((src,)))

    def _before(self, term: int, index: int) -> tuple[int, Configuration | None]:
        """The configuration before ``index`` in the log of ``term``'s leader, and where it stands; None: not known."""
        log = self._shown.logs[term]
        for at in range(index - 1, -1, -1):
            if at <= self._commit.applied_upto:
                since = max(there for there in self._commit.chain if there <= at)
                return since, self._commit.chain[since]
            of_term, entry = log.get(at, (0, UNSEEN))
            if entry is UNSEEN:
                entry = self._commit.known.get((at, of_term), UNSEEN)
            if isinstance(entry, Configuration):
                return at, entry
            if entry is UNSEEN and at:
                return at, None
        return 0, self._commit.chain[0]

    def _committed(self, at: int, configuration: Configuration, before: int) -> bool:
        """Whether the configuration at ``at`` may have been committed by a leader whose log ended before ``before``."""
        if at <= self._commit.upto or len(configuration.voters) == 1:
            return True
        return any(self._commit.held(term, configuration, before) >= at for term in self._shown.logs)

    def _has_committed(self, term: int, configuration: Configuration, before: int) -> bool:
        """Whether the leader of ``term`` may have committed an entry of that term before index ``before``."""
        if len(configuration.voters) == 1 or term not in self._shown.leaders:
            return True
        own = [index for index, entry in self._shown.logs[term].items() if entry[0] == term and index < before]
        return bool(own) and self._commit.held(term, configuration, before) >= min(own)
