"""Measure how reliably the suites catch known bugs: run passes of each bug, count them, and store them in a folder.

A *pass* is what a grading run does with one seed: it runs each test in the suite of the bug's lab once, in the simulator,
with preemption. A pass in which a test fails has *killed* the bug. The first pass of a bug runs every test. Later ones
begin with the test that is most likely to fail and stop at the first failure, which answers the same question faster.

An easy or medium bug gets ``seeds`` passes. So does a hard one; if none of them kills it, it gets more, until the first
kill or up to ``hard_seeds``. Passes are counted in the order of their seeds and only by this rule, so the result does not
depend on the number of parallel passes, and no measurement stops because a number looks good. The Clopper-Pearson interval
for k of n still covers at least 95 % under this rule: beyond the first ``seeds`` passes k is 0 or 1, the interval's lower
end solves 1 - (1-p)^n = 2.5 %, which is exact for "killed by pass n", and its upper end lies above the exact one.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn, TextIO

import msgspec

import raftlab
from raftgrade import output_folder
from raftgrade.engines.jobs import SILENCE_S
from raftgrade.intake.reuse import code_fingerprint
from raftgrade.progress import Progress
from raftgrade.proof.bug_bank import Bug
from raftgrade.stats import clopper_pearson
from raftlab.runs.record import Outcome
from raftlab.runs.run import Implementation, Run
from raftlab.safe_text import one_line, printable
from raftlab.suites import catalogue

PASSES = "passes.jsonl"
_FORMAT = 1  # increase it when the meaning or the stored fields of a pass change, so that old passes do not count


class CannotProve(Exception):
    """The proof cannot continue: its records are damaged, or one of its processes died. The message says why."""


class Kill(msgspec.Struct, frozen=True):
    """A test that failed. ``rule`` is the name of the broken rule, or empty; ``text`` is the failure's message."""

    test: str
    rule: str
    text: str


class Pass(msgspec.Struct, frozen=True):
    """One pass, as it is stored.

    Attributes:
        key: identifies the bug's source text, the code that judged it and the settings (:attr:`Trial.key`).
        bug: id of the bug.
        seed: the seed of all its runs.
        whole: whether every test was run.
        caught: the tests that failed.
        unjudged: tests without a verdict, because of a bug in raftlab or a problem with the machine.
        cpu_s: CPU seconds of the judge and the servers.
        wall_s: wall-clock seconds.
    """

    key: str
    bug: str
    seed: int
    whole: bool
    caught: list[Kill]
    unjudged: list[str]
    cpu_s: float
    wall_s: float

    @property
    def judged(self) -> bool:
        """Whether the pass counts. A kill always does; a pass without one needs a verdict for every test."""
        return self.outcome != "error"

    @property
    def outcome(self) -> Outcome:
        return "failed" if self.caught else "error" if self.unjudged else "passed"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a proof.

    Attributes:
        seeds: passes of each bug.
        hard_seeds: the maximum number of passes of a hard bug that the first ``seeds`` did not kill.
        jobs: number of parallel passes.
        limit_s: time limit of each run, in real seconds; the default is that of a grading run.
    """

    seeds: int = 20
    hard_seeds: int = 200
    jobs: int = 1
    limit_s: float = SILENCE_S["sim"]


@dataclass
class Trial:
    """A bug and its passes.

    Attributes:
        bug: the bug.
        text: the source of the reference with the bug applied.
        key: identifies ``text``, the judging code and the settings: a stored pass with a different key does not count.
        settings: how many passes to run.
        passes: the finished passes, by seed.
        started: seeds of the passes that were started in this process.
    """

    bug: Bug
    text: str
    key: str
    settings: Settings
    passes: dict[int, Pass] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)

    @property
    def max_passes(self) -> int:
        """The maximum number of passes for this bug."""
        hard = self.bug.hardness == "hard"
        return max(self.settings.seeds, self.settings.hard_seeds) if hard else self.settings.seeds

    @property
    def counted(self) -> list[Pass]:
        """The passes that count, in the order of their seeds."""
        counted = [self.passes[seed] for seed in range(self.settings.seeds) if seed in self.passes]
        if any(each.caught for each in counted):
            return counted
        for seed in range(self.settings.seeds, self.max_passes):
            if seed in self.passes:
                counted.append(self.passes[seed])
                if counted[-1].caught:
                    break
        return counted

    @property
    def needed_seeds(self) -> range:
        """The seeds that the rule above requires, given the passes so far."""
        first = range(self.settings.seeds)
        if not all(seed in self.passes for seed in first) or any(self.passes[seed].caught for seed in first):
            return first
        kills = [seed for seed, each in self.passes.items() if each.caught]
        return range(min([self.max_passes, *(seed + 1 for seed in kills)]))

    @property
    def complete(self) -> bool:
        return all(seed in self.passes and self.passes[seed].judged for seed in self.needed_seeds)

    @property
    def runs(self) -> int:
        """Number of judged passes among those that count."""
        return sum(each.judged for each in self.counted)

    @property
    def kills(self) -> int:
        """Number of passes that killed the bug among those that count."""
        return sum(bool(each.caught) for each in self.counted)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the probability that a pass kills the bug."""
        return clopper_pearson(self.kills, self.runs)

    @property
    def first_kill(self) -> Kill | None:
        """The first failed test of the first pass that killed the bug."""
        for each in self.counted:
            if each.caught:
                return each.caught[0]
        return None

    @property
    def whole_cpu_s(self) -> float | None:
        """CPU seconds of a pass that runs every test; ``None`` if no such pass has finished."""
        return self.passes[0].cpu_s if 0 in self.passes else None

    @property
    def seeds_to_be_sure(self) -> int | None:
        """Number of passes that catch the bug with probability 95 % at the measured rate; ``None`` if no pass killed it."""
        if not self.kills:
            return None
        rate = self.kills / self.runs
        return 1 if rate == 1 else math.ceil(math.log(0.05) / math.log1p(-rate))

    @property
    def tests(self) -> list[str]:
        """The tests of a pass, in the suite's order."""
        return [info.name for info in catalogue.tests(self.bug.lab) if "sim" in info.networks]

    def next_seed(self) -> int | None:
        """The seed of the next pass to start; ``None`` if none can start now. The first pass runs alone, because its result
        determines which tests the others should begin with."""
        if 0 not in self.passes and self.started:
            return None
        return next((seed for seed in self.needed_seeds if seed not in self.passes and seed not in self.started), None)

    def likeliest_first(self) -> list[str]:
        """The tests of a pass, most likely to fail first: those that failed most often, then those in the bug's file."""
        kills = Counter(kill.test for each in self.passes.values() for kill in each.caught)
        expected = [catch.test for catch in self.bug.catches]
        return sorted(self.tests, key=lambda test: (-kills[test], test not in expected))


def make_trials(bugs: Sequence[Bug], reference: str, settings: Settings) -> list[Trial]:
    """Apply each bug to the source ``reference``. Raises :class:`raftgrade.proof.bug_bank.BadBank`."""
    judge = code_fingerprint(raftlab)
    trials = []
    for bug in bugs:
        text = bug.apply_to(reference)
        identity = f"{_FORMAT}\0{judge}\0{bug.lab}\0{settings.limit_s:g}\0{text}"
        trials.append(Trial(bug, text, hashlib.sha256(identity.encode()).hexdigest()[:16], settings))
    return trials


class Folder:
    """The folder of a proof: ``passes.jsonl`` with one line per pass, and ``LAB/BUG/raft.py`` for each bug. As a context
    manager, it locks the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Folder:
        self._file = output_folder.claim(self.path, PASSES, "proof")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._file is not None
        self._file.close()

    def load(self, trials: list[Trial]) -> int:
        """Add the stored passes to those ``trials`` that have the same key. Returns the number of passes added. Raises
        :class:`CannotProve`."""
        assert self._file is not None
        by_key = {trial.key: trial for trial in trials}
        self._file.seek(0)
        *lines, torn = self._file.read().split(b"\n")
        if torn:
            self._file.truncate(sum(len(line) + 1 for line in lines))  # the process was killed while writing this line
        for number, line in enumerate(lines, 1):
            try:
                stored = msgspec.json.decode(line, type=Pass)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise CannotProve(
                    f"line {number} of {printable(str(self.path / PASSES))} is not a pass of a proof"
                ) from None
            trial = by_key.get(stored.key)
            # A pass that could not be judged is repeated; if a seed occurs several times, the last line counts.
            if trial is not None and stored.judged and (stored.seed or stored.whole):
                trial.passes[stored.seed] = stored
        return sum(len(trial.passes) for trial in trials)

    def append(self, finished: Pass) -> None:
        assert self._file is not None
        self._file.write(msgspec.json.encode(finished) + b"\n")

    def write_raft(self, trial: Trial) -> Path:
        """Write the bug's raft.py unless it is there already. Returns its folder."""
        folder = self.path / trial.bug.lab.lower() / trial.bug.name
        file = folder / "raft.py"
        if not file.is_file() or file.read_text(encoding="utf-8") != trial.text:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(trial.text, encoding="utf-8")
        return folder


def run(trials: list[Trial], folder: Folder, settings: Settings, stream: TextIO) -> None:
    """Run every pass that is missing, and add it to its trial and to the folder.

    Args:
        trials: the bugs, with the passes that were loaded.
        folder: where each finished pass is stored at once.
        settings: ``jobs`` is the number of processes.
        stream: the stream on which to show progress.

    Raises:
        CannotProve: a process died.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP.
    """
    running: dict[Future[Pass], Trial] = {}
    todo = {
        "first": sum(0 not in trial.passes for trial in trials),
        "later": sum(sum(seed not in trial.passes for seed in trial.needed_seeds if seed) for trial in trials),
    }
    progress = Progress(todo, settings.jobs, stream, words=("passes", "caught"))
    context = multiprocessing.get_context("spawn")
    with _interrupt_on_signals(), ProcessPoolExecutor(settings.jobs, context, _start_worker) as pool:
        try:
            while True:
                # Submit one more than there are workers, so that no worker ever waits for this process.
                for trial, seed in _next_passes(trials, settings.jobs + 1 - len(running)):
                    path = folder.write_raft(trial)
                    order = trial.likeliest_first() if seed else trial.tests
                    args = (path, trial.bug.lab, trial.key, trial.bug.id, seed, order, not seed, settings.limit_s)
                    running[pool.submit(_run_pass, *args)] = trial
                if not running:
                    break
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    trial, finished = running.pop(future), future.result()
                    folder.append(finished)
                    needed_before = len(trial.needed_seeds)
                    trial.passes[finished.seed] = finished
                    kind = "later" if finished.seed else "first"
                    progress.add(trial.bug.id, kind, finished.outcome, finished.wall_s)
                    # Negative if a hard bug needs further passes, positive if a kill has made some unnecessary.
                    progress.reduce({"later": needed_before - len(trial.needed_seeds)})
                progress.show()
        except KeyboardInterrupt:
            _kill_workers(pool)
            raise
        except BrokenProcessPool:
            raise CannotProve(
                "a process of the proof died; all finished passes are saved, so run the same command again to continue"
            ) from None
        finally:
            progress.close()


def _next_passes(trials: list[Trial], limit: int) -> Iterator[tuple[Trial, int]]:
    """Up to ``limit`` passes to start now, each as its trial and seed."""
    for trial in trials:
        while limit > 0 and (seed := trial.next_seed()) is not None:
            trial.started.add(seed)
            limit -= 1
            yield trial, seed


@contextmanager
def _interrupt_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt a proof like Ctrl-C, unless they are ignored (``nohup``)."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    handled = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, interrupt) for number in handled}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _kill_workers(pool: ProcessPoolExecutor) -> None:
    """Kill the workers at once; the kernel kills the servers' processes with them."""
    for worker in list(pool._processes.values()):
        worker.kill()


# --- in a worker process ---


class _TimeLimitExceeded(BaseException):
    """A run has exceeded its time limit. Not an ``Exception``, so that no handler in the run's code catches it."""


# The submission that this worker ran last. Its warm host is reused by the next pass of the same bug.
_implementation: Implementation | None = None


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _raise_time_limit_exceeded)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), name="parent-watch", daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _raise_time_limit_exceeded(number: int, frame: FrameType | None) -> NoReturn:
    raise _TimeLimitExceeded


def _run_pass(
    path: Path, lab: str, key: str, bug: str, seed: int, order: Sequence[str], whole: bool, limit_s: float
) -> Pass:
    """Run the tests of ``lab`` on the submission ``path`` in ``order``: all of them if ``whole``, else until one fails."""
    global _implementation
    if _implementation is None or _implementation.path != path:
        if _implementation is not None:
            _implementation.close()
        _implementation = Implementation(path)
    infos = {info.name: info for info in catalogue.tests(lab)}
    caught: list[Kill] = []
    unjudged: list[str] = []
    cpu_s = wall_s = 0.0
    for test in order:
        test_run = Run(_implementation, infos[test], "sim", seed, preempt=True)
        timed_out = False
        try:
            record = test_run.judge(_with_time_limit(limit_s, catalogue.script_of(infos[test])))
        except _TimeLimitExceeded as exc:
            timed_out = True
            record = test_run.record(exc)
            # The host may have sent only part of an answer, so the next run starts a new host. Close this one after the
            # run, which still asks the host to end the servers' process.
            _implementation.close()
        cpu_s, wall_s = cpu_s + record.cpu_s, wall_s + record.wall_s
        if timed_out:
            # A grading run, too, counts a run that does not end as a failure.
            caught.append(Kill(test, "", f"run never reported: it had not ended after {limit_s:g} s"))
        elif record.outcome == "failed" and record.failure is not None:
            rule = record.failure.rule
            caught.append(Kill(test, "" if rule is None else rule.name, one_line(record.failure.text, 200)))
        elif record.outcome != "passed":
            unjudged.append(test)
        if caught and not whole:
            break
    return Pass(key, bug, seed, whole, caught, unjudged, round(cpu_s, 3), round(wall_s, 3))


def _with_time_limit(seconds: float, script: Callable[[Any], object]) -> Callable[[Any], None]:
    """Wrap ``script`` so that it raises :class:`_TimeLimitExceeded` if it takes longer than this."""

    def timed(cluster: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            script(cluster)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return timed


def versions() -> str:
    """The versions that a proof depends on: Python, and the code that judges."""
    return f"Python {'.'.join(map(str, sys.version_info[:3]))}, code {code_fingerprint(raftlab)}"
