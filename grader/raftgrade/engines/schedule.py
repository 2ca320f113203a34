"""The conductor: which jobs of a submission come next, and when there are none left.

Most often it is all of them at once. But a rubric may keep a lab shut until another is passed, a sequential test goes on
only while it is unsure, and what could not be judged is tried once more, apart from the rest. Each decision rests on the
outcomes alone and never on when they came, so that any number of jobs on any engine makes the same runs. Runs that an
earlier report has are not made again: their outcomes are counted when their turn comes, and those target turn never comes
(of a lab that stays shut, or after a sequential test was sure) are not, so that a report does not depend on what was done
before.
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

EXPECTED_BATCHES = 4  # what a sequential test takes for a good program; for estimates
_AGAIN = ".again"

Part = tuple[str, str]  # submission, lab (or test)
Run = tuple[str, str, str, int]  # lab, test, network, seed


class Schedule:
    """Hands out the jobs of every submission of ``plan``; ``paths`` gives where each is. ``known`` gives the runs of a
    submission that need not be made; it is asked once, when the submission's turn comes."""

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
        self._known: dict[str, dict[Run, list[RunEntry]]] = {}  # of each submission at work
        self._running: dict[str, Job] = {}
        self._unfinished: Counter[Part] = Counter()
        self._unopened: dict[str, list[str]] = {each.name: list(plan.settings.labs) for each in plan.submissions}
        self._correction: Counter[str] = Counter()
        self._decided: set[Part] = set()

    def start(self, submission: str) -> list[Job]:
        """The first jobs of a submission."""
        return self._open(submission)

    def is_complete(self, submission: str) -> bool:
        """Whether every run of a submission is known. To be asked before :meth:`begin`."""
        jobs = self._open(submission)
        if not jobs:
            del self._known[submission]
            self._tally.settle(submission)
            return True
        # Not yet: there is a check to come, and the jobs of a whole course would fill the memory.
        self._unopened[submission] = list(self._settings.labs)
        for job in jobs:
            del self._running[job.id]
            self._unfinished[job.submission, job.lab] -= 1
        return False

    def next_jobs(self, result: JobResult) -> list[Job]:
        """What follows upon a job, once the tally has its records."""
        job = self._running.pop(result.job)
        part = (job.submission, job.lab)
        self._unfinished[part] -= 1
        jobs: list[Job] = []
        if _AGAIN not in job.id.removeprefix(job.slug):
            jobs += self._start_jobs(self._retries(job, result))
        if not self._unfinished[part]:
            jobs += self._continue_test(job.submission, job.lab)
        if not self._unfinished[part]:
            jobs += self._open(job.submission)
        if not any(self._unfinished[job.submission, lab] for lab in self._settings.labs):
            del self._known[job.submission]  # what is left is of labs that stayed shut
        return jobs

    def expected_runs(self) -> dict[str, int]:
        """About how many runs a submission takes, by network."""
        return {network: sum(self._expected(lab, network) for lab in self._settings.labs) for network in self._networks}

    def correction(self) -> dict[str, int]:
        """By how much :meth:`usual` was too high, by network, for what was decided since the last call."""
        dropped, self._correction = dict(self._correction), Counter()
        return dropped

    @property
    def _networks(self) -> list[str]:
        """The long jobs (rpyc) first, so that none of them is left alone at the end."""
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
        """Jobs of the labs that need nothing more; those that stay shut for good are passed over."""
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
        # What was opened may all be known: then what follows must come from here.
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
        """The next batch of a sequential test of which not all is known."""
        while batch := list(self._next_batch(submission, lab)):
            if jobs := self._start_jobs(batch):
                return jobs
        return []

    def _next_batch(self, submission: str, lab: str) -> Iterable[Job]:
        """More runs of the tests of which a sequential test is not sure yet."""
        until = self._settings.until
        if until is None or "sim" not in self._settings.networks:
            return
        first = self._settings.seed
        unsure: dict[tuple[int, int], list[str]] = {}
        for name in self._names(lab, "sim"):
            runs = self._tally.runs(submission, lab, name, "sim", first)
            if runs is None:
                continue  # the tally is done with this submission
            wanted, verdict = runs_needed(runs.outcomes, first, until)
            if verdict is None:
                # No more than a batch at a time, so the seeds before have been tried; gaps are closed in _started.
                unsure.setdefault((first + max(0, wanted - BATCH), first + wanted), []).append(name)
            elif (submission, name) not in self._decided:
                self._decided.add((submission, name))
                self._correction["sim"] += min(EXPECTED_BATCHES * BATCH, until.most) - wanted
        for seeds, names in sorted(unsure.items()):
            yield from split_into_jobs(self._targets[submission], lab, "sim", names, seeds, f".{seeds[0]}")

    def _retries(self, job: Job, result: JobResult) -> Iterable[Job]:
        """What could not be judged, in jobs that hold nothing else."""
        failed = [(record.test, record.seed) for record in result.records if record.outcome == "error"]
        return _pieces(job, sorted(set(failed), key=job.runs.index), _AGAIN)

    def _start_jobs(self, jobs: Iterable[Job]) -> list[Job]:
        """Note that ``jobs`` are at work, without the runs that have their outcome already."""
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
        """Count what is known of ``job``."""
        known = self._known[job.submission]
        for test, seed in job.runs:
            for entry in known.pop((job.lab, test, job.network, seed), ()):
                if self._tally.add(entry) and entry.record.outcome != "error":
                    self._correction[job.network] += 1

    def _has(self, job: Job, run: tuple[str, int]) -> bool:
        runs = self._tally.runs(job.submission, job.lab, run[0], job.network, run[1])
        # What the tally is done with is wanted no more: it has no place for it.
        return runs is None or runs.outcomes.get(run[1], "error") != "error"


def _place(entry: RunEntry) -> Run:
    record = entry.record
    return record.lab, record.test, record.network, record.seed


def _pieces(job: Job, runs: list[tuple[str, int]], label: str) -> list[Job]:
    """Jobs for some of the runs of ``job``: one for each unbroken stretch of seeds of a test."""
    stretches: list[tuple[str, int, int]] = []
    for test, seed in runs:
        if stretches and stretches[-1][0] == test and stretches[-1][2] == seed:
            stretches[-1] = (test, stretches[-1][1], seed + 1)
        else:
            stretches.append((test, seed, seed + 1))
    return [
        msgspec.structs.replace(job, id=f"{job.id}{label}{number}", tests=[test], seeds=(first, end))
        for number, (test, first, end) in enumerate(stretches)
    ]
