"""The search for an order of the operations on one key: Wing and Gong's algorithm with Lowe's cache of visited states.

An order must place each operation between its call and its return. The search places one operation after the other. The next
operation may be any one that was called before the earliest return among the operations not placed yet. If none fits, the
search backtracks and tries another operation. If two partial orders contain the same operations and lead to the same state,
they have the same continuations, so the second is not continued.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from raftlab.linearizability.history import Operation
from raftlab.linearizability.model import IMPOSSIBLE, Model
from raftlab.linearizability.problem import NEVER, Problem, lowest_missing


@dataclass(slots=True)
class _Choice:
    """A point to which the search can backtrack."""

    taken: int
    state: Hashable
    length: int  # of the order so far
    left: list[int]  # operations not tried yet, the best one last


class Search:
    """One search, which can be interrupted and continued.

    Attributes:
        problem: The operations.
        order: The numbers of the operations placed so far, in order.
        furthest: The position of the latest return that the search has reached: some partial order contained every operation
            that returned before this position.
        steps: The number of operations tried so far.
    """

    def __init__(self, problem: Problem, model: Model) -> None:
        self.problem = problem
        self.order: list[int] = []
        self.furthest = -1
        self.steps = 0
        self._model = model
        self._ahead = model.look_ahead(problem)
        self._tried: dict[tuple[int, Hashable], list[int]] = {}
        self._choices: list[_Choice] = []
        self._reads = [model.only_reads(one) for one in problem.operations]
        # An open operation that only reads can be left out. Among equal open operations, the one that was called first can
        # always be placed first.
        self._open: list[tuple[int, int]] = []
        equal: dict[tuple[object, ...], int] = {}
        for number in range(problem.returned, len(problem.operations)):
            if not self._reads[number]:
                one = problem.operations[number]
                kind = (one.op, *one.args)
                self._open.append((number, equal.get(kind, 0)))
                if not problem.waits_for[number]:
                    equal[kind] = equal.get(kind, 0) | 1 << number
        state = self._ahead.future(model.initial, 0)
        self._found = state is not IMPOSSIBLE and self._arrive(0, state)

    def run(self, steps: int) -> bool | None:
        """Continues the search.

        Args:
            steps: The number of operations to try before stopping.

        Returns:
            Whether there is an order (if so, it is in `order`), or None if the search has not ended.
        """
        problem, model, ahead = self.problem, self._model, self._ahead
        while not self._found and self._choices:
            choice = self._choices[-1]
            if not choice.left:
                self._choices.pop()
                continue
            if steps <= 0:
                return None
            steps -= 1
            self.steps += 1
            number = choice.left.pop()
            del self.order[choice.length :]
            state = model.step(choice.state, problem.operations[number])
            is_open = number >= problem.returned
            if state is IMPOSSIBLE or (is_open and state == choice.state):
                continue
            taken = choice.taken | 1 << number
            state = ahead.future(state, taken)
            if state is IMPOSSIBLE or (is_open and not ahead.open_helps(state, taken)):
                continue
            self.order.append(number)
            self._found = self._arrive(taken, state)
        return self._found

    def operations(self) -> tuple[Operation, ...]:
        """The order found, as operations."""
        return tuple(self.problem.originals[number] for number in self.order)

    def _arrive(self, taken: int, state: Hashable) -> bool:
        """Places the operations that can be placed now without excluding any order, and records which may come next.

        Returns:
            Whether every operation that returned has been placed.
        """
        problem, operations = self.problem, self.problem.operations
        while True:
            first_return, candidates = self._candidates(taken)
            self.furthest = max(self.furthest, first_return)
            before = taken
            for number in candidates:
                if self._reads[number]:
                    # A read changes nothing, so it can be placed first in every order that continues from here.
                    free = self._model.step(state, operations[number]) is not IMPOSSIBLE
                else:
                    free = self._ahead.is_free(number, state, taken)
                if free:
                    taken |= 1 << number
                    self.order.append(number)
            if taken == before:
                break
            state = self._ahead.future(state, taken)
            if state is IMPOSSIBLE:
                return False
        if taken & problem.everything_returned == problem.everything_returned:
            return True
        if self._was_tried(taken, state):
            return False
        left = [
            number
            for number, equal in reversed(self._open)
            if problem.call[number] < first_return and not taken >> number & 1 and equal & ~taken == 0
            if problem.waits_for[number] & ~taken == 0
        ]
        writes = [number for number in candidates if not self._reads[number]]
        left += sorted(writes, key=problem.end.__getitem__, reverse=True)
        self._choices.append(_Choice(taken, state, len(self.order), left))
        return False

    def _candidates(self, taken: int) -> tuple[int, list[int]]:
        """The position of the first return among the operations that are not in `taken`, and the operations that returned
        and may come next."""
        problem = self.problem
        call, end, waits_for = problem.call, problem.end, problem.waits_for
        first_return = NEVER
        candidates = []
        for number in range(lowest_missing(taken), problem.returned):
            if call[number] > first_return:
                break
            if not taken >> number & 1:
                first_return = min(first_return, end[number])
                if waits_for[number] & ~taken == 0:
                    candidates.append(number)
        return first_return, candidates

    def _was_tried(self, taken: int, state: Hashable) -> bool:
        """Whether the search has reached this state before with the same set of returned operations, and with no open
        operations other than those in `taken`. If not, records this visit."""
        used = taken >> self.problem.returned
        before = self._tried.setdefault((taken & self.problem.everything_returned, state), [])
        if any(earlier & used == earlier for earlier in before):
            return True
        before.append(used)
        return False
