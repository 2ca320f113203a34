"""Tests of ``raftlab test --check-determinism``: what it finds and prints."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab import cli
from raftlab.harness.trace import BootEvent, ServerEvent
from raftlab.tools import determinism
from tests.conftest import SOLUTION, Write


@pytest.mark.slow
def test_runs_of_the_reference_are_deterministic(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["test", "2A", "-k", "cluster_of_one", "--seeds", "2", "--impl", str(SOLUTION), "--check-determinism"]
    assert cli.main(asked) == 0
    assert capsys.readouterr().out == "2 runs, each performed twice: all events are the same\n"


def test_differences_are_shown_with_likely_causes(write_raft: Write, capsys: pytest.CaptureFixture[str]) -> None:
    init = """
        others = {object() for _ in range(9)}
        for other in others: log("address", str(id(other)))
    """
    folder = write_raft(init)
    asked = ["test", "2A", "-k", "cluster_of_one", "--impl", str(folder), "--check-determinism"]
    assert cli.main(asked) == 1
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "cluster_of_one@0: two runs with the same seed differ"
    assert said[1].startswith("  event 2 of one run:    0.000 S0 [address] ")
    assert said[2].startswith("  event 2 of the other:  0.000 S0 [address] ")
    assert said[1].split()[-1] != said[2].split()[-1]
    assert said[4:6] == [
        "1 of 1 run cannot be repeated exactly, so a replay may show a different run.",
        "Likely causes: the order of a set, id() or hash() of an object, or a file that is read.",
    ]
    lines = (folder / "raft.py").read_text().splitlines()
    number = next(number for number, text in enumerate(lines, 1) if "for other in others" in text)
    assert said[6:] == [
        f"  look at raft.py:{number}: a loop over the set others",
        f"  look at raft.py:{number}: id(...)",
    ]


def test_a_run_that_has_more_events_differs() -> None:
    event = ServerEvent(0.5, "crash", 1)
    difference = determinism.compare([event], [event, BootEvent(0.7, "boot", 1, 2)])
    assert difference is not None
    assert difference.lines() == [
        "event 2 of one run:    (the run is over)",
        "event 2 of the other:  0.700 S1 restarts",
    ]
    assert determinism.compare([event], [event]) is None


@pytest.mark.parametrize("extra", [["--network", "rpyc"], ["--pdb"]])
def test_the_real_network_and_the_debugger_are_refused(
    extra: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["test", "2A", "--check-determinism", "--impl", str(tmp_path), *extra]) == 2
    said = "raftlab: --check-determinism works only in the simulator: leave out --network and --pdb\n"
    assert capsys.readouterr().err == said
