"""The reference with any known bug of lab 3A (``tests/bugs/3a``) fails the tests that the file of the bug names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug, Catch
from tests.known_bugs import cases, check

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("bug", "catch"), cases("3A"))
def test_the_bug_is_caught(bug: Bug, catch: Catch, tmp_path: Path) -> None:
    check(bug, catch, tmp_path)
