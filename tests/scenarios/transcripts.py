"""Regression transcripts: scenarios, each with the end that it is known to have on the reference or on a known bug."""

from __future__ import annotations

import re
import tempfile
from contextlib import closing
from pathlib import Path

from raftlab.runs import names
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import ScenarioPlayer
from tests.conftest import ROOT, SOLUTION
from tests.known_bugs import BANK, put

FILES = sorted((ROOT / "tests" / "scenarios").glob("*.txt"))
_BUG = re.compile(r"^# bug: (\w+)/(\S+)$", re.MULTILINE)


def transcript(path: Path) -> str:
    """What the file at ``path`` must contain: its scenario as it is in the file, comments included, and the end that it has
    now.

    The line ``# bug: 2C/ps-no-votedfor`` names a bug of ``tests/bugs``, which is applied to the reference first.
    """
    text = path.read_text(encoding="utf-8")
    bug = _BUG.search(text)
    if bug is None:
        end = _end(path, SOLUTION.parent)
    else:
        with tempfile.TemporaryDirectory() as folder:
            end = _end(path, put(BANK.find(bug[1], bug[2]), Path(folder)))
    return "\n".join([text.partition("\n----\n")[0].rstrip("\n"), "----", *end]) + "\n"


def _end(path: Path, implementation: Path) -> tuple[str, ...]:
    scenario = names.read(path)
    with closing(Implementation(implementation)) as impl:
        run = Run(impl, names.info_of(scenario), "sim", scenario.seed, scenario.schedule)
        return names.expected(run.play(ScenarioPlayer(scenario).play))
