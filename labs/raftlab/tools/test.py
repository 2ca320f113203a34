"""The examination room of ``raftlab test``: runs a lab's suite with pytest, in this process.

Nothing that lies around may change the outcome: no plugin but ours and the time limit's, no configuration but
the suites' own, no conftest.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftlab.command_line import INTERRUPTED
from raftlab.runs import plugin
from raftlab.runs.run import NETWORKS
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.tools import debug
from raftlab.tools.test_progress import ProgressBoard


class NothingToRun(ValueError):
    """No test fits what was asked for. The message says why."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be run. ``plan`` has each test with the networks it will run on."""

    impl: Path
    lab: str
    plan: tuple[tuple[TestInfo, tuple[str, ...]], ...]
    network: str = "sim"
    seeds: range = range(1)
    preempt: bool = True
    trace_dir: Path = Path("raftlab-out")


def plan(lab: str, network: str = "sim", name: str = "") -> tuple[tuple[TestInfo, tuple[str, ...]], ...]:
    """The tests of ``lab`` that run on ``network`` (or ``"both"``) and have ``name`` in their name or title.
    Raises :class:`NothingToRun` and :class:`raftlab.labs.UnknownLab`."""
    wanted = NETWORKS if network == "both" else (network,)
    part = name.removeprefix("test_").lower()
    named = [info for info in catalogue.tests(lab) if part in info.name or part in info.title.lower()]
    if not named:
        raise NothingToRun(f"lab {lab} has no test with {name!r} in its name; `raftlab labs` lists them")
    fitting = [(info, tuple(network for network in wanted if network in info.networks)) for info in named]
    found = tuple((info, networks) for info, networks in fitting if networks)
    if not found:
        names = ", ".join(info.name for info in named)
        raise NothingToRun(f"{names}: made for {' and '.join(named[0].networks)} only, not for {network}")
    return found


def run(order: Order, board: ProgressBoard) -> int:
    """Run the suite. Returns the exit code: that of ``ProgressBoard.close``, or 130 after Ctrl-C."""
    ears = _Ears(board)
    code = _pytest(order, ["-p", "no:terminal"], [ears])
    if code == pytest.ExitCode.INTERRUPTED:
        board.interrupted()
        return INTERRUPTED
    verdict = board.close()
    if ears.troubles or board.done != board.planned:
        missing = board.planned - board.done
        trouble = "\n".join(ears.troubles) or f"pytest ended with {code} and {missing} runs are missing"
        board.trouble(trouble)
        return 2
    return verdict


def run_with_pdb(order: Order) -> int:
    """Run the suite with student code in this process, and a prompt at ``breakpoint()`` and at failures.
    Returns the exit code."""
    debugger = debug.Debugger(order.impl)
    options = ["--inside", "--pdb", "-q", "--no-header", "--no-summary", "--tb=short", "-p", "no:warnings"]
    with debugger:
        code = _pytest(order, options, [debugger])
    if code == pytest.ExitCode.INTERRUPTED and not debugger.failed:
        return INTERRUPTED
    return {pytest.ExitCode.OK: 0, pytest.ExitCode.TESTS_FAILED: 1, pytest.ExitCode.INTERRUPTED: 1}.get(code, 2)


def _pytest(order: Order, options: Sequence[str], plugins: Sequence[Any]) -> pytest.ExitCode:
    suite = catalogue.suite_file(order.lab)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]  # PYTEST_ADDOPTS and the like
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments = [
        *("-c", str(suite.with_name("pytest.ini")), "--rootdir", str(suite.parent), "--noconftest"),
        # Nothing of the judge's prints, and what breakpoint() prints shall be seen.
        *("-s", "-p", "pytest_timeout", "-p", "raftlab.runs.plugin", *options, str(suite)),
        *(f"--impl={order.impl}", f"--lab={order.lab}", f"--network={order.network}"),
        f"--seeds={order.seeds.start}:{order.seeds.stop}",
        f"--only={','.join(info.name for info, _ in order.plan)}",
        f"--trace-dir={order.trace_dir}",
        *([] if order.preempt else ["--no-preempt"]),
    ]
    return pytest.ExitCode(pytest.main(arguments, plugins=list(plugins)))


class _Ears:
    """A pytest plugin that hears what happens and tells the board."""

    def __init__(self, board: ProgressBoard) -> None:
        self._board = board
        self.troubles: list[str] = []

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        plugin.session_of(session.config).listeners.append(self._board.finished)

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        callspec: Any = getattr(item, "callspec", None)
        if callspec is not None:
            self._board.started(*callspec.params["cluster"])

    # What pytest's own terminal would have said: each of these is a fault of ours.

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.troubles.append(report.longreprtext)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.when != "call":
            self.troubles.append(report.longreprtext)

    def pytest_internalerror(self, excrepr: object) -> None:
        self.troubles.append(str(excrepr))
