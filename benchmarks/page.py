"""Run all benchmarks, and write the benchmarks page with its plots. This is run by hand and never in CI:

    python -m benchmarks.page

It takes about six minutes on two idle cores, and less with ``--brief``. ``--quick`` measures tiny sizes, to check that the
page is complete; its numbers mean nothing.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks import measure
from benchmarks.measure import Grading, ReceivedLog, Servers, WrittenLog
from benchmarks.plot import Bars, Lines
from benchmarks.test_rpyc_speed import bare_rate, judge_rate
from benchmarks.test_sim_speed import Idle, idle_cluster, idle_rate, start_ms
from raftlab import labs
from raftlab.operating_system import processors
from raftlab.safe_text import count, duration
from raftlab.worlds.host_process import WarmHost
from tests.conftest import ROOT, SOLUTION

T = TypeVar("T")
# If other processes used at least this share of the processors, the page warns that its real times are too long.
BUSY = 0.10

OUT_OF_PROCESS = "raftlab, as it grades: judge and host are two processes"
IN_PROCESS = "raftlab, judge and host in one process"


@dataclass(frozen=True)
class Sizes:
    """How much to measure.

    Attributes:
        times: how often to repeat each measurement.
        idle_s: virtual seconds for which to run an idle cluster.
        rpyc_s: real seconds of each measurement of the real network.
        servers: cluster sizes.
        commands: number of commands for each cluster size.
        written: lengths of logs that a leader writes without snapshots.
        compacted: lengths of logs that a leader writes with snapshots.
        received: lengths of logs that a server receives in long messages.
        preempted: length of the logs that are written with preemption, and number of seeds.
        jobs: numbers of jobs for the small grading run.
        grade: options of the grading run that the page shows lab by lab.
        small: options of the small grading run.
    """

    times: int
    idle_s: float
    rpyc_s: float
    servers: Sequence[int]
    commands: int
    written: Sequence[int]
    compacted: Sequence[int]
    received: Sequence[int]
    preempted: tuple[int, int]
    jobs: Sequence[int]
    grade: Sequence[str]
    small: Sequence[str]


FULL = Sizes(
    times=3,
    idle_s=100.0,
    rpyc_s=2.0,
    servers=(3, 5, 7, 9, 13, 25),
    commands=100,
    written=(1_000, 3_000, 10_000),
    compacted=(1_000, 3_000, 10_000, 30_000, 100_000),
    received=(1_000, 10_000, 30_000, 100_000),
    preempted=(3_000, 8),
    jobs=(1, 2, 4),
    grade=(),
    small=("--labs", "2A", "--network", "sim", "--runs", "6", "--sandbox", "none"),
)
QUICK = Sizes(
    times=1,
    idle_s=1.0,
    rpyc_s=0.05,
    servers=(3, 5),
    commands=5,
    written=(100, 200),
    compacted=(100, 200),
    received=(100, 2_000),
    preempted=(200, 1),
    jobs=(1,),
    grade=("--labs", "2A", "--network", "sim", "--runs", "1", "--sandbox", "none"),
    small=("--labs", "2A", "--network", "sim", "--runs", "1", "--sandbox", "none"),
)
# Sizes for a busy machine.
BRIEF = replace(
    FULL,
    times=1,
    written=(1_000, 3_000),
    compacted=(1_000, 3_000, 10_000, 30_000),
    preempted=(2_000, 4),
    jobs=(1, 2),
    grade=("--network", "sim", "--runs", "2"),
    small=QUICK.small,
)


@dataclass(frozen=True)
class Measured:
    """All measurements. Lists hold repeated measurements; the page shows their median."""

    peers: dict[str, list[float]]
    """RPCs per CPU second of raftlab and other simulations."""
    idle: dict[bool, list[Idle]]
    start_ms: float
    rpyc: dict[str, list[float]]
    servers: list[list[Servers]]
    written: list[list[WrittenLog]]
    compacted: list[list[WrittenLog]]
    received: list[list[ReceivedLog]]
    preempted: list[WrittenLog]
    grading: Grading
    jobs: dict[int, list[Grading]]
    wall_s: float
    others: float
    """The share of the processors that other processes used during the measurements."""


def _peer_rates(host: WarmHost, sizes: Sizes, simloop: str | None) -> dict[str, list[float]]:
    """RPCs per CPU second of idle clusters. All clusters are measured alternately, so that the load of the machine
    hardly changes the ratios."""
    second = sizes.idle_s
    measures: dict[str, Callable[[], float]] = {
        OUT_OF_PROCESS: lambda: idle_rate(host, second),
        IN_PROCESS: lambda: idle_rate(None, second),
        "bare greenlets with msgspec": lambda: measure.peer_rate("bare_greenlets.py", int(200 * second)),
        "a plain discrete-event Raft": lambda: measure.peer_rate("plain_raft.py", 10 * second),
    }
    if simloop is not None:
        measures["simloop, asyncio streams with JSON"] = lambda: measure.peer_rate("simloop_rpcs.py", second, simloop)
    rates: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(sizes.times):
        for name, rate in measures.items():
            rates[name].append(rate())
    return rates


def take_measurements(sizes: Sizes, progress: Callable[[str], None], simloop: str | None = None) -> Measured:
    """Take all measurements. ``simloop`` is a Python in which simloop is installed; if it is ``None``, simloop is left
    out."""
    began, cpu, busy = time.monotonic(), measure.all_cpu_seconds(), _busy_seconds()

    def for_each_size(measure_size: Callable[[WarmHost, int], object], values: Sequence[int]) -> list[list[object]]:
        results = []
        for value in values:
            start_time = time.monotonic()
            repeats = [measure_size(host, value)]
            duration_s = time.monotonic() - start_time
            # Measure slow cases only once: over a long run, noise averages out.
            repeats += [measure_size(host, value) for _ in range(sizes.times - 1) if duration_s < 10]
            results.append(repeats)
        return results

    with tempfile.TemporaryDirectory(prefix="raftlab-bench-") as folder, WarmHost(SOLUTION) as host:
        progress("other simulations")
        peers = _peer_rates(host, sizes, simloop)
        progress("speed of the simulator")
        idle = {
            preempt: [idle_cluster(host, preempt, sizes.idle_s) for _ in range(sizes.times)]
            for preempt in (True, False)
        }
        start = start_ms(host, 7 * sizes.times)
        progress("speed of the real network")
        rates: dict[str, list[float]] = {"bare": [], "one": [], "eight": []}
        for _ in range(sizes.times):
            rates["bare"].append(bare_rate(sizes.rpyc_s))
            rates["one"].append(judge_rate(Path(folder), 1, sizes.rpyc_s))
            rates["eight"].append(judge_rate(Path(folder), 8, sizes.rpyc_s))
        progress("cluster sizes")
        servers = for_each_size(lambda host, n: measure.agree(host, n, sizes.commands), sizes.servers)
        progress("long logs")
        written = for_each_size(lambda host, n: measure.write_through_leader(host, n, False), sizes.written)
        compacted = for_each_size(lambda host, n: measure.write_through_leader(host, n, True), sizes.compacted)
        received = for_each_size(measure.receive_log, sizes.received)
        entries, seeds = sizes.preempted
        preempted = [measure.write_through_leader(host, entries, False, True, seed) for seed in range(seeds)]
        progress("numbers of jobs")
        jobs = {
            n: [
                measure.grade(Path(folder, f"{n}-{repeat}"), [*sizes.small, "--jobs", str(n)])
                for repeat in range(sizes.times)
            ]
            for n in sorted({*sizes.jobs, _cores()} if len(sizes.jobs) > 1 else sizes.jobs)
        }
        # Computed before the full grading run, because sandboxed processes are not included in our CPU time.
        others = (_busy_seconds() - busy) - (measure.all_cpu_seconds() - cpu)
        share = max(0.0, others / ((time.monotonic() - began) * (os.cpu_count() or 1)))
        progress("full grading run")
        # With --quick, the full grading run is the same as the small one.
        same = sizes.grade == sizes.small
        grading = jobs[1][0] if same else measure.grade(Path(folder, "grading"), list(sizes.grade))
    wall = time.monotonic() - began
    return Measured(
        peers, idle, start, rates, servers, written, compacted, received, preempted, grading, jobs, wall, share
    )  # type: ignore[arg-type]


def _cores() -> int:
    return processors()


def _busy_seconds() -> float:
    """CPU seconds for which the processors have been busy since the machine started, added up over all of them."""
    user, nice, system, _, _, irq, softirq, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


# --- the page ------------------------------------------------------------------------------------------------------


def page(measured: Measured, sizes: Sizes, command: str) -> str:
    parts = [
        _top(measured, sizes, command),
        _ratios(measured, sizes),
        _speed(measured, sizes),
        _grading(measured),
        _jobs(measured, sizes),
        _servers(measured, sizes),
    ]
    return _wrapped("\n".join([*parts, _logs(measured, sizes), _comparison_with_mit(measured), _NATIVE_CORE]))


def plots(measured: Measured) -> dict[str, str]:
    """The plots as SVG, by file name."""
    runs = measured.grading.run_cpu
    grading = Bars(
        "Grading the reference: CPU by lab",
        "CPU seconds (judge and hosts)",
        [name for name in ("sim", "rpyc") if any(network == name for _, network in runs)],
        [
            (lab, [runs[lab, name] for name in ("sim", "rpyc") if (lab, name) in runs])
            for lab in labs.LABS
            if any(key[0] == lab for key in runs)
        ],
    )
    walls = {n: median(each.wall_s for each in repeats) for n, repeats in measured.jobs.items()}
    cpus = {n: median(each.cpu_s for each in repeats) for n, repeats in measured.jobs.items()}
    jobs = Lines(
        "A small grading run with more parallel jobs",
        "parallel jobs",
        "seconds",
        [("real time", list(walls.items())), ("CPU", list(cpus.items()))],
        list(walls),
    )
    by_size = [_median_by(repeats, lambda each: each.cpu_ms) for repeats in measured.servers]
    servers = Lines(
        "One command, applied by every server",
        "servers",
        "CPU milliseconds per command",
        [("the reference", [(each.servers, each.cpu_ms) for each in by_size])],
        [each.servers for each in by_size],
    )
    logs = Lines(
        "Average cost per entry, by length of the log",
        "entries",
        "CPU milliseconds per entry",
        [
            ("one by one", [_cost_per_entry(repeats) for repeats in measured.written]),
            ("with snapshots", [_cost_per_entry(repeats) for repeats in measured.compacted]),
            ("in messages of 1,000", [_cost_per_received_entry(repeats) for repeats in measured.received]),
        ],
        [10.0**power for power in range(2, 6)],
        log=True,
    )
    all_plots: dict[str, Bars | Lines] = {"grading": grading, "jobs": jobs, "servers": servers, "logs": logs}
    return {f"{name}.svg": plot.svg() for name, plot in all_plots.items()}


def _cost_per_entry(repeats: Sequence[WrittenLog]) -> tuple[float, float]:
    """The length of the log, and the CPU milliseconds per entry."""
    typical = _median_by(repeats, lambda each: each.cpu_s)
    return typical.reached, typical.cpu_s / max(1, typical.reached) * 1000


def _cost_per_received_entry(repeats: Sequence[ReceivedLog]) -> tuple[float, float]:
    """The length of the log, and the CPU milliseconds per entry."""
    typical = _median_by(repeats, lambda each: each.append_s)
    return typical.entries, typical.append_s / typical.entries * 1000


def _median_by(repeats: Sequence[T], key: Callable[[T], float]) -> T:
    """The measurement with the median value of ``key``."""
    return sorted(repeats, key=key)[len(repeats) // 2]


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows)])


def _rounded(value: float, digits: int = 3) -> str:
    """``value`` with ``digits`` significant digits, but all digits before the decimal point: 12,345, not 12,300."""
    if value >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if value else "0"


def _wrapped(text: str) -> str:
    """``text`` with its paragraphs wrapped again, because inserted numbers have changed the length of lines."""
    blocks = text.split("\n\n")
    not_wrapped = ("#", "|", "!")
    return (
        "\n\n".join(
            b if b.lstrip().startswith(not_wrapped) else textwrap.fill(b, 120, break_on_hyphens=False) for b in blocks
        )
        + "\n"
    )


def _top(measured: Measured, sizes: Sizes, command: str) -> str:
    text = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")), "unknown"
    )
    busy = (
        f"Meanwhile, other processes used {measured.others:.0%} of the processors, so **the real times on this page are "
        "too long**; CPU seconds are less affected."
        if measured.others >= BUSY
        else f"The machine was otherwise nearly idle (other processes used {measured.others:.0%} of the processors)."
    )
    quick = "\n\n**Tiny sizes (`--quick`): these numbers mean nothing.**" if sizes is QUICK else ""
    times = (
        "each measured once" if sizes.times == 1 else f"medians of {sizes.times} measurements unless stated otherwise"
    )
    return f"""# Benchmarks

Generated by `{command}` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; do not edit by hand. It took
{duration(measured.wall_s)} on {_cores()} cores ({model}), {platform.system()}, Python {platform.python_version()}.
{busy}

All numbers are for the reference solution, {times}.
**CPU** is the CPU time of judge and hosts together: it depends on the machine, but little on its load.
**Virtual** seconds are the simulator's; they are the same on every machine.{quick}
"""


def _ratios(measured: Measured, sizes: Sizes) -> str:
    rates = {name: max(repeats) for name, repeats in measured.peers.items()}
    own = rates[IN_PROCESS]
    rows = [[name, f"{rate / own:.2f}", _rounded(rate)] for name, rate in rates.items()]
    times = f" ({sizes.times} times; the best counts)" if sizes.times > 1 else ""
    left_out = "" if any("simloop" in name for name in rates) else " (simloop was not installed.)"
    return f"""## Beside other simulations

What does raftlab add to a simulation, and what does that cost? The table compares the heartbeats of an idle cluster of
five in several simulations, measured alternately on the same machine{times}. The rates depend on the machine, the ratios
only a little.

{_table(["", "relative", "RPCs per CPU s"], rows)}

**Bare greenlets** (`benchmarks/bare_greenlets.py`) call each other with encoded messages, and do nothing else. **A plain
discrete-event Raft** (`benchmarks/plain_raft.py`) is one object per server and a heap of events. **simloop** runs
asyncio code in virtual time; there, servers only send JSON back and forth (`benchmarks/simloop_rpcs.py`).{left_out}
Raftlab runs a student's file with its threads, locks and clocks, preempts these threads, checks the types of messages,
shows every message to the referee, and keeps a trace. In the first row, the student's code runs in a process of its own.
"""


def _speed(measured: Measured, sizes: Sizes) -> str:
    rows = []
    for preempt, repeats in measured.idle.items():
        typical = _median_by(repeats, lambda each: each.cpu)
        rpc_rate, virtual_rate = typical.rpcs / typical.cpu, typical.virtual_s / typical.cpu
        judge, host = (f"{cpu_s / typical.rpcs * 1e6:.0f}" for cpu_s in (typical.judge, typical.host))
        label = "with preemption" if preempt else "without"
        rows.append([label, _rounded(rpc_rate), _rounded(virtual_rate), judge, host])
    bare, one, eight = (median(measured.rpyc[name]) for name in ("bare", "one", "eight"))
    shares = [f"{rate / bare:.2f}" for rate in (bare, one, eight)]
    network = [
        ["bare rpyc, one process calls another", _rounded(bare), shares[0]],
        ["through the judge, one caller", _rounded(one), shares[1]],
        ["through the judge, 8 callers at once", _rounded(eight), shares[2]],
    ]
    return f"""## Speed of the two worlds

**sim**: five idle servers with a leader, {sizes.idle_s:.0f} virtual seconds. An RPC is a call and its reply.

{_table(["", "RPCs per CPU s", "virtual s per CPU s", "judge, µs per RPC", "host, µs per RPC"], rows)}

A run starts within {measured.start_ms:.1f} ms of real time (a fork from a warm host, three servers; median of
{7 * sizes.times}).

**rpyc**: RPCs per second of real time, on loopback. Through the judge, a call takes four hops instead of two, and the
judge can drop, delay or duplicate it.

{_table(["", "RPC/s", "relative to bare rpyc"], network)}
"""


def _grading(measured: Measured) -> str:
    grading = measured.grading
    rows = []
    for lab in (lab for lab in labs.LABS if lab in grading.tests):
        cells: list[object] = [lab, grading.tests[lab]]
        for network in ("sim", "rpyc"):
            runs, cpu = grading.runs.get((lab, network), 0), grading.run_cpu.get((lab, network), 0.0)
            cells += [f"{runs:,}", f"{cpu:.1f}", f"{cpu / runs:.3f}"] if runs else ["0", "", ""]
        rows.append(cells)
    head = ["lab", "tests", "sim runs", "CPU s", "per run", "rpyc runs", "CPU s", "per run"]
    run_cpu = sum(grading.run_cpu.values())
    bad = "all of them passed" if not grading.bad else f"{grading.bad} of them did not pass"
    return f"""## A full grading run

`{grading.command}`, measured once: {sum(grading.runs.values()):,} runs, {bad}. They took {duration(grading.wall_s)}, and
used **{run_cpu:.0f} s of CPU time** in judges and hosts. This does not include the start of the jobs (see below).

{_table(head, rows)}

![CPU seconds by lab](benchmarks/grading.svg)
"""


def _jobs(measured: Measured, sizes: Sizes) -> str:
    first = median(each.wall_s for each in measured.jobs[1])
    rows = []
    for jobs, repeats in measured.jobs.items():
        wall, cpu = median(each.wall_s for each in repeats), median(each.cpu_s for each in repeats)
        run_cpu = median(sum(each.run_cpu.values()) for each in repeats)
        rows.append([jobs, f"{wall:.1f}", f"{first / wall:.2f}", f"{cpu:.1f}", f"{run_cpu:.1f}"])
    command = " ".join(["raftgrade run solutions", *sizes.small, "--jobs N"])
    return f"""## More cores

`{command}`: {sum(measured.jobs[1][0].runs.values())} runs. This machine has {_cores()} cores;
more jobs than cores help only if runs spend time waiting, as they do on the real network. These runs do not wait.

{_table(["jobs", "real s", "speedup", "CPU s, total", "CPU s in runs"], rows)}

![Seconds by number of jobs](benchmarks/jobs.svg)
"""


def _servers(measured: Measured, sizes: Sizes) -> str:
    rows = []
    for repeats in measured.servers:
        typical = _median_by(repeats, lambda each: each.cpu_ms)
        rows.append(
            [
                typical.servers,
                f"{typical.elect_s:.2f}",
                _rounded(typical.cpu_ms),
                f"{typical.cpu_ms / typical.rpcs * 1000:.0f}",
                f"{typical.rpcs:.1f}",
                f"{typical.virtual_ms:.1f}",
            ]
        )
    head = [
        "servers",
        "first leader, virtual s",
        "CPU ms per command",
        "CPU µs per RPC",
        "RPCs per command",
        "virtual ms per command",
    ]
    return f"""## More servers

In sim, {sizes.commands} commands one after the other; every server applies each command before the next one is
proposed. A leader sends a message to every server, so messages and CPU time grow with the number of servers.

{_table(head, rows)}

![CPU milliseconds per command by number of servers](benchmarks/servers.svg)
"""


def _logs(measured: Measured, sizes: Sizes) -> str:
    def written(rows: list[list[WrittenLog]]) -> str:
        cells = []
        for repeats in rows:
            typical = _median_by(repeats, lambda each: each.cpu_s)
            ms = typical.cpu_s / max(1, typical.reached) * 1000
            row = [f"{typical.reached:,}", _rounded(typical.cpu_s), _rounded(ms), f"{typical.virtual_s:.2f}"]
            cells.append([*row, len(repeats)])
        return _table(["entries reached", "CPU s", "CPU ms per entry", "virtual s", "measurements"], cells)

    entries, seeds = sizes.preempted
    complete = sum(each.reached >= entries for each in measured.preempted)
    lengths = sorted(each.reached for each in measured.preempted if each.reached < entries)
    preempted = f"We tried to write {entries:,} entries one by one in {count(seeds, 'run')} with preemption, each with "
    preempted += f"a different seed. {complete} succeeded"
    others = "the other run" if len(lengths) == 1 else "the other runs"
    preempted += f", and {others} stopped at {', '.join(f'{length:,}' for length in lengths)}." if lengths else "."
    cells = []
    for repeats in measured.received:
        typical = _median_by(repeats, lambda each: each.append_s)
        steps = [typical.append_s, typical.restart_s, typical.apply_s, typical.snapshot_s]
        memory = [f"{typical.stored_kb:,.0f}", f"{typical.host_mb:.0f}", len(repeats)]
        cells.append([f"{typical.entries:,}", *(f"{seconds:.3f}" for seconds in steps), *memory])
    head = ["entries", "append", "restart", "apply all", "snapshot", "stored, kB", "host, MB", "measurements"]
    return f"""## Longer logs

In sim, three servers. The reference appends each change to what it has saved (`persister.append`), so **a save costs
the same however long the log is.** What still grows with the log is the search for the latest configuration (lab 2E).
If a Raft saves its whole log at each change, as lab 2C allows, building a log entry by entry takes quadratic time.

**One by one.** A leader gets {measure.PROPOSED_TOGETHER} commands at a time, and saves after each command.

{written(measured.written)}

**The same with a snapshot every {measure.SNAPSHOT_EVERY} entries.** The log stays short, so the cost per entry stays low.

{written(measured.compacted)}

**In long messages.** A leader played by the benchmark sends {measure.ENTRIES_PER_MESSAGE:,} entries in each
AppendEntries to one real server, which saves once per message. Then that server restarts, learns that everything is
committed, applies all entries from the beginning, and takes a snapshot. The table shows the CPU seconds of each step.

{_table(head, cells)}

All of this is without preemption. With preemption, computing takes virtual time, as on a busy machine, at a rate that is
random for each run. A leader that holds its lock while it saves a long log again and again may then send its heartbeats
late, and be replaced before all servers have its entries.
{preempted}

![CPU milliseconds per entry by length of the log](benchmarks/logs.svg)
"""


# MIT's numbers by lab: real seconds and CPU seconds. Their origin is described on the page.
MIT_SECONDS = {"2A": ("20.5", "0.1"), "2B": ("56.4", "0.6"), "2C": ("139.9", "20.4"), "2D": ("237.7", "1.9")}


def _comparison_with_mit(measured: Measured) -> str:
    grading = measured.grading
    rows = []
    for lab, (wall, cpu) in MIT_SECONDS.items():
        if (lab, "sim") in grading.runs:
            one_seed = grading.run_cpu[lab, "sim"] / grading.runs[lab, "sim"] * grading.tests[lab]
            rows.append([lab, grading.tests[lab], f"{one_seed:.1f}", wall, cpu])
    if len(rows) == len(MIT_SECONDS):
        rows.append(["all", *(_rounded(sum(float(row[column]) for row in rows)) for column in range(1, 5))])
    return f"""## Compared with the original (MIT)

MIT's 6.824 / 6.5840 suite waits in real time, so running it once takes minutes however fast the machine is. This is why
raftlab has a simulator. MIT's numbers were measured separately: with MIT's tester of 2024, a published solution, Go 1.27
and 2 cores of another machine. The tests are different as well (MIT has 28, up to 2D), so compare only the cost of running
the whole suite once. The column for raftlab is for one seed of every test in sim, from the grading run above.

{_table(["lab", "raftlab: tests", "raftlab: CPU s", "MIT: real s", "MIT: CPU s"], rows)}

With another solution, MIT's suite took 389 s of real time and 4.9 s of CPU (mean of four runs): it waits nearly all the
time.
"""


# These figures were measured once, by hand, and are not repeated with the others.
_NATIVE_CORE = """## Why there is no native core

A compiled core (an extension module built from the same source, with pure Python as the default) was tried on 30 November
2026, on the machine of this page, under load. It is **not worth having: a pass of the tests of 2A to 2D becomes 1.21 times
as fast**, and in grading 1.07 to 1.09 times. We had asked for at least 1.3, with small and clean changes.

mypyc 2.4.1 (gcc 12, `-O3`, Python 3.11) compiled 29 modules: kernel, locks, servers, codec, the judge's event loop, its
network, and the referee's rules. The traces of all 125 tests of 2A to 2D were the same as those of pure Python. The ratio
in the table is the CPU time with pure Python divided by the CPU time with the compiled core. The two were measured
alternately, in several rounds. The minimum of the rounds counts, taken once over whole passes and once test by test.

| measured | ratio | pure | compiled | rounds |
|---|---:|---:|---:|---:|
| 2A to 2D, one process per run, as `raftlab test` does it | 1.21 to 1.22 | 3.00 s | 2.47 s | 4 |
| 2A to 2D, judge and host in two processes, as in grading | 1.07 to 1.09 | 4.70 s | 4.40 s | 4 |
| 2A to 2D, all runs in one process | 1.24 to 1.28 | 2.40 to 2.54 s | 1.88 to 2.04 s | 5 |
| an RPC of five idle servers, one process | 1.45 | 57.9 µs | 40.0 µs | 5 |
| the same, two processes | 1.13 to 1.22 | 103 µs | 84 to 91 µs | 4 |
| 2A and 2B in one process, only kernel and locks compiled | 1.05 to 1.09 | 0.74 s | 0.68 s | 4 to 5 |

**Where a pass spends its time** (2,940 samples, every 4 ms of CPU time, seeds 1 to 4, all runs in one process): the
student's file with the JSON that it writes 33 %; Python's `threading` and `random` 4 %; kernel and greenlet switches 14 %;
locks and threads 6 %; the code around the student's code 5 %; codec and messages 6 %; the judge's loop, network, counts and
trace 20 %; the referee 9 %; other 3 %. Nothing stands out, and compiling makes the framework, which takes two thirds of the
time, only about 1.45 times as fast, because parts of them are already C (greenlet, msgspec, heaps, random numbers). A run
in a process of its own also spends about 4 ms on copying memory that it shares with its parent (1,234 page faults of 4 kB
each), which no compiler changes. In two processes, an RPC costs a further 45 µs, of which the frames of messages and their
checks are about 8 µs and the system calls of the pipe about 6 µs; the rest is user time that we have not explained.

**What it would have cost.** A compiled function checks the types of its arguments: `lock.acquire(1)`, which is correct
Python, raised `TypeError`, and a lock had no weak references, so a correct Raft could have failed. Compiled functions have
no frame, so the line where a lock was taken must be found in another way. Classes of msgspec lose their options (such as
`order`), and a `TypedDict` loses the types of its fields, so both have to stay in modules that are not compiled. The
race detector's subclasses need a decorator from a further dependency.
"""


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.page", description="Run all benchmarks and write the benchmarks page."
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="tiny sizes, to check that the page comes out complete")
    size.add_argument("--brief", action="store_true", help="smaller sizes, measured once, for a busy machine")
    parser.add_argument("--out", type=Path, default=ROOT / "handouts", metavar="DIR", help="default: handouts")
    parser.add_argument("--simloop", metavar="PYTHON", help="also measure simloop, which is installed in this Python")
    options = parser.parse_args(argv)
    sizes = QUICK if options.quick else BRIEF if options.brief else FULL
    measured = take_measurements(
        sizes, lambda text: print(f"measuring: {text}", file=sys.stderr, flush=True), options.simloop
    )
    command = "python -m benchmarks.page" + (" --quick" * options.quick or " --brief" * options.brief)
    folder: Path = options.out / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    for name, svg in plots(measured).items():
        (folder / name).write_text(svg, encoding="utf-8")
    (options.out / "benchmarks.md").write_text(page(measured, sizes, command), encoding="utf-8")
    print(f"the page is in {options.out / 'benchmarks.md'}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
