"""Grade a whole class twice, kill the grader in the middle of the first grading run, and compare the two reports:

    python -m benchmarks.class_run --submissions 60 --runs 20

The class is generated: correct Rafts, known bugs, unfinished files and broken files. All labs are graded in the simulator.
The first grading run is killed (SIGKILL) when ``--kill-at`` of its runs are done (0.4 means 40 %), and then started again
on the same folder. The second grading run has a different number of jobs and is not interrupted. No finished run may be
lost or repeated, and both reports must be the same. The exit code is 1 if any of these checks fails. Memory and CPU use are
measured throughout, and printed.

At full size this takes a few hours on two processors. If it is interrupted, call it again with the same ``--out DIR`` to
continue: the first grading run goes on from its last record, and the second one starts over unless it had finished.
To perform the two grading runs on different machines, use ``--half killed`` and ``--half undisturbed``. Each prints the
SHA-256 of its report and of its marks. These are equal if the class, the version of raftlab and the version of Python are
the same.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raftgrade.proof import bug_bank
from raftgrade.soak import process_monitor
from raftlab import labs
from raftlab.operating_system import processors
from raftlab.submission import skeleton
from raftlab.suites import catalogue
from tests.conftest import ROOT, SKELETON, SOLUTION

SAMPLE_S = 1.0  # seconds between two measurements of memory and processors
RECORDS = "records.jsonl"
RUN = b'"kind":"run"'
TIMINGS = ("wall_s", "cpu_s", "run_cpu_s")  # fields of a report that differ each time
KINDS = (  # the kinds of the first twelve submissions; they repeat after that
    *("correct", "unfinished", "unfinished", "broken", "unfinished", "nothing"),
    *("bug", "unfinished", "unfinished", "unfinished", "unfinished", "broken"),
)
# The first lab that an unfinished submission lacks. The unfinished submissions get these values in turn: most of the
# class works on lab 2B or 2C.
NEXT_LAB = ("2B", "2C", "2B", "2C", "2D")
BROKEN = {
    "no-syntax": "class Raft\n",
    "no-class": "print('hello')\n",
    "exits-at-once": "import os\nos._exit(0)\n",
    "raises": "class Raft:\n    def __init__(self, *given): raise ValueError('not yet')\n",
}


def make_class(folder: Path, number: int) -> None:
    """Generate ``number`` submissions. In each dozen, one is correct, one has a known bug, eight lack most or all labs, and
    two are broken."""
    reference = SOLUTION.read_text()
    # Take bugs from the whole bank, not only from its first labs, and put them into the complete reference, so that every
    # lab is run.
    bank = bug_bank.read(ROOT / "tests").bugs
    bugs = [text for bug in bank if (text := _in_complete_reference(bug, reference)) is not None]
    dozens = -(-number // 12)
    correct = itertools.cycle([SOLUTION, *sorted((ROOT / "tests" / "correct").glob("whole_*/raft.py"))])
    texts = {
        "bug": itertools.cycle([bugs[dozen * len(bugs) // dozens] for dozen in range(dozens)]),
        "unfinished": itertools.cycle([skeleton.generate(reference, lab) for lab in NEXT_LAB]),
        "nothing": itertools.repeat(SKELETON.read_text()),
        "broken": itertools.cycle(BROKEN.values()),
    }
    for name, kind in kinds(number).items():
        if kind == "correct":
            shutil.copytree(
                next(correct).parent, folder / name, ignore=shutil.ignore_patterns("__pycache__", "README*")
            )
        else:
            (folder / name).mkdir()
            (folder / name / "raft.py").write_text(next(texts[kind]))


def kinds(number: int) -> dict[str, str]:
    """The names of ``number`` submissions, and the kind of each."""
    return {f"s{index:03d}": KINDS[index % len(KINDS)] for index in range(number)}


def _in_complete_reference(bug: bug_bank.Bug, reference: str) -> str | None:
    """The reference's ``raft.py`` with all labs and the bug; ``None`` if later labs have changed the lines that the bug
    changes, or if the bug is in another file."""
    try:
        return replace(bug, before="").apply_to({"raft.py": reference})["raft.py"]
    except bug_bank.BadBank:
        return None


@dataclass
class Usage:
    """Resources that a grader and its descendants used: memory in MB, and shares of the processors."""

    # The grader's own memory: seconds since the start, and MB.
    memory: list[tuple[float, float]] = field(default_factory=list)
    peak_together: float = 0.0  # the peak of the sum over all processes
    busy: list[float] = field(default_factory=list)  # share of the machine's processors in use, one value per sample
    killed: bool = False
    # Processes that still existed some seconds after the grader ended.
    leftover: list[int] = field(default_factory=list)

    def early_and_final_memory(self) -> tuple[float, float]:
        """The grader's memory in MB after a tenth of its running time, and at the end."""
        return self.memory[len(self.memory) // 10][1], self.memory[-1][1]


def processor_jiffies() -> tuple[float, float]:
    """Busy jiffies and all jiffies since the machine started, added up over all processors."""
    jiffies = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return sum(jiffies) - jiffies[3] - jiffies[4], sum(jiffies)


def recorded_runs(records: Path) -> Counter[tuple[Any, ...]]:
    """The runs in a file of records, and how often each occurs."""
    counts: Counter[tuple[Any, ...]] = Counter()
    with records.open("rb") as file:
        for line in file:
            try:
                entry = json.loads(line)
            except ValueError:
                continue  # the kill came while this line was being written
            if entry["kind"] == "run":
                run = entry["record"]
                counts[entry["submission"], run["lab"], run["test"], run["network"], run["seed"]] += 1
    return counts


class RunCounter:
    """Counts the runs in a growing file of records, reading only what was added since the last call."""

    def __init__(self, records: Path) -> None:
        self._records, self._offset, self._runs = records, 0, 0

    def now(self) -> int:
        if self._records.exists():
            with self._records.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            end = new.rfind(b"\n") + 1  # the last line may be incomplete
            self._offset += end
            self._runs += new[:end].count(RUN)
        return self._runs


def grade(folder: Path, out: Path, runs: int, jobs: int, kill_at: int | None = None) -> Usage:
    """Run ``raftgrade run`` once. Kill it when ``kill_at`` runs are done."""
    command = [sys.executable, "-m", "raftgrade", "run", str(folder), "--network", "sim", "--runs", str(runs)]
    command += ["--jobs", str(jobs), "--out", str(out)]
    usage, counter = Usage(), RunCounter(out / RECORDS)
    known = process_monitor.descendants()
    began, (used, all_) = time.monotonic(), processor_jiffies()
    with (out.parent / f"{out.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        try:
            while process.poll() is None:
                time.sleep(SAMPLE_S)
                descendants = process_monitor.descendants() - known
                # When a job ends, its remaining processes become our children. If they were not reaped, there would be
                # over a thousand zombies per hour.
                process_monitor.reap(descendants - {process.pid})
                memory = {pid: process_monitor.megabytes(pid, "VmRSS") for pid in descendants}
                usage.memory.append((time.monotonic() - began, memory.get(process.pid, 0.0)))
                usage.peak_together = max(usage.peak_together, sum(memory.values()))
                (before, all_before), (used, all_) = (used, all_), processor_jiffies()
                usage.busy.append((used - before) / max(1, all_ - all_before))
                if kill_at is not None and counter.now() >= kill_at:
                    process.send_signal(signal.SIGKILL)
            usage.killed = process.wait() == -signal.SIGKILL
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    usage.memory = [each for each in usage.memory if each[1]] or [(0.0, 0.0)]
    usage.leftover = process_monitor.leftover_processes(known)
    return usage


def verdicts(out: Path) -> Any:
    """The contents of a report without real times and paths: points, outcomes, virtual times, RPCs, bytes, failures with
    their events, commands. These contents must not depend on when, where and in what order the runs took place."""
    report = json.loads((out / "report.json").read_text())
    assert report["complete"], out
    for submission in report["submissions"]:
        for test in submission["tests"]:
            for network in test["networks"]:
                for timing in TIMINGS:
                    network.pop(timing)
                for bad in network["bad"]:
                    bad["trace"] = Path(bad["trace"]).name
                    bad["replay"] = re.sub(r"--impl \S*/submissions/", "--impl OUT/submissions/", bad["replay"])
        submission.pop("path", None)
    return report["submissions"]


def print_usage(name: str, usage: Usage) -> None:
    early, final = usage.early_and_final_memory()
    share = sum(usage.busy) / max(1, len(usage.busy))
    print(
        f"  {name}: {usage.memory[-1][0]:.0f} s; the grader used {early:.0f} MB after a tenth of this time, {final:.0f} MB"
        f" at the end and {max(size for _, size in usage.memory):.0f} MB at most; all processes together"
        f" {usage.peak_together:.0f} MB at most; the processors were {share:.0%} busy",
        flush=True,
    )


def marks(out: Path) -> bytes:
    command = [sys.executable, "-m", "raftgrade", "report", str(out), "--format", "csv"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def count_errors(out: Path, usages: list[Usage], number: int) -> int:
    """Print the result of a finished grading run. Returns the number of errors found in it."""
    runs, submissions = recorded_runs(out / RECORDS), verdicts(out)
    states = Counter(each["state"] for each in submissions)
    full_marks = {
        each["name"] for each in submissions if each["state"] == "graded" and each["points"] == each["max_points"]
    }
    correct = {name for name, kind in kinds(number).items() if kind == "correct"}
    repeated = sum(times > 1 for times in runs.values())
    leftover = sum(len(each.leftover) for each in usages)
    verdict_text = json.dumps(submissions, sort_keys=True).encode()
    print(f"  {runs.total()} runs; repeated: {repeated}; processes left over: {leftover}")
    correct_with_full_marks = f"{len(full_marks & correct)} of the {len(correct)} correct ones"
    print(f"  submissions: {dict(states)}; {len(full_marks)} have full marks, including {correct_with_full_marks}")
    print(f"  SHA-256 of the report: {hashlib.sha256(verdict_text).hexdigest()}, of the marks: ", end="")
    print(hashlib.sha256(marks(out)).hexdigest(), flush=True)
    return (not correct <= full_marks) + bool(repeated) + bool(leftover)


def killed_half(folder: Path, home: Path, options: argparse.Namespace) -> int:
    """Kill a grading run (SIGKILL) in the middle, and then let it continue to the end. Returns the number of errors."""
    out, at_kill = home / "killed", home / f"killed.{RECORDS}"
    usages = []
    if not at_kill.exists():
        tests = sum("sim" in test.networks for lab in labs.LABS for test in catalogue.tests(lab))
        kill_at = int(options.kill_at * options.submissions * tests * options.runs)
        usages.append(grade(folder, out, options.runs, options.jobs, kill_at))
        print_usage("until killed", usages[-1])
        if not usages[-1].killed:
            sys.exit("all runs were done before the kill; use a smaller --kill-at")
        # Copy the records as they are now: the final records must contain all of these.
        copied = shutil.copyfile(out / RECORDS, home / "copy")
        os.replace(copied, at_kill)
    usages.append(grade(folder, out, options.runs, options.jobs))
    print_usage("after the kill", usages[-1])
    before = recorded_runs(at_kill)
    lost = before - recorded_runs(out / RECORDS)
    print(f"  {before.total()} runs were done when the grader was killed; lost: {lost.total()}")
    return count_errors(out, usages, options.submissions) + bool(lost)


def undisturbed_half(folder: Path, home: Path, options: argparse.Namespace) -> int:
    """Grade undisturbed, with a different number of jobs. Returns the number of errors."""
    out, finished = home / "alone", home / "alone.whole"
    usages = []
    if not finished.exists():
        shutil.rmtree(out, ignore_errors=True)
        usages.append(grade(folder, out, options.runs, options.jobs + 1))
        print_usage("undisturbed", usages[-1])
        finished.touch()
    return count_errors(out, usages, options.submissions)


def count_differences(first: Path, second: Path) -> int:
    """Compare the two grading runs. Returns the number of differences."""
    unmatched = len(set(recorded_runs(first / RECORDS)) ^ set(recorded_runs(second / RECORDS)))
    same, same_marks = verdicts(first) == verdicts(second), marks(first) == marks(second)
    print(f"  runs that only one of them has: {unmatched}")
    print(f"  the reports are {'the same' if same else 'DIFFERENT'}")
    print(f"  the marks are {'identical byte for byte' if same_marks else 'DIFFERENT'}")
    return bool(unmatched) + (not same) + (not same_marks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=60)
    parser.add_argument("--runs", type=int, default=20, help="runs of each test")
    parser.add_argument("--jobs", type=int, default=processors())
    parser.add_argument(
        "--kill-at",
        type=float,
        default=0.4,
        help="kill when this share of all planned runs is done; the plan includes runs of submissions that will be "
        "refused, so keep the share well below 1",
    )
    parser.add_argument(
        "--out", type=Path, help="keep everything in this folder, and continue what an earlier call started there"
    )
    parser.add_argument(
        "--half", choices=["both", "killed", "undisturbed"], default="both", help="do only one of the two grading runs"
    )
    options = parser.parse_args()
    errors = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_monitor.adopt_orphans())
        home = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raftlab-class-")))
        folder = home / "class"
        if not folder.exists():
            folder.mkdir(parents=True)
            make_class(folder, options.submissions)
        if (existing := len(list(folder.iterdir()))) != options.submissions:
            parser.error(f"{folder} has {existing} submissions, not {options.submissions}")
        if options.half != "undisturbed":
            errors += killed_half(folder, home, options)
        if options.half != "killed":
            errors += undisturbed_half(folder, home, options)
        if options.half == "both":
            errors += count_differences(home / "killed", home / "alone")
    return int(bool(errors))


if __name__ == "__main__":
    sys.exit(main())
