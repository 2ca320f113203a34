"""Where simulated jobs sit: evenly spread, only where they fill the machine, and truly there."""

import os
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from raftgrade.engines.child_processes import Children
from raftgrade.engines.cpu_affinity import Seats


def seats(monkeypatch: pytest.MonkeyPatch, processors: set[int], workers: int) -> Seats:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: processors, raising=False)
    return Seats(workers)


def test_jobs_are_spread_over_the_processors_we_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = seats(monkeypatch, {2, 3, 7}, workers=6)
    with ExitStack() as stack:
        taken = [stack.enter_context(plan.seat()) for _ in range(6)]
        assert sorted(taken, key=str) == [2, 2, 3, 3, 7, 7]


def test_a_seat_that_is_free_again_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = seats(monkeypatch, {0, 1}, workers=2)
    with plan.seat() as kept:
        with plan.seat() as other:
            assert {kept, other} == {0, 1}
        with plan.seat() as again:
            assert again == other


@pytest.mark.parametrize(("processors", "workers"), [({0, 1, 2, 3}, 3), ({0}, 4), ({0, 1}, 0)])
def test_nobody_is_seated_where_our_jobs_do_not_fill_the_machine(
    monkeypatch: pytest.MonkeyPatch, processors: set[int], workers: int
) -> None:
    with seats(monkeypatch, processors, workers).seat() as seat:
        assert seat is None


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system seats nobody")
def test_a_child_stays_on_its_processor(tmp_path: Path) -> None:
    processor = max(os.sched_getaffinity(0))
    # The seat is given right after the start: wait for it, as long as the time limit allows.
    script = f"import os\nwhile os.sched_getaffinity(0) != {{{processor}}}: pass\nprint('seated', flush=True)"
    heard: list[bytes] = []
    ended = Children().listen(
        lambda fd: [sys.executable, "-c", script],
        on_line=lambda line: not heard.append(line),
        silence_s=60,
        log=tmp_path / "log",
        environment={},
        from_stdout=True,
        processor=processor,
    )
    assert (ended.how, heard) == ("exited", [b"seated"])
