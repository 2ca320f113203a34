"""The same seed gives the same run, event for event: in two processes, with every schedule, and in every supported version
of Python that is installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache

import pytest

from raftlab import labs
from raftlab.schedules import SCHEDULES
from raftlab.suites import catalogue
from tests.conftest import ROOT, SOLUTION

pytestmark = pytest.mark.slow

# Prints trace hashes: of each test of lab 2A with two seeds, of the first three tests of labs 2A and 2C with every schedule,
# and of every sixth test of the other labs. All tests of those labs took minutes on a busy machine, and found nothing more.
SCRIPT = """
import importlib, json, sys
from pathlib import Path
from raftlab.suites import catalogue
from raftlab import labs
from raftlab.runs.run import Implementation, Run
from raftlab.schedules import SCHEDULES
impl = Implementation(Path(sys.argv[1]))
hashes = {}
for lab in labs.LABS.values():
    suite = importlib.import_module(lab.module)
    for number, info in enumerate(catalogue.tests(lab.name)):
        drawn = [(1, None), (2, None)] if lab.name == "2A" else [(1, None)] if number % 6 == 0 else []
        forced = [(1, schedule) for schedule in SCHEDULES] if number < 3 and lab.name in ("2A", "2C") else []
        for seed, schedule in drawn + forced:
            run = Run(impl, info, "sim", seed, schedule)
            getattr(suite, "test_" + info.name)(run.cluster)
            hashes[f"{info.name}@{seed} {schedule}"] = run.record(None).trace_hash
impl.close()
print(json.dumps(hashes))
"""


def interpreters() -> list[str]:
    """This Python first, then the other supported versions that have raftlab's dependencies."""
    found = [sys.executable]
    known = {_version(sys.executable)}
    folders = [
        *os.environ.get("RAFTLAB_PYTHONS", "").split(os.pathsep),
        *os.environ.get("PATH", "").split(os.pathsep),
    ]
    for minor in (11, 12, 13):
        for folder in filter(None, folders):
            python = shutil.which(f"python3.{minor}", path=folder)
            if python is not None and (version := _version(python)) and version not in known:
                known.add(version)
                found.append(python)
    return found


def _version(python: str) -> str:
    needs = "import sys, greenlet, msgspec, pytest, rpyc; print(sys.version_info[:2])"
    run = subprocess.run([python, "-c", needs], capture_output=True, text=True, check=False)
    return run.stdout.strip()


@cache
def all_hashes() -> list[dict[str, str]]:
    """The hashes that two processes of this Python print, and one process of each other Python. The processes run at the
    same time, because one after another they took minutes."""
    paths = f"{ROOT / 'labs'}{os.pathsep}{ROOT / 'grader'}"
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "random"}
    processes = [
        subprocess.Popen(
            [python, "-P", "-c", SCRIPT, str(SOLUTION)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for python in (sys.executable, *interpreters())
    ]
    found = []
    for process in processes:
        out, errors = process.communicate()
        assert process.returncode == 0, errors
        found.append(json.loads(out))
    return found


def test_two_processes_make_the_same_runs() -> None:
    first, second = all_hashes()[:2]
    assert first == second
    tests = catalogue.tests("2A")
    others = sum(len(catalogue.tests(lab)[::6]) for lab in labs.LABS if lab != "2A")
    assert len(first) == 2 * len(tests) + others + 6 * len(SCHEDULES)
    # Different seeds make different runs, and so do different schedules.
    assert all(first[f"{test.name}@1 None"] != first[f"{test.name}@2 None"] for test in tests)
    for lab in ("2A", "2C"):
        for test in catalogue.tests(lab)[:3]:
            different = {first[f"{test.name}@1 {schedule}"] for schedule in SCHEDULES}
            assert len(different) >= len(SCHEDULES) - 1, test.name  # one schedule may happen to change nothing


OTHERS = interpreters()[1:]


@pytest.mark.skipif(not OTHERS, reason="no other supported Python with raftlab's dependencies is at hand")
def test_other_pythons_make_the_same_runs() -> None:
    first, _, *others = all_hashes()
    assert len(others) == len(OTHERS)
    for python, hashes in zip(OTHERS, others, strict=True):
        assert hashes == first, python
