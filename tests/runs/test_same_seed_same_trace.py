"""Same seed, same run, to the last event: in two processes, with and without preemption, on every Python at hand."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from raftlab import labs
from raftlab.suites import catalogue
from tests.conftest import ROOT, SOLUTION

pytestmark = pytest.mark.slow

# Prints the trace hash of each test: in lab 2A for two seeds, with and without preemption; in the others for one seed.
SCRIPT = """
import importlib, json, sys
from pathlib import Path
from raftlab.suites import catalogue
from raftlab import labs
from raftlab.runs.run import Implementation, Run
impl = Implementation(Path(sys.argv[1]))
hashes = {}
for lab in labs.LABS.values():
    suite = importlib.import_module(lab.module)
    for info in catalogue.tests(lab.name):
        for seed, preempt in ((1, True), (2, True), (1, False)) if lab.name == "2A" else ((1, True),):
            run = Run(impl, info, "sim", seed, preempt)
            getattr(suite, "test_" + info.name)(run.cluster)
            hashes[f"{info.name}@{seed} preempt={preempt}"] = run.record(None).trace_hash
impl.close()
print(json.dumps(hashes))
"""


def interpreters() -> list[str]:
    """This Python first, then the other supported ones that have what raftlab needs."""
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
def hashes(python: str) -> dict[str, str]:
    paths = f"{ROOT / 'labs'}{os.pathsep}{ROOT / 'grader'}"
    run = subprocess.run(
        [python, "-P", "-c", SCRIPT, str(SOLUTION)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": "random"},
    )
    assert run.returncode == 0, run.stderr
    found: dict[str, str] = json.loads(run.stdout)
    return found


def test_two_processes_make_the_same_runs() -> None:
    first = hashes(sys.executable)
    hashes.cache_clear()
    assert hashes(sys.executable) == first
    assert len(first) == 2 * len(catalogue.tests("2A")) + sum(len(catalogue.tests(lab)) for lab in labs.LABS)
    # Different seeds do make different runs; and so does preemption, but for the one run in four that draws none.
    tests = catalogue.tests("2A")
    assert all(first[f"{test.name}@1 preempt=True"] != first[f"{test.name}@2 preempt=True"] for test in tests)
    preempted = [first[f"{test.name}@1 preempt=True"] != first[f"{test.name}@1 preempt=False"] for test in tests]
    assert sum(preempted) > len(tests) // 2


OTHERS = interpreters()[1:]


@pytest.mark.skipif(not OTHERS, reason="no other supported Python with raftlab's dependencies is at hand")
@pytest.mark.parametrize("python", OTHERS, ids=lambda python: Path(python).name)
def test_other_pythons_make_the_same_runs(python: str) -> None:
    assert hashes(python) == hashes(sys.executable)
