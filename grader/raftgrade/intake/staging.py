"""Copy a submission into the report's folder, and compute its hash.

The copy is what is graded: it does not change after it was hashed, it holds only plain files, and no other submission lies
beside it. No code of a submission runs here. If one cannot be copied, it is refused with a reason, and the others go on.
"""

from __future__ import annotations

import hashlib
import os
import resource
import shutil
import stat
import subprocess
import tempfile
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from raftgrade.intake.submissions import MAIN, TOOL_FOLDERS, Submission
from raftlab.safe_text import printable
from raftlab.submission import source

# Limits on a submission, far above what a Raft written by hand needs.
MAX_FILES = 2000
MAX_BYTES = 50_000_000
MAX_FILE_BYTES = 5_000_000  # a larger file is left out
MAX_ZIP_BYTES = 20_000_000
MAX_RATIO = 100  # a zip file that unpacks to more than so many times its size is a bomb, if it is large (_RATIO_FROM)
_RATIO_FROM = 5_000_000  # bytes
MAX_DEPTH = 20  # of folders
GIT_TIMEOUT_S = 120.0

_PROTOCOLS = ("https", "file")
_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10))}
_ENCRYPTED = 1  # the bit in a zip entry's flags


class CannotStage(Exception):
    """A submission cannot be copied. The message is one sentence for the student. If the machine or the network may be to
    blame (``ours``), the submission is not refused: it could not be judged."""

    def __init__(self, text: str, ours: bool = False) -> None:
        super().__init__(text)
        self.ours = ours


@dataclass(frozen=True, slots=True)
class Staged:
    """The copy of a submission: the path to grade, and the sha256 of its files' names and contents."""

    path: Path
    hash: str


def stage(item: Submission, place: Path, others: Collection[Path] = (), ignore: Path | None = None) -> Staged:
    """Copy a submission.

    Args:
        item: the submission.
        place: the folder for the copy; it is emptied first.
        others: files that are submissions of their own, and no part of this one.
        ignore: a folder that is part of no submission.

    Raises:
        CannotStage: the submission cannot be copied.
    """
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    try:
        if item.kind == "nothing":
            raise CannotStage(item.reason)
        if item.kind == "file":
            entry = _copy_file(item.path, place, others)
            return Staged(place / entry, _hash(place))
        if item.kind == "folder":
            _copy_tree(item.path, place, ignore)
        else:
            with tempfile.TemporaryDirectory(prefix="raftgrade-") as folder:
                unpacked = Path(folder, "unpacked")
                if item.kind == "zip":
                    _unzip(item.path, unpacked)
                else:
                    _clone(item.url, item.commit, unpacked)
                _copy_tree(_top(unpacked, item.kind), place)
    except OSError as exc:
        shutil.rmtree(place)
        raise CannotStage(f"{printable(item.where)} cannot be read: {exc.strerror or exc}", ours=True) from None
    except CannotStage:
        shutil.rmtree(place)
        raise
    return Staged(place, _hash(place))


def _hash(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, content = os.fsencode(path.relative_to(folder)), path.read_bytes()
        digest.update(b"%d %d\n" % (len(name), len(content)) + name + content)
    return digest.hexdigest()


# --- files and folders ---------------------------------------------------------------------------------------------


def _copy_file(path: Path, place: Path, others: Collection[Path]) -> str:
    """Copy a file that was given by its name, and the modules beside it that belong to no other submission."""
    try:
        located = source.find(path)
    except source.SubmissionError as exc:
        raise CannotStage(str(exc)) from None
    foreign = {other.resolve() for other in others} - {located.entry}
    for module in located.modules.values():
        if module.resolve() not in foreign:
            target = place / module.relative_to(located.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            _copy(module, target)
    return located.entry.name


def _copy_tree(root: Path, place: Path, ignore: Path | None = None) -> None:
    files: dict[Path, int] = {}
    for path in _walk(root, ignore and ignore.resolve(), 0):
        shown = printable(path.relative_to(root).as_posix())
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            raise CannotStage(f"{shown} is a link: hand in the file itself")
        if not stat.S_ISREG(info.st_mode):
            raise CannotStage(f"{shown} is neither a file nor a folder")
        if info.st_size <= MAX_FILE_BYTES:
            files[path] = info.st_size
        elif shown == MAIN:
            raise CannotStage(f"{MAIN} is larger than {source.MAX_BYTES // 1000} kB: that is no Raft written by hand")
    if _excess(files):  # data, notes and pictures may be large: the code alone may fit
        files = {path: size for path, size in files.items() if path.suffix == ".py"}
    if excess := _excess(files):
        raise CannotStage(f"there are more than {excess} in it: hand in the Python files only")
    for path in files:
        target = place / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target)


def _excess(files: dict[Path, int]) -> str:
    if len(files) > MAX_FILES:
        return f"{MAX_FILES} files"
    return f"{MAX_BYTES // 1_000_000} MB" if sum(files.values()) > MAX_BYTES else ""


def _walk(folder: Path, ignore: Path | None, depth: int) -> Iterator[Path]:
    """Everything below ``folder`` that is not a folder, except what tools leave behind."""
    if depth > MAX_DEPTH:
        raise CannotStage(f"its folders are more than {MAX_DEPTH} deep")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            tools = entry.name.startswith(".") or entry.name in TOOL_FOLDERS or Path(entry.path, "pyvenv.cfg").exists()
            if not tools and Path(entry.path).resolve() != ignore:
                yield from _walk(Path(entry.path), ignore, depth + 1)
        elif not entry.name.startswith("."):
            yield Path(entry.path)


def _copy(path: Path, target: Path) -> None:
    # Without following links: the file could have become a link after it was checked.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        target.write_bytes(file.read(MAX_FILE_BYTES + 1))
    target.chmod(0o644)


def _top(folder: Path, kind: str) -> Path:
    """Where ``raft.py`` is: in the folder itself, or in the one folder in it that has one."""
    if (folder / MAIN).is_file():
        return folder
    inside = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and (entry / MAIN).is_file()]
    if len(inside) == 1:
        return inside[0]
    what = "the zip file" if kind == "zip" else "the repository"
    if not inside:
        raise CannotStage(f"there is no {MAIN} in {what}, nor in a folder at its top")
    raise CannotStage(
        f"there is more than one {MAIN} in {what}: in {', '.join(printable(entry.name) for entry in inside[:5])}"
    )


# --- zip files -----------------------------------------------------------------------------------------------------


def _unzip(path: Path, place: Path) -> None:
    size = path.stat().st_size
    if size > MAX_ZIP_BYTES:
        raise CannotStage(f"the zip file is larger than {MAX_ZIP_BYTES // 1_000_000} MB")
    place.mkdir()
    try:
        with zipfile.ZipFile(path) as archive:
            members = _members(archive, size)
            remaining = MAX_BYTES
            for name, info in members.items():
                with archive.open(info) as file:
                    data = file.read(min(remaining, MAX_FILE_BYTES) + 1)
                if len(data) > remaining:
                    raise CannotStage(f"the zip file unpacks to more than {MAX_BYTES // 1_000_000} MB")
                remaining -= len(data)
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (place / name).write_bytes(data)
    except CannotStage:
        raise
    except Exception as exc:
        # For damaged files, zipfile may raise BadZipFile, zlib.error, EOFError, struct.error, NotImplementedError.
        if isinstance(exc, OSError) and exc.errno:
            raise CannotStage(f"the zip file cannot be unpacked: {exc.strerror}") from None
        raise CannotStage("the zip file is damaged, or is not a zip file") from None


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The files to unpack, by name. All names are harmless, and their sizes are within the limits."""
    infos = archive.infolist()
    if len(infos) > MAX_FILES:
        raise CannotStage(f"the zip file has more than {MAX_FILES} entries: hand in the Python files only")
    total = sum(info.file_size for info in infos)
    if total > MAX_BYTES or (total > _RATIO_FROM and total > MAX_RATIO * size):
        raise CannotStage(f"the zip file of {size} bytes unpacks to {total}: that is no Raft written by hand")
    members: dict[str, zipfile.ZipInfo] = {}
    for info in infos:
        name, shown = info.filename, printable(info.filename)
        parts = PurePosixPath(name).parts
        kind = stat.S_IFMT(info.external_attr >> 16)
        if name.startswith("/") or ".." in parts or "\\" in name or ":" in name or not parts:
            raise CannotStage(f"the zip file has a path that leads out of it: {shown}")
        if kind == stat.S_IFLNK:
            raise CannotStage(f"the zip file has a link in it: {shown}: hand in the file itself")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR) or any(part.split(".")[0].lower() in _DEVICES for part in parts):
            raise CannotStage(f"the zip file has something in it that is neither a file nor a folder: {shown}")
        if info.flag_bits & _ENCRYPTED:
            raise CannotStage("the zip file is locked with a password: hand it in without one")
        if len(parts) > MAX_DEPTH:
            raise CannotStage(f"its folders are more than {MAX_DEPTH} deep")
        if info.is_dir() or any(part.startswith(".") or part in TOOL_FOLDERS for part in parts):
            continue
        if "/".join(parts) in members:
            raise CannotStage(f"the zip file has {shown} in it twice")
        members["/".join(parts)] = info
    return members


# --- git -----------------------------------------------------------------------------------------------------------


def _clone(url: str, commit: str, place: Path) -> None:
    """Fetch the files of one commit, without hooks, submodules, credentials or prompts."""
    place.mkdir()
    fetched = _git(place, "init", "-q") and _git(
        place, "fetch", "-q", "--depth", "1", "--no-tags", "--", url, commit or "HEAD"
    )
    if not fetched:
        raise CannotStage("the repository, or its commit, cannot be fetched without a password", ours=True)
    listing = _git(place, "ls-tree", "-r", "-l", "-z", "FETCH_HEAD")
    total = 0
    for line in filter(None, (listing or b"").split(b"\0")):
        about, _, name = line.partition(b"\t")
        mode, _, _, size = about.split()
        if mode == b"120000":
            raise CannotStage(f"{printable(os.fsdecode(name))} is a link: hand in the file itself")
        total += int(size) if size.isdigit() else 0
    if total > MAX_BYTES:
        raise CannotStage(f"there are more than {MAX_BYTES // 1_000_000} MB in it: hand in the Python files only")
    if _git(place, "checkout", "-q", "--force", "--detach", "FETCH_HEAD") is None:
        raise CannotStage("the repository's files cannot be checked out", ours=True)


def _git(place: Path, *arguments: str) -> bytes | None:
    """Run git. Returns what it printed (``b"\\n"`` if it printed nothing), or ``None`` if it failed."""
    settings = {
        "core.hooksPath": "/dev/null",
        "core.symlinks": "false",
        "core.fsmonitor": "false",
        "credential.helper": "",
        "submodule.recurse": "false",
        "fetch.recurseSubmodules": "false",
        "init.templateDir": "",
        "init.defaultBranch": "main",
        "protocol.allow": "never",
        **{f"protocol.{name}.allow": "always" for name in _PROTOCOLS},
    }
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    environment = {
        **{
            name: os.environ[name]
            for name in ("PATH", "SSL_CERT_FILE", "https_proxy", "no_proxy")
            if name in os.environ
        },
        "HOME": str(place),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_LFS_SKIP_SMUDGE": "1",
    }

    def bounded() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 * MAX_BYTES, 4 * MAX_BYTES))

    try:
        done = subprocess.run(
            ["git", *flags, *arguments],
            cwd=place,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
            preexec_fn=bounded,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout or b"\n") if done.returncode == 0 else None
