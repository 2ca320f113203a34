"""Helpers for tests with known bugs (``tests/bugs``): apply a bug to the reference, run tests on it, check their failures.

The file of a bug names the test and the rule of the expected failure. The message that students then read is in
``tests/snapshots/bugs.txt``, which `python -m tests.update` rewrites.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftgrade.proof import bug_bank
from raftgrade.proof.bug_bank import Bug, Catch
from raftlab.command_line import processors
from raftlab.explain.failure import Failure
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from tests.conftest import ROOT, SOLUTION

BANK = bug_bank.read(ROOT / "tests" / "bugs")
PROOF_PAGE = ROOT / "handouts" / "proof.md"
SNAPSHOT = "tests/snapshots/bugs.txt"
_HEAD = """\
# What students read about each known bug: the bug and the test; the first seed that catches it, the failure's kind and rule;
# the sentence. Do not edit: python -m tests.update rewrites this file."""


def cases(lab: str) -> list[Any]:
    """Each bug of the lab with each test that must catch it, as pytest's parameters."""
    return [
        pytest.param(bug, catch, id=bug.name if len(bug.catches) == 1 else f"{bug.name}-{catch.test}")
        for bug in BANK.of(lab)
        for catch in bug.catches
    ]


def put(bug: Bug, folder: Path) -> Path:
    """Write the reference with the bug applied to ``folder/raft.py``. Returns ``folder``."""
    (folder / "raft.py").write_text(bug.apply_to(SOLUTION.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def failures_of(folder: Path, tests: Iterable[TestInfo]) -> Iterator[tuple[TestInfo, Failure]]:
    """Run each test once on ``folder/raft.py`` in the simulator; yields the tests that fail."""
    with closing(Implementation(folder)) as implementation:  # shared, because starting it takes longer than most runs
        for info in tests:
            failure = _failure(implementation, info, 0)
            if failure is not None:
                yield info, failure


def check(bug: Bug, catch: Catch, folder: Path) -> None:
    """Assert that the test catches the bug as its file says, with the message in the snapshot."""
    with closing(Implementation(put(bug, folder))) as implementation:
        observed = _sentence(implementation, bug, catch)
    blocks = (ROOT / SNAPSHOT).read_text(encoding="utf-8").split("\n\n")
    recorded = next((block for block in blocks if block.partition("\n")[0] == _title(bug, catch)), "(nothing)")
    if observed.strip() != recorded.strip():
        pytest.fail(
            f"{SNAPSHOT} is out of date: run python -m tests.update\n--- snapshot\n{recorded}\n--- now\n{observed}",
            pytrace=False,
        )


def snapshot() -> str:
    """The text of the snapshot. Runs each bug, on all processors; with two, this takes about 90 s."""
    with ProcessPoolExecutor(processors()) as pool:
        sentences = [each for of_bug in pool.map(_sentences, range(len(BANK.bugs))) for each in of_bug]
    return "\n\n".join([_HEAD, *sentences]) + "\n"


def proof_page() -> str:
    """``handouts/proof.md`` with the current titles, hardness and notes of the bank; its numbers stay as measured."""
    text = PROOF_PAGE.read_text(encoding="utf-8")
    before, heading, after = text.partition("## Bugs that are not in the bank\n\n")
    _, next_heading, alarms = after.partition("\n\n## False alarms\n")
    sections = re.split(r"(?m)^(?=### Lab )", before)
    for number, section in enumerate(sections):
        lab = re.match("### Lab (\\w+)", section)
        for bug in BANK.of(lab[1]) if lab else []:
            cells = f"| {bug.name} | {bug.title} | {bug.breaks} | {bug.hardness} |"
            section = re.sub(
                rf"(?m)^\| {bug.name} \| [^|]* \| [^|]* \| [^|]* \|", lambda _, cells=cells: cells, section
            )
        sections[number] = section
    return "".join(sections) + heading + BANK.left_out + next_heading + alarms


def snapshot_titles() -> list[str]:
    """The first line of each block of the snapshot, without running anything."""
    return [_title(bug, catch) for bug in BANK.bugs for catch in bug.catches]


def _sentences(number: int) -> list[str]:
    """The snapshot's blocks for one bug, by its index in the bank."""
    bug = BANK.bugs[number]
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Implementation(put(bug, Path(folder)))) as implementation,
    ):
        return [_sentence(implementation, bug, catch) for catch in bug.catches]


def _sentence(implementation: Implementation, bug: Bug, catch: Catch) -> str:
    """Run the test until it reports the failure that the bug's file names. Raises ``AssertionError`` if it never does."""
    others = []
    for seed in range(bug.seeds):
        failure = _failure(implementation, catalogue.find_test(catch.test), seed)
        if failure is not None and catch.matches(failure):
            broken = failure.rule.name if failure.rule else "no rule"
            return f"{_title(bug, catch)}\n  seed {seed}, {failure.kind}, {broken}\n  {failure.text}"
        if failure is not None:
            others.append((seed, failure.kind, failure.rule and failure.rule.name, failure.text))
    raise AssertionError(f"{bug.id}: expected {catch} within {bug.seeds} seeds, but saw {others or 'no failure'}")


def _title(bug: Bug, catch: Catch) -> str:
    return f"{bug.id}, {catch.test}"


def _failure(implementation: Implementation, info: TestInfo, seed: int) -> Failure | None:
    return Run(implementation, info, "sim", seed, preempt=True).play(catalogue.script_of(info))
