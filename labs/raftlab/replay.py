"""The projection room of ``raftlab replay``: one run again, with every event it had."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from raftlab import catalogue, failure
from raftlab.catalogue import TestInfo
from raftlab.run import Impl, Run
from raftlab.trace import Look


class BadName(ValueError):
    """Not the name of a run. The message says what one looks like."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """One run: a test, where, and a seed."""

    info: TestInfo
    network: str
    seed: int


def parse(text: str, network: str) -> Wanted:
    """``"initial_election@7"`` on ``network``. Raises :class:`BadName` (also when the test does not run there) and
    :class:`raftlab.catalogue.UnknownTest`."""
    name, at, seed = text.rpartition("@")
    if not at or not (seed.isascii() and seed.isdigit()):
        raise BadName(f"a run is called TEST@SEED, as in initial_election@7, not {text!r}")
    info = catalogue.find_test(name)
    if network not in info.networks:
        raise BadName(f"{info.name} runs on {' and '.join(info.networks)} only, not on {network}")
    return Wanted(info, network, int(seed))


def replay(wanted: Wanted, impl: Path, preempt: bool, out: Path | None, look: Look) -> int:
    """Run it again and print what ``look`` sees of it. Returns 0 passed, 1 failed, 2 could not be judged. Raises
    ``OSError`` when ``out`` cannot be written."""
    info, network = wanted.info, wanted.network
    warm = Impl(impl)
    run = Run(warm, info, network, wanted.seed, preempt)
    error: Exception | None = None
    try:
        catalogue.script_of(info)(run.cluster)
    except Exception as exc:  # what it means is the record's to say
        error = exc
    finally:
        run.close()
        warm.close()
    record = run.record(error)
    if out is not None:
        _write(run, record.failure, out)
    for line in run.trace_lines(look):
        print(line)
    print(f"\n{info.title} ({info.name}, {network}, seed {wanted.seed}): {record.outcome}")
    if record.failure is not None:
        print(failure.render(record.failure))
    if record.trace_hash:
        print(f"trace {record.trace_hash}")
    if out is not None:
        print(f"the trace is in {out}")
    sys.stdout.flush()
    return {"passed": 0, "failed": 1, "error": 2}[record.outcome]


def _write(run: Run, shown: failure.Failure | None, out: Path) -> None:
    """Write the trace to ``out``, whole or not at all."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".raftlab-") as folder:
        run.write_trace(Path(folder), shown).replace(out)
