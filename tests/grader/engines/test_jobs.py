"""Tests that every run of a job gets an outcome, whatever happens to the job, and tests of the contract check."""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftgrade.engines import jobs
from raftgrade.engines.child_processes import Children
from raftgrade.engines.commands import RaftlabCommands, environment
from raftgrade.engines.jobs import CheckResult, JobResult, run_check, run_job
from raftgrade.plan import Job
from raftgrade.results import Problem
from raftlab import command_line
from raftlab.suites import catalogue
from tests.grader.fakes import FakeCommands, alive, submission, wait_until_gone


def job_of(path: Path | str, tests: list[str], seeds: tuple[int, int], network: str = "sim") -> Job:
    return Job(id="j", submission="a", slug="a", path=str(path), lab="2A", network=network, tests=tests, seeds=seeds)


def work(
    folder: Path, script: dict[str, Any], tests: list[str] | None = None, seeds: int = 3, network: str = "sim"
) -> tuple[JobResult, FakeCommands]:
    commands = FakeCommands()
    job = job_of(submission(folder, "alice", script), tests or ["first"], (0, seeds), network)
    reported: list[Any] = []
    finished = run_job(
        job,
        commands=commands,
        children=Children(),
        log=folder / "log.txt",
        traces=folder / "traces",
        on_record=reported.append,
    )
    assert reported == finished.records
    return finished, commands


def outcomes(finished: JobResult) -> dict[str, str]:
    return {f"{record.test}/{record.seed}": record.outcome for record in finished.records}


def texts(finished: JobResult) -> list[str]:
    return [record.failure.text for record in finished.records if record.failure is not None]


def test_every_run_is_reported(tmp_path: Path) -> None:
    finished, commands = work(tmp_path, {"first/1": "fail"}, ["first", "second"])
    assert outcomes(finished) == {
        "first/0": "passed",
        "first/1": "failed",
        "first/2": "passed",
        "second/0": "passed",
        "second/1": "passed",
        "second/2": "passed",
    }
    assert len(commands.started) == 1
    assert (tmp_path / "log.txt").exists()  # something failed, so the job's output is kept


def test_an_uneventful_job_leaves_no_log(tmp_path: Path) -> None:
    work(tmp_path, {})
    assert not (tmp_path / "log.txt").exists()


def test_the_exit_code_is_ignored(tmp_path: Path) -> None:
    assert set(outcomes(work(tmp_path / "a", {"exit": 1})[0]).values()) == {"passed"}
    assert outcomes(work(tmp_path / "b", {"first/1": "skip", "exit": 0})[0])["first/1"] == "failed"


def test_a_run_missing_from_a_complete_job_has_failed(tmp_path: Path) -> None:
    finished, commands = work(tmp_path, {"first/1": "skip"})
    assert outcomes(finished) == {"first/0": "passed", "first/2": "passed", "first/1": "failed"}
    assert texts(finished) == ["run never reported: the job ended after 2 results, and this was not one of them"]
    assert len(commands.started) == 1


def test_forged_and_garbled_lines_are_ignored(tmp_path: Path) -> None:
    finished, _ = work(tmp_path, {"first/1": "garbage"})
    assert outcomes(finished) == {"first/0": "passed", "first/2": "passed", "first/1": "failed"}
    log = (tmp_path / "log.txt").read_text()
    assert log.endswith("raftgrade: 4 lines among the records were not valid and do not count\n")


def test_a_dead_job_is_continued_by_a_new_process(tmp_path: Path) -> None:
    finished, commands = work(tmp_path, {"first/1": "die-once"}, ["first", "second"])
    assert set(outcomes(finished).values()) == {"passed"}
    assert commands.started == [
        (["first", "second"], (0, 3)),
        (["first"], (1, 3)),
        (["second"], (0, 3)),
    ]


def test_a_run_at_which_the_job_dies_twice_could_not_be_judged(tmp_path: Path) -> None:
    finished, commands = work(tmp_path, {"first/1": "die"})
    assert outcomes(finished) == {"first/0": "passed", "first/1": "error", "first/2": "passed"}
    assert texts(finished) == ["could not be judged: the job was killed by signal 9 at this run, twice"]
    control = (["first"], (1, 2))  # with our own submission
    assert commands.started == [(["first"], (0, 3)), (["first"], (1, 3)), control, (["first"], (2, 3))]
    failure = finished.records[1].failure
    assert failure is not None
    again = "This run neither earns nor costs points: run raftgrade again."
    assert failure.hint == f"{again} The output of the job is in {tmp_path}/log.txt"
    assert "run first 1 die" in failure.detail


@pytest.mark.parametrize("word", ["pass", "fail", "error"])
def test_a_submission_at_which_the_job_dies_has_failed_if_another_one_can_be_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setattr(jobs, "EMPTY_SUBMISSION", submission(tmp_path, "ours", {"*": word}))
    finished, _ = work(tmp_path, {"first/1": "die"})
    assert outcomes(finished) == {"first/0": "passed", "first/1": "failed", "first/2": "passed"}
    end = "the same run of other code reached its end"
    text = f"run never reported: the job was killed by signal 9 at this run, twice; {end}"
    assert texts(finished) == [text]
    finished, _ = work(tmp_path / "all", {"*": "die"})
    assert set(outcomes(finished).values()) == {"failed"}


def test_progress_between_two_deaths_resets_the_count(tmp_path: Path) -> None:
    deaths = {"first/1": "die-once", "first/3": "die-once", "first/5": "die-once"}
    finished, commands = work(tmp_path, deaths, seeds=7)
    assert len(commands.started) == 1 + jobs.IDLE_DEATHS
    assert set(outcomes(finished).values()) == {"passed"}


def test_jobs_that_die_without_progress_are_given_up(tmp_path: Path) -> None:
    finished, commands = work(tmp_path, {"*": "die"}, ["first", "second"], seeds=5)
    assert set(outcomes(finished).values()) == {"error"}
    assert len(finished.records) == 10
    assert len(commands.started) == 3 + 2  # the last two jobs run our own submission
    assert texts(finished)[-1] == "could not be judged: the job was killed by signal 9, 3 times in a row"


def test_without_an_end_marker_the_job_was_cut_short(tmp_path: Path) -> None:
    finished, _ = work(tmp_path, {"first/2": "skip", "end": False, "exit": 3})
    assert outcomes(finished)["first/2"] == "error"
    assert texts(finished) == ["could not be judged: the job ended too early with code 3 at this run, twice"]


def test_a_run_that_never_ends_has_failed_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jobs.SILENCE_S, "sim", 2)
    finished, commands = work(tmp_path, {"first/1": "hang"})
    assert outcomes(finished) == {"first/0": "passed", "first/1": "failed", "first/2": "passed"}
    assert texts(finished) == ["run never reported: it was stopped after 2 s without a result"]
    assert commands.started == [(["first"], (0, 3)), (["first"], (2, 3))]


def test_after_two_runs_that_never_end_the_rest_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(jobs.SILENCE_S, "rpyc", 0.2)
    finished, commands = work(tmp_path, {"*": "hang"}, network="rpyc")
    assert set(outcomes(finished).values()) == {"failed"}
    assert len(commands.started) == 2
    assert texts(finished)[-1].startswith("run never reported: it was not started, because 2 runs before it had to be")


def test_runs_of_a_job_that_cannot_be_started_could_not_be_judged(tmp_path: Path) -> None:
    class Nothing(FakeCommands):
        def job(self, *args: Any) -> list[str]:
            return ["/nowhere/at/all"]

    path = submission(tmp_path, "alice")
    job = job_of(path, ["first"], (0, 1))
    finished = run_job(job, commands=Nothing(), children=Children(), log=tmp_path / "log", traces=tmp_path / "traces")
    assert texts(finished) == [
        "could not be judged: the job could not be started (No such file or directory) at this run, twice"
    ]


def test_a_job_that_cannot_be_started_is_never_the_submissions_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FullForAMoment(FakeCommands):
        def job(self, job: Job, *args: Any) -> list[str]:
            started = super().job(job, *args)
            return ["/nowhere/at/all"] if job.path.endswith("alice") else started

    monkeypatch.setattr(jobs, "EMPTY_SUBMISSION", submission(tmp_path, "ours"))
    path = submission(tmp_path, "alice")
    job = job_of(path, ["first"], (0, 1))
    commands = FullForAMoment()
    finished = run_job(job, commands=commands, children=Children(), log=tmp_path / "log", traces=tmp_path / "traces")
    assert outcomes(finished) == {"first/0": "error"}
    assert len(commands.started) == 2  # that other code can be judged a moment later would prove nothing


def test_stopping_kills_the_whole_group_and_adds_no_records(tmp_path: Path) -> None:
    path = submission(tmp_path, "alice", {"first/1": "family"})
    job = job_of(path, ["first"], (0, 3))
    children = Children()
    first = threading.Event()

    def stop() -> None:
        first.wait()
        while len(alive(mark)) < 2:  # the job, and the child that it leaves behind
            time.sleep(0.01)
        children.stop()

    mark = f"mark-{uuid.uuid4()}"
    stopper = threading.Thread(target=stop)
    stopper.start()
    finished = run_job(
        job,
        commands=FakeCommands(mark),
        children=children,
        log=tmp_path / "log",
        traces=tmp_path / "traces",
        on_record=lambda record: first.set(),
    )
    stopper.join()
    assert finished.stopped
    assert outcomes(finished) == {"first/0": "passed"}
    wait_until_gone(mark)


def check(folder: Path, answer: list[Any]) -> CheckResult:
    path = submission(folder, "alice", {"check": answer})
    return run_check("alice", str(path), ["2A"], commands=FakeCommands(), children=Children(), log=folder / "check.txt")


def test_the_check_accepts_or_lists_problems(tmp_path: Path) -> None:
    assert check(tmp_path / "a", [0, "[]"]).problems == []
    result = check(tmp_path / "b", [2, '[{"text": "no class Raft", "where": "raft.py", "handout": "setup"}]'])
    assert result.problems == [Problem("no class Raft", "raft.py", "setup")]
    assert result.judged


@pytest.mark.parametrize("answer", [[1, ""], [0, '[{"text": "x"}]'], [2, "[]"], [0, "Traceback"]])
def test_a_failed_check_refuses_no_submission(tmp_path: Path, answer: list[Any]) -> None:
    result = check(tmp_path, answer)
    assert not result.judged
    code = answer[0]
    assert [problem.text for problem in result.problems] == [
        f"could not be judged: the check of the submission ended too early with code {code}, twice"
    ]


def test_a_submission_that_breaks_the_check_is_refused_if_another_one_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "EMPTY_SUBMISSION", submission(tmp_path, "ours"))
    result = check(tmp_path, [3, ""])
    assert result.judged
    text = "reading your code failed: the check of the submission ended too early with code 3, twice"
    assert [problem.text for problem in result.problems] == [f"{text}; a check of other code succeeded"]


def test_a_check_that_finds_the_machine_full_refuses_no_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "EMPTY_SUBMISSION", submission(tmp_path, "ours"))
    assert not check(tmp_path, [command_line.MACHINE_FULL, ""]).judged


def test_a_submission_cannot_configure_the_real_command() -> None:
    job = job_of("./-x/raft.py", ["one", "two"], (3, 5), "rpyc")
    suite = catalogue.suite_file("2A")
    command = RaftlabCommands().job(job, job.tests, job.seeds, 7, Path("out/traces"))
    assert command[1:4] == ["-P", "-m", "pytest"]
    for wanted in (
        *(
            "--noconftest",
            str(suite),
            str(suite.with_name("pytest.ini")),
            "--impl=./-x/raft.py",
            "--lab=2A",
            "--network=rpyc",
        ),
        *("--seeds=3:5", "--only=one,two", "--records-fd=7", "--trace-dir=out/traces"),
    ):
        assert wanted in command
    assert suite.with_name("pytest.ini").is_file()
    assert "--together" not in command  # only commands that give no marks have this option
    own = msgspec.structs.replace(job, together=True)
    assert "--together" in RaftlabCommands().job(own, job.tests, job.seeds, 7, Path("out/traces"))


def test_a_jobs_environment_has_no_pytest_options() -> None:
    seen = environment({"HOME": "/h", "PYTEST_ADDOPTS": "--co", "PYTEST_PLUGINS": "x"})
    assert seen == {"HOME": "/h", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONUNBUFFERED": "1"}
