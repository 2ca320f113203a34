"""Tests of the order in which the viewer puts clerks' operations: in this order, their results must be possible."""

from __future__ import annotations

from typing import Any

from raftlab.viewer import history

C0, C1 = 100, 101


def operation(
    number: int, clerk: int, call: float, result: float | None, method: str, words: list[Any], value: Any
) -> list[Any]:
    events = [{"t": call, "e": "call", "server": clerk, "id": number, "method": method, "message": words}]
    if result is not None:
        events.append({"t": result, "e": "result", "server": clerk, "id": number, "method": method, "message": value})
    return events


def test_operations_are_ordered_for_each_key() -> None:
    events = [
        *operation(1, C0, 1.0, 1.5, "put", ["x", "a"], ["ok", None]),
        *operation(2, C1, 1.1, 1.2, "get", ["x"], ["ok", None]),
        *operation(3, C1, 1.6, 1.7, "get", ["x"], ["ok", "a"]),
        *operation(4, C0, 1.6, 1.9, "append", ["y", "b"], ["ok", None]),
        *operation(5, C1, 2.0, None, "get", ["x"], None),
    ]
    assert history.order(events) == {"orders": [[2, 1, 3], [4]], "unplaced": []}


def test_an_operation_whose_result_fits_nowhere_is_named() -> None:
    events = [
        *operation(1, C0, 1.0, 1.5, "put", ["x", "a"], ["ok", None]),
        *operation(2, C1, 1.6, 1.7, "get", ["x"], ["ok", None]),
    ]
    assert history.order(events) == {"orders": [[1]], "unplaced": [2]}


def test_calls_that_are_not_valid_operations_are_left_out() -> None:
    events = [
        *operation(1, 0, 1.0, 1.5, "start", ["x"], [1, 1, True]),
        *operation(2, C0, 1.0, 1.5, "put", [7], ["ok", None]),
        *operation(3, C0, 1.0, 1.5, "put", ["x", 7], ["ok", None]),
        *operation(4, C1, 1.6, 1.7, "get", ["x", "session"], ["ok", None]),
    ]
    assert history.order(events) is None
    assert history.order([]) is None
