"""All hostile submissions in one batch: each gets the correct verdict, honest ones get full marks, and no process or file
is left behind."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from raftlab.safe_text import printable
from raftlab.sandbox import levels
from tests import ordinary_user
from tests.hostile import bank
from tests.hostile.bank import BANK, SHORT_BANK, Entry

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # less than a minute on an idle machine
]

LEVELS: tuple[Literal["bwrap", "rlimits"], ...] = ("bwrap", "rlimits")
USERS = ("root", "ordinary user")
THIS_USER = "root" if os.geteuid() == 0 else "ordinary user"


@dataclass(frozen=True)
class Batch:
    folder: Path
    level: str
    out: str
    report: dict[str, Any]

    def of(self, entry: Entry) -> dict[str, Any]:
        (submission,) = (item for item in self.report["submissions"] if item["name"] == printable(entry.name))
        return dict(submission)


def entries(level: str, user: str) -> list[Entry]:
    """The submissions to grade at ``level`` as ``user``: all for this user in bwrap, otherwise a smaller bank."""
    return BANK if (level, user) == ("bwrap", THIS_USER) else SHORT_BANK


@functools.cache
def grade(level: Literal["bwrap", "rlimits"], user: str) -> Batch:
    """Grade the submissions. Skips the test where that is impossible."""
    if user != THIS_USER and THIS_USER != "root":
        pytest.skip("only root can become root")
    if user != THIS_USER and ordinary_user.why_not():
        pytest.skip(ordinary_user.why_not())
    if (here := levels.probe(level)).level != level:
        pytest.skip(here.reason)
    folder = Path(tempfile.mkdtemp(prefix="raftlab-hostile-"))
    atexit.register(shutil.rmtree, folder)
    bank.write(folder, entries(level, user))
    for name in ("tmp", "stage"):
        (folder / name).mkdir()
    command = [
        sys.executable,
        str(Path(__file__).with_name("driver.py")),
        "run",
        "class",
        "--labs",
        "2A",
        "--runs",
        "1",
    ]
    command += ["--jobs", "6", "--sandbox", level]
    if user != THIS_USER:
        os.chown(folder, ordinary_user.USER, ordinary_user.USER)
        os.chown(folder / "tmp", ordinary_user.USER, ordinary_user.USER)
        command = ordinary_user.as_ordinary_user(command, folder / "stage")
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, bank.SECRET: "key", "TMPDIR": str(folder / "tmp"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    return Batch(folder, level, done.stdout, json.loads((folder / "raftgrade-out" / "report.json").read_text()))


def texts(submission: dict[str, Any]) -> list[str]:
    """The texts of all problems and failures of a submission."""
    networks = [network for test in submission["tests"] for network in test["networks"]]
    # Failures of runs with another outcome do not count: the machine was too busy (raftlab.runs.run.TOO_LATE_S).
    bad = [run["failure"]["text"] for network in networks for run in network["bad"] if run["outcome"] == "failed"]
    return [problem["text"] for problem in submission["problems"]] + bad


EVERYTHING = [(level, user, entry) for level in LEVELS for user in USERS for entry in entries(level, user)]


@pytest.mark.parametrize(
    ("level", "user", "entry"),
    EVERYTHING,
    ids=[f"{level}-{user}-{printable(entry.name)}" for level, user, entry in EVERYTHING],
)
def test_the_verdict_is_right(level: Literal["bwrap", "rlimits"], user: str, entry: Entry) -> None:
    batch = grade(level, user)
    says = entry.says_at_rlimits or entry.says if level == "rlimits" else entry.says
    submission = batch.of(entry)
    assert submission["state"] == (bank.REFUSED if entry.verdict == bank.REFUSED else "graded"), texts(submission)
    assert submission["points"] == (submission["max_points"] if entry.verdict == bank.CLEAN else 0), texts(submission)
    assert bool(texts(submission)) == (entry.verdict != bank.CLEAN), texts(submission)
    for text in texts(submission):
        assert any(part in text for part in says), text
    errors = [(network["network"], network["errors"]) for test in submission["tests"] for network in test["networks"]]
    assert ("sim", 0) in errors  # none of the failures is the machine's fault


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("level", LEVELS)
def test_no_process_or_file_is_left_behind(level: Literal["bwrap", "rlimits"], user: str) -> None:
    batch = grade(level, user)
    assert batch.out.splitlines()[-1] == "0"  # processes
    assert list((batch.folder / "tmp").iterdir()) == []
    left = {path.name for path in batch.folder.iterdir()} - {"tmp", "stage"}
    assert left == {"class", "raftgrade-out", "the-answers.txt"}


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("level", LEVELS)
def test_no_submission_was_changed(level: Literal["bwrap", "rlimits"], user: str) -> None:
    batch = grade(level, user)
    for entry in entries(level, user):
        entry.write(batch.folder / "again")
        for file in (batch.folder / "again" / entry.name).iterdir():
            if not file.is_symlink():
                assert (batch.folder / "class" / entry.name / file.name).read_bytes() == file.read_bytes()
    shutil.rmtree(batch.folder / "again")


@pytest.mark.parametrize("level", LEVELS)
def test_the_table_is_safe_to_print(level: Literal["bwrap", "rlimits"]) -> None:
    batch = grade(level, THIS_USER)
    assert "\x1b" not in batch.out
    words = {"bwrap": "student code ran in a sandbox (bwrap)", "rlimits": "could read this machine's files (rlimits)"}
    assert words[level] in " ".join(batch.out.split())
    assert ("carol \\x1b[31m" in batch.out) == (level == "bwrap")
