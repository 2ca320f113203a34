"""Run a job that consists of random scenarios. (A job that runs a suite uses pytest with raftlab's plugin instead.)

    python -P -m raftgrade.engines.fuzz_job --impl PATH --lab 2C --seeds A:B --records-fd N

The job writes a record for each seed and then the end marker. It exits early if the grader has exited (parent_watch.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from raftgrade.engines import parent_watch
from raftlab.runs import names, random_scenarios, together
from raftlab.runs.record import End, to_line
from raftlab.runs.run import Implementation, Run, seeds_of
from raftlab.runs.trace_quota import TraceQuota
from raftlab.sandbox.levels import Sandbox


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m raftgrade.engines.fuzz_job", description="Run random scenarios for the grader."
    )
    parser.add_argument("--impl", type=Path, required=True)
    parser.add_argument("--lab", required=True)
    parser.add_argument("--seeds", type=seeds_of, required=True)
    parser.add_argument("--records-fd", type=int, required=True)
    parser.add_argument("--trace-dir", type=Path, required=True)
    parser.add_argument("--trace-quota", type=int, required=True, help="bytes")
    parser.add_argument("--sandbox", default="none", choices=["bwrap", "rlimits", "none"])
    parser.add_argument("--together", action="store_true")
    options = parser.parse_args()
    parent_watch.start(options.records_fd)
    impl = Implementation(options.impl, Sandbox(options.sandbox))
    traces = TraceQuota(options.trace_dir, options.trace_quota)
    try:
        with open(options.records_fd, "wb", buffering=0) as out:
            for seed in options.seeds:
                named = names.named(f"{random_scenarios.name_of(options.lab)}@{seed}", "sim", None)
                run = Run(impl, named.info, "sim", seed, named.schedule)
                folder = traces.folder_for((seed, 0))
                answer = together.make(run, named.scenario, folder) if options.together else None
                record = run.judge(named.script, folder) if answer is None else answer.record
                traces.took((seed, 0), record.trace)
                out.write(to_line(record))
            out.write(to_line(End(len(options.seeds))))
    finally:
        impl.close()


if __name__ == "__main__":
    main()
