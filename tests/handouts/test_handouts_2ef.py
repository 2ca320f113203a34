"""Tests of the handouts of labs 2E to 2G, in addition to those that `test_handouts.py` has for every lab."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.membership import CHANGE_LIMIT
from raftlab.tools import test as session
from tests.handouts.test_handouts import (
    FIRST_PAGES,
    PAGES,
    SOLUTION,
    anchors,
    run,
    text_of,
)

pytestmark = pytest.mark.slow

THESE = pytest.mark.parametrize("lab", ["2E", "2F", "2G"])


@THESE
def test_the_rules_point_to_the_details(lab: str) -> None:
    (_, path, _) = PAGES[lab]
    pointed = {
        rule.handout.partition("#")[2]
        for rule in vars(rules).values()
        if isinstance(rule, Rule) and f"/{path.name}#" in rule.handout
    }
    assert len(pointed) >= 5
    assert pointed <= anchors(path)


@THESE
def test_every_command_of_a_step_runs_a_test(lab: str) -> None:
    text = FIRST_PAGES[lab].read_text(encoding="utf-8")
    parts = re.findall(rf"^raftlab test {lab} -k (\w+)$", text, re.MULTILINE)
    assert parts
    assert all(session.plan(lab, "sim", [part]) for part in parts)


def test_the_pictures_are_of_real_runs(tmp_path: Path) -> None:
    """A picture names a run, and that run contains the picture's events in the same order. Times may differ."""
    (tmp_path / "raft.py").write_text(SOLUTION.read_text(encoding="utf-8"), encoding="utf-8")
    for lab in ("2E", "2F", "2G"):
        (name,) = re.findall(r"<!-- run: (\w+@\d+) -->", text_of(lab))
        events = run(f"raftlab replay {name}", tmp_path)
        if lab == "2E":
            order = [
                r"S0\.change_membership\(\[0, 2, 3\]\)",
                r"S3⇢S0",
                r"returns \[2, 1, True\]",
                r"applies index=3 .*members=\[0, 2, 3\]",
            ]
        elif lab == "2G":
            order = [
                r"S1\.transfer_leadership returns \[2, 1, True\]",
                r"S1→S2 AppendEntries term=1 prev=\(1,1\) entries=3",
                r"S2⇢S1 AppendEntries answers term=1 success=True",
                r"S1→S2 TimeoutNow term=1",
                r"S2→S0 RequestVote term=2 last=\(4,1\) leadership_transfer=True",
                r"S0⇢S2 RequestVote answers term=2 vote_granted=True",
                r"S2→S1 AppendEntries term=2",
            ]
        else:
            order = [r"network: cut", r"PreVote term=2", r"PreVote answers term=1 vote_granted=False"]
        at = 0
        for wanted in order:
            found = re.compile(wanted).search(events, at)
            assert found, f"{name} has no {wanted}: make the picture again"
            at = found.end()


def test_the_time_limit_for_an_answer_is_that_of_the_suite() -> None:
    assert f"within {CHANGE_LIMIT:.0f} seconds" in text_of("2E")
