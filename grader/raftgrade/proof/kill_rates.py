"""Measures how reliably the suites catch known bugs: runs the suites on each bug, and counts and stores the results.

A *pass* is one run of a suite with one seed, as in a grading run: each test in the suite of the bug's lab runs once, in the
simulator, with preemption. A pass in which a test fails has *killed* the bug. The first pass of a bug runs every test.
Later passes begin with the test that is most likely to fail, and stop at the first failure: they only have to show whether
the bug is killed.

Each bug gets ``seeds`` passes. If none of these kills a hard bug, the bug gets more, until the first kill or up
to ``hard_seeds``. Passes are counted in the order of their seeds, so the result does not depend on the number of parallel
passes. Only this rule ends a measurement: a result that looks good never ends it early. Under this rule, the
Clopper-Pearson interval for k kills in n passes still contains the true probability with a chance of at least 95 %. If more
than ``seeds`` passes were needed, k is 0 or 1. For k = 1, the interval's lower end p solves 1 - (1-p)^n = 2.5 %: with this
p, the probability that the bug is killed within n passes is exactly 2.5 %. The interval's upper end lies above the exact
one.
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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, NoReturn, Protocol, TextIO

import msgspec

import raftlab
from raftgrade import output_folder
from raftgrade.engines.jobs import SILENCE_S
from raftgrade.intake.reuse import code_fingerprint
from raftgrade.progress import Progress
from raftgrade.proof.bug_bank import Bug
from raftgrade.stats import clopper_pearson
from raftlab.runs import together
from raftlab.runs.record import Outcome
from raftlab.runs.run import Implementation, Run
from raftlab.safe_text import one_line, printable
from raftlab.suites import catalogue
from raftlab.time_awake import TimeLimit

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
    """The stored result of a pass.

    Attributes:
        key: identifies the bug's source text, the code that judged it and the settings (:attr:`Trial.key`).
        bug: id of the bug, or name of the mutant.
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
        """Whether the pass counts. A pass with a kill always counts; any other pass needs a verdict for every test."""
        return self.outcome != "error"

    @property
    def outcome(self) -> Outcome:
        return "failed" if self.caught else "error" if self.unjudged else "passed"


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of a proof.

    Attributes:
        seeds: passes of each bug.
        hard_seeds: the maximum number of passes of a hard bug, if none of its first ``seeds`` passes kills it.
        jobs: number of passes that run in parallel.
        limit_s: time limit of each run, in real seconds; the default is the limit of a grading run.
    """

    seeds: int = 20
    hard_seeds: int = 200
    jobs: int = 1
    limit_s: float = SILENCE_S["sim"]


class Part(msgspec.Struct, frozen=True):
    """A part of a pass: the suite of ``lab`` runs on the submission ``path``.

    Attributes:
        path: the folder with the ``raft.py``, and the ``kv.py`` if the lab needs one.
        lab: the name of the lab.
        tests: the names of the tests, in the order in which they run.
        network: ``sim`` or ``rpyc``.
    """

    path: Path
    lab: str
    tests: list[str]
    network: str = "sim"


class Measured(Protocol):
    """A bug or a mutant, of which :func:`run` can run passes.

    Attributes:
        passes: the finished passes, by seed.
        started: seeds of the passes that were started in this process.
    """

    passes: dict[int, Pass]
    started: set[int]

    @property
    def name(self) -> str:
        """The name of the bug or mutant in the stored passes and on the screen."""

    @property
    def key(self) -> str:
        """Identifies the code that is run, the judging code and the settings. Stored passes with another key do not
        count."""

    @property
    def needed_seeds(self) -> Collection[int]:
        """The seeds of the passes that are needed, given those that have finished."""

    def next_seed(self) -> int | None:
        """The seed of the next pass to start; ``None`` if none can start now."""

    def is_whole(self, seed: int) -> bool:
        """Whether the pass with this seed runs every test, even after a failure."""

    def parts(self, seed: int, folder: Path) -> list[Part]:
        """The suites that the pass with this seed runs. Writes the sources that they need below ``folder``."""


def up_to_first_kill(passes: dict[int, Pass], seeds: Iterable[int]) -> list[Pass]:
    """The finished passes with these seeds, in this order, up to the first that caught the bug."""
    counted = []
    for seed in seeds:
        if seed in passes:
            counted.append(passes[seed])
            if counted[-1].caught:
                break
    return counted


@dataclass
class Trial:
    """A bug and its passes.

    Attributes:
        bug: the bug.
        sources: the sources of the reference with the bug applied, by name of the file.
        key: identifies ``sources``, the judging code and the settings: a stored pass with a different key does not count.
        settings: how many passes to run.
        passes: the finished passes, by seed.
        started: seeds of the passes that were started in this process.
    """

    bug: Bug
    sources: dict[str, str]
    key: str
    settings: Settings
    passes: dict[int, Pass] = field(default_factory=dict)
    started: set[int] = field(default_factory=set)

    @property
    def name(self) -> str:
        return self.bug.id

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
        return counted + up_to_first_kill(self.passes, range(self.settings.seeds, self.max_passes))

    @property
    def needed_seeds(self) -> range:
        """The seeds that the rule at the top of this module requires, given the passes so far."""
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
        """Number of passes that count and that killed the bug."""
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

    def is_whole(self, seed: int) -> bool:
        return seed == 0

    def parts(self, seed: int, folder: Path) -> list[Part]:
        """All tests of the bug's lab."""
        path = write_sources(folder / self.bug.lab.lower() / self.bug.name, self.sources)
        return [Part(path, self.bug.lab, self.likeliest_first() if seed else self.tests)]

    def likeliest_first(self) -> list[str]:
        """The tests of a pass: first those that have failed most often, then those in the bug's file, then all others."""
        kills = Counter(kill.test for each in self.passes.values() for kill in each.caught)
        expected = [catch.test for catch in self.bug.catches]
        return sorted(self.tests, key=lambda test: (-kills[test], test not in expected))


def make_trials(bugs: Sequence[Bug], reference: Mapping[str, str], settings: Settings) -> list[Trial]:
    """Apply each bug to the sources ``reference``. Raises :class:`raftgrade.proof.bug_bank.BadBank`."""
    judge = code_fingerprint(raftlab)
    trials = []
    for bug in bugs:
        sources = bug.apply_to(reference)
        identity = "\0".join([str(_FORMAT), judge, bug.lab, f"{settings.limit_s:g}", *sources.values()])
        trials.append(Trial(bug, sources, hashlib.sha256(identity.encode()).hexdigest()[:16], settings))
    return trials


class Folder:
    """The folder of a proof: ``passes.jsonl`` with one line per pass, and the sources of each bug in ``LAB/BUG``. As a
    context manager, it locks the folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Folder:
        self._file = output_folder.claim(self.path, PASSES, "proof")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._file is not None
        self._file.close()

    def load(self, trials: Sequence[Measured]) -> int:
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
            if trial is not None and stored.judged and (stored.whole or not trial.is_whole(stored.seed)):
                trial.passes[stored.seed] = stored
        return sum(len(trial.passes) for trial in trials)

    def append(self, finished: Pass) -> None:
        assert self._file is not None
        self._file.write(msgspec.json.encode(finished) + b"\n")


def write_sources(folder: Path, sources: Mapping[str, str]) -> Path:
    """Write each of ``sources`` to ``folder`` unless it is there already. Returns the folder."""
    for name, text in sources.items():
        file = folder / name
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    return folder


def run(trials: Sequence[Measured], folder: Folder, settings: Settings, stream: TextIO) -> None:
    """Run every pass that is missing, and add it to its trial and to the folder.

    Args:
        trials: the bugs or mutants, with the passes that were loaded.
        folder: where each finished pass is stored at once.
        settings: the number of processes, and the time limit of each run.
        stream: the stream on which to show progress.

    Raises:
        CannotProve: a process died.
        KeyboardInterrupt: after Ctrl-C, SIGTERM or SIGHUP.
    """
    running: dict[Future[Pass], Measured] = {}
    todo = {
        "first": sum(0 not in trial.passes for trial in trials),
        "later": sum(sum(seed not in trial.passes for seed in trial.needed_seeds if seed) for trial in trials),
    }
    progress = Progress(todo, {tuple(todo): settings.jobs}, stream, words=("passes", "caught"))
    context = multiprocessing.get_context("spawn")
    with _interrupt_on_signals(), ProcessPoolExecutor(settings.jobs, context, _start_worker) as pool:
        try:
            while True:
                # Submit one more pass than there are workers, so that no worker ever waits for this process.
                for trial, seed in _next_passes(trials, settings.jobs + 1 - len(running)):
                    parts = trial.parts(seed, folder.path)
                    args = (parts, trial.key, trial.name, seed, trial.is_whole(seed), settings.limit_s)
                    running[pool.submit(_run_pass, *args)] = trial
                if not running:
                    break
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    trial, finished = running.pop(future), future.result()
                    folder.append(finished)
                    needed_before = len(trial.needed_seeds)
                    trial.passes[finished.seed] = finished
                    kind = "later" if finished.seed else "first"
                    progress.add(trial.name, kind, finished.outcome, finished.wall_s)
                    # The change is negative if a hard bug needs further passes. It is positive if a kill has made some
                    # passes unnecessary.
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


def _next_passes(trials: Sequence[Measured], limit: int) -> Iterator[tuple[Measured, int]]:
    """The next passes to start, at most ``limit``: the trial and the seed of each."""
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
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_exit_with_parent, args=(parent.sentinel,), name="parent-watch", daemon=True).start()


def _exit_with_parent(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _raise_time_limit_exceeded() -> NoReturn:
    raise _TimeLimitExceeded


def _run_pass(parts: Sequence[Part], key: str, name: str, seed: int, whole: bool, limit_s: float) -> Pass:
    """Run the tests of ``parts`` in their order: all of them if ``whole``, else until one fails."""
    caught: list[Kill] = []
    unjudged: list[str] = []
    cpu_s = wall_s = 0.0
    for part, test in [(each, test) for each in parts for test in each.tests]:
        test_run = Run(_implementation_of(part.path), _infos(part.lab)[test], part.network, seed)
        timed_out = False
        try:
            answer = together.make(test_run)
            script = _with_time_limit(limit_s, catalogue.script_of(test_run.info))
            record = test_run.judge(script) if answer is None else answer.record
        except _TimeLimitExceeded as exc:
            timed_out = True
            record = test_run.record(exc)
            # The host may have sent only part of an answer, so the next run must start a new host. The old host is closed
            # only now, after the run: until here, the run needed this host to end the servers' process.
            _implementation_of(part.path).close()
        cpu_s, wall_s = cpu_s + record.cpu_s, wall_s + record.wall_s
        if timed_out:
            # If a run does not end, that is a failure, as in a grading.
            caught.append(Kill(test, "", f"run never reported: it had not ended after {limit_s:g} s"))
        elif record.outcome == "failed" and record.failure is not None:
            rule = record.failure.rule
            caught.append(Kill(test, "" if rule is None else rule.name, one_line(record.failure.text, 200)))
        elif record.outcome != "passed":
            unjudged.append(test)
        if caught and not whole:
            break
    return Pass(key, name, seed, whole, caught, unjudged, round(cpu_s, 3), round(wall_s, 3))


def _implementation_of(path: Path) -> Implementation:
    """The submission in this folder. Closes the submission that this worker ran before."""
    global _implementation
    if _implementation is None or _implementation.path != path:
        if _implementation is not None:
            _implementation.close()
        _implementation = Implementation(path)
    return _implementation


def _infos(lab: str) -> dict[str, catalogue.TestInfo]:
    return {info.name: info for info in catalogue.tests(lab)}


def _with_time_limit(seconds: float, script: Callable[[Any], object]) -> Callable[[Any], None]:
    """Wrap ``script`` so that it raises :class:`_TimeLimitExceeded` if it takes longer than ``seconds``."""

    def timed(cluster: Any) -> None:
        with TimeLimit(seconds, _raise_time_limit_exceeded):
            script(cluster)

    return timed


def versions() -> str:
    """The versions that a proof depends on: Python, and the code that judges."""
    return f"Python {'.'.join(map(str, sys.version_info[:3]))}, code {code_fingerprint(raftlab)}"
