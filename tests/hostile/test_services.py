"""Submissions with a hostile service: each fails on at least one network, and disturbs no other submission. The daily
tests grade them all."""

from __future__ import annotations

import pytest

from tests.hostile.bank import Entry
from tests.hostile.grading import BANKS, MARKS, check_sizes, check_verdict, check_what_is_left, grade

pytestmark = MARKS


@pytest.mark.parametrize("entry", [pytest.param(entry, id=entry.name) for entry in BANKS["services"]])
def test_the_verdict_is_right(entry: Entry) -> None:
    check_verdict(grade("services"), entry)


def test_no_process_and_no_file_is_left_behind() -> None:
    check_what_is_left(grade("services"), "services")


def test_records_traces_and_memory_stay_small() -> None:
    check_sizes(grade("services"))
