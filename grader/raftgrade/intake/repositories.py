"""Fetches the files of one commit of a git repository, without hooks, submodules, credentials or prompts.

Several repositories are fetched at a time. Each has a time limit, so that a slow one does not delay the others for long, and
all repositories of a grading run together have another.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import selectors
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from raftgrade.intake import limits
from raftgrade.intake.limits import CannotStage
from raftlab.safe_text import one_line, printable
from raftlab.time_awake import TimeAwake

REPOSITORY_S = 60.0  # seconds for one repository
ALL_S = 600.0  # seconds for all of them
AT_A_TIME = 8
_MAX_LISTING_BYTES = 1_000_000
_CPU_S = 30
_MEMORY_BYTES = 2_000_000_000
_CHUNK = 1 << 16


class Deadline:
    """The time limits of git: :data:`REPOSITORY_S` for each repository, and :data:`ALL_S` for all of them together. Pauses
    of this process do not count. Several threads may use one object."""

    def __init__(self) -> None:
        self._awake = TimeAwake()
        self._lock = threading.Lock()
        self._ended = False

    def end_now(self) -> None:
        """Stop all git commands that are still running, within a second."""
        self._ended = True

    def for_one(self) -> Callable[[], float]:
        """A function that returns how many seconds are left for a repository that is fetched from now on. One thread may
        call the function, once a second or more often."""
        awake = TimeAwake()
        return lambda: min(REPOSITORY_S - awake.seconds, self._left_s())

    def _left_s(self) -> float:
        with self._lock:
            return 0.0 if self._ended else ALL_S - self._awake.seconds


class _Failed(Exception):
    """A git command did not succeed. The message says why."""


def clone(url: str, commit: str, place: Path, deadline: Deadline) -> str:
    """Fetch a commit into the new folder ``place``. Returns the date of the commit (ISO 8601).

    Args:
        url: the repository's URL.
        commit: the commit's 40 hexadecimal digits, or empty for the latest commit.

    Raises:
        CannotStage: the commit cannot be fetched, is too large, or has links.
    """
    place.mkdir()
    remaining = deadline.for_one()
    scheme = url.partition("://")[0]
    try:
        _git(place, scheme, remaining, "init", "-q")
        _git(place, scheme, remaining, "fetch", "-q", "--depth", "1", "--no-tags", "--", url, commit or "HEAD")
    except _Failed as exc:
        raise CannotStage(f"the repository, or its commit, cannot be fetched: {exc}", ours=True) from None
    try:
        listing = _git(place, scheme, remaining, "ls-tree", "-r", "-l", "-z", "FETCH_HEAD")
        _check(listing)
        _git(place, scheme, remaining, "checkout", "-q", "--force", "--detach", "FETCH_HEAD")
        return _date(place, scheme, remaining)
    except _Failed as exc:
        raise CannotStage(f"the repository's files cannot be read: {exc}") from None


def committed(clone: Path) -> str:
    """The date of the last commit of a clone on this machine (ISO 8601); empty if it cannot be read.

    Git reads the clone as if it were somebody else's repository, so the clone's settings start no program.
    """
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        remaining = Deadline().for_one()
        try:
            _git(place, "file", remaining, "init", "-q", "--bare")
            _git(
                place,
                "file",
                remaining,
                "fetch",
                "-q",
                "--depth",
                "1",
                "--no-tags",
                "--",
                clone.resolve().as_uri(),
                "HEAD",
            )
            return _date(place, "file", remaining)
        except _Failed:
            return ""


def _date(place: Path, scheme: str, remaining: Callable[[], float]) -> str:
    """The date of the commit that was fetched (ISO 8601). Raises :class:`_Failed`."""
    shown = _git(place, scheme, remaining, "log", "-1", "--no-show-signature", "--format=%cI", "FETCH_HEAD")
    return shown.decode(errors="replace").strip()


def _check(listing: bytes) -> None:
    """Refuse a commit with too many or too large files, or with links."""
    lines = [line for line in listing.split(b"\0") if line]
    if len(listing) > _MAX_LISTING_BYTES or len(lines) > limits.MAX_FILES:
        raise CannotStage(f"there are more than {limits.MAX_FILES} files in it: hand in the Python files only")
    total = 0
    for line in lines:
        about, _, name = line.partition(b"\t")
        mode, _, _, size = about.split()
        if mode == b"120000":
            raise CannotStage(f"{printable(os.fsdecode(name))} is a link: hand in the file itself")
        total += int(size) if size.isdigit() else 0
    if total > limits.MAX_BYTES:
        raise CannotStage(
            f"there are more than {limits.MAX_BYTES // 1_000_000} MB in it: hand in the Python files only"
        )


def _git(place: Path, scheme: str, remaining: Callable[[], float], *arguments: str) -> bytes:
    """Run git, and stop it when no time is ``remaining``. Returns git's output; if that is too long, only its beginning.
    Raises :class:`_Failed`."""
    settings = {
        "core.hooksPath": "/dev/null",
        "core.symlinks": "false",
        "core.fsmonitor": "false",
        "credential.helper": "",
        "submodule.recurse": "false",
        "fetch.recurseSubmodules": "false",
        "fetch.fsckObjects": "false",
        "gc.auto": "0",
        "pack.threads": "1",
        "init.templateDir": "",
        "init.defaultBranch": "main",
        "protocol.allow": "never",
        f"protocol.{scheme}.allow": "always",  # so that no redirect leads to another protocol
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    passed = ("PATH", "SSL_CERT_FILE", "https_proxy", "no_proxy")
    environment = {
        **{name: os.environ[name] for name in passed if name in os.environ},
        "HOME": str(place),
        "LC_ALL": "C",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }
    if remaining() <= 0:
        raise _Failed("there was no time left for it")
    try:
        process = subprocess.Popen(
            ["git", *flags, *arguments],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,  # git starts helpers, and all of them must end
        )
    except OSError as exc:
        raise _Failed(f"git cannot be started: {exc.strerror}") from None
    with process:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (4 * limits.MAX_BYTES, 4 * limits.MAX_BYTES))
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
            resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        try:
            output, errors = _read(process, remaining)
            code = process.wait(max(0.1, remaining()))
        except subprocess.TimeoutExpired:
            raise _Failed(f"it takes longer than {REPOSITORY_S:.0f} s") from None
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
    if code and len(output) <= _MAX_LISTING_BYTES:
        raise _Failed(_reason(errors, code))
    return output


def _read(process: subprocess.Popen[bytes], remaining: Callable[[], float]) -> tuple[bytes, bytes]:
    """Read the output of git, and stop git if it prints too much. Raises ``subprocess.TimeoutExpired``."""
    assert process.stdout is not None
    assert process.stderr is not None
    parts: dict[int, bytearray] = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    with selectors.DefaultSelector() as selector:
        for fd in parts:
            selector.register(fd, selectors.EVENT_READ)
        while selector.get_map():
            if remaining() <= 0:
                raise subprocess.TimeoutExpired("git", REPOSITORY_S)
            for key, _ in selector.select(min(1.0, max(0.0, remaining()))):
                data = os.read(key.fd, _CHUNK)
                if not data:
                    selector.unregister(key.fd)
                parts[key.fd] += data
                if len(parts[key.fd]) > _MAX_LISTING_BYTES:
                    process.kill()
                    return bytes(parts[process.stdout.fileno()]), bytes(parts[process.stderr.fileno()][:_CHUNK])
    output, errors = parts.values()
    return bytes(output), bytes(errors)


def _reason(errors: bytes, code: int) -> str:
    """The error message of git, without any password in a URL."""
    lines = [line for line in errors.decode(errors="replace").splitlines() if line.startswith(("fatal: ", "error: "))]
    if any("Authentication failed" in line or "could not read " in line for line in lines):
        return "it does not exist, or needs a password"
    if not lines:
        return "git used too much CPU time, memory or disk space" if code < 0 else f"git ended with code {code}"
    text = re.sub(r"//[^/@\s]*@", "//", lines[0].partition(": ")[2])
    return one_line(text, 200)
