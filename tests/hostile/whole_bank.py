"""Every hostile submission at each level of the sandbox, as root and as an ordinary user: it gets the correct verdict, and
nothing is left behind. By default, ``pytest`` grades a sample of them at the level ``bwrap`` as one user, and only a few at
``rlimits`` and as another user; CI grades the rest at ``bwrap``, too.

This takes many minutes, so ``pytest`` runs it only if the file is named:
``pytest tests/hostile/whole_bank.py``. ``-k 'rlimits and ordinary and early'`` selects one batch of submissions.
"""

from __future__ import annotations

import pytest

from tests.hostile.bank import Entry
from tests.hostile.grading import BANKS, USERS, Level, check_verdict, check_what_is_left, grade, name_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LEVELS: tuple[Level, ...] = ("bwrap", "rlimits")
# The banks that are left out only repeat submissions of other banks.
WHOLE = [name for name in BANKS if name not in ("short", "short, rest", "shortest", "judge, reviewed")]
AT_EACH_LEVEL = pytest.mark.parametrize(("level", "user"), [(level, user) for level in LEVELS for user in USERS])


@AT_EACH_LEVEL
@pytest.mark.parametrize(
    ("name", "entry"),
    [pytest.param(name, entry, id=f"{name}-{name_of(entry)}") for name in WHOLE for entry in BANKS[name]],
)
def test_the_verdict_is_right(level: Level, user: str, name: str, entry: Entry) -> None:
    check_verdict(grade(name, level, user), entry)


@AT_EACH_LEVEL
@pytest.mark.parametrize("name", WHOLE)
def test_no_process_and_no_file_is_left_behind(level: Level, user: str, name: str) -> None:
    check_what_is_left(grade(name, level, user), name)
