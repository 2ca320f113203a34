"""The projection room of ``raftlab replay``: one run again, with every event it had."""

from __future__ import annotations

import bdb
import math
import pdb
import sys
import tempfile
from pathlib import Path
from types import FrameType

import pytest

from raftlab.command_line import INTERRUPTED
from raftlab.explain import render
from raftlab.explain.failure import Failure, LabFailure
from raftlab.harness.trace import TraceFilter
from raftlab.runs import names
from raftlab.runs.names import NamedRun
from raftlab.runs.record import Record
from raftlab.runs.run import Implementation, Run
from raftlab.tools import debug
from raftlab.worlds.sim_world import Breakpoint

# Events shown where a prompt opens.
_LAST = 6


def replay(named: NamedRun, impl: Path, out: Path | None, look: TraceFilter) -> int:
    """Run it again and print what ``look`` sees of it. Returns 0 passed, 1 failed, 2 could not be judged. Raises
    ``OSError`` when ``out`` cannot be written."""
    info, network = named.info, named.network
    warm = Implementation(impl)
    run = Run(warm, info, network, named.seed, named.preempt, called=named.file)
    try:
        record = run.judge(named.script)
    finally:
        warm.close()
    if out is not None:
        write_trace(run, record.failure, out)
    for line in run.trace_lines(look):
        print(line)
    print(f"\n{info.title} ({info.name}, {network}, seed {named.seed}): {record.outcome}")
    if record.failure is not None:
        print(render.as_text(record.failure))
    if named.scenario is not None and named.scenario.expected:
        print(compared(named.scenario.expected, record))
    if record.trace_hash:
        print(f"trace {record.trace_hash}")
    if out is not None:
        print(f"the trace is in {out}")
    sys.stdout.flush()
    return {"passed": 0, "failed": 1, "error": 2}[record.outcome]


def with_pdb(named: NamedRun, impl: Path, look: TraceFilter) -> int:
    """Run it again in this process, with a prompt at ``look.until`` in the code of ``look.servers`` (if a time is given),
    at every ``breakpoint()``, and where an exception ends it. Returns 0 passed, 1 failed, 130 left by ``q``."""
    warm = Implementation(impl)
    run: Run | None = None

    def tell(frame: FrameType) -> None:
        made = None if run is None else run.made
        for line in made.event_loop.trace.tail(_LAST, look.servers) if made is not None else ():
            print(line)
        print(f"stopped at {look.until:.3f} s; n: next line, c: go on, q: leave")
        debug.stand(frame)

    stop = Breakpoint(look.until, look.servers, tell) if math.isfinite(look.until) else None
    run = Run(warm, named.info, "sim", named.seed, named.preempt, inside=True, stop=stop, called=named.file)
    with debug.Debugger(impl) as debugger:
        try:
            named.script(run.cluster)
        except LabFailure as error:
            print(render.as_text(run.explained(error)))
            raised = debugger.student_error()
            if raised is not None:
                pdb.post_mortem(raised.__traceback__)
            return 1
        except (pytest.exit.Exception, bdb.BdbQuit):
            print("left the run")
            return INTERRUPTED
        finally:
            run.close()
            warm.close()
    print(f"{named.info.title} ({named.info.name}, sim, seed {named.seed}): passed")
    return 0


def compared(expected: tuple[str, ...], record: Record) -> str:
    """How the run ended, compared with what the scenario's file says."""
    if record.failure is None:
        return f"the file expects another end: {expected[0]}"
    if names.expected(record.failure) == expected:
        return "the run ended as the file expects, to the last message"
    if names.expected(record.failure)[:1] == expected[:1]:
        return "the run ended as the file expects, by other messages"
    return f"the file expects another end: {expected[0]}"


def write_trace(run: Run, shown: Failure | None, out: Path) -> None:
    """Write the trace to ``out``, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".raftlab-") as folder:
        run.write_trace(Path(folder), shown).replace(out)
