"""Tests of the contract check. Its messages about each broken submission are in ``tests/snapshots/contract.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab.labs import LABS, Lab
from raftlab.submission import contract
from tests.submission.broken import (
    BROKEN,
    BROKEN_2F,
    BROKEN_2G,
    GOOD,
    GOOD_2F,
    GOOD_2G,
    LAB_2A,
    LAB_2F,
    LAB_2G,
    METHODS_BROKEN,
    Files,
    build,
    check,
)


def test_good_submissions_have_no_problems(tmp_path: Path) -> None:
    assert check(build(tmp_path / "a", GOOD)) == []
    assert check(build(tmp_path / "b", GOOD_2F), LAB_2F) == []
    assert check(build(tmp_path / "c", GOOD_2G), LAB_2G) == []
    assert check(build(tmp_path / "c", GOOD_2G), LAB_2F) == []


def test_lab_2f_needs_no_method_that_few_of_its_tests_call(tmp_path: Path) -> None:
    lines = GOOD_2F.splitlines(keepends=True)
    without = "".join(line for line in lines if "def change_membership" not in line and "def snapshot" not in line)
    assert without != GOOD_2F
    assert check(build(tmp_path / "a", without), LAB_2F) == []
    problems = check(build(tmp_path / "b", without), LABS["2E"])
    assert {problem.text.split("(")[0] for problem in problems} == {
        "Raft has no method snapshot",
        "Raft has no method change_membership",
    }


def test_lab_2g_needs_neither_2e_nor_2f(tmp_path: Path) -> None:
    lines = GOOD_2G.splitlines(keepends=True)
    without = "".join(line for line in lines if "def change_membership" not in line and "def pre_vote" not in line)
    assert check(build(tmp_path, without), LAB_2G) == []


ALL_BROKEN: list[tuple[str, Files, Lab]] = [
    (mistake, files, lab)
    for bank, lab in ((BROKEN, LAB_2A), (BROKEN_2F, LAB_2F), (BROKEN_2G, LAB_2G))
    for mistake, files in bank.items()
]


@pytest.mark.parametrize(("files", "lab"), [each[1:] for each in ALL_BROKEN], ids=[each[0] for each in ALL_BROKEN])
def test_broken_submissions_have_well_formed_problems(tmp_path: Path, files: Files, lab: Lab) -> None:
    for problem in check(build(tmp_path, files), lab):
        assert "\n" not in problem.text
        assert problem.where.startswith(tuple(name for name in ("raft.py:", *files) if name.endswith((".py", ":"))))
        assert problem.handout in (contract.FIRST_RUN, contract.API, contract.MESSAGES)


@pytest.mark.parametrize("mistake", METHODS_BROKEN)
def test_inherited_methods_have_the_same_problems(tmp_path: Path, mistake: str) -> None:
    """The check finds mistakes in inherited methods only in the class, and reports them in the same words as those that it
    finds in the source."""
    text = METHODS_BROKEN[mistake]
    inherited = text.replace("class Raft:", "class Base:") + "\n\nclass Raft(Base):\n    pass\n"
    assert contract.check_source(build(tmp_path / "b", inherited), LAB_2A) == []
    (problem,) = check(build(tmp_path / "a", text))
    (same,) = check(build(tmp_path / "b", inherited))
    assert (same.text, same.handout) == (problem.text, problem.handout)
    if "class Raft:" not in text.splitlines()[int(problem.where.partition(":")[2]) - 1]:
        assert same.where == problem.where


def test_source_that_is_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (problem,) = check(build(tmp_path, "x = " + "-" * 100_000 + "1\n"))
    assert "nested too deeply" in problem.text or "too many nested" in problem.text
    assert problem.handout == contract.FIRST_RUN
