"""The front gate: which submissions the paths on the command line mean. Nothing of theirs is read or run
here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from raftgrade.text import printable

MAIN = "raft.py"
_NOT_STUDENTS = {"__pycache__", "node_modules", "venv"}


class BadPath(ValueError):
    """A path that names no submission. The message says why."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One student's work. ``name`` is for people, ``slug`` for file names (both unique in a run); ``path`` is
    the file or folder as it was given."""

    name: str
    slug: str
    path: Path


@dataclass(slots=True)
class Found:
    """What the paths gave. ``skipped`` are folders beside submissions that hold no ``raft.py``."""

    submissions: list[Submission] = field(default_factory=list)
    skipped: list[Path] = field(default_factory=list)


def find(paths: Sequence[str | Path], ignore: Path | None = None) -> Found:
    """The submissions under ``paths``: a file, a folder with ``raft.py``, or a folder of such folders.
    ``ignore`` is a folder that is none (where the report goes). A submission named twice counts once. Raises
    :class:`BadPath`."""
    found = Found()
    taken_names: set[str] = set()
    taken_slugs: set[str] = set()
    seen: set[Path] = set()
    for given in map(Path, paths):
        for path in _expand(given, found, ignore):
            real = path.resolve()
            if real in seen:
                continue
            seen.add(real)
            name = _unique(printable(_name(path)), taken_names)
            slug = _unique(re.sub(r"[^A-Za-z0-9._-]", "_", name).strip(".") or "submission", taken_slugs)
            found.submissions.append(Submission(name, slug, path))
    return found


def _expand(path: Path, found: Found, ignore: Path | None) -> list[Path]:
    shown = printable(str(path))
    try:
        if not path.exists():
            raise BadPath(f"there is no {shown}")
        if path.is_file():
            if path.suffix != ".py":
                raise BadPath(f"{shown} is not a Python file: give a raft.py, or a folder with a raft.py in it")
            return [path]
        if _holds_raft(path):
            return [path]
        folders = [
            entry
            for entry in sorted(path.iterdir())
            if entry.is_dir() and not entry.name.startswith(".") and entry.name not in _NOT_STUDENTS
        ]
        if ignore is not None:
            folders = [entry for entry in folders if entry.resolve() != ignore.resolve()]
        inside = [entry for entry in folders if _holds_raft(entry)]
        if not inside:
            raise BadPath(f"there is no raft.py in {shown}, nor in a folder in it")
        found.skipped += [entry for entry in folders if entry not in inside]
    except OSError as exc:
        raise BadPath(f"{shown} cannot be read: {exc.strerror or exc}") from None
    return inside


def _holds_raft(folder: Path) -> bool:
    return (folder / MAIN).is_file()


def _name(path: Path) -> str:
    """A folder's own name; a ``raft.py`` is called after its folder, any other file after itself."""
    real = path.resolve()
    if real.is_file():
        return real.stem if real.name != MAIN else real.parent.name or "raft"
    return real.name or "submission"


def _unique(name: str, taken: set[str]) -> str:
    for candidate in _candidates(name):
        if candidate not in taken:
            taken.add(candidate)
            return candidate
    raise AssertionError("there is always another number")


def _candidates(name: str) -> Iterable[str]:
    yield name
    number = 2
    while True:
        yield f"{name}-{number}"
        number += 1
