"""The test of the tests: how surely do the suites catch the bugs of a bank?

A *pass* is what a grading does with one seed: the whole suite of the bug's lab, each test once, in the simulator, with
preemption. A pass in which any test fails has killed the bug. The first pass of a bug runs every test; later ones begin
with the likeliest killer and end at the first test that fails, which decides the same question for less.

How many passes: an easy or medium bug gets ``seeds`` of them. So does a hard one, and then, only if none of these killed it,
it goes on to the first kill or to ``hard_seeds``. What a bug's passes say is counted in the order of the seeds and by this
rule alone, so it does not depend on how many ran at a time. Nothing is stopped because a number looks good; and the
Clopper-Pearson interval of k of n stays one of at least 95 % under this rule: in the second part k is 0 or 1, its lower end
solves 1 - (1-p)^n = 2.5 %, which is exact for "killed by pass n", and its upper end lies above the exact one.
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
_RULES = 1  # goes up when what a pass is, or what is noted of it, changes


class CannotProve(Exception):
    """The proof cannot go on: its records are damaged, or a process of it died. The message says why."""


class Caught(msgspec.Struct, frozen=True):
    """A test that failed: the promise of Raft that was seen broken (empty: an expectation of the test), and what it
    said."""

    test: str
    rule: str
    text: str


class Pass(msgspec.Struct, frozen=True):
    """One pass. ``key`` tells of which text and with which code, ``whole`` that every test was run, ``unjudged`` those
    tests that came to no verdict through our fault or the machine's; ``cpu_s`` is of judge and servers."""

    key: str
    bug: str
    seed: int
    whole: bool
    caught: list[Caught]
    unjudged: list[str]
    cpu_s: float
    wall_s: float

    @property
    def judged(self) -> bool:
        """A kill is one whatever else happened; to say that nothing failed, all tests must have had a verdict."""
        return self.outcome != "error"

    @property
    def outcome(self) -> Outcome:
        return "failed" if self.caught else "error" if self.unjudged else "passed"


@dataclass(frozen=True, slots=True)
class Settings:
    """How many passes, see above; ``limit_s`` seconds is the longest that a test may take, as in a grading."""

    seeds: int = 20
    hard_seeds: int = 200
    jobs: int = 1
    limit_s: float = SILENCE_S["sim"]


@dataclass
class Trial:
    """A bug and its passes, by seed."""

    bug: Bug
    text: str
    key: str
    settings: Settings
    passes: dict[int, Pass] = field(default_factory=dict)
    asked: set[int] = field(default_factory=set)

    @property
    def most(self) -> int:
        """The most passes that this bug can get."""
        hard = self.bug.hardness == "hard"
        return max(self.settings.seeds, self.settings.hard_seeds) if hard else self.settings.seeds

    @property
    def counted(self) -> list[Pass]:
        """The passes that count, in the order of their seeds."""
        found = [self.passes[seed] for seed in range(self.settings.seeds) if seed in self.passes]
        if any(each.caught for each in found):
            return found
        for seed in range(self.settings.seeds, self.most):
            if seed in self.passes:
                found.append(self.passes[seed])
                if found[-1].caught:
                    break
        return found

    @property
    def wanted(self) -> range:
        """The seeds to be run, as far as is known now."""
        first = range(self.settings.seeds)
        if not all(seed in self.passes for seed in first) or any(self.passes[seed].caught for seed in first):
            return first
        kills = [seed for seed, each in self.passes.items() if each.caught]
        return range(min([self.most, *(seed + 1 for seed in kills)]))

    @property
    def complete(self) -> bool:
        return all(seed in self.passes and self.passes[seed].judged for seed in self.wanted)

    @property
    def runs(self) -> int:
        return sum(each.judged for each in self.counted)

    @property
    def kills(self) -> int:
        return sum(bool(each.caught) for each in self.counted)

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of the chance that a pass kills the bug."""
        return clopper_pearson(self.kills, self.runs)

    @property
    def first(self) -> Caught | None:
        """What caught it first: in the first pass that did, and there the first test in the suite's order."""
        for each in self.counted:
            if each.caught:
                return each.caught[0]
        return None

    @property
    def whole_cpu_s(self) -> float | None:
        """What a pass with every test costs, in CPU seconds."""
        return self.passes[0].cpu_s if 0 in self.passes else None

    @property
    def seeds_to_be_sure(self) -> int | None:
        """The passes after which a bug with this rate of kills is caught with 95 %; ``None``: never was it killed."""
        if not self.kills:
            return None
        rate = self.kills / self.runs
        return 1 if rate == 1 else math.ceil(math.log(0.05) / math.log1p(-rate))

    @property
    def tests(self) -> list[str]:
        """The tests of a pass, in the suite's order."""
        return [info.name for info in catalogue.tests(self.bug.lab) if "sim" in info.networks]

    def next_seed(self) -> int | None:
        """The next pass to be started, if there is one: all else waits for the first, which tells who kills."""
        if 0 not in self.passes and self.asked:
            return None
        return next((seed for seed in self.wanted if seed not in self.passes and seed not in self.asked), None)

    def order(self) -> list[str]:
        """The tests, the likeliest killer first: who killed before, then whom the bug's file names."""
        kills = Counter(caught.test for each in self.passes.values() for caught in each.caught)
        named = [catch.test for catch in self.bug.catches]
        return sorted(self.tests, key=lambda test: (-kills[test], test not in named))


def trials(bugs: Sequence[Bug], reference: str, settings: Settings) -> list[Trial]:
    """The bugs, put into ``reference``. Raises :class:`raftgrade.proof.bug_bank.BadBank`."""
    judge = code_fingerprint(raftlab)
    made = []
    for bug in bugs:
        text = bug.apply_to(reference)
        told = f"{_RULES}\0{judge}\0{bug.lab}\0{settings.limit_s:g}\0{text}"
        made.append(Trial(bug, text, hashlib.sha256(told.encode()).hexdigest()[:16], settings))
    return made


class Folder:
    """Where a proof is kept: ``passes.jsonl``, a line for each pass, and ``LAB/BUG/raft.py``. A context manager: one proof
    at a time."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> Folder:
        self._file = output_folder.claim(self.path, PASSES, "proof")
        return self

    def __exit__(self, *exc: object) -> None:
        assert self._file is not None
        self._file.close()

    def load(self, given: list[Trial]) -> int:
        """Take over what earlier proofs found out about the same texts with the same code. Returns how many passes."""
        assert self._file is not None
        keys = {trial.key: trial for trial in given}
        self._file.seek(0)
        *lines, torn = self._file.read().split(b"\n")
        if torn:
            self._file.truncate(sum(len(line) + 1 for line in lines))  # we were killed while writing it
        for number, line in enumerate(lines, 1):
            try:
                done = msgspec.json.decode(line, type=Pass)
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise CannotProve(f"{printable(str(self.path / PASSES))}:{number} is not a pass of a proof") from None
            trial = keys.get(done.key)
            # What could not be judged is tried again, and the last word counts.
            if trial is not None and done.judged and (done.seed or done.whole):
                trial.passes[done.seed] = done
        return sum(len(trial.passes) for trial in given)

    def keep(self, done: Pass) -> None:
        assert self._file is not None
        self._file.write(msgspec.json.encode(done) + b"\n")

    def put(self, trial: Trial) -> Path:
        """Write the bug's raft.py, if it is not there yet. Returns its folder."""
        folder = self.path / trial.bug.lab.lower() / trial.bug.name
        file = folder / "raft.py"
        if not file.is_file() or file.read_text(encoding="utf-8") != trial.text:
            folder.mkdir(parents=True, exist_ok=True)
            file.write_text(trial.text, encoding="utf-8")
        return folder


def run(given: list[Trial], folder: Folder, settings: Settings, stream: TextIO) -> None:
    """Run every pass that is missing, on ``settings.jobs`` processes. Raises :class:`CannotProve` and, after Ctrl-C,
    ``KeyboardInterrupt``; every pass that ended is kept then too."""
    going: dict[Future[Pass], Trial] = {}
    todo = {
        "first": sum(0 not in trial.passes for trial in given),
        "later": sum(sum(seed not in trial.passes for seed in trial.wanted if seed) for trial in given),
    }
    progress = Progress(todo, settings.jobs, stream, words=("passes", "caught"))
    context = multiprocessing.get_context("spawn")
    with _signals(), ProcessPoolExecutor(settings.jobs, context, _begin) as pool:
        try:
            while True:
                # One more than can run: a worker that is done shall not wait for us.
                for trial, seed in _next(given, settings.jobs + 1 - len(going)):
                    place = folder.put(trial)
                    order = trial.order() if seed else trial.tests
                    work = (place, trial.bug.lab, trial.key, trial.bug.id, seed, order, not seed, settings.limit_s)
                    going[pool.submit(_pass, *work)] = trial
                if not going:
                    break
                for future in wait(going, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    trial, done = going.pop(future), future.result()
                    folder.keep(done)
                    before = len(trial.wanted)
                    trial.passes[done.seed] = done
                    progress.add(trial.bug.id, "later" if done.seed else "first", done.outcome, done.wall_s)
                    # A hard bug goes on beyond its first seeds, or has been caught there.
                    progress.reduce({"later": before - len(trial.wanted)})
                progress.show()
        except KeyboardInterrupt:
            _end(pool)
            raise
        except BrokenProcessPool:
            raise CannotProve(
                "a process of the proof died; what was done is kept: run the same command again"
            ) from None
        finally:
            progress.close()


def _next(given: list[Trial], most: int) -> Iterator[tuple[Trial, int]]:
    for trial in given:
        while most > 0 and (seed := trial.next_seed()) is not None:
            trial.asked.add(seed)
            most -= 1
            yield trial, seed


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a proof as Ctrl-C does."""

    def arrived(number: int, frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    heeded = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) is not signal.SIG_IGN]
    before = {each: signal.signal(each, arrived) for each in heeded}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _end(pool: ProcessPoolExecutor) -> None:
    """End the workers now; the kernel ends the servers' processes with them."""
    for worker in list(pool._processes.values()):
        worker.kill()


# --- in a process of its own ---


class _TooLong(BaseException):
    """A test has had its time. No ``Exception``: nothing on the way shall take it for one of its own."""


# The warm host of this process: of the bug that it had last.
_impl: Implementation | None = None


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, _alarm)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_leave_with, args=(parent.sentinel,), name="leash", daemon=True).start()


def _leave_with(sentinel: int) -> None:
    wait_for([sentinel])
    os._exit(1)


def _alarm(number: int, frame: FrameType | None) -> NoReturn:
    raise _TooLong


def _pass(
    place: Path, lab: str, key: str, bug: str, seed: int, order: Sequence[str], whole: bool, limit_s: float
) -> Pass:
    """Run the tests ``order`` of ``lab`` on ``place``, all if ``whole``, else until one fails."""
    global _impl
    if _impl is None or _impl.path != place:
        if _impl is not None:
            _impl.close()
        _impl = Implementation(place)
    infos = {info.name: info for info in catalogue.tests(lab)}
    caught: list[Caught] = []
    unjudged: list[str] = []
    cpu_s = wall_s = 0.0
    for test in order:
        made = Run(_impl, infos[test], "sim", seed, preempt=True)
        too_long = False
        try:
            record = made.judge(_within(limit_s, catalogue.script_of(infos[test])))
        except _TooLong as exc:
            too_long = True
            record = made.record(exc)
            # The host may be in the middle of an answer, so the next run starts a new one. Close it after the run, which
            # still asks the host to end the servers' process.
            _impl.close()
        cpu_s, wall_s = cpu_s + record.cpu_s, wall_s + record.wall_s
        if too_long:
            # What never ends has not passed: so it is in a grading, too.
            caught.append(Caught(test, "", f"run never reported: it had not ended after {limit_s:g} s"))
        elif record.outcome == "failed" and record.failure is not None:
            rule = record.failure.rule
            caught.append(Caught(test, "" if rule is None else rule.name, one_line(record.failure.text, 200)))
        elif record.outcome != "passed":
            unjudged.append(test)
        if caught and not whole:
            break
    return Pass(key, bug, seed, whole, caught, unjudged, round(cpu_s, 3), round(wall_s, 3))


def _within(seconds: float, script: Callable[[Any], object]) -> Callable[[Any], None]:
    """``script``, but it raises :class:`_TooLong` if it takes longer."""

    def timed(cluster: Any) -> None:
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            script(cluster)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    return timed


def versions() -> str:
    """With what a proof was made: Python and the code that judges."""
    return f"Python {'.'.join(map(str, sys.version_info[:3]))}, code {code_fingerprint(raftlab)}"
