"""The reference with any known bug of lab 2A (``tests/bugs/2a``) fails the tests that the file of the bug names."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftgrade.proof.bug_bank import Bug, Catch
from raftgrade.proof.kill_rates import write_sources
from raftlab.suites import catalogue
from tests.known_bugs import REFERENCE, cases, check, failures_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("bug", "catch"), cases("2A"))
def test_the_bug_is_caught(bug: Bug, catch: Catch, tmp_path: Path) -> None:
    check(bug, catch, tmp_path)


# A heartbeat is handled in two stages, each of which takes a few milliseconds.
SLOW_HANDLER = """\
    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
        time.sleep(0.004)
        time.sleep(0.006)
        return self._append_entries(args)

    def _append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
"""


def test_a_server_may_take_some_milliseconds_to_adopt_a_term(tmp_path: Path) -> None:
    head = "    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:\n"
    assert REFERENCE["raft.py"].count(head) == 1
    write_sources(tmp_path, {**REFERENCE, "raft.py": REFERENCE["raft.py"].replace(head, SLOW_HANDLER)})
    tests = [info for info in catalogue.tests("2A") if info.name == "get_state_at_once"]
    assert [failure.text for _, failure in failures_of(tmp_path, tests)] == []
