"""Tests of the progress line, with a fake clock."""

import io

from raftgrade.progress import Progress
from tests.grader.fakes import record


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_pipe() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = Progress({"sim": 20, "rpyc": 2}, {("sim", "rpyc"): 2}, stream, clock)
    for seed in range(10):
        clock.now += 2
        progress.add_run("alice", record(seed=seed, outcome="failed" if seed == 3 else "passed", wall_s=0.5))
    progress.close()
    assert stream.getvalue() == (
        "5 of 22 runs · 0.5/s · 1 failed · about 15 s left · alice 2A\n"
        "10 of 22 runs · 0.5/s · 1 failed · about 16 s left · alice 2A\n"
    )


def test_progress_on_a_terminal() -> None:
    clock, stream = Clock(), Terminal()
    progress = Progress({"sim": 4}, {("sim",): 1}, stream, clock)
    clock.now += 1
    progress.add_run("al\x1b[2Jice", record(wall_s=0.5))
    progress.add_run("alice", record(seed=1, wall_s=0.5))  # too early to draw again
    progress.close()
    assert stream.getvalue() == ("\r1 of 4 runs · 1.0/s · 0 failed · about 2 s left · al\\x1b[2Jice 2A\x1b[K\r\x1b[K")


def test_the_estimate_depends_on_the_network() -> None:
    progress = Progress({"sim": 20, "rpyc": 2}, {("sim", "rpyc"): 2}, io.StringIO(), Clock())
    assert progress.remaining_s() == (20 * 0.5 + 2 * 8.0) / 2
    progress.add_run("alice", record(network="rpyc", wall_s=4.0))
    assert progress.remaining_s() == (20 * 0.5 + 1 * 6.0) / 2


def test_pools_work_in_parallel() -> None:
    progress = Progress({"sim": 20, "rpyc": 8}, {("sim",): 2, ("rpyc",): 8}, io.StringIO(), Clock())
    assert progress.remaining_s() == 8.0  # as long as the runs on the real network take
    for _ in range(8):
        progress.add_run("alice", record(network="rpyc", wall_s=8.0))
    assert progress.remaining_s() == 20 * 0.5 / 2


def test_the_estimate_includes_the_time_between_runs() -> None:
    clock = Clock()
    progress = Progress({"sim": 2100}, {("sim",): 2}, io.StringIO(), clock)
    for seed in range(1100):
        clock.now += 0.5  # two workers have spent one second in total on half a second of work
        progress.add_run("alice", record(seed=seed, wall_s=0.5))
    assert 450 < progress.remaining_s() < 500  # 500 s remain, for 250 s of work


def test_runs_of_a_refused_submission_are_subtracted() -> None:
    progress = Progress({"sim": 40}, {("sim",): 1}, io.StringIO(), Clock())
    progress.reduce({"sim": 20})
    assert progress.line() == "0 of 20 runs · 0 failed"


def test_unjudged_runs_are_shown_separately() -> None:
    progress = Progress({"sim": 4}, {("sim",): 1}, io.StringIO(), Clock())
    progress.add_run("alice", record(outcome="error"))
    assert progress.line().startswith("1 of 4 runs · 0 failed · 1 not judged · about ")


def test_the_estimate_is_never_negative() -> None:
    progress = Progress({"sim": 2, "rpyc": 1}, {("sim", "rpyc"): 1}, io.StringIO(), Clock())
    progress.reduce({"sim": 3})
    progress.add_run("alice", record(network="rpyc", wall_s=2.0))
    assert progress.line() == "1 of 1 runs · 0 failed · alice 2A"
    assert progress.remaining_s() == 0
