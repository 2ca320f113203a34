"""Copies a submission into the report's folder, and computes its hash.

The grader grades this copy. The copy does not change after it has been hashed, contains only plain files, and has no other
submission beside it. No code of a submission runs here. A submission that cannot be copied is refused with a reason, and the
others are graded.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tempfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raftgrade.intake import archives, limits, repositories
from raftgrade.intake.drafts import ENTRIES, MAIN, SERVICE, SERVICE_ENTRIES, TOOL_FOLDERS
from raftgrade.intake.limits import CannotStage
from raftgrade.intake.submissions import Submission
from raftlab.safe_text import printable
from raftlab.submission import source
from raftlab.submission.combine import combine

__all__ = ["UNPACKING", "CannotStage", "Staged", "stage"]

# The names of temporary folders for unpacking begin in this way. If raftgrade is killed, such a folder may stay, and can be
# deleted.
UNPACKING = ".unpacking-"


@dataclass(frozen=True, slots=True)
class Staged:
    """The copy of a submission: the path to grade, the sha256 of its files' names and contents, and the date of the commit
    (ISO 8601) if it was fetched with git."""

    path: Path
    hash: str
    committed: str = ""


def stage(
    item: Submission,
    place: Path,
    others: Collection[Path] = (),
    ignore: Path | None = None,
    deadline: repositories.Deadline | None = None,
    raft: Path | None = None,
) -> Staged:
    """Copy a submission.

    Args:
        item: the submission.
        place: the folder for the copy; it is emptied first.
        others: files that are separate submissions and do not belong to this one.
        ignore: a folder that is part of no submission.
        deadline: the deadline for git; ``None`` to give this submission a deadline of its own.
        raft: the Raft to put below the submission's ``kv.py``, in place of the submission's own ``raft.py``. A submission
            without a ``kv.py`` is only copied.

    Raises:
        CannotStage: the submission cannot be copied.
    """
    if place.exists():
        shutil.rmtree(place)
    place.mkdir(parents=True)
    committed = ""
    try:
        if item.kind in ("nothing", "absent"):
            raise CannotStage(item.reason, item.given_by_us)
        if item.kind == "file":
            entry = _copy_file(item.path, place, others)
            if raft is not None:
                _put_on(raft, place, place if entry == MAIN else place / entry)
            return Staged(place if raft is not None else place / entry, _hash(place))
        if item.kind == "files":
            for name, path in item.files.items():
                _copy_part(path, place / name)
        elif item.kind == "folder":
            _copy_tree(item.path, place, ignore)
        else:
            with tempfile.TemporaryDirectory(prefix=UNPACKING, dir=place.parent) as folder:
                unpacked = Path(folder, "unpacked")
                if item.kind == "archive":
                    archives.unpack(item.path, unpacked)
                else:
                    committed = repositories.clone(item.url, item.commit, unpacked, deadline or repositories.Deadline())
                _copy_tree(_top(unpacked, item.kind, ENTRIES if raft is None else SERVICE_ENTRIES), place)
        if raft is not None:
            _put_on(raft, place, place)
    except OSError as exc:
        shutil.rmtree(place)
        raise CannotStage(f"{printable(item.where)} cannot be read: {exc.strerror or exc}", ours=True) from None
    except CannotStage:
        shutil.rmtree(place)
        raise
    return Staged(place, _hash(place), committed)


def _put_on(raft: Path, place: Path, service: Path) -> None:
    """Replace the copy in the folder ``place`` with a combination of the copy's ``service`` (a file or folder) and
    ``raft``."""
    if service.is_dir() and not (service / SERVICE).is_file():
        return
    with tempfile.TemporaryDirectory(prefix=UNPACKING, dir=place.parent) as folder:
        combined = Path(folder, "combined")
        combined.mkdir()
        try:
            combine(service, raft, combined)
        except source.SubmissionError as exc:
            raise CannotStage(str(exc)) from None
        shutil.rmtree(place)
        combined.rename(place)


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


def _copy_part(path: Path, target: Path) -> None:
    """Copy one of the files that make up a submission, under the name that its author gave it."""
    if path.stat().st_size <= limits.MAX_FILE_BYTES and target.name.isprintable() and not target.name.startswith("."):
        _copy(path, target)


def _copy_tree(root: Path, place: Path, ignore: Path | None = None) -> None:
    files: dict[Path, int] = {}
    for path in _walk(root, ignore and ignore.resolve(), 0):
        shown = printable(path.relative_to(root).as_posix())
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            raise CannotStage(f"{shown} is a link: hand in the file itself")
        if not stat.S_ISREG(info.st_mode):
            raise CannotStage(f"{shown} is neither a file nor a folder")
        if len(files) > limits.MAX_SEEN:
            raise CannotStage(f"there are more than {limits.MAX_SEEN} files in it: hand in the Python files only")
        if info.st_size <= limits.MAX_FILE_BYTES:
            files[path] = info.st_size
        elif shown == MAIN:
            raise CannotStage(
                f"{MAIN} is larger than {source.MAX_BYTES // 1000} kB: that is far more than a Raft written by hand needs"
            )
    if _excess(files):  # data, notes and pictures may be large, so try the code alone
        files = {path: size for path, size in files.items() if path.suffix == ".py"}
    if excess := _excess(files):
        raise CannotStage(f"there are more than {excess} in it: hand in the Python files only")
    for path in files:
        target = place / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        _copy(path, target)


def _excess(files: dict[Path, int]) -> str:
    if len(files) > limits.MAX_FILES:
        return f"{limits.MAX_FILES} files"
    return f"{limits.MAX_BYTES // 1_000_000} MB" if sum(files.values()) > limits.MAX_BYTES else ""


def _walk(folder: Path, ignore: Path | None, depth: int) -> Iterator[Path]:
    """Every file or link below ``folder``, except those that tools leave behind."""
    if depth > limits.MAX_DEPTH:
        raise CannotStage(f"it has folders nested more than {limits.MAX_DEPTH} deep")
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            tools = entry.name.startswith(".") or entry.name in TOOL_FOLDERS or Path(entry.path, "pyvenv.cfg").exists()
            if not tools and Path(entry.path).resolve() != ignore:
                yield from _walk(Path(entry.path), ignore, depth + 1)
        elif not entry.name.startswith(".") and entry.name.isprintable():
            yield Path(entry.path)


def _copy(path: Path, target: Path) -> None:
    # Do not follow links, because the file may have become a link after it was checked.
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(fd, "rb") as file:
        target.write_bytes(file.read(limits.MAX_FILE_BYTES + 1))
    target.chmod(0o644)


def _top(folder: Path, kind: str, entries: Sequence[str]) -> Path:
    """The folder that contains one of the files ``entries`` (the first of them, if possible). It is ``folder`` itself, or
    the only subfolder with such a file."""
    what = "the archive" if kind == "archive" else "the repository"
    for entry in entries:
        if (folder / entry).is_file():
            return folder
        inside = [each for each in sorted(folder.iterdir()) if each.is_dir() and (each / entry).is_file()]
        if len(inside) > 1:
            raise CannotStage(
                f"there is more than one {entry} in {what}: in {', '.join(printable(each.name) for each in inside[:5])}"
            )
        if inside:
            return inside[0]
    raise CannotStage(f"there is no {entries[0]} in {what}, nor in a folder at its top")
