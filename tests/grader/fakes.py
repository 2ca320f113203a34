"""Fakes of what the grader uses from raftlab: a catalogue, and commands that run ``fake_job.py``."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raftgrade.cli import Tools
from raftgrade.plan import Job
from raftlab.runs.record import Outcome, Record
from raftlab.sandbox.levels import Level, Sandbox

JOB = Path(__file__).with_name("fake_job.py")
PYTHON = [sys.executable, "-I", "-S"]


@dataclass(frozen=True)
class FakeTest:
    lab: str
    name: str
    title: str
    points: int
    networks: tuple[str, ...] = ("sim", "rpyc")


LADDER = (
    FakeTest("2A", "first", "first leader", 10),
    FakeTest("2A", "second", "second leader", 5, ("sim",)),
    FakeTest("3A", "serve", "a service answers", 4),
)


def catalogue(lab: str) -> Sequence[FakeTest]:
    return [test for test in LADDER if test.lab == lab]


@dataclass
class FakeCommands:
    """Commands that run ``fake_job.py``. Every submission is a folder whose ``raft.py`` is the JSON script of its jobs.
    Under ``"check"`` the script has the result of the contract check, ``[exit code, output]``, and under ``"check 2G"``
    the result of a check for lab 2G."""

    mark: str = ""
    started: list[tuple[list[str], tuple[int, int]]] = field(default_factory=list)

    def job(self, job: Job, tests: Sequence[str], seeds: tuple[int, int], records_fd: int, traces: Path) -> list[str]:
        self.started.append((list(tests), seeds))
        asked = {
            "fd": records_fd,
            "lab": job.lab,
            "network": job.network,
            "tests": list(tests),
            "seeds": seeds,
            "script": str(Path(job.path) / "raft.py"),
            "traces": str(traces),
            "mark": self.mark,
        }
        return [*PYTHON, str(JOB), json.dumps(asked)]

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        try:
            script = json.loads((Path(path) / "raft.py").read_text())
        except ValueError:
            script = {"check": [1, "not a script"]}  # the grader's own submission, which is a real one
        answers = [script[f"check {lab}"] for lab in labs if f"check {lab}" in script]
        code, output = answers[0] if answers else script.get("check", [0, "[]"])
        return [*PYTHON, "-c", f"print({output!r}); raise SystemExit({code})"]


def tools(commands: FakeCommands | None = None) -> Tools:
    return Tools(commands or FakeCommands(), catalogue, lambda asked, trusted: Sandbox("none", "asked for"))


def submission(folder: Path, name: str, script: dict[str, Any] | None = None, service: str | None = None) -> Path:
    """Make a folder with the script of its jobs. With ``service``, the folder also has a ``kv.py`` with this text."""
    path = folder / name
    path.mkdir(parents=True)
    (path / "raft.py").write_text(json.dumps(script or {}))
    if service is not None:
        (path / "kv.py").write_text(service)
    return path


def alive(mark: str) -> list[int]:
    """The processes with ``mark`` on their command line. Processes that are dead but not reaped have no command line."""
    pids = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark.encode() in (entry / "cmdline").read_bytes():
                pids.append(int(entry.name))
    return pids


def wait_until_gone(mark: str) -> None:
    """Wait until no process has ``mark`` on its command line. A killed process needs a moment to end. If a process was not
    killed, the test's time limit ends the wait."""
    while alive(mark):
        time.sleep(0.01)


def record(test: str = "first", seed: int = 0, outcome: Outcome = "passed", **more: Any) -> Record:
    fields = {"lab": "2A", "title": test, "network": "sim", "points": 10, **more}
    return Record(test=test, seed=seed, outcome=outcome, **fields)
