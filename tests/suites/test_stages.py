"""The reference with the labs up to N passes the suites up to N and fails the next one. The skeleton fails every test."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raftlab import labs
from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.submission import skeleton
from raftlab.suites import catalogue
from tests.conftest import ROOT, SKELETON, SOLUTION
from tests.known_bugs import failures_of
from tests.referee import bug_table

pytestmark = pytest.mark.slow

LADDER = list(labs.LABS)


@pytest.mark.parametrize("stage", LADDER[:-1])
def test_each_stage_of_the_reference_passes_the_suites_so_far(stage: str, tmp_path: Path) -> None:
    upto = LADDER.index(stage) + 1
    (tmp_path / "raft.py").write_text(skeleton.generate(SOLUTION.read_text(), LADDER[upto]))
    tests = [info for lab in LADDER[:upto] for info in catalogue.tests(lab)]
    assert [(info.name, failure.text) for info, failure in failures_of(tmp_path, tests)] == []


@pytest.mark.parametrize("stage", LADDER[1:])
def test_each_stage_fails_in_the_next_suite(stage: str, tmp_path: Path) -> None:
    """It must fail most of its tests. Some tests only require that something does not happen, so they pass anyway."""
    (tmp_path / "raft.py").write_text(skeleton.generate(SOLUTION.read_text(), stage))
    tests = catalogue.tests(stage)
    failed = {info.name for info, _ in failures_of(tmp_path, tests)}
    assert len(failed) >= 0.8 * len(tests), {info.name for info in tests} - failed


@pytest.mark.parametrize("lab", LADDER)
def test_the_skeleton_fails_every_test(lab: str) -> None:
    failed = {info.name for info, _ in failures_of(SKELETON.parent, catalogue.tests(lab))}
    assert {info.name for info in catalogue.tests(lab)} - failed == set(), "these pass before the student writes a line"


def test_the_referee_bug_table_is_complete() -> None:
    text = (ROOT / "tests" / "referee" / "bug-table.md").read_text()
    rows = re.findall(r"^\| (2\w) \| (.+?) \| (.+?) \| (.+?) \| \d+ \| (.+?) \|$", text, re.M)
    listed = [(lab, name) for lab, name, *_ in rows]
    assert listed == [(bug.lab, bug.name) for bug in bug_table.bugs(bug_table.LABS)]
    rule_names = {rule.name for rule in vars(rules).values() if isinstance(rule, Rule)}
    assert {rule.removesuffix(", as a consequence") for _, _, rule, *_ in rows} - {"(none)"} <= rule_names
