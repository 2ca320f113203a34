"""Sort failures into classes, so that the report on a course can show which mistakes are common."""

from __future__ import annotations

from typing import Literal

from raftlab.explain.failure import Failure

# Kinds of failure in which code never ended or did not react, and had to be stopped.
_TIMEOUTS = frozenset({"never-reported", "init-hangs", "host-hangs", "busy-loop", "no-answer"})
_EXCEPTIONS = frozenset({"exception", "init-exception"})
# Kinds of failure in which the code breaks the lab's contract, whether or not it implements Raft correctly.
_CONTRACT = frozenset(
    {"refused-call", "not-by-value", "bad-reply", "bad-message", "bad-result", "bad-apply", "bad-peer", "no-method"}
)

Family = Literal["rule", "deadlock", "exception", "timeout", "contract", "machine", "other"]


def family(failure: Failure, outcome: str) -> Family:
    """The coarse class of a failure. ``outcome`` is the outcome of its run."""
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
    """The fine class: the name of the broken rule, or the family and the kind of failure."""
    coarse = family(failure, outcome)
    if coarse == "rule" and failure.rule is not None:
        return f"rule: {failure.rule.name}"
    if coarse in ("machine", "deadlock", "exception"):
        return coarse
    return f"{coarse}: {failure.kind}"


_WORDS = {
    "machine": "could not be judged",
    "deadlock": "a deadlock",
    "exception": "an exception that nobody caught",
    "timeout: never-reported": "a run that never ended",
    "timeout: init-hangs": "Raft(...) that does not return",
    "timeout: host-hangs": "code that computes or blocks for ever",
    "timeout: busy-loop": "a thread that never waits",
    "timeout: no-answer": "a call that gets no answer",
    "contract: refused-call": "a call that the simulator cannot allow",
    "contract: not-by-value": "a message that cannot be sent as bytes",
    "contract: bad-reply": "a handler that returns a wrong reply",
    "contract: bad-message": "a message of the wrong shape",
    "contract: bad-result": "a method that returns the wrong thing",
    "contract: bad-apply": "a wrong ApplyMsg",
    "contract: bad-peer": "a call to a server or method that does not exist",
    "contract: no-method": "a method of an earlier lab that is missing",
    "other: flood": "far too many messages, saves or lines",
    "other: assertion": "an unmet expectation of a test, which no rule covers",
}


def words(sort: str) -> str:
    """A class in words."""
    return _WORDS.get(sort, sort.removeprefix("rule: "))
