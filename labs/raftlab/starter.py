"""The welcome package of ``raftlab new``: everything a student's folder starts with, copied from the skeleton.

In a wheel the skeleton is data of this package; in a checkout it lies at the root of the repository.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "data", _HERE.parent.parent)
# What `new` brings: folders beside each other in either place, and where their files go.
_PARTS = {"skeleton": ".", "handouts": "handouts"}
_LEFT_OUT = ("__pycache__", "instructor*", "report-schema*")


class CannotStart(Exception):
    """The folder cannot be made. The message is one sentence for the student."""


def new(folder: Path, force: bool = False) -> list[Path]:
    """Copy the starter files into ``folder`` and return them, relative to it. Without ``force`` nothing that exists is
    overwritten. Raises :class:`CannotStart`."""
    files = dict(_starter_files())
    if folder.exists() and not folder.is_dir():
        raise CannotStart(f"{folder} is a file; name a folder, new or empty")
    there = sorted(str(name) for name in files if (folder / name).exists())
    if there and not force:
        shown = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
        raise CannotStart(f"{folder} already has {shown}; choose another folder (--force overwrites them)")
    try:
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as exc:
        raise CannotStart(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    return sorted(files)


def _starter_files() -> Iterator[tuple[Path, Path]]:
    """Each file's name in the student's folder, and where it is copied from."""
    place = next((place for place in _PLACES if (place / "skeleton" / "raft.py").is_file()), None)
    if place is None:
        raise CannotStart("the skeleton is missing from this installation of raftlab; install it again")
    for part, target in _PARTS.items():
        for path in sorted((place / part).rglob("*")):
            name = path.relative_to(place / part)
            if path.is_file() and not any(Path(piece).match(pattern) for piece in name.parts for pattern in _LEFT_OUT):
                yield Path(target) / name, path
