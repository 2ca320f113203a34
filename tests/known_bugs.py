"""Helpers for tests with known bugs (``tests/bugs``): apply a bug to the reference, run tests on it, check their failures.

The file of a bug names the test and the rule of the expected failure. The message that students then read is in
``tests/snapshots/bugs.txt``, which `python -m tests.update` rewrites.
"""

from __future__ import annotations

import re
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftgrade.proof import bug_bank, page, rules
from raftgrade.proof.bug_bank import FILES, Bug, Catch
from raftgrade.proof.kill_rates import write_sources
from raftlab.explain import symptoms
from raftlab.explain.failure import Failure
from raftlab.operating_system import processors
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from tests import daily_sample
from tests.conftest import ROOT

# The sources of the reference, by name.
REFERENCE = {name: (ROOT / "solutions" / name).read_text(encoding="utf-8") for name in FILES}
BANK = bug_bank.read(ROOT / "tests" / "bugs")
MATRIX = rules.read(ROOT / "tests" / "bugs")
PROOF_PAGE = ROOT / "handouts" / "proof.md"
SNAPSHOT = "tests/snapshots/bugs.txt"
# The failures of known bugs that show a row of a handout's table, and the rows that no bug shows.
ROWS = tomllib.loads((ROOT / "tests" / "bugs" / "rows.toml").read_text(encoding="utf-8"))
ROWS_SNAPSHOT = "tests/snapshots/rows.txt"
_ROWS_HEAD = """\
# What students read in the failures that tests/bugs/rows.toml lists: the bug, the test and the seed; the failure's kind and
# rule; the sentence. Do not edit: python -m tests.update rewrites this file."""
_HEAD = """\
# What students read about each known bug: the bug and the test; the first seed that catches it, the failure's kind and rule;
# the sentence. Do not edit: python -m tests.update rewrites this file."""


def cases(lab: str) -> list[Any]:
    """Each bug of the lab with each test that must catch it, as pytest's parameters.

    CI tries the bugs outside the daily sample in another way: ``python -m tests.update --check`` compares the snapshot with
    what each bug leads to."""
    pairs = [(bug, catch) for bug in BANK.of(lab) for catch in bug.catches]
    return [
        pytest.param(
            bug,
            catch,
            id=bug.name if len(bug.catches) == 1 else f"{bug.name}-{catch.test}",
            marks=daily_sample.marks(number),
        )
        for number, (bug, catch) in enumerate(pairs)
    ]


def put(bug: Bug, folder: Path) -> Path:
    """Write the reference with the bug applied to ``folder``. Returns ``folder``."""
    return write_sources(folder, bug.apply_to(REFERENCE))


def failures_of(
    folder: Path, tests: Iterable[TestInfo], raft: Path | None = None
) -> Iterator[tuple[TestInfo, Failure]]:
    """Run each test once in the simulator on the code in ``folder``. Yields the tests that fail, with their failures.

    Args:
        folder: the submission.
        tests: the tests to run.
        raft: the Raft below the submission's kv.py (lab 3); ``None`` if the submission has its own.
    """
    with closing(
        Implementation(folder, raft=raft)
    ) as implementation:  # shared, because starting it takes longer than most runs
        for info in tests:
            failure = _failure(implementation, info, 0)
            if failure is not None:
                yield info, failure


def check(bug: Bug, catch: Catch, folder: Path) -> None:
    """Assert that the test catches the bug in the way that the bug's file names, with the message in the snapshot.

    Only the seed in the snapshot is run. It is the first one that catches the bug, but nobody checks here that the test
    passes with lower seeds: these runs would take most of the time."""
    blocks = (ROOT / SNAPSHOT).read_text(encoding="utf-8").split("\n\n")
    recorded = next((block for block in blocks if block.partition("\n")[0] == _title(bug, catch)), "(nothing)")
    seed = re.search(r"^  seed (\d+), ", recorded, re.M)
    with closing(Implementation(put(bug, folder))) as implementation:
        observed = _sentence(implementation, bug, catch, int(seed[1]) if seed else 0)
    if observed.strip() != recorded.strip():
        pytest.fail(
            f"{SNAPSHOT} is out of date: run python -m tests.update\n--- snapshot\n{recorded}\n--- now\n{observed}",
            pytrace=False,
        )


def snapshot() -> str:
    """The text of the snapshot. This runs each bug, on all processors. It takes about 90 s on two processors."""
    with ProcessPoolExecutor(processors()) as pool:
        sentences = [each for of_bug in pool.map(_sentences, range(len(BANK.bugs))) for each in of_bug]
    return "\n\n".join([_HEAD, *sentences]) + "\n"


def recorded(snapshot: str = SNAPSHOT) -> dict[str, tuple[str, str]]:
    """The test and the sentence that students read, for each block of a snapshot: ``bugs.txt``, or ``rows.txt``
    (:data:`ROWS_SNAPSHOT`), where a seed follows the test. The keys are the blocks' first lines."""
    blocks = (ROOT / snapshot).read_text(encoding="utf-8").split("\n\n")[1:]
    titles = ((block.partition("\n")[0], block.split("\n", 2)[-1].strip()) for block in blocks)
    return {title: (title.rpartition(", ")[2].partition("@")[0], sentence) for title, sentence in titles}


def name_of(row: symptoms.Row) -> str:
    """The name of a handout's row in ``tests/bugs/rows.toml``: its lab, the tests that it is for, and its sentence."""
    return f"{row.lab}{''.join(f' [{test}]' for test in sorted(row.tests))} {row.sentence}"


def rows_snapshot() -> str:
    """The text of ``tests/snapshots/rows.txt``. This runs each failure that ``tests/bugs/rows.toml`` lists."""
    with ProcessPoolExecutor(processors()) as pool:
        return (
            "\n\n".join([_ROWS_HEAD, *(block for of_bug in pool.map(rows_of, bugs_of_rows()) for block in of_bug)])
            + "\n"
        )


def bugs_of_rows() -> list[str]:
    """The bugs that ``tests/bugs/rows.toml`` names, in its order."""
    return list(dict.fromkeys(title.partition(", ")[0] for title in ROWS["shown"]))


def rows_of(bug_id: str) -> list[str]:
    """Run each failure that ``tests/bugs/rows.toml`` lists for this bug. Returns the blocks of the snapshot."""
    lab, _, name = bug_id.partition("/")
    bug = BANK.find(lab.upper(), name)
    titles = [title for title in ROWS["shown"] if title.partition(", ")[0] == bug_id]
    with tempfile.TemporaryDirectory() as folder, closing(Implementation(put(bug, Path(folder)))) as implementation:
        return [_row_block(implementation, title) for title in titles]


def _row_block(implementation: Implementation, title: str) -> str:
    test, _, seed = title.partition(", ")[2].partition("@")
    failure = _failure(implementation, catalogue.find_test(test), int(seed))
    if failure is None:
        return f"{title}\n  (no failure)"
    return f"{title}\n  {failure.kind}, {failure.rule.name if failure.rule else 'no rule'}\n  {failure.text}"


def proof_page() -> str:
    """``handouts/proof.md`` with the bank's current titles, hardness, notes and rules. Measured numbers do not change."""
    text = PROOF_PAGE.read_text(encoding="utf-8")
    before, rules_heading, after = text.partition("## Rules\n\n")
    _, heading, after = after.partition("\n\n## Bugs that are not in the bank\n\n")
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
    return (
        "".join(sections) + rules_heading + page.rule_matrix(MATRIX) + heading + BANK.left_out + next_heading + alarms
    )


def snapshot_titles() -> list[str]:
    """The first line that each block of the snapshot must have. This runs nothing."""
    return [_title(bug, catch) for bug in BANK.bugs for catch in bug.catches]


def _sentences(number: int) -> list[str]:
    """The snapshot's blocks for one bug, by its index in the bank."""
    bug = BANK.bugs[number]
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(Implementation(put(bug, Path(folder)))) as implementation,
    ):
        return [_sentence(implementation, bug, catch) for catch in bug.catches]


def _sentence(implementation: Implementation, bug: Bug, catch: Catch, first_seed: int = 0) -> str:
    """Run the test, from ``first_seed`` on, until it reports the failure that the bug's file names. Raises
    ``AssertionError`` if it never does."""
    others = []
    for seed in range(first_seed, bug.seeds):
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
    return Run(implementation, info, "sim", seed).play(catalogue.script_of(info))
