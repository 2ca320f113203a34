"""Tests that processors are assigned evenly to simulated jobs, but only if the jobs fill the machine, and that a job runs on
the processor that it was given."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from raftgrade.engines.child_processes import Children
from raftgrade.engines.cpu_affinity import ProcessorAssigner


def assigner(monkeypatch: pytest.MonkeyPatch, processors: set[int], workers: int) -> ProcessorAssigner:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: processors)
    return ProcessorAssigner(workers)


def test_jobs_are_spread_over_the_processors_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    processors = assigner(monkeypatch, {2, 3, 7}, workers=6)
    with ExitStack() as stack:
        taken = [stack.enter_context(processors.assign()) for _ in range(6)]
        assert sorted(taken, key=str) == [2, 2, 3, 3, 7, 7]


def test_a_processor_that_is_free_again_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    processors = assigner(monkeypatch, {0, 1}, workers=2)
    with processors.assign() as first:
        with processors.assign() as second:
            assert {first, second} == {0, 1}
        with processors.assign() as third:
            assert third == second


@pytest.mark.parametrize(("processors", "workers"), [({0, 1, 2, 3}, 3), ({0}, 4), ({0, 1}, 0)])
def test_no_processor_is_assigned_where_our_jobs_do_not_fill_the_machine(
    monkeypatch: pytest.MonkeyPatch, processors: set[int], workers: int
) -> None:
    with assigner(monkeypatch, processors, workers).assign() as processor:
        assert processor is None


def test_a_child_stays_on_its_processor(tmp_path: Path) -> None:
    processor = max(os.sched_getaffinity(0))
    # The affinity is set right after the process starts, so wait for it, as long as the time limit allows.
    script = f"import os\nwhile os.sched_getaffinity(0) != {{{processor}}}: pass\nprint('assigned', flush=True)"
    lines: list[bytes] = []
    ended = Children().listen(
        lambda fd: [sys.executable, "-c", script],
        on_line=lambda line: not lines.append(line),
        silence_s=60,
        log=tmp_path / "log",
        environment={},
        from_stdout=True,
        processor=processor,
    )
    assert (ended.how, lines) == ("exited", [b"assigned"])
