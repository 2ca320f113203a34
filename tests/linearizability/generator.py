"""Makes linearizable histories, makes one change in a history, and checks small histories by brute force."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from raftlab.linearizability import Operation


def apply(value: str | None, op: str, args: tuple[Any, ...]) -> tuple[str | None, Any]:
    """The value that an operation leaves behind, and its result. This is written independently of the checker, so that the
    two do not share a mistake."""
    if op == "get":
        return value, value
    if op == "put":
        return args[0], None
    if op == "append":
        return (value or "") + args[0], None
    return (args[1], True) if value == args[0] else (value, False)


def linearizable(
    rng: random.Random,
    count: int,
    clients: int = 3,
    keys: int = 1,
    unique: bool | None = None,
    open_share: float = 0.1,
    ops: Sequence[str] | None = None,
    whole_seconds: bool | None = None,
) -> list[Operation]:
    """A history that is linearizable, because each operation was carried out at a point between its call and its return.

    Args:
        count: The number of operations.
        unique: Whether no value is written twice. If None, this is drawn at random.
        open_share: The share of operations whose result is not known. Half of them are never carried out.
        ops: The kinds of operations. If None, they are drawn at random.
        whole_seconds: Whether times are whole numbers, so that many of them are equal. If None, this is drawn at random.
    """
    unique = rng.random() < 0.5 if unique is None else unique
    whole = rng.random() < 0.3 if whole_seconds is None else whole_seconds
    kinds = ops or rng.choice(
        [("get", "put"), ("get", "append"), ("get", "put", "append"), ("get", "put", "append", "swap")]
    )
    clock = [rng.uniform(0, 2) for _ in range(clients)]
    names = list(range(clients))
    drafts: list[tuple[float, int, int, float, float | None, str, int, tuple[Any, ...] | None]] = []
    for number in range(count):
        seat = rng.randrange(clients)
        call = clock[seat]
        end = call + rng.choice([rng.uniform(0, 0.3), rng.uniform(0, 3)])
        point = rng.uniform(call, end)
        clock[seat] = end if rng.random() < 0.3 else end + rng.uniform(0, 2)
        returned: float | None = end
        if rng.random() < open_share:  # the client crashes, and a new one replaces it
            returned, point = None, call + rng.choice([rng.uniform(0, 8), float("inf")])
        client = names[seat]
        if returned is None:
            names[seat] = max(names) + 1
        drafts.append((point, number, client, call, returned, rng.choice(kinds), rng.randrange(keys), None))
    values: dict[int, str | None] = {}
    written: list[str | None] = [None]
    done: dict[int, Operation] = {}
    for point, number, client, call, returned, op, key, _ in sorted(drafts):
        value = f"<{number}>" if unique else rng.choice("ab")
        args: tuple[Any, ...] = () if op == "get" else (value,)
        if op == "swap":
            args = (values.get(key) if rng.random() < 0.6 else rng.choice(written[-4:]), value)
        result = None
        if point != float("inf"):
            values[key], result = apply(values.get(key), op, args)
            written.append(values[key])
        if whole:
            call, returned = float(int(call)), None if returned is None else float(int(returned))
        done[number] = Operation(client, call, returned, op, key, args, None if returned is None else result)
    return [done[number] for number in sorted(done)]


def with_one_change(rng: random.Random, history: Sequence[Operation]) -> list[Operation]:
    """The history with a change to one operation: another result, other times, or the operation left out. The changed
    history may be linearizable or not."""
    changed = list(history)
    at = rng.randrange(len(changed))
    one = changed[at]
    if one.return_ is not None and one.op == "get" and rng.random() < 0.8:
        results: list[str | None] = [None, "never written"]
        results += [other.result for other in history if other.op == "get" and other.return_ is not None]
        results += [other.args[-1] for other in history if other.op != "get"]
        if one.result:
            results += [one.result[:-1], one.result + one.result[-1:], one.result[1:]]
        changed[at] = replace(one, result=rng.choice(results))
    elif one.return_ is not None and one.op == "swap" and rng.random() < 0.8:
        changed[at] = replace(one, result=not one.result)
    elif one.return_ is not None:
        shift = rng.uniform(-3, 3)
        changed[at] = replace(one, client=one.client, call=one.call + shift, return_=one.return_ + shift)
        changed.sort(key=lambda other: other.call)
    else:
        del changed[at]
    return changed


def brute_force(history: Sequence[Operation]) -> bool:
    """Whether the history is linearizable, found by trying every order. This is feasible for up to about eight
    operations."""

    def before(a: int, b: int) -> bool:
        first, second = history[a], history[b]
        if first.return_ is None:
            return False
        same = first.client == second.client and a < b and first.return_ == second.call
        return first.return_ < second.call or same

    def place(left: frozenset[int], values: dict[Any, str | None]) -> bool:
        if all(history[number].return_ is None for number in left):
            return True
        for number in left:
            if any(before(other, number) for other in left if other != number):
                continue
            one = history[number]
            value, result = apply(values.get(one.key), one.op, one.args)
            if one.return_ is not None and one.op in ("get", "swap") and result != one.result:
                continue
            if place(left - {number}, {**values, one.key: value}):
                return True
        return False

    return place(frozenset(range(len(history))), {})
