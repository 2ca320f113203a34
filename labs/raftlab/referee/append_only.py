"""Leader Append-Only: a leader adds to its own log and never removes or overwrites an entry (§5.3, Figure 3).

Seen from outside, a leader's log is what its AppendEntries of one term have shown of it: the entries, and the term at
prev_log_index. All of them must be parts of one and the same log.

Styles it must accept: messages that leave late, out of order or more than once; messages with many entries, few or none;
entries that carry more than Figure 2 says (only term and command are compared, and the members of a configuration).
"""

from __future__ import annotations

from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.base import Invariant, Message, broken
from raftlab.referee.configuration import content

# The command of an entry that was only mentioned, as prev_log_index.
UNSEEN = object()


class AppendOnly(Invariant):
    """Also the other invariants' knowledge of logs: ``logs[term][index]`` is the (term, command) there that the leader
    of that term has shown; ``fresh`` what the message at hand added to it."""

    def __init__(self, durable: bool) -> None:
        self._durable = durable
        self.logs: dict[int, dict[int, tuple[int, Any]]] = {}
        self.leaders: dict[int, int] = {}
        self.fresh: list[int] = []

    def booted(self, server: int, incarnation: int) -> None:
        if incarnation > 1 and not self._durable:
            # Logs and terms may be gone, so what was seen before says nothing about what comes.
            self.logs.clear()
            self.leaders.clear()

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "append_entries":
            return
        term, prev = args["term"], args["prev_log_index"]
        log = self.logs.setdefault(term, {})
        self.leaders[term] = src
        self.fresh = []
        if prev > 0:
            before = log.get(prev)
            if before is None:
                log[prev] = (args["prev_log_term"], UNSEEN)
                self.fresh.append(prev)
            elif before[0] != args["prev_log_term"]:
                raise self._changed(src, term, prev, f"of term {before[0]}", f"of term {args['prev_log_term']}")
        for index, entry in enumerate(args["entries"], prev + 1):
            known = log.get(index)
            new = (entry["term"], content(entry))
            if known is None or (known[1] is UNSEEN and known[0] == new[0]):
                log[index] = new
                self.fresh.append(index)
            elif known != new:
                seen, now = (f"term {what[0]}" + _named(what[1]) for what in (known, new))
                raise self._changed(src, term, index, seen, now)

    @staticmethod
    def _changed(server: int, term: int, index: int, seen: str, now: str) -> Exception:
        text = f"expected S{server}, which leads term {term}, to keep index {index} ({seen}), but now it says {now}"
        return broken(rules.LEADER_APPEND_ONLY, text, frozenset((server,)))


def _named(command: Any) -> str:
    return "" if command is UNSEEN else f", {short(command, 30)}"
