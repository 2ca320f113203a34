"""`raftlab replay`: repeat one run and print its events, or open a debugger in the student's code."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from pathlib import Path

from raftlab.command_line import CANNOT, FAILED, PASSED
from raftlab.explain import render
from raftlab.explain.failure import Failure
from raftlab.harness.trace import TraceFilter
from raftlab.runs import names
from raftlab.runs.names import NamedRun
from raftlab.runs.record import Record
from raftlab.runs.run import NETWORKS, Run
from raftlab.safe_text import printable
from raftlab.tools import findings
from raftlab.tools.arguments import CommandError, Target, add_submission, submission
from raftlab.tools.columns import in_columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    add_submission(parser)
    parser.add_argument(
        "--network", choices=NETWORKS, default="sim", help="the network on which the test ran (default: sim)"
    )
    parser.add_argument(
        "--since", type=float, default=0.0, metavar="T", help="print no events before this time, in seconds"
    )
    parser.add_argument(
        "--until", type=float, default=math.inf, metavar="T", help="print no events after this time, in seconds"
    )
    parser.add_argument("--server", default="", metavar="N[,N]", help="print only events of these servers")
    parser.add_argument(
        "--topic",
        default="",
        metavar="WORD",
        help="print only events of this kind, such as crash or request_vote, or log lines of this topic",
    )
    parser.add_argument("--columns", action="store_true", help="print the events in one column for each server")
    parser.add_argument(
        "--pdb",
        action="store_true",
        help="open a debugger in your code: at breakpoint(), after an uncaught exception, and with --until T also at time T "
        "on the servers that --server names (simulator only)",
    )
    parser.add_argument(
        "--races", action="store_true", help="also look for races, and show every one that is found (simulator only)"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the whole trace to this file")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the argument for the name of a run, which :func:`raftlab.runs.names.named` reads."""
    parser.add_argument(
        "name",
        metavar="TEST@SEED",
        help="the run: a test with a seed, such as initial_election@7; a random scenario, such as fuzz_2C@7; or the file of "
        "a scenario",
    )


def run(arguments: argparse.Namespace) -> int:
    """Replay the run. Returns the exit code."""
    named = names.named(arguments.name, arguments.network, arguments.schedule)
    trace_filter = TraceFilter(arguments.since, arguments.until, _servers(arguments.server), arguments.topic)
    target = submission(arguments, named.info.lab, arguments.pdb)
    if arguments.pdb:
        if arguments.columns:
            raise CommandError("--columns does not go with --pdb")
        if named.network != "sim" or arguments.out is not None:
            raise CommandError("--pdb works only in the simulator, and writes no trace: leave out --network and --out")
        if arguments.races:
            raise CommandError("--races does not go with --pdb")
        from raftlab.tools import debug  # imports pytest, which is slow

        return debug.replay(named, target, trace_filter)
    return replay(named, target, arguments.out, trace_filter, arguments.races, arguments.columns)


def _servers(text: str) -> frozenset[int] | None:
    numbers = [word.strip().upper().removeprefix("S") for word in text.split(",") if word]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise CommandError(f"--server takes numbers, such as 0,2, not {text!r}")
    return frozenset(map(int, numbers)) if numbers else None


def replay(
    named: NamedRun,
    target: Target,
    out: Path | None,
    trace_filter: TraceFilter,
    races: bool = False,
    columns: bool = False,
) -> int:
    """Repeat the run and print it.

    Args:
        named: The run.
        target: The submission and its sandbox.
        out: Where to write the whole trace; ``None``: nowhere.
        trace_filter: Which events to print.
        races: Whether to look for races.
        columns: Whether to print the events in one column for each server.

    Returns:
        0 if the run passed, 1 if it failed, 2 if it could not be judged.

    Raises:
        OSError: ``out`` cannot be written.
    """
    info, network = named.info, named.network
    warm = target.checked_implementation(races)
    run = Run(warm, info, network, named.seed, named.schedule, file=named.file)
    try:
        record = run.judge(named.script)
    finally:
        warm.close()
    if out is not None:
        _write_trace(run, record.failure, out)
    lines = run.trace_lines(trace_filter)
    if columns:
        shown = [event for event in run.events if trace_filter.matches(event)]
        lines = list(in_columns(shown, shutil.get_terminal_size().columns))
    for line in lines:
        print(line)
    print(f"\n{info.title} ({info.name}, {network}, seed {named.seed}): {record.outcome}")
    if record.failure is not None:
        print(printable(render.as_text(record.failure)))
    if named.scenario is not None and named.scenario.expected:
        print(printable(_compared(named.scenario.expected, record)))
    if races:
        print(findings.summary([record], shown=len(record.findings)))
    if record.trace_hash:
        print(f"trace {record.trace_hash}")
    if out is not None:
        print(f"the trace is in {out}")
    sys.stdout.flush()
    return {"passed": PASSED, "failed": FAILED, "error": CANNOT}[record.outcome]


def _compared(expected: tuple[str, ...], record: Record) -> str:
    """Whether the run ended as the scenario file says, as a sentence."""
    seen = names.expected(record.failure)
    if seen == expected:
        return "the run ended as the scenario file says, with the same last events"
    if seen[:1] == expected[:1]:
        return "the run ended as the scenario file says, but its last events are different"
    return f"the run did not end as in the scenario file, which says: {expected[0]}"


def _write_trace(run: Run, failure: Failure | None, out: Path) -> None:
    """Write the trace to ``out``, either completely or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".raftlab-") as folder:
        run.write_trace(Path(folder), failure).replace(out)
