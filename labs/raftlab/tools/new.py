"""`raftlab new`: make a student's folder, with the skeleton, the handouts and a workflow for CI.

In a wheel the files are data of this package; in a checkout they lie at the root of the repository.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from raftlab import labs
from raftlab.submission import skeleton
from raftlab.tools.arguments import CommandError

HELP = "make a folder to work in"

_PACKAGE = Path(__file__).resolve().parents[1]
_ROOTS = (_PACKAGE / "data", _PACKAGE.parents[1])
_FILES = ("raft.py", "README.md", ".gitignore", ".github/workflows/raftlab.yml")
# Files that name the first lab. In a folder that starts at a later one they name that lab.
_NAME_THE_LAB = (Path("README.md"), Path(".github/workflows/raftlab.yml"))
# Beginnings of the handouts' names that are not for students.
_NOT_FOR_STUDENTS = ("instructor", "proof", "report-schema", "benchmarks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", type=Path, metavar="DIR", help="the folder; it is made if it does not exist")
    parser.add_argument(
        "--from", dest="start", default="", metavar="LAB", help="start at this lab, with the labs before it solved"
    )
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def run(arguments: argparse.Namespace) -> int:
    """Make the folder and say what to do next. Returns 0."""
    folder: Path = arguments.dir
    lab = labs.find(arguments.start or next(iter(labs.LABS))).name
    for name in new(folder, arguments.force, lab):
        print(f"  {folder / name}")
    print(f"Your code goes into {folder / 'raft.py'}. Start here:  cd {folder} && raftlab test {lab}")
    return 0


def new(folder: Path, force: bool = False, start: str = "") -> list[Path]:
    """Copy the starter files into ``folder``.

    Args:
        folder: made if it does not exist.
        force: whether to overwrite files that exist.
        start: the lab to start at, with the reference solution of the labs before it; empty: the first lab.

    Returns:
        The names of the files in the folder.

    Raises:
        CommandError: the folder cannot be made, or has one of the files already.
        raftlab.labs.UnknownLab: there is no lab ``start``.
    """
    lab = labs.find(start).name if start else next(iter(labs.LABS))
    if folder.exists() and not folder.is_dir():
        raise CommandError(f"{folder} is a file; expected a folder, new or not")
    root = _root()
    files = _starter_files(root)
    existing = [str(name) for name in files if os.path.lexists(folder / name)]
    if existing and not force:
        shown = ", ".join(existing[:3]) + (f" and {len(existing) - 3} more" if len(existing) > 3 else "")
        raise CommandError(f"{folder} already has {shown}; choose another folder, or overwrite them with --force")
    try:
        for name, source in files.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        if lab != next(iter(labs.LABS)):
            solution = (root / "solutions" / "raft.py").read_text(encoding="utf-8")
            (folder / "raft.py").write_text(skeleton.generate(solution, lab), encoding="utf-8")
            for name in _NAME_THE_LAB:
                text = (folder / name).read_text(encoding="utf-8")
                text = text.replace("2A", lab).replace("lab-2a", f"lab-{lab.lower()}")
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as exc:
        raise CommandError(f"{exc.filename or folder} cannot be written: {exc.strerror}") from exc
    return list(files)


def _root() -> Path:
    root = next((root for root in _ROOTS if (root / "skeleton" / "raft.py").is_file()), None)
    if root is None:
        raise CommandError("the skeleton is missing from this installation of raftlab; install it again")
    return root


def _starter_files(root: Path) -> dict[Path, Path]:
    """Each file's name in the student's folder, and where it is copied from."""
    files = {Path(name): root / "skeleton" / name for name in _FILES}
    # Failures say "read: handouts/...", so a student who installed a wheel needs them next to raft.py.
    handouts = [path for path in sorted((root / "handouts").glob("*.md")) if is_for_students(path)]
    return files | {Path("handouts") / path.name: path for path in handouts}


def is_for_students(handout: Path) -> bool:
    return not handout.name.startswith(_NOT_FOR_STUDENTS)
