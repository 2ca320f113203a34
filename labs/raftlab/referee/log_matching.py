"""Log Matching: entries of the same index and term hold the same command, and so do all before them (§5.3, Figure 3).

Seen from outside in what leaders send (see append_only): every (index, term) has one command and one term before it,
whoever's log it stands in.

Styles it must accept: any way to cut a log into messages; no-op entries.
"""

from __future__ import annotations

from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.append_only import UNSEEN, AppendOnly
from raftlab.referee.base import Invariant, Message, broken


class LogMatching(Invariant):
    def __init__(self, shown: AppendOnly) -> None:
        self._shown = shown
        self._commands: dict[tuple[int, int], tuple[Any, int]] = {}  # and who showed it first
        self._before: dict[tuple[int, int], tuple[int, int]] = {}

    def booted(self, server: int, incarnation: int) -> None:
        if not self._shown.logs:  # forgotten, as logs may be before lab 2C
            self._commands.clear()
            self._before.clear()

    def sent(self, src: int, dst: int, method: str, args: Message) -> None:
        if method != "append_entries":
            return
        log = self._shown.logs[args["term"]]
        for index in self._shown.fresh:
            term, command = log[index]
            if command is not UNSEEN:
                first, who = self._commands.setdefault((index, term), (command, src))
                if first != command:
                    where = f"at index {index} of term {term}"
                    text = f"expected {short(first, 30)} {where}, as S{who} sent it, but S{src} sends"
                    raise broken(rules.SAME_ENTRY, f"{text} {short(command, 30)}", frozenset((who, src)))
            before = log.get(index - 1)
            if before is not None:
                first, who = self._before.setdefault((index, term), (before[0], src))
                if first != before[0]:
                    text = (
                        f"expected term {first} before index {index} of term {term}, as S{who} sent it, but S{src} has"
                    )
                    raise broken(rules.SAME_ENTRY, f"{text} term {before[0]} there", frozenset((who, src)))
