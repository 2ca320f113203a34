"""A failure as text or HTML: the same words on the terminal, in reports and in the diagram of a run.

The parts come in this order: what was expected and observed; the command that shows a diagram of the run; the line of the
student's code, if known; the broken rule and its line of Figure 2; what to read; a hint, or else the usual causes of such a
failure; the last relevant events; details such as a traceback; the command that replays the run. The diagram comes so early
because it helps most.

:mod:`raftlab.explain.symptoms` looks up the usual causes by the text of the failure, and they are stored in the failure.
The causes of exceptions and the hints come from :mod:`raftlab.explain.causes`.
"""

from __future__ import annotations

import html
from dataclasses import dataclass

from raftlab.explain.causes import FAULTS, RULES, of_exception
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


def _figure_of(rule: Rule) -> str:
    """The line of Figure 2 behind a rule. A report from an older raftlab may word the rule differently. In that case, the
    line is found by the rule's name alone."""
    by_name = (figure for known, figure in RULES.items() if known.name == rule.name)
    return RULES.get(rule) or next(by_name, "")


def handout(failure: Failure) -> str:
    """The file and anchor of the handout that explains ``failure``; empty if there is none."""
    if failure.read:
        return failure.read
    if failure.rule is not None:
        return failure.rule.handout
    return "handouts/debugging.md#named-faults" if failure.kind in FAULTS else ""


def parts(failure: Failure, replay: str = "", picture: str = "") -> list[Part]:
    """The parts of ``failure``, in the order that the text at the top of this file gives. ``replay`` and ``picture``
    are commands, or empty."""
    shown = [Part("", (failure.text,))]

    def add(label: str, *lines: str, block: bool = False) -> None:
        if any(lines):
            shown.append(Part(label, lines, block))

    add("picture", picture)
    add("at", failure.where)
    rule = failure.rule
    often: tuple[str, ...] = ()
    if rule is not None:
        add("rule", f"{rule.name}: {rule.says} ({rule.section})")
        add("figure", _figure_of(rule))
    read = handout(failure)
    named = rule is None and not failure.read and failure.kind in FAULTS
    add("read", f"{read} ({failure.kind})" if named else read)
    if failure.kind == "exception" and not failure.where.startswith("kv.py:"):
        often = of_exception(failure.text)
    often = tuple(failure.causes) or often
    # The test's own hint about this run is more useful than the usual causes.
    hint = failure.hint or ("" if often else FAULTS.get(failure.kind, ""))
    add("hint", hint)
    if not hint:
        for each in often:
            add("look for", each)
    add("what led there", *failure.events, block=True)
    add("details", *failure.detail.rstrip().splitlines(), block=True)
    add("replay", replay)
    return shown


def as_text(failure: Failure, replay: str = "", picture: str = "") -> str:
    """The failure for a terminal. The caller must escape control characters, because students choose many of these words."""
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
    """The failure as an HTML element. Everything is escaped, because students choose many of these words."""
    out = ['<div class="failure">']
    for part in parts(failure, replay, picture):
        lines = [html.escape(line) for line in part.lines]
        if not part.label:
            out += [f"<p><strong>{line}</strong></p>" for line in lines]
        elif part.block:
            out.append(f'<p>{part.label}:</p><pre tabindex="0">' + "\n".join(lines) + "</pre>")
        else:
            code = part.label in ("replay", "picture")
            out += [f"<p>{part.label}: {f'<code>{line}</code>' if code else line}</p>" for line in lines]
    return "\n".join([*out, "</div>"])
