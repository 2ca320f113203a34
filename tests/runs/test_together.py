"""Runs that share a process with their judge end like other runs, whatever the student's code does to the process."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab.runs import together
from raftlab.runs.record import Record
from raftlab.runs.run import Implementation, Run
from raftlab.runs.scenario import parse
from raftlab.sandbox.levels import Sandbox
from raftlab.suites import catalogue
from raftlab.tools import many_runs, shrink
from raftlab.tools.arguments import Target
from raftlab.tools.many_runs import Conditions, PlannedRun
from raftlab.worlds import sim_world
from tests.conftest import SKELETON, SOLUTION, Write


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let even the first runs of a submission share a process with their judge, which they normally do not."""
    monkeypatch.setattr(together, "RUNS_APART", 0)


def made_apart(impl: Implementation, test: str, trace_dir: Path | None = None) -> Record:
    info = catalogue.find_test(test)
    return untimed(Run(impl, info, "sim", 1).judge(catalogue.script_of(info), trace_dir))


def made_together(impl: Implementation, test: str, trace_dir: Path | None = None) -> Record | None:
    answer = together.make(Run(impl, catalogue.find_test(test), "sim", 1), trace_dir=trace_dir)
    return None if answer is None else untimed(answer.record)


def untimed(record: Record) -> Record:
    record.wall_s = record.cpu_s = 0.0
    return record


@pytest.mark.parametrize(
    ("path", "test"), [(SOLUTION, "restarts"), (SOLUTION, "one_clerk"), (SKELETON, "one_at_a_time")]
)
def test_records_and_traces_are_the_same(path: Path, test: str, tmp_path: Path) -> None:
    impl = Implementation(path.parent)
    wanted = made_apart(impl, test, tmp_path / "apart")
    record = made_together(impl, test, tmp_path / "together")
    impl.close()
    assert (wanted.outcome == "passed") == (path is SOLUTION)
    assert record is not None
    if wanted.trace:
        assert Path(record.trace).read_bytes() == Path(wanted.trace).read_bytes()
        wanted.trace = record.trace
    assert record == wanted


@pytest.mark.parametrize(
    "init",
    [
        "1 / 0",
        "raise SystemExit",
        "threading.Thread(target=lambda: {}['x']).start()",
        "import sys; sys.setrecursionlimit(60)",
    ],
)
def test_exceptions_are_reported_in_the_same_way(init: str, write_raft: Write) -> None:
    impl = Implementation(write_raft(init))
    wanted, record = made_apart(impl, "cluster_of_one"), made_together(impl, "cluster_of_one")
    impl.close()
    assert wanted.outcome == "failed"
    assert record == wanted


@pytest.mark.parametrize(
    ("init", "kind"),
    [
        ("import posix; posix._exit(0)", "host-died"),
        ("import posix; posix.kill(posix.getpid(), 9)", "host-died"),
        ("sum(range(10**12))", "host-hangs"),
        ("persister.save(bytes(20_000_000))", "flood"),
        ("persister.append(bytes(20_000_000))", "flood"),
    ],
)
def test_what_ends_or_disturbs_the_process_is_judged_apart(
    init: str, kind: str, write_raft: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "MAX_CPU_S", 0.3)
    monkeypatch.setattr(sim_world, "HANG_CPU_S", 0.3)
    answers = []
    make = together.make
    monkeypatch.setattr(together, "make", lambda *args, **named: answers.append(make(*args, **named)))
    planned = PlannedRun(catalogue.find_test("cluster_of_one"), "sim", 1)
    (record,) = many_runs.perform([planned], Conditions(Target(write_raft(init), Sandbox())))
    assert answers == [None]
    assert record.failure is not None
    assert record.failure.kind == kind


def test_scenarios_end_in_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "raftlab scenario 1\nlab 2A\nname x\nseed 3\nservers 3\n\nleader a\ncrash a\nleader b\n"
    for path in (SOLUTION, SKELETON):
        impl = Implementation(path.parent)
        here = shrink.play(impl, parse(text))
        monkeypatch.setattr(together, "RUNS_APART", 1000)
        assert shrink.play(impl, parse(text)) == here
        monkeypatch.setattr(together, "RUNS_APART", 0)
        impl.close()
        assert (here is None) == (path is SOLUTION)


def test_other_peoples_code_is_never_judged_in_its_own_process(write_raft: Write) -> None:
    impl = Implementation(write_raft(), Sandbox("rlimits"))
    assert made_together(impl, "cluster_of_one") is None
    assert impl.simulated() == 0
    with pytest.raises(Exception, match="did not start"):
        impl.host().spawn("run", [], incarnations={}, modules=["raftlab.runs.together_child"])
    impl.close()
