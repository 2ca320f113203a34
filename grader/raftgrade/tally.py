"""Count records as they arrive, and make the report from them.

The report depends only on the plan and on the set of entries in ``records.jsonl``, not on their order. So after a crash,
the records on disk give the same report as those in memory would have given. Records are counted and then dropped. Even for
a course with hundreds of students, memory holds only numbers, and a few failures of the submissions that are in progress.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal, NamedTuple

import msgspec

from raftgrade import failure_classes, marks
from raftgrade.plan import Expected, Settings
from raftgrade.results import BadRun, NetworkResult, Problem, Report, Spread, State, SubmissionResult, TestResult
from raftgrade.spill import SpillFile
from raftgrade.stats import BATCH, Sequential, Verdict, clopper_pearson, percentile
from raftlab.explain.failure import Failure, Rule
from raftlab.runs.record import Outcome, Record
from raftlab.runs.trace_quota import TraceQuota

MAX_ADVICE = 5  # how many different pieces of advice are kept for one test; nobody reads more
# How many failures of one test, in one class of failures, keep their events and details. The others keep one sentence.
MAX_DETAILED = 3
Key = tuple[str, str, str, str, bool]  # submission, lab, test, network, hidden


class RunEntry(msgspec.Struct, tag="run", tag_field="kind"):
    """A line of ``records.jsonl``: the outcome of one run of ``submission``, signed (see signatures.py)."""

    submission: str
    record: Record
    signature: str = ""


class RefusalEntry(msgspec.Struct, tag="refused", tag_field="kind"):
    """A line of ``records.jsonl``: ``submission`` will not be run. If ``missing`` names labs (each with the reason), only
    these labs are not run. The state ``"unjudged"`` means that this is not the student's fault, and ``"absent"`` that
    nothing was handed in."""

    submission: str
    state: Literal["refused", "unjudged", "absent"]
    problems: list[Problem]
    missing: dict[str, str] = {}
    signature: str = ""


Entry = RunEntry | RefusalEntry


class PassedRun(NamedTuple):
    """The measurements of a run that passed."""

    lab_s: float
    cpu_s: float
    rpcs: float
    rpc_bytes: float


class RunCounter:
    """The finished runs of one test on one network. ``number`` is the index of ``result`` among all
    results of the submission."""

    def __init__(self, result: NetworkResult, number: int) -> None:
        self.result = result
        self.number = number
        self.outcomes: dict[int, Outcome] = {}
        self.passes: dict[int, PassedRun] = {}
        self.bad: dict[int, BadRun] = {}
        # Advice, by its text: the lowest seed whose run gave this advice, and the position of the advice in that run's list.
        self.advice: dict[str, tuple[int, int]] = {}
        # Findings of the race detector, by key: the lowest seed whose run had the finding, and the finding's text.
        self.findings: dict[str, tuple[int, str]] = {}
        self.retried: set[int] = set()
        self.wall_s: dict[int, float] = {}
        self.cpu_s: dict[int, float] = {}

    def add(self, record: Record, rules: dict[Rule, Rule]) -> bool:
        """Count a run, and return whether that changed anything. The first outcome stays, because a rerun must not hide a
        failure. Only a run that could not be judged may be judged later.

        When the lab itself (raftlab) fails, the fault may be in our code, in the machine or in the submission. The
        submission is blamed if the lab fails again with the same seed, and nothing shows that the machine is to blame.
        """
        seed = record.seed
        if self.outcomes.get(seed, "error") != "error":
            return False
        if seed in self.outcomes:
            if record.outcome == "error":
                if not (_is_unexplained(record.failure) and _is_unexplained(self.bad[seed].failure)):
                    return False
                assert record.failure is not None
                text = f"this run makes the lab itself fail, each time that it is performed: {record.failure.text}"
                record = msgspec.structs.replace(
                    record, outcome="failed", failure=Failure("host-died", text[:1000], detail=record.failure.detail)
                )
            self.retried.add(seed)
            self.bad.pop(seed, None)
        self.outcomes[seed] = record.outcome
        self.wall_s[seed], self.cpu_s[seed] = record.wall_s, record.cpu_s
        for place, line in enumerate(record.advice):
            self.advice[line] = min((seed, place), self.advice.get(line, (seed, place)))
        for finding in record.findings:
            self.findings[finding.key] = min((seed, finding.text), self.findings.get(finding.key, (seed, finding.text)))
        if record.outcome == "passed":
            self.passes[seed] = PassedRun(record.lab_s, record.cpu_s, record.rpcs, record.rpc_bytes)
        else:
            self._keep(record, rules)
        return True

    def _keep(self, record: Record, rules: dict[Rule, Rule]) -> None:
        failure = record.failure or Failure("unexplained", "the run did not pass, and its record does not say why")
        if failure.rule is not None:
            failure.rule = rules.setdefault(failure.rule, failure.rule)
        bad = BadRun(
            seed=record.seed,
            outcome="error" if record.outcome == "error" else "failed",
            sort=failure_classes.name(failure, record.outcome),
            failure=failure,
            replay=record.replay,
            trace=record.trace,
        )
        self.bad[record.seed] = bad
        # The lowest seeds keep their details, in whatever order the runs arrived.
        same = sorted(seed for seed, other in self.bad.items() if other.sort == bad.sort)
        for seed in same[MAX_DETAILED:]:
            self.bad[seed].failure = without_details(self.bad[seed].failure)

    def update_result(self, until: Sequential | None) -> None:
        """Bring the result up to date. ``until`` is the sequential test, if there is one."""
        result = self.result
        first, end = result.seeds
        result.runs, result.verdict = end - first, ""
        if until is not None and result.network == "sim" and not result.hidden:
            needed, verdict = runs_needed(self.outcomes, first, until)
            result.runs, result.verdict = needed, verdict or ""
        # An earlier report may have more runs than the sequential test needs now.
        counted_seeds = range(first, first + result.runs)
        result.bad = [self.bad[seed] for seed in sorted(self.bad) if seed in counted_seeds]
        passes = [self.passes[seed] for seed in sorted(self.passes) if seed in counted_seeds]
        result.passes = len(passes)
        result.failures = sum(bad.outcome == "failed" for bad in result.bad)
        result.errors = sum(bad.outcome == "error" for bad in result.bad)
        result.retried = len(self.retried)
        result.interval = clopper_pearson(result.passes, result.passes + result.failures)
        result.lab_s = _spread([each.lab_s for each in passes])
        result.run_cpu_s = _spread([each.cpu_s for each in passes])
        result.rpcs = _spread([each.rpcs for each in passes])
        result.rpc_bytes = _spread([each.rpc_bytes for each in passes])
        result.wall_s = round(sum(self.wall_s[seed] for seed in sorted(self.wall_s)), 3)
        result.cpu_s = round(sum(self.cpu_s[seed] for seed in sorted(self.cpu_s)), 3)
        classes = Counter(bad.sort for bad in result.bad)
        result.classes = dict(sorted(classes.items(), key=lambda item: (-item[1], item[0])))


def _is_unexplained(failure: Failure | None) -> bool:
    """Whether the lab failed without any evidence that the machine is to blame."""
    return failure is not None and failure.kind == "error"


def runs_needed(outcomes: dict[int, Outcome], first: int, until: Sequential) -> tuple[int, Verdict | None]:
    """The number of runs, from seed ``first`` on, that the sequential test ``until`` needs, and its verdict once it has
    one. This depends on the outcomes alone, not on their order in time."""
    needed = 0
    while True:
        needed = min(needed + BATCH, until.most)
        seeds = range(first, first + needed)
        if not all(seed in outcomes for seed in seeds):
            return needed, None
        verdict = until.verdict(outcomes[seed] == "passed" for seed in seeds if outcomes[seed] != "error")
        if verdict != "undecided" or needed == until.most:
            return needed, verdict


class Tally:
    """Counts entries against a plan.

    Args:
        plan: a report without results; it is filled in.
        spill: where finished submissions go; without it, they stay in memory.
        trace_quota: makes the quota for the traces of a submission, by its slug; without it there is no limit.

    Attributes:
        done: how many runs have an outcome.
        failed: how many of these runs failed.
    """

    def __init__(
        self, plan: Report, spill: SpillFile | None = None, trace_quota: Callable[[str], TraceQuota] | None = None
    ) -> None:
        self.report = plan
        self._spill = spill
        self._make_trace_quota = trace_quota
        self._trace_quotas: dict[str, TraceQuota] = {}  # of each submission in progress that has a failed run
        self.done = 0
        self.failed = 0
        self._counters: dict[Key, RunCounter] = {}
        self._refused: dict[str, RefusalEntry] = {}
        self._rules: dict[Rule, Rule] = {}
        self._stale = {submission.name for submission in plan.submissions}
        self._by_name = {submission.name: submission for submission in plan.submissions}
        for submission in plan.submissions:
            for number, (key, result) in enumerate(_results(submission)):
                self._counters[key] = RunCounter(result, number)

    def add(self, entry: Entry) -> bool:
        """Count ``entry``. Returns ``False`` if it does not count: it is not in the plan, or has been counted already."""
        if isinstance(entry, RefusalEntry):
            if entry.submission not in self._by_name or entry.submission in self._refused:
                return False
            if entry.missing:
                known = self._by_name[entry.submission].missing
                if known.keys() >= entry.missing.keys():
                    return False
                self._by_name[entry.submission].missing = known | entry.missing
            else:
                self._refused[entry.submission] = entry
            self._stale.add(entry.submission)
            return True
        record = entry.record
        counter = self.counter(entry.submission, record.lab, record.test, record.network, record.seed)
        if counter is None:
            return False
        again = record.seed in counter.outcomes
        if not counter.add(record, self._rules):
            return False
        self._keep_trace(entry.submission, counter, record)
        self._stale.add(entry.submission)
        self.done += not again
        self.failed += counter.outcomes[record.seed] == "failed"
        return True

    def _keep_trace(self, name: str, counter: RunCounter, record: Record) -> None:
        """Add a trace to the quota. Remove from the results the names of traces that were deleted to make room."""
        if self._make_trace_quota is None or not record.trace or record.seed not in counter.bad:
            return
        if name not in self._trace_quotas:
            self._trace_quotas[name] = self._make_trace_quota(self._by_name[name].slug)
        removed = self._trace_quotas[name].took((record.seed - counter.result.seeds[0], counter.number), record.trace)
        keys = [key for key, _ in _results(self._by_name[name])] if removed else []
        for seed, number in removed:
            other = self._counters[keys[number]]
            bad = other.bad.get(seed + other.result.seeds[0])
            if bad is not None:  # missing if a run could not be judged at first and passed later
                bad.trace = ""

    def counter(self, submission: str, lab: str, test: str, network: str, seed: int) -> RunCounter | None:
        """The counter that a run belongs to; ``None`` if the run is not in the plan, or its submission is finished."""
        for hidden in (False, True):
            counter = self._counters.get((submission, lab, test, network, hidden))
            if counter is not None and seed in range(*counter.result.seeds):
                return counter
        return None

    def update_report(self, complete: bool, seconds: float) -> Report:
        """The report so far, without what was spilled to disk. ``seconds`` is how long the grading run
        has taken."""
        for name in sorted(self._stale):
            self.settle(name)
        self._stale.clear()
        self.report.complete = complete
        self.report.seconds = round(seconds, 3)
        return self.report

    def settle(self, name: str) -> None:
        """Bring one submission's results up to date. If it is finished, release the memory of its runs. Raises ``OSError``
        if it cannot be spilled to disk."""
        submission = self.update(name)
        if submission.state == "graded" and not submission.errors:
            for key, _ in _results(submission):
                self._counters.pop(key, None)
            self._trace_quotas.pop(name, None)
            if self._spill is not None:
                self._spill.put(submission)

    def update(self, name: str) -> SubmissionResult:
        """Bring one submission's results up to date."""
        submission = self._by_name[name]
        settings = self.report.settings
        found: set[str] = set()
        for test in submission.tests:
            if not self._update_test(name, test, settings, found):
                return submission  # the submission was finished before
        refused = self._refused.get(name)
        if refused is not None:
            submission.problems = refused.problems
            submission.state = refused.state
        marks.mark_one(submission, self.report.rubric, settings)
        if refused is None:
            submission.state = _state(submission)
        return submission

    def _update_test(self, name: str, test: TestResult, settings: Settings, found: set[str]) -> bool:
        """Bring one test up to date. ``found`` are the findings of the race detector in the tests before it."""
        advice: dict[str, None] = {}
        test.races = 0
        for result in test.networks:
            counter = self._counters.get((name, test.lab, test.name, result.network, result.hidden))
            if counter is None:
                return False
            counter.update_result(settings.until)
            advice |= dict.fromkeys(sorted(counter.advice, key=lambda line: (counter.advice[line], line)))
            for key in sorted(counter.findings.keys() - found):
                found.add(key)
                test.races += 1
                advice[f"races: {counter.findings[key][1]}"] = None
        test.advice = list(advice)[:MAX_ADVICE]
        return True


def _results(submission: SubmissionResult) -> list[tuple[Key, NetworkResult]]:
    """All results of ``submission``, in the order of the labs."""
    return [
        ((submission.name, test.lab, test.name, result.network, result.hidden), result)
        for test in submission.tests
        for result in test.networks
    ]


def _state(submission: SubmissionResult) -> State:
    networks = [network for test in submission.tests for network in test.networks]
    if all(network.done == network.runs for network in networks):
        return "graded"
    return "running" if any(network.done for network in networks) else "waiting"


def without_details(failure: Failure) -> Failure:
    """The failure without its long parts."""
    return Failure(failure.kind, failure.text, failure.rule, failure.where)


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    return Spread(round(percentile(values, 50), 4), round(percentile(values, 95), 4))


def blank(
    name: str, slug: str, path: str, tests: list[Expected], settings: Settings, id: str = "", hash: str = ""
) -> SubmissionResult:
    """A submission before its first run."""
    results = [
        TestResult(
            lab=test.lab,
            name=test.name,
            title=test.title,
            points=0,
            max_points=test.points,
            suite_points=test.points,
            networks=_blank_networks(test, settings),
        )
        for test in tests
    ]
    return SubmissionResult(
        name=name,
        slug=slug,
        path=path,
        id=id,
        hash=hash,
        state="waiting",
        points=0,
        max_points=sum(test.points for test in tests),
        tests=results,
    )


def _blank_networks(test: Expected, settings: Settings) -> list[NetworkResult]:
    seeds = [(network, settings.seeds(network), False) for network in test.networks]
    if settings.hidden is not None and "sim" in test.networks:
        seeds.insert(1 if test.networks[0] == "sim" else 0, ("sim", settings.hidden, True))
    return [
        NetworkResult(network=network, seeds=both, runs=both[1] - both[0], hidden=hidden)
        for network, both, hidden in seeds
    ]
