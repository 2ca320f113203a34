"""Known bugs, put into the reference: what the tests of the suites share.

A bug is a change of the reference's text, so that it fails loudly when the reference moves on. The names are those of
our list of known Raft bugs; ``by`` is the test that must catch it within ``seeds`` runs, and ``says`` how its message
begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raftlab import catalogue
from raftlab.failure import LabFailure
from raftlab.run import Impl, Run
from tests.conftest import SOLUTION

SEEDS = 3


@dataclass
class Bug:
    by: str
    says: str
    changes: dict[str, str]
    seeds: int = SEEDS


def changed(bug: Bug) -> str:
    """The reference with the bug in it."""
    text = SOLUTION.read_text()
    for old, new in bug.changes.items():
        assert text.count(old) == 1, f"the reference has moved on: {old!r} stands there {text.count(old)} times"
        text = text.replace(old, new)
    return text


def failures(folder: Path, test: str, seeds: range) -> Iterator[str]:
    """Run a test on ``folder/raft.py`` in the simulator, once for each seed; what the failing runs said."""
    info = catalogue.find_test(test)
    impl = Impl(folder)
    try:
        for seed in seeds:
            run = Run(impl, info, "sim", seed, preempt=True)
            try:
                catalogue.script_of(info)(run.cluster)
            except LabFailure as exc:
                yield exc.failure.text
            finally:
                run.close()
    finally:
        impl.close()


def check(bug: Bug, folder: Path) -> None:
    """The bug is caught by its test, in the words that the table says."""
    (folder / "raft.py").write_text(changed(bug))
    texts = []
    for text in failures(folder, bug.by, range(bug.seeds)):
        texts.append(text)
        if text.startswith(bug.says):
            return
    raise AssertionError(texts or "not caught")
