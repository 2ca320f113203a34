"""Hostile submissions that are refused before the first test, among them one for each promise of the sandbox: each gets the
correct verdict, and nothing is left behind."""

from __future__ import annotations

from tests.hostile.bank import Entry
from tests.hostile.grading import MARKS, by_entry, check_verdict, check_what_is_left, grade

pytestmark = MARKS


@by_entry("early")
def test_the_verdict_is_right(entry: Entry) -> None:
    check_verdict(grade("early"), entry)


def test_what_is_left() -> None:
    check_what_is_left(grade("early"), "early")
