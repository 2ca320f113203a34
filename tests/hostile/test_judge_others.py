"""Further submissions that send bad data to the judge: each fails, and fills neither memory nor disk. They run in the
simulator only; ``whole_bank.py`` also runs them on the real network."""

from __future__ import annotations

from tests.hostile.bank import Entry
from tests.hostile.grading import MARKS, by_bank, by_entry, check_sizes, check_verdict, check_what_is_left, grade

pytestmark = MARKS


@by_entry("judge, others")
def test_the_verdict_is_right(name: str, entry: Entry) -> None:
    check_verdict(grade(name, network="sim"), entry)


@by_bank("judge, others")
def test_no_process_and_no_file_is_left_behind(name: str) -> None:
    check_what_is_left(grade(name, network="sim"), name)


@by_bank("judge, others")
def test_records_traces_and_memory_stay_small(name: str) -> None:
    check_sizes(grade(name, network="sim"))
