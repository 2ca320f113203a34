"""A class in which some submissions use up what they can: processor, memory, threads, disk and output. The correct ones
beside them keep full marks, all of their runs are judged, and nothing is left behind.

This takes many minutes, so ``pytest`` runs it only if the file is named: ``pytest tests/hostile/neighbours.py``. ``-k
rlimits`` selects a level. With ``-s`` it prints how many runs of each submission passed, failed and could not be judged.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raftlab.sandbox import levels
from tests.conftest import ROOT, SOLUTION
from tests.hostile.bank import Entry
from tests.hostile.grading import MOST_MEMORY_MB, Level

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

LABS = "2A,2B,3A"
# The reference, and two correct Rafts in other styles with the reference's service above them.
NEIGHBOURS = ("reference", "whole_tick", "whole_thread_per_peer")
# Each of these does its work in a thread beside a Raft that is otherwise correct. So they are not stopped at once, and use
# the machine for as long as their runs take. The names say what they use up. Their verdicts do not matter here: some stay
# within their limits and rightly pass.
HOGS = {
    # In the simulator, a loop that never waits is stopped at once.
    "processor": """
        import sys
        while True:
            sum(range(1_000_000))
            if "raftlab.host.rpyc_child" not in sys.modules: time.sleep(0.05)
    """,
    # Seven servers together stay just below their limit. All of the memory is touched.
    "memory": "hold = [bytearray(b'x') * (1 << 20) for _ in range(250)]\nwhile True: time.sleep(0.1)",
    "threads": "import _thread\nfor _ in range(600): _thread.start_new_thread(time.sleep, (1e6,))",
    "disk": """
        import os
        while True:
            for n in range(15):
                try: open(f"/tmp/{n}", "wb").write(bytes(1 << 20))
                except OSError: pass
            time.sleep(0.01)
    """,
    "output": "while True: log('flood', 'x' * 2_000); print('y' * 2_000); time.sleep(0.001)",
}
_HOG = """
import textwrap
threading.Thread(target=exec, args=(textwrap.dedent({code!r}), globals()), daemon=True).start()
"""

# Tests of each lab that depend on time.
TESTS = (
    "initial_election",
    "re_election",
    "many_elections",
    "basic_agreement",
    "concurrent_starts",
    "rejoin",
    "backup",
    "one_clerk",
    "many_clerks",
    "leaders_crash",
)


@dataclass(frozen=True)
class Graded:
    """What ``raftgrade run`` did with the class."""

    folder: Path
    report: dict[str, Any]
    left: int
    """How many processes were left behind."""
    memory_mb: float
    """The most memory that the grader used."""


@pytest.fixture(scope="module", params=["bwrap", "rlimits"])
def graded(request: pytest.FixtureRequest) -> Iterator[Graded]:
    level: Level = request.param
    if (here := levels.probe(level)).level != level:
        pytest.skip(here.reason)
    with tempfile.TemporaryDirectory(prefix="raftlab-neighbours-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "tmp").mkdir()
        for neighbour in NEIGHBOURS:
            source = SOLUTION.parent if neighbour == "reference" else ROOT / "tests" / "correct" / neighbour
            place = folder / "class" / neighbour
            shutil.copytree(source, place, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(SOLUTION.with_name("kv.py"), place)
        for hog, code in HOGS.items():
            Entry(hog, "", init=_HOG.format(code=code)).write(folder / "class")
            shutil.copy(SOLUTION.with_name("kv.py"), folder / "class" / hog)
        driver = Path(__file__).with_name("driver.py")
        done = subprocess.run(
            [sys.executable, str(driver), "run", "class", "--labs", LABS, "--runs", "2", "--sandbox", level],
            cwd=folder,
            env={**os.environ, "TMPDIR": str(folder / "tmp"), "RAFTLAB_DRIVER_TESTS": ",".join(TESTS)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in (0, 1, 2), done.stderr
        *_, memory, left = done.stdout.splitlines()
        report = json.loads((folder / "raftgrade-out" / "report.json").read_text())
        for submission in report["submissions"]:
            print(level, submission["name"], submission["points"], submission["max_points"], *counts(submission))
        yield Graded(folder, report, int(left), int(memory) / 1000)


def networks(submission: dict[str, Any]) -> list[dict[str, Any]]:
    return [network for test in submission["tests"] for network in test["networks"]]


def counts(submission: dict[str, Any]) -> list[str]:
    """The runs of a submission on each network."""
    texts = []
    for name in ("sim", "rpyc"):
        of = [network for network in networks(submission) if network["network"] == name]
        numbers = {word: sum(network[word] for network in of) for word in ("passes", "failures", "errors", "retried")}
        texts.append(f"{name}: {numbers}")
    return texts


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_a_correct_neighbour_keeps_full_marks(graded: Graded, name: str) -> None:
    (submission,) = (item for item in graded.report["submissions"] if item["name"] == name)
    bad = [run["failure"]["text"] for network in networks(submission) for run in network["bad"]]
    assert bad == []
    assert submission["state"] == "graded"
    assert submission["points"] == submission["max_points"]
    assert all(network["passes"] == network["runs"] > 0 for network in networks(submission))


def test_nothing_is_left_behind(graded: Graded) -> None:
    assert graded.left == 0
    assert list((graded.folder / "tmp").iterdir()) == []
    assert graded.memory_mb < MOST_MEMORY_MB
