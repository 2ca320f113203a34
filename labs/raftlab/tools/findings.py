"""The findings of the race detector in several runs, as text for a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from raftlab.explain import races
from raftlab.runs.record import Record
from raftlab.tools.printing import count

_WIDTH = 100  # columns


def summary(records: Sequence[Record], shown: int = races.SHOWN) -> str:
    """The findings of ``records``, each shown once with the first run that has it. Findings beyond ``shown`` are
    counted."""
    first: dict[str, tuple[races.Finding, Record]] = {}
    for record in records:
        for finding in record.findings:
            first.setdefault(finding.key, (finding, record))
    if not first:
        return "races: none found"
    lines = ["races and locking (this costs no points):"]
    for finding, record in list(first.values())[:shown]:
        lines.append(textwrap.fill(finding.text, _WIDTH, initial_indent="  ", subsequent_indent="    "))
        lines.append(f"    seen in {record.test}@{record.seed}; again: {record.replay} --races")
    more = len(first) - shown
    if more > 0:
        lines.append(f"  and {count(more, 'more finding')}, which may have the same cause")
    return "\n".join(lines)
