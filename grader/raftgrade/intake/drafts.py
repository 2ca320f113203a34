"""Submissions as they are found, before they have unique names, and how to recognise one in a file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from raftgrade.students import Student
from raftlab.safe_text import printable

MAIN = "raft.py"
SERVICE = "kv.py"  # in lab 3
ENTRIES = (MAIN,)  # a folder with any of these files is a submission; it needs the first of them to earn points
SERVICE_ENTRIES = (SERVICE, MAIN)  # these files in place of ENTRIES if every kv.py runs on one given Raft (--raft)
TOOL_FOLDERS = {"__pycache__", "__MACOSX", "node_modules", "venv", "env"}
ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
OTHER_ARCHIVES = (".rar", ".7z", ".gz", ".bz2", ".xz", ".zst", ".z")  # archives that cannot be unpacked

Kind = Literal["file", "folder", "files", "archive", "git", "nothing", "absent"]


class Draft(msgspec.Struct, kw_only=True):
    """A submission before it has its unique names. The attributes are those of :class:`Submission`."""

    kind: Kind
    name: str
    where: str
    path: Path = Path()
    files: dict[str, Path] = {}
    url: str = ""
    commit: str = ""
    reason: str = ""
    given_by_us: bool = False
    students: tuple[Student, ...] = ()
    submitted: str = ""
    prefix: str = ""


def one(path: Path, entries: tuple[str, ...]) -> Draft | None:
    """The submission at ``path``, if ``path`` is a single submission."""
    if path.is_file():
        if path.suffix.lower() == ".py":
            return Draft(kind="file", name=name_of(path), where=str(path), path=path)
        return archive(path)
    if any((path / entry).is_file() for entry in entries):
        return Draft(kind="folder", name=name_of(path), where=str(path), path=path)
    inside = [entry for entry in path.iterdir() if not entry.name.startswith(".")]
    # Moodle puts a submitted archive into a folder.
    if len(inside) == 1 and inside[0].is_file() and (draft := archive(inside[0])):
        folder = path.resolve().parent if not path.name else path
        draft.name, draft.where = name_of(folder), str(path)
        return draft
    return None


def archive(path: Path) -> Draft | None:
    """The submission in an archive. An archive that cannot be unpacked becomes a refused submission, so that the report
    mentions it."""
    name = path.name.lower()
    suffix = next((suffix for suffix in (*ARCHIVES, *OTHER_ARCHIVES) if name.endswith(suffix)), None)
    if suffix is None:
        return None
    stem = path.name[: -len(suffix)] or "submission"
    if suffix in ARCHIVES:
        return Draft(kind="archive", name=stem, where=str(path), path=path)
    reason = f"{printable(path.name)} cannot be unpacked: hand in a folder, a .zip or a .tar.gz"
    return Draft(kind="nothing", name=stem, where=str(path), reason=reason)


def no_entry(names: list[str], entries: tuple[str, ...], place: str) -> str:
    """A sentence saying that a submission lacks its main file. ``names`` are the files that it has."""
    text = f"there is no {entries[0]} in {place}"
    python = sorted(printable(name) for name in names if name.lower().endswith(".py"))
    if python:
        return f"{text}, only {', '.join(python[:5])}: the file must be called {entries[0]}"
    return f"{text}: hand in a file with this name"


def name_of(path: Path) -> str:
    """The name of a folder or file; a ``raft.py`` or ``kv.py`` is named after its folder."""
    real = path.resolve()
    if real.is_file():
        return real.stem if real.name not in (MAIN, SERVICE) else real.parent.name or real.stem
    return real.name or "submission"
