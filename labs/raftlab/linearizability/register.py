"""The model of a key/value store: get, put, append and swap."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Hashable, Sequence

from raftlab.linearizability.explain import explain
from raftlab.linearizability.history import Operation
from raftlab.linearizability.model import IMPOSSIBLE, LookAhead, Model
from raftlab.linearizability.problem import Problem, lowest_missing

Value = str | None

_ARGUMENTS = {"get": 0, "put": 1, "append": 1, "swap": 2}


class _Forgotten:
    """Stands for every value that none of the remaining operations reads, compares with or appends to."""

    def __repr__(self) -> str:
        return "a value that nobody reads"


FORGOTTEN = _Forgotten()


class Register(Model):
    """Each key has a value, or none.

    - `get()` returns the value, or the initial value if nothing was written.
    - `put(value)` replaces the value.
    - `append(value)` appends to the old value. If there is no old value, it appends to "".
    - `swap(expected, value)` replaces the value and returns True if the old value equals `expected` (None: there is no
      value). Otherwise it changes nothing and returns False.
    """

    def __init__(self, initial: Value = None) -> None:
        """Args:
        initial: The initial value of every key. None: there is no value.
        """
        self.initial: Hashable = initial

    def step(self, state: Hashable, operation: Operation) -> Hashable:
        match operation.op:
            case "get":
                return state if state == operation.result else IMPOSSIBLE
            case "put":
                return operation.args[0]  # type: ignore[no-any-return]
            case "append":
                if state is FORGOTTEN:
                    return state
                return operation.args[0] if state is None else state + operation.args[0]  # type: ignore
        expected, value = operation.args
        if (operation.return_ is not None and not operation.result) or state != expected:
            return state if not operation.result and state != expected else IMPOSSIBLE
        return value  # type: ignore[no-any-return]

    def only_reads(self, operation: Operation) -> bool:
        return operation.op == "get" or (
            operation.op == "swap" and operation.return_ is not None and not operation.result
        )

    def validate(self, operation: Operation) -> None:
        if _ARGUMENTS.get(operation.op) != len(operation.args):
            raise ValueError(f"expected get(), put(value), append(value) or swap(expected, value): {operation}")
        written = operation.args[-1:]
        values = (*operation.args[:-1], operation.result) if operation.op == "get" else operation.args[:-1]
        if not all(isinstance(one, str) for one in written) or not all(
            one is None or isinstance(one, str) for one in values
        ):
            raise ValueError(f"values are strings: {operation}")
        if operation.op == "swap" and operation.return_ is not None and not isinstance(operation.result, bool):
            raise ValueError(f"a swap that returned has the result True or False: {operation}")

    def explain(self, before: Sequence[Operation], failed: Operation) -> str:
        return explain(self, before, failed)

    def look_ahead(self, problem: Problem) -> LookAhead:
        return _Future(problem)


# The maximum number of results, and of appends, that the look-ahead considers for a new state. With higher limits, the
# search would find a dead end earlier, but each step would take longer.
_RESULTS_AHEAD = 24
_APPENDS_AHEAD = 60
_ANYTHING = -1  # the set of all operations


class _Future(LookAhead):
    """Which values the remaining operations need, and which writes can produce these values.

    A get that returned v, or a swap from v that succeeded, needs the value v. Appends must produce v from a prefix of v.
    This prefix is the value that is stored now, or a value that a put or swap writes first.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._wanted: dict[int, Value] = {}  # by operation: the value that it reads or compares with
        self._shows = 0  # operations whose result shows that the key had the wanted value
        self._differs = 0  # swaps that failed
        self._bases: dict[str, list[int]] = {}  # by value: puts of it, and swaps to it that may succeed
        self._appends: dict[str, int] = {}  # by value: the set of appends
        changes: list[tuple[int, int]] = []
        for number, one in enumerate(problem.operations):
            returned = number < problem.returned
            if one.op == "get" and returned:
                self._wanted[number] = one.result
                self._shows |= 1 << number
            elif one.op == "swap":
                self._wanted[number] = one.args[0]
                if returned and one.result:
                    self._shows |= 1 << number
                elif returned:
                    self._differs |= 1 << number
            if one.op == "append":
                self._appends[one.args[0]] = self._appends.get(one.args[0], 0) | 1 << number
            elif one.op == "put" or (one.op == "swap" and not self._differs >> number & 1):
                self._bases.setdefault(one.args[-1], []).append(number)
            if returned and _changes_something(one):
                changes.append((problem.end[number], number))
        self._asking = sorted(self._wanted)
        self._base_lengths = sorted({len(value) for value in self._bases})
        self._append_lengths = sorted({len(value) for value in self._appends} - {0})
        changes.sort()
        self._change_ends = [end for end, _ in changes]
        self._changes_so_far = [0]
        for _, number in changes:
            self._changes_so_far.append(self._changes_so_far[-1] | 1 << number)
        self._earlier: dict[int, tuple[int, list[tuple[int, int]]]] = {}
        self._growth: dict[tuple[int, int], tuple[int, int] | None] = {}
        self._helps: dict[int, int] = {}

    def future(self, state: Hashable, taken: int) -> Hashable:
        tried, asked_for = 0, False
        for index in range(bisect_left(self._asking, lowest_missing(taken)), len(self._asking)):
            number = self._asking[index]
            if taken >> number & 1:
                continue
            if self._can_grow(number, state, taken):
                asked_for = True
            elif tried < _RESULTS_AHEAD and self._shows >> number & 1 and not self._has_base(number, taken):
                return IMPOSSIBLE
            tried += 1
            if asked_for and tried >= _RESULTS_AHEAD:
                break
        return state if asked_for else FORGOTTEN

    def is_free(self, number: int, state: Hashable, taken: int) -> bool:
        one = self._problem.operations[number]
        if state is not FORGOTTEN or one.op == "swap":
            return False
        helps = self._helps.get(number)
        if helps is None:
            helps = self._differs  # any write can make a swap fail, because it replaces the value that the swap expects
            for asking, wanted in self._wanted.items():
                if wanted is not None and (
                    wanted.startswith(one.args[0]) if one.op == "put" else one.args[0] in wanted
                ):
                    helps |= 1 << asking
            self._helps[number] = helps
        return helps & ~taken == 0

    def open_helps(self, state: Hashable, taken: int) -> bool:
        return state is not FORGOTTEN or self._differs & ~taken != 0

    def _can_grow(self, number: int, state: Hashable, taken: int) -> bool:
        """Whether appends can turn the value `state` into the one that operation `number` needs."""
        wanted = self._wanted[number]
        possible = 0
        if state is FORGOTTEN:
            return False
        if wanted is None or state == wanted:
            if state is not wanted and state != wanted:
                return False
        elif state is None and wanted == "":
            if not self._appends.get("", 0) & ~taken:
                return False
        else:
            assert state is None or isinstance(state, str)
            if not wanted.startswith(state or ""):
                return False
            growth = self._appends_from(number, len(state or ""), _APPENDS_AHEAD)
            if growth is None or growth[0] & taken:
                return False
            possible = growth[1]
        return not (self._shows >> number & 1 and self._before(number)[0] & ~taken & ~possible)

    def _has_base(self, number: int, taken: int) -> bool:
        """Whether one of the remaining puts and swaps can write a prefix of the value that operation `number` needs."""
        return any(not (taken >> base & 1 or needed & taken) for base, needed in self._before(number)[1])

    def _before(self, number: int) -> tuple[int, list[tuple[int, int]]]:
        """The operations that can or must come before operation `number`, which needs a value.

        Returns:
            First, the set of writes that returned before the operation was called, without the puts and swaps that can
            write a prefix of the needed value. Second, all puts and swaps that can write such a prefix, each with the
            set of appends that are needed after it.
        """
        known = self._earlier.get(number)
        if known is None:
            problem, wanted = self._problem, self._wanted[number]
            must = self._changes_so_far[bisect_left(self._change_ends, problem.call[number])]
            bases = []
            for length in self._base_lengths if wanted is not None else ():
                assert wanted is not None
                if length > len(wanted):
                    break
                for base in self._bases.get(wanted[:length], ()):
                    must &= ~(1 << base)
                    if base != number and problem.call[base] < problem.end[number]:
                        growth = self._appends_from(number, length, _APPENDS_AHEAD)
                        if growth is not None:
                            bases.append((base, growth[0]))
            known = self._earlier[number] = (must, bases)
        return known

    def _appends_from(self, number: int, position: int, depth: int) -> tuple[int, int] | None:
        """The appends that complete the value that operation `number` needs, starting with its first `position` characters.

        Returns:
            The set of appends that are certainly needed, and the set of all that can be used; None if there is no way.
        """
        wanted = self._wanted[number]
        assert wanted is not None
        if position == len(wanted):
            return 0, 0
        if depth == 0:
            return 0, _ANYTHING
        if (number, position) in self._growth:
            return self._growth[number, position]
        needed, usable, possible = _ANYTHING, 0, False
        for length in self._append_lengths:
            if position + length > len(wanted):
                break
            these = self._appends.get(wanted[position : position + length], 0)
            if these:
                rest = self._appends_from(number, position + length, depth - 1)
                if rest is not None:
                    possible = True
                    needed &= rest[0] | (these if these & (these - 1) == 0 else 0)
                    usable |= rest[1] | these
        answer = (needed, usable) if possible else None
        self._growth[number, position] = answer
        return answer


def _changes_something(one: Operation) -> bool:
    """Whether an operation that returned is a put, or another write that certainly changed the value."""
    if one.op == "swap":
        return bool(one.result) and one.args[0] != one.args[1]
    return one.op == "put" or (one.op == "append" and one.args[0] != "")
