"""Tests that no level of the sandbox makes a correct submission fail. They grade the reference and every correct Raft and
service, each in all labs that it implements, in the simulator and on the real network, as root and as an ordinary user.

This takes hours, so ``pytest`` runs it only if the file is named: ``pytest tests/suites/correct_in_the_sandbox.py``. With
``-k 'rlimits and ordinary and whole_tick'`` it takes a few minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from raftlab import labs
from raftlab.sandbox import levels
from tests import ordinary_user
from tests.conftest import ROOT
from tests.suites.test_correct_rafts import HANDS_OVER, STYLES, WHOLE
from tests.suites.test_correct_services import HOLDERS, READERS, SERVICES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

GRADE = "import sys; from raftgrade.cli import main; sys.exit(main(sys.argv[1:]))"
THIS_USER = "root" if os.geteuid() == 0 else "ordinary"


def labs_of(style: str) -> list[str]:
    """The labs that a Raft of ``tests/correct`` implements."""
    if style not in WHOLE:
        return ["2A"]
    return ["2A", "2B", "2C", "2D", "2E", "2F", *(["2G"] if style in HANDS_OVER else [])]


# The submissions by name, each with its folder and the labs that it implements.
SUBMISSIONS: dict[str, tuple[Path, list[str]]] = {
    "reference": (ROOT / "solutions", [lab.name for lab in labs.LABS.values()]),
    **{style: (ROOT / "tests" / "correct" / style, labs_of(style)) for style in STYLES},
    **{f"service-{path.name}": (path, ["3A", *(["3B"] if path in READERS else [])]) for path in SERVICES},
}

WITH_PART_2 = {name for name in SUBMISSIONS if not name.startswith("service-")} | {
    f"service-{name}" for name in HOLDERS
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an ordinary user can reach, unlike ``tmp_path``."""
    with TemporaryDirectory(prefix="raftlab-correct-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        for below in ("class", "tmp", "stage"):
            (folder / below).mkdir()
        yield folder


@pytest.mark.parametrize("name", SUBMISSIONS)
@pytest.mark.parametrize("user", ["root", "ordinary"])
@pytest.mark.parametrize("level", ["bwrap", "rlimits"])
def test_a_correct_submission_earns_all_points(level: str, user: str, name: str, folder: Path) -> None:
    if user != THIS_USER and (THIS_USER != "root" or ordinary_user.why_not()):
        pytest.skip(ordinary_user.why_not() or "only root can become root")
    if level == "bwrap" and (here := levels.probe("bwrap")).level != level:
        pytest.skip(here.reason)
    path, chosen = SUBMISSIONS[name]
    shutil.copytree(path, folder / "class" / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-P", "-c", GRADE, "run", "class", "--out", "out", "--runs", "1", "--sandbox", level]
    command += ["--labs", ",".join(chosen), *(["--raft", "reference"] if path in SERVICES else [])]
    if user != THIS_USER:
        for owned in (folder, folder / "tmp"):
            os.chown(owned, ordinary_user.USER, ordinary_user.USER)
        command = ordinary_user.as_ordinary_user(command, folder / "stage")
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment["XDG_STATE_HOME"] = str(folder / "tmp" / "state")
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    report = folder / "out" / "report.json"
    assert report.exists(), done.stderr
    (submission,) = json.loads(report.read_text())["submissions"]
    # Part 2 of lab 3B is worth points of its own, and not every correct service implements it.
    tests = [test for test in submission["tests"] if name in WITH_PART_2 or not test["name"].startswith("part2_")]
    bad = [run for test in tests for network in test["networks"] for run in network["bad"]]
    assert [(run["outcome"], run["failure"]["text"]) for run in bad] == []
    assert [test["name"] for test in tests if test["points"] != test["max_points"]] == [], submission["problems"]
