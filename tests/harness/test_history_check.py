"""Tests of the verdict on a history of operations in which a student's clerk returned wrong values."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, NoReturn, cast

import pytest

from raftlab.harness.clerks import ClientOperation
from raftlab.harness.cluster import Cluster
from raftlab.harness.history_check import check_history, tokens_in


def history_of(*values: str | None) -> Any:
    """A cluster in which C0 has appended "C0.1;" to 'x' and then read 'x' several times, with these results."""
    operations = [ClientOperation("C0", "append", "x", ("C0.1;",), call=1.0, returned=1.1, outcome="ok")]
    for number, value in enumerate(values, 2):
        read = ClientOperation("C0", "get", "x", (), call=number, returned=number + 0.1, outcome="ok", result=value)
        operations.append(read)

    def fail(text: str, *others: object) -> NoReturn:
        raise AssertionError(text)

    return cast(Cluster, SimpleNamespace(history=operations, clock_rates=[1.0], fail=fail))


def test_right_values_pass() -> None:
    check_history(history_of("C0.1;", "C0.1;"))


def test_long_values_are_judged_in_linear_time() -> None:
    # The longest results that the judge accepts have about this length. An algorithm that takes quadratic time needs
    # seven seconds for each result.
    before = time.process_time()
    with pytest.raises(AssertionError, match="returned 'xxx"):
        check_history(history_of("x" * 99_000))
    assert list(tokens_in("a;" + "x" * 1_000_000)) == ["a;"]
    assert time.process_time() - before < 2.0


@pytest.mark.parametrize("value", [None, "", "C0.2;", "C0.1;C0.1;", "C0.1", "C0.1;C0"])
def test_wrong_values_fail(value: str | None) -> None:
    with pytest.raises(AssertionError, match=r"expected|returned"):
        check_history(history_of(value))


def test_a_value_is_split_into_tokens_after_each_semicolon() -> None:
    assert [list(tokens_in(value)) for value in ("", "a", "a;", "a;;b;c")] == [[], [], ["a;"], ["a;", ";", "b;"]]
