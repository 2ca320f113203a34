"""Tests of the sandbox: what each level refuses, and what is reported if a level does not work."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftgrade.engines import commands
from raftgrade.intake import limits as intake_limits
from raftlab.explain.failure import LabFailure
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.messages import protocol
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Sandbox, SandboxUnavailable
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.rpyc_world import RpycWorld
from raftlab.worlds.sim_world import ForkedHost, SimWorld
from tests import ordinary_user
from tests.conftest import ROOT, Write, log_lines
from tests.worlds.test_worlds import alive

BWRAP = levels.probe("bwrap")
needs_bwrap = pytest.mark.skipif(BWRAP.level != "bwrap", reason=BWRAP.reason)
LEVELS = [pytest.param(Sandbox("bwrap"), marks=needs_bwrap, id="bwrap"), pytest.param(Sandbox("rlimits"), id="rlimits")]


def test_the_level_rlimits_works_here() -> None:
    assert levels.probe("rlimits") == Sandbox("rlimits")


@pytest.mark.parametrize("sandbox", LEVELS)
def test_the_levels_work_for_an_ordinary_user(sandbox: Sandbox, tmp_path: Path) -> None:
    if why_not := ordinary_user.why_not():
        pytest.skip(why_not)
    program = f"from raftlab.sandbox import levels; print(levels.probe({sandbox.level!r}))"
    command = ordinary_user.as_ordinary_user([sys.executable, "-P", "-c", program], tmp_path)
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False)
    assert done.stdout == f"Sandbox(level={sandbox.level!r}, reason='')\n", done.stderr


def test_what_is_chosen_without_bubblewrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    why = "bubblewrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)"
    assert levels.choose("auto", trusted=True) == Sandbox("rlimits", why)
    assert levels.choose("rlimits") == Sandbox("rlimits", "asked for")
    assert levels.choose("none") == Sandbox("none", "asked for")
    for choice, words in (
        ("bwrap", f"--sandbox bwrap is not available here: {why}"),
        ("auto", f"the sandbox for other people's code does not work here: {why}. With --sandbox rlimits "),
    ):
        with pytest.raises(SandboxUnavailable) as caught:
            levels.choose(choice)
        assert str(caught.value).startswith(words)


def fake_bwrap(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Let ``PATH`` find a shell script instead of bubblewrap."""
    (folder / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "bwrap").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_a_bubblewrap_that_does_not_start_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_bwrap(tmp_path, monkeypatch, "echo 'bwrap: No permissions to create new namespace' >&2; exit 1")
    assert levels.choose("auto", trusted=True) == Sandbox(
        "rlimits", "bubblewrap does not work here: bwrap: No permissions to create new namespace"
    )


@needs_bwrap
def test_a_sandbox_with_a_hole_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out = 'for word in "$@"; do shift; [ "$word" = --clearenv ] || set -- "$@" "$word"; done'
    fake_bwrap(tmp_path, monkeypatch, f'{leave_out}; exec {shutil.which("bwrap")} "$@"')
    reason = "bubblewrap is not safe here: a process in the sandbox could read the environment"
    assert levels.probe("bwrap") == Sandbox("none", reason)


def world_in(host: WarmHost, name: str) -> Any:
    """A new world. ``name`` is ``"rpyc"``; ``"sim"``, whose run is forked by the warm host; or ``"prepared"``, a simulator
    whose run is forked by the prepared host."""
    if name == "rpyc":
        return RpycWorld(host)
    incarnations = {"raft": 1} if name == "prepared" else None
    if incarnations:
        ForkedHost(host, 0, "none", incarnations).close()
    world = SimWorld(ForkedHost(host, 0, "none", incarnations), MIN_DELAY)
    assert (host._prepared is not None) == (name == "prepared")
    return world


def output(path: Path, sandbox: Sandbox, world: str) -> list[str]:
    """The lines that a server prints within 0.3 s, followed by the text of the failure, if there is one."""
    with WarmHost(path, sandbox) as host:
        new_world = world_in(host, world)
        cluster = Cluster(new_world, "2A", 0, 1)
        failures = []
        try:
            cluster.start_all()
            cluster.sleep(0.3)
        except LabFailure as failure:
            failures = [failure.failure.text]
        finally:
            new_world.close()
        return [event.text for event in log_lines(cluster)] + failures


# A function for the submissions: it makes an attempt, and prints the result or the exception.
ATTEMPT = """
def attempt(what, action):
    try:
        result = action()
    except BaseException as exc:
        result = f"{type(exc).__name__} {getattr(exc, 'strerror', '')}"
    print(what, result)
"""


@pytest.mark.parametrize("sandbox", LEVELS)
def test_a_server_cannot_escape(write_raft: Write, sandbox: Sandbox) -> None:
    code = """
        import os, socket, ctypes
        attempt("fork", os.fork)
        attempt("run", lambda: os.execv("/bin/sh", ["sh"]))
        attempt("kill all", lambda: os.kill(-1, 0))
        attempt("kill the host", lambda: os.kill(os.getppid(), 0))
        attempt("socket", socket.socket)
        attempt("memory", lambda: bytearray(9 << 30))
        attempt("thread", lambda: threading.Thread(target=len, args=[()]).start())
        import stat
        def is_socket(fd):
            try:
                return stat.S_ISSOCK(os.fstat(fd).st_mode)
            except OSError:
                return False
        judge = next(fd for fd in range(3, 50) if is_socket(fd))
        copy = socket.socket(fileno=os.dup(judge))
        attempt("disconnect", lambda: ctypes.CDLL(None, use_errno=True).connect(judge, bytes(16), 16) or "done")
        attempt("reconnect", lambda: copy.connect(("127.0.0.1", 9)))
        attempt("fast open", lambda: copy.sendto(b"", socket.MSG_FASTOPEN, ("127.0.0.1", 9)))
        attempt("host's limits", lambda: __import__("resource").prlimit(os.getppid() or 2, 7, (1, 1)))
        attempt("unshare", lambda: ctypes.CDLL(None).unshare(0x10000000))
        attempt("shared memory", lambda: ctypes.CDLL(None).shmget(1, 10, 0o1777))
        attempt("user", os.getuid)
    """
    lines = output(write_raft(code, module=ATTEMPT), sandbox, "rpyc")
    not_allowed = "PermissionError Operation not permitted"
    assert len(lines) > 1, lines
    assert lines[:-1] == [
        *(f"fork {not_allowed}", f"run {not_allowed}", f"kill all {not_allowed}", f"kill the host {not_allowed}"),
        *(f"socket {not_allowed}", "memory MemoryError ", "thread None", "disconnect -1", f"reconnect {not_allowed}"),
        *(f"fast open {not_allowed}", f"host's limits {not_allowed}", "unshare -1", "shared memory -1"),
    ]
    if sandbox.level == "bwrap":
        assert lines[-1] not in ("user 0", f"user {os.getuid() or 0}")


@needs_bwrap
@pytest.mark.parametrize("world", ["sim", "prepared", "rpyc"])
def test_what_a_submission_can_see(
    write_raft: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, world: str
) -> None:
    monkeypatch.setenv("RAFTLAB_SECRET", "key")
    write_raft(name="neighbour")
    solutions = Path(__file__).parents[2] / "solutions" / "raft.py"
    code = f"""
        import os
        attempt("own", lambda: "class Raft" in open("/submission/raft.py").read())
        for path in ({str(tmp_path / "neighbour" / "raft.py")!r}, {str(solutions)!r}, "/etc/passwd", "/proc/1/environ"):
            attempt("read", lambda: open(path).read())
        attempt("write", lambda: open("/submission/raft.py", "a"))
        attempt("write", lambda: open({levels.__file__!r}, "a"))
        attempt("root", lambda: os.listdir("/"))
        attempt("env", lambda: sorted(os.environ))
        attempt("processes", lambda: os.listdir("/proc"))
        attempt("note", lambda: open("/tmp/note", "w").write("fine"))
        attempt("big", lambda: open("/tmp/big", "wb").write(bytes(17 << 20)))
    """
    lines = output(write_raft(code, module=ATTEMPT), Sandbox("bwrap"), world)
    assert lines[0] == "own True"
    assert all(line.startswith(("read FileNotFoundError", "read PermissionError")) for line in lines[1:5]), lines
    refused = ("write OSError Read-only file system", "write PermissionError Permission denied")
    assert all(line in refused for line in lines[5:7]), lines
    assert not {"home", "root", "work"} & set(eval(lines[7].removeprefix("root "))) - root_folders_of_python()
    assert "RAFTLAB_SECRET" not in lines[8]
    assert "HOME" not in lines[8]
    assert lines[9:] == ["processes []", "note 4", "big OSError No space left on device"]


def root_folders_of_python() -> set[str]:
    """Folders at the root that exist only because Python and this package are below them."""
    return {Path(path).parts[1] for path in [*sys.path, sys.base_prefix, levels.__file__] if len(Path(path).parts) > 1}


@needs_bwrap
def test_the_solutions_of_an_installed_package_are_hidden(tmp_path: Path) -> None:
    """An installed wheel has the solutions in the package's own folder, whose modules student code must be able to read."""
    package = tmp_path / "site" / "raftlab"
    shutil.copytree(Path(levels.__file__).parents[1], package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "data" / "solutions").mkdir(parents=True)
    (package / "data" / "solutions" / "raft.py").write_text("the answer")
    script = f"""
import sys
sys.path.insert(0, {str(package.parent)!r})
from pathlib import Path
import subprocess
from raftlab.sandbox import levels
assert levels.__file__.startswith({str(package)!r})
program = "import os, sys; print(os.listdir(sys.argv[1]))"
own = Path({str(tmp_path)!r}, "own"); own.mkdir()
print(subprocess.run(levels.Sandbox("bwrap").python(["-c", program, {str(package / "data")!r}], own), capture_output=True))
"""
    lines = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True).stdout
    assert "stdout=b'[]\\n'" in lines


@pytest.mark.parametrize("sandbox", LEVELS)
def test_closing_a_host_ends_its_processes(write_raft: Write, sandbox: Sandbox) -> None:
    with WarmHost(write_raft(), sandbox) as host:
        forked = ForkedHost(host, 0, "none")
        pid = host.pid(forked._child)
        assert alive(pid)
    assert not alive(pid)
    forked._pipe.close()


def test_a_server_on_the_real_network_is_told_no_seed(write_raft: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    encode = protocol.encode

    def spy(message: Any) -> bytes:
        for part in message if isinstance(message, list) else [message]:
            if isinstance(part, protocol.Boot | protocol.StartChild):
                told.append(part.seed)
        return encode(message)

    monkeypatch.setattr(protocol, "encode", spy)
    output(write_raft(), levels.NONE, "rpyc")
    assert told == [0, 0]


@needs_bwrap
def test_files_do_not_pass_from_one_prepared_run_to_another(write_raft: Write) -> None:
    code = """
        import os
        attempt("before", lambda: os.listdir("/tmp"))
        attempt("note", lambda: open("/tmp/note", "w").write("here"))
        attempt("descriptors", lambda: sum(attempt_silently(os.fstat, fd) is not None for fd in range(50)))
        attempt("end the host", lambda: os.kill(os.getppid(), 9))
        attempt("fork", os.fork)
    """
    silently = "def attempt_silently(action, *args):\n    try: return action(*args)\n    except OSError: return None\n"
    with WarmHost(
        write_raft(code.replace("import os", "import posix as os"), module=ATTEMPT + silently), Sandbox("bwrap")
    ) as host:
        for name in ("prepared", "prepared", "prepared"):
            world = world_in(host, name)
            cluster = Cluster(world, "2A", 0, 1)
            cluster.start_all()
            world.close()
            lines = [event.text for event in log_lines(cluster)]
            not_allowed = "PermissionError Operation not permitted"
            # The five descriptors are the three standard streams and the two ends of pipes that lead to the judge.
            assert [line for line in lines if not line.startswith("before")] == [
                *("note 4", "descriptors 5", f"end the host {not_allowed}", f"fork {not_allowed}")
            ]
            assert "note" not in lines[0]


PREPARED_HOST = """
import ctypes, json, os, signal, socket
from raftlab.sandbox import restrictions
from raftlab.sandbox.levels import Limits
other = os.fork()
if other == 0:
    signal.pause()
restrictions.enter_prepared_host(Limits())
libc = ctypes.CDLL(None, use_errno=True)
found = []
for what, attempt in {
    "run a program": lambda: os.execv("/bin/true", ["true"]),
    "signal": lambda: os.kill(other, 0),
    "signal a thread": lambda: libc.tgkill(other, other, signal.SIGABRT) and 1 / 0,
    "connect": socket.socket,
    "write": lambda: open("/tmp/raftlab-test", "w"),
    "share memory": lambda: __import__("mmap").mmap(-1, 4096),
    "make a namespace": lambda: libc.unshare(0x10000000) and 1 / 0,
    "fork": lambda: os.fork() or os._exit(0),
}.items():
    try:
        attempt()
    except (OSError, ZeroDivisionError):
        continue
    found.append(what)
print(json.dumps(found), flush=True)
"""


def test_a_prepared_host_may_do_hardly_more_than_its_runs() -> None:
    """The prepared host runs student code only to import definitions. The restrictions are for code that manages to do more
    there."""
    command = [sys.executable, "-P", "-c", PREPARED_HOST]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == '["fork"]\n'
        os.killpg(process.pid, signal.SIGKILL)


@needs_bwrap
def test_files_do_not_pass_from_one_server_or_incarnation_to_another(write_raft: Write) -> None:
    code = """
        import os
        attempt("before", lambda: [name for name in os.listdir("/tmp") if name.isdigit()])
        attempt("note", lambda: open(f"/tmp/{me}", "w").write("here"))
        attempt("shm", lambda: open(f"/dev/shm/{me}", "w").write("here"))
    """
    with WarmHost(write_raft(code, module=ATTEMPT), Sandbox("bwrap")) as host:
        for _ in range(2):
            world = RpycWorld(host)
            cluster = Cluster(world, "2A", 0, 3)
            cluster.start_all()
            cluster.crash(0)
            cluster.restart(0)
            cluster.sleep(0.3)
            world.close()
            lines = [event.text for event in log_lines(cluster)]
            assert sorted(line for line in lines if "shm" not in line) == ["before []"] * 4 + ["note 4"] * 4
            assert not any("shm 4" in line for line in lines)


@pytest.mark.slow
@pytest.mark.parametrize("world", ["sim", "prepared", "rpyc"])
@pytest.mark.parametrize("sandbox", LEVELS)
def test_memory_is_limited_for_all_servers_together(
    write_raft: Write, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox, world: str
) -> None:
    limits = sandbox.limits
    assert limits is not None
    lower = msgspec.structs.replace(limits, memory=300 * levels.MIB)
    monkeypatch.setattr(Sandbox, "limits", lower)
    code = "def fill():\n    self.all = []\n    while True: self.all.append(b'x' * (1 << 20)); time.sleep(0.0005)\n"
    path = write_raft(f"{code}threading.Thread(target=fill).start()")
    assert _failure_of(path, sandbox, world).endswith(
        "the process that runs your code used too much memory and was killed"
    )


def _start_and_sleep(cluster: Cluster) -> None:
    """Either of the two steps may fail: on a busy machine, a server may exceed a limit while it starts."""
    cluster.start_all()
    cluster.sleep(20)


def _failure_of(path: Path, sandbox: Sandbox, world: str) -> str:
    """The text of the failure of two servers that run for up to 20 s."""
    with WarmHost(path, sandbox) as host:
        new_world = world_in(host, world)
        cluster = Cluster(new_world, "2A", 0, 2)
        with pytest.raises(LabFailure) as caught:
            _start_and_sleep(cluster)
        new_world.close()
    return caught.value.failure.text


SMALL_THREADS = """
import sys
def start_threads():  # with small stacks, so that address space for a hundred thousand remains
    ctypes = sys.modules["builtins"].__import__("ctypes")
    libc = ctypes.CDLL(None)
    attributes = ctypes.create_string_buffer(256)
    libc.pthread_attr_init(attributes)
    libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(16384))
    while True:
        libc.pthread_create(ctypes.byref(ctypes.c_ulong()), attributes, libc.pause, None)
        time.sleep(0.0005)
"""


@pytest.mark.slow
@pytest.mark.parametrize("world", ["sim", "prepared", "rpyc"])
def test_without_bubblewrap_threads_are_counted(write_raft: Write, monkeypatch: pytest.MonkeyPatch, world: str) -> None:
    sandbox = Sandbox("rlimits")
    limits = sandbox.limits
    assert limits is not None
    monkeypatch.setattr(Sandbox, "limits", msgspec.structs.replace(limits, threads=100))
    path = write_raft("threading.Thread(target=start_threads).start()", module=SMALL_THREADS)
    text = "the process that runs your code started too many threads and was killed"
    assert _failure_of(path, sandbox, world).endswith(text)


@pytest.mark.parametrize("world", ["sim", "prepared", "rpyc"])
def test_without_bubblewrap_nothing_can_be_written(write_raft: Write, tmp_path: Path, world: str) -> None:
    code = f"""
        import os
        attempt("make", lambda: open({str(tmp_path / "made")!r}, "w"))
        attempt("change", lambda: open("raft.py", "r+"))
        attempt("move", lambda: os.rename({str(tmp_path)!r}, {str(tmp_path / "moved")!r}))
        attempt("remove", lambda: os.remove({str(tmp_path / "submission" / "raft.py")!r}))
    """
    lines = output(write_raft(code, module=ATTEMPT), Sandbox("rlimits"), world)
    assert [line.partition(" ")[2] for line in lines] == ["OSError Read-only file system"] * 4


def test_the_handout_states_the_limits() -> None:
    text = (ROOT / "handouts" / "confinement.md").read_text()
    limits = levels.Limits()
    for words in (
        f"{limits.memory // levels.MIB} MB for all servers",
        f"more than {limits.files} files, or computes for more than {limits.cpu_s} s",
        f"more than {limits.threads} threads",
        f"{limits.file_bytes // levels.MIB} MB in a `/tmp` of its own",
        f"{commands.TRACE_QUOTA // 1_000_000} MB are kept per submission",
        f"{intake_limits.MAX_BYTES // 1_000_000} MB, to {intake_limits.MAX_RATIO} times their size",
        f"more than {intake_limits.MAX_FILES} entries",
    ):
        assert words in " ".join(text.split()), words
    assert all(f"| `{level}` |" in text for level in ("bwrap", "rlimits", "none"))


FORKS = """
import os, threading
from raftlab.sandbox import libc
before = os.getpid()
pid = libc.fork(0)
if pid == 0:
    # The C library and Python know the new thread id, and threads, locks and further processes work.
    known = libc._address_of_tid() is not None and threading.get_native_id() == os.getpid() != before
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    further = os.fork()
    if further == 0:
        os._exit(0)
    os._exit(0 if known and os.waitpid(further, 0)[1] == 0 else 1)
print("not known" if pid is None else os.waitpid(pid, 0)[1])
"""


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the call's number is known for these machines only"
)
def test_a_process_forked_by_clone_is_like_any_other() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", FORKS], capture_output=True, text=True, check=False)
    assert done.stdout in ("0\n", "not known\n"), done.stderr  # "not known" is printed if the C library is not glibc


@needs_bwrap
def test_bubblewrap_works_without_the_flags_of_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """If ``libc.fork`` does not work with this C library, the host forks twice instead, with the same result."""
    code = "import raftlab.sandbox.libc as c, raftlab.sandbox.probe as p; c.fork = lambda *given: None; p.main()"
    python = Sandbox.python
    monkeypatch.setattr(
        Sandbox, "python", lambda self, arguments, path: python(self, ["-c", code, *arguments[2:]], path)
    )
    assert levels.probe("bwrap").level == "bwrap"
