"""A whole class graded twice, once with the grader killed in the middle, as an instructor's machine may be:

    python -m benchmarks.class_run --submissions 60 --runs 20

Makes a class of correct Rafts, known bugs, beginnings and broken files, and grades all labs of it in the simulator. The
grader is killed (SIGKILL) when ``--kill-at`` of its runs are done, and started again on the same folder. Another time, with
another number of jobs, it is left alone. Then: no result that was finished is lost or was made twice, and both reports say
the same. While it runs, memory and processors are looked at. Exit code 1 when something is not as it should be.

At full size that is some hours on two processors. With ``--out DIR`` it goes on where it was stopped: the first run is one
that may be killed once more; the undisturbed one is made anew unless it is whole. The two may also be made on different
machines, with ``--half killed`` and ``--half undisturbed``: each prints the SHA-256 of what its report and its marks say,
and of the same class with the same raftlab and the same Python these are the same.
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

LOOK_S = 1.0
BOOK = "records.jsonl"
RUN = b'"kind":"run"'
TIMINGS = ("wall_s", "cpu_s", "run_cpu_s")  # of a test on a network: not the same from one time to the next
TWELVE = (
    *("correct", "begun", "begun", "broken", "begun", "nothing"),
    *("bug", "begun", "begun", "begun", "begun", "broken"),
)
BEGUN = ("2B", "2C", "2B", "2C", "2D")  # a class in the weeks of labs 2B and 2C: this lab is still to do
BROKEN = {
    "no-syntax": "class Raft\n",
    "no-class": "print('hello')\n",
    "leaves-at-once": "import os\nos._exit(0)\n",
    "raises": "class Raft:\n    def __init__(self, *given): raise ValueError('not yet')\n",
}


def make_class(folder: Path, number: int) -> None:
    """``number`` submissions: of twelve, one is correct, one has a known bug, eight were handed in with most or all labs
    still to do, two are broken."""
    reference = SOLUTION.read_text()
    # From all over the bank, not only from its first labs; in the whole reference, so that every lab is run.
    bugs = [text for bug in bug_bank.read(ROOT / "tests").bugs if (text := _in_all_of_it(bug, reference))]
    wanted = -(-number // 12)
    correct = itertools.cycle([SOLUTION, *sorted((ROOT / "tests" / "correct").glob("whole_*/raft.py"))])
    texts = {
        "bug": itertools.cycle([bugs[place * len(bugs) // wanted] for place in range(wanted)]),
        "begun": itertools.cycle([skeleton.generate(reference, lab) for lab in BEGUN]),
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
    """The names of so many submissions, and what each is."""
    return {f"s{place:03d}": TWELVE[place % 12] for place in range(number)}


def _in_all_of_it(bug: bug_bank.Bug, reference: str) -> str | None:
    """The whole reference with the bug in it; ``None`` where later labs have changed those lines."""
    try:
        return replace(bug, before="").apply_to(reference)
    except bug_bank.BadBank:
        return None


@dataclass
class Watched:
    """What was seen of a grader and everything below it: memory in MB and processor seconds."""

    memory: list[tuple[float, float]] = field(default_factory=list)  # of the grader itself, by seconds
    together: float = 0.0  # the most of all processes at a time
    busy: list[float] = field(default_factory=list)  # share of the machine's processors in use, second by second
    killed: bool = False
    left: list[int] = field(default_factory=list)  # processes that were there some seconds after the grader had ended

    def flat(self) -> tuple[float, float]:
        """The grader's memory after a tenth of its time, and at the end."""
        return self.memory[len(self.memory) // 10][1], self.memory[-1][1]


def machine() -> tuple[float, float]:
    """Jiffies of all processors: in use, and altogether."""
    figures = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return sum(figures) - figures[3] - figures[4], sum(figures)


def places(book: Path) -> Counter[tuple[Any, ...]]:
    """Which runs a book has, and how often."""
    found: Counter[tuple[Any, ...]] = Counter()
    with book.open("rb") as file:
        for line in file:
            try:
                made = json.loads(line)
            except ValueError:
                continue  # cut short by the kill
            if made["kind"] == "run":
                run = made["record"]
                found[made["submission"], run["lab"], run["test"], run["network"], run["seed"]] += 1
    return found


class Counted:
    """How many runs the book has by now; only what is new is read."""

    def __init__(self, book: Path) -> None:
        self._book, self._read, self._runs = book, 0, 0

    def now(self) -> int:
        if self._book.exists():
            with self._book.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            whole = new.rfind(b"\n") + 1
            self._read += whole
            self._runs += new[:whole].count(RUN)
        return self._runs


def grade(folder: Path, out: Path, runs: int, jobs: int, kill_at: int | None = None) -> Watched:
    """One `raftgrade run`; killed when ``kill_at`` runs are done."""
    command = [sys.executable, "-m", "raftgrade", "run", str(folder), "--network", "sim", "--runs", str(runs)]
    command += ["--jobs", str(jobs), "--out", str(out)]
    watched, counted = Watched(), Counted(out / BOOK)
    known = process_monitor.descendants()
    began, (used, all_) = time.monotonic(), machine()
    with (out.parent / f"{out.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        try:
            while process.poll() is None:
                time.sleep(LOOK_S)
                below = process_monitor.descendants() - known
                # What jobs leave behind becomes ours: a thousand dead and more in an hour.
                process_monitor.reap(below - {process.pid})
                held = {pid: process_monitor.megabytes(pid, "VmRSS") for pid in below}
                watched.memory.append((time.monotonic() - began, held.get(process.pid, 0.0)))
                watched.together = max(watched.together, sum(held.values()))
                (before, all_before), (used, all_) = (used, all_), machine()
                watched.busy.append((used - before) / max(1, all_ - all_before))
                if kill_at is not None and counted.now() >= kill_at:
                    process.send_signal(signal.SIGKILL)
            watched.killed = process.wait() == -signal.SIGKILL
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    watched.memory = [each for each in watched.memory if each[1]] or [(0.0, 0.0)]
    watched.left = process_monitor.leftover_processes(known)
    return watched


def verdicts(out: Path) -> Any:
    """All of a report that must not depend on when, where and in what order the runs were made: points, outcomes, virtual
    times, RPCs, bytes, failures with their events, commands."""
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


def told(name: str, watched: Watched) -> Watched:
    first, last = watched.flat()
    share = sum(watched.busy) / max(1, len(watched.busy))
    print(
        f"  {name}: {watched.memory[-1][0]:.0f} s; the grader held {first:.0f} MB after a tenth of that, {last:.0f} MB at"
        f" the end and {max(size for _, size in watched.memory):.0f} MB at most; all processes together"
        f" {watched.together:.0f} MB at most; the processors were {share:.0%} in use",
        flush=True,
    )
    return watched


def marks(out: Path) -> bytes:
    command = [sys.executable, "-m", "raftgrade", "report", str(out), "--format", "csv"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def checked(out: Path, watched: list[Watched], number: int) -> int:
    """Say what came of a finished half; how much of it is wrong."""
    made, found = places(out / BOOK), verdicts(out)
    states = Counter(each["state"] for each in found)
    clean = {each["name"] for each in found if each["state"] == "graded" and each["points"] == each["max_points"]}
    correct = {name for name, kind in kinds(number).items() if kind == "correct"}
    twice = sum(times > 1 for times in made.values())
    left = sum(len(each.left) for each in watched)
    told_verdicts = json.dumps(found, sort_keys=True).encode()
    print(f"  {made.total()} runs, made twice: {twice}, processes left behind: {left}")
    print(f"  submissions: {dict(states)}, {len(clean)} clean, of {len(correct)} correct ones {len(clean & correct)}")
    print(f"  the report says {hashlib.sha256(told_verdicts).hexdigest()}, the marks are ", end="")
    print(hashlib.sha256(marks(out)).hexdigest(), flush=True)
    return (not correct <= clean) + bool(twice) + bool(left)


def killed_half(folder: Path, home: Path, asked: argparse.Namespace) -> int:
    """Grade with a SIGKILL in the middle, and to the end. How much is wrong with it."""
    out, at_kill = home / "killed", home / f"killed.{BOOK}"
    watched = []
    if not at_kill.exists():
        tests = sum("sim" in test.networks for lab in labs.LABS for test in catalogue.tests(lab))
        kill_at = int(asked.kill_at * asked.submissions * tests * asked.runs)
        watched.append(told("until killed", grade(folder, out, asked.runs, asked.jobs, kill_at)))
        if not watched[-1].killed:
            sys.exit("everything was done before the kill; take a smaller --kill-at")
        # As it was then: what comes later must have all of it.
        copied = shutil.copyfile(out / BOOK, home / "copy")
        os.replace(copied, at_kill)
    watched.append(told("and the rest", grade(folder, out, asked.runs, asked.jobs)))
    before = places(at_kill)
    lost = before - places(out / BOOK)
    print(f"  {before.total()} runs were done when it was killed; lost of them: {lost.total()}")
    return checked(out, watched, asked.submissions) + bool(lost)


def undisturbed_half(folder: Path, home: Path, asked: argparse.Namespace) -> int:
    """Grade with another number of jobs, in peace. How much is wrong with it."""
    out, whole = home / "alone", home / "alone.whole"
    watched = []
    if not whole.exists():
        shutil.rmtree(out, ignore_errors=True)
        watched.append(told("undisturbed", grade(folder, out, asked.runs, asked.jobs + 1)))
        whole.touch()
    return checked(out, watched, asked.submissions)


def compared(first: Path, second: Path) -> int:
    """How much is different between the two halves."""
    only_one = len(set(places(first / BOOK)) ^ set(places(second / BOOK)))
    same, same_marks = verdicts(first) == verdicts(second), marks(first) == marks(second)
    print(f"  runs that only one of them made: {only_one}")
    print(f"  the reports say {'the same' if same else 'DIFFERENT things'}")
    print(f"  the marks are {'byte for byte the same' if same_marks else 'DIFFERENT'}")
    return bool(only_one) + (not same) + (not same_marks)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--submissions", type=int, default=60)
    parser.add_argument("--runs", type=int, default=20, help="of each test")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--kill-at",
        type=float,
        default=0.4,
        help="share of all runs (refused submissions have none) that are done before the kill",
    )
    parser.add_argument(
        "--out", type=Path, help="keep all in this folder, and go on there with what an earlier try has"
    )
    parser.add_argument("--half", choices=["both", "killed", "undisturbed"], default="both", help="only one of the two")
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
