"""The reference with any known bug of lab 2E (``tests/bugs/2e``) fails the tests that the file of the bug names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug, Catch, without_labs_from
from raftlab.explain import rules
from raftlab.suites import catalogue
from tests.conftest import SOLUTION
from tests.known_bugs import cases, check, failures_of

pytestmark = pytest.mark.slow

# Changes that turn the reference into a Raft that does only part 1 of lab 2E: it adds or removes one server at a time, so it
# has no joint consensus, and no entry has C_old,new.
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


def test_a_raft_with_part_1_only_fails_only_the_tests_of_part_2(tmp_path: Path) -> None:
    text = without_labs_from("2F", SOLUTION.read_text(encoding="utf-8"))
    for old, new in PART_1.items():
        assert text.count(old) == 1, f"the reference has changed: {old!r}"
        text = text.replace(old, new)
    (tmp_path / "raft.py").write_text(text, encoding="utf-8")
    failures = {info.name: failure for info, failure in failures_of(tmp_path, catalogue.tests("2E"))}
    assert sorted(failures) == sorted(info.name for info in catalogue.tests("2E") if info.name.startswith("part2_"))
    # In these tests raftlab plays the leader, so the changed Raft is not asked for a change that it could refuse.
    for name in ("part2_two_majorities", "part2_half_is_no_majority"):
        assert failures.pop(name).rule == rules.BOTH_MAJORITIES
    assert failures.pop("part2_next_leader_completes_it").rule == rules.JOINT_CONSENSUS
    for name, failure in failures.items():
        assert failure.rule == rules.JOINT_CONSENSUS, (name, failure)
        assert "more than one server" in failure.text, name
