"""Tests of the sentence that says which operation has no place, and why."""

from __future__ import annotations

from typing import Any

import pytest

from raftlab.linearizability import Operation, Register, Verdict, check


def put(client: str, call: float, end: float | None, value: str) -> Operation:
    return Operation(client, call, end, "put", "x", (value,))


def append(client: str, call: float, end: float | None, value: str) -> Operation:
    return Operation(client, call, end, "append", "x", (value,))


def get(client: str, call: float, end: float, result: Any) -> Operation:
    return Operation(client, call, end, "get", "x", (), result)


def swap(client: str, call: float, end: float, expected: str | None, value: str, result: bool) -> Operation:
    return Operation(client, call, end, "swap", "x", (expected, value), result)


CASES = [
    (
        [put("c1", 1, 2, "a"), put("c2", 3, 4, "b"), get("c3", 4.2, 4.5, "a")],
        "c3's get of x between 4.2 s and 4.5 s returned 'a', but 'b' had replaced it by 4 s and nothing put 'a' back.",
    ),
    (
        [put("c1", 1, 2, "a"), get("c3", 4.2, 4.5, None)],
        "c3's get of x between 4.2 s and 4.5 s returned None, but c1's put had written 'a' by 2 s and nothing removes x.",
    ),
    (
        [put("c1", 0, 9, "a"), get("c2", 1, 2, "a"), get("c3", 4.2, 4.5, None)],
        "c3's get of x between 4.2 s and 4.5 s returned None, but c2's get had already returned 'a' by 2 s and nothing "
        "removes x after that.",
    ),
    (
        [put("c1", 0, 3, "a"), put("c2", 0, 3, "b"), get("c3", 4, 5, "a"), get("c3", 6, 7, "b")],
        "c3's get of x between 6 s and 7 s returned 'b', but c3's get had already returned 'a' by 5 s and nothing put 'b' "
        "back after that.",
    ),
    (
        [get("c3", 4, 5, "a"), put("c1", 6, 7, "a")],
        "c3's get of x between 4 s and 5 s returned 'a', but nobody had begun to write 'a' by then.",
    ),
    (
        [append("c1", 1, 2, "a1 "), append("c2", 3, 4, "b1 "), get("c3", 5, 6, "b1 ")],
        "c3's get of x between 5 s and 6 s returned 'b1 ', but c1's append of 'a1 ', which had returned at 2 s, is missing "
        "from it.",
    ),
    (
        [append("c1", 1, 2, "a1 "), append("c2", 3, 4, "b1 "), get("c3", 5, 6, "a1 b1 b1 ")],
        "c3's get of x between 5 s and 6 s returned 'a1 b1 b1 ', but 'b1 ' is in it twice and was written only once.",
    ),
    (
        [append("c1", 1, 2, "a1 "), append("c2", 1, 2, "b1 "), get("c3", 3, 4, "a1 b1 "), get("c3", 5, 6, "b1 a1 ")],
        "c3's get of x between 5 s and 6 s returned 'b1 a1 ', but c3's get had already returned 'a1 b1 ' by 4 s and "
        "nothing replaced or removed that.",
    ),
    (
        [append("c1", 1, 2, "a1 "), append("c2", 3, 4, "b1 "), get("c3", 5, 6, "b1 a1 ")],
        "c3's get of x between 5 s and 6 s returned 'b1 a1 ', but the append of 'a1 ' had returned at 2 s, before the "
        "append of 'b1 ' was called at 3 s, so they are in the wrong order.",
    ),
    (
        [append("c1", 1, 2, "a1 "), get("c3", 3, 4, "a1 zz")],
        "c3's get of x between 3 s and 4 s returned 'a1 zz', but nobody had begun to write the 'zz' in it by then.",
    ),
    (
        [put("c1", 1, 2, "a"), put("c2", 3, 4, "b"), swap("c3", 5, 6, "a", "c", True)],
        "c3's swap of x from 'a' to 'c' between 5 s and 6 s succeeded, so x was 'a' then, but 'b' had replaced it by 4 s "
        "and nothing put 'a' back.",
    ),
    (
        [put("c1", 1, 2, "a"), swap("c3", 5, 6, "a", "c", False)],
        "c3's swap of x from 'a' to 'c' between 5 s and 6 s failed, so x was not 'a' then, but c1's put of 'a' had returned "
        "at 2 s and nothing changed it before 6 s.",
    ),
    (
        [swap("c3", 5, 6, None, "c", False)],
        "c3's swap of x from None to 'c' between 5 s and 6 s failed, so x was not None then, but nobody had begun to "
        "write x by then.",
    ),
    (
        [swap("c1", 1, 4, None, "a", True), swap("c2", 1, 4, None, "b", True)],
        "c2's swap of x from None to 'b' between 1 s and 4 s succeeded, so x was None then, but c1's swap from None to 'a' "
        "between 1 s and 4 s succeeded, and no order of the operations allows both.",
    ),
]


@pytest.mark.parametrize(("history", "sentence"), CASES, ids=range(len(CASES)))
def test_the_sentence_names_the_operation_and_the_reason(history: list[Operation], sentence: str) -> None:
    result = check(history, Register())
    assert result.verdict is Verdict.NO
    assert result.sentence == sentence


def test_the_order_ends_before_the_operation_without_a_place() -> None:
    history = [
        put("c1", 1, 2, "a"),
        get("c2", 1, 2, None),
        put("c2", 3, 4, "b"),
        get("c3", 4.2, 4.5, "a"),
        put("c1", 5, 6, "c"),
    ]
    result = check(history, Register())
    assert result.order == (history[1], history[0], history[2])
    assert result.unplaced == (history[3],)
