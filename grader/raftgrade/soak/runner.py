"""Run suites and random scenarios for hours, and watch memory and processes as they run (``raftgrade soak IMPL…``).

The work is split into blocks. A block runs a range of fresh seeds for one lab, one implementation and one network. Blocks
that differ only in their seeds form a series. The series with the fewest blocks goes next, so that all series get equally
many blocks. A finished block is a line in the log (:mod:`raftgrade.soak.log`), and a later soak in the same folder continues
after it. If the soak is killed, only the block that was running is lost.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import queue
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import msgspec

import raftlab
from raftgrade.engines.child_processes import Children
from raftgrade.engines.commands import TRACE_QUOTA, Commands
from raftgrade.engines.jobs import JobResult, run_check, run_job
from raftgrade.engines.work_loop import on_stop_signal
from raftgrade.intake import staging, submissions
from raftgrade.intake.reuse import code_fingerprint
from raftgrade.intake.submissions import FoundSubmissions
from raftgrade.intake.take_in import why_no_service
from raftgrade.plan import (
    NETWORKS,
    CannotStart,
    CatalogueTest,
    Job,
    JobTarget,
    default_jobs,
    parse_labs,
    runs_of,
    split_into_jobs,
    without_service,
)
from raftgrade.soak import log as soak_log
from raftgrade.soak import process_monitor
from raftgrade.soak.log import Block, FailureLine, Kind, Log, Megabytes
from raftlab import labs, operating_system
from raftlab.runs import random_scenarios
from raftlab.runs.record import Record
from raftlab.runs.trace_quota import TraceQuota
from raftlab.safe_text import count, one_line, printable
from raftlab.sandbox.levels import Sandbox

SEEDS = {
    "suite sim": 50,
    "suite rpyc": 4,
    "fuzz sim": 200,
}  # how many seeds a block has; chosen so that a block takes a minute or two
GROWTH_MB = 50.0  # memory is reported if it has grown by more than this since the first block
TRIALS = 3  # seeds of a lab's first test; an implementation that passes none of them cannot do the lab
MAX_LOGS = 100  # files in DIR/logs

Catalogue = Callable[[str], Sequence[CatalogueTest]]
Key = tuple[str, str, str, str, str, bool]


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """The settings of a soak.

    Attributes:
        labs: the labs to run; ``None``: all, but lab 3 only if an implementation has a service.
        seconds: no block starts after this time; may be infinite.
        passes: the soak ends when each test has run with this many seeds; ``None``: no limit.
        seed: the first seed.
        jobs: how many jobs run in parallel, by network.
        hogs: the number of endless loops that keep the processors busy during each block on the real network.
    """

    paths: list[str]
    labs: list[str] | None
    networks: list[str]
    seconds: float
    passes: int | None
    seed: int
    jobs: dict[str, int]
    fuzz: bool
    hogs: int
    out: Path
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Candidate:
    """An implementation: the copy that is run, and the labs that it can do."""

    target: JobTarget
    hash: str
    labs: list[str]


@dataclass(frozen=True, slots=True)
class BlockSeries:
    """Blocks that differ only in their seeds."""

    kind: Kind
    impl: Candidate
    lab: str
    network: str
    tests: list[str]
    beside_hog: bool = False

    @property
    def column(self) -> str:
        """The key of :data:`SEEDS`."""
        return f"{self.kind} {self.network}"

    @property
    def key(self) -> Key:
        """The attributes that its blocks have in common (see :func:`_key`)."""
        target = self.impl.target
        return self.kind, target.submission, self.impl.hash, self.lab, self.network, self.beside_hog


def _key(block: Block) -> Key:
    return block.kind, block.impl, block.impl_hash, block.lab, block.network, block.beside_hog


def parse_settings(arguments: argparse.Namespace, sandbox: Callable[[str], Sandbox]) -> SoakSettings:
    """The settings on the command line. Raises :class:`CannotStart`, and :class:`raftlab.labs.UnknownLab`."""
    if not arguments.paths:
        raise CannotStart("soak needs an implementation: a raft.py, or a folder with one or more")
    if arguments.out is None:
        raise CannotStart("soak needs --out DIR: a folder of its own, so that it can be continued later")
    networks = list(dict.fromkeys(name.strip() for name in arguments.network.split(",")))
    for name in networks:
        if name not in NETWORKS:
            raise CannotStart(f"--network must be sim, rpyc or sim,rpyc, not {arguments.network}")
    if arguments.hog and "rpyc" not in networks:
        raise CannotStart("--hog goes with --network rpyc: simulated runs do not depend on real time")
    for name in ("passes", "jobs"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise CannotStart(f"--{name} must be at least 1, not {value}")
    if arguments.hours is not None and not 0 < arguments.hours < math.inf:
        raise CannotStart(f"--hours must be more than 0, not {arguments.hours:g}")
    if arguments.seed < 0:
        raise CannotStart(f"--seed must be 0 or more, not {arguments.seed}")
    return SoakSettings(
        paths=arguments.paths,
        labs=None if arguments.labs is None else parse_labs(arguments.labs),
        networks=networks,
        seconds=math.inf if arguments.hours is None else arguments.hours * 3600,
        passes=arguments.passes,
        seed=arguments.seed,
        jobs={network: arguments.jobs or number for network, number in default_jobs().items()},
        fuzz=arguments.fuzz and "sim" in networks,
        hogs=operating_system.processors() if arguments.hog else 0,
        out=Path(arguments.out),
        sandbox=sandbox(arguments.sandbox),
    )


def show(folder: Path) -> int:
    """Print the log in ``folder``. Returns the exit code; raises :class:`~raftgrade.output_folder.BadFolder`."""
    blocks = soak_log.read(folder)
    print(soak_log.table(blocks))
    return soak_log.exit_code(soak_log.current_blocks(blocks))


def run(settings: SoakSettings, commands: Commands, catalogue: Catalogue, stream: TextIO) -> int:
    """Run blocks until the time or the seeds are used up, and print the table.

    Args:
        stream: where messages go while the soak runs.

    Returns:
        The exit code.

    Raises:
        CannotStart: nothing can be run.
        BadPath: a path names no implementation.
        BadFolder: the output folder cannot be used.
    """
    given = submissions.find(settings.paths, ignore=settings.out)
    with Log.open(settings.out) as log, process_monitor.adopt_orphans():
        pool = _WorkerPool(settings.jobs)
        try:
            with on_stop_signal(pool.on_signal):
                _Soak(settings, commands, catalogue, log, pool, stream).work(given)
        finally:
            pool.stop()
        print(soak_log.table(log.blocks))
        if pool.signal:
            shown = printable(str(settings.out))
            print(f"raftgrade: interrupted; the same command continues in {shown}", file=stream)
            return 128 + pool.signal
        return soak_log.exit_code(soak_log.current_blocks(log.blocks))


class _WorkerPool:
    """Threads that run jobs, with one child process each. ``signal`` is the number of the signal that asked the soak to
    stop, or 0."""

    def __init__(self, jobs: dict[str, int]) -> None:
        self.children = Children(jobs["sim"])
        self.signal = 0
        self._inbox: queue.SimpleQueue[Record | Future[Any] | int] = queue.SimpleQueue()
        self._executors = {
            network: ThreadPoolExecutor(number, thread_name_prefix=f"soak-{network}")
            for network, number in jobs.items()
        }

    def on_signal(self, number: int) -> None:
        self._inbox.put(number)

    def on_record(self, record: Record) -> None:
        self._inbox.put(record)

    def submit(self, network: str, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        future = self._executors[network].submit(function, *arguments)
        future.add_done_callback(self._inbox.put)
        return future

    def until_done(self, futures: Sequence[Future[Any]]) -> Iterator[Record]:
        """Wait for ``futures``, and yield records as they arrive. After a signal, the futures end soon."""
        pending = set(futures)
        while pending:
            event = self._inbox.get()
            if isinstance(event, Record):
                yield event
            elif isinstance(event, int):
                self.signal = self.signal or event
                self.children.stop()
            else:
                pending.discard(event)

    def stop(self) -> None:
        """Kill every child and wait for the threads."""
        self.children.stop()
        for executor in self._executors.values():
            executor.shutdown(wait=True, cancel_futures=True)


class _Soak:
    """One soak while it runs."""

    def __init__(
        self,
        settings: SoakSettings,
        commands: Commands,
        catalogue: Catalogue,
        log: Log,
        pool: _WorkerPool,
        stream: TextIO,
    ) -> None:
        self._settings = settings
        self._commands = commands
        self._catalogue = catalogue
        self._log = log
        self._pool = pool
        self._stream = stream
        self._labs = parse_labs(None) if settings.labs is None else settings.labs
        self._code = code_fingerprint(raftlab)
        self._base = process_monitor.descendants()
        self._baseline: dict[tuple[str, ...], float] = {}
        self._trace_quotas: dict[str, TraceQuota] = {}
        self._arrivals = itertools.count()
        self._done: dict[Key, list[tuple[int, int]]] = {}
        for block in log.blocks:
            if block.code == self._code:
                self._done.setdefault(_key(block), []).append(block.seeds)

    def work(self, given: FoundSubmissions) -> None:
        """Run block after block of the implementations."""
        until = time.monotonic() + self._settings.seconds
        impls = self._take_in(given)
        if self._pool.signal:
            return
        all_series = [
            series for lab in self._labs for impl in impls if lab in impl.labs for series in self._series(impl, lab)
        ]
        if not all_series:
            raise CannotStart(f"nothing to run: no implementation can do lab {' or '.join(self._labs)}")
        self._tell_history()
        while time.monotonic() < until and not self._pool.signal:
            todo = [(series, self._next_seeds(series)) for series in all_series]
            ready = [(series, seeds) for series, seeds in todo if seeds is not None]
            if not ready:
                self._say("every test has had all its seeds")
                return
            series, seeds = min(ready, key=lambda pair: (pair[1][0] - self._settings.seed) // SEEDS[pair[0].column])
            block = self._block(series, seeds)
            if block is not None:
                self._finish(block)

    # --- planning ---

    def _take_in(self, given: FoundSubmissions) -> list[Candidate]:
        """Copy the implementations, and find out which labs each can do."""
        staged = []
        for item in given.submissions:
            try:
                place = self._log.folder / "submissions" / item.slug
                copied = staging.stage(item, place, given.files, self._log.folder)
            except staging.CannotStage as exc:
                raise CannotStart(f"{printable(item.name)} cannot be used: {exc}") from None
            staged.append(
                (JobTarget(item.name, item.slug, str(copied.path), self._settings.sandbox.level), copied.hash)
            )
        if self._settings.labs is None and all(why_no_service(Path(target.path)) for target, _ in staged):
            self._labs = without_service(self._labs, self._stream)
        file = self._log.folder / "reach.json"
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        with tempfile.TemporaryDirectory(prefix="raftgrade-soak-") as folder:
            futures = [
                self._pool.submit("sim", self._obstacles, target, hash, known, Path(folder)) for target, hash in staged
            ]
            for _ in self._pool.until_done(futures):
                pass
        impls = []
        for (target, hash), future in zip(staged, futures, strict=True):
            obstacles: dict[str, str] = future.result()
            known |= {self._reach_key(hash, lab): obstacle for lab, obstacle in obstacles.items()}
            impls.append(Candidate(target, hash, [lab for lab, obstacle in obstacles.items() if not obstacle]))
            for lab, obstacle in obstacles.items():
                if obstacle:
                    self._say(
                        f"{printable(target.submission)} cannot do lab {lab}, which is left out: {one_line(obstacle)}"
                    )
        if not self._pool.signal:
            _replace(file, json.dumps(known, indent=1))
        return impls

    def _reach_key(self, hash: str, lab: str) -> str:
        return f"{lab} {hash[:16]} {self._code}"

    def _obstacles(self, target: JobTarget, hash: str, known: dict[str, str], folder: Path) -> dict[str, str]:
        """For each lab, the reason why ``target`` cannot do the lab; empty if it can. If it cannot do a lab, the labs that
        build on that lab are left out. ``target`` can do a lab if it passes the contract check, and passes the lab's first
        test with at least one of :data:`TRIALS` seeds."""
        obstacles: dict[str, str] = {}
        for lab in self._labs:
            features = labs.LABS[lab].features
            if any(obstacles.get(earlier) and labs.LABS[earlier].features <= features for earlier in self._labs):
                continue
            key = self._reach_key(hash, lab)
            obstacles[lab] = known[key] if key in known else self._obstacle(target, lab, folder)
        return obstacles

    def _obstacle(self, target: JobTarget, lab: str, folder: Path) -> str:
        if labs.LABS[lab].has("service") and (why := why_no_service(Path(target.path))):
            return why
        children, commands = self._pool.children, self._commands
        log = folder / f"{target.slug}.{lab}.txt"
        checked = run_check(
            target.submission, target.path, [lab], target.sandbox, commands=commands, children=children, log=log
        )
        if checked.problems:
            if not checked.judged:
                raise CannotStart(f"{printable(target.submission)}: {one_line(checked.problems[0].text)}")
            return checked.problems[0].text
        first = next((test.name for test in self._catalogue(lab) if "sim" in test.networks), "")
        if checked.stopped or not first:
            return ""
        (job,) = split_into_jobs(target, lab, "sim", runs_of([first], (0, TRIALS)))
        trial = run_job(_together(job), commands=commands, children=children, log=log, traces=folder / target.slug)
        failures = [record.failure for record in trial.records if record.outcome == "failed" and record.failure]
        if len(failures) == TRIALS:
            return f"its first test, {first}, failed with seeds 0 to {TRIALS - 1}: {failures[0].text}"
        if not trial.stopped and not any(record.outcome == "passed" for record in trial.records):
            raise CannotStart(f"{printable(target.submission)} could not be judged in lab {lab}: try again")
        return ""

    def _series(self, impl: Candidate, lab: str) -> list[BlockSeries]:
        all_series = []
        for network in self._settings.networks:
            tests = [test.name for test in self._catalogue(lab) if network in test.networks]
            if tests:
                hog = bool(self._settings.hogs) and network == "rpyc"
                all_series.append(BlockSeries("suite", impl, lab, network, tests, hog))
        if self._settings.fuzz:
            all_series.append(BlockSeries("fuzz", impl, lab, "sim", [random_scenarios.name_of(lab)]))
        return all_series

    def _next_seeds(self, series: BlockSeries) -> tuple[int, int] | None:
        """The next range of seeds that have not been run; ``None`` if no more are needed."""
        done = self._done.get(series.key, [])
        first = self._settings.seed
        for start, end in sorted(done):
            if start <= first:
                first = max(first, end)
        last = first + SEEDS[series.column]
        last = min([last, *(start for start, _ in done if start > first)])
        if self._settings.passes is not None:
            last = min(last, self._settings.seed + self._settings.passes)
        return (first, last) if first < last else None

    def _tell_history(self) -> None:
        blocks = self._log.blocks
        now = [block for block in blocks if block.code == self._code]
        if now:
            runs = count(sum(block.runs for block in now), "run")
            self._say(f"continuing after {count(len(now), 'block')} with {runs}")
        if len(now) < len(blocks):
            old = count(len(blocks) - len(now), "block")
            self._say(f"{old} of another version of raftlab stay in the log as history and do not count")

    # --- a block ---

    def _block(self, series: BlockSeries, seeds: tuple[int, int]) -> Block | None:
        """Run a block. Returns ``None`` if it was stopped."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        wall = time.monotonic()
        target, logs = series.impl.target, self._log.folder / "logs"
        logs.mkdir(exist_ok=True)
        self._make_trace_quota(target.slug)
        label = f".{series.kind}.{seeds[0]}"
        jobs = split_into_jobs(target, series.lab, series.network, runs_of(series.tests, seeds), label)
        with (
            process_monitor.MemoryMonitor() as memory,
            process_monitor.hogs(self._settings.hogs if series.beside_hog else 0) as hogs,
        ):
            futures = [
                self._pool.submit(
                    series.network,
                    partial(
                        run_job,
                        _together(job),
                        commands=self._commands,
                        children=self._pool.children,
                        log=logs / f"{job.id}.txt",
                        traces=self._log.folder / "traces" / target.slug,
                        on_record=self._pool.on_record,
                    ),
                )
                for job in jobs
            ]
            for record in self._pool.until_done(futures):
                if record.outcome != "passed":
                    self._failed(series, record)
            finished: list[JobResult] = [future.result() for future in futures]
            leftover = process_monitor.leftover_processes(self._base | hogs)
        _keep_newest(logs)
        if any(each.stopped for each in finished):
            return None
        if leftover:
            self._say(f"this block left processes behind, which were killed: {leftover}")
            process_monitor.kill(leftover)
        if code_fingerprint(raftlab) != self._code:
            raise CannotStart(
                "raftlab's code was changed while the soak ran: the last block was dropped, start the soak again"
            )
        records = [record for each in finished for record in each.records]
        outcomes = [record.outcome for record in records]
        return Block(
            kind=series.kind,
            impl=target.submission,
            impl_hash=series.impl.hash,
            lab=series.lab,
            network=series.network,
            beside_hog=series.beside_hog,
            runs=len(outcomes),
            failures=outcomes.count("failed"),
            unjudged=outcomes.count("error"),
            seeds=seeds,
            tests=len(series.tests),
            cpu_s=round(sum(record.cpu_s for record in records), 3),
            wall_s=round(time.monotonic() - wall, 3),
            memory_mb=Megabytes(round(memory.own, 1), round(memory.child, 1)),
            processes=1 + len(leftover),
            code=self._code,
            sandbox=self._settings.sandbox.level,
            started=started,
        )

    def _make_trace_quota(self, slug: str) -> None:
        """Make the quota for an implementation's traces. The traces that earlier soaks left in the folder count, too."""
        if slug not in self._trace_quotas:
            folder = self._log.folder / "traces" / slug
            quota = self._trace_quotas[slug] = TraceQuota(folder, TRACE_QUOTA)
            for trace in sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime):
                quota.took((next(self._arrivals), 0), trace.name)

    def _failed(self, series: BlockSeries, record: Record) -> None:
        if self._trace_quotas[series.impl.target.slug].took((next(self._arrivals), 0), record.trace):
            record.trace = ""
        failure = record.failure
        text, rule, detail = "", "", ""
        if failure is not None:
            rule = failure.rule.name if failure.rule else ""
            text, detail = printable(failure.text), printable(failure.detail[:2000])
        self._log.failed(
            FailureLine(
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                kind=series.kind,
                impl=series.impl.target.submission,
                impl_hash=series.impl.hash,
                code=self._code,
                lab=series.lab,
                test=record.test,
                network=series.network,
                beside_hog=series.beside_hog,
                seed=record.seed,
                outcome=record.outcome,
                text=text,
                rule=rule,
                detail=detail,
                replay=record.replay,
                trace=record.trace,
            )
        )
        what = "FAILED" if record.outcome == "failed" else "not judged"
        name = f"{printable(series.impl.target.submission)} {record.test}@{record.seed} {series.network}"
        again = f" ({printable(record.replay)})" if record.replay else ""
        self._say(f"{what}: {name}: {one_line(text)}{again}")

    def _finish(self, block: Block) -> None:
        self._log.add(block)
        self._done.setdefault(_key(block), []).append(block.seeds)
        self._say(soak_log.summary_line(block))
        self._report_growth("this soak", ("own",), block.memory_mb.own)
        of = (block.impl, block.lab, soak_log.column(block))
        self._report_growth(f"a process of {', '.join(map(printable, of))}", of, block.memory_mb.child)

    def _report_growth(self, owner: str, key: tuple[str, ...], now: float) -> None:
        """Report if memory has grown by more than :data:`GROWTH_MB` since the first block, or since the last such
        report."""
        first = self._baseline.setdefault(key, now)
        if now > first + GROWTH_MB:
            self._say(f"memory grows: {owner} held {now:.0f} MB, {now - first:.0f} MB more than before")
            self._baseline[key] = now

    def _say(self, text: str) -> None:
        print(f"{datetime.now().strftime('%H:%M:%S')}  {text}", file=self._stream, flush=True)


def _together(job: Job) -> Job:
    """The same job with the judge and the servers in one process, if possible. This is acceptable because a soak gives no
    marks."""
    return msgspec.structs.replace(job, together=True)


def _keep_newest(logs: Path) -> None:
    """Remove all but the newest logs of jobs."""
    files = sorted(logs.iterdir(), key=lambda file: file.stat().st_mtime)
    for file in files[:-MAX_LOGS]:
        file.unlink()
    if not files:
        logs.rmdir()


def _replace(file: Path, text: str) -> None:
    """Write ``file`` atomically."""
    new = file.with_suffix(".tmp")
    new.write_text(text)
    os.replace(new, file)
