"""The levels of the sandbox, and how to start a process that runs student code in one of them.

There are three levels, and every report says which one was used:

- ``bwrap``: bubblewrap. A process sees only Python, this package and one submission, all read-only except for a small
  ``/tmp``. It has no network and no environment, sees no other processes, and runs as an ordinary user. All
  restrictions of ``rlimits`` apply too.
- ``rlimits``: limits on memory, files, output and CPU, and a system call filter (:mod:`raftlab.sandbox.restrictions`): no
  new processes, no connections, no signals to others, no writing. The machine's files can still be read.
- ``none``: no restrictions, for your own code.

Whether a level works on this machine is tested, not assumed: :func:`probe` starts a process in the sandbox with the
same flags as a host, and the process tries to get out.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from raftlab.sandbox import libc

Level = Literal["bwrap", "rlimits", "none"]
CHOICES = ("auto", "bwrap", "rlimits", "none")  # the values of the option --sandbox

MIB = 1 << 20

# Paths inside a bubblewrap sandbox: the submission, and the folder in which a child prepares its own `/tmp`.
INSIDE = Path("/submission")
OWN_TMP_STAGE = "/own-tmp"

# The packages that a host process imports besides the standard library.
_PACKAGES = ("raftlab", "msgspec", "greenlet", "rpyc", "plumbum")

# User ids that belong to no one: the range of systemd's dynamic users. Each grading process that runs as root uses one
# of them, so that the operating system's limits and permissions keep submissions apart.
_USERS = range(61184, 65520)

# In seconds. A probe takes longer only if the machine is overloaded.
_PROBE_TIMEOUT = 60.0


class SandboxUnavailable(Exception):
    """The requested level does not work on this machine. The message says why, in one sentence."""


class Limits(msgspec.Struct, frozen=True):
    """The limits of a host process and its children.

    Attributes:
        user: The user id to change to; 0 means no change.
        namespaces: Whether each child gets a process and a mount namespace, with a ``/tmp`` of its own.
        below_tmp: Files and folders below ``/tmp`` that the child's own ``/tmp`` shows too, because Python needs them.
        memory: Bytes of memory that all servers of a run may use together at any time.
        space: Bytes of address space for a simulated run.
        server_space: Bytes of address space for a server on the real network: more than ``space``, because the stacks of
            threads use address space but hardly any memory.
        threads: Number of threads of all children together. With namespaces, the operating system enforces this limit
            for the user. Without namespaces, it would also count the threads of the user's other processes, so the
            warm host counts the threads instead.
        files: Number of open files per process.
        file_bytes: Maximum size of a written file, in bytes.
        cpu_s: CPU seconds per child.
    """

    user: int = 0
    namespaces: bool = False
    below_tmp: tuple[str, ...] = ()
    memory: int = 2048 * MIB
    space: int = 2048 * MIB
    server_space: int = 8192 * MIB
    threads: int = 4096
    files: int = 512
    file_bytes: int = 16 * MIB
    cpu_s: int = 900


class Sandbox(msgspec.Struct, frozen=True):
    """A level, and the reason why no better level is used (human-readable, may be empty)."""

    level: Level = "none"
    reason: str = ""

    @property
    def limits(self) -> Limits | None:
        """The limits that the host process must set for itself; ``None`` at the level ``none``."""
        if self.level == "none":
            return None
        bwrap = self.level == "bwrap"
        as_root = bwrap and os.geteuid() == 0
        return Limits(
            user=_USERS[os.getpid() % len(_USERS)] if as_root else 0,
            namespaces=bwrap,
            below_tmp=_below_tmp() if bwrap else (),
        )

    def python(self, arguments: Sequence[str], submission: Path) -> list[str]:
        """The command line that starts Python in this sandbox.

        Args:
            arguments: Python's arguments.
            submission: A file or folder that the process can read, at the path that :meth:`inside` returns.
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


_INHERITED = ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


def host_environment() -> dict[str, str]:
    """The environment of a host: only what Python needs, and a fixed hash seed. The seed gives a set of strings the
    same order in every run."""
    inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # Only two malloc arenas, because each one reserves address space, which the sandbox limits.
    return {**inherited, "PYTHONHASHSEED": "0", "MALLOC_ARENA_MAX": "2"}


def choose(choice: str, trusted: bool = False) -> Sandbox:
    """The sandbox for one of :data:`CHOICES`.

    Args:
        choice: A level, or ``auto``.
        trusted: Whether the code is known to be harmless. For harmless code, ``auto`` means ``rlimits`` if bubblewrap does
            not work here, and the result says why. For any other code, ``auto`` requires bubblewrap.

    Raises:
        SandboxUnavailable: The level does not work here.
    """
    if choice == "none":
        return Sandbox("none", "asked for")
    best = Sandbox("none")
    if choice != "rlimits":
        best = probe("bwrap")
        if best.level == "bwrap":
            return best
        if choice == "bwrap":
            raise SandboxUnavailable(f"--sandbox bwrap is not available here: {best.reason}")
        if not trusted:
            raise SandboxUnavailable(
                f"the sandbox for other people's code does not work here: {best.reason}. With --sandbox rlimits their code "
                "could read this machine's files; handouts/confinement.md says what else differs"
            )
    second = probe("rlimits")
    if second.level == "rlimits":
        return Sandbox("rlimits", best.reason or "asked for")
    reason = f"{best.reason}; and {second.reason}" if best.reason else second.reason
    raise SandboxUnavailable(f"no sandbox is available here: {reason}. --sandbox none runs the code without any")


def probe(level: Literal["bwrap", "rlimits"]) -> Sandbox:
    """Test whether ``level`` works on this machine: start a process in the same way as a host, and let it try to get
    out of the sandbox. Returns the level, or ``none`` with the reason.

    With ``rlimits``, only root can read this process's memory and environment from now on."""
    if level == "bwrap" and shutil.which("bwrap") is None:
        return Sandbox("none", "bubblewrap is not installed (Debian, Ubuntu: apt-get install bubblewrap)")
    if level == "rlimits":
        try:
            libc.set_dumpable(False)
        except OSError:
            return Sandbox("none", "the system call filter needs Linux")
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
        task = ProbeTask(
            sandbox.limits or Limits(), str(sandbox.inside(own)), str(neighbour), listener.getsockname()[1], os.getpid()
        )
        try:
            result = subprocess.run(
                sandbox.python(["-m", "raftlab.sandbox.probe", msgspec.json.encode(task).decode()], own),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_PROBE_TIMEOUT,
                env={**host_environment(), "RAFTLAB_PROBE": "a secret"},
                start_new_session=True,
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


class ProbeTask(msgspec.Struct, frozen=True):
    """What :mod:`raftlab.sandbox.probe` needs to know.

    Attributes:
        limits: The limits of a host.
        submission: The folder with the host's submission.
        neighbour: A file that a host must not be able to read.
        port: A port on which another process listens.
        judge: The judge's process id.
    """

    limits: Limits
    submission: str
    neighbour: str
    port: int
    judge: int


_NAMES = {"bwrap": "bubblewrap", "rlimits": "the system call filter"}

# Actions that the level rlimits does not prevent, as raftlab.sandbox.probe words them.
POSSIBLE_IN_RLIMITS: tuple[str, ...] = (
    "read a file beside the submission",
    "read our solutions",
    "read the environment",
    "be root",
    "see other processes",
    "see where the submission lies",
)


def _bwrap(submission: Path) -> list[str]:
    """The command line of bubblewrap, without the program to run. Later mounts cover earlier ones."""
    limits = Sandbox("bwrap").limits
    assert limits is not None
    root = os.path.realpath(submission if submission.is_dir() else submission.parent)
    argv = ["bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net", "--unshare-cgroup-try"]
    if limits.user:
        # Root makes the mounts, because the new user might not be able to reach the folders. The host itself changes
        # the user.
        argv += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    else:
        argv += ["--unshare-user", "--uid", "65534", "--gid", "65534"]
    argv += ["--die-with-parent", "--new-session", "--clearenv", "--hostname", "raftlab"]
    for name, value in {**host_environment(), "PATH": "/nowhere", "PYTHONPATH": ":".join(_import_roots())}.items():
        argv += ["--setenv", name, value]
    # The fixed mount points come first: Python or the package may be below one of them.
    argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/dev/shm", "--remount-ro", "/dev/shm"]
    argv += ["--tmpfs", "/dev/pts", "--remount-ro", "/dev/pts"]  # no terminals
    argv += ["--remount-ro", "/dev", "--perms", "1777", "--tmpfs", "/tmp"]
    trees, masks = _visible()
    argv += _bind(trees)
    for path in masks:
        argv += ["--tmpfs", path]
    # The packages may be in a masked folder.
    argv += _bind([_package(name) for name in _PACKAGES])
    for path in masks:
        argv += ["--remount-ro", path]
    if (data := Path(_package("raftlab"), "data")).is_dir():  # an installed package contains the solutions
        argv += ["--tmpfs", str(data), "--remount-ro", str(data)]
    for link in ("/lib", "/lib32", "/lib64"):
        if os.path.islink(link):
            argv += ["--symlink", os.readlink(link), link]
    argv += ["--dir", OWN_TMP_STAGE, "--ro-bind", root, str(INSIDE)]
    # Nothing can be written except in the `/tmp` that each child gets (raftlab.sandbox.restrictions).
    return [*argv, "--remount-ro", "/tmp", "--remount-ro", "/", "--chdir", "/tmp", "--"]


def _bind(paths: Sequence[str]) -> list[str]:
    """bubblewrap's arguments that make files and folders visible, read-only."""
    argv = []
    for folder in sorted({str(above) for path in paths for above in Path(path).parents} - {"/", "/tmp"}):
        argv += ["--perms", "0755", "--dir", folder]  # bubblewrap would make them accessible to root only
    for path in paths:
        argv += ["--ro-bind", path, path]
    return argv


@functools.cache
def _visible() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The files of this machine that a process in bubblewrap sees, besides the packages of a host. Only the files that
    Python needs are visible, because an installed raftlab, which contains the solutions, may be anywhere.

    Returns:
        Visible files and folders, none inside another; and folders inside them that must look empty.
    """
    base = {"base": sys.base_prefix, "platbase": sys.base_prefix}  # the base installation, not a virtual environment
    standard_library = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("stdlib", "platstdlib")}
    wanted = {os.path.realpath(sys.executable), "/etc/ld.so.cache", *standard_library}
    masks = {os.path.join(folder, name) for folder in standard_library for name in ("site-packages", "dist-packages")}
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64"):
        if os.path.islink(folder):
            continue
        if multiarch and os.path.isdir(f"{folder}/{multiarch}"):  # Debian, Ubuntu: all libraries are there
            wanted.add(f"{folder}/{multiarch}")
        elif os.path.isdir(folder):
            wanted.add(folder)
            masks.update(
                below.path
                for below in os.scandir(folder)
                if below.is_dir(follow_symlinks=False)
                and not any(f"{path}/".startswith(f"{below.path}/") for path in wanted)
            )
    # Of the other folders, only the libraries are visible, because these folders may contain other things, too.
    for folder in ("/usr/local/lib", os.path.join(os.path.realpath(sys.base_prefix), sys.platlibdir)):
        wanted.update(str(path) for path in Path(folder).glob("lib*.so*"))
    return _outermost(path for path in wanted if os.path.exists(path)), tuple(sorted(filter(os.path.isdir, masks)))


def _outermost(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that are not inside another of these paths, sorted."""
    found: list[str] = []
    for path in sorted(set(paths)):
        if not any(path.startswith(f"{above}/") for above in found):
            found.append(path)
    return tuple(found)


def _below_tmp() -> tuple[str, ...]:
    """The paths below ``/tmp`` that a process in bubblewrap must see."""
    visible = [*_visible()[0], *map(_package, _PACKAGES)]
    return _outermost(path for path in visible if path.startswith("/tmp/"))


def _import_roots() -> list[str]:
    """The folders of the packages, for ``PYTHONPATH``. In the sandbox, Python does not find the virtual environment by
    itself."""
    return list(dict.fromkeys(os.path.dirname(_package(name)) for name in _PACKAGES))


def _package(name: str) -> str:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    return os.path.dirname(os.path.realpath(spec.origin))
