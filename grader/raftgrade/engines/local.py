"""The local engine: threads on this machine, each of which runs one child process at a time.

Runs on the real network have threads of their own. These runs mostly wait, while simulated runs mostly compute. Together,
they keep the machine busy.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from raftgrade.engines.child_processes import Children
from raftgrade.engines.commands import Commands, environment
from raftgrade.engines.job_fork_server import JobForkServer
from raftgrade.engines.jobs import CheckResult, JobResult, run_check, run_job
from raftgrade.plan import Job, Pool, Settings
from raftgrade.results import SubmissionResult
from raftgrade.store import Store
from raftlab.runs.record import Record


class LocalEngine:
    """An :class:`~raftgrade.engines.work_loop.Engine` on this machine, with ``settings.jobs`` threads for the
    simulator and for checks, and ``settings.rpyc_jobs`` for the real network."""

    def __init__(self, settings: Settings, commands: Commands, store: Store) -> None:
        self._settings = settings
        self._commands = commands
        self._store = store
        self._children = Children(settings.jobs, JobForkServer(environment()))
        self._sizes = {"sim": settings.jobs, "rpyc": settings.rpyc_jobs}
        self._executors = {
            network: ThreadPoolExecutor(size, thread_name_prefix=f"raftgrade-{network}")
            for network, size in self._sizes.items()
        }

    def pools(self) -> list[Pool]:
        return [Pool((network,), size, size) for network, size in self._sizes.items()]

    def check(self, submission: SubmissionResult, path: str) -> Future[CheckResult]:
        return self._executors["sim"].submit(
            run_check,
            submission.name,
            path,
            [lab for lab in self._settings.labs if lab not in submission.missing],
            self._settings.level,
            commands=self._commands,
            children=self._children,
            log=self._store.log(f"{submission.slug}.check"),
        )

    def job(self, job: Job, on_record: Callable[[Record], None]) -> Future[JobResult]:
        return self._executors[job.network].submit(
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
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=True)
