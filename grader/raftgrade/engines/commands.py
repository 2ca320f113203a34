"""The command lines and the environment of jobs and of the contract check.

Jobs and the check run in a Python that ignores the current folder (``-P``), and pytest runs in the folder of the suites, so
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

# At most this many bytes of traces are kept for a submission, so that a program with huge traces cannot fill the disk.
# The limit applies to each running job, and to all of a submission's traces once the job's records are counted.
TRACE_QUOTA = 100_000_000


class Commands(Protocol):
    """The commands that start jobs and checks. Tests start other commands."""

    def job(self, job: Job, tests: Sequence[str], seeds: tuple[int, int], records_fd: int, traces: Path) -> list[str]:
        """The command that runs ``tests`` of ``job`` with ``seeds`` (half open), writes records to the file descriptor
        ``records_fd``, and traces to the folder ``traces``."""

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        """The command that prints the problems of the submission at ``path`` as JSON."""


class RaftlabCommands:
    """The real commands: pytest with raftlab's plugin (:mod:`raftgrade.engines.fuzz_job` for random scenarios), and
    ``raftlab.tools.check``."""

    def job(self, job: Job, tests: Sequence[str], seeds: tuple[int, int], records_fd: int, traces: Path) -> list[str]:
        options = [
            *(f"--impl={job.path}", f"--lab={job.lab}", f"--seeds={seeds[0]}:{seeds[1]}", f"--records-fd={records_fd}"),
            *(f"--trace-dir={traces}", f"--trace-quota={TRACE_QUOTA}", f"--sandbox={job.sandbox}"),
            *(["--together"] if job.together else []),
        ]
        if job.tests == [random_scenarios.name_of(job.lab)]:
            return [sys.executable, "-P", "-m", "raftgrade.engines.fuzz_job", *options]
        suite = catalogue.suite_file(job.lab)
        root = ["-c", str(suite.with_name("pytest.ini")), "--rootdir", str(suite.parent), "--noconftest"]
        return [
            # The suites have few plain assertions, and pytest cannot rewrite them in modules that were imported before.
            *(sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", "--assert=plain", *root),
            *(
                "-p",
                "no:cacheprovider",
                # unraisableexception collects all garbage twice when a job ends, which takes 0.04 s, about 1 % of a job's
                # CPU time. Without this plugin, Python itself writes an exception in a destructor into the job's log.
                "-p",
                "no:unraisableexception",
                "-p",
                "pytest_timeout",
                "-p",
                "raftlab.runs.plugin",
                "-p",
                "raftgrade.engines.parent_watch",
            ),
            *(str(suite), f"--network={job.network}", f"--only={','.join(tests)}", *options),
            *(["--races"] if job.races else []),
        ]

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        options = ["--labs", ",".join(labs), "--sandbox", sandbox, "--json"]
        return [sys.executable, "-P", "-m", "raftlab.tools.check", path, *options]


def environment(ours: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a job: ours, without the variables that change pytest's behaviour."""
    variables = {
        name: value for name, value in (os.environ if ours is None else ours).items() if not name.startswith("PYTEST_")
    }
    return {**variables, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}
