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
from raftlab.suites.catalogue import TestInfo
from tests.conftest import ROOT, SOLUTION
from tests.daily_sample import BOTH_PARTS, Part

pytestmark = pytest.mark.slow

# Prints the trace hashes of the runs that its second argument lists: lab, test, seed and schedule.
SCRIPT = """
import importlib, json, sys
from pathlib import Path
from raftlab.suites import catalogue
from raftlab import labs
from raftlab.runs.run import Implementation, Run
impl = Implementation(Path(sys.argv[1]))
hashes = {}
for lab, test, seed, schedule in json.loads(sys.argv[2]):
    suite = importlib.import_module(labs.find(lab).module)
    run = Run(impl, catalogue.find_test(test), "sim", seed, schedule)
    getattr(suite, "test_" + test)(run.cluster)
    hashes[f"{test}@{seed} {schedule}"] = run.record(None).trace_hash
impl.close()
print(json.dumps(hashes))
"""


def chosen_runs() -> list[tuple[TestInfo, list[tuple[int, str | None]]]]:
    """Tests with the seeds and schedules of their runs: each test of lab 2A with two seeds, the first three tests of labs 2A
    and 2C with every schedule, and every sixth test of the other labs. Running all tests of the other labs took minutes
    on a busy machine, and found nothing more."""
    found = []
    for lab in labs.LABS:
        for number, info in enumerate(catalogue.tests(lab)):
            runs: list[tuple[int, str | None]] = (
                [(1, None), (2, None)] if lab == "2A" else [(1, None)] if number % 6 == 0 else []
            )
            runs += [(1, schedule) for schedule in SCHEDULES] if number < 3 and lab in ("2A", "2C") else []
            if runs:
                found.append((info, runs))
    return found


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
def all_hashes(part: Part) -> list[dict[str, str]]:
    """The hashes of one part of the tests, as two processes of this Python and one process of each other Python print
    them. The processes run at the same time, because one after another they took minutes."""
    runs = [(info.lab, info.name, seed, schedule) for info, runs in part(chosen_runs()) for seed, schedule in runs]
    paths = f"{ROOT / 'labs'}{os.pathsep}{ROOT / 'grader'}"
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "random"}
    processes = [
        subprocess.Popen(
            [python, "-P", "-c", SCRIPT, str(SOLUTION), json.dumps(runs)],
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


@BOTH_PARTS
def test_two_processes_make_the_same_runs(part: Part) -> None:
    first, second = all_hashes(part)[:2]
    assert first == second
    chosen = part(chosen_runs())
    assert len(first) == sum(len(runs) for _, runs in chosen)
    # Different seeds make different runs, and so do different schedules.
    for info, runs in chosen:
        if info.lab == "2A":
            assert first[f"{info.name}@1 None"] != first[f"{info.name}@2 None"]
        if len(runs) > len(SCHEDULES):
            different = {first[f"{info.name}@1 {schedule}"] for schedule in SCHEDULES}
            assert len(different) >= len(SCHEDULES) - 1, info.name  # one schedule may happen to change nothing


OTHERS = interpreters()[1:]


@pytest.mark.skipif(not OTHERS, reason="no other supported Python with raftlab's dependencies is installed")
@BOTH_PARTS
def test_other_pythons_make_the_same_runs(part: Part) -> None:
    first, _, *others = all_hashes(part)
    assert len(others) == len(OTHERS)
    for python, hashes in zip(OTHERS, others, strict=True):
        assert hashes == first, python
