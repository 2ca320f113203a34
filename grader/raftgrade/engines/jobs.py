"""Run one job, and account for every run in it.

The job's process is the judge: student code runs in a host process beside it. If the job's process *dies*, its missing runs
are tried again in a new process. If it dies twice at the same run, this run is tried with a submission of our own. If the
job dies with our own submission too, the machine is to blame, and the run gets the outcome ``error`` ("could not be
judged"). Otherwise, the run has *failed*. A run that is missing although the job reached its end, or that never ends, has
failed as well: a run that does not report has not passed. The job's exit code does not matter.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import msgspec

from raftgrade import failure_classes
from raftgrade.engines.child_processes import ChildExit, Children
from raftgrade.engines.commands import Commands, environment
from raftgrade.plan import Job
from raftgrade.results import Problem
from raftgrade.tally import MAX_DETAILED, without_details
from raftlab.command_line import MACHINE_FULL
from raftlab.explain.failure import Failure
from raftlab.labs import LABS
from raftlab.runs.record import SCHEMA, End, Outcome, Record, from_line
from raftlab.safe_text import count, printable
from raftlab.sandbox.levels import Level
from raftlab.worlds.host_process import EMPTY_SUBMISSION

# A job that reports no new record for this many seconds is stopped. The job's own time limits are far shorter.
SILENCE_S = {"sim": 240.0, "rpyc": 300.0}
CHECK_S = 120.0  # seconds for the contract check
DEATHS_AT_A_RUN = 2  # if the job dies this often at a run, the run is tried with a submission of our own
# If the job dies this often in a row without a new record, one trial with our own submission decides for all remaining runs.
IDLE_DEATHS = 3
SILENCES = 2  # if this many runs of a job never end, the remaining runs fail without being tried
_MAX_LINES = 100  # how many lines of a check's output are kept; a check should print only one
_LOG_TAIL_BYTES = 2000  # how many bytes at the end of a dead job's output are copied into the report

Run = tuple[str, int]  # test, seed
_read_problems = msgspec.json.Decoder(list[Problem]).decode


class CheckResult(msgspec.Struct):
    """The result of the contract check. If there are no ``problems``, the submission can be tested, except in the labs that
    ``missing`` maps to a reason. ``judged`` is false if the check itself failed. ``stopped`` is true if the check did
    not finish because everything was stopped."""

    submission: str
    problems: list[Problem]
    missing: dict[str, str] = {}
    judged: bool = True
    stopped: bool = False


class JobResult(msgspec.Struct):
    """A record for each run of a job, unless it was ``stopped``."""

    job: str
    submission: str
    records: list[Record]
    stopped: bool = False


def run_check(
    submission: str,
    path: str,
    labs: Sequence[str],
    sandbox: Level = "none",
    *,
    commands: Commands,
    children: Children,
    log: Path,
) -> CheckResult:
    """Check that a submission can be tested. If it has problems, each lab is checked alone, because the submission may be
    ready for some of them.

    Args:
        submission: its name.
        path: where its copy is.
        labs: the labs for which to check the submission.
        log: what the check prints; removed unless something goes wrong.
    """

    def check(lab_names: Sequence[str]) -> CheckResult:
        return _check(submission, path, lab_names, sandbox, commands=commands, children=children, log=log)

    together = check(labs)
    if together.stopped or not together.judged or not together.problems or len(labs) == 1:
        return together
    missing: dict[str, str] = {}
    for lab in labs:
        alone = check([lab])
        if alone.stopped or not alone.judged:
            return alone
        if alone.problems:
            first, *others = alone.problems
            where = f", at {first.where}" if first.where else ""
            more = f" (and {count(len(others), 'more problem')})" if others else ""
            missing[lab] = f"this lab cannot be tested and earns no points: {first.text}{where}{more}"
            if not LABS[lab].features:
                return together  # all labs build on this one
    return CheckResult(submission, [], missing) if len(missing) < len(labs) else together


def _check(
    submission: str,
    path: str,
    labs: Sequence[str],
    sandbox: Level,
    *,
    commands: Commands,
    children: Children,
    log: Path,
) -> CheckResult:
    """Make one contract check for all of ``labs``. If the check dies, it is tried once more, and then with a submission of
    our own, to see whether the machine is to blame."""

    def check(code: str, output: _LineCollector) -> ChildExit:
        return children.listen(
            lambda fd: commands.check(code, labs, sandbox),
            on_line=output,
            silence_s=CHECK_S,
            log=log,
            environment=environment(),
            from_stdout=True,
        )

    ending = ""
    machine = False  # whether the check itself has found that the machine is to blame
    for _ in range(2):
        output = _LineCollector()
        ended = check(path, output)
        if ended.how == "stopped":
            return CheckResult(submission, [], stopped=True)
        ending = _ending(ended, CHECK_S)
        machine = _has_not_started(ended)
        try:
            problems = _read_problems(b"\n".join(output.lines))
        except (msgspec.DecodeError, UnicodeDecodeError):
            continue
        if ended.how == "exited" and (ended.code, bool(problems)) in ((0, False), (2, True)):
            _drop_log(log)
            return CheckResult(submission, problems)
    control = check(str(EMPTY_SUBMISSION), _LineCollector())
    if control.how == "stopped":
        return CheckResult(submission, [], stopped=True)
    if not machine and (control.how, control.code) == ("exited", 0):
        text = f"reading your code failed: the check of the submission {ending}, twice; a check of other code succeeded"
        return CheckResult(submission, [Problem(text, handout="handouts/setup.md#first-run")])
    _clean_log(log)
    problem = Problem(f"could not be judged: the check of the submission {ending}, twice", where=str(log))
    return CheckResult(submission, [problem], judged=False)


class _LineCollector:
    """Collects lines. None of them counts as progress, so one time limit applies to the whole check."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []

    def __call__(self, line: bytes) -> bool:
        if len(self.lines) < _MAX_LINES:
            self.lines.append(line)
        return False


def run_job(
    job: Job,
    *,
    commands: Commands,
    children: Children,
    log: Path,
    traces: Path,
    on_record: Callable[[Record], None] | None = None,
) -> JobResult:
    """Run ``job``. A job may safely be run twice, because each record names its run.

    Args:
        log: what the job prints; removed unless something goes wrong.
        traces: the folder for traces of failed runs.
        on_record: called in this thread with each record when it arrives. The result contains all records.
    """
    runner = _JobRunner(job, commands, children, log, traces, on_record)
    stopped = not runner.work()
    if runner.uneventful and all(record.outcome == "passed" for record in runner.records.values()):
        _drop_log(log)
    else:
        _clean_log(log)
    return JobResult(job.id, job.submission, list(runner.records.values()), stopped)


class _JobRunner:
    """One job while it runs.

    Attributes:
        records: the records that have arrived, by run.
        uneventful: whether every process of the job exited normally and wrote only valid records.
    """

    def __init__(
        self,
        job: Job,
        commands: Commands,
        children: Children,
        log: Path,
        traces: Path,
        on_record: Callable[[Record], None] | None,
    ) -> None:
        self.job = job
        self.commands = commands
        self.children = children
        self.log = log
        self.traces = traces
        self.on_record = on_record
        self.records: dict[Run, Record] = {}
        self.uneventful = True
        self._wanted = set(job.runs)
        self._reported = 0
        self._garbage = 0
        self._end: int | None = None
        self._deaths: Counter[Run] = Counter()
        self._idle_deaths = 0
        self._silences = 0
        self._failures: Counter[tuple[str, str]] = Counter()  # by test and class of failure

    def work(self) -> bool:
        """Start processes until every run has a record. Returns ``False`` if everything was stopped first."""
        tests, seeds = self.job.tests, self.job.seeds
        while self._missing():
            before = len(self.records)
            ended = self._attempt(tests, seeds)
            if ended.how == "stopped":
                return False
            attempted = [(test, seed) for test in tests for seed in range(*seeds)]
            missing = [run for run in attempted if run not in self.records]
            if missing and self._end is not None:
                self._never_reported(missing)
            elif missing and ended.how == "silent":
                self._silent_at(missing[0])
            elif missing:
                self._died_at(missing[0], ended, news=len(self.records) > before)
            tests, seeds = self._next_piece()
        return True

    def _never_reported(self, missing: list[Run]) -> None:
        """Fail the runs that the job did not report although it reached its end."""
        results = count(self._reported, "result")
        self._fail(missing, f"run never reported: the job ended after {results}, and this was not one of them")

    def _silent_at(self, run: Run) -> None:
        self._silences += 1
        limit = f"{SILENCE_S[self.job.network]:.0f} s"
        self._fail([run], f"run never reported: it was stopped after {limit} without a result")
        if self._silences >= SILENCES:
            stopped = count(self._silences, "run")
            text = (
                f"run never reported: it was not started, because {stopped} before it had to be stopped, each after "
                f"{limit} without a result"
            )
            self._fail(self._missing(), text)

    def _died_at(self, run: Run, ended: ChildExit, news: bool) -> None:
        self._deaths[run] += 1
        self._idle_deaths = 0 if news else self._idle_deaths + 1
        ending = _ending(ended, SILENCE_S[self.job.network])
        not_started = _has_not_started(ended)
        if self._idle_deaths >= IDLE_DEATHS:
            self._blame(self._missing(), f"the job {ending}, {self._idle_deaths} times in a row", not_started)
        elif self._deaths[run] >= DEATHS_AT_A_RUN:
            self._blame([run], f"the job {ending} at this run, twice", not_started)

    def _blame(self, runs: list[Run], what: str, not_started: bool) -> None:
        """Give an outcome to ``runs`` at which the job died: not judged if the machine is to blame, otherwise failed.

        Args:
            what: what happened.
            not_started: whether the job's process could not be started. The process is a judge, so the reason is never
                the submission.
        """
        if not_started or self._is_the_machine(runs[0]):
            self._give_up(runs, f"could not be judged: {what}")
        else:
            self._fail(runs, f"run never reported: {what}; the same run of other code reached its end")

    def _is_the_machine(self, run: Run) -> bool:
        """Whether the job dies at ``run`` with a submission of our own, too."""
        test, seed = run
        control = msgspec.structs.replace(self.job, path=str(EMPTY_SUBMISSION))
        lines = _LineCollector()
        ended = self.children.listen(
            lambda fd: self.commands.job(control, [test], (seed, seed + 1), fd, self.traces),
            on_line=lines,
            silence_s=CHECK_S,
            log=self.log,
            environment=environment(),
        )
        try:
            items = [from_line(line) for line in lines.lines]
        except (msgspec.DecodeError, UnicodeDecodeError):
            items = []
        return ended.how != "stopped" and not any(isinstance(item, Record) for item in items)

    def _missing(self) -> list[Run]:
        return [run for run in self.job.runs if run not in self.records]

    def _next_piece(self) -> tuple[list[str], tuple[int, int]]:
        """The runs of the next process: the first test with missing runs, and the first unbroken range of their seeds."""
        missing = self._missing()
        if not missing:
            return [], (0, 0)
        test, first = missing[0]
        last = first
        while (test, last + 1) in self._wanted and (test, last + 1) not in self.records:
            last += 1
        return [test], (first, last + 1)

    def _attempt(self, tests: list[str], seeds: tuple[int, int]) -> ChildExit:
        self._reported = self._garbage = 0
        self._end = None
        simulated = self.job.network == "sim"
        with self.children.processors.assign() if simulated else nullcontext() as processor:
            ended = self.children.listen(
                lambda fd: self.commands.job(self.job, tests, seeds, fd, self.traces),
                on_line=self._line,
                silence_s=SILENCE_S[self.job.network],
                log=self.log,
                environment=environment(),
                # Simulated runs do not depend on real time, so runs on the real network get the processor first.
                nice=simulated,
                processor=processor,
            )
        if ended.how != "exited" or self._garbage or self._end is None:
            self.uneventful = False
        if self._garbage:
            self._note(f"{count(self._garbage, 'line')} among the records were not valid and do not count")
        return ended

    def _line(self, line: bytes) -> bool:
        """Handle one line from the job, and return whether it shows progress."""
        try:
            item = from_line(line)
        except (msgspec.DecodeError, UnicodeDecodeError):
            self._garbage += 1
            return False
        if isinstance(item, End):
            self._end = item.end
            return False
        run = (item.test, item.seed)
        expected = (item.schema, item.lab, item.network) == (SCHEMA, self.job.lab, self.job.network)
        if not expected or run not in self._wanted or self._end is not None:
            self._garbage += 1
            return False
        self._reported += 1
        if run in self.records:  # keep the first outcome, because a rerun must not hide a failure
            return False
        self._keep(item)
        return True

    def _keep(self, record: Record) -> None:
        if record.failure is not None:
            # The report keeps the details of the lowest seeds only, and seeds arrive in order.
            failure_class = (record.test, failure_classes.name(record.failure, record.outcome))
            self._failures[failure_class] += 1
            if self._failures[failure_class] > MAX_DETAILED:
                record.failure = without_details(record.failure)
        self.records[record.test, record.seed] = record
        if self.on_record is not None:
            self.on_record(record)

    def _fail(self, runs: list[Run], text: str) -> None:
        for run in runs:
            self._keep(self._substitute(run, "failed", Failure("never-reported", text, detail=self._log_tail())))

    def _give_up(self, runs: list[Run], text: str) -> None:
        hint = f"This run neither earns nor costs points: run raftgrade again. The output of the job is in {self.log}"
        for run in runs:
            failure = Failure("not-judged", text, hint=hint, detail=self._log_tail())
            self._keep(self._substitute(run, "error", failure))

    def _substitute(self, run: Run, outcome: Outcome, failure: Failure) -> Record:
        test, seed = run
        return Record(
            test=test,
            lab=self.job.lab,
            title=test,
            network=self.job.network,
            seed=seed,
            points=0,
            outcome=outcome,
            failure=failure,
        )

    def _note(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as output:
            output.write(f"raftgrade: {text}\n")

    def _log_tail(self) -> str:
        try:
            return printable(self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace"))
        except OSError:
            return ""


def _has_not_started(ended: ChildExit) -> bool:
    """Whether the machine had no process, memory or descriptor left for a process of ours."""
    return ended.how == "not-started" or (ended.how, ended.code) == ("exited", MACHINE_FULL)


def _ending(ended: ChildExit, silence_s: float) -> str:
    """How a child process ended, in words that follow "the job"."""
    if ended.how == "not-started":
        return f"could not be started ({ended.text})"
    if ended.how == "silent":
        return f"reported nothing for {silence_s:.0f} s"
    if ended.how == "flood":
        return "sent a line that is too long for a record"
    if ended.code < 0:
        return f"was killed by signal {-ended.code}"
    return f"ended too early with code {ended.code}"


def _clean_log(log: Path) -> None:
    """Make a log safe to print: it may quote student code."""
    with contextlib.suppress(FileNotFoundError):
        log.write_text(printable(log.read_text(encoding="utf-8", errors="replace")), encoding="utf-8")


def _drop_log(log: Path) -> None:
    log.unlink(missing_ok=True)
