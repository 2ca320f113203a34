"""The suites' runner: a pytest plugin that gives each test its cluster, once for each world and seed, and writes records.

``raftlab test`` and the grader load it by name (``-p raftlab.runs.plugin``). Nothing of the student's is imported here: the
plugin starts the host process and talks to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from raftlab import labs
from raftlab.explain.failure import Failure, LabFailure
from raftlab.runs.record import End, Record, to_line
from raftlab.runs.run import NETWORKS, Implementation, Run, seeds_of
from raftlab.runs.trace_quota import TraceQuota
from raftlab.sandbox.levels import Sandbox
from raftlab.suites import catalogue


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("raftlab")
    group.addoption("--impl", metavar="PATH", help="the raft.py, or the folder with it, under test")
    group.addoption("--lab", default="2A", help="the lab whose suite this is")
    group.addoption("--network", default="sim", choices=[*NETWORKS, "both"], help="where the servers run")
    group.addoption("--seeds", default="1", metavar="N or A:B", help="one run of each test for each seed")
    group.addoption("--only", default="", metavar="NAME,...", help="only these tests")
    group.addoption("--no-preempt", action="store_true", help="switch threads at blocking calls only (sim)")
    group.addoption("--inside", action="store_true", help="run student code in this process, to debug it (sim)")
    group.addoption("--sandbox", default="none", choices=["bwrap", "rlimits", "none"], help="sandbox for student code")
    group.addoption("--records-fd", type=int, default=-1, help="write a record of each run to this descriptor")
    group.addoption(
        "--trace-quota", type=int, default=-1, metavar="BYTES", help="keep no more traces than that (-1: all)"
    )
    group.addoption("--trace-dir", default="", metavar="DIR", help="keep the traces of failing runs there")


# Runs of one test in one world that hang one after the other; then the rest is not tried any more. Each of them takes 20 s
# of processor time, and a submission that hangs everywhere would keep a grader busy for a day.
HANGS = 3


class Patience:
    """What is known of code that hangs: how often the last runs of a test did."""

    def __init__(self) -> None:
        self._runs = ("", "")
        self._hung = 0

    def heard(self, record: Record) -> None:
        runs = (record.test, record.network)
        before = self._hung if runs == self._runs else 0
        hung = record.failure is not None and record.failure.kind == "host-hangs"
        self._runs, self._hung = runs, before + 1 if hung else 0

    def lost(self, test: str, network: str) -> LabFailure | None:
        """Why a run is not worth its time, if it is not."""
        if (test, network) != self._runs or self._hung < HANGS:
            return None
        text = f"not run: the {HANGS} runs of this test before it computed or blocked without letting the clock move on"
        return LabFailure(Failure("host-hangs", text))


class Session:
    """What the runs of one pytest session share."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        path: str | None = option("--impl")
        if path is None:
            raise pytest.UsageError("--impl PATH is missing: which raft.py is to be tested?")
        try:
            self.lab = labs.find(option("--lab"))
            self.seeds = seeds_of(option("--seeds"))
        except ValueError as exc:
            raise pytest.UsageError(str(exc)) from None
        self.impl = Implementation(Path(path), Sandbox(option("--sandbox")))
        network = option("--network")
        self.networks = NETWORKS if network == "both" else (network,)
        self.only = [name.removeprefix("test_") for name in option("--only").split(",") if name]
        self.preempt = not option("--no-preempt")
        self.inside: bool = option("--inside")
        self.traces = TraceQuota(
            Path(option("--trace-dir")) if option("--trace-dir") else None, option("--trace-quota")
        )
        self.tests: dict[str, int] = {}  # those that had a run, numbered
        self.patience = Patience()
        self.listeners: list[Any] = []
        self.written = 0
        fd: int = option("--records-fd")
        self._out: BinaryIO | None = open(fd, "wb", buffering=0) if fd >= 0 else None  # noqa: SIM115  (closed at the end)

    def tell(self, record: Record) -> None:
        """A run is over: write its record, tell whoever shows progress."""
        self.written += 1
        self.patience.heard(record)
        if self._out is not None:
            try:
                self._out.write(to_line(record))
            except BrokenPipeError:
                # Nobody reads any more: whoever ordered these runs is gone.
                self.impl.close()
                os._exit(1)
        for listener in self.listeners:
            listener(record)

    def close(self, complete: bool) -> None:
        self.impl.close()
        if self._out is not None:
            if complete:
                self._out.write(to_line(End(self.written)))
            self._out.close()


_session = pytest.StashKey[Session]()
_run = pytest.StashKey[Run]()


def session_of(config: pytest.Config) -> Session:
    return config.stash[_session]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_session] = Session(config)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" not in metafunc.fixturenames:
        return
    session = metafunc.config.stash[_session]
    info = catalogue.info_of(session.lab.name, metafunc.function)
    runs = [
        pytest.param((info, network, seed), id=f"{network}-{seed}")
        for seed in session.seeds
        for network in session.networks
        if network in info.networks and (not session.only or info.name in session.only)
    ]
    metafunc.parametrize("cluster", runs, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what pytest would call skipped: tests that do not run in this world, or were not asked for."""
    items[:] = [item for item in items if "NOTSET" not in item.name]


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start the run's cluster: ``c = cluster(3)``."""
    session = session_of(request.config)
    info, network, seed = request.param
    run = Run(session.impl, info, network, seed, session.preempt, session.inside)
    request.node.stash[_run] = run
    lost = session.patience.lost(info.name, network)

    def start(*arguments: Any, **named: Any) -> Any:
        if lost is not None:
            raise lost
        return run.cluster(*arguments, **named)

    yield start
    run.close()
    # pytest keeps its items to the end, and a run holds its whole trace.
    del request.node.stash[_run]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    error = call.excinfo.value if call.excinfo is not None else None
    if call.excinfo is not None and isinstance(error, LabFailure) and not item.config.getoption("usepdb", False):
        # What failed is in the record. pytest would read and parse the whole suite to quote its lines, for nobody: half of
        # the judge's time with a submission that fails everywhere.
        call.excinfo.traceback = call.excinfo.traceback[:0]
    report = yield
    run = item.stash.get(_run, None)
    if call.when == "call" and run is not None and not isinstance(error, (KeyboardInterrupt, pytest.exit.Exception)):
        session = item.config.stash[_session]
        place = run.seed, session.tests.setdefault(run.info.name, len(session.tests))
        record = run.record(error, session.traces.folder_for(place))
        session.traces.took(place, record.trace)
        session.tell(record)
    return report


# Last: after Ctrl-C pytest ends the running test's fixture in this hook too, and that needs the host.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ours = session.config.stash.get(_session, None)
    if ours is not None:
        ours.close(complete=exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
