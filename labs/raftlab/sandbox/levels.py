"""The walls: how a process that runs student code is started when a grader runs strangers' work.

Three levels, and every report says which one held:

- ``bwrap``: bubblewrap. Only Python, this package and the one submission can be seen, all of it read-only but for a small
  ``/tmp``; no network, no other process, no environment, an ordinary user; and all of the next level.
- ``rlimits``: limits on memory, files, output and CPU, and a filter of system calls
  (:mod:`raftlab.sandbox.restrictions`): no new processes, no
  connections, no signals to others, no writing. The machine's files can still be read.
- ``none``: nothing, for one's own code.

Nothing here believes what a machine promises: :func:`probe` starts a confined process with the very flags and has it try.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

Level = Literal["bwrap", "rlimits", "none"]
ASKED = ("auto", "bwrap", "none")

MIB = 1 << 20

# Where the submission lies inside.
INSIDE = Path("/submission")

# What a host process imports besides Python's own library.
_PACKAGES = ("raftlab", "msgspec", "greenlet", "rpyc", "plumbum")

# User ids that belong to nobody (systemd gives them out and takes them back): one for each grading process, so that the
# kernel's counts and permissions keep submissions apart.
_USERS = range(61184, 65520)

_PROBE_PATIENCE = 60.0


class CannotConfine(Exception):
    """The level asked for cannot be had here. The message says why, in one sentence."""


class Limits(msgspec.Struct, frozen=True):
    """What a host process and its children may use. ``user``: become that user first (0: stay). ``own_tmp``: each
    child has a ``/tmp`` of its own. ``memory`` is what all servers of a run may hold at a time; ``space`` the addresses of
    a simulated run, ``server_space`` of a server of the real network, whose threads' stacks take room but no memory."""

    user: int = 0
    own_tmp: bool = False
    memory: int = 2048 * MIB
    space: int = 2048 * MIB
    server_space: int = 8192 * MIB
    threads: int = 4096  # 0: not bounded
    files: int = 512
    file_bytes: int = 16 * MIB
    cpu_s: int = 900


class Sandbox(msgspec.Struct, frozen=True):
    """A level, and why it is no better one (for people; empty when nothing is to be said)."""

    level: Level = "none"
    reason: str = ""

    @property
    def limits(self) -> Limits | None:
        """The limits that the host process is to put on itself."""
        if self.level == "none":
            return None
        walls = self.level == "bwrap"
        as_root = walls and os.geteuid() == 0
        return Limits(
            user=_USERS[os.getpid() % len(_USERS)] if as_root else 0,
            own_tmp=walls and not _hidden_by_tmp(),
            # Elsewhere the user's other processes would count, too; and the filter stops new ones anyway.
            threads=4096 if walls else 0,
        )

    def python(self, arguments: Sequence[str], submission: Path) -> list[str]:
        """The command line of a Python with ``arguments`` that can read ``submission``, which it must call
        :meth:`inside`."""
        if self.level != "bwrap":
            return [sys.executable, "-P", *arguments]
        return [*_bwrap(submission), os.path.realpath(sys.executable), "-P", "-s", *arguments]

    def inside(self, submission: Path) -> Path:
        """What the submission is called in there."""
        if self.level != "bwrap":
            return submission
        return INSIDE / submission.name if submission.is_file() else INSIDE


NONE = Sandbox()


def host_environment() -> dict[str, str]:
    """What a host sees of our environment: nothing but what Python needs, and a fixed hash seed, so that the order
    of a set of strings is the same in every run."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "PYTHONPATH") if name in os.environ}
    # Two arenas: each reserves address space, of which a confined process has only so much.
    return {**kept, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}


def choose(asked: str) -> Sandbox:
    """The sandbox for what the command line asked: ``auto`` takes the best that holds here. Raises
    :class:`CannotConfine` when ``bwrap`` was asked for and does not hold."""
    if asked == "none":
        return Sandbox("none", "asked for")
    best = probe("bwrap")
    if best.level == "bwrap":
        return best
    if asked == "bwrap":
        raise CannotConfine(f"--sandbox bwrap cannot be had here: {best.reason}")
    second = probe("rlimits")
    if second.level == "rlimits":
        return Sandbox("rlimits", best.reason)
    return Sandbox("none", f"{best.reason}; and {second.reason}")


def probe(level: Literal["bwrap", "rlimits"]) -> Sandbox:
    """Whether ``level`` holds on this machine: start a process as a host is started and have it try to get out. Gives
    the level, or ``none`` with the reason."""
    if level == "bwrap" and shutil.which("bwrap") is None:
        return Sandbox("none", "bubblewrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)")
    with tempfile.TemporaryDirectory(prefix="raftlab-probe-") as folder, socket.create_server(("127.0.0.1", 0)) as door:
        beside = Path(folder, "beside")
        beside.write_text("a neighbour's work")
        own = Path(folder, "own")
        own.mkdir()
        (own / "raft.py").touch()
        for path in (Path(folder), own, own / "raft.py", beside):
            path.chmod(0o755)
        sandbox = Sandbox(level)
        limits = msgspec.json.encode(sandbox.limits).decode()
        tries = [str(beside), str(door.getsockname()[1]), str(os.getpid())]
        try:
            told = subprocess.run(
                sandbox.python(["-m", "raftlab.sandbox.probe", limits, str(sandbox.inside(own)), *tries], own),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_PATIENCE,
                env={**host_environment(), "RAFTLAB_PROBE": "a secret"},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return Sandbox("none", f"{_NAMES[level]} does not start here ({type(exc).__name__})")
    try:
        got_out = msgspec.json.decode(told.stdout, type=list[str])
    except msgspec.DecodeError:
        last = told.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
        return Sandbox("none", f"{_NAMES[level]} does not work here: {last[0][:200]}")
    # Without walls around the files, these are what the lower level does not promise.
    promised = [what for what in got_out if level == "bwrap" or what not in OPEN_IN_RLIMITS]
    if promised:
        return Sandbox("none", f"{_NAMES[level]} does not hold here: a confined process could {', '.join(promised)}")
    return Sandbox(level)


_NAMES = {"bwrap": "bubblewrap", "rlimits": "the filter of system calls"}

# Words of raftlab.sandbox.probe.
OPEN_IN_RLIMITS: tuple[str, ...] = ("read a file beside the submission", "read the environment", "be root")
OPEN_IN_RLIMITS += ("see other processes",)


def _bwrap(submission: Path) -> list[str]:
    """bubblewrap's command line up to the program. Later mounts go over earlier ones."""
    limits = Sandbox("bwrap").limits
    assert limits is not None
    root = os.path.realpath(submission if submission.is_dir() else submission.parent)
    argv = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"]
    if limits.user:
        # Mounted as root, who may read what the new user may not pass through; the host then becomes that user itself.
        argv += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        argv += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    argv += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "raftlab"]
    for name, value in {**host_environment(), "PATH": "/nowhere", "PYTHONPATH": ":".join(_import_roots())}.items():
        argv += ["--setenv", name, value]
    # First what lies at fixed places: Python or the package may be below one of them.
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]
    argv += ["--remount-ro", "/dev/shm", "--remount-ro", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    trees = _python_trees()
    for folder in sorted({str(above) for path in trees for above in Path(path).parents} - {"/", "/tmp"}):
        argv += ["--perms", "0755", "--dir", folder]  # made on the way they would be root's alone
    for path in trees:
        argv += ["--ro-bind", path, path]
    for link in ("/lib", "/lib32", "/lib64"):
        if os.path.islink(link):
            argv += ["--symlink", os.readlink(link), link]
    data = Path(__file__).parents[1] / "data"
    if data.is_dir():  # an installed package brings the solutions along
        argv += ["--tmpfs", str(data), "--remount-ro", str(data)]
    argv += ["--ro-bind", root, str(INSIDE)]
    # Nothing in there can be written, but what a child mounts for itself (raftlab.sandbox.restrictions).
    return [*argv, "--remount-ro", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _python_trees() -> list[str]:
    """What Python needs to run: its library, shared libraries, site-packages and this package; as bubblewrap should bind
    them, so without what lies in another."""
    wanted = ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
    wanted += [path for path in ("/lib", "/lib32", "/lib64") if not os.path.islink(path)]
    base = os.path.realpath(sys.base_prefix)
    if base not in ("/", "/usr", "/usr/local"):
        wanted.append(base)
    wanted.append(os.path.realpath(sys.executable))
    wanted += _site_packages()
    for name in _PACKAGES:
        wanted.append(_package(name))
    found: list[str] = []
    for path in sorted({path for path in wanted if os.path.exists(path)}):
        if not any(path.startswith(f"{above}/") for above in found):
            found.append(path)
    return found


def _hidden_by_tmp() -> bool:
    """Whether Python or this package lies where a child's own ``/tmp`` would cover it."""
    return any(path.startswith("/tmp/") for path in _python_trees())


def _import_roots() -> list[str]:
    """Where the packages lie, for ``PYTHONPATH``: the virtual environment itself is not known in there."""
    return list(dict.fromkeys([*(os.path.dirname(_package(name)) for name in _PACKAGES), *_site_packages()]))


def _site_packages() -> list[str]:
    return [os.path.realpath(path) for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]


def _package(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return os.path.dirname(os.path.realpath(spec.origin))
