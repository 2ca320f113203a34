"""Tests of the stages of the reference. A stage has only the labs up to lab N: it passes the suites of these labs and
fails the next suite. The skeleton fails every test.

To save time, each stage runs only a part of its own suite and of the earlier ones. All stages together run every second
test, each of them once. A stage also runs every fourth test of the next suite, and the skeleton runs every third test. The
daily tests run a sixth of this, and CI runs the rest. With ``--whole-suites``, all tests run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from raftgrade.proof.kill_rates import write_sources
from raftlab import labs
from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.submission import starts
from raftlab.suites import catalogue
from tests import daily_sample
from tests.conftest import ROOT, SKELETON
from tests.daily_sample import BOTH_PARTS, Part
from tests.known_bugs import failures_of
from tests.referee import bug_table

pytestmark = pytest.mark.slow

LADDER = list(labs.LABS)


def each_of(stages: list[str]) -> list[Any]:
    """The stages as pytest's parameters. Those outside the daily sample have the mark that says so."""
    return [pytest.param(stage, marks=daily_sample.marks(number)) for number, stage in enumerate(stages)]


@pytest.mark.timeout(900)  # with --whole-suites
@BOTH_PARTS
@pytest.mark.parametrize("stage", LADDER[:-1])
def test_each_stage_of_the_reference_passes_the_suites_so_far(
    stage: str, part: Part, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    number = LADDER.index(stage)
    write_sources(tmp_path, starts.files(LADDER[number + 1]))
    tests = []
    for own, lab in enumerate(LADDER[: number + 1]):
        stages = len(LADDER) - 1 - own  # the number of stages that have this lab
        whole = pytestconfig.getoption("--whole-suites")
        tests += catalogue.tests(lab)[:] if whole else catalogue.tests(lab)[::2][number - own :: stages]
    assert [(info.name, failure.text) for info, failure in failures_of(tmp_path, part(tests))] == []


@pytest.mark.timeout(900)  # with --whole-suites
@pytest.mark.parametrize("stage", each_of(LADDER[1:]))
def test_each_stage_fails_in_the_next_suite(stage: str, tmp_path: Path, pytestconfig: pytest.Config) -> None:
    """Each stage must fail most tests of the next suite. Some tests pass on the stage because they only require that
    something does not happen."""
    write_sources(tmp_path, starts.files(stage))
    whole = pytestconfig.getoption("--whole-suites")
    tests = catalogue.tests(stage)[slice(None) if whole else slice(1, None, 4)]
    failed = {info.name for info, _ in failures_of(tmp_path, tests)}
    assert len(failed) >= (0.8 if whole else 0.6) * len(tests), {info.name for info in tests} - failed


@pytest.mark.parametrize("lab", each_of(LADDER))
def test_the_skeleton_fails_every_test(lab: str, pytestconfig: pytest.Config) -> None:
    tests = catalogue.tests(lab)[:: 1 if pytestconfig.getoption("--whole-suites") else 3]
    failed = {info.name for info, _ in failures_of(SKELETON.parent, tests)}
    assert {info.name for info in tests} - failed == set(), "these pass before the student writes a line"


def test_the_table_of_the_referees_bugs_lists_every_bug() -> None:
    text = (ROOT / "tests" / "referee" / "bug-table.md").read_text()
    rows = re.findall(r"^\| (2\w) \| (.+?) \| (.+?) \| (.+?) \| \d+ \| (.+?) \|$", text, re.M)
    listed = [(lab, name) for lab, name, *_ in rows]
    assert listed == [(bug.lab, bug.name) for bug in bug_table.bugs(bug_table.LABS)]
    rule_names = {rule.name for rule in vars(rules).values() if isinstance(rule, Rule)}
    assert {rule.removesuffix(", as a consequence") for _, _, rule, *_ in rows} - {"(none)"} <= rule_names
