"""The levels of the sandbox, and how to start a process that runs student code in one of them.

There are three levels, and every report says which one was used:

- ``bwrap``: bubblewrap. A process sees only Python, this package and one submission, all read-only except for a small
  ``/tmp``. It has no network and no environment, sees no other processes, and runs as an ordinary user. All restrictions
  of ``rlimits`` apply too.
- ``rlimits``: limits on memory, files, output and CPU, and a system call filter (:mod:`raftlab.sandbox.restrictions`): no
  new processes, no connections, no signals to others, no writing. The machine's files can still be read.
- ``none``: no restrictions, for your own code.

Whether a level works on this machine is tested, not assumed: :func:`probe` starts a process in the sandbox, with the
same flags as a host, and lets it try to get out.
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
CHOICES = ("auto", "bwrap", "none")  # of the option --sandbox

MIB = 1 << 20

# Where the submission is inside a bubblewrap sandbox.
INSIDE = Path("/submission")

# The packages that a host process imports besides the standard library.
_PACKAGES = ("raftlab", "msgspec", "greenlet", "rpyc", "plumbum")

# User ids that belong to no one: the range of systemd's dynamic users. Each grading process that is root uses one of them,
# so that the operating system's limits and permissions keep submissions apart.
_USERS = range(61184, 65520)

# Seconds. If the probe takes longer, the machine is overloaded.
_PROBE_TIMEOUT = 60.0


class SandboxUnavailable(Exception):
    """The requested level does not work on this machine. The message says why, in one sentence."""


class Limits(msgspec.Struct, frozen=True):
    """What a host process and its children may use.

    Attributes:
        user: The user id to change to; 0 means no change.
        own_tmp: Whether each child gets its own ``/tmp``.
        memory: Bytes of memory that all servers of a run together may use at any time.
        space: Bytes of address space for a simulated run.
        server_space: Bytes of address space for a server on the real network. It is larger because the stacks of threads
            use address space but hardly any memory.
        threads: Number of threads of the user; 0 means no limit.
        files: Number of open files per process.
        file_bytes: Maximum size of a written file, in bytes.
        cpu_s: CPU seconds per child.
    """

    user: int = 0
    own_tmp: bool = False
    memory: int = 2048 * MIB
    space: int = 2048 * MIB
    server_space: int = 8192 * MIB
    threads: int = 4096
    files: int = 512
    file_bytes: int = 16 * MIB
    cpu_s: int = 900


class Sandbox(msgspec.Struct, frozen=True):
    """A level, and the reason why it is not a better one (human-readable, may be empty)."""

    level: Level = "none"
    reason: str = ""

    @property
    def limits(self) -> Limits | None:
        """The limits that the host process must set for itself; ``None`` without a sandbox."""
        if self.level == "none":
            return None
        bwrap = self.level == "bwrap"
        as_root = bwrap and os.geteuid() == 0
        return Limits(
            user=_USERS[os.getpid() % len(_USERS)] if as_root else 0,
            own_tmp=bwrap and not python_is_below_tmp(),
            # Without bubblewrap, the limit would count the user's other processes too. The filter refuses new ones anyway.
            threads=4096 if bwrap else 0,
        )

    def python(self, arguments: Sequence[str], submission: Path) -> list[str]:
        """The command line that starts Python in this sandbox.

        Args:
            arguments: Python's arguments.
            submission: A file or folder that the process can read, under the path that :meth:`inside` returns.
        """
        if self.level != "bwrap":
            return [sys.executable, "-P", *arguments]
        return [*_bwrap(submission), os.path.realpath(sys.executable), "-P", "-s", *arguments]

    def inside(self, submission: Path) -> Path:
        """The path of ``submission`` as a process in the sandbox sees it."""
        if self.level != "bwrap":
            return submission
        return INSIDE / submission.name if submission.is_file() else INSIDE


NONE = Sandbox()


def host_environment() -> dict[str, str]:
    """The environment of a host: only what Python needs, and a fixed hash seed, so that a set of strings has the same
    order in every run."""
    inherited = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "PYTHONPATH") if name in os.environ}
    # Only two malloc arenas, because each reserves address space, which the sandbox limits.
    return {**inherited, "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1", "MALLOC_ARENA_MAX": "2"}


def choose(choice: str) -> Sandbox:
    """The sandbox for one of :data:`CHOICES`; ``auto`` means the best level that works here. Raises
    :class:`SandboxUnavailable` if ``bwrap`` was chosen and does not work."""
    if choice == "none":
        return Sandbox("none", "asked for")
    best = probe("bwrap")
    if best.level == "bwrap":
        return best
    if choice == "bwrap":
        raise SandboxUnavailable(f"--sandbox bwrap is not available here: {best.reason}")
    second = probe("rlimits")
    if second.level == "rlimits":
        return Sandbox("rlimits", best.reason)
    return Sandbox("none", f"{best.reason}; and {second.reason}")


def probe(level: Literal["bwrap", "rlimits"]) -> Sandbox:
    """Test whether ``level`` works on this machine: start a process in the way a host is started, and let it try to get
    out. Returns the level, or ``none`` with the reason."""
    if level == "bwrap" and shutil.which("bwrap") is None:
        return Sandbox("none", "bubblewrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)")
    with (
        tempfile.TemporaryDirectory(prefix="raftlab-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        neighbour = Path(folder, "neighbour")
        neighbour.write_text("another submission")
        own = Path(folder, "own")
        own.mkdir()
        (own / "raft.py").touch()
        for path in (Path(folder), own, own / "raft.py", neighbour):
            path.chmod(0o755)
        sandbox = Sandbox(level)
        limits = msgspec.json.encode(sandbox.limits).decode()
        targets = [str(neighbour), str(listener.getsockname()[1]), str(os.getpid())]
        try:
            result = subprocess.run(
                sandbox.python(["-m", "raftlab.sandbox.probe", limits, str(sandbox.inside(own)), *targets], own),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_TIMEOUT,
                env={**host_environment(), "RAFTLAB_PROBE": "a secret"},
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            return Sandbox("none", f"{_NAMES[level]} does not start here ({type(exc).__name__})")
    try:
        possible = msgspec.json.decode(result.stdout, type=list[str])
    except msgspec.DecodeError:
        last = result.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
        return Sandbox("none", f"{_NAMES[level]} does not work here: {last[0][:200]}")
    holes = [action for action in possible if level == "bwrap" or action not in POSSIBLE_IN_RLIMITS]
    if holes:
        return Sandbox("none", f"{_NAMES[level]} is not safe here: a process in the sandbox could {', '.join(holes)}")
    return Sandbox(level)


_NAMES = {"bwrap": "bubblewrap", "rlimits": "the system call filter"}

# What the level rlimits does not prevent, as raftlab.sandbox.probe words it.
POSSIBLE_IN_RLIMITS: tuple[str, ...] = ("read a file beside the submission", "read the environment", "be root")
POSSIBLE_IN_RLIMITS += ("see other processes",)


def _bwrap(submission: Path) -> list[str]:
    """bubblewrap's command line up to the program. Later mounts cover earlier ones."""
    limits = Sandbox("bwrap").limits
    assert limits is not None
    root = os.path.realpath(submission if submission.is_dir() else submission.parent)
    argv = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"]
    if limits.user:
        # Root makes the mounts, as the new user might not be able to reach the folders. The host changes the user itself.
        argv += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        argv += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    argv += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "raftlab"]
    for name, value in {**host_environment(), "PATH": "/nowhere", "PYTHONPATH": ":".join(_import_roots())}.items():
        argv += ["--setenv", name, value]
    # The fixed mount points come first, because Python or the package may be below one of them.
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm"]
    argv += ["--remount-ro", "/dev/shm", "--remount-ro", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    trees = _python_trees()
    for folder in sorted({str(above) for path in trees for above in Path(path).parents} - {"/", "/tmp"}):
        argv += ["--perms", "0755", "--dir", folder]  # bubblewrap would make them accessible to root only
    for path in trees:
        argv += ["--ro-bind", path, path]
    for link in ("/lib", "/lib32", "/lib64"):
        if os.path.islink(link):
            argv += ["--symlink", os.readlink(link), link]
    data = Path(__file__).parents[1] / "data"
    if data.is_dir():  # an installed package contains the solutions
        argv += ["--tmpfs", str(data), "--remount-ro", str(data)]
    argv += ["--ro-bind", root, str(INSIDE)]
    # Nothing can be written except what a child mounts for itself (raftlab.sandbox.restrictions).
    return [*argv, "--remount-ro", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _python_trees() -> list[str]:
    """The folders that Python needs: its library, shared libraries, site-packages and this package, without any folder
    that is inside another."""
    needed = ["/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache"]
    needed += [path for path in ("/lib", "/lib32", "/lib64") if not os.path.islink(path)]
    base = os.path.realpath(sys.base_prefix)
    if base not in ("/", "/usr", "/usr/local"):
        needed.append(base)
    needed.append(os.path.realpath(sys.executable))
    needed += _site_packages()
    for name in _PACKAGES:
        needed.append(_package(name))
    outermost: list[str] = []
    for path in sorted({path for path in needed if os.path.exists(path)}):
        if not any(path.startswith(f"{above}/") for above in outermost):
            outermost.append(path)
    return outermost


def python_is_below_tmp() -> bool:
    """Whether Python or this package is below ``/tmp``, where a child's own ``/tmp`` would hide it."""
    return any(path.startswith("/tmp/") for path in _python_trees())


def _import_roots() -> list[str]:
    """The folders of the packages, for ``PYTHONPATH``: in the sandbox Python does not find the virtual environment."""
    return list(dict.fromkeys([*(os.path.dirname(_package(name)) for name in _PACKAGES), *_site_packages()]))


def _site_packages() -> list[str]:
    return [os.path.realpath(path) for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]


def _package(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return os.path.dirname(os.path.realpath(spec.origin))
