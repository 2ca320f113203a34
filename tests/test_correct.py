"""Correct Rafts in clearly different styles: the suites must pass each of them. A false alarm is our worst bug.

Those called ``full_...`` go the whole way to lab 2D and are run through every suite up to there, without a line of the labs
behind it; ``whole_...`` are run through all there are; the others end with lab 2A.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import raftlab.suites
from raftlab import catalogue, labs
from raftlab.record import End, Record, from_line
from tests.conftest import ROOT

STYLES = sorted(path.parent.name for path in (ROOT / "tests" / "correct").glob("*/raft.py"))
UPTO = {"full": "2D", "whole": "2F"}
FULL_STYLES = [style for style in STYLES if style.partition("_")[0] in UPTO]
RUNS = [(style, lab) for style in STYLES for lab in labs.LABS if lab <= UPTO.get(style.partition("_")[0], "2A")]
SUITES = Path(raftlab.suites.__file__).parent


def records_of(impl: Path, lab: str, seeds: str) -> tuple[list[Record], str]:
    """The records of one run of the lab's suite for each seed, and what the suites' own pytest printed."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", "-p", "raftlab.plugin"]
    command += ["-c", str(SUITES / "pytest.ini"), "--rootdir", str(SUITES), str(catalogue.suite_file(lab))]
    command += ["--lab", lab, "--impl", str(impl), "--seeds", seeds]
    reader, writer = os.pipe()
    with open(reader, "rb") as records:
        try:
            process = subprocess.Popen(
                [*command, "--records-fd", str(writer)],
                pass_fds=[writer],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "PYTHONPATH": str(SUITES.parent.parent)},
            )
        finally:
            os.close(writer)
        with process:
            # A few dozen kilobytes at most: the pipe to its output does not fill up meanwhile.
            items = [from_line(line) for line in records]
            printed = process.communicate()[0]
    assert items, printed
    assert items[-1] == End(len(items) - 1), printed
    return [item for item in items if isinstance(item, Record)], printed


@pytest.mark.parametrize(("style", "lab"), RUNS)
def test_the_suite_passes_it(style: str, lab: str) -> None:
    records, printed = records_of(ROOT / "tests" / "correct" / style, lab, "1")
    assert {record.test for record in records} == {info.name for info in catalogue.tests(lab)}
    assert [record.test for record in records if record.outcome != "passed"] == [], printed


def test_there_are_some() -> None:
    assert len(STYLES) >= 10
    assert len(FULL_STYLES) >= 4
