"""Tests that a forked job is like one that the grader has started as a process of its own."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftgrade.engines import child_processes, job_fork_server
from raftgrade.engines.child_processes import ChildExit, Children
from raftgrade.engines.commands import environment
from raftgrade.engines.job_fork_server import ForkedProcess, JobForkServer
from raftlab import operating_system
from raftlab.operating_system import children_of
from tests.conftest import SOLUTION

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.system() != "Linux", reason="jobs are forked on Linux only"),
]


def _popen_without_pipes(command: list[str], **options: Any) -> ForkedProcess:
    """Start a process as ``subprocess.Popen`` does, which uses a pipe of its own."""
    actions = [(os.POSIX_SPAWN_DUP2, options["stderr"], 2)]
    return ForkedProcess(os.posix_spawn(command[0], command, os.environ, file_actions=actions, setpgroup=0))


PYTEST = [sys.executable, "-P", "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider"]


@pytest.fixture
def server() -> Iterator[JobForkServer]:
    server = JobForkServer(environment())
    yield server
    server.close()


@pytest.fixture
def low_limit_of_descriptors() -> Iterator[int]:
    """Limit the number of descriptors of this process. Returns the limit."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(before, 1024)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, most))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def pytest_of(folder: Path, body: str) -> list[str]:
    """A job that runs ``body`` as a test."""
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    (folder / "test_it.py").write_text(f"import os, random, sys, tempfile, time\ndef test_it():\n{lines}\n")
    return [*PYTEST, "--rootdir", str(folder), str(folder / "test_it.py")]


def listen(server: JobForkServer | None, command: list[str], folder: Path, *, from_stdout: bool = False) -> ChildExit:
    return Children(0, server).listen(
        lambda fd: [*command, str(fd)] if "FD" in command else command,
        on_line=lambda line: False,
        silence_s=60,
        log=folder / "log",
        environment=environment(),
        from_stdout=from_stdout,
    )


def test_a_forked_job_is_a_child_of_the_grader(server: JobForkServer, tmp_path: Path) -> None:
    body = f"assert os.getppid() == {os.getpid()} and os.getpgrp() == os.getpid()"
    assert listen(server, pytest_of(tmp_path, body), tmp_path) == ChildExit("exited", 0)
    assert listen(server, pytest_of(tmp_path, "raise OSError('it is seen')"), tmp_path) == ChildExit("exited", 1)
    assert "OSError: it is seen" in (tmp_path / "log").read_text()
    assert server._usable


def test_a_forked_job_has_only_its_own_descriptors(server: JobForkServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    body = f"os.write({write}, ' '.join(os.listdir('/proc/self/fd')).encode())"
    with (tmp_path / "log").open("wb") as log:
        process = server.start(pytest_of(tmp_path, body), log.fileno(), log.fileno(), write)
    os.close(write)
    assert process is not None
    assert process.wait() == 0, (tmp_path / "log").read_text()
    with open(read, "rb") as pipe:
        numbers = set(map(int, pipe.read().split()))
    # pytest has copies of the standard streams, and listing the folder needs one more descriptor.
    assert {0, 1, 2, write} <= numbers
    assert len(numbers) < 10


def test_a_forked_job_gets_the_highest_descriptor(
    server: JobForkServer, tmp_path: Path, low_limit_of_descriptors: int
) -> None:
    read, write = os.pipe()
    number = os.dup2(write, low_limit_of_descriptors - 1)
    with (tmp_path / "log").open("wb") as log:
        process = server.start(pytest_of(tmp_path, f"os.write({number}, b'seen')"), log.fileno(), log.fileno(), number)
    os.close(number)
    os.close(write)
    assert process is not None
    assert process.wait() == 0, (tmp_path / "log").read_text()
    with open(read, "rb") as pipe:
        assert pipe.read() == b"seen"


def test_a_check_prints_the_same(server: JobForkServer, tmp_path: Path) -> None:
    for path, code in ((str(SOLUTION.parent), 0), (str(tmp_path), 2)):
        command = [sys.executable, "-P", "-m", "raftlab.tools.check", path, "--labs", "2A,3A", "--json"]
        started = subprocess.run(command, capture_output=True, check=False)
        with (tmp_path / "out").open("wb") as out, (tmp_path / "err").open("wb") as err:
            forked = server.start(command, out.fileno(), err.fileno(), -1)
        assert forked is not None
        assert (forked.wait(), started.returncode) == (code, code)
        assert (tmp_path / "out").read_bytes() == started.stdout
        assert (tmp_path / "err").read_bytes() == started.stderr


def test_arguments_need_not_be_utf_8(server: JobForkServer, tmp_path: Path) -> None:
    argument = "--junit-prefix=\udcff"
    command = [*pytest_of(tmp_path, f"assert {argument!r} in sys.argv"), argument]
    assert listen(server, command, tmp_path) == ChildExit("exited", 0)
    assert server._usable


def test_forked_jobs_draw_different_random_numbers(server: JobForkServer, tmp_path: Path) -> None:
    """Otherwise two jobs would choose the same names for temporary files."""
    for _ in range(2):
        listen(server, pytest_of(tmp_path, "print('drawn', random.random())"), tmp_path)
    drawn = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("drawn")]
    assert len(set(drawn)) == 2


def test_a_forked_job_is_killed_with_its_group(server: JobForkServer, tmp_path: Path) -> None:
    read, write = os.pipe()
    with (tmp_path / "log").open("wb") as log:
        process = server.start(
            pytest_of(tmp_path, f"os.write({write}, b'started')\nos.fork()\ntime.sleep(600)"), log.fileno(), 2, write
        )
    os.close(write)
    assert process is not None
    with open(read, "rb") as pipe:
        assert pipe.read(7) == b"started"
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert pipe.read() == b""  # no process of the group has the other end open any more


def test_other_commands_are_not_forked(server: JobForkServer) -> None:
    assert server.start([sys.executable, "-c", "pass"], 1, 2, -1) is None
    assert server.start([sys.executable, "-P", "-m", "json.tool"], 1, 2, -1) is None
    assert server._server is None  # it was not even started


def test_jobs_go_on_without_the_fork_server(server: JobForkServer, tmp_path: Path) -> None:
    command = pytest_of(tmp_path, "pass")
    assert listen(server, command, tmp_path).code == 0
    assert server._server is not None
    server._server.kill()
    server._server.wait()
    assert listen(server, command, tmp_path) == ChildExit("exited", 0)
    assert not server._usable
    assert server.start(command, 1, 2, -1) is None


def test_jobs_go_on_if_the_fork_server_does_not_answer(
    server: JobForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = pytest_of(tmp_path, "pass")
    assert listen(server, command, tmp_path).code == 0
    assert server._server is not None
    server._server.send_signal(signal.SIGSTOP)
    monkeypatch.setattr(job_fork_server, "ANSWER_S", 0.1)
    assert listen(server, command, tmp_path) == ChildExit("exited", 0)
    assert not server._usable


@pytest.mark.parametrize("replies", [True, False])
def test_a_forked_process_begins_only_when_the_reply_is_sent(tmp_path: Path, replies: bool) -> None:
    # If the server dies in between, the grader starts the job in another way, and the work must not be done twice.
    ours, theirs = operating_system.message_sockets()
    read, write = os.pipe()
    server = os.fork()
    if server == 0:
        ours.close()
        job_fork_server.libc.fork = lambda flags: os.fork()  # type: ignore[assignment]
        if not replies:
            operating_system.send_message = lambda *_: os._exit(9)
        if job_fork_server._serve(theirs) is not None:
            (tmp_path / "began").touch()
        os._exit(0)
    os.close(write)
    theirs.close()
    request = job_fork_server.Request("pytest", [], -1)
    with open(os.devnull, "r+b") as null, ours, os.fdopen(read) as ends:
        operating_system.send_message(ours, msgspec.msgpack.encode(request), [null.fileno()] * 2)
        if replies:
            assert operating_system.receive_message(ours)[0]
            ours.shutdown(socket.SHUT_RDWR)
        assert ends.read() == ""  # the server and the process that it has forked have ended, or closed this
    os.waitpid(server, 0)
    deadline = time.monotonic() + (10 if replies else 0)
    while not (began := (tmp_path / "began").exists()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert began == replies


@pytest.mark.parametrize(("call", "text"), [(1, "no descriptor"), (2, "no descriptor"), (3, "can't start new thread")])
def test_a_job_that_cannot_be_watched_has_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int, text: str
) -> None:
    calls = []
    pipe = os.pipe

    def pipe_or_fail() -> tuple[int, int]:
        calls.append(1)
        if len(calls) == call:
            raise OSError(errno.EMFILE, "no descriptor")
        return pipe()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(child_processes.os, "pipe", pipe_or_fail)
    if call == 3:
        monkeypatch.setattr(threading.Thread, "start", start)
    monkeypatch.setattr(subprocess, "Popen", _popen_without_pipes)
    ended = listen(None, [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path)
    assert (ended.how, ended.text) == ("not-started", text)


def test_the_grader_can_be_stopped_while_the_fork_server_does_not_answer(server: JobForkServer, tmp_path: Path) -> None:
    command = pytest_of(tmp_path, "pass")
    assert listen(server, command, tmp_path).code == 0
    assert server._server is not None
    server._server.send_signal(signal.SIGSTOP)
    children = Children(0, server)
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(
            children.listen,
            lambda fd: command,
            on_line=lambda line: False,
            silence_s=60,
            log=tmp_path / "log",
            environment=environment(),
        )
        while children._lock.acquire(blocking=False):  # until the thread waits for the fork server
            children._lock.release()
            time.sleep(0.01)
        children.stop()
        assert ended.result().how == "stopped"
    assert children_of(os.getpid()) == []


def test_a_forked_job_that_cannot_lead_a_group_is_replaced(
    server: JobForkServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(pid: int, group: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "setpgid", refuse)
    assert listen(server, pytest_of(tmp_path, "pass"), tmp_path) == ChildExit("exited", 0)
    assert not server._usable
    assert children_of(os.getpid()) == []


def test_an_environment_of_another_kind_is_not_forked(server: JobForkServer, tmp_path: Path) -> None:
    ended = Children(0, server).listen(
        lambda fd: pytest_of(tmp_path, "assert os.environ['MARK'] == 'seen'"),
        on_line=lambda line: False,
        silence_s=60,
        log=tmp_path / "log",
        environment={**environment(), "MARK": "seen"},
    )
    assert ended == ChildExit("exited", 0)
    assert server._server is None


def test_the_fork_server_ends_with_the_grader(tmp_path: Path) -> None:
    script = f"""
import os, signal, time
from raftgrade.engines.job_fork_server import JobForkServer
server = JobForkServer({{**os.environ, "MARK": {str(tmp_path)!r}}})
process = server.start({pytest_of(tmp_path, "pass")!r}, 2, 2, -1)
process.wait()
print(server._server.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True, check=False)
    pid = int(done.stdout)
    for _ in range(1000):
        with contextlib.suppress(FileNotFoundError):
            if (
                Path(f"/proc/{pid}/cmdline").read_bytes()
                and "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
            ):
                time.sleep(0.01)
                continue
        return
    pytest.fail(f"the fork server {pid} goes on without its grader")


def test_waiting_tells_how_a_process_ended() -> None:
    pid = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", "raise SystemExit(7)"])
    assert ForkedProcess(pid).wait() == 7
