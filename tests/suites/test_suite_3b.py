"""The reference with any known bug of lab 3B (``tests/bugs/3b``) fails the tests that the file of the bug names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug, Catch
from raftgrade.proof.kill_rates import write_sources
from raftlab.explain import rules
from raftlab.suites import catalogue
from tests.known_bugs import REFERENCE, cases, check, failures_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("bug", "catch"), cases("3B"))
def test_the_bug_is_caught(bug: Bug, catch: Catch, tmp_path: Path) -> None:
    check(bug, catch, tmp_path)


def test_part_1_is_enough_for_part_1(tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Without leases at followers, the reference fails the tests of part 2 only, and each failure says what is missing.
    All tests of part 2 run, and every third test of part 1 (all with ``--whole-suites``)."""
    later = [info for info in catalogue.tests("3B") if info.name.startswith("part2_")]
    earlier = [info for info in catalogue.tests("3B") if info not in later]
    tests = [*earlier[:: 1 if pytestconfig.getoption("--whole-suites") else 3], *later]
    old = "return self._index_of_holder()"
    assert REFERENCE["raft.py"].count(old) == 1, f"the reference has changed: {old!r}"
    write_sources(tmp_path, {**REFERENCE, "raft.py": REFERENCE["raft.py"].replace(old, "return -1")})
    failures = {info.name: failure for info, failure in failures_of(tmp_path, tests)}
    assert sorted(failures) == sorted(info.name for info in later)
    for name, failure in failures.items():
        assert failure.rule == rules.HOLDERS, (name, failure)
        assert "Part 2 needs leases at followers" in failure.text, name
