"""The welcome package of ``raftlab new``: what a student's folder starts with.

In a wheel the files are data of this package; in a checkout they lie at the root of the repository.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from raftlab import labs
from raftlab.submission import skeleton

_PACKAGE = Path(__file__).resolve().parents[1]
_PLACES = (_PACKAGE / "data", _PACKAGE.parents[1])
_FILES = ("raft.py", "README.md", ".gitignore", ".github/workflows/raftlab.yml")
# What these say of the first lab is true of any other.
_NAME_THE_LAB = (Path("README.md"), Path(".github/workflows/raftlab.yml"))


class CannotStart(Exception):
    """The folder cannot be made. The message is one sentence for the student."""


def new(folder: Path, force: bool = False, start: str = "") -> list[Path]:
    """Copy the starter files into ``folder`` and return their names there. Who begins at a later lab than the first
    (``start="2B"``) gets the reference solution of the labs before it. Without ``force`` nothing that is there is
    overwritten. Raises :class:`CannotStart`, and :class:`raftlab.labs.UnknownLab` for such a start."""
    lab = labs.find(start).name if start else next(iter(labs.LABS))
    if folder.exists() and not folder.is_dir():
        raise CannotStart(f"{folder} is a file; name a folder, new or not")
    place = _place()
    files = _starter_files(place)
    there = [str(name) for name in files if os.path.lexists(folder / name)]
    if there and not force:
        shown = ", ".join(there[:3]) + (f" and {len(there) - 3} more" if len(there) > 3 else "")
        raise CannotStart(f"{folder} already has {shown}; choose another folder (--force overwrites)")
    try:
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if lab != next(iter(labs.LABS)):
            solution = (place / "solutions" / "raft.py").read_text(encoding="utf-8")
            (folder / "raft.py").write_text(skeleton.generate(solution, lab), encoding="utf-8")
            for name in _NAME_THE_LAB:
                text = (folder / name).read_text(encoding="utf-8")
                text = text.replace("2A", lab).replace("lab-2a", f"lab-{lab.lower()}")
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CannotStart(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    return list(files)


def _place() -> Path:
    place = next((place for place in _PLACES if (place / "skeleton" / "raft.py").is_file()), None)
    if place is None:
        raise CannotStart("the skeleton is missing from this installation of raftlab; install it again")
    return place


def _starter_files(place: Path) -> dict[Path, Path]:
    """Each file's name in the student's folder, and where it is copied from."""
    files = {Path(name): place / "skeleton" / name for name in _FILES}
    # Failures say "read: handouts/...": whoever installed a wheel shall find it beside their raft.py.
    handouts = [path for path in sorted((place / "handouts").glob("*.md")) if not _for_others(path)]
    return files | {Path("handouts") / path.name: path for path in handouts}


def _for_others(handout: Path) -> bool:
    return handout.name.startswith(("instructor", "proof", "report-schema", "benchmarks"))
