"""Decides whether a history is linearizable, key by key."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterable, Sequence

from raftlab.linearizability.history import Operation, Result, Verdict
from raftlab.linearizability.model import Model
from raftlab.linearizability.problem import Problem
from raftlab.linearizability.search import Search

# The keys take turns, because one key that has no order is enough to reject the history, and the search for the order of
# another key might take for ever. The first turn of each key has _FIRST_TURN steps. Each further turn has _GROWTH times as
# many steps as the turn before.
_FIRST_TURN = 500
_GROWTH = 4
# The number of steps after which the search checks the time.
_SLICE = 500
# The maximum number of steps to find the first operation that has no place, once it is known that there is one.
_EXPLANATION = 20_000


def check(history: Iterable[Operation], model: Model, seconds: float = 10.0) -> Result:
    """Decides whether a history is linearizable.

    Args:
        history: The operations of the clients, each client's operations in the order in which it called them.
        model: The effects of the operations, for example `Register()`.
        seconds: The number of CPU seconds after which to give up.

    Returns:
        The verdict. If it is NO, the result also names a key whose operations are not linearizable, and the reason.

    Raises:
        ValueError: An operation returned before it was called, or the model does not know the operation.
    """
    deadline = time.process_time() + seconds
    keys: dict[Hashable, list[Operation]] = {}
    for one in history:
        if one.return_ is not None and one.return_ < one.call:
            raise ValueError(f"the operation returned before it was called: {one}")
        model.validate(one)
        keys.setdefault(one.key, []).append(one)
    searches = {key: Search(Problem(operations), model) for key, operations in keys.items()}
    orders: list[tuple[Operation, ...]] = []
    turn = _FIRST_TURN
    while searches:
        for key, search in list(searches.items()):
            found = _run(search, turn, deadline)
            if found is False:
                return _refusal(key, keys[key], model, search.furthest)
            if found:
                orders.append(search.operations())
                del searches[key]
        if searches and time.process_time() >= deadline:
            return Result(Verdict.UNDECIDED)
        turn *= _GROWTH
    return Result(Verdict.YES, order=orders[0] if len(orders) == 1 else ())


def _run(search: Search, steps: int, deadline: float) -> bool | None:
    while True:
        found = search.run(min(steps, _SLICE))
        steps -= _SLICE
        if found is not None or steps <= 0 or time.process_time() >= deadline:
            return found


def _refusal(key: Hashable, operations: Sequence[Operation], model: Model, furthest: int) -> Result:
    """Finds, by bisection, the first return that makes the history of `key` impossible. Every prefix of the history that
    ends before this return is possible, and no other prefix is.

    Args:
        furthest: The position of a return. The prefix before it is known to be possible.
    """
    whole = Problem(operations)
    returns = sorted(range(whole.returned), key=whole.end.__getitem__)
    works = sum(whole.end[number] < furthest for number in returns) - 1
    fails = len(returns) - 1
    steps, stride = _EXPLANATION, 1
    order: tuple[Operation, ...] | None = None
    while fails - works > 1 or order is None:
        # The first impossible return is usually close to `furthest`, so the first strides are small.
        middle = works if fails - works == 1 else min(works + stride, (works + fails) // 2)
        until = whole.end[returns[middle]] if middle >= 0 else -1
        search = Search(Problem(operations, until), model)
        found = search.run(steps)
        steps -= search.steps + len(operations)  # a search first does some work for each operation
        if found is None:
            break
        if found:
            works, order, stride = middle, search.operations(), stride * 2
        else:
            fails, stride = middle, 1
    unplaced = tuple(whole.originals[number] for number in returns[works + 1 : fails + 1])
    if len(unplaced) > 1:
        names = "; ".join(one.describe() for one in unplaced[:5])
        sentence = f"One of these operations on {key} has no place in any order: {names}."
        return Result(Verdict.NO, key, order or (), unplaced, sentence)
    end = whole.end[returns[fails]]
    before = [
        whole.originals[number]
        for number in range(len(whole.originals))
        if whole.call[number] < end and number != returns[fails]
    ]
    return Result(Verdict.NO, key, order or (), unplaced, model.explain(before, unplaced[0]))
