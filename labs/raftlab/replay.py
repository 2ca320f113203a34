"""The projection room of ``raftlab replay``: one run again, with every event it had."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from raftlab import failure, scripts
from raftlab.record import Record
from raftlab.run import Impl, Run
from raftlab.scripts import Named
from raftlab.trace import Look


def replay(named: Named, impl: Path, out: Path | None, look: Look) -> int:
    """Run it again and print what ``look`` sees of it. Returns 0 passed, 1 failed, 2 could not be judged. Raises
    ``OSError`` when ``out`` cannot be written."""
    info, network = named.info, named.network
    warm = Impl(impl)
    run = Run(warm, info, network, named.seed, named.preempt)
    error: Exception | None = None
    try:
        named.script(run.cluster)
    except Exception as exc:  # what it means is the record's to say
        error = exc
    finally:
        run.close()
        warm.close()
    record = run.record(error)
    if out is not None:
        write_trace(run, record.failure, out)
    for line in run.trace_lines(look):
        print(line)
    print(f"\n{info.title} ({info.name}, {network}, seed {named.seed}): {record.outcome}")
    if record.failure is not None:
        print(failure.render(record.failure))
    if named.scenario is not None and named.scenario.expected:
        print(compared(named.scenario.expected, record))
    if record.trace_hash:
        print(f"trace {record.trace_hash}")
    if out is not None:
        print(f"the trace is in {out}")
    sys.stdout.flush()
    return {"passed": 0, "failed": 1, "error": 2}[record.outcome]


def compared(expected: tuple[str, ...], record: Record) -> str:
    """How the run ended, compared with what the scenario's file says."""
    if record.failure is None:
        return f"the file expects another end: {expected[0]}"
    if scripts.expected(record.failure) == expected:
        return "the run ended as the file expects, to the last message"
    if scripts.expected(record.failure)[:1] == expected[:1]:
        return "the run ended as the file expects, by other messages"
    return f"the file expects another end: {expected[0]}"


def write_trace(run: Run, shown: failure.Failure | None, out: Path) -> None:
    """Write the trace to ``out``, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".raftlab-") as folder:
        run.write_trace(Path(folder), shown).replace(out)
