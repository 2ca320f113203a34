"""Each failure that ``tests/bugs/rows.toml`` lists still ends with the sentence in ``tests/snapshots/rows.txt``."""

from __future__ import annotations

import pytest

from tests import daily_sample
from tests.conftest import ROOT
from tests.known_bugs import ROWS_SNAPSHOT, bugs_of_rows, rows_of

pytestmark = pytest.mark.slow

# The daily tests try a sample of the bugs, as they do for the bugs' own tests (``known_bugs.cases``).
BUGS = [pytest.param(bug, marks=daily_sample.marks(number)) for number, bug in enumerate(bugs_of_rows())]


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_still_shows_its_rows(bug: str) -> None:
    recorded = (ROOT / ROWS_SNAPSHOT).read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    for block in rows_of(bug):
        assert block in recorded, f"{ROWS_SNAPSHOT} is out of date: run python -m tests.update {ROWS_SNAPSHOT}"
