"""Copies submissions: one as it is, or a student's kv.py together with a different Raft (``--raft PATH``).

In the second case the copy has the student's kv.py, the modules that it imports, and all modules of the Raft. A kv.py
beside the Raft is left out. If both sides import a module of the same name and the two files differ, the combination is
refused, because neither side may change what the other imports.
"""

from __future__ import annotations

import filecmp
from pathlib import Path

from raftlab.submission import source
from raftlab.submission.source import ENTRY, Submission, SubmissionError

SERVICE = "kv.py"
_SERVICE_MODULE, _RAFT_MODULE = "kv", "raft"


def copy(path: Path, folder: Path) -> Path:
    """Copy the modules of a submission into ``folder``, which is empty. If someone edits the original while the copy is
    tested, the test does not notice.

    Args:
        path: The submission's file or folder.

    Returns:
        The copy's path: a file if ``path`` is a file, else ``folder``.

    Raises:
        SubmissionError: There is no submission, or it cannot be read. The message is a sentence for the student.
        OSError: ``folder`` cannot be written.
    """
    submission = source.locate(path)
    for name, file in submission.modules.items():
        _copy(file, folder, name, submission, entry=submission.entry.name)
    return folder if path.is_dir() else folder / submission.entry.name


def combine(service: Path, raft: Path, folder: Path) -> None:
    """Write the service's files and the Raft's into ``folder``, which is empty.

    Args:
        service: A kv.py, or the folder that contains it. A raft.py beside it is left out.
        raft: A raft.py, or the folder that contains it.

    Raises:
        SubmissionError: One of them cannot be read, or both import a module of the same name and the files differ. The
            message is a sentence for the student.
        OSError: ``folder`` cannot be written.
    """
    below = source.find(raft)
    above = source.find(service_file(service))
    others = {_SERVICE_MODULE, _RAFT_MODULE} - {below.name}  # may be beside the Raft, but are not part of it
    for name, path in below.modules.items():
        if name not in others:
            _copy(path, folder, name, below, entry=ENTRY)
    needed_below = set(source.imported(below)) - others
    for name in source.imported(above):
        path = above.modules[name]
        if name == _RAFT_MODULE:
            continue  # the contract check reports a service that imports a Raft
        if name in needed_below and not filecmp.cmp(below.modules[name], path, shallow=False):
            shown = above.show(path)
            raise SubmissionError(
                f"{SERVICE} and the Raft below it both import {shown}, and the two files differ: rename yours"
            )
        _copy(path, folder, name, above, entry=SERVICE)


def service_file(service: Path) -> Path:
    """The kv.py that ``service`` names. Raises :class:`SubmissionError` if there is none."""
    file = service / SERVICE if service.is_dir() else service
    if not file.exists():
        raise SubmissionError(f"there is no {SERVICE} in {service}")
    return file


def _copy(path: Path, folder: Path, name: str, submission: Submission, entry: str) -> None:
    target = folder / (entry if name == submission.name else path.relative_to(submission.root))
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise SubmissionError(f"{submission.show(path)} cannot be read: {exc.strerror}") from None
    target.write_bytes(data)
    target.chmod(0o644)  # readable in a sandbox, which may run as another user
