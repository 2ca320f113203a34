"""Tests of a machine that has no process, memory or descriptor left for a host: the submission is not to blame, unless its
own processes may be the reason."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftlab import operating_system
from raftlab.explain.failure import Failure, LabFailure
from raftlab.runs import run as runs
from raftlab.runs.run import Implementation, Run
from raftlab.sandbox import restrictions
from raftlab.suites import catalogue
from raftlab.worlds.base import HostNotStarted
from tests.conftest import SOLUTION

# Python imports this module at the start of each host.
_FAILS = """
import os, sys
real, calls = os.{function}, 0
def fails(*arguments, **named):
    global calls
    calls += 1
    if calls {when}:
        {before}
        raise OSError({number}, os.strerror({number}))
    return real(*arguments, **named)
os.{function} = fails
"""
_USES_MUCH = "sys.modules['raftlab.host.fork_server']._MUCH = 0.0"


Fail = Callable[..., None]


@pytest.fixture
def impl() -> Iterator[Implementation]:
    with contextlib.closing(Implementation(SOLUTION)) as implementation:
        yield implementation


@pytest.fixture
def fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fail:
    """A function that makes the calls of a function of ``os`` fail in all hosts that start from now on."""

    def make(function: str, when: str, number: int, before: str = "pass") -> None:
        code = _FAILS.format(function=function, when=when, number=number, before=before)
        (tmp_path / "sitecustomize.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return make


def outcome(impl: Implementation, network: str = "sim") -> tuple[str, str, str]:
    """The outcome of a run of a short test, the kind of its failure, and the failure's sentence."""
    run = Run(impl, catalogue.find_test("cluster_of_one"), network, 0)
    record = run.judge(lambda cluster: cluster(1))
    failure = record.failure
    return record.outcome, failure.kind if failure else "", failure.text if failure else ""


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
@pytest.mark.parametrize("network", ["sim", "rpyc"])
def test_a_process_that_the_machine_does_not_fork_is_no_failure(
    impl: Implementation, fail: Fail, network: str, number: int
) -> None:
    fail("fork", "== 2", number)
    assert outcome(impl, network)[0] == "passed"
    how, kind, text = outcome(impl, network)
    assert (how, kind) == ("error", "machine-full")
    assert text.endswith(f"the process that runs the submission cannot be started: {os.strerror(number)}")
    assert outcome(impl, network)[0] == "passed"  # the host has survived


def test_the_first_process_may_also_find_the_machine_full(impl: Implementation, fail: Fail) -> None:
    fail("fork", "== 1", errno.EAGAIN)
    assert outcome(impl)[:2] == ("error", "machine-full")
    assert outcome(impl)[0] == "passed"


def test_a_submission_that_uses_much_may_be_the_reason(impl: Implementation, fail: Fail) -> None:
    fail("fork", ">= 2", errno.EAGAIN, _USES_MUCH)
    for network in ("rpyc", "sim"):
        if network == "rpyc":
            assert outcome(impl, network)[0] == "passed"
        how, kind, text = outcome(impl, network)
        assert (how, kind) == ("failed", "host-died")
        assert "and your code uses much of the memory that it may use" in text


@pytest.mark.parametrize(("function", "number"), [("pipe", errno.EMFILE), ("stat", errno.ENFILE)])
def test_a_host_that_cannot_begin_is_no_failure(impl: Implementation, fail: Fail, function: str, number: int) -> None:
    fail(function, ">= 1 and 'raftlab.host.warm_up' in sys.modules", number)
    assert outcome(impl)[:2] == ("error", "machine-full")


def test_a_host_that_has_not_read_the_submission_says_nothing_about_it(
    impl: Implementation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(1)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    # An empty submission that starts a moment later proves nothing.
    monkeypatch.setattr(Implementation, "starts_an_empty_submission", lambda self: True)
    run = Run(impl, catalogue.find_test("cluster_of_one"), "sim", 0)
    with pytest.raises(HostNotStarted) as caught:
        run.cluster(1)
    assert not caught.value.has_read
    assert run.record(caught.value).outcome == "error"


def test_a_child_that_fails_before_the_submission_runs_is_no_failure(impl: Implementation, fail: Fail) -> None:
    fail("dup2", ">= 1", errno.EMFILE)
    assert outcome(impl)[:2] == ("error", "machine-full")


def test_an_error_of_another_kind_is_no_evidence(impl: Implementation, fail: Fail) -> None:
    fail("fork", ">= 2", errno.EPERM)
    assert outcome(impl)[0] == "passed"
    assert outcome(impl)[:2] == ("failed", "host-died")


def test_what_only_the_child_can_find_out_is_reported_to_its_parent() -> None:
    for exception, number in ((OSError(errno.ENOMEM, "no memory"), errno.ENOMEM), (KeyError(), None)):
        read, write = os.pipe()
        restrictions._report(exception, write)
        with pytest.raises(OSError, match="namespaces of its own") as caught:
            restrictions._answer(read, write)
        assert caught.value.errno == number


@pytest.mark.parametrize(("kind", "network", "threads", "left", "expected"), [
    ("exception", "rpyc", 100, False, "error"),
    ("init-exception", "rpyc", 100, False, "error"),
    ("no-answer", "rpyc", 100, False, "error"),
    ("assertion", "rpyc", 100, False, "error"),
    # The machine has threads left, whatever the student's code says.
    ("exception", "rpyc", 100, True, "failed"),
    # The submission itself has them.
    ("exception", "rpyc", runs.FEW_THREADS, False, "failed"),
    # A lack of threads explains neither a broken rule of Raft nor the end of a process.
    ("invariant", "rpyc", 100, False, "failed"),
    ("host-died", "rpyc", 100, False, "failed"),
    # In the simulator, servers have no threads of the operating system.
    ("exception", "sim", 100, False, "failed"),
])  # fmt: skip
def test_a_lack_of_threads_is_the_machines_fault_only_if_the_judge_sees_it(
    impl: Implementation,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    network: str,
    threads: int,
    left: bool,
    expected: str,
) -> None:
    monkeypatch.setattr(impl, "threads", lambda: threads)
    monkeypatch.setattr(runs, "can_start_threads", lambda count: left)
    run = Run(impl, catalogue.find_test("cluster_of_one"), network, 0)
    error = LabFailure(Failure(kind, "S0: Raft() raised: RuntimeError: can't start new thread"))
    assert run.record(error).outcome == expected


def test_this_machine_has_threads_left(monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    assert operating_system.can_start_threads(runs.SPARE_THREADS)
    assert threading.active_count() == before
    start, started = threading.Thread.start, []

    def start_ten(thread: threading.Thread) -> None:
        if len(started) == 10:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_ten)
    assert not operating_system.can_start_threads(runs.SPARE_THREADS)
    assert len(started) == 10
    assert threading.active_count() == before  # those that were started have ended


def test_the_threads_of_a_host_are_counted(impl: Implementation) -> None:
    assert impl.threads() == 0
    impl.host().spawn("check", list(os.pipe()))
    assert 2 <= impl.threads() < 10
