"""The operations of clerks in a trace (labs 3A and 3B), and the order that the checker has found for them, for the picture.

An operation begins with the event ``call`` of a clerk and ends with the event ``result``. The page draws the operation as a
bar on the clerk's lane. For each key, a line connects the operations in an order that explains their results. An operation
that has no place in any order is red.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raftlab import linearizability
from raftlab.linearizability import Operation, Register
from raftlab.participants import is_clerk, name_of

# CPU seconds that the search for the orders may take. It is short because the page must appear soon. If no order is found
# in time, the page only has the bars.
_SEARCH_SECONDS = 3.0
_ARGUMENTS = {"get": 0, "put": 1, "append": 1, "swap": 2}


def operations(events: Iterable[dict[str, Any]]) -> dict[int, Operation]:
    """The operations of clerks, by the number of the call. Reads of a kind that does not promise linearizability are left
    out. So is everything that is not an operation, because the file may come from anyone."""
    found: dict[int, Operation] = {}
    for event in events:
        if event["e"] not in ("call", "result") or not is_clerk(event["server"]):
            continue
        number, message = event["id"], event["message"]
        if event["e"] == "call":
            operation = _operation(event)
            if operation is not None:
                found[number] = operation
        elif number in found and isinstance(message, list) and len(message) == 2 and message[0] == "ok":
            one = found[number]
            result = message[1] if one.op in ("get", "swap") else None
            found[number] = Operation(one.client, one.call, event["t"], one.op, one.key, one.args, result)
    return found


def _operation(event: dict[str, Any]) -> Operation | None:
    words, op = event["message"], event["method"]
    if op not in _ARGUMENTS or not isinstance(words, list) or not words or not isinstance(words[0], str):
        return None
    args = tuple(words[1 : 1 + _ARGUMENTS[op]])
    read = words[1] if op == "get" and len(words) > 1 else "log"
    if read in ("session", "snapshot") or len(args) != _ARGUMENTS[op]:
        return None
    return Operation(name_of(event["server"]), event["t"], None, op, words[0], args)


def order(events: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """What the page draws: for each key, the calls in an order that explains their results, and the calls that have no place
    in any order.

    Returns:
        ``{"orders": [[call, ...], ...], "unplaced": [call, ...]}``; ``None`` if there are no operations, or if they cannot
        be judged.
    """
    found = operations(events)
    if not found:
        return None
    calls = {id(operation): number for number, operation in found.items()}
    try:
        keys = {operation.key for operation in found.values()}
        results = [
            linearizability.check(
                [one for one in found.values() if one.key == key], Register(), _SEARCH_SECONDS / len(keys)
            )
            for key in sorted(keys, key=str)
        ]
    except ValueError:
        return None
    orders = [[calls[id(one)] for one in result.order] for result in results if result.order]
    unplaced = [calls[id(one)] for result in results for one in result.unplaced]
    return {"orders": orders, "unplaced": unplaced}
