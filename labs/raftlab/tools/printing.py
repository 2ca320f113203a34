"""Printing for several commands: numbers with their nouns, and a progress line."""

from __future__ import annotations

import sys

from raftlab.command_line import redraws

ERASE_LINE = "\r\x1b[K"


def count(number: int, thing: str) -> str:
    """``1 run``, ``2 runs``, ``3 entries``."""
    if number == 1:
        return f"1 {thing}"
    return f"{number:,} {thing[:-1] + 'ies' if thing.endswith('y') else thing + 's'}"


def show_progress(text: str = "") -> None:
    """Replace the progress line with ``text``. Does nothing if standard error is not a terminal."""
    if redraws(sys.stderr):
        print(f"{ERASE_LINE}{text}", end="", file=sys.stderr, flush=True)
