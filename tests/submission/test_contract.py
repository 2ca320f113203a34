"""The contract check. Its messages about each broken submission are in ``tests/snapshots/contract.txt``."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab.submission import contract
from tests.submission.broken import BROKEN, BROKEN_2F, GOOD, GOOD_2F, LAB_2A, LAB_2F, METHODS_BROKEN, build, check


def test_good_submissions_have_no_problems(tmp_path: Path) -> None:
    assert check(build(tmp_path / "a", GOOD)) == []
    assert check(build(tmp_path / "b", GOOD_2F), LAB_2F) == []


@pytest.mark.parametrize("mistake", [*BROKEN, *BROKEN_2F])
def test_broken_submissions_have_well_formed_problems(tmp_path: Path, mistake: str) -> None:
    files, lab = (BROKEN_2F[mistake], LAB_2F) if mistake in BROKEN_2F else (BROKEN[mistake], LAB_2A)
    for problem in check(build(tmp_path, files), lab):
        assert "\n" not in problem.text
        assert problem.where.startswith(tuple(name for name in ("raft.py:", *files) if name.endswith((".py", ":"))))
        assert problem.handout in (contract.FIRST_RUN, contract.API, contract.MESSAGES)


@pytest.mark.parametrize("mistake", METHODS_BROKEN)
def test_inherited_methods_have_the_same_problems(tmp_path: Path, mistake: str) -> None:
    """The check finds them only in the class, and reports them in the same words as for the source."""
    text = METHODS_BROKEN[mistake]
    inherited = text.replace("class Raft:", "class Base:") + "\n\nclass Raft(Base):\n    pass\n"
    assert contract.check_source(build(tmp_path / "b", inherited), LAB_2A) == []
    (problem,) = check(build(tmp_path / "a", text))
    (same,) = check(build(tmp_path / "b", inherited))
    assert (same.text, same.handout) == (problem.text, problem.handout)
    if "class Raft:" not in text.splitlines()[int(problem.where.partition(":")[2]) - 1]:
        assert same.where == problem.where


def test_source_that_is_nested_too_deeply(tmp_path: Path) -> None:
    (problem,) = check(build(tmp_path, "x = " + "-" * 100_000 + "1\n"))
    assert "nested too deeply" in problem.text or "too many nested" in problem.text
    assert problem.handout == contract.FIRST_RUN
