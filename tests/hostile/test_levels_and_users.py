"""One hostile submission for each promise of the sandbox, at each level, as root and as an ordinary user."""

from __future__ import annotations

import pytest

from tests.hostile.bank import Entry
from tests.hostile.grading import MARKS, THIS_USER, USERS, Level, by_entry, check_verdict, check_what_is_left, grade

# Bubblewrap as the user who runs the tests is left out, because test_early.py tests it.
OTHERS: list[tuple[Level, str]] = [
    (level, user) for level in ("bwrap", "rlimits") for user in USERS if (level, user) != ("bwrap", THIS_USER)
]
pytestmark = MARKS


@pytest.mark.parametrize(("level", "user"), OTHERS)
@by_entry("short")
def test_the_verdict_is_right(level: Level, user: str, entry: Entry) -> None:
    check_verdict(grade("short", level, user), entry)


@pytest.mark.parametrize(("level", "user"), OTHERS)
def test_no_process_and_no_file_is_left_behind(level: Level, user: str) -> None:
    check_what_is_left(grade("short", level, user), "short")


def test_the_table_names_the_level() -> None:
    out = grade("short", "rlimits").out
    assert "could read this machine's files (rlimits)" in " ".join(out.split())
