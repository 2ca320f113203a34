"""What the tests share about the bank of known bugs (``tests/bugs``): the bank, and runs of a reference with a bug in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftgrade.proof import bug_bank
from raftgrade.proof.bug_bank import Bug, Catch
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from tests.conftest import ROOT, SOLUTION

BANK = bug_bank.read(ROOT / "tests" / "bugs")


def cases(lab: str) -> list[Any]:
    """Each bug of the lab with each test that must catch it, as pytest's parameters."""
    return [
        pytest.param(bug, catch, id=bug.name if len(bug.catches) == 1 else f"{bug.name}-{catch.test}")
        for bug in BANK.of(lab)
        for catch in bug.catches
    ]


def put(bug: Bug, folder: Path) -> Path:
    """Write the reference with the bug in it. Returns ``folder``."""
    (folder / "raft.py").write_text(bug.changed(SOLUTION.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def failures(folder: Path, test: str, seeds: range) -> Iterator[str]:
    """Run a test on ``folder/raft.py`` in the simulator, once for each seed; what the failing runs said."""
    for _, text in failures_of(folder, [catalogue.find_test(test)], seeds):
        yield text


def failures_of(folder: Path, tests: Iterable[TestInfo], seeds: range = range(1)) -> Iterator[tuple[TestInfo, str]]:
    """The same for many tests, with one host for all: to start it costs more than most runs."""
    with closing(Implementation(folder)) as impl:
        for info in tests:
            for seed in seeds:
                failure = Run(impl, info, "sim", seed, preempt=True).play(catalogue.script_of(info))
                if failure is not None:
                    yield info, failure.text


def check(bug: Bug, catch: Catch, folder: Path) -> None:
    """The bug is caught by the test, in the words that its file says."""
    texts = []
    for text in failures(put(bug, folder), catch.test, range(bug.seeds)):
        texts.append(text)
        if text.startswith(catch.says):
            return
    raise AssertionError(texts or "not caught")
