"""Log Matching: entries with the same index and term have the same command, and so do all entries before them (§5.3,
Figure 3).

The referee checks this for the entries that leaders send (see append_only.py): in every log, the entry at (index, term)
has the same command, and the entry before it has the same term.

The rule must accept: any way to split a log into messages; no-op entries.
"""

from __future__ import annotations

from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.append_only import UNKNOWN, AppendOnly
from raftlab.referee.base import Invariant, Message, broken


class LogMatching(Invariant):
    """Log Matching. The rule uses the logs that :class:`AppendOnly` has recorded."""

    def __init__(self, append_only: AppendOnly) -> None:
        self._append_only = append_only
        # By (index, term): the command, and the term of the preceding entry, each with the server that sent it first.
        self._commands: dict[tuple[int, int], tuple[Any, int]] = {}
        self._preceding_terms: dict[tuple[int, int], tuple[int, int]] = {}

    def booted(self, server: int, incarnation: int) -> None:
        if not self._append_only.logs:  # before lab 2C logs do not survive a restart
            self._commands.clear()
            self._preceding_terms.clear()

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "append_entries":
            return
        log = self._append_only.logs[args["term"]]
        for index in self._append_only.new_indexes:
            term, command = log[index]
            if command is not UNKNOWN:
                first, who = self._commands.setdefault((index, term), (command, src))
                if first != command:
                    where = f"at index {index} of term {term}"
                    text = f"expected {short(first, 30)} {where}, as S{who} sent it, but S{src} sends"
                    raise broken(rules.SAME_ENTRY, f"{text} {short(command, 30)}", frozenset((who, src)))
            before = log.get(index - 1)
            if before is not None:
                first, who = self._preceding_terms.setdefault((index, term), (before[0], src))
                if first != before[0]:
                    text = f"expected the entry before index {index} of term {term} to be of term {first}, as S{who} sent it"
                    raise broken(
                        rules.SAME_ENTRY, f"{text}, but S{src} sends one of term {before[0]}", frozenset((who, src))
                    )
