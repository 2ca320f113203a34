"""Hostile submissions at the level ``rlimits`` and as another user. For each promise of the sandbox, one submission is
graded at ``rlimits`` as an ordinary user; the daily tests grade a sixth of these submissions. A few submissions are graded
at ``bwrap`` as a user other than the one who runs the tests.

The other files grade the hostile submissions at ``bwrap`` as the user who runs the tests. ``whole_bank.py`` grades all of
them at each level and as each user.
"""

from __future__ import annotations

import pytest

from tests.hostile.bank import Entry
from tests.hostile.grading import (
    BANKS,
    MARKS,
    THIS_USER,
    USERS,
    Level,
    check_verdict,
    check_what_is_left,
    grade,
    marks,
    name_of,
)

(OTHER_USER,) = (user for user in USERS if user != THIS_USER)
BATCHES: list[tuple[str, Level, str]] = [
    ("short", "rlimits", "ordinary user"),
    ("short, rest", "rlimits", "ordinary user"),
    ("shortest", "bwrap", OTHER_USER),
]
pytestmark = MARKS


@pytest.mark.parametrize(
    ("name", "level", "user", "entry"),
    [
        pytest.param(name, level, user, entry, id=f"{level}-{user}-{name_of(entry)}", marks=marks(name))
        for name, level, user in BATCHES
        for entry in BANKS[name]
    ],
)
def test_the_verdict_is_right(name: str, level: Level, user: str, entry: Entry) -> None:
    check_verdict(grade(name, level, user), entry)


@pytest.mark.parametrize(("name", "level", "user"), [pytest.param(*batch, marks=marks(batch[0])) for batch in BATCHES])
def test_no_process_and_no_file_is_left_behind(name: str, level: Level, user: str) -> None:
    check_what_is_left(grade(name, level, user), name)


def test_the_table_names_the_level() -> None:
    out = grade(*BATCHES[0]).out
    assert "could read this machine's files (rlimits)" in " ".join(out.split())
