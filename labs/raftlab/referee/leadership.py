"""Leaders are elected: a server leads a term only once more than half of the voting servers have voted for it (§5.2).

For the referee, a server leads term T if it sends AppendEntries or InstallSnapshot of term T, or if its ``get_state``
reports that it leads T. (Tests judge what ``start`` reports.) A leader counts as having voted for itself; any other server
votes for it by answering its RequestVote of term T with ``vote_granted``. So if a server was chosen through a file or
shared memory, and not by votes, it breaks this rule as soon as it leads.

The configuration may have changed (lab 2E), and a leader may use a configuration that no other server knows yet. So a
majority of any configuration that was committed, sent or requested is enough; configurations.py is stricter. If a test
plays servers, the test checks the votes itself.

The rule must accept: a cluster of one, and a leader that is the only member (neither asks anybody for votes); votes
whose replies are still in flight, lost or delivered twice; a voter that crashed after it answered; a deposed leader
that sends a message of its old term late; a leader whose first message is late, so that ``get_state`` comes first.
Before lab 2C, a restarted server may be elected in an old term again. Votes for it from before the crash still count
then, so this rule may overlook missing votes.
"""

from __future__ import annotations

from collections.abc import Collection

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit import Commit
from raftlab.referee.configuration import Configuration, names, pre_votes_note


class Leadership(Invariant):
    """The rule that leaders are elected.

    Args:
        members: The servers that vote initially.
        commit: The record of later configurations; ``None`` if there can be none.
    """

    def __init__(self, members: Collection[int], commit: Commit | None) -> None:
        self._initial = Configuration(frozenset(members))
        self._commit = commit
        self._votes: dict[tuple[int, int], set[int]] = {}  # by term and candidate
        self._pre_votes: dict[tuple[int, int], set[int]] = {}  # by term and candidate; they do not count as votes
        self._given = {"request_vote": self._votes, "pre_vote": self._pre_votes}
        self._asked: set[tuple[int, int]] = set()  # terms in which some server has asked for votes
        self._elected: set[tuple[int, int]] = set()  # terms and servers that have been checked

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method in self._given and reply["vote_granted"]:
            self._given[method].setdefault((args["term"], caller), {caller}).add(server)

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "request_vote":
            self._asked.add((args["term"], src))
        elif method in ("append_entries", "install_snapshot") and (args["term"], src) not in self._elected:
            self._require_votes(src, args["term"])

    def observed(self, server: int, term: int, is_leader: bool) -> None:
        if is_leader and (term, server) not in self._elected:
            self._require_votes(server, term)

    def _require_votes(self, server: int, term: int) -> None:
        votes = self._votes.get((term, server), {server})
        if not any(configuration.has_majority(votes) for configuration in self._configurations()):
            text = f"expected S{server} to lead term {term} only with the votes of most of {self._initial.groups_text}"
            why = pre_votes_note(self._pre_votes.get((term, server), ()), votes)
            if (term, server) in self._asked:
                text = f"{text}, but it has only those of {names(votes)}{why}"
            else:
                text = f"{text}, but it has asked nobody for votes in that term{why}"
            raise broken(rules.MAJORITY, text, frozenset((server,)))
        self._elected.add((term, server))

    def _configurations(self) -> list[Configuration]:
        if self._commit is None:
            return [self._initial]
        known = [
            self._initial,
            *self._commit.committed_configurations.values(),
            *self._commit.sent_configurations.values(),
            *map(Configuration, self._commit.requested),
        ]
        return [Configuration(group) for each in known for group in each.groups if group]
