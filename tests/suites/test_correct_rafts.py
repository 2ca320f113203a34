"""The suites pass correct Rafts in clearly different styles (``tests/correct``). A false alarm is our worst bug.

Those called ``whole_...`` have all labs up to 2F, the others only lab 2A. A student who submits lab 2C has not done lab 2F
yet, so the former also run without the later labs (their constant ``UPTO`` switches these off). To save time, each lab runs
with only two or three of them here. To run every style with every lab and many seeds, use
``raftgrade run tests/correct/whole_*``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import raftlab.suites
from raftlab import labs
from raftlab.runs.record import End, Record, from_line
from raftlab.suites import catalogue
from tests.conftest import ROOT

pytestmark = pytest.mark.slow

STYLES = sorted(path.parent.name for path in (ROOT / "tests" / "correct").glob("*/raft.py"))
WHOLE = [style for style in STYLES if style.startswith("whole_")]
NOW = 'UPTO = "2F"\n'
SUITES = Path(raftlab.suites.__file__).parent


def _runs() -> list[tuple[str, str, str]]:
    """Each run as (style, lab, the last lab that the student has done)."""
    runs = [(style, "2A", "2A") for style in STYLES if style not in WHOLE]
    for number, style in enumerate(WHOLE):
        for at, lab in enumerate(labs.LABS):
            if (number + at) % (2 if labs.find(lab).has("membership") else 3) == 0:
                runs.append(
                    (style, lab, "2D" if not labs.find(lab).has("membership") else "2F" if number // 2 % 2 else lab)
                )
    return runs


def without_later_labs(style: str, lab: str, folder: Path) -> Path:
    """The folder of this Raft without the labs after ``lab``: a copy in ``folder``, or the original if it has none."""
    original = ROOT / "tests" / "correct" / style
    if style not in WHOLE or lab == "2F":
        return original
    copy = folder / style
    shutil.copytree(original, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / "raft.py").read_text()
    assert text.count(NOW) == 1, f"{style} has no {NOW}"
    (copy / "raft.py").write_text(text.replace(NOW, NOW.replace("2F", lab)))
    return copy


def records_of(impl: Path, lab: str, seeds: str) -> tuple[list[Record], str]:
    """Run the lab's suite. Returns the records of all tests and seeds, and pytest's output."""
    command = [sys.executable, "-P", "-m", "pytest", "-q", "--tb=short", "-p", "raftlab.runs.plugin"]
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
            # pytest prints a few dozen kilobytes at most, so its output pipe does not fill up during this loop.
            items = [from_line(line) for line in records]
            printed = process.communicate()[0]
    assert items, printed
    assert items[-1] == End(len(items) - 1), printed
    return [item for item in items if isinstance(item, Record)], printed


@pytest.mark.parametrize(("style", "lab", "upto"), _runs())
def test_the_suite_passes_a_correct_raft(style: str, lab: str, upto: str, tmp_path: Path) -> None:
    records, printed = records_of(without_later_labs(style, upto, tmp_path), lab, "1")
    assert {record.test for record in records} == {info.name for info in catalogue.tests(lab)}
    assert [record.test for record in records if record.outcome != "passed"] == [], printed


def test_there_are_enough_styles() -> None:
    assert len(STYLES) >= 12
    assert len(WHOLE) >= 6
    assert {style for style, lab, _ in _runs() if labs.find(lab).has("membership")} == set(WHOLE)
    assert {lab for _, lab, upto in _runs() if upto == "2E"} == {"2E"}
