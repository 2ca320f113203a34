"""Tests of the Dask engine with plain executors and, where Dask is installed, with a real Dask scheduler."""

from __future__ import annotations

import io
import json
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from raftgrade import grade
from raftgrade.cli import main
from raftgrade.engines import dask
from raftgrade.engines.commands import Commands
from raftgrade.engines.dask import Dask, connect
from raftgrade.engines.jobs import CheckResult, JobResult
from raftgrade.engines.local import LocalEngine
from raftgrade.plan import CannotStart, Job, Settings, expected_tests
from raftgrade.results import Problem, Report
from raftgrade.store import Store
from raftgrade.tally import blank
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Level, Sandbox
from tests.grader.fakes import FakeCommands, catalogue, submission, tools

SCRIPTS: dict[str, dict[str, Any]] = {
    "alice": {"first/1": "fail", "second/2": "die"},
    "bob": {"check": [2, '[{"text": "no class Raft", "where": "raft.py:1", "handout": "setup"}]']},
    "carol": {"second/0": "skip"},
}


class Losing(ThreadPoolExecutor):
    """An executor that loses the first ``lose`` calls, like a cluster whose workers die."""

    def __init__(self, lose: int) -> None:
        super().__init__(2)
        self.lose = lose

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if self.lose > 0:
            self.lose -= 1
            lost: Future[Any] = Future()
            lost.set_exception(RuntimeError("KilledWorker: worker-3 died"))
            return lost
        return super().submit(fn, *args, **kwargs)


class RecordsSandbox(FakeCommands):
    """Fake commands that record the sandbox of each command."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, Level]] = []

    def job(self, job: Job, tests: Sequence[str], seeds: tuple[int, int], records_fd: int, traces: Path) -> list[str]:
        self.asked.append(("job", job.sandbox))
        return super().job(job, tests, seeds, records_fd, traces)

    def check(self, path: str, labs: Sequence[str], sandbox: Level) -> list[str]:
        self.asked.append(("check", sandbox))
        return super().check(path, labs, sandbox)


def graded(
    folder: Path,
    executor: Executor | None,
    scripts: dict[str, dict[str, Any]],
    commands: Commands | None = None,
    level: Level = "none",
) -> Report:
    """The report of a class, graded locally or on ``executor``."""
    paths = {
        name: str(folder / "class" / name)
        if (folder / "class" / name).exists()
        else str(submission(folder / "class", name, script))
        for name, script in scripts.items()
    }
    settings = Settings(labs=["2A"], networks=["sim"], runs={"sim": 3}, seed=0, jobs=2, sandbox=Sandbox(level))
    tests, _ = expected_tests(settings, {"2A": catalogue("2A")})
    plan = Report(
        tool="t",
        started="2026-11-21T00:00:00",
        settings=settings,
        submissions=[blank(name, name, paths[name], tests, settings) for name in scripts],
    )
    engine: Any = LocalEngine if executor is None else partial(Dask, executor, lambda: 2, lambda: None)
    with Store.create(folder / ("local" if executor is None else "far")) as store:
        report, _ = grade.grade(
            plan,
            tests,
            paths,
            commands or FakeCommands(),
            store,
            store.start_report([]),
            io.StringIO(),
            0.0,
            make_engine=engine,
        )
    return report


def comparable(report: Report) -> Any:
    """The parts of a report that must not differ between two engines."""
    marks = [
        [
            (
                test.name,
                test.points,
                test.state,
                [(n.passes, n.failures, n.errors, n.lab_s, n.rpcs) for n in test.networks],
            )
            for test in each.tests
        ]
        for each in report.submissions
    ]
    return marks, [each.state for each in report.submissions], [each.problems for each in report.submissions]


def test_marks_are_the_same_on_dask_as_locally(tmp_path: Path) -> None:
    near = graded(tmp_path, None, SCRIPTS)
    far = graded(tmp_path, ThreadPoolExecutor(2), SCRIPTS)
    assert comparable(near) == comparable(far)
    assert [each.points for each in near.submissions] == [5, 0, 10]
    text = (tmp_path / "far" / "records.jsonl").read_text() + (tmp_path / "far" / "report.json").read_text()
    assert "raftgrade-" not in text.replace("raftgrade-0", "")  # the report does not mention the worker's own folder


@pytest.mark.parametrize("level", ["bwrap", "rlimits"])
def test_workers_use_the_sandbox_of_the_grader(tmp_path: Path, level: Level, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "missing_sandbox", lambda level: "")
    for executor in (None, ThreadPoolExecutor(2)):
        recorded = RecordsSandbox()
        graded(tmp_path, executor, {"alice": {"first/1": "error"}}, recorded, level)
        # These are the check, the first job, and a second job for the runs that were tried again.
        assert recorded.asked == [("check", level), ("job", level), ("job", level)]


def test_a_worker_without_the_sandbox_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "probe", lambda level: Sandbox("none", "bubblewrap is not installed"))
    dask.missing_sandbox.cache_clear()
    recorded = RecordsSandbox()
    try:
        report = graded(tmp_path, ThreadPoolExecutor(2), {"alice": {}}, recorded, "bwrap")
    finally:
        dask.missing_sandbox.cache_clear()
    assert recorded.asked == []
    (alice,) = report.submissions
    assert (alice.state, alice.final) == ("unjudged", False)
    assert alice.problems[0].text.endswith(
        "cannot run student code in the sandbox (bwrap): bubblewrap is not installed"
    )


def test_a_worker_that_dies_costs_its_job_a_second_attempt_and_nothing_else(tmp_path: Path) -> None:
    report = graded(tmp_path, Losing(1), {"alice": {}})
    assert [(each.points, each.state) for each in report.submissions] == [(15, "graded")]


def test_a_job_that_the_cluster_loses_for_good_could_not_be_judged(tmp_path: Path) -> None:
    class LosesJobs(ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            if dask._decode_job(args[0]).job is not None:
                raise RuntimeError("no worker is left")
            return super().submit(fn, *args, **kwargs)

    (alice,) = graded(tmp_path, LosesJobs(2), {"alice": {}}).submissions
    assert (alice.points, alice.open_points, alice.final, alice.failures) == (0, 15, False, 0)
    assert alice.tests[0].networks[0].bad[0].failure.text == (
        "could not be judged: the cluster lost this job, 2 times: RuntimeError: no worker is left"
    )
    lost = graded(tmp_path / "b", Losing(2), {"alice": {}}).submissions[0]
    assert (lost.state, lost.problems[0].text) == (
        "unjudged",
        "could not be judged: the cluster lost the check of the submission: RuntimeError: KilledWorker: worker-3 died",
    )


class Lying(ThreadPoolExecutor):
    """An executor that changes a worker's answer to a job (or, without ``job``, to a check)."""

    def __init__(self, change: Callable[[dask.Answer], None], job: bool) -> None:
        super().__init__(2)
        self.change, self.job = change, job

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        if (dask._decode_job(args[0]).job is not None) != self.job:
            return super().submit(fn, *args, **kwargs)

        def lie() -> bytes:
            answer = dask._read_answer(fn(*args, **kwargs))
            self.change(answer)
            return dask._encode(answer)

        return super().submit(lie)


def _finished(answer: dask.Answer) -> JobResult:
    assert answer.finished is not None
    return answer.finished


def _checked(answer: dask.Answer) -> CheckResult:
    assert answer.checked is not None
    return answer.checked


LIES: dict[str, Callable[[dask.Answer], None]] = {
    "another submission's": lambda answer: setattr(_finished(answer), "submission", "bob"),
    "another job's": lambda answer: setattr(_finished(answer), "job", "bob.2A.sim.0"),
    "that it was stopped": lambda answer: setattr(_finished(answer), "stopped", True),
    "a run too few": lambda answer: _finished(answer).records.pop() and None,
    "a run twice": lambda answer: _finished(answer).records.append(_finished(answer).records[0]),
    "a run that nobody asked for": lambda answer: setattr(_finished(answer).records[0], "seed", 77),
    "another lab's": lambda answer: setattr(_finished(answer).records[0], "lab", "2B"),
    "another network's": lambda answer: setattr(_finished(answer).records[0], "network", "rpyc"),
    "a very long record": lambda answer: setattr(_finished(answer).records[0], "replay", "x" * 2_000_000),
    "nothing": lambda answer: setattr(answer, "finished", None),
}


@pytest.mark.parametrize("what", LIES)
def test_an_answer_to_something_else_is_not_believed(tmp_path: Path, what: str) -> None:
    (alice,) = graded(tmp_path, Lying(LIES[what], True), {"alice": {"*": "fail"}}).submissions
    assert (alice.points, alice.open_points, alice.failures) == (0, 15, 0)
    text = alice.tests[0].networks[0].bad[0].failure.text
    assert text.startswith("could not be judged: the cluster lost this job, 2 times: WrongAnswer: a worker")


@pytest.mark.parametrize(
    "lie",
    [
        lambda answer: setattr(_checked(answer), "submission", "bob"),
        lambda answer: setattr(_checked(answer), "stopped", True),
        lambda answer: setattr(answer, "checked", None),
        lambda answer: _checked(answer).problems.extend([Problem("x")] * 1000),
    ],
)
def test_a_check_of_something_else_is_not_believed(tmp_path: Path, lie: Callable[[dask.Answer], None]) -> None:
    (alice,) = graded(tmp_path, Lying(lie, False), {"alice": {}}).submissions
    assert alice.state == "unjudged"
    assert "WrongAnswer: a worker did not answer the check" in alice.problems[0].text


def test_a_trace_that_unpacks_to_very_much_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "TRACE_QUOTA", 10_000)

    def grow(answer: dask.Answer) -> None:
        answer.traces = {name: zlib.compress(bytes(20_000)) for name in answer.traces}

    (alice,) = graded(tmp_path, Lying(grow, True), {"alice": {"first": "fail", "trace": 10}}).submissions
    assert (alice.points, alice.open_points) == (
        5,
        10,
    )  # the second test's runs were repeated in another job; they pass and have no traces


def test_a_submission_travels_without_links_and_caches(tmp_path: Path) -> None:
    root = submission(tmp_path, "alice")
    (root / "helper.py").write_text("x = 1")
    (root / "secret").symlink_to("/etc/hostname")
    (root / "__pycache__").mkdir()
    (root / "__pycache__" / "x.pyc").write_text("")
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("")
    with zipfile.ZipFile(io.BytesIO(dask._files(str(root)))) as archive:
        assert archive.namelist() == ["helper.py", "raft.py"]
    with zipfile.ZipFile(io.BytesIO(dask._files(str(root / "raft.py")))) as archive:
        assert archive.namelist() == ["raft.py"]


def test_a_submission_that_is_too_large_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dask, "MAX_BYTES", 1)
    (alice,) = graded(tmp_path, ThreadPoolExecutor(1), {"alice": {}}).submissions
    assert alice.state == "unjudged"
    assert alice.problems[0].text.endswith("expected a submission of at most 0 MB, but this one is larger")


def test_a_traces_header_gets_the_local_replay_command() -> None:
    trace = b'{"trace":1,"replay":"raftlab replay x@1 --impl elsewhere"}\n{"t":0.0}\n'
    assert dask._with_replay(trace, "raftlab replay x@1") == b'{"trace":1,"replay":"raftlab replay x@1"}\n{"t":0.0}\n'
    assert dask._with_replay(b"damaged", "x") == b"damaged"


@pytest.mark.parametrize(
    ("address", "files", "words"),
    [
        (None, {}, "--engine dask needs --scheduler ADDRESS, such as tls://host:8786"),
        ("tcp://10.0.0.1:8786", {}, "anyone could connect to tcp://10.0.0.1:8786: expected tls://, or a scheduler on "
         "127.0.0.1"),
        ("10.0.0.1:8786", {}, "anyone could connect to 10.0.0.1:8786: expected tls://, or a scheduler on 127.0.0.1"),
        ("http://localhost:1", {}, "--scheduler expects tls://host:port, not http://localhost:1"),
        ("tls://h:1", {"ca": "x"}, "a tls:// scheduler needs --tls-cert, --tls-key too"),
        ("tls://h:1", {"ca": "x", "cert": "y", "key": "z"}, "--tls-ca: there is no x"),
    ],
)  # fmt: skip
def test_refused_scheduler_addresses(address: str | None, files: dict[str, str], words: str) -> None:
    with pytest.raises(CannotStart) as caught:
        connect(address, files.get("ca"), files.get("cert"), files.get("key"))
    assert str(caught.value) == words


def test_the_error_without_dask_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(CannotStart) as caught:
        connect("tcp://127.0.0.1:1", None, None, None)
    assert str(caught.value) == "--engine dask needs the extra cluster: pip install 'raftlab[cluster]'"


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_that_does_not_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="distributed is not installed (it is the cluster extra)")
    monkeypatch.setattr(dask, "_ANSWER_S", 0.2)
    with pytest.raises(CannotStart) as caught:
        connect("tcp://127.0.0.1:1", None, None, None)
    assert str(caught.value).startswith("no Dask scheduler answers at tcp://127.0.0.1:1: ")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the warnings come from distributed itself
def test_grading_on_a_real_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed", reason="distributed is not installed (it is the cluster extra)")
    monkeypatch.chdir(tmp_path)
    for name, script in SCRIPTS.items():
        submission(tmp_path / "class", name, script)
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp"
    ) as local:
        arguments = ["run", "class", "--runs", "3", "--network", "sim"]
        assert (
            main([*arguments, "--engine", "dask", "--scheduler", local.scheduler_address, "--out", "far"], tools()) == 2
        )
    assert main([*arguments, "--out", "near"], tools()) == 2
    near, far = (json.loads((tmp_path / name / "report.json").read_text()) for name in ("near", "far"))
    for one, other in zip(near["submissions"], far["submissions"], strict=True):
        assert [test["points"] for test in one["tests"]] == [test["points"] for test in other["tests"]]
        assert one["state"] == other["state"]
    assert far["complete"]
    assert "points 15/45" in capsys.readouterr().out
