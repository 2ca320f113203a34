"""`raftlab check`: are you done? Run a lab and all earlier labs in both worlds with many seeds; each lab gets a line."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from raftlab import labs
from raftlab.command_line import CANNOT, FAILED, INTERRUPTED, PASSED
from raftlab.labs import LABS, Lab
from raftlab.runs.record import Record
from raftlab.safe_text import printable
from raftlab.suites import catalogue
from raftlab.tools import check
from raftlab.tools.arguments import OUTPUT_FOLDER, CommandError, Target, add_submission, seeds, target
from raftlab.tools.last_results import LastResults
from raftlab.tools.many_runs import Conditions, PlannedRun, add_jobs, delete_traces, jobs_for, perform
from raftlab.tools.printing import count, show_progress

_SEEDS = 100  # the number that the handouts ask for at the end of each lab
_WORLDS = {"sim": "simulator", "rpyc": "real network"}


@dataclass(frozen=True, slots=True)
class _Result:
    """The result of one lab: the line to print, and the exit code."""

    lab: Lab
    line: str
    code: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "lab",
        nargs="?",
        metavar="LAB",
        help="check the labs up to this one (default: the highest lab that you have tested in this folder)",
    )
    parser.add_argument(
        "--labs", default="", metavar="LAB,...", help="check only these labs, without the labs before them"
    )
    add_submission(parser)
    parser.add_argument(
        "--seeds",
        default=str(_SEEDS),
        metavar="N or A:B",
        help=f"the seeds in the simulator: 0 to N - 1, or A to B - 1 (default: {_SEEDS}). On the real network, each test "
        "runs once",
    )
    add_jobs(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check the labs. Returns 0 if all pass, 1 if one fails, 2 if none fails but one could not be judged, and 130 after
    Ctrl-C."""
    if arguments.lab and arguments.labs:
        raise CommandError(
            "LAB checks this lab and the labs before it, --labs checks only the labs that it names: give one of the two"
        )
    chosen_seeds = seeds(arguments.seeds)
    named = [labs.find(name) for name in (arguments.labs or arguments.lab or "").split(",") if name]
    found = target(arguments)
    last = LastResults(found)
    chosen = named if arguments.labs else _so_far(named, last)
    if found.raft is not None:
        chosen = [lab for lab in chosen if lab.has("service")]  # the other labs test the student's own Raft
        if not chosen:
            raise CommandError("--raft is for lab 3: the labs before it test your own Raft")
    results = []
    for lab in chosen:
        try:
            result = _check(lab, found, chosen_seeds, arguments, last)
        except KeyboardInterrupt:
            show_progress()
            print(f"\ninterrupted in lab {lab.name}")
            return INTERRUPTED
        show_progress()
        print(result.line, flush=True)
        results.append(result)
    print(f"\n{_verdict(results)}")
    return FAILED if any(result.code == FAILED for result in results) else max(result.code for result in results)


def _so_far(named: Sequence[Lab], last: LastResults) -> list[Lab]:
    """The labs up to the named one or, if none is named, up to the last lab of which tests were run."""
    order = list(LABS.values())
    known = [LABS[name] for name in last.labs() if name in LABS]
    if not named and not known:
        raise CommandError(
            "no lab has been tested in this folder yet: name the last one to check, such as raftlab check 2A"
        )
    end = named[0] if named else max(known, key=order.index)
    # An earlier lab is needed only if the last lab builds on it: lab 3 needs no lab after 2D.
    return [lab for lab in order[: order.index(end) + 1] if lab.features <= end.features]


def _check(lab: Lab, found: Target, seeds: range, arguments: argparse.Namespace, last: LastResults) -> _Result:
    """Run one lab, first in the simulator and then on the real network, until a run does not pass."""
    began = time.monotonic()
    problems = check.check(found.path, [lab.name], found.sandbox, found.raft, found.copy)
    if problems:
        where = f" ({problems[0].where})" if problems[0].where else ""
        return _Result(lab, _line(lab, "FAIL", f"cannot be tested: {problems[0].text}{where}"), FAILED)
    tests = catalogue.tests(lab.name)
    parts = []
    for network, world in _WORLDS.items():
        # Go by seed and then by test, so that a test that always fails is found at once.
        runs = [
            PlannedRun(info, network, seed, arguments.schedule)
            for seed in (seeds if network == "sim" else range(1))
            for info in tests
            if network in info.networks
        ]
        delete_traces(runs, OUTPUT_FOLDER)
        records: list[Record] = []

        def progress(planned: PlannedRun, done: int, of: int = len(runs), world: str = world) -> None:
            show_progress(f"  {lab.name}  {world}: {done:,}/{of:,}  {planned.info.title}"[:79])

        conditions = Conditions(found, trace_dir=OUTPUT_FOLDER)
        try:
            with contextlib.closing(perform(runs, conditions, jobs_for(arguments, runs), progress)) as performed:
                for record in performed:
                    records.append(record)
                    if record.outcome != "passed":
                        break
        finally:
            last.update(lab.name, records)
        record = records[-1]
        if record.outcome != "passed":
            label, code = ("FAIL", FAILED) if record.outcome == "failed" else ("ERROR", CANNOT)
            text = record.failure.text if record.failure is not None else "failed"
            name = f"{record.test}@{record.seed}"
            return _Result(lab, _line(lab, label, f"{name} ({world}, run {len(records):,}): {text}"), code)
        parts.append(f"{count(len(records), 'run')} ({world})")
    return _Result(lab, _line(lab, "PASS", f"{' and '.join(parts)} in {time.monotonic() - began:.0f} s"), PASSED)


def _line(lab: Lab, label: str, text: str) -> str:
    return printable(f"{lab.name}  {label:<5}  {text}")


def _verdict(results: Sequence[_Result]) -> str:
    bad = [result for result in results if result.code != PASSED]
    names = ", ".join(result.lab.name for result in results)
    if not bad:
        return f"done: {'lab' if len(results) == 1 else 'labs'} {names} passed"
    first = min(bad, key=lambda result: result.code)
    passed = f"{len(results) - len(bad)} of {count(len(results), 'lab')} passed"
    return f"not done: {passed}. Next: raftlab test {first.lab.name} --failed"
