"""Tests of ``raftgrade proof``: which passes count, what is stored, what it reports, and real proofs of a few bugs."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest

from raftgrade.cli import main
from raftgrade.output_folder import BadFolder
from raftgrade.proof import bug_bank, kill_rates
from raftgrade.proof import page as proof_page
from raftgrade.proof.kill_rates import CannotProve, Folder, Kill, Pass, Settings, Trial
from raftgrade.soak import log
from raftgrade.soak.log import Block, Megabytes
from tests.conftest import ROOT, SOLUTION
from tests.counts import number_of_tests
from tests.grader.fakes import alive, wait_until_gone
from tests.known_bugs import BANK, MATRIX, REFERENCE

pytestmark = pytest.mark.slow

HARMLESS = """Title: The heartbeats are a little slower.
Lab: 2A
Breaks: Liveness
Hardness: {}
Source: our own variants
Caught-by: initial_election
Rule: liveness of elections
{}
@@
-HEARTBEAT_EVERY = 0.1
+HEARTBEAT_EVERY = 0.101
"""
FEW = Settings(seeds=3, hard_seeds=6)


def make_trial(name: str = "el-double-vote", settings: Settings = FEW) -> Trial:
    """The trial of a bug that counts as hard, whatever its hardness in the bank."""
    (trial,) = kill_rates.make_trials([BANK.find("2A", name)], REFERENCE, settings)
    trial.bug = bug_bank.parse(HARMLESS.format("hard", ""), Path(f"2a/{name}.patch"))
    return trial


def make_pass(of: Trial, seed: int, outcome: str = "passed", cpu_s: float = 2.0) -> Pass:
    caught = [Kill("split_vote", "Election Safety", "expected one leader")] if outcome == "failed" else []
    unjudged = ["many_elections"] if outcome == "error" else []
    return Pass(of.key, of.bug.id, seed, seed == 0, caught, unjudged, cpu_s, 1.0)


def with_passes(*outcomes: str) -> Trial:
    trial = make_trial()
    trial.passes = {seed: make_pass(trial, seed, outcome) for seed, outcome in enumerate(outcomes)}
    return trial


P, F, E = "passed", "failed", "error"


@pytest.mark.parametrize(
    ("outcomes", "kills", "runs", "complete"),
    [
        ([F, P, F], 2, 3, True),
        ([P, F], 1, 2, False),  # all of the first seeds are run, even after a kill
        ([P, P, P], 0, 3, False),
        ([P, P, P, P, F], 1, 5, True),  # after the first seeds, the first kill ends the trial
        ([P, P, P, P, F, F], 1, 5, True),
        ([P, P, P, P, P, P], 0, 6, True),
        ([F, P, P, F, F, F], 1, 3, True),  # stored passes of an earlier proof with more seeds
        ([P, P, E], 0, 2, False),
    ],
)
def test_only_some_passes_count(outcomes: list[str], kills: int, runs: int, complete: bool) -> None:
    trial = with_passes(*outcomes)
    assert (trial.kills, trial.runs, trial.complete) == (kills, runs, complete)


def test_the_next_seed_waits_for_the_passes_that_decide_about_it() -> None:
    trial = make_trial()
    assert trial.next_seed() == 0
    trial.started.add(0)
    assert trial.next_seed() is None, "the first pass determines with which tests the other passes begin"
    trial.passes[0] = make_pass(trial, 0)
    trial.started |= {1, 2}
    assert trial.next_seed() is None, "whether more passes are needed depends on all of the first seeds"
    trial.passes |= {1: make_pass(trial, 1), 2: make_pass(trial, 2)}
    assert trial.next_seed() == 3
    trial.passes[3] = make_pass(trial, 3, F)
    assert trial.next_seed() is None


def test_the_likeliest_test_comes_first() -> None:
    trial = make_trial()
    assert trial.likeliest_first()[0] == "initial_election", "the test that the bug's file names comes first"
    trial.passes[0] = make_pass(trial, 0, F)
    assert trial.likeliest_first()[:2] == ["split_vote", "initial_election"]
    assert sorted(trial.likeliest_first()) == sorted(trial.tests)


def test_the_number_of_seeds_that_are_needed_to_be_sure() -> None:
    assert with_passes(F, F, F).seeds_to_be_sure == 1
    assert with_passes(F, P, F).seeds_to_be_sure == 3  # 1/3 ** 3 < .05 < 1/3 ** 2
    assert with_passes(P, P, P, F).seeds_to_be_sure == 11  # 3/4 ** 11 < .05 < 3/4 ** 10
    assert with_passes(P, P, P).seeds_to_be_sure is None


def test_stored_passes_are_read_again(tmp_path: Path) -> None:
    first = with_passes(F, P, E)
    with Folder(tmp_path / "out") as folder:
        for finished in first.passes.values():
            folder.append(finished)
        with pytest.raises(BadFolder, match="another raftgrade is writing to"), Folder(tmp_path / "out"):
            pass
    with open(tmp_path / "out" / "passes.jsonl", "ab") as file:
        file.write(b'{"key": "torn')
    again, other = make_trial(), make_trial("el-majority-half")
    with Folder(tmp_path / "out") as folder:
        assert folder.load([again, other]) == 2, "a pass that could not be judged is run again"
        assert (sorted(again.passes), other.passes) == ([0, 1], {})
        folder.append(make_pass(again, 2))
    with Folder(tmp_path / "out") as folder:
        assert folder.load([again]) == 3
    (tmp_path / "out" / "passes.jsonl").write_text("malformed\n")
    with (
        Folder(tmp_path / "out") as folder,
        pytest.raises(CannotProve, match=r"line 1 of .*passes\.jsonl is not a pass"),
    ):
        folder.load([again])


def test_passes_of_an_older_version_can_be_read(tmp_path: Path) -> None:
    """Stored passes count only if their key shows that the bug's source text, the judging code and the settings are the
    same."""
    line = (
        '{"key":"KEY","bug":"2a/el-double-vote","seed":0,"whole":true,"caught":[{"test":"who_gets_a_vote","rule":"one vote'
        ' a term","text":"expected S0 to vote once"}],"unjudged":[],"cpu_s":0.3,"wall_s":0.5}\n'
    )
    trial = make_trial()
    (tmp_path / "passes.jsonl").write_text(line + line.replace("KEY", trial.key))
    with Folder(tmp_path) as folder:
        assert folder.load([trial]) == 1
    assert trial.first_kill == Kill("who_gets_a_vote", "one vote a term", "expected S0 to vote once")


def test_a_folder_with_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(BadFolder, match=r"holds other files and no passes\.jsonl"), Folder(tmp_path):
        pass
    with pytest.raises(BadFolder, match="is a file; choose another folder"), Folder(tmp_path / "thesis.tex"):
        pass


# --- the page ---


def page(*trials: Trial, soak: list[Block] | None = None) -> str:
    return proof_page.page(trials, BANK, proof_page.Facts("today", "raftgrade proof", "these", FEW), soak, MATRIX)


def test_the_pages_table_of_aims() -> None:
    caught, late, gone = with_passes(F, F, F), with_passes(P, P, P, P, F), with_passes(*[P] * 6)
    line = "| hard | {} | {} | {} | 9 of 10 within 6 passes | {} |\n"
    text = page(*[caught] * 8, late, gone)
    assert line.format(10, "8 of 10 (80 %)", "9 of 10 (90 %)", "met") in text
    assert line.format(2, "1 of 2 (50 %)", "1 of 2 (50 %)", "**not met**") in page(caught, gone)
    assert line.format(2, "1 of 1 (100 %)", "1 of 1 (100 %)", "open: 1 not finished") in page(caught, with_passes(P))
    lost = with_passes(P, E)
    assert "\n- 2a/el-double-vote is not finished; 0 of 1 pass killed it so far\n" in page(caught, lost)
    assert "not finished, because some passes could not be judged: 2a/el-double-vote; run" in proof_page.table(
        [caught, lost], FEW
    )
    assert [proof_page.exit_code(each) for each in ([caught], [caught, lost], [gone, lost])] == [0, 2, 1]


def test_the_pages_row_of_a_bug() -> None:
    (row,) = re.findall(r"^\| el-double-vote .*$", page(with_passes(F, P, F)), re.M)
    assert row.split(" | ")[2:] == (
        ["Liveness", "hard", "Election Safety", f"1 of {number_of_tests('2A')}", "2/3", ".67 [.094–.99]", "3", "6.0 |"]
    )


def soak(**other: object) -> Block:
    return Block(**{  # type: ignore[arg-type]
        "kind": "suite", "impl": "timers", "impl_hash": "t", "lab": "2A", "network": "sim", "beside_hog": False,
        "runs": 20000, "failures": 0, "unjudged": 0, "seeds": (0, 10), "tests": 2000, "cpu_s": 1.0, "wall_s": 1.0,
        "memory_mb": Megabytes(1.0, 1.0), "processes": 1, "code": "abc", "sandbox": "none", "started": "2026-01-02", **other
    })  # fmt: skip


def test_the_pages_section_on_false_alarms() -> None:
    trial = with_passes(F, F, F)
    assert "## False alarms\n\nNot measured for this page" in page(trial)
    assert "The soak has no runs." in page(trial, soak=[])
    hog = soak(impl="futures", network="rpyc", beside_hog=True, runs=1001, failures=2, unjudged=1)
    text = page(trial, soak=[soak(), soak(), hog])
    assert "\n| timers | 40,000 | 0 | 0, below 0.92 |\n" in text
    assert "\n| futures | 1,000 | 2 | 20.00, below 72.06 |\n" in text
    assert "\n| suite rpyc, all processors busy | 2A | 1,000 | 2 | 20.00, below 72.06 |\n" in text
    assert "\n| all |  | 41,000 | 2 | 0.49, below 1.76 |\n" in text
    assert "Code abc. Not counted: 1 run that could not be judged.\n" in text


def test_runs_from_before_a_raft_changed_do_not_count() -> None:
    flawed = soak(impl_hash="flawed", failures=3)
    text = page(with_passes(F, F, F), soak=[soak(code="older"), flawed, soak()])
    assert "\n| all |  | 20,000 | 0 | 0, below 1.84 |\n" in text
    sentence = (
        "Code abc. Left out: 40,000 runs with a different version of raftlab, or of a Raft that has changed since."
    )
    assert sentence in " ".join(text.split())


def test_several_soaks_are_combined(tmp_path: Path) -> None:
    late, early = soak(started="2026-01-03"), soak(impl="a", started="2026-01-01")
    for name, block in (("one", late), ("two", early)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "soak.jsonl").write_bytes(msgspec.json.encode(block) + b"\n")
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "two" / ".." / "one"]
    assert log.read_all(folders) == [early, late]
    with pytest.raises(BadFolder, match=r"none holds no soak\.jsonl"):
        log.read_all([tmp_path / "none"])


# --- real proofs ---


def write_bank(folder: Path, hardness: str = "easy", headers: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    source = ROOT / "tests" / "bugs" / "2a" / "el-double-vote.patch"
    (folder / source.name).write_text(source.read_text())
    (folder / "harmless.patch").write_text(HARMLESS.format(hardness, headers))
    return folder


def prove(folder: Path, *more: str) -> int:
    where = ["--reference", str(SOLUTION), "--out", str(folder / "out"), "--page", str(folder / "page.md")]
    return main(["proof", str(folder / "bank"), *where, "--jobs", "1", *more])


def test_proofs_of_a_small_bank(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bank(tmp_path / "bank")
    assert prove(tmp_path, "--seeds", "2") == 1
    printed, text = capsys.readouterr().out, (tmp_path / "page.md").read_text()
    assert re.search(r"^2a/el-double-vote +easy +one vote a term +2/2 +1 \[\.16–1\] +1 +\d", printed, re.M)
    assert re.search(r"^2a/harmless +easy +missed +0/2 +0 \[0–\.84\] +– +–$", printed, re.M)
    assert "\nmissed: 2a/harmless: unexplained\n\n1 of 2 bugs caught · 4 passes · " in printed
    row = "| **harmless** | The heartbeats are a little slower. | Liveness | easy | **missed** |"
    assert f"\n{row} 0 of {number_of_tests('2A')} | 0/2 |" in text
    assert "\n- **2a/harmless** (2 passes): **unexplained**\n" in text
    assert "| easy | 2 | 1 of 2 (50 %) | – | all within 2 passes | **not met** |" in text
    assert (tmp_path / "out" / "2a" / "harmless" / "raft.py").read_text() != SOLUTION.read_text()
    stored = (tmp_path / "out" / "passes.jsonl").read_bytes()
    assert stored.count(b"\n") == 4

    # Prove again, with a reason for the miss: no pass is repeated, and a miss with a reason does not make the command fail.
    write_bank(tmp_path / "bank", headers="Missed: is no fault.\n")
    assert prove(tmp_path, "--seeds", "2") == 0
    again = capsys.readouterr()
    assert "raftgrade: reused 4 finished passes of the proof in " in again.err
    assert "\nmissed: 2a/harmless: is no fault.\n" in again.out
    assert (tmp_path / "out" / "passes.jsonl").read_bytes() == stored

    # Prove again, as a hard bug: its two stored passes count, and two more follow.
    write_bank(tmp_path / "bank", "hard", "Missed: is no fault.\n")
    assert prove(tmp_path, "--seeds", "2", "--hard-seeds", "4", "--bugs", "harmless") == 0
    assert re.search(r"^2a/harmless +hard +missed +0/4 ", capsys.readouterr().out, re.M)
    assert (tmp_path / "out" / "passes.jsonl").read_bytes().count(b"\n") == 6


def test_a_run_whose_host_takes_too_long_is_caught(tmp_path: Path) -> None:
    (trial,) = kill_rates.make_trials([BANK.find("2A", "el-double-vote")], REFERENCE, Settings(1, 1, 1, limit_s=0.002))
    with Folder(tmp_path) as folder:
        kill_rates.run([trial], folder, trial.settings, io.StringIO())
    assert trial.first_kill == Kill("initial_election", "", "run never reported: it had not ended after 0.002 s")
    assert len(trial.passes[0].caught) == number_of_tests("2A")


def test_a_run_that_exceeds_its_limit_is_caught(tmp_path: Path) -> None:
    """Unlike in the test above, the servers are running when the time limit is reached."""
    (trial,) = kill_rates.make_trials(BANK.bugs[:1], REFERENCE, Settings(2, 2, 1, limit_s=2.0))
    trial.sources["raft.py"] += "\nsum(range(10**11))  # takes minutes, and nothing can interrupt it\n"
    trial.passes[0] = make_pass(trial, 0)  # so the next pass stops at the first test that fails
    with Folder(tmp_path) as folder:
        kill_rates.run([trial], folder, trial.settings, io.StringIO())
    (caught,) = trial.passes[1].caught
    assert caught.text == "run never reported: it had not ended after 2 s"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_proof_keeps_its_passes(tmp_path: Path, number: signal.Signals) -> None:
    write_bank(tmp_path / "bank")
    command = [sys.executable, "-m", "raftgrade", "proof", "bank", "--reference", str(SOLUTION)]
    process = subprocess.Popen(
        [*command, "--seeds", "200", "--out", "out", "--jobs", "2"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    passes = tmp_path / "out" / "passes.jsonl"
    while not (passes.exists() and passes.read_bytes().count(b"\n") >= 2):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    assert alive(str(Path("out", "2a")))
    process.send_signal(number)
    err = process.communicate()[1]
    assert process.returncode == 130
    assert (
        err.splitlines()[-1]
        == "raftgrade: interrupted; finished passes are in out; run the same command again to continue"
    )
    wait_until_gone(str(Path("out", "2a")))
    trial = kill_rates.make_trials(bug_bank.read(tmp_path / "bank").bugs, REFERENCE, Settings())
    with Folder(tmp_path / "out") as folder:
        assert folder.load(trial) == passes.read_bytes().count(b"\n") >= 2


def test_a_bug_that_cannot_be_applied_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_bank(tmp_path / "bank")
    (tmp_path / "raft.py").write_text("HEARTBEAT_EVERY = 0.1\n")
    assert main(["proof", str(tmp_path / "bank"), "--reference", str(tmp_path)]) == 2
    assert re.match(
        r"raftgrade: 2a/el-double-vote: the old lines of hunk 1 \(.*\.patch:10\) occur 0 times in the reference, ",
        capsys.readouterr().err,
    )
