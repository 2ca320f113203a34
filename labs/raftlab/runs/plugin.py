"""The pytest plugin that runs the suites: it gives each test its cluster, once per network and seed, and writes records.

``raftlab test`` and the grader load it by name (``-p raftlab.runs.plugin``). No student code is imported here: the plugin
starts the host process and talks to it.
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
    group.addoption("--impl", metavar="PATH", help="the submission: a raft.py, or the folder with it")
    group.addoption("--lab", default="2A", help="the lab whose suite is run")
    group.addoption(
        "--network", default="sim", choices=[*NETWORKS, "both"], help="run in the simulator, over TCP, or both"
    )
    group.addoption("--seeds", default="1", metavar="N or A:B", help="run each test once per seed")
    group.addoption("--only", default="", metavar="NAME,...", help="run only these tests")
    group.addoption("--no-preempt", action="store_true", help="switch threads only at blocking calls (sim)")
    group.addoption("--inside", action="store_true", help="run student code in this process, for a debugger (sim)")
    group.addoption(
        "--sandbox", default="none", choices=["bwrap", "rlimits", "none"], help="how to confine student code"
    )
    group.addoption("--records-fd", type=int, default=-1, help="write the records to this file descriptor")
    group.addoption(
        "--trace-quota", type=int, default=-1, metavar="BYTES", help="keep at most so many bytes of traces (-1: all)"
    )
    group.addoption("--trace-dir", default="", metavar="DIR", help="write the traces of failing runs to this folder")


# If so many runs of one test on one network hang in a row, the rest are not run. Each costs 20 s of processor time, and a
# submission that always hangs would keep a grader busy for a day.
HANGS = 3


class Patience:
    """Decides when a test that keeps hanging is not run any more."""

    def __init__(self) -> None:
        self._runs = ("", "")
        self._hung = 0

    def ended(self, record: Record) -> None:
        """Count a run that has ended."""
        runs = (record.test, record.network)
        before = self._hung if runs == self._runs else 0
        hung = record.failure is not None and record.failure.kind == "host-hangs"
        self._runs, self._hung = runs, before + 1 if hung else 0

    def refusal(self, test: str, network: str) -> LabFailure | None:
        """The failure of a run that is not to be made; ``None`` if it is."""
        if (test, network) != self._runs or self._hung < HANGS:
            return None
        text = f"not run: the {HANGS} runs of this test before it computed or blocked without letting the clock advance"
        return LabFailure(Failure("host-hangs", text))


class Session:
    """What the runs of one pytest session share."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.getoption
        path: str | None = option("--impl")
        if path is None:
            raise pytest.UsageError("--impl PATH is missing: it names the submission to test")
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
        self.tests: dict[str, int] = {}  # tests that had a run, numbered in that order
        self.patience = Patience()
        self.listeners: list[Any] = []
        self.written = 0
        fd: int = option("--records-fd")
        self._out: BinaryIO | None = open(fd, "wb", buffering=0) if fd >= 0 else None  # noqa: SIM115  (closed at the end)

    def ended(self, record: Record) -> None:
        """A run has ended: write its record and call the listeners."""
        self.written += 1
        self.patience.ended(record)
        if self._out is not None:
            try:
                self._out.write(to_line(record))
            except BrokenPipeError:
                # Nobody reads any more: the process that wanted these records is gone.
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
    """Leave out tests that do not run on this network or were not asked for; pytest would report them as skipped."""
    items[:] = [item for item in items if "NOTSET" not in item.name]


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start the run's cluster: ``c = cluster(3)``."""
    session = session_of(request.config)
    info, network, seed = request.param
    run = Run(session.impl, info, network, seed, session.preempt, session.inside)
    request.node.stash[_run] = run
    refusal = session.patience.refusal(info.name, network)

    def start(*arguments: Any, **named: Any) -> Any:
        if refusal is not None:
            raise refusal
        return run.cluster(*arguments, **named)

    yield start
    run.close()
    # pytest keeps its items to the end, and a run has its whole trace in memory.
    del request.node.stash[_run]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    error = call.excinfo.value if call.excinfo is not None else None
    if call.excinfo is not None and isinstance(error, LabFailure) and not item.config.getoption("usepdb", False):
        # The failure is in the record. To quote the suite's lines, which nobody reads, pytest would read and parse the whole
        # suite: half of the judge's time with a submission that always fails.
        call.excinfo.traceback = call.excinfo.traceback[:0]
    report = yield
    run = item.stash.get(_run, None)
    if call.when == "call" and run is not None and not isinstance(error, (KeyboardInterrupt, pytest.exit.Exception)):
        session = item.config.stash[_session]
        place = run.seed, session.tests.setdefault(run.info.name, len(session.tests))
        record = run.record(error, session.traces.folder_for(place))
        session.traces.took(place, record.trace)
        session.ended(record)
    return report


# Last, because after Ctrl-C pytest also ends the running test's fixture in this hook, and that needs the host.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ours = session.config.stash.get(_session, None)
    if ours is not None:
        ours.close(complete=exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
