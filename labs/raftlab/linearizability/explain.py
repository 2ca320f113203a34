"""Says in one sentence why a get or swap of a key/value store has no place among the operations before it.

A reason is given only if it is certainly true. For example, the sentence says "nothing put 'a' back" only if every write
that could have made the value 'a' was over before the value became a different one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from raftlab.linearizability.history import Operation, between, client_name, seconds
from raftlab.linearizability.model import Model
from raftlab.linearizability.problem import Problem
from raftlab.linearizability.search import Search

Value = str | None

_STEPS = 10_000  # maximum number of steps to search for another operation that contradicts the failed one


def explain(model: Model, before: Sequence[Operation], failed: Operation) -> str:
    """One sentence about an operation that has no place.

    Args:
        model: The register model with which the operations were checked.
        before: The other operations on the key that were called before the failed one returned.
        failed: A get or swap that returned.
    """
    reasons = _Reasons(model, before, failed)
    return f"{reasons.claim()}, but {reasons.reason()}."


class _Reasons:
    def __init__(self, model: Model, before: Sequence[Operation], failed: Operation) -> None:
        self.model = model
        self.failed = failed
        self.key = failed.key
        # An operation that returned later than the failed one is treated as open: it may have happened before the failed
        # one, or not.
        assert failed.return_ is not None
        end = failed.return_
        self.before = [one if _end(one) <= end else replace(one, return_=None, result=None) for one in before]
        self.writes = [one for one in self.before if _may_write(one)]
        assert model.initial is None or isinstance(model.initial, str)
        self.initial: Value = model.initial

    def claim(self) -> str:
        """The result of the failed operation, and the value that this result implies."""
        one = self.failed
        if one.op == "get":
            return f"{one.describe()} returned {shown(one.result)}"
        change = (
            f"{client_name(one)}'s swap of {self.key} from {shown(one.args[0])} to {shown(one.args[1])} {between(one)}"
        )
        if one.result:
            return f"{change} succeeded, so {self.key} was {shown(one.args[0])} then"
        return f"{change} failed, so {self.key} was not {shown(one.args[0])} then"

    def reason(self) -> str:
        if self.failed.op == "swap" and not self.failed.result:
            return self._nothing_changed_it() or self._contradicts() or self._no_order()
        wanted: Value = self.failed.result if self.failed.op == "get" else self.failed.args[0]
        return (
            self._never_written(wanted)
            or self._append_is_missing(wanted)
            or self._appended_in_the_wrong_order(wanted)
            or self._does_not_continue(wanted)
            or self._was_replaced(wanted)
            or self._contradicts()
            or self._no_order()
        )

    def _never_written(self, wanted: Value) -> str:
        if wanted is None or wanted == self.initial:
            return ""
        appends = sorted({one.args[0] for one in self.writes if one.op == "append"} - {""})
        starts = {one.args[-1] for one in self.writes if one.op != "append"} | {self.initial or ""}
        reached = {len(start) for start in starts if isinstance(start, str) and wanted.startswith(start)}
        todo = sorted(reached)
        while todo:
            position = todo.pop()
            for value in appends:
                if wanted.startswith(value, position) and position + len(value) not in reached:
                    reached.add(position + len(value))
                    todo.append(position + len(value))
        if len(wanted) not in reached:
            if not appends:
                return f"nobody had begun to write {shown(wanted)} by then"
            begin, end = max(reached, default=0), len(wanted)
            while begin < end:  # leave out appended values that follow the part that nobody wrote
                shorter = [value for value in appends if wanted.endswith(value, begin, end)]
                if not shorter or end - len(shorter[0]) <= begin:
                    break
                end -= len(shorter[0])
            rest = wanted[begin:end]
            what = shown(rest) if rest == wanted else f"the {shown(rest)} in it"
            return f"nobody had begun to write {what} by then"
        for value in appends:
            same = [one for one in self.writes if value in one.args[-1]]
            most = sum(one.args[-1].count(value) for one in same) + (self.initial or "").count(value)
            if self._cannot_overlap(value, appends, starts) and wanted.count(value) > most:
                return f"{shown(value)} is in it {_times(wanted.count(value))} and was written only {_times(most)}"
        return ""

    def _cannot_overlap(self, value: str, appends: Sequence[str], starts: set[object]) -> bool:
        """Whether this value can only appear in a longer value where it was written: not across the border between two other
        values, and not inside another value. If in doubt, this returns False."""
        others = [*appends, *(start for start in starts if isinstance(start, str) and start)]
        ends = any(other.endswith(value[:size]) for other in others for size in range(1, len(value)))
        begins = any(other.startswith(value[size:]) for other in others for size in range(1, len(value)))
        return not (ends and begins) and not any(other != value and other in value for other in others)

    def _append_is_missing(self, wanted: Value) -> str:
        """The reason if the value lacks an append that had returned, although nothing can have replaced the value since."""
        replacements = [one for one in self.writes if one.op != "append"]
        for one in self.writes:
            if one.op != "append" or _end(one) >= self.failed.call or one.args[0] in (wanted or ""):
                continue
            if not any(_end(other) >= one.call for other in replacements):
                return (
                    f"{client_name(one)}'s append of {shown(one.args[0])}, which had returned at {seconds(_end(one))}, "
                    "is missing from it"
                )
        return ""

    def _appended_in_the_wrong_order(self, wanted: Value) -> str:
        """The reason if the value contains two appended values in the wrong order: the append of the second one had returned
        before the append of the first one was called."""
        if wanted is None:
            return ""
        appends = sorted({one.args[0] for one in self.writes if one.op == "append"} - {""})
        starts: set[object] = {one.args[-1] for one in self.writes if one.op != "append"} | {self.initial or ""}
        once = [
            one
            for one in self.writes
            if one.op == "append"
            and one.args[0]
            and wanted.count(one.args[0]) == 1
            and sum(other.args[-1].count(one.args[0]) for other in self.writes) == 1
            and one.args[0] not in (self.initial or "")
            and self._cannot_overlap(one.args[0], appends, starts)
        ]
        once.sort(key=lambda one: wanted.index(one.args[0]))
        for left, right in pairwise(once):
            if _end(right) < left.call:
                return (
                    f"the append of {shown(right.args[0])} had returned at {seconds(_end(right))}, before the append "
                    f"of {shown(left.args[0])} was called at {seconds(left.call)}, so they are in the wrong order"
                )
        return ""

    def _does_not_continue(self, wanted: Value) -> str:
        """The reason if the value does not begin with an earlier value, although only appends can have happened since."""
        for one in sorted(self.before, key=_end, reverse=True):
            seen = _shown_value(one)
            if seen is None or _end(one) >= self.failed.call or (wanted or "").startswith(seen):
                continue
            if not any(_end(other) >= one.call for other in self.writes if other.op != "append" and other is not one):
                if not any(other.op == "append" for other in self.writes):
                    continue
                if wanted is not None and len(wanted) > len(seen):
                    return f"{_saw(one)} and only appends can have come after that"
                return f"{_saw(one)} and nothing replaced or removed that"
        return ""

    def _was_replaced(self, wanted: Value) -> str:
        """The reason if the value was certainly different after the last write that could have made it the wanted value."""
        makers = [one for one in self.writes if _may_make(one, wanted)]
        latest = max((self._over_by(one, wanted, makers) for one in makers), default=float("-inf"))
        witnesses = [
            one
            for one in self.before
            if one.call > latest and _end(one) < self.failed.call and _shows_another(one, wanted)
        ]
        writes = [one for one in witnesses if one.op in ("put", "append") or (one.op == "swap" and one.result)]
        back = f"nothing put {shown(wanted)} back" if wanted is not None else f"nothing removes {self.key}"
        for one in sorted(writes, key=_end):
            if one.op == "append":
                what = f"{client_name(one)} had appended {shown(one.args[0])}"
            elif wanted is None:
                what = f"{client_name(one)}'s {one.op} had written {shown(one.args[-1])}"
            else:
                what = f"{shown(one.args[-1])} had replaced it"
            return f"{what} by {seconds(_end(one))} and {back}"
        for one in sorted(witnesses, key=_end):
            return f"{_saw(one)} and {back} after that"
        return ""

    def _over_by(self, maker: Operation, wanted: Value, makers: Sequence[Operation]) -> float:
        """The time by which a write had certainly happened: when it returned, or when its value was first seen."""
        over = [_end(maker)]
        if len(makers) == 1 and wanted != self.initial:
            over += [_end(one) for one in self.before if one is not maker and _sees(one, wanted)]
        return min(over)

    def _nothing_changed_it(self) -> str:
        """The reason if a swap failed although the value was the expected one when the swap was called, and nothing changed
        the value before the swap returned."""
        expected = self.failed.args[0]
        if expected == self.initial and not self.writes:
            return f"nobody had begun to write {self.key} by then"
        for one in sorted(self.before, key=_end, reverse=True):
            if not _leaves(one, expected) or _end(one) >= self.failed.call:
                continue
            if any(_end(other) >= one.call and other is not one for other in self.writes):
                continue
            if one.op == "get":
                return f"{_saw(one)} and nothing changed it before {seconds(_end(self.failed))}"
            return (
                f"{client_name(one)}'s {one.op} of {shown(expected)} had returned at {seconds(_end(one))} and nothing "
                f"changed it before {seconds(_end(self.failed))}"
            )
        return ""

    def _contradicts(self) -> str:
        """The reason if the failed operation would have a place without the result of one other operation."""
        steps = _STEPS
        for one in sorted(self.before, key=_end, reverse=True):
            if one.return_ is None or one.op not in ("get", "swap"):
                continue
            others = [other for other in self.before if other is not one]
            if one.op == "swap":
                others.append(replace(one, return_=None, result=None))
            search = Search(Problem(sorted([*others, self.failed], key=lambda other: other.call)), self.model)
            found = search.run(steps // 4)
            steps -= search.steps + len(others)  # a search first does some work for each operation
            if steps < 0:
                break
            if found:
                return f"{_saw(one, between(one))}, and no order of the operations allows both"
        return ""

    def _no_order(self) -> str:
        return f"no order of the {len(self.before)} other operations on {self.key} that had begun by then allows it"


def shown(value: Value) -> str:
    """A value in quotation marks, without its middle if it is long. "None" if there is no value."""
    if value is None:
        return "None"
    if len(value) <= 40:
        return repr(value)
    return f"{value[:15]!r}...{value[-20:]!r}"


def _end(one: Operation) -> float:
    return float("inf") if one.return_ is None else one.return_


def _may_write(one: Operation) -> bool:
    return one.op in ("put", "append") or (one.op == "swap" and (one.return_ is None or bool(one.result)))


def _may_make(one: Operation, value: Value) -> bool:
    """Whether the key can have this value right after the write."""
    if value is None:
        return False
    return value.endswith(one.args[0]) if one.op == "append" else one.args[-1] == value


def _shown_value(one: Operation) -> Value:
    """The value that the key certainly had right after this operation; None if the operation does not show it."""
    if one.return_ is None:
        return None
    if one.op == "get":
        return one.result  # type: ignore[no-any-return]
    return one.args[-1] if one.op == "put" or (one.op == "swap" and one.result) else None


def _leaves(one: Operation, value: Value) -> bool:
    if one.return_ is None:
        return False
    if one.op == "get":
        return bool(one.result == value)
    return one.args[-1] == value and (one.op == "put" or (one.op == "swap" and bool(one.result)))


def _sees(one: Operation, value: Value) -> bool:
    if one.return_ is None:
        return False
    return (one.op == "get" and one.result == value) or (one.op == "swap" and bool(one.result) and one.args[0] == value)


def _shows_another(one: Operation, value: Value) -> bool:
    """Whether the key certainly had another value than `value` right after this operation."""
    if one.return_ is None:
        return False
    if one.op == "get":
        return bool(one.result != value)
    if one.op == "swap" and not one.result:
        return bool(one.args[0] == value)
    return not _may_make(one, value)


def _saw(one: Operation, when: str = "") -> str:
    """A clause that says which value the operation read or wrote."""
    who = client_name(one)
    if one.op == "get" and when:
        return f"{who}'s get {when} returned {shown(one.result)}"
    when = when or f"by {seconds(_end(one))}"
    if one.op == "get":
        return f"{who}'s get had already returned {shown(one.result)} {when}"
    if one.op == "put":
        return f"{who} had put {shown(one.args[0])} {when}"
    result = "succeeded" if one.result else "failed"
    return f"{who}'s swap from {shown(one.args[0])} to {shown(one.args[1])} {when} {result}"


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
