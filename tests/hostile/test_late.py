"""Hostile submissions that must fail in a test get the correct verdict, honest ones in the same batch get full marks, and
nothing is left behind."""

from __future__ import annotations

from tests.hostile.bank import Entry
from tests.hostile.grading import MARKS, by_bank, by_entry, check_verdict, check_what_is_left, grade

pytestmark = MARKS


@by_entry("late")
def test_the_verdict_is_right(name: str, entry: Entry) -> None:
    check_verdict(grade(name), entry)


@by_bank("late")
def test_no_process_and_no_file_is_left_behind(name: str) -> None:
    check_what_is_left(grade(name), name)


def test_the_table_is_safe_to_print() -> None:
    out = grade("late").out
    assert "\x1b" not in out
    assert "student code ran in a sandbox (bwrap)" in " ".join(out.split())
    assert "carol \\x1b[31m" in out
