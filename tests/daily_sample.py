"""The sample of a large bank that ``pytest`` tries by default. CI tries the rest in separate commands (``.ci/run``).

Tests of what is not in the sample have the mark ``whole_bank``. ``tests/conftest.py`` leaves these tests out unless the
command line asks for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import pytest

Item = TypeVar("Item")

# One in this many entries of a bank is in the sample, because with more the tests would take over five minutes on two
# cores. CI tries each entry.
ONE_IN = 6
NOT_DAILY = pytest.mark.whole_bank


def daily(items: Sequence[Item]) -> list[Item]:
    """The sample of a bank."""
    return list(items[::ONE_IN])


def rest(items: Sequence[Item]) -> list[Item]:
    """What is not in the sample."""
    return [item for number, item in enumerate(items) if number % ONE_IN]


def marks(number: int) -> list[pytest.MarkDecorator]:
    """The marks for the test of one entry of a bank. ``number`` is the entry's place in the bank."""
    return [NOT_DAILY] if number % ONE_IN else []


class Part(Protocol):
    """:func:`daily` or :func:`rest`."""

    def __call__(self, items: Sequence[Item]) -> list[Item]: ...


# Runs a test for the sample, and once more for the rest. The parameter is the function that chooses from a bank.
BOTH_PARTS = pytest.mark.parametrize(
    "part", [pytest.param(daily, id="daily"), pytest.param(rest, id="rest", marks=NOT_DAILY)]
)
