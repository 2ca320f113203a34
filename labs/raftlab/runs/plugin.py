"""The pytest plugin that runs the suites: it gives each test its cluster, once per network and seed, and writes records.

The grader and ``raftlab test --pdb`` load it by name (``-p raftlab.runs.plugin``). No student code is imported here: the
plugin starts the host process and talks to it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from raftlab import labs
from raftlab.explain.failure import LabFailure
from raftlab.runs import together
from raftlab.runs.patience import Patience, never_ended
from raftlab.runs.record import End, Record, to_line
from raftlab.runs.run import NETWORKS, Implementation, Run, seeds_of
from raftlab.runs.trace_quota import TraceQuota
from raftlab.sandbox.levels import Sandbox
from raftlab.schedules import SCHEDULES
from raftlab.suites import catalogue
from raftlab.time_awake import TimeLimit


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("raftlab")
    group.addoption("--impl", metavar="PATH", help="the submission: a raft.py, or the folder that contains it")
    group.addoption("--raft", metavar="PATH", help="the Raft below the submission's kv.py (default: its own)")
    group.addoption("--lab", default="2A", help="the lab whose suite is run")
    group.addoption(
        "--network", default="sim", choices=[*NETWORKS, "both"], help="run in the simulator, over TCP, or both"
    )
    group.addoption("--seeds", default="1", metavar="N or A:B", help="run each test once per seed")
    group.addoption("--only", default="", metavar="NAME,...", help="run only these tests")
    group.addoption(
        "--schedule", choices=SCHEDULES, help="how threads are preempted (sim; default: as the seed decides)"
    )
    group.addoption("--races", action="store_true", help="look for races (sim)")
    group.addoption("--inside", action="store_true", help="run student code in this process, for a debugger (sim)")
    group.addoption(
        "--together", action="store_true", help="let judge and servers share a process; never for grading (sim)"
    )
    group.addoption(
        "--sandbox", default="none", choices=["bwrap", "rlimits", "none"], help="how to confine student code"
    )
    group.addoption("--records-fd", type=int, default=-1, help="write the records to this file descriptor")
    group.addoption(
        "--trace-quota", type=int, default=-1, metavar="BYTES", help="keep at most this many bytes of traces (-1: all)"
    )
    group.addoption("--trace-dir", default="", metavar="DIR", help="write the traces of failing runs to this folder")


class Session:
    """The data that the runs of one pytest session share."""

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
        raft: str | None = option("--raft")
        self.impl = Implementation(
            Path(path), Sandbox(option("--sandbox")), option("--races"), None if raft is None else Path(raft)
        )
        network = option("--network")
        self.networks = NETWORKS if network == "both" else (network,)
        self.only = [name.removeprefix("test_") for name in option("--only").split(",") if name]
        self.schedule = option("--schedule")
        self.inside: bool = option("--inside")
        self.together: bool = option("--together")
        self.traces = TraceQuota(
            Path(option("--trace-dir")) if option("--trace-dir") else None, option("--trace-quota")
        )
        self.tests: dict[str, int] = {}  # the number of each test, in the order of the tests' first runs
        self.patience = Patience()
        self.written = 0
        fd: int = option("--records-fd")
        self._out: BinaryIO | None = open(fd, "wb", buffering=0) if fd >= 0 else None  # noqa: SIM115  (closed at the end)

    def place_of(self, run: Run) -> tuple[int, int]:
        """Where the run's trace stands in the order of the quota: its seed, and the number of its test."""
        return run.seed, self.tests.setdefault(run.info.name, len(self.tests))

    def ended(self, record: Record) -> None:
        """Count a run that has ended, and write its record."""
        self.written += 1
        self.patience.ended(record)
        if self._out is not None:
            try:
                self._out.write(to_line(record))
            except BrokenPipeError:
                # The process that should read the records is gone.
                self.impl.close()
                os._exit(1)

    def close(self, complete: bool) -> None:
        self.impl.close()
        if self._out is not None:
            if complete:
                self._out.write(to_line(End(self.written)))
            self._out.close()


_session = pytest.StashKey[Session]()
_run = pytest.StashKey[Run]()
_record = pytest.StashKey[Record]()  # set if the run was performed in a process of its own


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
    """Leave out tests that do not run on this network or were not asked for. Otherwise pytest would report them as
    skipped."""
    items[:] = [item for item in items if "NOTSET" not in item.name]


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Start the run's cluster: ``c = cluster(3)``."""
    session = request.config.stash[_session]
    info, network, seed = request.param
    run = Run(session.impl, info, network, seed, session.schedule, session.inside)
    request.node.stash[_run] = run
    refusal = session.patience.refusal(info.name, network)

    def start(*arguments: Any, **named: Any) -> Any:
        if refusal is not None:
            raise refusal
        return run.cluster(*arguments, **named)

    yield start
    run.close()
    # pytest keeps its items until the end. A run holds its whole trace in memory, so drop the run here.
    del request.node.stash[_run]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """With ``--together``, perform the run in a process of its own, if possible, and report its outcome."""
    session, run = pyfuncitem.config.stash[_session], pyfuncitem.stash.get(_run, None)
    if run is None or not session.together or session.patience.refusal(run.info.name, run.network) is not None:
        return None
    place = session.place_of(run)
    answer = together.make(run, None, session.traces.folder_for(place), session.traces.most)
    if answer is None:
        return None
    pyfuncitem.stash[_record] = answer.record
    if answer.record.failure is not None:
        raise LabFailure(answer.record.failure)
    return True


@pytest.hookimpl(optionalhook=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Replace the timer of pytest-timeout with one that does not count pauses. pytest-timeout stops the timer with the
    item's ``cancel_timeout``."""
    if settings.method != "signal":
        return None
    from pytest_timeout import is_debugging  # this hook is called only if pytest-timeout is installed

    def end() -> None:
        if is_debugging():
            return  # as in pytest-timeout: a user of a debugger may take any time
        pytest.fail(f"the run has not ended after {settings.timeout:g} s")

    item.cancel_timeout = TimeLimit(settings.timeout, end).cancel  # type: ignore[attr-defined]
    return True


def _verdict_on(error: BaseException | None, network: str) -> BaseException | None:
    """The verdict on a run that raised an exception, or reached the time limit of pytest-timeout."""
    return never_ended(network) if isinstance(error, pytest.fail.Exception) else error


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    error = call.excinfo.value if call.excinfo is not None else None
    if call.excinfo is not None and isinstance(error, LabFailure) and not item.config.getoption("usepdb", False):
        # The record has the failure. With its default style, pytest would parse the whole suite to quote lines that
        # nobody reads. If every run fails, quoting takes half of the judge's time.
        call.excinfo.traceback = call.excinfo.traceback[:0]
    report = yield
    run = item.stash.get(_run, None)
    if call.when == "call" and run is not None and not isinstance(error, (KeyboardInterrupt, pytest.exit.Exception)):
        session = item.config.stash[_session]
        place = session.place_of(run)
        record = item.stash.get(_record, None) or run.record(
            _verdict_on(error, run.network), session.traces.folder_for(place), session.traces.most
        )
        session.traces.took(place, record.trace)
        session.ended(record)
    return report


# This hook must run last: after Ctrl-C, pytest also ends the running test's fixture in this hook, and the fixture
# needs the host.
@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    ours = session.config.stash.get(_session, None)
    if ours is not None:
        ours.close(complete=exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED))
