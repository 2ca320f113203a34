"""Leader Append-Only: a leader adds to its own log and never removes or overwrites an entry (§5.3, Figure 3).

The referee knows a leader's log only from the AppendEntries of the leader's term: the entries, and the term at
prev_log_index. All of these must be consistent with a single log, and no entry may have a later term than the leader.

The rule must accept: messages that are sent late, out of order or more than once; messages with many, few or no
entries; entries with more fields than in Figure 2 (only the term and the command, or the members, are compared).
"""

from __future__ import annotations

from bisect import insort
from collections import defaultdict
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Failure, LabFailure, short
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.configuration import Configuration, content

# Stands for the command of an entry of which only the term is known, from prev_log_index and prev_log_term.
UNKNOWN = object()
# The maximum number of entries, over all terms, that are recorded in a run. The busiest test records a hundredth of
# this number.
_MAX_RECORDED = 500_000


class NoLaterTerms(Invariant):
    """The rule that a leader has no entries of later terms. It holds with scripted servers, too."""

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "append_entries":
            return
        for index, entry in enumerate(args["entries"], args["prev_log_index"] + 1):
            if entry["term"] > args["term"]:
                text = f"expected S{src}, the leader of term {args['term']}, to send no entries of later terms, but it sends"
                text += f" one of term {entry['term']} at index {index}"
                raise broken(rules.LEADER_APPEND_ONLY, text, frozenset((src,)))


class AppendOnly(Invariant):
    """Leader Append-Only, and the record of leaders' logs that other rules use.

    Attributes:
        logs: ``logs[term][index]`` is the (term, command) of an entry in the log of the leader of ``term``.
        leaders: The leader of each term, known from its AppendEntries.
        new_indexes: The indexes that the latest AppendEntries added to ``logs``.
        last_indexes: By term, the last index in ``logs[term]``; 0 for an empty log.
        own_indexes: By term, the indexes in ``logs[term]`` of the entries of that same term, in order.
        configurations: By term, the entries in ``logs[term]`` that are configurations, by index.
    """

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self.logs: dict[int, dict[int, tuple[int, Any]]] = {}
        self.leaders: dict[int, int] = {}
        self.new_indexes: list[int] = []
        self.last_indexes: defaultdict[int, int] = defaultdict(int)
        self.own_indexes: defaultdict[int, list[int]] = defaultdict(list)
        self.configurations: defaultdict[int, dict[int, Configuration]] = defaultdict(dict)
        self._recorded = 0

    def booted(self, server: int, incarnation: int) -> None:
        if incarnation > 1 and not self._durable:
            # Logs and terms may be lost, so the records from before the restart are no longer valid.
            self.logs.clear()
            self.leaders.clear()
            self.last_indexes.clear()
            self.own_indexes.clear()
            self.configurations.clear()

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "append_entries":
            return
        term, prev = args["term"], args["prev_log_index"]
        log = self.logs.setdefault(term, {})
        self.leaders[term] = src
        self.new_indexes = []
        if prev > 0:
            before = log.get(prev)
            if before is None:
                self._add(term, prev, (args["prev_log_term"], UNKNOWN))
            elif before[0] != args["prev_log_term"]:
                raise self._changed(src, term, prev, f"term {before[0]}", f"term {args['prev_log_term']}")
        for index, entry in enumerate(args["entries"], prev + 1):
            if entry["term"] < 1 and entry.get("kind") != "configuration":
                # No server ever leads term 0.
                text = f"expected every entry to be of term 1 or later, but S{src} sends one of term {entry['term']}"
                raise broken(rules.TERMS_AGREE, f"{text} at index {index}", frozenset((src,)))
            if entry["term"] > term:
                text = f"expected S{src}, the leader of term {term}, to send no entries of later terms, but it sends one of"
                raise broken(
                    rules.LEADER_APPEND_ONLY, f"{text} term {entry['term']} at index {index}", frozenset((src,))
                )
            known = log.get(index)
            new = (entry["term"], content(entry))
            if known is None or (known[1] is UNKNOWN and known[0] == new[0]):
                self._add(term, index, new)
            elif known != new:
                seen, now = (f"term {entry_term}" + _command_text(command) for entry_term, command in (known, new))
                raise self._changed(src, term, index, seen, now)
        self._recorded += len(self.new_indexes)
        if self._recorded > _MAX_RECORDED:
            text = f"expected leaders to send at most {_MAX_RECORDED:,} different entries in a run"
            raise LabFailure(Failure("flood", f"{text}, but S{src} has sent one more"))

    def _add(self, term: int, index: int, entry: tuple[int, Any]) -> None:
        log = self.logs[term]
        if entry[0] == term and index not in log:
            insort(self.own_indexes[term], index)
        if isinstance(entry[1], Configuration):
            self.configurations[term][index] = entry[1]
        log[index] = entry
        self.last_indexes[term] = max(self.last_indexes[term], index)
        self.new_indexes.append(index)

    @staticmethod
    def _changed(server: int, term: int, index: int, seen: str, now: str) -> Exception:
        text = f"expected S{server}, the leader of term {term}, to keep index {index} ({seen}), but now it sends {now}"
        return broken(rules.LEADER_APPEND_ONLY, text, frozenset((server,)))


def _command_text(command: Any) -> str:
    return "" if command is UNKNOWN else f", {short(command, 30)}"
