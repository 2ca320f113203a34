"""The local engine: threads on this machine, each of which runs one child process at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from raftgrade.engines.child_processes import Children
from raftgrade.engines.commands import Commands
from raftgrade.engines.jobs import CheckResult, JobResult, run_check, run_job
from raftgrade.plan import Job, Settings
from raftgrade.results import SubmissionResult
from raftgrade.store import Store
from raftlab.runs.record import Record


class LocalEngine:
    """An :class:`~raftgrade.engines.work_loop.Engine` on this machine, with ``settings.jobs`` threads."""

    def __init__(self, settings: Settings, commands: Commands, store: Store) -> None:
        self.max_in_flight = self.workers = settings.jobs
        self._settings = settings
        self._commands = commands
        self._store = store
        self._children = Children(settings.jobs)
        self._executor = ThreadPoolExecutor(settings.jobs, thread_name_prefix="raftgrade")

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        return self._executor.submit(
            run_check,
            submission.name,
            path,
            self._settings.labs,
            self._settings.level,
            commands=self._commands,
            children=self._children,
            log=self._store.log(f"{submission.slug}.check"),
        )

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        return self._executor.submit(
            run_job,
            job,
            commands=self._commands,
            children=self._children,
            log=self._store.log(job.id),
            traces=self._store.traces(job.slug),
            on_record=on_record,
        )

    def stop(self) -> None:
        """Kill every child and wait for the threads."""
        self._children.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)
