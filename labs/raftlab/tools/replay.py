"""`raftlab replay`: make one run again and print its events, or stop in the student's code with a debugger."""

from __future__ import annotations

import argparse
import bdb
import math
import pdb
import sys
import tempfile
from pathlib import Path
from types import FrameType

import pytest

from raftlab.command_line import CANNOT, FAILED, INTERRUPTED, PASSED
from raftlab.explain import render
from raftlab.explain.failure import Failure, LabFailure
from raftlab.harness.trace import TraceFilter
from raftlab.runs import names
from raftlab.runs.names import NamedRun
from raftlab.runs.record import Record
from raftlab.runs.run import NETWORKS, Implementation, Run
from raftlab.tools import debug
from raftlab.tools.arguments import CommandError, add_submission, submission
from raftlab.worlds.sim_world import Breakpoint

HELP = "make one run again, exactly, and print its events"

# Events shown where the debugger opens.
_EVENTS_SHOWN = 6


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
    parser.add_argument(
        "--pdb",
        action="store_true",
        help="open a debugger in your code at virtual time --until T on server --server N, at breakpoint() and at "
        "exceptions (simulator only)",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the whole trace to this file")


def add_run(parser: argparse.ArgumentParser) -> None:
    """Add the name of a run; :func:`raftlab.runs.names.named` reads it."""
    parser.add_argument(
        "name", metavar="TEST@SEED", help="the run, such as initial_election@7 or fuzz_2C@7, or a scenario file"
    )


def run(arguments: argparse.Namespace) -> int:
    """Replay the run. Returns the exit code."""
    named = names.named(arguments.name, arguments.network, not arguments.no_preempt)
    trace_filter = TraceFilter(arguments.since, arguments.until, _servers(arguments.server), arguments.topic)
    impl = submission(arguments, named.info.lab, arguments.pdb)
    if arguments.pdb:
        if named.network != "sim" or arguments.out is not None:
            raise CommandError("--pdb works only in the simulator, and writes no trace: leave out --network and --out")
        return replay_with_debugger(named, impl, trace_filter)
    return replay(named, impl, arguments.out, trace_filter)


def _servers(text: str) -> frozenset[int] | None:
    numbers = [word.strip().upper().removeprefix("S") for word in text.split(",") if word]
    if not all(number.isascii() and number.isdigit() for number in numbers):
        raise CommandError(f"--server takes numbers, such as 0,2, not {text!r}")
    return frozenset(map(int, numbers)) if numbers else None


def replay(named: NamedRun, impl: Path, out: Path | None, trace_filter: TraceFilter) -> int:
    """Make the run again and print it.

    Args:
        named: the run.
        impl: the submission.
        out: where to write the whole trace, if anywhere.
        trace_filter: which events to print.

    Returns:
        0 if it passed, 1 if it failed, 2 if it could not be judged.

    Raises:
        OSError: ``out`` cannot be written.
    """
    info, network = named.info, named.network
    warm = Implementation(impl)
    run = Run(warm, info, network, named.seed, named.preempt, file=named.file)
    try:
        record = run.judge(named.script)
    finally:
        warm.close()
    if out is not None:
        _write_trace(run, record.failure, out)
    for line in run.trace_lines(trace_filter):
        print(line)
    print(f"\n{info.title} ({info.name}, {network}, seed {named.seed}): {record.outcome}")
    if record.failure is not None:
        print(render.as_text(record.failure))
    if named.scenario is not None and named.scenario.expected:
        print(_compared(named.scenario.expected, record))
    if record.trace_hash:
        print(f"trace {record.trace_hash}")
    if out is not None:
        print(f"the trace is in {out}")
    sys.stdout.flush()
    return {"passed": PASSED, "failed": FAILED, "error": CANNOT}[record.outcome]


def replay_with_debugger(named: NamedRun, impl: Path, trace_filter: TraceFilter) -> int:
    """Make the run again in this process. A debugger opens at ``trace_filter.until`` in the code of
    ``trace_filter.servers`` (if a time is given), at every ``breakpoint()``, and where an exception ends the run.

    Returns:
        0 if the run passed, 1 if it failed, 130 if the user quit.
    """
    warm = Implementation(impl)
    run: Run | None = None

    def stop(frame: FrameType) -> None:
        cluster = None if run is None else run.started_cluster
        if cluster is not None:
            for line in cluster.event_loop.trace.tail(_EVENTS_SHOWN, trace_filter.servers):
                print(line)
        print(f"stopped at {trace_filter.until:.3f} s (n: next line, c: continue, q: quit)")
        debug.open_at(frame)

    breakpoint_at = None
    if math.isfinite(trace_filter.until):
        breakpoint_at = Breakpoint(trace_filter.until, trace_filter.servers, stop)
    run = Run(
        warm, named.info, "sim", named.seed, named.preempt, in_process=True, breakpoint_at=breakpoint_at, file=named.file
    )  # fmt: skip
    with debug.Debugger(impl) as debugger:
        try:
            named.script(run.cluster)
        except LabFailure as error:
            print(render.as_text(run.with_events(error)))
            raised = debugger.student_error()
            if raised is not None:
                pdb.post_mortem(raised.__traceback__)
            return FAILED
        except (pytest.exit.Exception, bdb.BdbQuit):
            print("quit before the end of the run")
            return INTERRUPTED
        finally:
            run.close()
            warm.close()
    print(f"{named.info.title} ({named.info.name}, sim, seed {named.seed}): passed")
    return PASSED


def _compared(expected: tuple[str, ...], record: Record) -> str:
    """How the run's end compares with the one in the scenario's file."""
    seen = names.expected(record.failure)
    if seen == expected:
        return "the run ended as the scenario file says, with the same last events"
    if seen[:1] == expected[:1]:
        return "the run ended as the scenario file says, after other events"
    return f"the scenario file says that the run ends differently: {expected[0]}"


def _write_trace(run: Run, failure: Failure | None, out: Path) -> None:
    """Write the trace to ``out``, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".raftlab-") as folder:
        run.write_trace(Path(folder), failure).replace(out)
