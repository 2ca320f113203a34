"""Decide which jobs of a submission come next, and when there are none left.

Mostly all jobs start at once. But a rubric may skip a lab unless another one was passed, a sequential test goes on only
while it is undecided, and runs that could not be judged are tried once more, in jobs of their own. Each decision depends on
the outcomes alone and never on their order in time, so that any number of jobs on any engine makes the same runs.

Runs that an earlier report has are not made again. Their outcomes are counted when it is their turn; those whose turn never
comes (of a skipped lab, or after a sequential test was decided) are not counted. So a report does not depend on what was
done before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import msgspec

from raftgrade.engines.jobs import JobResult
from raftgrade.plan import Expected, Job, JobTarget, split_into_jobs
from raftgrade.results import Report
from raftgrade.stats import BATCH
from raftgrade.tally import RunEntry, Tally, runs_needed

EXPECTED_BATCHES = 4  # how many batches a sequential test of a good program takes; for estimates
_RETRY = ".again"  # in the ids of jobs that try runs once more

Part = tuple[str, str]  # submission, lab (or test)
Run = tuple[str, str, str, int]  # lab, test, network, seed


class Schedule:
    """Hands out the jobs of every submission of ``plan``.

    Args:
        plan: a report without results.
        tests: the tests that every submission must run.
        paths: where the copy of each submission is, by its name.
        tally: counts the outcomes that the decisions depend on.
        known: returns the runs of a submission that need not be made; called once, when it is the submission's turn.
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
            each.name: JobTarget(each.name, each.slug, paths[each.name], level) for each in plan.submissions
        }
        self._read_known = known
        self._known: dict[str, dict[Run, list[RunEntry]]] = {}  # of each submission in progress
        self._running: dict[str, Job] = {}  # by id
        self._unfinished: Counter[Part] = Counter()  # how many jobs of a lab are running
        self._unopened: dict[str, list[str]] = {each.name: list(plan.settings.labs) for each in plan.submissions}
        self._correction: Counter[str] = Counter()
        self._decided: set[Part] = set()  # skipped labs and decided tests that are in the correction already

    def start(self, submission: str) -> list[Job]:
        """The first jobs of a submission."""
        return self._open(submission)

    def is_complete(self, submission: str) -> bool:
        """Whether every run of a submission is known already. To be called before :meth:`start`."""
        jobs = self._open(submission)
        if not jobs:
            del self._known[submission]
            self._tally.settle(submission)
            return True
        # Forget the jobs: the check comes first, and the jobs of a whole course would fill the memory.
        self._unopened[submission] = list(self._settings.labs)
        for job in jobs:
            del self._running[job.id]
            self._unfinished[job.submission, job.lab] -= 1
        return False

    def next_jobs(self, result: JobResult) -> list[Job]:
        """The jobs that follow upon a finished one. The tally must have its records."""
        job = self._running.pop(result.job)
        part = (job.submission, job.lab)
        self._unfinished[part] -= 1
        jobs: list[Job] = []
        if _RETRY not in job.id.removeprefix(job.slug):
            jobs += self._start_jobs(self._retries(job, result))
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
        """By how much :meth:`expected_runs` was too high, by network, considering what was decided since the last call."""
        correction, self._correction = dict(self._correction), Counter()
        return correction

    @property
    def _networks(self) -> list[str]:
        """Long jobs (rpyc) come first, so that none of them runs alone at the end."""
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
        """The jobs of labs whose required labs are finished. Labs that the rubric skips get no jobs."""
        if submission not in self._known:
            known = self._known[submission] = {}
            for entry in self._read_known(submission):
                known.setdefault(_place(entry), []).append(entry)
        opened: list[str] = []
        for lab in list(self._unopened[submission]):
            if any(need in opened or self._pending(submission, need) for need in self._rubric.needs(lab)):
                continue
            self._unopened[submission].remove(lab)
            if self._rubric.needs(lab) and self._is_skipped(submission, lab):
                if (submission, lab) not in self._decided:
                    self._decided.add((submission, lab))
                    self._correction.update({network: self._expected(lab, network) for network in self._networks})
            else:
                opened.append(lab)
        jobs = [
            job
            for network in self._networks
            for lab in opened
            for job in self._first_jobs(self._targets[submission], lab, network)
        ]
        jobs = self._start_jobs(jobs)
        # If all runs of an opened lab are known, no job will end and lead to the next ones: they must come from here.
        for lab in opened:
            if not self._unfinished[submission, lab]:
                jobs += self._continue_test(submission, lab)
        if any(not self._unfinished[submission, lab] for lab in opened):
            jobs += self._open(submission)
        return jobs

    def _pending(self, submission: str, lab: str) -> bool:
        return lab in self._unopened[submission] or bool(self._unfinished[submission, lab])

    def _is_skipped(self, submission: str, lab: str) -> bool:
        tests = self._tally.update(submission).tests
        return any(test.state == "skipped" for test in tests if test.lab == lab)

    def _first_jobs(self, target: JobTarget, lab: str, network: str) -> Iterable[Job]:
        settings = self._settings
        names = self._names(lab, network)
        first, end = settings.seeds(network)
        if network != "sim":
            yield from split_into_jobs(target, lab, network, names, (first, end))
            return
        if settings.until is not None:
            end = first + min(BATCH, settings.until.most)
        yield from split_into_jobs(target, lab, network, names, (first, end))
        if settings.hidden is not None:
            yield from split_into_jobs(target, lab, network, names, settings.hidden, ".hidden")

    def _continue_test(self, submission: str, lab: str) -> list[Job]:
        """The next batch of the sequential tests that has unknown runs."""
        while batch := list(self._next_batch(submission, lab)):
            if jobs := self._start_jobs(batch):
                return jobs
        return []

    def _next_batch(self, submission: str, lab: str) -> Iterable[Job]:
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
                # One batch at a time: the seeds before have been tried. Runs that are known drop out in _start_jobs.
                undecided.setdefault((first + max(0, needed - BATCH), first + needed), []).append(name)
            elif (submission, name) not in self._decided:
                self._decided.add((submission, name))
                self._correction["sim"] += min(EXPECTED_BATCHES * BATCH, until.most) - needed
        for seeds, names in sorted(undecided.items()):
            yield from split_into_jobs(self._targets[submission], lab, "sim", names, seeds, f".{seeds[0]}")

    def _retries(self, job: Job, result: JobResult) -> Iterable[Job]:
        """Jobs for the runs that could not be judged, and for no others."""
        failed = [(record.test, record.seed) for record in result.records if record.outcome == "error"]
        return _pieces(job, sorted(set(failed), key=job.runs.index), _RETRY)

    def _start_jobs(self, jobs: Iterable[Job]) -> list[Job]:
        """Note that ``jobs`` are running. Runs that have an outcome already are taken out of them."""
        started = []
        for job in jobs:
            self._count_known(job)
            missing = [run for run in job.runs if not self._has(job, run)]
            for piece in [job] if len(missing) == len(job.runs) else _pieces(job, missing, ".rest"):
                self._running[piece.id] = piece
                self._unfinished[piece.submission, piece.lab] += 1
                started.append(piece)
        return started

    def _count_known(self, job: Job) -> None:
        """Count the known runs of ``job``."""
        known = self._known[job.submission]
        for test, seed in job.runs:
            for entry in known.pop((job.lab, test, job.network, seed), ()):
                if self._tally.add(entry) and entry.record.outcome != "error":
                    self._correction[job.network] += 1

    def _has(self, job: Job, run: tuple[str, int]) -> bool:
        counter = self._tally.counter(job.submission, job.lab, run[0], job.network, run[1])
        # Without a counter, the submission is finished, and the run is not needed.
        return counter is None or counter.outcomes.get(run[1], "error") != "error"


def _place(entry: RunEntry) -> Run:
    record = entry.record
    return record.lab, record.test, record.network, record.seed


def _pieces(job: Job, runs: list[tuple[str, int]], label: str) -> list[Job]:
    """Jobs for some of the runs of ``job``: one for each unbroken range of seeds of a test."""
    ranges: list[tuple[str, int, int]] = []
    for test, seed in runs:
        if ranges and ranges[-1][0] == test and ranges[-1][2] == seed:
            ranges[-1] = (test, ranges[-1][1], seed + 1)
        else:
            ranges.append((test, seed, seed + 1))
    return [
        msgspec.structs.replace(job, id=f"{job.id}{label}{number}", tests=[test], seeds=(first, end))
        for number, (test, first, end) in enumerate(ranges)
    ]
