"""Proof in small that lab 2E's suite catches what it claims: each known bug (``tests/bugs``), put into the reference, fails
the test that its file names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug, Catch, without
from raftlab.suites import catalogue
from tests.conftest import SOLUTION
from tests.known_bugs import cases, check, failures_of

# What somebody has who has done part 1 only: no joint consensus, and no idea of C_old,new in an entry.
PART_1 = {
    "            and self._term_at(self.commit_index) == self.current_term\n": (
        "            and self._term_at(self.commit_index) == self.current_term\n"
        "            and len(members ^ self.members) <= 1\n"
    ),
    "frozenset(entry.members or ()), frozenset(entry.old_members or ())\n": (
        "frozenset(entry.members or ()), frozenset()\n"
    ),
}


@pytest.mark.parametrize(("bug", "catch"), cases("2E"))
def test_the_bug_is_caught(bug: Bug, catch: Catch, tmp_path: Path) -> None:
    check(bug, catch, tmp_path)


def test_part_1_is_enough_for_part_1(tmp_path: Path) -> None:
    text = without(SOLUTION.read_text(encoding="utf-8"), "2F")
    for old, new in PART_1.items():
        assert text.count(old) == 1, f"the reference has moved on: {old!r}"
        text = text.replace(old, new)
    (tmp_path / "raft.py").write_text(text, encoding="utf-8")
    said = {info.name: text for info, text in failures_of(tmp_path, catalogue.tests("2E"))}
    assert sorted(said) == sorted(info.name for info in catalogue.tests("2E") if info.name.startswith("part2_"))
    # The lab leads here, so there is nobody to refuse anything.
    assert "of the old three and" in said.pop("part2_two_majorities")
    for name, text in said.items():
        assert text.endswith("more than one server comes or goes, and this part (2) needs joint consensus"), name
