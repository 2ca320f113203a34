"""Tests of the portable alternatives to Linux-only system calls: first each alternative, then whole commands in processes
that lack those calls."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raftlab import operating_system
from tests.conftest import ROOT
from tests.tools.test_cli import environment

PORTABLE = ROOT / "tests" / "portable"


# --- the parts ---


@pytest.mark.parametrize("portable", [False, True])
def test_messages_arrive_whole_and_bring_their_descriptors(portable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if portable:
        monkeypatch.delattr(socket, "SO_PASSCRED")
    ours, theirs = operating_system.message_sockets()
    read, write = os.pipe()
    with ours, theirs:
        operating_system.send_message(ours, b"one", [write])
        operating_system.send_message(ours, b"x" * 20_000)
        data, fds, _ = operating_system.receive_message(theirs, most_fds=8)
        assert data == b"one"
        os.write(fds[0], b"through the copy")
        assert os.read(read, 100) == b"through the copy"
        assert operating_system.receive_message(theirs, most_fds=8)[:2] == (b"x" * 20_000, [])
        operating_system.send_message(theirs, b"two", [write])
        # A process that asks for no descriptors gets none.
        data, none, sender = operating_system.receive_message(ours)
        assert (data, none, sender) == (b"two", [], 0 if portable else os.getpid())
        theirs.close()
        assert operating_system.receive_message(ours)[0] == b""
    for fd in (read, write, *fds):
        os.close(fd)


def test_a_lifeline_ends_a_child_that_is_busy(tmp_path: Path) -> None:
    code = (
        "import os, time; from raftlab import operating_system\n"
        "line = operating_system.Lifeline()\n"
        "if os.fork() == 0:\n"
        "    operating_system.close_all_but([line.fd])\n"
        "    line.watch()\n"
        "    print('begins', os.getpid(), flush=True)\n"
        "    while True: pass\n"
        "time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline().split()[1])
        parent.kill()
    ended = time.monotonic()
    while operating_system.cpu_seconds(pid) and time.monotonic() - ended < 20:
        time.sleep(0.05)
    assert operating_system.cpu_seconds(pid) == 0


@pytest.mark.parametrize(
    ("text", "seconds"), [("0:01.25", 1.25), ("00:02:03", 123), ("1-01:00:00", 90_000), ("", 0), ("TIME", 0)]
)
def test_cpu_times_in_the_notation_of_ps_are_read(text: str, seconds: float) -> None:
    assert operating_system._seconds(text) == seconds


def test_an_orphan_is_ended_and_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    code = "import os, time\npid = os.fork()\nif pid: print(pid)\nelse: os.close(1), os.close(2), time.sleep(60)\n"
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True, timeout=20)
    pid = int(done.stdout)
    operating_system.await_orphan(pid, 10)
    assert operating_system.cpu_seconds(pid) == 0


# --- whole commands, without Linux's system calls ---


def portable_environment() -> dict[str, str]:
    given = environment()
    return {**given, "PYTHONPATH": f"{PORTABLE}:{given['PYTHONPATH']}"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["test", "2A", "-k", "cluster_of_one", "--seeds", "4", "--jobs", "2"], "lab 2A: 1 of 1 test passed"),
        (["test", "2C", "-k", "log_survives", "--network", "both"], "lab 2C: 1 of 1 test passed"),
        (["fuzz", "2B", "--seeds", "3"], "lab 2B: 3 runs in "),
        (["replay", "cluster_of_one@1"], "(cluster_of_one, sim, seed 1): passed"),
    ],
)
def test_commands_without_the_calls_of_linux(tmp_path: Path, arguments: list[str], shown: str) -> None:
    shutil.copy(ROOT / "solutions" / "raft.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "raftlab.cli", *arguments],
        cwd=tmp_path,
        env=portable_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert shown in done.stdout


def test_a_sandbox_needs_linux(tmp_path: Path) -> None:
    code = "from raftlab.sandbox import levels; import sys; print(sys.without_linux, levels.probe('rlimits').reason)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=portable_environment(), capture_output=True, text=True, check=True
    )
    assert done.stdout == "True the system call filter needs Linux\n"
