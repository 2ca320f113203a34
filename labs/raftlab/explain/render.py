"""How a failure is told: the same words on the terminal, in reports and in the picture of a run.

The order is DESIGN.md's: what was expected and seen; the rule it breaks, the line of Figure 2 behind it and what usually
is the cause; what to read; the last events that matter; the command that replays it; where the picture is. A failure is
looked up in :mod:`raftlab.explain.causes`, by its rule or by its kind.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from raftlab.explain.causes import FAULTS, RULES
from raftlab.explain.failure import Failure


@dataclass(frozen=True, slots=True)
class Part:
    """One paragraph. ``label`` is empty for the first sentence; ``block`` lines stand below their label, as they are."""

    label: str
    lines: tuple[str, ...]
    block: bool = False


def parts(failure: Failure, replay: str = "", picture: str = "") -> list[Part]:
    """Everything there is to say of ``failure``, in order. ``replay`` and ``picture`` are commands, or empty."""
    found = [Part("", (failure.text,))]

    def add(label: str, *lines: str, block: bool = False) -> None:
        if any(lines):
            found.append(Part(label, lines, block))

    add("at", failure.where)
    rule = failure.rule
    often: tuple[str, ...] = ()
    if rule is not None:
        add("rule", f"{rule.name}: {rule.says} ({rule.section})")
        if rule in RULES:
            add("figure", RULES[rule].figure)
            often = RULES[rule].often
        add("read", rule.handout)
    elif failure.kind in FAULTS:
        add("read", f"handouts/debugging.md#named-faults ({failure.kind})")
    # What the test itself knows about this very run is worth more than what usually is the cause.
    hint = failure.hint or FAULTS.get(failure.kind, "")
    add("hint", hint)
    if not hint:
        for each in often:
            add("often", each)
    add("what led there", *failure.events, block=True)
    add("details", *failure.detail.rstrip().splitlines(), block=True)
    add("replay", replay)
    add("picture", picture)
    return found


def as_text(failure: Failure, replay: str = "", picture: str = "") -> str:
    """The failure for a terminal."""
    lines: list[str] = []
    for part in parts(failure, replay, picture):
        if not part.label:
            lines += part.lines
        elif part.block:
            lines += [f"  {part.label}:", *(f"    {line}" for line in part.lines)]
        else:
            colon = "" if part.label == "at" else ":"
            lines += [f"  {part.label}{colon} {line}" for line in part.lines]
    return "\n".join(lines)


def as_html(failure: Failure, replay: str = "", picture: str = "") -> str:
    """The same words as a piece of HTML. Everything is escaped: students choose many of these words."""
    out = ['<div class="failure">']
    for part in parts(failure, replay, picture):
        lines = [html.escape(line) for line in part.lines]
        if not part.label:
            out += [f"<p><strong>{line}</strong></p>" for line in lines]
        elif part.block:
            out.append(f"<p>{part.label}:</p><pre>" + "\n".join(lines) + "</pre>")
        else:
            code = part.label in ("replay", "picture")
            out += [f"<p>{part.label}: {f'<code>{line}</code>' if code else line}</p>" for line in lines]
    return "\n".join([*out, "</div>"])
