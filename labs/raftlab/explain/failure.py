"""A failure as data: rules, failures, and the exception that ends a test. :mod:`raftlab.explain.render` makes the text."""

from __future__ import annotations

from typing import Any

import msgspec


class Rule(msgspec.Struct, frozen=True):
    """A rule of Raft.

    Attributes:
        name: a few words, such as ``"Election Safety"``. Two objects with the same name are parts of one rule of
            Raft.
        says: the rule in one clause, without a capital or a full stop.
        section: the section of the paper, such as ``"Figure 2, State; §5.1"``.
        handout: the file and anchor of the handout to read.
    """

    name: str
    says: str
    section: str
    handout: str


class Failure(msgspec.Struct):
    """The failure of one run, ready to be shown.

    Attributes:
        kind: ``"assertion"`` (a test's expectation), ``"invariant"`` (the referee) or a key of
            :data:`raftlab.explain.causes.FAULTS`.
        text: one sentence with what was expected and what was observed.
        rule: the rule that is broken; ``None`` for a fault.
        where: ``file:line`` in the student's code, if known.
        hint: advice about this particular run, such as the next step in an unfinished lab. It is shown instead of the usual
            causes.
        causes: the usual causes of a failure with this text; see :mod:`raftlab.explain.symptoms`.
        read: the file and anchor of the handout about these causes. If it is empty, the rule's handout is shown.
        events: the last relevant events, one line each.
        detail: a traceback or a list of threads.
    """

    kind: str
    text: str
    rule: Rule | None = None
    where: str = ""
    hint: str = ""
    events: list[str] = []
    detail: str = ""
    causes: list[str] = []
    read: str = ""


class LabFailure(AssertionError):
    """Raised by the harness or the referee when a test fails.

    Attributes:
        failure: the failure to show.
        servers: the servers whose last events are shown; ``None`` for all.
        about: the numbers of the RPCs that the failure's sentence mentions. Their events are always shown.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.servers: frozenset[int] | None = None
        self.about: frozenset[int] = frozenset()


def short(value: Any, limit: int = 60) -> str:
    """``repr(value)``; if it is longer than ``limit`` characters, its middle is left out."""
    return shortened(repr(value), limit)


def shortened(text: str, limit: int) -> str:
    """``text``; if it is longer than ``limit`` characters, its middle is left out."""
    return text if len(text) <= limit else f"{text[: limit - 20]}...{text[-12:]}"
