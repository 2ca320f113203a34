"""The verdict on the history of a run (labs 3A and 3B): whether operations were carried out exactly once, and whether the
history is linearizable.

Exactly-once execution has a check and messages of its own. It is what students get wrong most often, and one sentence is
enough to explain such a mistake. The check looks at keys that are only appended to and read: each value read shows which
appends were carried out, and in which order. Appended values must be unique, and none may be a prefix of another. The
values that :func:`~raftlab.harness.clerks.token` makes meet both conditions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from raftlab import linearizability
from raftlab.api import MAX_DRIFT
from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.harness.clerks import ClientOperation
from raftlab.linearizability import Register, Verdict

if TYPE_CHECKING:
    from raftlab.harness.cluster import Cluster

# CPU seconds that the search may take. The histories of the suites take less than one.
_SEARCH_SECONDS = 10.0
# The kinds of reads that promise linearizability.
LINEARIZABLE_READS = ("log", "index", "lease")
# By kind of read: the rule that is broken if such a read misses an append that had returned before, and the read in words.
# Reads through the log are not listed: if one of them misses an append, the append was lost.
_STALE_READS = {"index": (rules.READ_INDEX, ", a read by index,"), "lease": (rules.LEASE, ", a read by lease,")}
# A value consists of tokens, see raftlab.harness.clerks.token.
TOKEN = re.compile(r"[^;]*;")


class Undecided(RuntimeError):
    """The checker did not finish in time. This is not a verdict on the student's code."""


def check_history(c: Cluster) -> None:
    """Fail the test unless the operations so far were carried out exactly once and are linearizable.

    Raises:
        LabFailure: one of the two does not hold.
        Undecided: the search took too long.
    """
    history = _judged(c.history)
    if max(c.clock_rates) >= MAX_DRIFT * min(c.clock_rates):
        # With clocks that differ this much, leases promise nothing.
        history = [one for one in history if one.read != "lease"]
    by_key: dict[str, list[ClientOperation]] = {}
    for operation in history:
        by_key.setdefault(operation.key, []).append(operation)
    for operations in by_key.values():
        if all(operation.op in ("append", "get") for operation in operations):
            _check_appends(c, operations)
    sentence = unplaced(history)
    if sentence:
        c.fail(sentence, rules.LINEARIZABLE)


def _judged(history: Sequence[ClientOperation]) -> list[ClientOperation]:
    """The operations that must be linearizable. Refused operations were not carried out, and other kinds of reads promise
    less."""
    return [one for one in history if one.outcome != "refused" and one.read in LINEARIZABLE_READS]


def unplaced(history: Sequence[ClientOperation]) -> str:
    """A sentence about an operation that fits into no linearizable order of the history; empty if all fit. Raises
    :class:`Undecided`."""
    found = linearizability.check([one.as_operation() for one in _judged(history)], Register(), _SEARCH_SECONDS)
    if found.verdict is Verdict.UNDECIDED:
        raise Undecided(f"whether the history is linearizable could not be decided in {_SEARCH_SECONDS:.0f} s")
    return found.sentence.rstrip(".")


def tokens_in(value: str) -> Iterator[str]:
    """The tokens of which ``value`` consists, in order. Text after the last ";" is left out."""
    # Searching for a token in that text would take quadratic time, and a value from student code may be long.
    return (found[0] for found in TOKEN.finditer(value[: value.rfind(";") + 1]))


def _check_appends(c: Cluster, operations: list[ClientOperation]) -> None:
    """Check the values read from one key that is only appended to and read."""
    appends = {operation.args[0]: operation for operation in operations if operation.op == "append"}
    order = {value: number for number, value in enumerate(appends)}
    for read in operations:
        if read.op != "get" or read.outcome != "ok":
            continue
        shown = read.result or ""
        if shown and not shown.endswith(";"):
            return  # not made of tokens: the test appends other values to this key
        seen: set[str] = set()
        last: dict[str, int] = {}
        for value in tokens_in(shown):
            append = appends.get(value)
            if append is None or append.call > (read.returned or 0.0):
                c.fail(
                    f"expected {read.describe()} to return only what was written, but it has {value!r}",
                    rules.EXACTLY_ONCE,
                )
            if value in seen:
                text = f"expected {append.describe()} to be carried out once, but {read.describe()} shows it twice"
                c.fail(f"{text}: {_around(read.result, value)}", rules.EXACTLY_ONCE)
            seen.add(value)
            if last.get(append.clerk, -1) > order[value]:
                text = f"expected {read.describe()} to show the operations of {append.clerk} in order, but it shows"
                c.fail(f"{text} {_around(read.result, value)}", rules.EXACTLY_ONCE)
            last[append.clerk] = order[value]
        for value, append in appends.items():
            if append.outcome == "ok" and (append.returned or 0.0) < read.call and value not in seen:
                rule, kind = _STALE_READS.get(read.read, (rules.EXACTLY_ONCE, ""))
                text = (
                    f"expected {read.describe()}{kind} to show every append that had returned, but {value!r} is missing"
                )
                c.fail(f"{text}: {append.describe()} returned at {append.returned:.3f} s", rule)


def _around(value: str, part: str) -> str:
    """An excerpt of a long value around the last occurrence of ``part``."""
    at = value.rindex(part)
    return short(value[max(0, at - 60) : at + len(part) + 20], 100)
