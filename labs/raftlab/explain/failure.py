"""A failure as data: rules, failures, and the exception that ends a test. The text is :mod:`raftlab.explain.render`'s."""

from __future__ import annotations

from typing import Any

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """A rule of Raft.

    Attributes:
        name: a few words, such as ``"Election Safety"``. Two rules may share a name if they are halves of one.
        says: the rule in one clause, without a capital or a full stop.
        section: where the paper states it, such as ``"Figure 2, State; §5.1"``.
        handout: the file and anchor to read.
    """

    name: str
    says: str
    section: str
    handout: str


class Failure(msgspec.Struct):
    """One failed run, ready to be shown.

    Attributes:
        kind: ``"assertion"`` (a test's expectation), ``"invariant"`` (the referee) or a key of
            :data:`raftlab.explain.causes.FAULTS`.
        text: one sentence with what was expected and what was observed.
        rule: the rule that is broken; ``None`` for a fault.
        where: ``file:line`` in the student's code, if known.
        hint: what the test knows about this particular run; it is shown instead of the usual causes.
        events: the last events that matter, one line each.
        detail: a traceback or a list of threads.
    """

    kind: str
    text: str
    rule: Rule | None = None
    where: str = ""
    hint: str = ""
    events: list[str] = []
    detail: str = ""


class LabFailure(AssertionError):
    """Raised by the harness and the referee inside a suite's test.

    Attributes:
        failure: what is shown.
        servers: the servers whose last events are shown; ``None`` stands for all.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.servers: frozenset[int] | None = None


def short(value: Any, most: int = 60) -> str:
    """``repr(value)``; if it is longer than ``most`` characters, its middle is left out."""
    text = repr(value)
    return text if len(text) <= most else f"{text[: most - 20]}...{text[-12:]}"
