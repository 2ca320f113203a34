"""Each hostile submission that must be refused before the first test gets the correct verdict, and nothing is left behind.

Among these submissions is one for each promise of the sandbox."""

from __future__ import annotations

from tests.hostile.bank import Entry
from tests.hostile.grading import MARKS, by_bank, by_entry, check_verdict, check_what_is_left, grade

pytestmark = MARKS


@by_entry("early")
def test_the_verdict_is_right(name: str, entry: Entry) -> None:
    check_verdict(grade(name), entry)


@by_bank("early")
def test_no_process_and_no_file_is_left_behind(name: str) -> None:
    check_what_is_left(grade(name), name)
