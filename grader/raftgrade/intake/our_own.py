"""Recognises our own files among the submissions: the reference solution and the skeleton. The reference solution may be
graded even where the sandbox for other people's code does not work."""

from __future__ import annotations

from pathlib import Path

import raftlab
from raftgrade.intake.drafts import MAIN, SERVICE
from raftgrade.intake.submissions import FoundSubmissions
from raftgrade.plan import REFERENCE, CannotStart
from raftlab.safe_text import printable
from raftlab.submission import source

_PACKAGE = Path(raftlab.__file__).resolve().parent
# In a checkout our files lie at the root of the repository, in a wheel among the package's data.
_ROOTS = (_PACKAGE.parents[1], _PACKAGE / "data")


def is_reference(given: FoundSubmissions, raft: str | None = None) -> bool:
    """Whether the only submission is the reference of this installation, byte for byte: its ``raft.py`` or ``kv.py``, or
    both, and no other file beside them.

    Args:
        raft: the option ``--raft``: the Raft below a ``kv.py``.
    """
    if raft not in (None, REFERENCE):
        return False
    if len(given.submissions) != 1 or given.submissions[0].kind not in ("folder", "file"):
        return False
    path = given.submissions[0].path
    if path.is_dir():
        files = [entry for entry in path.iterdir() if entry.name != "__pycache__"]
    else:
        # Other files beside these are not loaded, because the reference imports none of them.
        beside = [path.with_name(name) for name in (MAIN, SERVICE)]
        files = [path, *(file for file in beside if file.exists())]
    return all(_is_from("solutions", file) for file in files)


def find_raft(given: str) -> Path:
    """The Raft that ``--raft`` names: a path, or :data:`REFERENCE`. Raises :class:`CannotStart`."""
    path = Path(given)
    if given == REFERENCE:
        path = next((file for root in _ROOTS if (file := root / "solutions" / MAIN).is_file()), Path())
        if path == Path():
            raise CannotStart("this raftlab has no reference solution: name a raft.py with --raft PATH")
    try:
        source.find(path)
    except source.SubmissionError as exc:
        raise CannotStart(f"--raft: {exc}") from None
    return path


def raft_for_zip(given: str) -> tuple[str, dict[str, bytes]]:
    """The Raft that ``--raft`` names, for an autograder's zip whose root is the folder ``source``.

    Returns:
        The argument of ``--raft`` that names this Raft in the zip, and the contents of its files by their names in the zip.

    Raises:
        CannotStart: there is no such Raft.
    """
    path = find_raft(given)
    if given == REFERENCE:
        return REFERENCE, {f"packages/raftlab/data/solutions/{MAIN}": path.read_bytes()}
    located = source.find(path)
    name = name_of_raft(given)
    folder = "raft" if located.entry.name == name else f"raft/{name}"
    files = {f"{folder}/{file.relative_to(located.root).as_posix()}": file for file in located.modules.values()}
    return f"source/raft/{name}", {target: file.read_bytes() for target, file in files.items()}


def name_of_raft(given: str) -> str:
    """The Raft that ``--raft`` names, as reports show it: :data:`REFERENCE`, or the name of the file or folder."""
    path = Path(given).resolve()
    return printable(given if given == REFERENCE else path.parent.name if path.name == MAIN else path.name)


def is_skeleton(file: Path) -> bool:
    """Whether ``file`` is a file of the skeleton, as students get it."""
    return _is_from("skeleton", file)


def _is_from(folder: str, file: Path) -> bool:
    """Whether ``file`` is, byte for byte, the ``raft.py`` or ``kv.py`` in our own ``folder``."""
    if file.name not in (MAIN, SERVICE) or file.is_symlink() or not file.is_file():
        return False
    ours = [root / folder / file.name for root in _ROOTS]
    return any(each.is_file() and each.read_bytes() == file.read_bytes() for each in ours)
