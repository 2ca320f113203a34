"""Submissions of a security review that send bad data to the judge: each fails, and fills neither memory nor disk."""

from __future__ import annotations

from tests.hostile.bank import Entry
from tests.hostile.grading import (
    MARKS,
    REST,
    Batch,
    by_bank,
    by_entry,
    check_sizes,
    check_verdict,
    check_what_is_left,
    grade,
)

pytestmark = MARKS


def graded(name: str) -> Batch:
    """The daily tests use the simulator only."""
    return grade(name, network="both" if name.endswith(REST) else "sim")


@by_entry("judge, reviewed")
def test_the_verdict_is_right(name: str, entry: Entry) -> None:
    check_verdict(graded(name), entry)


@by_bank("judge, reviewed")
def test_no_process_and_no_file_is_left_behind(name: str) -> None:
    check_what_is_left(graded(name), name)


@by_bank("judge, reviewed")
def test_records_traces_and_memory_stay_small(name: str) -> None:
    check_sizes(graded(name))
