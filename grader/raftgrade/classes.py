"""The sorting table: which class a failure belongs to, so that a class report can say what to teach again."""

from __future__ import annotations

from typing import Literal

from raftlab.failure import Failure

# Kinds of failure that mean: it went on for ever, or stood still, until somebody stopped it.
_TIMEOUTS = frozenset({"never-reported", "init-hangs", "host-hangs", "busy-loop", "no-answer"})
_EXCEPTIONS = frozenset({"exception", "init-exception"})
# What a program may not do to the lab, whatever it knows of Raft.
_CONTRACT = frozenset(
    {"refused-call", "not-by-value", "bad-reply", "bad-message", "bad-result", "bad-apply", "bad-peer"}
)

Family = Literal["rule", "deadlock", "exception", "timeout", "contract", "machine", "other"]


def family(failure: Failure, outcome: str) -> Family:
    """The rough class."""
    if outcome == "error":
        return "machine"
    if failure.kind == "deadlock":
        return "deadlock"
    if failure.kind in _EXCEPTIONS:
        return "exception"
    if failure.kind in _TIMEOUTS:
        return "timeout"
    if failure.kind in _CONTRACT:
        return "contract"
    return "rule" if failure.rule is not None else "other"


def name(failure: Failure, outcome: str) -> str:
    """The fine class: the rule's own name, or the family and the kind."""
    rough = family(failure, outcome)
    if rough == "rule" and failure.rule is not None:
        return f"rule: {failure.rule.name}"
    if rough in ("machine", "deadlock", "exception"):
        return rough
    return f"{rough}: {failure.kind}"
