"""`raftlab test`: run a lab's suite with pytest, in this process.

Nothing in the current folder or the environment may change the outcome: pytest gets no plugin but ours and that for time
limits, no configuration but the suites' own, and no conftest.py.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftlab import labs
from raftlab.command_line import CANNOT, FAILED, INTERRUPTED, PASSED
from raftlab.runs import plugin
from raftlab.runs.run import NETWORKS
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.tools import debug, determinism
from raftlab.tools.arguments import OUTPUT_FOLDER, CommandError, add_submission, seeds, submission
from raftlab.tools.test_progress import ProgressBoard

HELP = "run the tests of a lab"

Plan = tuple[tuple[TestInfo, tuple[str, ...]], ...]
"""Tests, each with the networks on which it will run."""


@dataclass(frozen=True, slots=True)
class TestRequest:
    """What `raftlab test` is asked to run.

    Attributes:
        impl: the submission.
        lab: the lab's name.
        plan: the tests, with their networks.
        network: ``"sim"``, ``"rpyc"`` or ``"both"``.
        seeds: each test runs once with each of these.
        preempt: whether the simulator may switch threads anywhere, or at blocking calls only.
        trace_dir: where the traces of failing runs go.
    """

    __test__ = False  # not a test class, whatever its name says

    impl: Path
    lab: str
    plan: Plan
    network: str = "sim"
    seeds: range = range(1)
    preempt: bool = True
    trace_dir: Path = OUTPUT_FOLDER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lab", metavar="LAB", help="such as 2A; `raftlab labs` lists them")
    add_submission(parser)
    parser.add_argument(
        "--network",
        choices=[*NETWORKS, "both"],
        default="sim",
        help="run in the simulator, in real processes that talk over TCP, or in both (default: sim)",
    )
    parser.add_argument(
        "--seeds",
        default="1",
        metavar="N or A:B",
        help="run each test with N seeds, or with those from A to B - 1 (default: 1, which is seed 0)",
    )
    parser.add_argument(
        "-k", dest="name", default="", metavar="NAME", help="run only tests with NAME in their name or title"
    )
    parser.add_argument(
        "--pdb", action="store_true", help="open a debugger at breakpoint() and at failures (simulator only)"
    )
    parser.add_argument(
        "--check-determinism", action="store_true", help="make each run twice and report differences (simulator only)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the tests and show their results. Returns the exit code."""
    lab = labs.find(arguments.lab)
    chosen_seeds = seeds(arguments.seeds)
    if arguments.pdb:
        if arguments.network != "sim":
            raise CommandError("--pdb works only in the simulator: leave out --network")
        if len(chosen_seeds) > 1:
            raise CommandError(f"--pdb runs one seed: use --seeds {chosen_seeds.start}:{chosen_seeds.start + 1}")
    if arguments.check_determinism and (arguments.network != "sim" or arguments.pdb):
        raise CommandError("--check-determinism works only in the simulator: leave out --network and --pdb")
    tests = plan(lab.name, arguments.network, arguments.name)
    impl = submission(arguments, lab.name, arguments.pdb)
    if arguments.check_determinism:
        return determinism.check(impl, [info for info, _ in tests], chosen_seeds, not arguments.no_preempt)
    request = TestRequest(impl, lab.name, tests, arguments.network, chosen_seeds, not arguments.no_preempt)
    if arguments.pdb:
        return run_with_debugger(request)
    live = sys.stdout.isatty()
    columns = shutil.get_terminal_size().columns
    colour = live and not os.environ.get("NO_COLOR")
    board = ProgressBoard(sys.stdout, lab.name, tests, len(chosen_seeds), live, colour, columns)
    return run_suite(request, board)


def plan(lab: str, network: str = "sim", name: str = "") -> Plan:
    """The tests of a lab that a request is about.

    Args:
        lab: the lab's name.
        network: ``"sim"``, ``"rpyc"`` or ``"both"``. Tests that run on neither are left out.
        name: only tests that have this in their name or title.

    Raises:
        CommandError: no test is left.
        raftlab.labs.UnknownLab: there is no such lab.
    """
    wanted = NETWORKS if network == "both" else (network,)
    part = name.removeprefix("test_").lower()
    named = [info for info in catalogue.tests(lab) if part in info.name or part in info.title.lower()]
    if not named:
        raise CommandError(f"lab {lab} has no test with {name!r} in its name; `raftlab labs` lists them")
    with_networks = [(info, tuple(network for network in wanted if network in info.networks)) for info in named]
    found = tuple((info, networks) for info, networks in with_networks if networks)
    if not found:
        names = ", ".join(info.name for info in named)
        runs = "runs" if len(named) == 1 else "run"
        raise CommandError(f"{names} {runs} only on {' and '.join(named[0].networks)}, not on {network}")
    return found


def run_suite(request: TestRequest, board: ProgressBoard) -> int:
    """Run the tests and show them on ``board``. Returns the exit code: that of ``ProgressBoard.close``, or 130 after
    Ctrl-C."""
    listener = _ProgressListener(board)
    code = _pytest(request, ["-p", "no:terminal"], [listener])
    if code == pytest.ExitCode.INTERRUPTED:
        board.interrupted()
        return INTERRUPTED
    verdict = board.close()
    if listener.errors or board.done != board.planned:
        missing = board.planned - board.done
        board.error("\n".join(listener.errors) or f"pytest ended with {code} and {missing} runs are missing")
        return CANNOT
    return verdict


def run_with_debugger(request: TestRequest) -> int:
    """Run the tests with student code in this process, and open a debugger at ``breakpoint()`` and at failures. Returns
    the exit code."""
    debugger = debug.Debugger(request.impl)
    options = ["--inside", "--pdb", "-q", "--no-header", "--no-summary", "--tb=short", "-p", "no:warnings"]
    with debugger:
        code = _pytest(request, options, [debugger])
    if code == pytest.ExitCode.INTERRUPTED:
        return FAILED if debugger.failed else INTERRUPTED
    return {pytest.ExitCode.OK: PASSED, pytest.ExitCode.TESTS_FAILED: FAILED}.get(code, CANNOT)


def _pytest(request: TestRequest, options: Sequence[str], plugins: Sequence[Any]) -> pytest.ExitCode:
    suite = catalogue.suite_file(request.lab)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]  # PYTEST_ADDOPTS and the like
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments = [
        *("-c", str(suite.with_name("pytest.ini")), "--rootdir", str(suite.parent), "--noconftest"),
        # -s: the judge prints nothing, and what breakpoint() prints must be seen.
        *("-s", "-p", "pytest_timeout", "-p", "raftlab.runs.plugin", *options, str(suite)),
        *(f"--impl={request.impl}", f"--lab={request.lab}", f"--network={request.network}"),
        f"--seeds={request.seeds.start}:{request.seeds.stop}",
        f"--only={','.join(info.name for info, _ in request.plan)}",
        f"--trace-dir={request.trace_dir}",
        *([] if request.preempt else ["--no-preempt"]),
    ]
    return pytest.ExitCode(pytest.main(arguments, plugins=list(plugins)))


class _ProgressListener:
    """A pytest plugin that passes on to a board which runs begin and end. ``errors`` are raftlab's own."""

    def __init__(self, board: ProgressBoard) -> None:
        self._board = board
        self.errors: list[str] = []

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        plugin.session_of(session.config).listeners.append(self._board.finished)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        callspec: Any = getattr(item, "callspec", None)
        if callspec is not None:
            self._board.started(*callspec.params["cluster"])

    # pytest's own terminal, which is off, would have printed these.

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.errors.append(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when != "call":
            self.errors.append(report.longreprtext)

    def pytest_internalerror(self, excrepr: object) -> None:
        self.errors.append(str(excrepr))
