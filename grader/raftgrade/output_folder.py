"""Claim the folder that a command writes to: it must be new, empty or ours, and no other process may be writing to it."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from raftlab.safe_text import printable

_ELSEWHERE = "choose another folder with --out"


class BadFolder(Exception):
    """A folder does not hold what it should, or cannot be used. The message is one sentence for the user."""


def claim(folder: Path, main_file: str, purpose: str, check: Callable[[Path], None] | None = None) -> BinaryIO:
    """Make ``folder`` if it is not there, and lock it for this process. A folder that is refused is not changed.

    Args:
        folder: new, empty, or written by an earlier command with the same purpose.
        main_file: the name of the file in ``folder`` that is opened and locked.
        purpose: what the folder is for, in messages: ``"report"``, ``"soak"`` or ``"proof"``.
        check: raises :class:`BadFolder` if a folder with files in it is not ours. If there is no ``check``, a folder is ours
            if it has ``main_file``.

    Returns:
        The main file, unbuffered, open for reading and appending. The folder is locked until this file is closed.

    Raises:
        BadFolder: the folder cannot be used; the message says why.
    """
    shown = printable(str(folder))
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise BadFolder(f"the name {shown} is not valid UTF-8; {_ELSEWHERE}") from None
    with usable(folder, purpose):
        if folder.exists() and not folder.is_dir():
            raise BadFolder(f"{shown} is a file; {_ELSEWHERE}")
        if folder.exists() and any(folder.iterdir()):
            try:
                (check or _has(main_file))(folder)
            except BadFolder as exc:
                raise BadFolder(f"{exc}; nothing was changed: {_ELSEWHERE}") from None
        folder.mkdir(parents=True, exist_ok=True)
        # Unbuffered: when write returns, the kernel has the line, so the line is kept even if this process is killed.
        file = (folder / main_file).open("a+b", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as exc:
            file.close()
            if isinstance(exc, BlockingIOError):
                raise BadFolder(f"another raftgrade is writing to {shown}; {_ELSEWHERE}") from None
            raise
        return file


@contextmanager
def usable(folder: Path, purpose: str) -> Iterator[None]:
    """Turn an ``OSError`` of the block into a :class:`BadFolder` that names ``folder`` and its ``purpose``."""
    try:
        yield
    except OSError as exc:
        raise BadFolder(f"{printable(str(folder))} cannot be used for the {purpose}: {exc.strerror or exc}") from None


def _has(main_file: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        if not (folder / main_file).exists():
            raise BadFolder(f"{printable(str(folder))} holds other files and no {main_file}")

    return check
