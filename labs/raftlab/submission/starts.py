"""The Python files that students start from: the skeleton, or the start of a later lab, in which the earlier labs are
solved.

In a checkout, the files are at the root of the repository; in a wheel, they are among the package's data. A kit for
students (`raftgrade kit`) has no ``solutions/``, only the ``starts/`` that the instructor has put into it.
"""

from __future__ import annotations

from pathlib import Path

from raftlab import labs
from raftlab.submission import skeleton

STARTS = "starts"  # in a kit: it contains a folder for each lab at which students may start
_PACKAGE = Path(__file__).resolve().parents[1]
_ROOTS = (_PACKAGE / "data", _PACKAGE.parents[1])


class NoStart(Exception):
    """There are no files to start from. The message says why, in one sentence for the student."""


def root() -> Path:
    """The folder with ``skeleton/`` and ``handouts/``. Raises :class:`NoStart`."""
    found = next((root for root in _ROOTS if (root / "skeleton" / "raft.py").is_file()), None)
    if found is None:
        raise NoStart("the skeleton is missing from this installation of raftlab; install it again")
    return found


def files(lab: str = "") -> dict[str, str]:
    """The names and texts of the files of a student who starts at ``lab``; empty means the first lab.

    Raises:
        NoStart: This installation has no start at ``lab``.
        OSError: A file cannot be read.
    """
    found = root()
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted((found / "skeleton").glob("*.py"))}
    if lab in ("", next(iter(labs.LABS))):
        return texts
    kept = found / STARTS / lab
    if kept.is_dir():
        return {path.name: path.read_text(encoding="utf-8") for path in sorted(kept.glob("*.py"))}
    if not (found / "solutions").is_dir():
        there = [name for name in labs.LABS if (found / STARTS / name).is_dir()]
        others = f"; it has starts at {', '.join(there)}" if there else ""
        raise NoStart(f"this kit has no start at lab {lab}, because your instructor has not put one into it{others}")
    for name in texts:
        solution = found / "solutions" / name
        if solution.is_file():
            texts[name] = skeleton.generate(solution.read_text(encoding="utf-8"), lab, name=name)
    return texts
