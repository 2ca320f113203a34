"""Decide which jobs of a submission come next, and when there are none left.

Usually all jobs of a submission are started together. There are four exceptions: a lab is skipped if something is missing
for it, a rubric may skip a lab unless another lab was passed, a sequential test (``--until-sure``) gets more runs only while
it is undecided, and runs that could not be judged are tried once more, in separate jobs. Each decision depends only on the
outcomes and not on the order in which they arrive, so any number of jobs on any engine performs the same runs.

Runs whose outcome is in an earlier report are not repeated. The outcome of such a run is counted at the moment when the run
would have been started. A run that would never have been started (because its lab is skipped, or its sequential test is
decided) is not counted. So a report does not depend on earlier reports.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from raftgrade import marks
from raftgrade.engines.jobs import JobResult
from raftgrade.plan import Expected, Job, JobTarget, TestRun, runs_of, split_into_jobs
from raftgrade.results import Report
from raftgrade.stats import BATCH
from raftgrade.tally import RunEntry, Tally, runs_needed

EXPECTED_BATCHES = 4  # how many batches a sequential test of a good program takes; used for estimates
_RETRY = ".again"  # in the ids of jobs that try runs once more

Part = tuple[str, str]  # submission, lab (or test)
Run = tuple[str, str, str, int]  # lab, test, network, seed


class Batch(NamedTuple):
    """Runs of one lab that are started together. Jobs of different batches have different ids, because the ids contain
    ``label``."""

    lab: str
    network: str
    runs: Sequence[TestRun]
    label: str = ""


class Schedule:
    """Hands out the jobs of every submission of ``plan``.

    Args:
        plan: a report without results.
        tests: the tests that every submission must run.
        paths: where the copy of each submission is, by its name.
        tally: counts the outcomes that the decisions depend on.
        known: returns the runs of a submission that need not be performed; called once, when the submission is started.
    """

    def __init__(
        self,
        plan: Report,
        tests: list[Expected],
        paths: dict[str, str],
        tally: Tally,
        known: Callable[[str], Iterable[RunEntry]],
    ) -> None:
        self._settings = plan.settings
        self._rubric = plan.rubric
        self._tests = tests
        self._tally = tally
        level = plan.settings.level
        self._targets = {
            each.name: JobTarget(each.name, each.slug, paths[each.name], level, plan.settings.races)
            for each in plan.submissions
        }
        self._submissions = {each.name: each for each in plan.submissions}
        self._read_known = known
        self._known: dict[str, dict[Run, list[RunEntry]]] = {}  # of each submission in progress
        self._running: dict[str, Job] = {}  # by id
        self._unfinished: Counter[Part] = Counter()  # how many jobs of a lab are running
        self._unopened: dict[str, list[str]] = {each.name: list(plan.settings.labs) for each in plan.submissions}
        self._correction: Counter[str] = Counter()
        self._decided: set[Part] = set()  # skipped labs and decided tests that the correction already includes

    def start(self, submission: str) -> list[Job]:
        """The first jobs of a submission."""
        return self._open(submission)

    def is_complete(self, submission: str) -> bool:
        """Whether every run of a submission is known already. Call it before :meth:`start`."""
        jobs = self._open(submission)
        if not jobs:
            del self._known[submission]
            self._tally.settle(submission)
            return True
        # Drop these jobs again: they start only after the check, and the jobs of a whole course would fill the memory.
        self._unopened[submission] = list(self._settings.labs)
        for job in jobs:
            del self._running[job.id]
            self._unfinished[job.submission, job.lab] -= 1
        return False

    def next_jobs(self, result: JobResult) -> list[Job]:
        """The jobs that can start now that one has finished. The tally must already have the finished job's records."""
        job = self._running.pop(result.job)
        part = (job.submission, job.lab)
        self._unfinished[part] -= 1
        jobs: list[Job] = []
        if _RETRY not in job.id.removeprefix(job.slug):
            jobs += self._retry(job, result)
        if not self._unfinished[part]:
            jobs += self._continue_test(job.submission, job.lab)
        if not self._unfinished[part]:
            jobs += self._open(job.submission)
        if not any(self._unfinished[job.submission, lab] for lab in self._settings.labs):
            del self._known[job.submission]  # what is left belongs to skipped labs
        return jobs

    def expected_runs(self) -> dict[str, int]:
        """An estimate of how many runs a submission takes, by network."""
        return {network: sum(self._expected(lab, network) for lab in self._settings.labs) for network in self._networks}

    def correction(self) -> dict[str, int]:
        """By how much :meth:`expected_runs` was too high, by network. Covers the decisions since the last call."""
        correction, self._correction = dict(self._correction), Counter()
        return correction

    @property
    def _networks(self) -> list[str]:
        """The networks. The one with long jobs (rpyc) comes first, so that no long job runs alone at the end."""
        return sorted(self._settings.networks, key=lambda name: name != "rpyc")

    def _names(self, lab: str, network: str) -> list[str]:
        return [test.name for test in self._tests if test.lab == lab and network in test.networks]

    def _expected(self, lab: str, network: str) -> int:
        settings = self._settings
        runs = settings.runs[network]
        if network == "sim":
            runs = runs if settings.until is None else min(EXPECTED_BATCHES * BATCH, settings.until.most)
            runs += settings.hidden[1] - settings.hidden[0] if settings.hidden is not None else 0
        return runs * len(self._names(lab, network))

    def _open(self, submission: str) -> list[Job]:
        """The jobs of labs whose required labs are finished. Labs that are skipped get no jobs."""
        if submission not in self._known:
            known = self._known[submission] = {}
            for entry in self._read_known(submission):
                known.setdefault(_place(entry), []).append(entry)
        opened: list[str] = []
        for lab in list(self._unopened[submission]):
            if any(need in opened or self._pending(submission, need) for need in self._rubric.needs(lab)):
                continue
            self._unopened[submission].remove(lab)
            if self._is_skipped(submission, lab):
                if (submission, lab) not in self._decided:
                    self._decided.add((submission, lab))
                    self._correction.update({network: self._expected(lab, network) for network in self._networks})
            else:
                opened.append(lab)
        jobs = [
            job
            for network in self._networks
            for lab in opened
            for batch in self._first_batches(lab, network)
            for job in self._start_batch(submission, batch)
        ]
        # If all runs of an opened lab are known, the lab gets no job, so no job's end starts what comes after the lab. The
        # jobs that depend on the lab must be started here.
        for lab in opened:
            if not self._unfinished[submission, lab]:
                jobs += self._continue_test(submission, lab)
        if any(not self._unfinished[submission, lab] for lab in opened):
            jobs += self._open(submission)
        return jobs

    def _pending(self, submission: str, lab: str) -> bool:
        return lab in self._unopened[submission] or bool(self._unfinished[submission, lab])

    def _is_skipped(self, submission: str, lab: str) -> bool:
        if lab in self._submissions[submission].missing:
            return True
        if not self._rubric.needs(lab):
            return False
        reason, _ = marks.why_skipped(self._tally.update(submission), self._rubric, lab)
        return bool(reason)

    def _first_batches(self, lab: str, network: str) -> Iterable[Batch]:
        settings = self._settings
        names = self._names(lab, network)
        first, end = settings.seeds(network)
        if network == "sim" and settings.until is not None:
            end = first + min(BATCH, settings.until.most)
        yield Batch(lab, network, runs_of(names, (first, end)))
        if network == "sim" and settings.hidden is not None:
            yield Batch(lab, network, runs_of(names, settings.hidden), ".hidden")

    def _continue_test(self, submission: str, lab: str) -> list[Job]:
        """The jobs of the sequential tests' next batch. Batches whose runs are all known are counted and passed over."""
        while batches := list(self._next_batches(submission, lab)):
            if jobs := [job for batch in batches for job in self._start_batch(submission, batch)]:
                return jobs
        return []

    def _next_batches(self, submission: str, lab: str) -> Iterable[Batch]:
        """More runs of the tests that are still undecided."""
        until = self._settings.until
        if until is None or "sim" not in self._settings.networks:
            return
        first = self._settings.seed
        undecided: dict[tuple[int, int], list[str]] = {}
        for name in self._names(lab, "sim"):
            counter = self._tally.counter(submission, lab, name, "sim", first)
            if counter is None:
                continue  # this submission is finished
            needed, verdict = runs_needed(counter.outcomes, first, until)
            if verdict is None:
                # One batch at a time: earlier seeds have been tried. _start_batch leaves out the runs that are known.
                undecided.setdefault((first + max(0, needed - BATCH), first + needed), []).append(name)
            elif (submission, name) not in self._decided:
                self._decided.add((submission, name))
                self._correction["sim"] += min(EXPECTED_BATCHES * BATCH, until.most) - needed
        for seeds, names in sorted(undecided.items()):
            yield Batch(lab, "sim", runs_of(names, seeds), f".{seeds[0]}")

    def _retry(self, job: Job, result: JobResult) -> list[Job]:
        """Start jobs for the runs that could not be judged, and for no others. Each test gets jobs of its own, so that a run
        that kills its job does not affect other tests."""
        failed = {(record.test, record.seed) for record in result.records if record.outcome == "error"}
        label = job.id.removeprefix(f"{job.slug}.{job.lab}.{job.network}") + _RETRY
        jobs = []
        for number, test in enumerate(job.tests):
            runs = [run for run in job.runs if run[0] == test and run in failed]
            jobs += self._start_batch(job.submission, Batch(job.lab, job.network, runs, f"{label}{number}"))
        return jobs

    def _start_batch(self, submission: str, batch: Batch) -> list[Job]:
        """Return the jobs of ``batch``, noted as running. Runs that already have an outcome are left out."""
        self._count_known(submission, batch)
        missing = [run for run in batch.runs if not self._has(submission, batch, run)]
        jobs = split_into_jobs(self._targets[submission], batch.lab, batch.network, missing, batch.label)
        self._running.update({job.id: job for job in jobs})
        self._unfinished[submission, batch.lab] += len(jobs)
        return jobs

    def _count_known(self, submission: str, batch: Batch) -> None:
        """Count the known runs of ``batch``."""
        known = self._known[submission]
        for test, seed in batch.runs:
            for entry in known.pop((batch.lab, test, batch.network, seed), ()):
                if self._tally.add(entry) and entry.record.outcome != "error":
                    self._correction[batch.network] += 1

    def _has(self, submission: str, batch: Batch, run: TestRun) -> bool:
        counter = self._tally.counter(submission, batch.lab, run[0], batch.network, run[1])
        # If there is no counter, the submission is finished, so the run is not needed.
        return counter is None or counter.outcomes.get(run[1], "error") != "error"


def _place(entry: RunEntry) -> Run:
    record = entry.record
    return record.lab, record.test, record.network, record.seed
