"""The welcome package of ``raftlab new``: what a student's folder starts with.

In a wheel the files are data of this package; in a checkout they lie at the root of the repository.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "data", _HERE.parent.parent)
_FILES = ("raft.py", "README.md", ".gitignore", ".github/workflows/raftlab.yml")


class CannotStart(Exception):
    """The folder cannot be made. The message is one sentence for the student."""


def new(folder: Path, force: bool = False) -> list[Path]:
    """Copy the starter files into ``folder`` and return their names there. Without ``force`` nothing that is
    there is overwritten. Raises :class:`CannotStart`."""
    if folder.exists() and not folder.is_dir():
        raise CannotStart(f"{folder} is a file; name a folder, new or not")
    files = _starter_files()
    there = [str(name) for name in files if os.path.lexists(folder / name)]
    if there and not force:
        shown = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
        raise CannotStart(f"{folder} already has {shown}; choose another folder (--force overwrites)")
    try:
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    except OSError as exc:
        raise CannotStart(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    return list(files)


def _starter_files() -> dict[Path, Path]:
    """Each file's name in the student's folder, and where it is copied from."""
    place = next((place for place in _PLACES if (place / "skeleton" / "raft.py").is_file()), None)
    if place is None:
        raise CannotStart("the skeleton is missing from this installation of raftlab; install it again")
    files = {Path(name): place / "skeleton" / name for name in _FILES}
    # Failures say "read: handouts/...": whoever installed a wheel shall find it beside their raft.py.
    handouts = [path for path in sorted((place / "handouts").glob("*.md")) if not _for_others(path)]
    return files | {Path("handouts") / path.name: path for path in handouts}


def _for_others(handout: Path) -> bool:
    return handout.name.startswith(("instructor", "report-schema"))
