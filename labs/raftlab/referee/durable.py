"""Save before you answer: what a reply promises is saved before the reply is sent (Figure 2, State). From lab 2C on.

The format of the saved bytes is the student's choice, so the referee cannot read them. It checks only this: if a server
could not have made a promise before some request arrived, it must save after that arrival and before it makes the
promise. Such promises are a vote for a candidate, and a success for entries that the server did not have before.

The rule must accept: one save for many promises; saves by a thread other than the one that answers; the same promise
again without another save; entries that the server had before, as a leader or in a snapshot; a follower that answers
success to a message that begins before its commit index, but takes no entries from the message; a candidate that asks
itself for its vote (``peers[me].call``), and may have saved that vote before it sent the request.
"""

from __future__ import annotations

from collections import Counter

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit_bound import CommitBound


class Durable(Invariant):
    """The rule that a server saves what it promises. The rule counts saves: a promise is durable if the count has grown
    since the request for it first arrived."""

    def __init__(self, commit_bound: CommitBound) -> None:
        self._commit_bound = commit_bound
        self._saves: Counter[int] = Counter()
        # How many saves the server had made when a request first arrived. The keys of votes are (server, term, candidate);
        # those of entries are the server and (index, term). -1 for an entry that the server itself sent as a leader.
        self._votes: dict[tuple[int, int, int], int] = {}
        self._entries: dict[int, dict[tuple[int, int], int]] = {}
        # By server: the highest last_included_index of all snapshots of which at least a part has arrived.
        self._covered: Counter[int] = Counter()

    def saved(self, server: int) -> None:
        self._saves[server] += 1

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method == "append_entries":
            known = self._entries.setdefault(src, {})
            for index, entry in enumerate(args["entries"], args["prev_log_index"] + 1):
                known.setdefault((index, entry["term"]), -1)

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        saves = self._saves[server]
        if method == "request_vote":
            self._votes.setdefault((server, args["term"], caller), saves)
        elif method == "append_entries":
            known = self._entries.setdefault(server, {})
            for index, entry in enumerate(args["entries"], args["prev_log_index"] + 1):
                known.setdefault((index, entry["term"]), saves)
        elif method == "install_snapshot":
            self._covered[server] = max(self._covered[server], args["last_included_index"])

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        saves = self._saves[server]
        if method == "request_vote" and reply["vote_granted"] and caller != server:
            if saves <= self._votes.get((server, args["term"], caller), -1):
                text = f"expected S{server} to save its vote for S{caller} in term {args['term']} before it answers"
                raise broken(
                    rules.SAVE_FIRST, f"{text}, but it has saved nothing since it was asked", frozenset((server,))
                )
        elif method == "append_entries" and reply["success"] and self._commit_bound.is_certain(server, args):
            known = self._entries.setdefault(server, {})
            for index, entry in enumerate(args["entries"], args["prev_log_index"] + 1):
                if saves <= known.get((index, entry["term"]), -1) and index > self._covered[server]:
                    text = f"expected S{server} to save index {index} of term {entry['term']} before it says success"
                    why = "but it has saved nothing since that entry was sent"
                    raise broken(rules.SAVE_FIRST, f"{text}, {why}", frozenset((server,)))
