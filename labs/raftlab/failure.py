"""What a failure says: the words a student reads when a run goes wrong.

A failure is data first (so that the terminal, the report and later the picture show the same words) and text second.
The order is DESIGN.md's: what was expected and seen, the rule it breaks, the last events that matter, the command
that replays it.
"""

from __future__ import annotations

from typing import Any

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """A promise of Raft: its name, the line of Figure 2 or the property, the paper's section, the handout to read."""

    name: str
    says: str
    section: str
    handout: str


class Failure(msgspec.Struct):
    """One failed run, ready to be shown.

    ``kind`` is ``"assertion"`` (a test's expectation), ``"invariant"`` (the referee) or a key of :data:`FAULTS`.
    ``text`` is the sentence with expected and seen. ``where`` is ``file:line`` in the student's code, if known.
    ``events`` are the last events that matter, one line each. ``detail`` is a traceback or list of threads.
    """

    kind: str
    text: str
    rule: Rule | None = None
    where: str = ""
    hint: str = ""
    events: list[str] = []
    detail: str = ""


class LabFailure(AssertionError):
    """Raised by the harness and the referee inside a suite's test; carries the :class:`Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
        # Whose last events tell the story; None: everybody's.
        self.servers: frozenset[int] | None = None


# Faults the host (or the judge, watching the host) can name. The value is the hint printed under the sentence.
FAULTS: dict[str, str] = {
    "exception": "An exception that nobody caught ended this thread. The traceback below ends in your own line.",
    "init-exception": "Raft(...) must return; let it set fields and start threads, and do everything else in them.",
    "init-hangs": "Raft(...) must return at once: start your loops in threads of their own.",
    "busy-loop": "A thread that never waits stops the clock for everybody. Wait on a Condition or sleep in the loop.",
    "host-hangs": "Something outside the lab's reach blocks or computes for very long (input(), a huge sum, a C call).",
    "host-died": "The process that runs your code ended. Nothing in a Raft needs os._exit, signals or kill.",
    "deadlock": "Take locks in one fixed order, and hold none across a call, a sleep or a put.",
    "no-answer": "Every handler must return a reply, and start() and get_state() must return at once.",
    "refused-call": "The simulator replays runs exactly, so it cannot let this call through. The labs never need it.",
    "not-by-value": "Messages travel as bytes: use numbers, strings, bytes, lists, dicts and dataclasses of these.",
    "bad-reply": "Every path through the handler must end with a return of its reply.",
    "bad-message": "What the lab network received does not have the shape that the handler's annotations declare.",
    "bad-result": "See the contract at the top of the skeleton for what each method returns.",
    "bad-apply": "See ApplyMsg in the skeleton: index, term and a command that can cross by value.",
    "bad-peer": "peers[i].call(method, args) reaches servers 0 to n-1 and the RPC handlers of your Raft class.",
    "flood": "Far more than a Raft needs. Wait for an answer, or a while, before you send again; log fewer lines.",
}


def render(failure: Failure, replay: str = "") -> str:
    """The failure as text, in the order that every report keeps."""
    lines = [failure.text]
    if failure.where:
        lines.append(f"  at {failure.where}")
    if failure.rule is not None:
        rule = failure.rule
        lines.append(f"  rule: {rule.name}: {rule.says} ({rule.section})")
        lines.append(f"  read: {rule.handout}")
    hint = failure.hint or FAULTS.get(failure.kind, "")
    if hint:
        lines.append(f"  hint: {hint}")
    if failure.events:
        lines.append("  what led there:")
        lines.extend(f"    {event}" for event in failure.events)
    if failure.detail:
        lines.append("  details:")
        lines.extend(f"    {line}" for line in failure.detail.rstrip().splitlines())
    if replay:
        lines.append(f"  replay: {replay}")
    return "\n".join(lines)


def short(value: Any, most: int = 60) -> str:
    """``repr(value)``, cut in its middle when nobody would read it all."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 20]}...{text[-12:]}"
