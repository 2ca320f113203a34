"""A whole class graded twice, once with the grader killed in the middle, as an instructor's machine may be:

    python -m tests.benchmarks.class_run --submissions 60 --runs 20

Makes a class of correct Rafts, known bugs, beginnings and broken files, and grades all labs of it in the simulator. The
grader is killed (SIGKILL) when ``--kill-at`` of its runs are done, and started again on the same folder. Another time, with
another number of jobs, it is left alone. Then: no result that was finished is lost or was made twice, and both reports say
the same. While it runs, memory and processors are looked at. Exit code 1 when something is not as it should be.

At full size that is some hours on two processors. With ``--out DIR`` it goes on where it was stopped: the first run is one
that may be killed once more; the undisturbed one is made anew unless it is whole.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
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

from raftgrade import bank, watch
from raftlab import catalogue, labs, skeleton
from tests.conftest import ROOT, SKELETON, SOLUTION

LOOK_S = 1.0
BOOK = "records.jsonl"
RUN = b'"kind":"run"'
TIMINGS = ("wall_s", "cpu_s", "run_cpu_s")  # of a test on a network: not the same from one time to the next
TWELVE = (
    *("correct", "bug", "begun", "broken", "bug", "begun"),
    *("correct", "begun", "bug", "begun", "nothing", "broken"),
)
BROKEN = {
    "no-syntax": "class Raft\n",
    "no-class": "print('hello')\n",
    "leaves-at-once": "import os\nos._exit(0)\n",
    "raises": "class Raft:\n    def __init__(self, *given): raise ValueError('not yet')\n",
}


def make_class(folder: Path, number: int) -> None:
    """``number`` submissions: of twelve, two are correct, three have a known bug, five were handed in with some or all labs
    still to do, two are broken."""
    reference = SOLUTION.read_text()
    # From all over the bank, not only from its first labs; in the whole reference, so that every lab is run.
    bugs = [text for bug in bank.read(ROOT / "tests").bugs if (text := _in_all_of_it(bug, reference))]
    wanted = -(-number // 4)
    correct = itertools.cycle([SOLUTION, *sorted((ROOT / "tests" / "correct").glob("whole_*/raft.py"))])
    texts = {
        "bug": itertools.cycle([bugs[place * len(bugs) // wanted] for place in range(wanted)]),
        "begun": itertools.cycle([skeleton.generate(reference, lab) for lab in list(labs.LABS)[1:]]),
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


def _in_all_of_it(bug: bank.Bug, reference: str) -> str | None:
    """The whole reference with the bug in it; ``None`` where later labs have changed those lines."""
    try:
        return replace(bug, before="").changed(reference)
    except bank.BadBank:
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
    known = watch.below()
    began, (used, all_) = time.monotonic(), machine()
    with (out.parent / f"{out.name}.log").open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, process_group=0)
        try:
            while process.poll() is None:
                time.sleep(LOOK_S)
                below = watch.below() - known
                # What jobs leave behind becomes ours: a thousand dead and more in an hour.
                watch.bury(below - {process.pid})
                held = {pid: watch.megabytes(pid, "VmRSS") for pid in below}
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
    watched.left = watch.left(known)
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
                    bad["replay"] = bad["replay"].replace(str(out), "OUT")
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
    asked = parser.parse_args()
    wrong = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(watch.reaper())
        home = asked.out or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raftlab-class-")))
        folder, first, second = home / "class", home / "killed", home / "alone"
        if not folder.exists():
            folder.mkdir(parents=True)
            make_class(folder, asked.submissions)
        if (there := len(list(folder.iterdir()))) != asked.submissions:
            parser.error(f"{folder} has {there} submissions, not {asked.submissions}")
        watched = []
        at_kill = home / f"killed.{BOOK}"
        if not at_kill.exists():
            tests = sum("sim" in test.networks for lab in labs.LABS for test in catalogue.tests(lab))
            kill_at = int(asked.kill_at * asked.submissions * tests * asked.runs)
            watched.append(told("until killed", grade(folder, first, asked.runs, asked.jobs, kill_at)))
            if not watched[-1].killed:
                parser.error("everything was done before the kill; take a smaller --kill-at")
            # As it was then: what comes later must have all of it.
            copied = shutil.copyfile(first / BOOK, home / "copy")
            os.replace(copied, at_kill)
        before = places(at_kill)
        watched.append(told("and the rest", grade(folder, first, asked.runs, asked.jobs)))
        after = places(first / BOOK)
        whole = home / "alone.whole"
        if not whole.exists():
            shutil.rmtree(second, ignore_errors=True)
            watched.append(told("undisturbed", grade(folder, second, asked.runs, asked.jobs + 1)))
            whole.touch()
        alone = places(second / BOOK)
        found = verdicts(first)
        states = Counter(each["state"] for each in found)
        clean = {each["name"] for each in found if each["state"] == "graded" and each["points"] == each["max_points"]}
        correct = {name for name, kind in kinds(asked.submissions).items() if kind == "correct"}
        print(f"  {before.total()} runs were done when it was killed, {after.total()} at the end")
        print(
            f"  submissions: {dict(states)}, {len(clean)} clean, of {len(correct)} correct ones {len(clean & correct)}"
        )
        wrong += not correct <= clean
        for what, bad in (
            ("lost", before - after),
            (
                "made twice",
                Counter({run: times for book in (alone, after) for run, times in book.items() if times > 1}),
            ),
            ("made by one of them only", Counter(set(after) ^ set(alone))),
            ("processes left behind", Counter(pid for each in watched for pid in each.left)),
        ):
            print(f"  {what}: {sum(bad.values())}")
            wrong += bool(bad)
        same = found == verdicts(second)
        print(f"  the reports say {'the same' if same else 'DIFFERENT things'}")
        table = [subprocess.run(
            [sys.executable, "-m", "raftgrade", "report", str(out), "--format", "csv"], capture_output=True, check=True
        ).stdout for out in (first, second)]  # fmt: skip
        print(f"  the marks are {'byte for byte the same' if table[0] == table[1] else 'DIFFERENT'}")
        wrong += (not same) + (table[0] != table[1])
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
