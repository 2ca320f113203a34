"""The sorting table: which class a failure belongs to, so that a class report can say what to teach again."""

from __future__ import annotations

from typing import Literal

from raftlab.explain.failure import Failure

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


_WORDS = {
    "machine": "could not be judged",
    "deadlock": "a deadlock",
    "exception": "an exception that nobody caught",
    "timeout: never-reported": "a run that never ended",
    "timeout: init-hangs": "Raft(...) that does not return",
    "timeout: host-hangs": "code that computes or blocks for ever",
    "timeout: busy-loop": "a thread that never waits",
    "timeout: no-answer": "a call that gets no answer",
    "contract: refused-call": "a call that the simulator cannot let through",
    "contract: not-by-value": "a message that cannot travel as bytes",
    "contract: bad-reply": "a handler that returns no proper reply",
    "contract: bad-message": "a message of the wrong shape",
    "contract: bad-result": "a method that returns the wrong thing",
    "contract: bad-apply": "a wrong ApplyMsg",
    "contract: bad-peer": "a call to a server or method that is not there",
    "other: flood": "far too many messages, saves or lines",
    "other: assertion": "an expectation of a test that no rule stands behind",
}


def words(sort: str) -> str:
    """A class in words for people."""
    return _WORDS.get(sort, sort.removeprefix("rule: "))
