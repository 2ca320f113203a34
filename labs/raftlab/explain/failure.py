"""What a failure says, as data: terminal, reports and pictures tell it in the same words (:mod:`raftlab.explain.render`)."""

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

    ``kind`` is ``"assertion"`` (a test's expectation), ``"invariant"`` (the referee) or a key of
    :data:`raftlab.explain.causes.FAULTS`.
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


def short(value: Any, most: int = 60) -> str:
    """``repr(value)``, cut in its middle when nobody would read it all."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 20]}...{text[-12:]}"
