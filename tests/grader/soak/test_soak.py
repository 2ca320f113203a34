"""Tests of ``raftgrade soak``: its blocks, its log, its messages, and how it watches processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftgrade.cli import Tools, main
from raftgrade.soak import process_monitor, runner
from raftlab.suites import catalogue
from tests.conftest import SOLUTION
from tests.grader.fakes import FakeTest, alive, submission, tools, wait_until_gone

pytestmark = pytest.mark.slow

DRIVER = Path(__file__).parents[1] / "driver.py"


def lines(folder: Path, name: str = "soak.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def stretches(folder: Path, kind: str = "suite") -> list[tuple[str, list[int]]]:
    return [(line["impl"], line["seeds"]) for line in lines(folder) if line["kind"] == kind]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Small blocks, as in driver.py, so that 12 seeds make two blocks.
    monkeypatch.setitem(runner.SEEDS, "suite sim", 10)


def run(*words: str) -> int:
    return main(["soak", *words, "--labs", "2A", "--out", "out"], tools())


def test_a_soak_continues_where_it_stopped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("ada", "bob"):
        submission(tmp_path, f"class/{name}")
    out = tmp_path / "out"
    assert run("class", "--passes", "12") == 0
    # The series take turns, and end after the number of seeds that was asked for.
    assert stretches(out) == [("ada", [0, 10]), ("bob", [0, 10]), ("ada", [10, 12]), ("bob", [10, 12])]
    assert stretches(out, "fuzz") == [("ada", [0, 12]), ("bob", [0, 12])]
    first = lines(out)[0]
    assert (first["runs"], first["failures"], first["unjudged"], first["tests"]) == (20, 0, 0, 2)
    assert (first["lab"], first["network"], first["beside_hog"], first["processes"]) == ("2A", "sim", False, 1)
    assert first["memory_mb"]["own"] > 10
    done = (out / "soak.jsonl").read_text()
    assert run("class", "--passes", "12") == 0
    assert (out / "soak.jsonl").read_text() == done
    assert "continuing after 6 blocks with 72 runs" in capsys.readouterr().err
    assert run("class/bob", "--passes", "13", "--no-fuzz") == 0
    assert stretches(out)[4:] == [("bob", [12, 13])]
    # After a soak with later seeds, the seeds before these still have to be run.
    assert run("class/bob", "--passes", "2", "--seed", "15", "--no-fuzz") == 0
    assert run("class/bob", "--passes", "20", "--no-fuzz") == 0
    assert stretches(out)[5:] == [("bob", [15, 17]), ("bob", [13, 15]), ("bob", [17, 20])]
    assert not (out / "logs").exists()


def test_lab_3_is_run_if_an_implementation_has_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("soak", "class", "--no-fuzz", "--passes", "1", "--out", "out")
    submission(tmp_path, "class/ada")
    assert main([*words], tools()) == 0
    assert [line["lab"] for line in lines(tmp_path / "out")] == ["2A"]
    assert "are left out, because no submission has a kv.py of its own" in capsys.readouterr().err
    submission(tmp_path, "class/bob", service="mine")
    assert main([*words], tools()) == 0
    assert [(line["impl"], line["lab"]) for line in lines(tmp_path / "out")[1:]] == [
        ("bob", "2A"),
        ("bob", "3A"),
    ]
    assert "ada cannot do lab 3A, which is left out: there is no kv.py beside raft.py" in capsys.readouterr().err


def test_labs_that_build_on_one_that_cannot_be_done_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lab 3A builds on 2A to 2D, but not on membership changes."""
    chosen = ("2A", "2D", "2E", "2F", "3A")
    catalogue = [FakeTest(lab, f"test_of_{lab}", lab, 1) for lab in chosen]
    ours = replace(tools(), catalogue=lambda lab: [test for test in catalogue if test.lab == lab])
    words = ("soak", "class", "--no-fuzz", "--passes", "1", "--labs", ",".join(chosen), "--out", "out")
    submission(tmp_path, "class/ada", {"test_of_2E": "fail"}, service="mine")
    assert main([*words], ours) == 0
    assert [line["lab"] for line in lines(tmp_path / "out")] == ["2A", "2D", "3A"]
    assert capsys.readouterr().err.count("ada cannot do lab 2E, which is left out: its first test") == 1


def test_blocks_of_another_version_do_not_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = submission(tmp_path, "ada")
    out = tmp_path / "out"
    assert run("ada", "--passes", "2", "--no-fuzz") == 0
    (path / "raft.py").write_text('{"*": "pass"}')
    assert run("ada", "--passes", "2", "--no-fuzz") == 0
    assert stretches(out) == [("ada", [0, 2]), ("ada", [0, 2])]
    assert "1 block with 4 runs of another version are in the log and do not count" in capsys.readouterr().out
    old = (out / "soak.jsonl").read_text()
    (out / "soak.jsonl").write_text(old.replace(lines(out)[0]["code"], "0123456789abcdef"))
    assert run("ada", "--passes", "2", "--no-fuzz") == 0
    assert len(stretches(out)) == 3
    assert "2 blocks of another version of raftlab stay in the log as history" in capsys.readouterr().err


def test_failures_are_reported_and_the_soak_continues(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "ada", {"second/1": "fail", "second/3": "error", "fuzz_2A/2": "fail"})
    assert run("ada", "--passes", "12") == 1
    printed = capsys.readouterr()
    assert "FAILED: ada second@1 sim: expected one leader, saw none at seed 1 \\x1b[31m (raftlab replay" in printed.err
    assert "not judged: ada second@3 sim" in printed.err
    assert "24 (1 failed, 1 not judged)" in printed.out
    reported = lines(tmp_path / "out", "failures.jsonl")
    assert [(line["test"], line["seed"], line["outcome"]) for line in reported] == [
        ("second", 1, "failed"),
        ("second", 3, "error"),
        ("fuzz_2A", 2, "failed"),
    ]
    assert [(line["failures"], line["unjudged"]) for line in lines(tmp_path / "out")] == [(1, 1), (1, 0), (0, 0)]
    assert main(["soak", "--show", "out"]) == 1
    assert capsys.readouterr().out == printed.out


def test_traces_are_kept_up_to_the_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TRACE_QUOTA", 250)
    submission(tmp_path, "ada", {"trace": 100, **{f"second/{seed}": "fail" for seed in (5, 7, 8, 11, 13)}})

    def traced_seeds() -> list[int]:
        reported = lines(tmp_path / "out", "failures.jsonl")
        there = sorted(str(file) for file in (tmp_path / "out" / "traces" / "ada").iterdir())
        assert there == sorted(str(tmp_path / line["trace"]) for line in reported if line["trace"])
        return [line["seed"] for line in reported if line["trace"]]

    assert run("ada", "--passes", "12") == 1
    assert traced_seeds() == [5, 7]
    # The next soak in the same folder reads from the log which traces the first one kept.
    assert run("ada", "--passes", "14") == 1
    assert traced_seeds() == [5, 7]


def test_a_soak_with_an_unjudged_run_is_no_success(tmp_path: Path) -> None:
    submission(tmp_path, "ada", {"second/1": "error"})
    assert run("ada", "--passes", "2", "--no-fuzz") == 2


def test_labs_that_an_implementation_cannot_do_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    submission(tmp_path, "ada", {"first": "fail"})
    submission(tmp_path, "bob", {"check": [2, '[{"text": "Raft has no method snapshot"}]']})
    submission(tmp_path, "cyd")
    assert run("ada", "bob", "--passes", "1") == 2
    reported = capsys.readouterr().err
    assert "ada cannot do lab 2A, which is left out: its first test, first, failed with seeds 0 to 2" in reported
    assert "bob cannot do lab 2A, which is left out: Raft has no method snapshot" in reported
    assert reported.endswith("raftgrade: nothing to run: no implementation can do lab 2A\n")
    assert run("ada", "cyd", "--passes", "1", "--no-fuzz") == 0
    assert stretches(tmp_path / "out") == [("cyd", [0, 1])]


def test_growing_memory_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = iter((60.0, 100.0, 115.0, 120.0, 170.0))

    class MemoryMonitor(process_monitor.MemoryMonitor):
        def __exit__(self, *exc: object) -> None:
            super().__exit__(*exc)
            self.own, self.child = next(sizes), 20.0

    monkeypatch.setattr(process_monitor, "MemoryMonitor", MemoryMonitor)
    submission(tmp_path, "ada")
    assert run("ada", "--passes", "50", "--no-fuzz") == 0
    reported = capsys.readouterr().err
    assert [line[10:] for line in reported.splitlines() if "memory" in line] == [
        "memory grows: this soak held 115 MB, 55 MB more than before",
        "memory grows: this soak held 170 MB, 55 MB more than before",
    ]


class Soak:
    """A soak of one submission that hangs in its second block and has started a child."""

    def __init__(self, folder: Path) -> None:
        self.mark = f"mark-{uuid.uuid4()}"
        self.out = folder / "out"
        submission(folder, "ada", {"first/11": "family"})
        self.process = subprocess.Popen(
            [sys.executable, str(DRIVER), self.mark, "soak", "ada", "--labs", "2A", "--no-fuzz", "--out", "out"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def wait(self) -> None:
        while len(alive(self.mark)) < 3:  # the driver, a job, the job's child
            assert self.process.poll() is None, self.process.communicate()
            time.sleep(0.01)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        for pid in alive(self.mark):
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def hanging(tmp_path: Path) -> Iterator[Soak]:
    made = Soak(tmp_path)
    yield made
    made.close()


def test_ctrl_c_ends_a_soak_and_its_processes(hanging: Soak) -> None:
    hanging.wait()
    hanging.process.send_signal(signal.SIGINT)
    out, err = hanging.process.communicate(timeout=10)
    assert hanging.process.returncode == 130
    assert err.endswith("raftgrade: interrupted; the same command continues in out\n")
    assert "processes after" in out
    wait_until_gone(hanging.mark)
    assert stretches(hanging.out) == [("ada", [0, 10])]


def test_a_kill_loses_only_the_running_block(hanging: Soak, capsys: pytest.CaptureFixture[str]) -> None:
    hanging.wait()
    assert run("ada") == 2
    assert (
        capsys.readouterr().err == "raftgrade: another raftgrade is writing to out; choose another folder with --out\n"
    )
    hanging.process.kill()
    hanging.process.communicate()
    book = hanging.out / "soak.jsonl"
    with book.open("a") as file:
        file.write('{"kind": "sui')
    assert run("ada", "--passes", "11", "--no-fuzz") == 0
    assert stretches(hanging.out) == [("ada", [0, 10]), ("ada", [10, 11])]
    assert "continuing after 1 block with 20 runs" in capsys.readouterr().err


def test_a_real_soak_beside_a_hog(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})  # so that there is only one hog
    real = Tools(catalogue=lambda lab: [test for test in catalogue.tests(lab) if test.name == "initial_election"])
    words = ["--labs", "2A", "--network", "sim,rpyc", "--hog", "--passes", "1", "--sandbox", "none", "--out", "out"]
    before = process_monitor.descendants()
    assert main(["soak", str(SOLUTION.parent), *words], real) == 0, capsys.readouterr().err
    reported = {(line["kind"], line["network"], line["beside_hog"]): line for line in lines(tmp_path / "out")}
    assert set(reported) == {("suite", "sim", False), ("suite", "rpyc", True), ("fuzz", "sim", False)}
    for line in reported.values():
        assert (line["runs"], line["failures"], line["unjudged"], line["processes"]) == (1, 0, 0, 1)
        # Memory is measured only now and then, so a short-lived child may be measured before it has loaded anything.
        assert line["memory_mb"]["own"] > 10
        assert 0 < line["cpu_s"] < 60
    assert process_monitor.descendants() <= before


# --- the process monitor ---

ORPHAN = "import os, sys, time\nif os.fork(): sys.exit()\ntime.sleep(600)"


def test_an_orphan_is_counted_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_monitor, "GONE_S", 0.3)
    with process_monitor.adopt_orphans():
        before = process_monitor.descendants()
        subprocess.run([sys.executable, "-I", "-S", "-c", ORPHAN], check=True)
        (orphan,) = process_monitor.leftover_processes(before)
        process_monitor.kill([orphan])
        assert process_monitor.leftover_processes(before) == []
        assert not Path(f"/proc/{orphan}").exists()


def test_the_memory_of_a_child_is_measured() -> None:
    hungry = "data = bytearray(200_000_000); print(len(data), flush=True); del data; input()"
    with (
        process_monitor.MemoryMonitor() as memory,
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", hungry], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child,
    ):
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()
        while memory.child < 200:
            time.sleep(0.05)
        child.stdin.close()
    assert 200 < memory.child < 300
    assert memory.own > 10


def test_hogs_end_with_their_parent() -> None:
    with process_monitor.hogs(2) as running:
        assert len(running) == 2
        assert running <= process_monitor.descendants()
    assert not running & process_monitor.descendants()
    # The hogs end even if their parent is killed.
    code = (
        "import os, signal; from raftgrade.soak import process_monitor as watch\n"
        "with watch.hogs(1) as running: print(*running, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    reported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    while Path(f"/proc/{int(reported.stdout)}").exists():
        time.sleep(0.02)


def test_a_soak_stops_when_the_code_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter("aab")
    monkeypatch.setattr(runner, "code_fingerprint", lambda packages: next(codes))
    submission(tmp_path, "ada")
    assert run("ada", "--passes", "20", "--no-fuzz") == 2
    assert capsys.readouterr().err.endswith(
        "raftgrade: raftlab's code was changed while the soak ran: the last block was dropped, start the soak again\n"
    )
    assert stretches(tmp_path / "out") == [("ada", [0, 10])]
