"""Time limits do not count the time in which the process was stopped."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from raftlab import time_awake
from raftlab.time_awake import TimeAwake, TimeLimit, poll_awake

# Stops itself. When it is continued, it ends with the status 1 if its limit has passed, and with 0 otherwise.
LIMITED = """
import os, signal
from raftlab import time_awake

time_awake.LOOK_S, time_awake._GAP_S = 0.02, 0.04
limit = time_awake.TimeLimit(0.6, lambda: os._exit(1))
os.kill(os.getpid(), signal.SIGSTOP)
limit.cancel()
"""


def test_a_pause_counts_as_two_seconds() -> None:
    times: Iterator[float] = iter([100.0, 101.0, 102.5, 900.0, 901.0])
    awake = TimeAwake(clock=lambda: next(times))
    assert [awake.seconds for _ in range(4)] == [1.0, 2.5, 4.5, 5.5]


def test_a_process_that_was_stopped_for_longer_than_its_limit_goes_on() -> None:
    with subprocess.Popen([sys.executable, "-c", LIMITED]) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        time.sleep(0.8)
        process.send_signal(signal.SIGCONT)
        assert process.wait() == 0


class _Ended(Exception):
    pass


def _end() -> None:
    raise _Ended


def test_a_limit_ends_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_awake, "LOOK_S", 0.01)
    limit = TimeLimit(0.03, _end)
    try:
        with pytest.raises(_Ended):
            time.sleep(100)
    finally:
        limit.cancel()


def test_cancelling_a_limit_sets_the_alarm_of_the_caller_again() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    seconds, _ = signal.setitimer(signal.ITIMER_REAL, 1000)
    try:
        TimeLimit(100, _end).cancel()
        assert 900 < signal.getitimer(signal.ITIMER_REAL)[0] <= 1000
        assert signal.getsignal(signal.SIGALRM) is handler
    finally:
        signal.setitimer(signal.ITIMER_REAL, seconds)


def test_poll_awake_returns_nothing_when_its_time_is_up() -> None:
    assert poll_awake(select.poll(), 0.01) == []
    assert poll_awake(select.poll(), -1.0) == []
