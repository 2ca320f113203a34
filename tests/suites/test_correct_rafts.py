"""Tests that the suites pass correct Rafts in clearly different styles (``tests/correct``). A false alarm is the worst bug
that raftlab can have.

The Rafts called ``whole_...`` implement all labs up to 2F, and some of them also 2G; the others implement only lab 2A. A
student who submits lab 2C has not done lab 2F yet, so the whole Rafts also run with the later labs switched off (by their
constant ``UPTO``). Lab 2G needs neither 2E nor 2F. ``test_correct_services.py`` tests lab 3.

To save time, the Rafts are divided into groups (``GROUPS``), and the Rafts of a group share each suite: each test runs on
one Raft of each group. The daily tests run a sixth of each Raft's share, and CI runs the rest. With ``--whole-suites``, each
Raft runs every test. To run every style with many seeds, use ``raftgrade run tests/correct/whole_*``.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from raftlab import labs
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from tests.conftest import ROOT
from tests.daily_sample import BOTH_PARTS, Part
from tests.known_bugs import failures_of

pytestmark = pytest.mark.slow

STYLES = sorted(path.parent.name for path in (ROOT / "tests" / "correct").glob("*/raft.py"))
WHOLE = [style for style in STYLES if style.startswith("whole_")]
NOW = 'UPTO = "2F"\n'
HANDS_OVER = [
    style
    for style in WHOLE
    if "def transfer_leadership" in (ROOT / "tests" / "correct" / style / "raft.py").read_text()
]


def upto(styles: Sequence[str], *last: str) -> list[tuple[str, str]]:
    """The Rafts of a group, as pairs of a style and the last lab that it has. The styles are divided into as many equal
    parts as there are labs in ``last``, and the Rafts of each part have one of these labs as their last."""
    return [(style, last[number * len(last) // len(styles)]) for number, style in enumerate(styles)]


# The groups of Rafts that run the suite of each lab. The Rafts of a group share the suite: each runs a sample of it.
GROUPS = {
    "2A": [upto([style for style in STYLES if style not in WHOLE], "2A"), upto(WHOLE, "2D")],
    "2B": [upto(WHOLE, "2D")],
    "2C": [upto(WHOLE, "2D")],
    "2D": [upto(WHOLE, "2D")],
    "2E": [upto(WHOLE, "2E", "2F")],
    "2F": [upto(WHOLE, "2F")],
    "2G": [upto(HANDS_OVER, "2D", "2F")],
}
RAFTS = sorted({raft for groups in GROUPS.values() for group in groups for raft in group})


def sample_of(raft: tuple[str, str], whole: bool) -> list[TestInfo]:
    """All tests that this Raft runs, from the suites of all labs. If ``whole``, it runs whole suites instead of samples."""
    found = []
    for lab, groups in GROUPS.items():
        for group in groups:
            if raft in group:
                step = 1 if whole else len(group)
                found += catalogue.tests(lab)[group.index(raft) % step :: step]
    return found


def without_later_labs(style: str, lab: str, folder: Path) -> Path:
    """The folder of this Raft without the labs after ``lab``: a copy in ``folder``, or the original if no lab is left
    out."""
    original = ROOT / "tests" / "correct" / style
    if style not in WHOLE or lab == "2F":
        return original
    copy = folder / style
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / "raft.py").read_text()
    assert text.count(NOW) == 1, f"{style} has no {NOW}"
    (copy / "raft.py").write_text(text.replace(NOW, NOW.replace("2F", lab)))
    return copy


@pytest.mark.timeout(900)  # --whole-suites takes this long
@BOTH_PARTS
@pytest.mark.parametrize("raft", RAFTS, ids="-".join)
def test_the_suites_pass_a_correct_raft(
    raft: tuple[str, str], part: Part, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    tests = part(sample_of(raft, pytestconfig.getoption("--whole-suites")))
    folder = without_later_labs(*raft, tmp_path)
    assert [(info.name, failure.text) for info, failure in failures_of(folder, tests)] == []


def test_each_test_runs_on_a_raft_of_each_group() -> None:
    assert len(STYLES) >= 14
    assert len(WHOLE) >= 8
    assert set(GROUPS) == {lab.name for lab in labs.LABS.values() if not lab.has("service")}
    runs = Counter(info.name for raft in RAFTS for info in sample_of(raft, whole=False))
    assert runs == {info.name: len(groups) for lab, groups in GROUPS.items() for info in catalogue.tests(lab)}
