"""Tests of the main loop of a grading run: its pools work independently, and few submissions are unfinished at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, cast

from raftgrade.engines.jobs import CheckResult, JobResult
from raftgrade.engines.schedule import Schedule
from raftgrade.engines.work_loop import WorkLoop
from raftgrade.plan import Job, JobTarget, Pool, Settings, runs_of, split_into_jobs
from raftgrade.results import Report, SubmissionResult
from raftgrade.tally import blank
from raftlab.runs.record import Record

NAMES = [f"student-{number:02d}" for number in range(30)]


class FakeEngine:
    """An engine whose checks and simulated jobs end at once. Its jobs on the real network end when :meth:`end_one` is
    called, or when nothing else is left to do."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Job, Future[JobResult]]] = []
        self.simulated: list[str] = []
        self.most: Counter[str] = Counter()

    def pools(self) -> list[Pool]:
        return [Pool(("sim",), 1, 1), Pool(("rpyc",), 4, 4)]

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        future: Future[CheckResult] = Future()
        future.set_result(CheckResult(submission.name, []))
        return future

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        future: Future[JobResult] = Future()
        if job.network == "sim":
            self.simulated.append(job.submission)
            future.set_result(JobResult(job.id, job.submission, []))
        else:
            self.waiting.append((job, future))
            self.most["rpyc"] = max(self.most["rpyc"], len(self.waiting))
        return future

    def end_one(self) -> None:
        job, future = self.waiting.pop(0)
        future.set_result(JobResult(job.id, job.submission, []))

    def stop(self) -> None:
        pass


class FakeSchedule:
    """A schedule with two jobs for each submission, one in the simulator and one on the real network."""

    def start(self, submission: str) -> list[Job]:
        target = JobTarget(submission, submission, "")
        return [
            job
            for network in ("rpyc", "sim")
            for job in split_into_jobs(target, "2A", network, runs_of(["first"], (0, 1)))
        ]

    def next_jobs(self, result: JobResult) -> list[Job]:
        return []


def loop(engine: FakeEngine) -> WorkLoop:
    settings = Settings(labs=["2A"], networks=["sim", "rpyc"], runs={"sim": 1, "rpyc": 1}, seed=0, jobs=1, rpyc_jobs=4)
    submissions = [blank(name, name, "", [], settings) for name in NAMES]
    plan = Report(tool="t", started="2026-11-21T00:00:00", settings=settings, submissions=submissions)
    return WorkLoop(plan, dict.fromkeys(NAMES, ""), engine, cast(Schedule, FakeSchedule()))


def test_simulated_jobs_do_not_wait_for_the_real_network(monkeypatch: Any) -> None:
    engine = FakeEngine()
    work = loop(engine)
    ahead = []

    def next_event() -> Any:
        if work._inbox.empty():  # nothing more can be done until a run on the real network ends
            ahead.append(len(engine.simulated))
            engine.end_one()
        return work._inbox.get_nowait()

    monkeypatch.setattr(work, "_next", next_event)
    events = list(work.events())
    assert [event.submission for event in events if isinstance(event, CheckResult)] == NAMES
    assert engine.simulated == NAMES
    assert engine.most["rpyc"] == 4
    assert ahead == [*range(5, 31), *[30] * 4]  # never more unfinished submissions than jobs that may be in flight
