"""The tool rack: the exact command lines of a job and of the contract check, and what they see of the
environment.

Both run in a Python that ignores the current folder (``-P``), and pytest in the root of the suites, so
that no file of a submission can configure the judge.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from raftgrade.plan import Job
from raftlab.runs import random_scenarios
from raftlab.sandbox.levels import Level
from raftlab.suites import catalogue

# Bytes of traces kept for a submission: one that floods its traces must not fill the disk. Each job at work keeps to this,
# and so does the whole as soon as its records are counted.
TRACE_QUOTA = 100_000_000


class Commands(Protocol):
    """How jobs and checks are started. Tests put their own in its place."""

    def job(self, job: Job, tests: Sequence[str], seeds: tuple[int, int], records_fd: int, traces: Path) -> list[str]:
        """The command that runs ``tests`` with ``seeds`` and writes records to the descriptor
        ``records_fd``."""

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        """The command that prints the submission's problems as JSON."""


class RaftlabCommands:
    """The real commands: pytest with raftlab's plugin (:mod:`raftgrade.engines.fuzz_job` for random scenarios), and
    ``raftlab.tools.check``."""

    def job(self, job: Job, tests: Sequence[str], seeds: tuple[int, int], records_fd: int, traces: Path) -> list[str]:
        asked = [
            *(f"--impl={job.path}", f"--lab={job.lab}", f"--seeds={seeds[0]}:{seeds[1]}", f"--records-fd={records_fd}"),
            *(f"--trace-dir={traces}", f"--trace-quota={TRACE_QUOTA}", f"--sandbox={job.sandbox}"),
        ]
        if job.tests == [random_scenarios.name_of(job.lab)]:
            return [sys.executable, "-P", "-m", "raftgrade.engines.fuzz_job", *asked]
        suite = catalogue.suite_file(job.lab)
        root = ["-c", str(suite.with_name("pytest.ini")), "--rootdir", str(suite.parent), "--noconftest"]
        return [
            *(sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", *root),
            *(
                "-p",
                "no:cacheprovider",
                "-p",
                "pytest_timeout",
                "-p",
                "raftlab.runs.plugin",
                "-p",
                "raftgrade.engines.parent_watch",
            ),
            *(str(suite), f"--network={job.network}", f"--only={','.join(tests)}", *asked),
        ]

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        wanted = ["--labs", ",".join(labs), "--sandbox", sandbox, "--json"]
        return [sys.executable, "-P", "-m", "raftlab.tools.check", path, *wanted]


def environment(ours: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a job sees: our environment without what would change pytest's mind."""
    kept = {
        name: value for name, value in (os.environ if ours is None else ours).items() if not name.startswith("PYTEST_")
    }
    return {**kept, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}
