"""The night shift: ``raftgrade soak IMPL…`` runs suites and fuzz for hours, and watches memory and processes meanwhile.

The work is cut into blocks: a stretch of fresh seeds of one lab, one implementation and one network. What has the fewest
blocks comes next, so that evidence grows evenly; a finished block is a line in the logbook (:mod:`raftgrade.soak.log`), and
the next soak with the same folder goes on behind it. A kill at any moment costs the block under way and nothing else.
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

import raftlab
from raftgrade.engines.child_processes import Children
from raftgrade.engines.commands import TRACE_QUOTA, Commands
from raftgrade.engines.jobs import JobResult, run_check, run_job
from raftgrade.engines.work_loop import on_stop_signal
from raftgrade.intake import staging, submissions
from raftgrade.intake.reuse import code_fingerprint
from raftgrade.intake.submissions import FoundSubmissions
from raftgrade.plan import NETWORKS, CannotStart, CatalogueTest, JobTarget, parse_labs, split_into_jobs
from raftgrade.soak import log as soak_log
from raftgrade.soak import process_monitor
from raftgrade.soak.log import Block, FailureLine, Kind, Log, Megabytes
from raftlab import command_line
from raftlab.runs import random_scenarios
from raftlab.runs.record import Record
from raftlab.runs.trace_quota import TraceQuota
from raftlab.safe_text import count, one_line, printable
from raftlab.sandbox.levels import Sandbox

SEEDS = {"suite sim": 50, "suite rpyc": 4, "fuzz sim": 200}  # in a block: a minute or two
GROWTH_MB = 50.0  # memory that grows by more than that over the first block's is told
TRIALS = 3  # seeds of a lab's first test; who passes none of them has not come to this lab
MAX_LOGS = 100

Catalogue = Callable[[str], Sequence[CatalogueTest]]
Key = tuple[str, str, str, str, str, bool]


@dataclass(frozen=True, slots=True)
class SoakSettings:
    """What was asked for. ``seconds`` may be infinite; ``passes`` is how many seeds of each test are enough, ``None``:
    no end. ``hogs`` is how many endless loops run beside each block on the real network."""

    paths: list[str]
    labs: list[str]
    networks: list[str]
    seconds: float
    passes: int | None
    seed: int
    jobs: int
    fuzz: bool
    hogs: int
    out: Path
    sandbox: Sandbox


@dataclass(frozen=True, slots=True)
class Candidate:
    """One implementation: the copy that is run, and the labs it comes to."""

    whose: JobTarget
    hash: str
    labs: list[str]


@dataclass(frozen=True, slots=True)
class BlockSeries:
    """What blocks are made of: everything but the seeds."""

    kind: Kind
    impl: Candidate
    lab: str
    network: str
    tests: list[str]
    beside_hog: bool = False

    @property
    def sort(self) -> str:
        return f"{self.kind} {self.network}"

    @property
    def key(self) -> Key:
        """What its blocks have in common (:func:`_key`)."""
        whose = self.impl.whose
        return self.kind, whose.submission, self.impl.hash, self.lab, self.network, self.beside_hog


def _key(block: Block) -> Key:
    return block.kind, block.impl, block.impl_hash, block.lab, block.network, block.beside_hog


def parse_settings(arguments: argparse.Namespace, sandbox: Callable[[str], Sandbox]) -> SoakSettings:
    """What the command line asks for. Raises :class:`CannotStart`, and :class:`raftlab.labs.UnknownLab`."""
    if not arguments.paths:
        raise CannotStart("soak needs an implementation: a raft.py, or a folder with one or with several")
    if arguments.out is None:
        raise CannotStart("soak needs --out DIR: a folder of its own, where it can go on later")
    networks = list(dict.fromkeys(name.strip() for name in arguments.network.split(",")))
    for name in networks:
        if name not in NETWORKS:
            raise CannotStart(f"--network must be sim, rpyc or sim,rpyc, not {arguments.network}")
    if arguments.hog and "rpyc" not in networks:
        raise CannotStart("--hog goes with --network rpyc: simulated runs keep no clock of the outside")
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
        labs=parse_labs(arguments.labs),
        networks=networks,
        seconds=math.inf if arguments.hours is None else arguments.hours * 3600,
        passes=arguments.passes,
        seed=arguments.seed,
        jobs=arguments.jobs or 2 * command_line.processors(),
        fuzz=arguments.fuzz and "sim" in networks,
        hogs=command_line.processors() if arguments.hog else 0,
        out=Path(arguments.out),
        sandbox=sandbox(arguments.sandbox),
    )


def show(folder: Path) -> int:
    """Print what the book in ``folder`` says. Returns the exit code; raises :class:`~raftgrade.output_folder.BadFolder`."""
    blocks = soak_log.read(folder)
    print(soak_log.table(blocks))
    return soak_log.exit_code(soak_log.current_blocks(blocks))


def run(asked: SoakSettings, commands: Commands, catalogue: Catalogue, stream: TextIO) -> int:
    """Work until it is enough, and print the table. What happens is told on ``stream``. Returns the exit code; raises
    :class:`CannotStart`, :class:`~raftgrade.intake.submissions.BadPath` and :class:`~raftgrade.output_folder.BadFolder`."""
    found = submissions.find(asked.paths, ignore=asked.out)
    with Log.open(asked.out) as log, process_monitor.adopt_orphans():
        crew = _WorkerPool(asked.jobs)
        try:
            with on_stop_signal(crew.signalled):
                _Soak(asked, commands, catalogue, log, crew, stream).work(found)
        finally:
            crew.stop()
        print(soak_log.table(log.blocks))
        if crew.signal:
            shown = printable(str(asked.out))
            print(f"raftgrade: interrupted; the same command goes on from {shown}", file=stream)
            return 128 + crew.signal
        return soak_log.exit_code(soak_log.current_blocks(log.blocks))


class _WorkerPool:
    """Threads that carry out jobs, one child process each. ``signal`` is what asked us to stop, or 0."""

    def __init__(self, jobs: int) -> None:
        self.children = Children(jobs)
        self.signal = 0
        self._inbox: queue.SimpleQueue[Record | Future[Any] | int] = queue.SimpleQueue()
        self._executor = ThreadPoolExecutor(jobs, thread_name_prefix="soak")

    def signalled(self, number: int) -> None:
        self._inbox.put(number)

    def hear(self, record: Record) -> None:
        self._inbox.put(record)

    def submit(self, function: Callable[..., Any], *arguments: object) -> Future[Any]:
        future = self._executor.submit(function, *arguments)
        future.add_done_callback(self._inbox.put)
        return future

    def until_done(self, futures: Sequence[Future[Any]]) -> Iterator[Record]:
        """Wait for ``futures``, with the records that come in meanwhile. A signal ends them soon."""
        left = set(futures)
        while left:
            event = self._inbox.get()
            if isinstance(event, Record):
                yield event
            elif isinstance(event, int):
                self.signal = self.signal or event
                self.children.stop()
            else:
                left.discard(event)

    def stop(self) -> None:
        """Kill every child and wait for the threads."""
        self.children.stop()
        self._executor.shutdown(wait=True, cancel_futures=True)


class _Soak:
    """One soak at work."""

    def __init__(
        self, asked: SoakSettings, commands: Commands, catalogue: Catalogue, log: Log, crew: _WorkerPool, stream: TextIO
    ) -> None:
        self._asked = asked
        self._commands = commands
        self._catalogue = catalogue
        self._log = log
        self._crew = crew
        self._stream = stream
        self._code = code_fingerprint(raftlab)
        self._base = process_monitor.descendants()
        self._baseline: dict[tuple[str, ...], float] = {}
        self._trace_quotas: dict[str, TraceQuota] = {}
        self._arrivals = itertools.count()
        self._done: dict[Key, list[tuple[int, int]]] = {}
        for block in log.blocks:
            if block.code == self._code:
                self._done.setdefault(_key(block), []).append(block.seeds)

    def work(self, found: FoundSubmissions) -> None:
        """Block after block, of the implementations that were ``found``."""
        until = time.monotonic() + self._asked.seconds
        impls = self._take_in(found)
        if self._crew.signal:
            return
        fields = [
            field for lab in self._asked.labs for impl in impls if lab in impl.labs for field in self._of(impl, lab)
        ]
        if not fields:
            raise CannotStart(f"nothing to run: no implementation comes to lab {' or '.join(self._asked.labs)}")
        self._tell_history()
        while time.monotonic() < until and not self._crew.signal:
            todo = [(field, self._stretch(field)) for field in fields]
            left = [(field, seeds) for field, seeds in todo if seeds is not None]
            if not left:
                self._say("every test has had all its seeds")
                return
            field, seeds = min(left, key=lambda pair: (pair[1][0] - self._asked.seed) // SEEDS[pair[0].sort])
            block = self._block(field, seeds)
            if block is not None:
                self._finish(block)

    # --- what there is to do ---

    def _take_in(self, found: FoundSubmissions) -> list[Candidate]:
        """Copy the implementations, and find out how far each goes."""
        staged = []
        for item in found.submissions:
            try:
                place = self._log.folder / "submissions" / item.slug
                copied = staging.stage(item, place, found.files, self._log.folder)
            except staging.CannotStage as exc:
                raise CannotStart(f"{printable(item.name)} cannot be taken in: {exc}") from None
            staged.append((JobTarget(item.name, item.slug, str(copied.path), self._asked.sandbox.level), copied.hash))
        file = self._log.folder / "reach.json"
        known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
        with tempfile.TemporaryDirectory(prefix="raftgrade-soak-") as room:
            futures = [self._crew.submit(self._reach, whose, hash, known, Path(room)) for whose, hash in staged]
            for _ in self._crew.until_done(futures):
                pass
        impls = []
        for (whose, hash), future in zip(staged, futures, strict=True):
            reached: dict[str, str] = future.result()
            known |= {self._named(hash, lab): why for lab, why in reached.items()}
            impls.append(Candidate(whose, hash, [lab for lab, why in reached.items() if not why]))
            for lab, why in reached.items():
                if why:
                    self._say(
                        f"{printable(whose.submission)} does not come to lab {lab}, which is left out: {one_line(why)}"
                    )
        if not self._crew.signal:
            _replace(file, json.dumps(known, indent=1))
        return impls

    def _named(self, hash: str, lab: str) -> str:
        return f"{lab} {hash[:16]} {self._code}"

    def _reach(self, whose: JobTarget, hash: str, known: dict[str, str], room: Path) -> dict[str, str]:
        """Why ``whose`` does not come to a lab, lab by lab up to the first such; an empty text: it does. A lab is come to
        by who passes its contract check and, once in three, its first test."""
        reached: dict[str, str] = {}
        for lab in self._asked.labs:
            key = self._named(hash, lab)
            reached[lab] = known[key] if key in known else self._why_not(whose, lab, room)
            if reached[lab]:
                break
        return reached

    def _why_not(self, whose: JobTarget, lab: str, room: Path) -> str:
        children, commands = self._crew.children, self._commands
        log = room / f"{whose.slug}.{lab}.txt"
        checked = run_check(
            whose.submission, whose.path, [lab], whose.sandbox, commands=commands, children=children, log=log
        )
        if checked.problems:
            if not checked.judged:
                raise CannotStart(f"{printable(whose.submission)}: {one_line(checked.problems[0].text)}")
            return checked.problems[0].text
        first = next((test.name for test in self._catalogue(lab) if "sim" in test.networks), "")
        if checked.stopped or not first:
            return ""
        (job,) = split_into_jobs(whose, lab, "sim", [first], (0, TRIALS))
        trial = run_job(job, commands=commands, children=children, log=log, traces=room / whose.slug)
        failures = [record.failure for record in trial.records if record.outcome == "failed" and record.failure]
        if len(failures) == TRIALS:
            return f"its first test, {first}, failed with seeds 0 to {TRIALS - 1}: {failures[0].text}"
        if not trial.stopped and not any(record.outcome == "passed" for record in trial.records):
            raise CannotStart(f"{printable(whose.submission)} could not be judged in lab {lab}: try again")
        return ""

    def _of(self, impl: Candidate, lab: str) -> list[BlockSeries]:
        fields = []
        for network in self._asked.networks:
            tests = [test.name for test in self._catalogue(lab) if network in test.networks]
            if tests:
                hog = bool(self._asked.hogs) and network == "rpyc"
                fields.append(BlockSeries("suite", impl, lab, network, tests, hog))
        if self._asked.fuzz:
            fields.append(BlockSeries("fuzz", impl, lab, "sim", [random_scenarios.name_of(lab)]))
        return fields

    def _stretch(self, field: BlockSeries) -> tuple[int, int] | None:
        """The next seeds that nobody has run yet; ``None`` when there are enough."""
        done = self._done.get(field.key, [])
        first = self._asked.seed
        for start, end in sorted(done):
            if start <= first:
                first = max(first, end)
        last = first + SEEDS[field.sort]
        last = min([last, *(start for start, _ in done if start > first)])
        if self._asked.passes is not None:
            last = min(last, self._asked.seed + self._asked.passes)
        return (first, last) if first < last else None

    def _tell_history(self) -> None:
        blocks = self._log.blocks
        now = [block for block in blocks if block.code == self._code]
        if now:
            runs = count(sum(block.runs for block in now), "run")
            self._say(f"going on behind {count(len(now), 'block')} with {runs}")
        if len(now) < len(blocks):
            old = count(len(blocks) - len(now), "block")
            self._say(f"{old} of another version of raftlab stay in the book as history and do not count")

    # --- a block ---

    def _block(self, field: BlockSeries, seeds: tuple[int, int]) -> Block | None:
        """Run a block; ``None`` when it was stopped."""
        started = datetime.now(UTC).isoformat(timespec="seconds")
        wall = time.monotonic()
        whose, logs = field.impl.whose, self._log.folder / "logs"
        logs.mkdir(exist_ok=True)
        self._make_trace_quota(whose.slug)
        label = f".{field.kind}.{seeds[0]}"
        jobs = split_into_jobs(whose, field.lab, field.network, field.tests, seeds, label)
        with (
            process_monitor.MemoryMonitor() as memory,
            process_monitor.hogs(self._asked.hogs if field.beside_hog else 0) as hogs,
        ):
            futures = [
                self._crew.submit(
                    partial(
                        run_job,
                        job,
                        commands=self._commands,
                        children=self._crew.children,
                        log=logs / f"{job.id}.txt",
                        traces=self._log.folder / "traces" / whose.slug,
                        on_record=self._crew.hear,
                    )
                )
                for job in jobs
            ]
            for record in self._crew.until_done(futures):
                if record.outcome != "passed":
                    self._failed(field, record)
            finished: list[JobResult] = [future.result() for future in futures]
            over = process_monitor.leftover_processes(self._base | hogs)
        _keep_newest(logs)
        if any(each.stopped for each in finished):
            return None
        if over:
            self._say(f"{count(len(over), 'process')} of this block did not end by itself and was ended: {over}")
            process_monitor.kill(over)
        if code_fingerprint(raftlab) != self._code:
            raise CannotStart(
                "raftlab's own code was changed while the soak ran: its last block was dropped, start it again"
            )
        records = [record for each in finished for record in each.records]
        outcomes = [record.outcome for record in records]
        return Block(
            kind=field.kind,
            impl=whose.submission,
            impl_hash=field.impl.hash,
            lab=field.lab,
            network=field.network,
            beside_hog=field.beside_hog,
            runs=len(outcomes),
            failures=outcomes.count("failed"),
            unjudged=outcomes.count("error"),
            seeds=seeds,
            tests=len(field.tests),
            cpu_s=round(sum(record.cpu_s for record in records), 3),
            wall_s=round(time.monotonic() - wall, 3),
            memory_mb=Megabytes(round(memory.own, 1), round(memory.child, 1)),
            processes=1 + len(over),
            code=self._code,
            sandbox=self._asked.sandbox.level,
            started=started,
        )

    def _make_trace_quota(self, slug: str) -> None:
        """Where the traces of a Raft go, first come, first served. Those of an earlier soak are there already."""
        if slug not in self._trace_quotas:
            folder = self._log.folder / "traces" / slug
            room = self._trace_quotas[slug] = TraceQuota(folder, TRACE_QUOTA)
            for trace in sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime):
                room.took((next(self._arrivals), 0), trace.name)

    def _failed(self, field: BlockSeries, record: Record) -> None:
        if self._trace_quotas[field.impl.whose.slug].took((next(self._arrivals), 0), record.trace):
            record.trace = ""
        failure = record.failure
        text, rule, detail = "", "", ""
        if failure is not None:
            rule = failure.rule.name if failure.rule else ""
            text, detail = printable(failure.text), printable(failure.detail[:2000])
        self._log.failed(
            FailureLine(
                at=datetime.now(UTC).isoformat(timespec="seconds"),
                kind=field.kind,
                impl=field.impl.whose.submission,
                impl_hash=field.impl.hash,
                code=self._code,
                lab=field.lab,
                test=record.test,
                network=field.network,
                beside_hog=field.beside_hog,
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
        name = f"{printable(field.impl.whose.submission)} {record.test}@{record.seed} {field.network}"
        again = f" ({printable(record.replay)})" if record.replay else ""
        self._say(f"{what}: {name}: {one_line(text)}{again}")

    def _finish(self, block: Block) -> None:
        self._log.add(block)
        self._done.setdefault(_key(block), []).append(block.seeds)
        self._say(soak_log.summary_line(block))
        self._grown("this soak", ("own",), block.memory_mb.own)
        of = (block.impl, block.lab, soak_log.column(block))
        self._grown(f"a process of {', '.join(map(printable, of))}", of, block.memory_mb.child)

    def _grown(self, whose: str, key: tuple[str, ...], now: float) -> None:
        """Say so when memory is well above the first block's; then again only when it is that much higher still."""
        first = self._baseline.setdefault(key, now)
        if now > first + GROWTH_MB:
            self._say(f"memory grows: {whose} held {now:.0f} MB, {now - first:.0f} MB more than before")
            self._baseline[key] = now

    def _say(self, text: str) -> None:
        print(f"{datetime.now().strftime('%H:%M:%S')}  {text}", file=self._stream, flush=True)


def _keep_newest(logs: Path) -> None:
    """What jobs printed that did not go well: the newest of it."""
    files = sorted(logs.iterdir(), key=lambda file: file.stat().st_mtime)
    for file in files[:-MAX_LOGS]:
        file.unlink()
    if not files:
        logs.rmdir()


def _replace(file: Path, text: str) -> None:
    """Write ``file`` in one stroke."""
    new = file.with_suffix(".tmp")
    new.write_text(text)
    os.replace(new, file)
