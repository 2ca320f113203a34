"""Zip archives of installed packages. The same files always give the same bytes."""

from __future__ import annotations

import stat
import zipfile
from importlib import resources
from pathlib import Path
from types import ModuleType

_EPOCH = (2020, 1, 1, 0, 0, 0)  # the date of all files


def package_files(package: ModuleType) -> list[tuple[str, bytes]]:
    """The names and contents of the files of ``package``, without compiled code."""
    folder = Path(str(resources.files(package)))
    return [
        (path.relative_to(folder).as_posix(), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    ]


def add(archive: zipfile.ZipFile, name: str, data: bytes, executable: bool = False) -> None:
    """Add a file to ``archive``."""
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    archive.writestr(entry, data)
