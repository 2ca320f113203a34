"""Grade a bank of hostile submissions in one batch, and check the results.

On an idle machine, a batch takes from ten seconds to a minute. Each test file in this folder grades a bank of its own, so
that pytest's workers can grade the banks at the same time. The daily tests grade a sample of each bank; ``pytest -m
whole_bank tests/hostile`` grades the rest.
"""

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
from tests import daily_sample, ordinary_user
from tests.hostile import bank, judge_bank, service_bank
from tests.hostile.bank import Entry

Level = Literal["bwrap", "rlimits"]
USERS = ("root", "ordinary user")
THIS_USER = "root" if os.geteuid() == 0 else "ordinary user"

# The banks that the daily tests grade. A bank whose name ends with ``", rest"`` has what the daily tests leave out
# (:mod:`tests.daily_sample`). Each bank also has honest submissions: graded together with hostile ones, they must still
# get full marks.
REST = ", rest"
BANKS: dict[str, list[Entry]] = {
    "short": [*bank.HONEST[:1], *daily_sample.daily(bank.MAKE_ALL_ATTEMPTS)],
    "short, rest": [*bank.HONEST[:1], *daily_sample.rest(bank.MAKE_ALL_ATTEMPTS)],
    "shortest": [*bank.HONEST[:1], *(entry for entry in bank.MAKE_ALL_ATTEMPTS if entry.name in bank.SHORTEST)],
    "early": [*bank.HONEST[:1], *bank.sample(bank.EARLY), *bank.sample(bank.ESCAPES)],
    "early, rest": [*bank.HONEST[:1], *bank.rest(bank.EARLY), *bank.rest(bank.ESCAPES)],
    "late": [*bank.HONEST, *bank.sample(bank.LATE)],
    "late, rest": [*bank.HONEST, *bank.rest(bank.LATE)],
    # The daily tests grade a sample in the simulator only. The rest has the whole bank, to be graded on both networks.
    "judge, reviewed": [*judge_bank.HONEST, *bank.sample(judge_bank.REVIEWED)],
    "judge, reviewed, rest": [*judge_bank.HONEST, *bank.every(judge_bank.REVIEWED)],
    "judge, others": [
        *judge_bank.HONEST,
        *bank.sample(judge_bank.OTHERS),
        *bank.sample(judge_bank.UNELECTED),
    ],
    "services": [*service_bank.HONEST, *bank.every(service_bank.SERVICES)],
    "judge, others, rest": [*judge_bank.HONEST, *bank.rest(judge_bank.OTHERS), *bank.rest(judge_bank.UNELECTED)],
}

# No record is longer than this number of bytes. A record has a sentence, a traceback and twelve events, and a character can
# take six bytes of JSON.
LONGEST_RECORD = 100_000
# The grader's own process uses less than this number of megabytes (see handouts/instructors-guide.md for what it needs).
MOST_MEMORY_MB = 300

MARKS = [
    pytest.mark.slow,
    pytest.mark.timeout(600),  # a minute on an idle machine
]


@dataclass(frozen=True)
class Batch:
    """What ``raftgrade run`` did with a bank."""

    folder: Path
    level: str
    out: str
    """What it printed, without the last two lines of the driver."""
    left: int
    """How many processes were left behind."""
    memory_mb: float
    """The most memory that the grader used."""
    report: dict[str, Any]

    def of(self, entry: Entry) -> dict[str, Any]:
        (submission,) = (item for item in self.report["submissions"] if item["name"] == printable(entry.name))
        return dict(submission)


@functools.cache
def grade(name: str, level: Level = "bwrap", user: str = THIS_USER, network: str = "both") -> Batch:
    """Grade a bank of ``BANKS``. The test is skipped if this machine cannot grade at this level or as this user.

    Args:
        name: the bank.
        level: the level of the sandbox.
        user: the user who runs the grader.
        network: ``both``, or ``sim`` to save the time that the real network takes.
    """
    if user != THIS_USER and THIS_USER != "root":
        pytest.skip("only root can become root")
    if user != THIS_USER and ordinary_user.why_not():
        pytest.skip(ordinary_user.why_not())
    if (here := levels.probe(level)).level != level:
        pytest.skip(here.reason)
    folder = Path(tempfile.mkdtemp(prefix="raftlab-hostile-"))
    atexit.register(shutil.rmtree, folder)
    bank.write(folder, BANKS[name])
    for each in ("tmp", "stage"):
        (folder / each).mkdir()
    command = [
        sys.executable,
        str(Path(__file__).with_name("driver.py")),
        "run",
        "class",
        "--labs",
        "3A" if name == "services" else "2A",
        "--runs",
        "1",
    ]
    command += ["--jobs", "6", "--sandbox", level, "--network", network]
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
    refuses = any(entry.verdict_at(level) == bank.REFUSED for entry in BANKS[name])
    assert done.returncode == (2 if refuses else 1), done.stderr
    *out, memory, left = done.stdout.splitlines()
    report = json.loads((folder / "raftgrade-out" / "report.json").read_text())
    return Batch(folder, level, "\n".join(out), int(left), int(memory) / 1000, report)


def name_of(entry: Entry) -> str:
    """The name of a submission in the ids of tests."""
    return printable(entry.name)


def by_entry(name: str) -> pytest.MarkDecorator:
    """Run a test for each submission of a bank, and for each submission that the daily tests leave out of this bank.
    The latter tests have the mark ``whole_bank``. The parameters are the name of the bank to grade and the
    submission."""
    return pytest.mark.parametrize(
        ("name", "entry"),
        [
            pytest.param(part, entry, id=f"{name_of(entry)}{part.removeprefix(name)}", marks=marks(part))
            for part in (name, name + REST)
            for entry in BANKS[part]
        ],
    )


def by_bank(name: str) -> pytest.MarkDecorator:
    """Run a test for a bank, and once more, with the mark ``whole_bank``, for what the daily tests leave out of this
    bank."""
    return pytest.mark.parametrize("name", [pytest.param(part, marks=marks(part)) for part in (name, name + REST)])


def marks(name: str) -> list[pytest.MarkDecorator]:
    """The marks of the tests of a bank."""
    return [daily_sample.NOT_DAILY] if name.endswith(REST) else []


def texts(submission: dict[str, Any]) -> list[str]:
    """The texts of all problems and failures of a submission."""
    networks = [network for test in submission["tests"] for network in test["networks"]]
    # Runs with another outcome do not count, because they could not be judged: the machine was too busy
    # (raftlab.runs.run.TOO_LATE_S).
    bad = [run["failure"]["text"] for network in networks for run in network["bad"] if run["outcome"] == "failed"]
    return [problem["text"] for problem in submission["problems"]] + bad


def check_verdict(batch: Batch, entry: Entry) -> None:
    """Assert that the submission was refused, failed or passed, for a reason that the bank names, and that it earned points
    only if it passed."""
    says = (batch.level == "rlimits" and entry.says_at_rlimits) or entry.says
    verdict = entry.verdict_at(batch.level)
    submission = batch.of(entry)
    assert submission["state"] == (bank.REFUSED if verdict == bank.REFUSED else "graded"), texts(submission)
    assert submission["points"] == (submission["max_points"] if verdict == bank.CLEAN else 0), texts(submission)
    assert bool(texts(submission)) == (verdict != bank.CLEAN), texts(submission)
    for text in texts(submission):
        assert any(part in text for part in says), text
    errors = [(network["network"], network["errors"]) for test in submission["tests"] for network in test["networks"]]
    assert ("sim", 0) in errors  # all simulated runs were judged, so no failure is the machine's fault


def check_what_is_left(batch: Batch, name: str) -> None:
    """Assert that no process and no file was left behind, and that no submission was changed."""
    assert batch.left == 0
    assert list((batch.folder / "tmp").iterdir()) == []
    left = {path.name for path in batch.folder.iterdir()} - {"tmp", "stage"}
    assert left == {"class", "raftgrade-out", bank.BESIDE}
    for entry in BANKS[name]:
        entry.write(batch.folder / "again")
        for file in (batch.folder / "again" / entry.name).iterdir():
            if not file.is_symlink():
                assert (batch.folder / "class" / entry.name / file.name).read_bytes() == file.read_bytes()
    shutil.rmtree(batch.folder / "again")


def check_sizes(batch: Batch) -> None:
    """Assert that records, report, traces and the grader's memory stay small."""
    out = batch.folder / "raftgrade-out"
    assert max(map(len, (out / "records.jsonl").read_bytes().splitlines())) < LONGEST_RECORD
    assert (out / "report.json").stat().st_size < len(batch.report["submissions"]) * LONGEST_RECORD
    for traces in (out / "traces").iterdir():
        assert sum(file.stat().st_size for file in traces.iterdir()) < 100_000_000
    assert batch.memory_mb < MOST_MEMORY_MB
