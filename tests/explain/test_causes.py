"""Tests that the likely causes ("often") that a failure lists match its message."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from raftlab.explain.render import as_text
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from tests.known_bugs import BANK, put

RESTARTED_TOO_SELDOM = ["giving a vote does not restart it", "the deadline moves, but the thread"]
RESTARTED_TOO_OFTEN = ["any RequestVote restarts it", "an AppendEntries of an old leader restarts it"]


@pytest.mark.parametrize(
    ("bug", "test", "causes"),
    [
        ("el-timer-not-reset-on-grant", "right_events_calm", RESTARTED_TOO_SELDOM),
        ("el-timer-reset-any-rv", "old_messages_do_not_calm", RESTARTED_TOO_OFTEN),
        ("el-stale-leader-resets-timer", "old_messages_do_not_calm", RESTARTED_TOO_OFTEN),
    ],
)
def test_causes_of_a_wrong_election_timer(bug: str, test: str, causes: list[str], tmp_path: Path) -> None:
    """A timer that is not restarted and one that is restarted too often have different causes."""
    known = next(known for known in BANK.of("2A") if known.name == bug)
    info = catalogue.find_test(test)
    with closing(Implementation(put(known, tmp_path))) as impl:
        failure = Run(impl, info, "sim", 0, preempt=True).play(catalogue.script_of(info))
    assert failure is not None
    often = [line for line in as_text(failure).splitlines() if line.startswith("  often: ")]
    assert len(often) == len(causes)
    for line, cause in zip(often, causes, strict=True):
        assert line.startswith(f"  often: {cause}")
