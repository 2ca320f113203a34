"""Leadership transfer (dissertation, 3.10): two rules of lab 2G, about the message TimeoutNow and about the election
that this message starts.

**An election on request.** Only a server that has received TimeoutNow of term T, in its current incarnation, sends
RequestVote with ``leadership_transfer``, and only for term T + 1. (pre_vote.py lets it enter that term without pre-votes.)

The rule must accept: a candidate that repeats its requests; a second TimeoutNow, obeyed or refused; a TimeoutNow that
arrives long after its transfer was given up; a server that was already in the term of TimeoutNow, and a server that was
not.

**The whole log first.** A leader sends TimeoutNow only to a server that has confirmed the leader's whole log. For the
referee, the leader's requests of its term show where its log ends, and the replies to these requests show what a server
has confirmed. A thread may decide to send TimeoutNow and send it a moment later, when the log is longer. So it is enough if
the server had confirmed the whole log at some time since the leader was last asked for a transfer. A reply may also say,
in a field of the student's own, up to which index the server knows the log to be committed. So every index that the
server may know to be committed counts as confirmed, too.

The rule must accept: a leader that transfers without a request, because it was removed; a leader with an empty log;
TimeoutNow that is sent repeatedly; confirmations by heartbeats, by entries or by a snapshot; entries that the referee
has not seen yet, because they were not sent to anyone.
"""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.commit_bound import CommitBound


class ElectionOnRequest(Invariant):
    """The rule about elections that TimeoutNow starts."""

    def __init__(self) -> None:
        self._terms: dict[int, set[int]] = {}  # by server: the terms in which TimeoutNow lets it ask for votes

    def booted(self, server: int, incarnation: int) -> None:
        self._terms.pop(server, None)

    def arrived(self, server: int, caller: int, method: str, args: Message) -> None:
        if method == "timeout_now":
            self._terms.setdefault(server, set()).add(args["term"] + 1)

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if args.get("leadership_transfer") and args["term"] not in self._terms.get(src, ()):
            text = f"expected S{src} to set leadership_transfer only after a TimeoutNow of term {args['term'] - 1}"
            seen = f"but it sets the flag in term {args['term']}, and has received no such TimeoutNow"
            raise broken(rules.ELECTION_ON_REQUEST, f"{text}, {seen}", frozenset((src,)))


class WholeLogFirst(Invariant):
    """The rule that a leader sends TimeoutNow only to a server that has the whole log."""

    def __init__(self, commit_bound: CommitBound) -> None:
        self._commit_bound = commit_bound
        # By leader and term: the last index of the leader's log, and the last index that each server has confirmed.
        self._last: dict[tuple[int, int], int] = {}
        self._confirmed: dict[tuple[int, int], dict[int, int]] = {}
        # The servers that had confirmed the whole log at some time since the last request for a transfer.
        self._ready: dict[tuple[int, int], set[int]] = {}

    def transfer_requested(self, server: int, target: int) -> None:
        for leader, term in self._ready:
            if leader == server:
                confirmed, last = self._confirmed[leader, term], self._last.get((leader, term), 0)
                self._ready[leader, term] = {other for other, index in confirmed.items() if index >= last}

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        key = src, args["term"]
        if method == "append_entries":
            self._last[key] = max(self._last.get(key, 0), args["prev_log_index"] + len(args["entries"]))
        elif method == "install_snapshot":
            self._last[key] = max(self._last.get(key, 0), args["last_included_index"])
        elif method == "request_vote":
            self._last[key] = max(self._last.get(key, 0), args["last_log_index"])
        elif method == "timeout_now":
            last, confirmed = self._last.get(key, 0), self._confirmed.get(key, {}).get(dst, 0)
            if confirmed < last and dst not in self._ready.get(key, ()):
                text = f"expected S{src} to send S{dst} TimeoutNow only once S{dst} has acknowledged the log of S{src}"
                text = f"{text} up to index {last}, but S{dst} has acknowledged it up to index {confirmed}"
                raise broken(rules.WHOLE_LOG_FIRST, text, frozenset((src, dst)))

    def answered(self, server: int, caller: int, method: str, args: Message, reply: Message) -> None:
        if method == "append_entries" and reply["success"]:
            index = max(self._commit_bound.confirmed(server, args, reply), self._commit_bound.bound[server])
        elif method == "install_snapshot" and args["done"] and reply["term"] == args["term"]:
            index = args["last_included_index"]
        else:
            return
        key = caller, args["term"]
        confirmed = self._confirmed.setdefault(key, {})
        confirmed[server] = max(confirmed.get(server, 0), index)
        ready = self._ready.setdefault(key, set())
        if confirmed[server] >= self._last.get(key, 0):
            ready.add(server)
