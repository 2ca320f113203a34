"""Compare the CPU time of this version with that of an earlier one, measuring the two alternately. For example:

    python -m benchmarks.against 93a1fd1 --labs 2A,2B,2C,2D --seeds 5 --rounds 3

A *pass* is one run of each test of the labs in the simulator, on the version's own reference solution. Its cost is the CPU
time of all processes: the judge, the hosts, and the processes that start runs or perform them. Starting a command costs
the same for one pass as for many, so it is measured separately. A command is run with one seed and with 1 + N seeds. The
difference divided by N is the cost of a pass. The cost of the command with one seed, minus the cost of a pass, is the
cost of a start.

Both costs are measured in three ways:

- graded: pytest with raftlab's plugin, as the grader starts it (without a sandbox). The judge has a process of its own.
- graded, common: the same, with only those tests that both versions have. A test of this version may do more than the
  earlier test of the same name.
- own code: ``raftlab test`` in the folder of the reference.

Each figure is the least of all rounds. A ratio below 1 means that this version is cheaper. The other version needs no
installation: its commit is checked out into a temporary folder, and the Python that runs this program runs both.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raftgrade.soak import process_monitor
from tests.conftest import ROOT

WAYS = ("graded", "graded, common", "own code")
# Prints the names of a lab's tests that run in the simulator. The module's place has changed since the first versions.
_NAMES = """
import sys
try:
    from raftlab.suites import catalogue
except ImportError:
    from raftlab import catalogue
for lab in sys.argv[1:]:
    print(*(info.name for info in catalogue.tests(lab) if "sim" in info.networks))
"""


@dataclass(frozen=True, slots=True)
class Version:
    """A version of raftlab, checked out in ``root``."""

    name: str
    root: Path

    @property
    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.root / "labs"), str(self.root / "grader")])
        # Leave out PYTHONDONTWRITEBYTECODE. Hosts never write bytecode. If the other processes did not write it either,
        # each host would have to compile raftlab.
        kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        return {**kept, "PYTHONPATH": path, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}

    def tests(self, labs: Sequence[str]) -> dict[str, list[str]]:
        """The names of the tests of each lab."""
        command = [sys.executable, "-c", _NAMES, *labs]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return {lab: line.split() for lab, line in zip(labs, done.stdout.splitlines(), strict=True)}

    def graded(self, lab: str, tests: Sequence[str], seeds: int) -> list[str]:
        """The command that the grader starts for these tests of a lab."""
        suite = next((self.root / "labs" / "raftlab" / "suites").glob(f"*{lab.lower()}.py"))
        plugin = "raftlab.runs.plugin" if (self.root / "labs/raftlab/runs/plugin.py").is_file() else "raftlab.plugin"
        return [
            *(sys.executable, "-P", "-m", "pytest", "-q", "--noconftest", "-c", str(suite.with_name("pytest.ini"))),
            *("--rootdir", str(suite.parent), "-p", "no:cacheprovider", "-p", "pytest_timeout", "-p", plugin),
            str(suite),
            *(f"--impl={self.root / 'solutions'}", f"--lab={lab}", f"--seeds={seeds}", f"--only={','.join(tests)}"),
        ]

    def own(self, lab: str, seeds: int) -> list[str]:
        """The command of a student who tests a lab in the folder of the submission."""
        command = [sys.executable, "-m", "raftlab.cli", "test", lab, "--seeds", str(seeds)]
        # In one process: the first versions of `raftlab test` had no --jobs and always used one.
        return [*command, "--jobs", "1"] if (self.root / "labs/raftlab/tools/many_runs.py").is_file() else command


@contextmanager
def checked_out(commit: str) -> Iterator[Version]:
    """Check out ``commit`` of this repository into a temporary folder. Raises :class:`subprocess.CalledProcessError`."""
    with tempfile.TemporaryDirectory(prefix="raftlab-against-") as folder:
        root = Path(folder, "tree")
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(root), commit], check=True)
        try:
            yield Version(commit, root)
        finally:
            subprocess.run([*git, "remove", "--force", str(root)], check=True)


def cpu_of(command: Sequence[str], version: Version, folder: Path) -> float:
    """The CPU seconds of a command with all its descendants.

    Raises:
        SystemExit: The command fails.
    """
    with process_monitor.adopt_orphans():
        before = _children_cpu()
        done = subprocess.run(
            command, cwd=folder, env=version.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        left = process_monitor.leftover_processes(set())
        used = _children_cpu() - before
    if done.returncode or left:
        output = done.stdout.decode(errors="replace")[-2000:]
        sys.exit(f"{version.name}: exit code {done.returncode}, {len(left)} processes left\n{output}")
    return used


def _children_cpu() -> float:
    """The CPU seconds of all children that have ended and were waited for, and of their children."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds of one pass of ``tests`` runs, and of starting the commands that perform it."""

    tests: int
    pass_s: float
    start_s: float


def measure(version: Version, way: str, tests: dict[str, list[str]], seeds: int, folder: Path) -> Cost:
    """The cost of a pass over ``tests`` (by lab), from a command with one seed and a command with ``1 + seeds``."""
    one = many = 0.0
    for lab, names in tests.items():
        few, more = (
            version.own(lab, number) if way == "own code" else version.graded(lab, names, number)
            for number in (1, 1 + seeds)
        )
        one += cpu_of(few, version, folder)
        many += cpu_of(more, version, folder)
    passed = (many - one) / seeds
    return Cost(sum(map(len, tests.values())), passed, one - passed)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.against", description="Compare the CPU time of this version with an earlier one."
    )
    parser.add_argument("commit", help="the other version, such as 93a1fd1")
    parser.add_argument("--labs", default="2A,2B,2C,2D", metavar="2A[,2B]", help="labs to run (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="passes to average (default: %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=3, metavar="N", help="measure each version N times (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.seeds < 1 or options.rounds < 1:
        parser.error("--seeds and --rounds must be at least 1")
    labs = options.labs.split(",")
    with checked_out(options.commit) as other, tempfile.TemporaryDirectory(prefix="raftlab-against-") as scratch:
        versions = [other, Version("this version", ROOT)]
        tests = {version.name: version.tests(labs) for version in versions}
        common = {lab: [name for name in tests[other.name][lab] if name in tests["this version"][lab]] for lab in labs}
        folders = {}
        for version in versions:
            folders[version.name] = shutil.copytree(version.root / "solutions", Path(scratch, version.name))
        best: dict[tuple[str, str], Cost] = {}
        for _ in range(options.rounds):
            for way in WAYS:
                for version in versions:
                    chosen = common if way == "graded, common" else tests[version.name]
                    cost = measure(version, way, chosen, options.seeds, folders[version.name])
                    known = best.get((version.name, way), cost)
                    best[version.name, way] = min(known, cost, key=lambda each: each.pass_s)
    print(f"{'':16} {'version':14} {'runs':>5} {'pass, s':>8} {'ms a run':>9} {'start, s':>9} {'ratio of passes':>16}")
    for way in WAYS:
        for version in versions:
            cost = best[version.name, way]
            ratio = f"{cost.pass_s / best[other.name, way].pass_s:16.2f}" if version is not other else ""
            per_run = cost.pass_s / cost.tests * 1000
            print(
                f"{way:16} {version.name:14} {cost.tests:5} {cost.pass_s:8.2f} {per_run:9.1f} {cost.start_s:9.2f} {ratio}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
