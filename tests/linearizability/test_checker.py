"""Tests of the verdicts of the linearizability checker, against public histories and against brute force."""

from __future__ import annotations

import random
from collections.abc import Hashable
from dataclasses import replace

import pytest

from raftlab.linearizability import IMPOSSIBLE, Model, Operation, Register, Verdict, check
from tests.linearizability import public_histories
from tests.linearizability.generator import brute_force, linearizable, with_one_change

PUBLIC = public_histories.verdicts()


@pytest.mark.skipif(not PUBLIC, reason=f"the public histories are not in {public_histories.FOLDER}")
@pytest.mark.parametrize("name", PUBLIC)
def test_public_histories_get_their_verdicts(name: str) -> None:
    history, register = public_histories.read(public_histories.FOLDER / name)
    result = check(history, register, seconds=2)
    assert result.verdict is (Verdict.YES if PUBLIC[name] else Verdict.NO)
    assert PUBLIC[name] or (len(result.unplaced) == 1 and result.sentence.endswith("."))


def agrees_with_brute_force(seed: int) -> bool:
    """Checks a small history that is linearizable, and the same history with one change. Returns whether the changed history
    is not linearizable, so that the checker had to notice the change."""
    rng = random.Random(seed)
    history = linearizable(
        rng, rng.randint(2, 7), rng.randint(2, 5), rng.randint(1, 2), open_share=rng.choice([0, 0.1, 0.4])
    )
    assert check(history, Register()).verdict is Verdict.YES, (
        f"seed {seed}: the checker rejects a linearizable history: {history}"
    )
    changed = with_one_change(rng, history)
    result = check(changed, Register())
    expected = brute_force(changed)
    assert result.verdict is (Verdict.YES if expected else Verdict.NO), f"seed {seed}: expected {expected}: {changed}"
    if not expected:
        explains(changed, result.key, result.order, result.unplaced)
    return not expected


def explains(
    history: list[Operation], key: Hashable, order: tuple[Operation, ...], unplaced: tuple[Operation, ...]
) -> None:
    """Checks the reason that is given for a refusal. `order` must be possible, and must have every operation that
    returned before the operation in `unplaced` did. Consider all operations that were called before the operation in
    `unplaced` returned: they must not be linearizable. Otherwise there would be a place for that operation."""
    assert len(unplaced) == 1
    assert unplaced[0].op in ("get", "swap")
    end = unplaced[0].return_
    assert end is not None
    value = None
    for number, one in enumerate(order):
        assert one.key == key
        assert not any(later.return_ is not None and later.return_ < one.call for later in order[number:])
        if one.op == "get":
            assert one.result == value
        elif one.op == "put":
            value = one.args[0]
        elif one.op == "append":
            value = (value or "") + one.args[0]
        elif value == one.args[0]:
            value = one.args[1]
    missing = [one for one in history if one.key == key and one not in order and one is not unplaced[0]]
    assert not any(one.return_ is not None and one.return_ < end for one in missing)
    early = [one for one in history if one.key == key and one.call <= end]
    upto = [
        one if one.return_ is not None and one.return_ <= end else replace(one, return_=None, result=None)
        for one in early
    ]
    assert not brute_force(upto)


def test_five_hundred_small_histories_agree_with_brute_force() -> None:
    noticed = sum(agrees_with_brute_force(seed) for seed in range(500))
    assert 50 < noticed < 450


@pytest.mark.slow
@pytest.mark.parametrize("thousand", range(10))
def test_ten_thousand_small_histories_agree_with_brute_force(thousand: int) -> None:
    noticed = sum(agrees_with_brute_force(seed) for seed in range(thousand * 1000 + 500, thousand * 1000 + 1500))
    assert 100 < noticed < 900


@pytest.mark.parametrize("seed", range(20))
def test_long_histories_are_accepted(seed: int) -> None:
    rng = random.Random(seed)
    history = linearizable(rng, 2000, clients=8, keys=10, unique=True, open_share=0.01)
    assert check(history, Register()).verdict is Verdict.YES


def test_a_long_history_with_one_wrong_result_is_refused() -> None:
    rng = random.Random(1)
    history = linearizable(rng, 2000, clients=8, keys=10, unique=True, open_share=0.01, whole_seconds=False)
    at = max(number for number, one in enumerate(history) if one.op == "get" and one.return_ is not None)
    history[at] = replace(history[at], result="<no such value>")
    result = check(history, Register())
    assert result.verdict is Verdict.NO
    assert result.unplaced == (history[at],)


def test_keys_are_independent() -> None:
    history = [
        Operation("c1", 0, 1, "put", "x", ("a",)),
        Operation("c2", 2, 3, "get", "y", (), "a"),
        Operation("c2", 4, 5, "get", "x", (), "a"),
    ]
    result = check(history, Register())
    assert (result.verdict, result.key, result.unplaced) == (Verdict.NO, "y", (history[1],))


def test_operations_that_touch_at_one_instant_overlap_unless_one_client_called_both() -> None:
    put = Operation("c1", 0, 1, "put", "x", ("a",))
    assert check([put, Operation("c2", 1, 2, "get", "x")], Register()).verdict is Verdict.YES
    assert check([put, Operation("c1", 1, 2, "get", "x")], Register()).verdict is Verdict.NO


def test_an_open_operation_may_happen_late_or_never() -> None:
    put = Operation("c1", 0, None, "put", "x", ("a",))
    empty, full = Operation("c2", 5, 6, "get", "x"), Operation("c2", 7, 8, "get", "x", (), "a")
    assert check([put, empty, full], Register()).verdict is Verdict.YES
    assert check([put, empty], Register()).verdict is Verdict.YES
    late = replace(full, call=1, return_=2)
    assert check([put, late, empty], Register()).verdict is Verdict.NO


def test_an_open_swap_happens_only_if_the_value_is_the_expected_one() -> None:
    swap = Operation("c1", 0, None, "swap", "x", ("a", "b"))
    read = Operation("c2", 5, 6, "get", "x", (), "b")
    assert check([swap, read], Register()).verdict is Verdict.NO
    assert check([Operation("c3", 1, 2, "put", "x", ("a",)), swap, read], Register()).verdict is Verdict.YES


@pytest.mark.parametrize(
    "wrong",
    [
        Operation("c1", 2, 1, "get", "x"),
        Operation("c1", 1, 2, "remove", "x"),
        Operation("c1", 1, 2, "put", "x"),
        Operation("c1", 1, 2, "put", "x", (None,)),
        Operation("c1", 1, 2, "get", "x", (), 7),
        Operation("c1", 1, 2, "swap", "x", ("a", "b"), None),
    ],
)
def test_an_invalid_operation_is_an_error(wrong: Operation) -> None:
    with pytest.raises(ValueError):
        check([wrong], Register())


class Counter(Model):
    """A model that a user might write: `add` returns the sum so far, or None if the client ignored the sum."""

    initial = 0

    def step(self, state: Hashable, operation: Operation) -> Hashable:
        assert isinstance(state, int)
        total = state + operation.args[0]
        return total if operation.result in (None, total) else IMPOSSIBLE

    def only_reads(self, operation: Operation) -> bool:
        return False


def test_a_model_that_a_user_wrote() -> None:
    history = [Operation(client, 0, 1, "add", "n", (client,), total) for client, total in ((1, 6), (2, 5), (3, 3))]
    assert check(history, Counter()).verdict is Verdict.YES
    result = check([*history, Operation(4, 2, 3, "add", "n", (4,), 9)], Counter())
    assert result.verdict is Verdict.NO
    assert result.sentence == (
        "client 4's add of n between 2 s and 3 s returned 9, which no order of the operations before it allows."
    )


def test_the_checker_gives_up_when_its_time_is_over() -> None:
    # Every subset of the twenty additions has a different sum. After all of them, the last operation returned 1, although
    # their sum is larger. So the checker has to try all subsets.
    history = [Operation(power, 0, 1, "add", "n", (2**power,)) for power in range(20)]
    history.append(Operation(20, 2, 3, "add", "n", (0,), 1))
    result = check(history, Counter(), seconds=0)
    assert result.verdict is Verdict.UNDECIDED
    assert (result.order, result.unplaced, result.sentence) == ((), (), "")


def test_operations_of_one_client_at_one_instant_keep_their_order() -> None:
    first, second = Operation("c1", 1, 1, "put", "x", ("a",)), Operation("c1", 1, 1, "put", "x", ("b",))
    assert check([first, second, Operation("c2", 2, 3, "get", "x", (), "b")], Register()).verdict is Verdict.YES
    assert check([first, second, Operation("c2", 2, 3, "get", "x", (), "a")], Register()).verdict is Verdict.NO
