"""Tests of ``raftlab``'s command line, most of them with real runs. ``tests/test_refused_commands.py`` tests what the
command line refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import raftlab
from raftlab import cli, labs
from raftlab.submission import skeleton
from raftlab.suites import catalogue
from raftlab.tools import new as starter
from raftlab.tools.arguments import CommandError
from raftlab.worlds.host_process import WarmHost
from tests.counts import ALL_LABS, points_of

ROOT = Path(__file__).parents[2]
SOLUTION = ROOT / "solutions" / "raft.py"
SKELETON = ROOT / "skeleton" / "raft.py"


def environment() -> dict[str, str]:
    """The environment variables of a student's shell. Those of the pytest that runs this test are left out, and raftlab
    can be imported from any folder.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    assert raftlab.__file__ is not None
    return {**kept, "PYTHONPATH": str(Path(raftlab.__file__).parent.parent), "PYTHONUNBUFFERED": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "raftlab.cli", *arguments]


def raftlab_in(folder: Path, *arguments: str, typed: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        cwd=folder,
        input=typed,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**environment(), **more},
    )


@pytest.fixture
def solved(tmp_path: Path) -> Path:
    shutil.copy(SOLUTION, tmp_path / "raft.py")
    return tmp_path


def test_every_contract_problem_is_listed(tmp_path: Path) -> None:
    text = SKELETON.read_text().replace("def get_state(self)", "def state(self)")
    (tmp_path / "raft.py").write_text(text.replace("def start(self, command: Any)", "def start(self)"))
    done = raftlab_in(tmp_path, "test", "2A")
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.sub(r"py:\d+", "py:N", done.stderr) == (
        "raftlab: Raft.start must take (self, command), but is declared (self)\n"
        "  at raft.py:N\n"
        "  read: handouts/lab-2a.md#the-api-on-one-screen\n"
        "Raft has no method get_state(self), which lab 2A needs\n"
        "  at raft.py:N\n"
        "  read: handouts/lab-2a.md#the-api-on-one-screen\n"
    )


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"raftlab {raftlab.__version__}\n"


# --- new, labs ---


def test_new_copies_the_starter_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "me"]) == 0
    assert capsys.readouterr().out.endswith("Your code goes into me/raft.py. Start here:  cd me && raftlab test 2A\n")
    assert Path("me/raft.py").read_bytes() == SKELETON.read_bytes()
    for name in (
        "kv.py",
        "README.md",
        ".gitignore",
        ".github/workflows/raftlab.yml",
        ".devcontainer/devcontainer.json",
    ):
        assert Path("me", name).is_file()
    for handout in Path("me/handouts").glob("*"):
        assert not handout.name.startswith(("instructor", "report-schema"))
    Path("me/raft.py").write_text("mine")
    assert cli.main(["new", "me"]) == 2
    assert capsys.readouterr().err.startswith("raftlab: me already has kv.py, raft.py, README.md and ")
    assert Path("me/raft.py").read_text() == "mine"
    assert cli.main(["new", "me", "--force"]) == 0
    assert Path("me/raft.py").read_bytes() == SKELETON.read_bytes()


def test_new_from_a_later_lab(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["new", "me", "--from", "2c"]) == 0
    assert capsys.readouterr().out.endswith("Your code goes into me/raft.py. Start here:  cd me && raftlab test 2C\n")
    text = Path("me/raft.py").read_text()
    assert text == skeleton.generate(SOLUTION.read_text(), "2C")
    assert "Your code here (2C)" in text
    assert "Your code here (2B)" not in text
    assert "raftlab test 2C" in Path("me/README.md").read_text()
    assert "lab-2c.md" in Path("me/README.md").read_text()
    assert "raftlab test 2C" in Path("me/.github/workflows/raftlab.yml").read_text()
    assert cli.main(["new", "service", "--from", "3A"]) == 0
    assert "Your code goes into service/kv.py. " in capsys.readouterr().out
    assert "Your code here (2" not in Path("service/raft.py").read_text()  # 3B needs code in both files
    assert Path("service/kv.py").read_bytes() == SKELETON.with_name("kv.py").read_bytes()
    assert 'Find "Your code here (3A)" in `kv.py`' in Path("service/README.md").read_text()
    assert cli.main(["new", "you", "--from", "9Z"]) == 2
    assert capsys.readouterr().err == f"raftlab: there is no lab '9Z'; the labs are: {ALL_LABS}\n"
    assert not Path("you").exists()


def test_new_overwrites_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    starter.new(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(CommandError, match=r"notes\.txt is a file; expected a folder, which may be new$"):
        starter.new(tmp_path / "notes.txt")
    with pytest.raises(CommandError, match=r"notes\.txt/\S+ cannot be written: Not a directory$"):
        starter.new(tmp_path / "notes.txt" / "me")


def test_commands_in_the_starter_files_exist(tmp_path: Path) -> None:
    starter.new(tmp_path)
    for path in (tmp_path / "README.md", tmp_path / ".github/workflows/raftlab.yml"):
        for line in re.findall(r"^[^#\n]*?\b(raftlab (?:test|replay|labs|new)\b[^#|&`\n]*)", path.read_text(), re.M):
            words = line.split()[1:]
            if words[-1].startswith("2>"):
                words.pop()
            cli.make_parser().parse_args(words)


@pytest.mark.parametrize(
    ("command", "needed", "not_needed"),
    [("--help", "raftlab.cli", "raftlab.runs"), ("test", "raftlab.tools.many_runs", "raftlab.runs.scenario")],
)
def test_a_command_imports_only_what_it_needs(command: str, needed: str, not_needed: str) -> None:
    code = f"import sys; from raftlab import cli; cli.make_parser({(command,)}); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert needed in loaded
    assert loaded.isdisjoint({not_needed, "rpyc", "pytest", "multiprocessing", "raftlab.play"})


def test_labs_lists_labs_and_tests(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["labs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"2A  election: terms, votes, heartbeats, randomised timeouts ({points_of('2A')} points)"
    assert lines[1].split(None, 3) == [
        "5",
        "initial_election",
        "sim+rpyc",
        "A leader is elected, and there is still a leader later",
    ]
    assert len(lines) == sum(1 + len(catalogue.tests(lab)) for lab in labs.LABS)


# --- real runs ---


def test_the_contract_check_and_the_runs_share_a_host(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    started: list[WarmHost] = []
    begin = WarmHost.__init__

    def counted(host: WarmHost, *args: Any) -> None:
        started.append(host)
        begin(host, *args)

    monkeypatch.setattr(WarmHost, "__init__", counted)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["test", "2A", "-k", "cluster_of_one", "--impl", str(SOLUTION), "--sandbox", "none"]) == 0
    (host,) = started
    assert not host.alive()


@pytest.mark.slow
def test_the_solution_passes(solved: Path) -> None:
    done = raftlab_in(solved, "test", "2a", "-k", "initial", "--seeds", "2", PYTEST_ADDOPTS="--bad")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("  2/2    A leader is elected, and there is still a leader later ")
    assert "lab 2A: 1 of 1 test passed, 5 of 5 points; 2 runs, " in done.stdout
    assert [path.name for path in (solved / "raftlab-out").iterdir()] == ["results.json"]


def test_a_title_chooses_tests_too(solved: Path) -> None:
    done = raftlab_in(solved, "test", "2A", "-k", "Half of four")
    assert done.stdout.startswith("  PASS   Half of four servers is no majority ")


def test_several_names_choose_the_tests_of_each(solved: Path) -> None:
    done = raftlab_in(solved, "test", "2A", "-k", "cluster_of_one", "-k", "initial")
    assert "lab 2A: 2 of 2 tests passed, " in done.stdout
    done = raftlab_in(solved, "test", "2A", "-k", "initial", "-k", "unknown")
    assert (done.returncode, done.stdout) == (2, "")
    assert "lab 2A has no test with 'unknown' in its name" in done.stderr


@pytest.mark.slow
def test_the_skeleton_fails_quickly_with_a_hint(tmp_path: Path) -> None:
    shutil.copy(SKELETON, tmp_path / "raft.py")
    began = time.monotonic()
    done = raftlab_in(tmp_path, "test", "2A")
    assert time.monotonic() - began < 60
    assert (done.returncode, done.stderr) == (1, "")
    told = [line.strip() for line in done.stdout.splitlines() if re.match(r" {9}\w+@0: ", line)]
    assert len(told) == len(catalogue.tests("2A")) == done.stdout.count("  FAIL   ")
    assert all(re.match(r"\w+@0: expected ", line) for line in told)
    test, _, sentence = told[0].partition(": ")
    assert test == "initial_election@0"
    title = "A leader is elected, and there is still a leader later"
    assert (
        f"\n{title}: failed (initial_election, sim, seed 0; of {len(told)} failing runs, this one says the most)\n"
        f"{sentence}\n" in done.stdout
    )
    assert "\n  replay: raftlab replay initial_election@0 --schedule " in done.stdout
    assert f"\nthe traces of the {len(told)} failing runs are in raftlab-out/\n" in done.stdout
    assert len(list((tmp_path / "raftlab-out").glob("*.jsonl"))) == len(told)


@pytest.mark.slow
def test_replay_prints_the_same_run(tmp_path: Path) -> None:
    shutil.copy(SKELETON, tmp_path / "raft.py")
    raftlab_in(tmp_path, "test", "2A", "-k", "old_messages", "--seeds", "3:4")
    (trace,) = (tmp_path / "raftlab-out").glob("*.jsonl")
    done = raftlab_in(tmp_path, "replay", "old_messages_do_not_calm@3", "--out", "again.jsonl")
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.startswith("   0.000 S0 starts\n")
    header = json.loads(trace.read_text().splitlines()[0])
    assert f"\ntrace {header['hash']}\nthe trace is in again.jsonl\n" in done.stdout
    assert f"(old_messages_do_not_calm, sim, seed 3): failed\n{header['failure']['text']}\n" in done.stdout
    assert (tmp_path / "again.jsonl").read_bytes() == trace.read_bytes()


@pytest.mark.slow
def test_replay_shows_what_was_asked_for(solved: Path) -> None:
    asked = ["--since", "0.4", "--until", "0.7", "--server", "s2", "--topic", "request_vote"]
    done = raftlab_in(solved, "replay", "initial_election@1", *asked)
    shown = done.stdout.partition("\n\n")[0].splitlines()
    assert shown
    for line in shown:
        assert 0.4 <= float(line.split()[0]) <= 0.7
        assert "S2" in line
        assert "RequestVote" in line
    done = raftlab_in(solved, "replay", "initial_election@1", "--topic", "leader")
    assert re.fullmatch(r" +[\d.]+ S\d \[leader\] of term 1 by \[.*\]\n", done.stdout.partition("\n\n")[0] + "\n")


@pytest.mark.slow
def test_replay_of_a_run_that_passes(solved: Path) -> None:
    done = raftlab_in(solved, "replay", "cluster_of_one@1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "(cluster_of_one, sim, seed 1): passed\ntrace " in done.stdout


def children_of(pid: int) -> set[int]:
    found: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            child = int(stat.parent.name)
            found |= {child} | children_of(child)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("network", ["sim", "rpyc"])
def test_an_interrupted_command_leaves_no_processes(solved: Path, network: str) -> None:
    arguments = ("test", "2A", "--network", network, "--seeds", "300", "-k", "cluster_of_one")
    with subprocess.Popen(
        command(*arguments), cwd=solved, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        began = time.monotonic()
        while len(children_of(process.pid)) < 2 and time.monotonic() - began < 30:
            time.sleep(0.05)
        time.sleep(1.5)
        children = children_of(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        # An interrupted command ends within half a second on an idle machine. All 300 runs would take many minutes.
        out, err = process.communicate(timeout=90)
    assert (process.returncode, err) == (130, "")
    assert re.search(r"\ninterrupted: \d+ of 300 runs done\n$", out)
    # The kernel kills the servers' processes when the process that forked them has ended. This takes a moment.
    ended = time.monotonic()
    while (left := [child for child in children if Path(f"/proc/{child}").exists()]) and time.monotonic() - ended < 10:
        time.sleep(0.05)
    assert not left


# --- outputs that cannot be written ---


@pytest.mark.parametrize(
    ("redirection", "code", "error"),
    [
        (">&-", 0, ""),
        (">/dev/full", 2, "raftlab: the output or a file cannot be written: No space left on device\n"),
        (">/dev/full 2>&1", 2, ""),
        ("| true; exit ${PIPESTATUS[0]}", 2, ""),
    ],
)
def test_outputs_that_are_closed_or_full(tmp_path: Path, redirection: str, code: int, error: str) -> None:
    # Python's output is buffered by default, and then errors appear only when it is flushed. We test unbuffered output, too.
    for unbuffered in ("", "1"):
        script = f"{shlex.join(command('labs'))} {redirection}"
        done = subprocess.run(
            ["bash", "-c", script],
            capture_output=True,
            text=True,
            check=False,
            env={**environment(), "PYTHONUNBUFFERED": unbuffered},
        )
        assert (done.returncode, done.stderr) == (code, error)


def test_titles_are_shown_when_python_strips_docstrings(tmp_path: Path) -> None:
    assert "  A leader is elected, and there is still " in raftlab_in(tmp_path, "labs", PYTHONOPTIMIZE="2").stdout


# --- --pdb: a debugger in the student's code ---


def with_line(folder: Path, before: str, line: str) -> None:
    text = (folder / "raft.py").read_text()
    assert text.count(before) == 1
    indent = before[: len(before) - len(before.lstrip())]
    (folder / "raft.py").write_text(text.replace(before, f"{indent}{line}\n{before}"))


@pytest.mark.slow
@pytest.mark.parametrize("where", ['        log("election"', "        self.peers = peers"])
def test_pdb_at_a_breakpoint(solved: Path, where: str) -> None:
    with_line(solved, where, "breakpoint()")
    done = raftlab_in(solved, "test", "2A", "-k", "initial", "--pdb", typed="p 'me', self.me\nn\nq\n")
    assert re.search(r"> .*/raft\.py\(\d+\)(_become_candidate|__init__)\(\)\n-> \w+", done.stdout)
    assert "Quitting debugger" in done.stdout
    assert done.returncode == 130


@pytest.mark.slow
def test_pdb_at_an_exception_of_a_student_thread(solved: Path) -> None:
    with_line(solved, "            self._see_term(reply.term)\n            # The answer", "mine = {}['x']")
    done = raftlab_in(solved, "test", "2A", "-k", "initial", "--pdb", typed="p 'reply', reply.vote_granted\nq\n")
    assert "KeyError: 'x'\n  at raft.py:" in done.stdout
    assert "-> mine = {}['x']\n(Pdb) ('reply', True)" in done.stdout
    assert done.returncode == 1


@pytest.mark.slow
def test_pdb_at_a_failed_expectation(tmp_path: Path) -> None:
    shutil.copy(SKELETON, tmp_path / "raft.py")
    done = raftlab_in(tmp_path, "test", "2A", "-k", "initial", "--pdb", typed="p 'size', c.size\nq\n")
    assert "\n  rule: liveness of elections: " in done.stdout
    assert "-> c.one_leader()\n(Pdb) ('size', 3)" in done.stdout
    assert done.returncode == 1
