"""`raftlab new`: create a student's folder, with the skeleton, the handouts and a workflow for CI."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from raftlab import labs
from raftlab.submission import starts
from raftlab.tools.arguments import CommandError

# The files of a student's folder besides the Python files.
_FILES = ("README.md", ".gitignore", ".github/workflows/raftlab.yml", ".devcontainer/devcontainer.json")
# Files that name the first lab. If a folder starts at a later lab, they name that lab instead.
_NAME_THE_LAB = (Path("README.md"), Path(".github/workflows/raftlab.yml"))
# Handouts whose names begin with one of these are not for students.
_NOT_FOR_STUDENTS = ("instructor", "proof", "report-schema", "benchmarks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="the folder; it is created if it does not exist")
    parser.add_argument(
        "--from", dest="start", default="", metavar="LAB", help="start at this lab, with the labs before it solved"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def run(arguments: argparse.Namespace) -> int:
    """Create the folder and say what to do next. Returns 0."""
    folder: Path = arguments.dir
    lab = labs.find(arguments.start or next(iter(labs.LABS)))
    for name in new(folder, arguments.force, lab.name):
        print(f"  {folder / name}")
    yours = folder / ("kv.py" if lab.has("service") else "raft.py")
    print(f"Your code goes into {yours}. Start here:  cd {folder} && raftlab test {lab.name}")
    return 0


def new(folder: Path, force: bool = False, start: str = "") -> list[Path]:
    """Copy the starter files into ``folder``.

    Args:
        folder: Created if it does not exist.
        force: Whether to overwrite files that exist.
        start: The lab to start at, with the reference solution of the earlier labs; empty: the first lab.

    Returns:
        The names of the files in the folder.

    Raises:
        CommandError: The folder cannot be created or already has one of the files, or this installation has no start at
            that lab.
        raftlab.labs.UnknownLab: There is no lab ``start``.
    """
    lab = labs.find(start).name if start else next(iter(labs.LABS))
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder} is a file; expected a folder, which may be new")
    try:
        code, files = starts.files(lab), other_files(starts.root())
    except starts.NoStart as exc:
        raise CommandError(str(exc)) from None
    names = [*map(Path, code), *files]
    existing = [str(name) for name in names if os.path.lexists(folder / name)]
    if existing and not force:
        shown = ", ".join(existing[:3]) + (f" and {len(existing) - 3} more" if len(existing) > 3 else "")
        raise CommandError(f"{folder} already has {shown}; choose another folder, or overwrite them with --force")
    try:
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        for file, text in code.items():
            (folder / file).write_text(text, encoding="utf-8")
        if lab != next(iter(labs.LABS)):
            for name in _NAME_THE_LAB:
                text = (folder / name).read_text(encoding="utf-8")
                text = text.replace("2A", lab).replace("lab-2a", f"lab-{lab.lower()}")
                if labs.LABS[lab].has("service"):
                    text = text.replace("in `raft.py`, write", "in `kv.py`, write")
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    return names


def other_files(root: Path) -> dict[Path, Path]:
    """The files besides the code: the name of each in the student's folder, and the file that it is copied from."""
    files = {Path(name): root / "skeleton" / name for name in _FILES}
    # Failures say "read: handouts/...", so a student who installed a wheel needs the handouts beside raft.py.
    handouts = [path for path in sorted((root / "handouts").glob("*.md")) if is_for_students(path)]
    return files | {Path("handouts") / path.name: path for path in handouts}


def is_for_students(handout: Path) -> bool:
    return not handout.name.startswith(_NOT_FOR_STUDENTS)
