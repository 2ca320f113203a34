"""`raftlab test`: run the tests of a lab, once per seed, and show the results."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from raftlab import labs
from raftlab.command_line import INTERRUPTED, PASSED
from raftlab.runs.record import Record
from raftlab.runs.run import NETWORKS
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.tools import determinism
from raftlab.tools.arguments import OUTPUT_FOLDER, CommandError, Target, add_submission, seeds, submission
from raftlab.tools.last_results import LastResults
from raftlab.tools.many_runs import Conditions, PlannedRun, add_jobs, delete_traces, jobs_for, perform
from raftlab.tools.test_progress import ProgressBoard, terminal_look

Plan = tuple[tuple[TestInfo, tuple[str, ...]], ...]
"""Tests, each with the networks on which it will run."""


@dataclass(frozen=True, slots=True)
class TestRequest:
    """What a user of `raftlab test` asks for.

    Attributes:
        target: The submission and its sandbox.
        lab: The lab's name.
        runs: The runs to perform, in order.
        jobs: The number of processes that perform them.
        stop: Whether to stop at the first run that does not pass.
        races: Whether to look for races.
        trace_dir: The folder for traces of runs that do not pass.
    """

    __test__ = False  # tells pytest that this is not a test class

    target: Target
    lab: str
    runs: Sequence[PlannedRun]
    jobs: int = 1
    stop: bool = False
    races: bool = False
    trace_dir: Path = OUTPUT_FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", metavar="LAB", help="the lab, such as 2A; `raftlab labs` lists all labs")
    add_submission(parser)
    parser.add_argument(
        "--network",
        choices=[*NETWORKS, "both"],
        help="run in the simulator, in real processes that talk over TCP, or in both (default: sim)",
    )
    parser.add_argument(
        "--seeds",
        metavar="N or A:B",
        help="run each test with the seeds 0 to N - 1, or A to B - 1 (default: 1, so only seed 0)",
    )
    parser.add_argument(
        "-k",
        dest="names",
        action="append",
        default=[],
        metavar="NAME",
        help="run only the tests with NAME in their name or, if there are none, in their title; may be given several times",
    )
    add_jobs(parser)
    parser.add_argument(
        "--failed", action="store_true", help="perform only the runs that failed when they were last performed"
    )
    parser.add_argument("-x", dest="stop", action="store_true", help="stop at the first failure")
    parser.add_argument(
        "--races", action="store_true", help="also look for races and other mistakes in locking (simulator only)"
    )
    parser.add_argument(
        "--pdb", action="store_true", help="open a debugger at breakpoint() and at failures (simulator only)"
    )
    parser.add_argument(
        "--check-determinism",
        action="store_true",
        help="perform each run twice and report differences (simulator only)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the tests and show their results. Returns the exit code."""
    lab = labs.find(arguments.lab)
    _refuse_combinations(arguments)
    chosen_seeds = seeds(arguments.seeds or "1")
    if arguments.pdb and len(chosen_seeds) > 1:
        raise CommandError(f"--pdb runs one seed: use --seeds {chosen_seeds.start}:{chosen_seeds.start + 1}")
    tests = plan(lab.name, arguments.network or ("both" if arguments.failed else "sim"), arguments.names)
    target = submission(arguments, lab.name, arguments.pdb)
    if arguments.check_determinism:
        return determinism.check(target, [info for info, _ in tests], chosen_seeds, arguments.schedule)
    if arguments.pdb:
        from raftlab.tools import debug  # imports pytest, which is slow

        return debug.run_tests(target, [info for info, _ in tests], chosen_seeds.start, arguments.schedule)
    if arguments.failed:
        runs = _failed(LastResults(target), tests, arguments.schedule)
        if not runs:
            print(f"lab {lab.name}: nothing failed last time; to run everything: raftlab test {lab.name}")
            return PASSED
    else:
        runs = planned(tests, chosen_seeds, arguments.schedule)
    request = TestRequest(target, lab.name, runs, jobs_for(arguments, runs), arguments.stop, arguments.races)
    look = terminal_look(sys.stdout)
    return run_suite(request, ProgressBoard(sys.stdout, lab.name, runs, look, arguments.races))


def _refuse_combinations(arguments: argparse.Namespace) -> None:
    network = arguments.network or "sim"
    if arguments.pdb and network != "sim":
        raise CommandError("--pdb works only in the simulator: leave out --network")
    if arguments.check_determinism and (network != "sim" or arguments.pdb):
        raise CommandError("--check-determinism works only in the simulator: leave out --network and --pdb")
    if arguments.races and (network == "rpyc" or arguments.pdb or arguments.check_determinism):
        raise CommandError("--races works only in the simulator, without --pdb and --check-determinism")
    if arguments.failed and (arguments.pdb or arguments.check_determinism or arguments.seeds):
        raise CommandError("--failed chooses the runs itself: leave out --seeds, --pdb and --check-determinism")


def _failed(last: LastResults, tests: Plan, schedule: str | None) -> list[PlannedRun]:
    """The runs of these tests that failed when they were last performed."""
    lab = tests[0][0].lab
    failed = last.failed(lab)
    if failed is None:
        raise CommandError(f"there are no results of lab {lab} in {OUTPUT_FOLDER} yet: run raftlab test {lab} first")
    return [
        PlannedRun(info, run.network, run.seed, schedule or run.schedule or None)
        for info, networks in tests
        for run in sorted(failed, key=lambda run: (run.seed, run.network))
        if run.test == info.name and run.network in networks
    ]


def planned(tests: Plan, seeds: range, schedule: str | None) -> list[PlannedRun]:
    """Every run of these tests with these seeds, in the order in which they are performed."""
    return [
        PlannedRun(info, network, seed, schedule) for info, networks in tests for seed in seeds for network in networks
    ]


def plan(lab: str, network: str | None = None, names: Collection[str] = ()) -> Plan:
    """The tests of a lab that the user asked for.

    Args:
        lab: The lab's name.
        network: ``"sim"``, ``"rpyc"`` or ``"both"``; ``None``: ``"sim"``. A test that does not run on this network is
            left out.
        names: Each of these texts selects the tests whose name contains it. If there is no such test, it selects the tests
            whose title contains it. Without ``names``, all tests are selected.

    Raises:
        CommandError: No test is left, or a name selects none.
        raftlab.labs.UnknownLab: There is no such lab.
    """
    wanted = NETWORKS if network == "both" else (network or "sim",)
    tests = catalogue.tests(lab)
    chosen = {info.name for name in names or [""] for info in _named(tests, lab, name)}
    named = [info for info in tests if info.name in chosen]
    with_networks = [(info, tuple(network for network in wanted if network in info.networks)) for info in named]
    found = tuple((info, networks) for info, networks in with_networks if networks)
    if not found:
        names = ", ".join(info.name for info in named)
        runs = "runs" if len(named) == 1 else "run"
        raise CommandError(f"{names} {runs} only on {' and '.join(named[0].networks)}, not on {wanted[0]}")
    return found


def _named(tests: Sequence[TestInfo], lab: str, name: str) -> list[TestInfo]:
    part = name.removeprefix("test_").lower()
    named = [info for info in tests if part in info.name] or [info for info in tests if part in info.title.lower()]
    if not named:
        raise CommandError(f"lab {lab} has no test with {name!r} in its name; `raftlab labs` lists the tests")
    return named


def run_suite(request: TestRequest, board: ProgressBoard) -> int:
    """Perform the runs and show them on ``board``. Returns the exit code of ``ProgressBoard.close``, or 130 after
    Ctrl-C."""
    delete_traces(request.runs, request.trace_dir)
    conditions = Conditions(request.target, request.races, request.trace_dir)
    records: list[Record] = []
    stopped = False
    try:
        with contextlib.closing(perform(request.runs, conditions, request.jobs, board.started)) as performed:
            for record in performed:
                records.append(record)
                board.finished(record)
                if request.stop and record.outcome != "passed":
                    stopped = True
                    break
    except KeyboardInterrupt:
        board.interrupted()
        return INTERRUPTED
    finally:
        LastResults(request.target, request.trace_dir).update(request.lab, records)
    return board.close(stopped)
