"""Leader Append-Only: a leader adds to its own log and never removes or overwrites an entry (§5.3, Figure 3).

The referee knows a leader's log only from the AppendEntries of its term: the entries, and the term at prev_log_index. All
of these must be consistent with a single log.

Styles it must accept: messages that are sent late, out of order or more than once; messages with many, few or no entries;
entries with more fields than in Figure 2 (only the term and the command, or the members, are compared).
"""

from __future__ import annotations

from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.configuration import content

# Stands for the command of an entry if only the entry's term is known, from prev_log_index and prev_log_term.
UNKNOWN = object()


class AppendOnly(Invariant):
    """Leader Append-Only, and the record of leaders' logs that other rules use.

    Attributes:
        logs: ``logs[term][index]`` is the (term, command) of an entry in the log of the leader of ``term``.
        leaders: the leader of each term, by its AppendEntries.
        new_indexes: the indexes that the latest AppendEntries added to ``logs``.
    """

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self.logs: dict[int, dict[int, tuple[int, Any]]] = {}
        self.leaders: dict[int, int] = {}
        self.new_indexes: list[int] = []

    def booted(self, server: int, incarnation: int) -> None:
        if incarnation > 1 and not self._durable:
            # Logs and terms may be lost, so the records from before the restart are no longer valid.
            self.logs.clear()
            self.leaders.clear()

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
                log[prev] = (args["prev_log_term"], UNKNOWN)
                self.new_indexes.append(prev)
            elif before[0] != args["prev_log_term"]:
                raise self._changed(src, term, prev, f"term {before[0]}", f"term {args['prev_log_term']}")
        for index, entry in enumerate(args["entries"], prev + 1):
            known = log.get(index)
            new = (entry["term"], content(entry))
            if known is None or (known[1] is UNKNOWN and known[0] == new[0]):
                log[index] = new
                self.new_indexes.append(index)
            elif known != new:
                seen, now = (f"term {entry_term}" + _command_text(command) for entry_term, command in (known, new))
                raise self._changed(src, term, index, seen, now)

    @staticmethod
    def _changed(server: int, term: int, index: int, seen: str, now: str) -> Exception:
        text = f"expected S{server}, which leads term {term}, to keep index {index} ({seen}), but now it sends {now}"
        return broken(rules.LEADER_APPEND_ONLY, text, frozenset((server,)))


def _command_text(command: Any) -> str:
    return "" if command is UNKNOWN else f", {short(command, 30)}"
