"""A failure as text or HTML: the same words on the terminal, in reports and in the diagram of a run.

The parts come in this order: what was expected and observed; the line of the student's code, if known; the broken rule and
its line of Figure 2; what to read; a hint, or else the usual causes; the last relevant events; details such as a traceback;
the command that replays the run; the command that shows its diagram. Causes and hints come from
:mod:`raftlab.explain.causes`, by the failure's rule or kind.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from raftlab.explain.causes import FAULTS, RULES, Entry
from raftlab.explain.failure import Failure, Rule


@dataclass(frozen=True, slots=True)
class Part:
    """One paragraph.

    Attributes:
        label: the label before the text; empty for the first part.
        lines: the text.
        block: whether the lines are shown below the label, unchanged.
    """

    label: str
    lines: tuple[str, ...]
    block: bool = False


def _entry_of(rule: Rule) -> Entry | None:
    """What is known about a rule. A report of an older raftlab may word it differently, so its name will do."""
    by_name = (entry for known, entry in RULES.items() if known.name == rule.name)
    return RULES.get(rule) or next(by_name, None)


def parts(failure: Failure, replay: str = "", picture: str = "") -> list[Part]:
    """The parts of ``failure``, in the order above. ``replay`` and ``picture`` are commands, or empty."""
    shown = [Part("", (failure.text,))]

    def add(label: str, *lines: str, block: bool = False) -> None:
        if any(lines):
            shown.append(Part(label, lines, block))

    add("at", failure.where)
    rule = failure.rule
    often: tuple[str, ...] = ()
    if rule is not None:
        add("rule", f"{rule.name}: {rule.says} ({rule.section})")
        entry = _entry_of(rule)
        if entry is not None:
            add("figure", entry.figure)
            often = entry.often
        add("read", rule.handout)
    elif failure.kind in FAULTS:
        add("read", f"handouts/debugging.md#named-faults ({failure.kind})")
    # The test's own hint about this run is more useful than the usual causes.
    hint = failure.hint or FAULTS.get(failure.kind, "")
    add("hint", hint)
    if not hint:
        for each in often:
            add("often", each)
    add("what led there", *failure.events, block=True)
    add("details", *failure.detail.rstrip().splitlines(), block=True)
    add("replay", replay)
    add("picture", picture)
    return shown


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
    """The failure as an HTML element. Everything is escaped, since students choose many of these words."""
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
