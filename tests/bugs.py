"""Known bugs, put into the reference: what the tests of the suites share.

A bug is a change of the reference's text, so that it fails loudly when the reference moves on. The names are those of
our list of known Raft bugs; ``by`` is the test that must catch it within ``seeds`` runs, and ``says`` how its message
begins. The reference is taken without the labs from ``before`` on, as whoever writes the lab of the bug has it: PreVote
hides many a bug of the labs before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raftlab import catalogue
from raftlab.run import Impl, Run
from tests.conftest import SOLUTION

SEEDS = 3


@dataclass
class Bug:
    by: str
    says: str
    changes: dict[str, str]
    seeds: int = SEEDS
    before: str = "2E"


def without(text: str, before: str) -> str:
    """The reference without the regions of the labs from ``before`` on, the marks of all others left in it."""
    lines: list[str] = []
    depth = 0  # of the regions that are left out
    for line in text.splitlines():
        region = re.fullmatch(r"\s*# region (\w+): .*", line)
        if depth or (before and region and region[1] >= before):
            depth += bool(region) - (line.strip() == "# endregion")
            if depth == 1 and "# skeleton: " in line:
                lines.append(line.replace("# skeleton: ", ""))
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def changed(bug: Bug) -> str:
    """The reference with the bug in it."""
    text = without(SOLUTION.read_text(), bug.before)
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
            failure = run.play(catalogue.script_of(info))
            if failure is not None:
                yield failure.text
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
