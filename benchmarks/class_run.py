"""Grade a whole class twice, once with the grader killed in the middle, and compare the two reports:

    python -m benchmarks.class_run --submissions 60 --runs 20

This makes a class of correct Rafts, known bugs, unfinished and broken files, and grades all of its labs in the simulator.
The grader is killed (SIGKILL) when the share ``--kill-at`` of its runs is done, and started again on the same folder. Then
another grading, with another number of jobs, is left alone. No finished result may be lost or made twice, and both reports
must say the same. Memory and processor use are measured meanwhile. The exit code is 1 if something is wrong.

At full size this takes some hours on two processors. With ``--out DIR`` it continues where it was stopped: the killed
grading may be killed once more, and the undisturbed one starts again unless it had finished. To make the two on different
machines, use ``--half killed`` and ``--half undisturbed``: each prints the SHA-256 of its report and of its marks, which are
equal for the same class, raftlab and Python.
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
from raftlab.submission import skeleton
from raftlab.suites import catalogue
from tests.conftest import ROOT, SKELETON, SOLUTION

SAMPLE_S = 1.0  # seconds between two measurements of memory and processors
RECORDS = "records.jsonl"
RUN = b'"kind":"run"'
TIMINGS = ("wall_s", "cpu_s", "run_cpu_s")  # of a test on a network: different each time
KINDS = (  # of the first twelve submissions, then again from the beginning
    *("correct", "unfinished", "unfinished", "broken", "unfinished", "nothing"),
    *("bug", "unfinished", "unfinished", "unfinished", "unfinished", "broken"),
)
NEXT_LAB = ("2B", "2C", "2B", "2C", "2D")  # of unfinished submissions, as in the weeks of labs 2B and 2C
BROKEN = {
    "no-syntax": "class Raft\n",
    "no-class": "print('hello')\n",
    "leaves-at-once": "import os\nos._exit(0)\n",
    "raises": "class Raft:\n    def __init__(self, *given): raise ValueError('not yet')\n",
}


def make_class(folder: Path, number: int) -> None:
    """Make ``number`` submissions. Of each twelve, one is correct, one has a known bug, eight lack most or all labs, and two
    are broken."""
    reference = SOLUTION.read_text()
    # From the whole bank and not only its first labs; in the whole reference, so that every lab is run.
    bugs = [text for bug in bug_bank.read(ROOT / "tests").bugs if (text := _in_whole_reference(bug, reference))]
    wanted = -(-number // 12)
    correct = itertools.cycle([SOLUTION, *sorted((ROOT / "tests" / "correct").glob("whole_*/raft.py"))])
    texts = {
        "bug": itertools.cycle([bugs[place * len(bugs) // wanted] for place in range(wanted)]),
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
    return {f"s{place:03d}": KINDS[place % len(KINDS)] for place in range(number)}


def _in_whole_reference(bug: bug_bank.Bug, reference: str) -> str | None:
    """The whole reference with the bug in it; ``None`` if later labs have changed those lines."""
    try:
        return replace(bug, before="").apply_to(reference)
    except bug_bank.BadBank:
        return None


@dataclass
class Usage:
    """What a grader and its descendants used: memory in MB, and shares of the processors."""

    # Of the grader itself: seconds since the start, and MB.
    memory: list[tuple[float, float]] = field(default_factory=list)
    peak_together: float = 0.0  # the largest sum over all processes at a time
    busy: list[float] = field(default_factory=list)  # share of the machine's processors in use, one value per sample
    killed: bool = False
    left: list[int] = field(default_factory=list)  # processes that still existed some seconds after the grader ended

    def early_and_final_memory(self) -> tuple[float, float]:
        """The grader's memory in MB after a tenth of its time, and at the end."""
        return self.memory[len(self.memory) // 10][1], self.memory[-1][1]


def processor_jiffies() -> tuple[float, float]:
    """Jiffies of all processors since the machine started: busy ones, and all."""
    figures = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return sum(figures) - figures[3] - figures[4], sum(figures)


def recorded_runs(records: Path) -> Counter[tuple[Any, ...]]:
    """Which runs a file of records has, and how often."""
    found: Counter[tuple[Any, ...]] = Counter()
    with records.open("rb") as file:
        for line in file:
            try:
                made = json.loads(line)
            except ValueError:
                continue  # the kill cut this line short
            if made["kind"] == "run":
                run = made["record"]
                found[made["submission"], run["lab"], run["test"], run["network"], run["seed"]] += 1
    return found


class RunCounter:
    """Counts the runs in a growing file of records; reads only what is new."""

    def __init__(self, records: Path) -> None:
        self._records, self._offset, self._runs = records, 0, 0

    def now(self) -> int:
        if self._records.exists():
            with self._records.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            whole = new.rfind(b"\n") + 1
            self._offset += whole
            self._runs += new[:whole].count(RUN)
        return self._runs


def grade(folder: Path, out: Path, runs: int, jobs: int, kill_at: int | None = None) -> Usage:
    """One `raftgrade run`, killed when ``kill_at`` runs are done."""
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
                below = process_monitor.descendants() - known
                # Processes whose job has ended become our children: more than a thousand dead ones in an hour.
                process_monitor.reap(below - {process.pid})
                held = {pid: process_monitor.megabytes(pid, "VmRSS") for pid in below}
                usage.memory.append((time.monotonic() - began, held.get(process.pid, 0.0)))
                usage.peak_together = max(usage.peak_together, sum(held.values()))
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
    usage.left = process_monitor.leftover_processes(known)
    return usage


def verdicts(out: Path) -> Any:
    """What a report says apart from real times and places. It must not depend on when, where and in what order the runs
    were made: points, outcomes, virtual times, RPCs, bytes, failures with their events, commands."""
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


def printed(name: str, usage: Usage) -> Usage:
    first, last = usage.early_and_final_memory()
    share = sum(usage.busy) / max(1, len(usage.busy))
    print(
        f"  {name}: {usage.memory[-1][0]:.0f} s; the grader held {first:.0f} MB after a tenth of that, {last:.0f} MB at"
        f" the end and {max(size for _, size in usage.memory):.0f} MB at most; all processes together"
        f" {usage.peak_together:.0f} MB at most; the processors were {share:.0%} in use",
        flush=True,
    )
    return usage


def marks(out: Path) -> bytes:
    command = [sys.executable, "-m", "raftgrade", "report", str(out), "--format", "csv"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def count_errors(out: Path, usages: list[Usage], number: int) -> int:
    """Print the result of a finished grading. Returns how many things are wrong with it."""
    made, found = recorded_runs(out / RECORDS), verdicts(out)
    states = Counter(each["state"] for each in found)
    clean = {each["name"] for each in found if each["state"] == "graded" and each["points"] == each["max_points"]}
    correct = {name for name, kind in kinds(number).items() if kind == "correct"}
    twice = sum(times > 1 for times in made.values())
    left = sum(len(each.left) for each in usages)
    verdict_text = json.dumps(found, sort_keys=True).encode()
    print(f"  {made.total()} runs, made twice: {twice}, processes left over: {left}")
    correct_and_clean = f"{len(clean & correct)} of {len(correct)} correct ones"
    print(f"  submissions: {dict(states)}, {len(clean)} clean, among them {correct_and_clean}")
    print(f"  the report is {hashlib.sha256(verdict_text).hexdigest()}, the marks are ", end="")
    print(hashlib.sha256(marks(out)).hexdigest(), flush=True)
    return (not correct <= clean) + bool(twice) + bool(left)


def killed_half(folder: Path, home: Path, asked: argparse.Namespace) -> int:
    """Grade with a SIGKILL in the middle, then to the end. Returns how many things are wrong."""
    out, at_kill = home / "killed", home / f"killed.{RECORDS}"
    usages = []
    if not at_kill.exists():
        tests = sum("sim" in test.networks for lab in labs.LABS for test in catalogue.tests(lab))
        kill_at = int(asked.kill_at * asked.submissions * tests * asked.runs)
        usages.append(printed("until killed", grade(folder, out, asked.runs, asked.jobs, kill_at)))
        if not usages[-1].killed:
            sys.exit("all runs were done before the kill; use a smaller --kill-at")
        # A copy of that moment: later records must contain all of it.
        copied = shutil.copyfile(out / RECORDS, home / "copy")
        os.replace(copied, at_kill)
    usages.append(printed("and the rest", grade(folder, out, asked.runs, asked.jobs)))
    before = recorded_runs(at_kill)
    lost = before - recorded_runs(out / RECORDS)
    print(f"  {before.total()} runs were done when it was killed; lost: {lost.total()}")
    return count_errors(out, usages, asked.submissions) + bool(lost)


def undisturbed_half(folder: Path, home: Path, asked: argparse.Namespace) -> int:
    """Grade with another number of jobs, undisturbed. Returns how many things are wrong."""
    out, whole = home / "alone", home / "alone.whole"
    usages = []
    if not whole.exists():
        shutil.rmtree(out, ignore_errors=True)
        usages.append(printed("undisturbed", grade(folder, out, asked.runs, asked.jobs + 1)))
        whole.touch()
    return count_errors(out, usages, asked.submissions)


def compared(first: Path, second: Path) -> int:
    """Compare the two gradings. Returns how many differences there are."""
    only_one = len(set(recorded_runs(first / RECORDS)) ^ set(recorded_runs(second / RECORDS)))
    same, same_marks = verdicts(first) == verdicts(second), marks(first) == marks(second)
    print(f"  runs that only one of them made: {only_one}")
    print(f"  the reports are {'the same' if same else 'DIFFERENT'}")
    print(f"  the marks are {'byte for byte the same' if same_marks else 'DIFFERENT'}")
    return bool(only_one) + (not same) + (not same_marks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=60)
    parser.add_argument("--runs", type=int, default=20, help="runs of each test")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--kill-at",
        type=float,
        default=0.4,
        help="kill when this share of all runs is done (refused submissions have no runs)",
    )
    parser.add_argument(
        "--out", type=Path, help="keep everything in this folder, and continue what an earlier call has begun there"
    )
    parser.add_argument(
        "--half", choices=["both", "killed", "undisturbed"], default="both", help="make only one of the two gradings"
    )
    asked = parser.parse_args()
    wrong = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(process_monitor.adopt_orphans())
        home = asked.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raftlab-class-")))
        folder = home / "class"
        if not folder.exists():
            folder.mkdir(parents=True)
            make_class(folder, asked.submissions)
        if (there := len(list(folder.iterdir()))) != asked.submissions:
            parser.error(f"{folder} has {there} submissions, not {asked.submissions}")
        if asked.half != "undisturbed":
            wrong += killed_half(folder, home, asked)
        if asked.half != "killed":
            wrong += undisturbed_half(folder, home, asked)
        if asked.half == "both":
            wrong += compared(home / "killed", home / "alone")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
