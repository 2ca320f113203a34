"""Decides whether the code that a command runs is the user's own, which needs no sandbox."""

from __future__ import annotations

import os
from pathlib import Path

from raftlab.submission import source


def is_own(impl: Path) -> bool:
    """Whether a submission is the user's own working folder. All of this must hold:

    - Its folder is the current folder or is below it.
    - The folder and its Python files belong to the user.
    - It is not in the report of `raftgrade`, which contains copies of other people's submissions.
    - No folder beside it has a ``raft.py`` too, as in a class's folder of submissions.

    Args:
        impl: A ``raft.py`` or the folder that contains it.

    Raises:
        raftlab.submission.source.SubmissionError: There is no submission.
    """
    files = source.find(impl).modules.values()
    path = impl.resolve()
    folder = path if path.is_dir() else path.parent
    here = Path.cwd().resolve()
    if folder != here and here not in folder.parents:
        return False
    if any(
        (above / "report.json").exists() and (above / "submissions").is_dir() for above in (folder, *folder.parents)
    ):
        return False
    if folder != here and any(other.parent != folder for other in folder.parent.glob("*/raft.py")):
        return False
    return all(found.stat().st_uid == os.geteuid() for found in (folder, *files))
