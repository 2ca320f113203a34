"""Unpacks a submission's zip file or tar archive. It may be hostile, so names, types, sizes and counts are checked first."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from raftgrade.intake import limits
from raftgrade.intake.drafts import TOOL_FOLDERS
from raftgrade.intake.limits import CannotStage
from raftlab.safe_text import printable

_DEVICES = {"con", "prn", "aux", "nul", *(f"{name}{digit}" for name in ("com", "lpt") for digit in range(1, 10))}
_ENCRYPTED = 1  # the bit in a zip entry's flags that says that the entry is encrypted
_END_OF_ZIP = b"PK\x05\x06"
_MAX_DIRECTORY_BYTES = 1_000_000  # the largest list of entries in a zip file, in bytes: 500 for each entry
_LZMA_MEMORY = 100_000_000  # bytes


def unpack(path: Path, place: Path) -> None:
    """Unpack the archive ``path`` into the new folder ``place``. Raises :class:`CannotStage`."""
    size = path.stat().st_size
    what = "the zip file" if path.suffix.lower() == ".zip" else "the archive"
    if size > limits.MAX_ARCHIVE_BYTES:
        raise CannotStage(f"{what} is larger than {limits.MAX_ARCHIVE_BYTES // 1_000_000} MB")
    place.mkdir()
    try:
        if path.suffix.lower() == ".zip":
            _unzip(path, place, size)
        else:
            _untar(path, place)
    except CannotStage:
        raise
    except Exception as exc:
        # For damaged files, zipfile and tarfile may raise BadZipFile, TarError, zlib.error, EOFError, struct.error, ...
        if isinstance(exc, OSError) and exc.errno:
            raise CannotStage(f"{what} cannot be unpacked: {exc.strerror}") from None
        kind = "a zip file" if path.suffix.lower() == ".zip" else "a tar archive"
        raise CannotStage(f"{what} is damaged, or is not {kind}") from None


class _Members:
    """Checks and writes the files of an archive while it is unpacked. ``what`` names the archive in messages."""

    def __init__(self, place: Path, what: str) -> None:
        self._place = place
        self._what = what
        self._remaining = limits.MAX_BYTES
        self._seen: set[str] = set()
        self._entries = 0

    def wanted(self, name: str, is_folder: bool, mode: int) -> str:
        """Check an entry.

        Args:
            name: its path in the archive.
            is_folder: whether it is a folder.
            mode: its file type, as ``stat.S_IFMT`` gives it; 0 if unknown.

        Returns:
            The path at which to unpack the entry, relative to the new folder; empty if the entry is left out.

        Raises:
            CannotStage: the submission is refused because of the entry.
        """
        self._entries += 1
        if self._entries > limits.MAX_FILES:
            raise CannotStage(f"{self._what} has more than {limits.MAX_FILES} entries: hand in the Python files only")
        shown = printable(name)
        path = name.replace("\\", "/")  # some programs on Windows write backslashes
        parts = PurePosixPath(path).parts
        if path.startswith("/") or ".." in parts or ":" in path:
            raise CannotStage(f"{self._what} has a path that leads out of it: {shown}")
        if mode == stat.S_IFLNK:
            raise CannotStage(f"{self._what} has a link in it: {shown}: hand in the file itself")
        if mode not in (0, stat.S_IFREG, stat.S_IFDIR) or any(part.split(".")[0].lower() in _DEVICES for part in parts):
            raise CannotStage(f"{self._what} has something in it that is neither a file nor a folder: {shown}")
        if len(parts) > limits.MAX_DEPTH:
            raise CannotStage(f"it has folders nested more than {limits.MAX_DEPTH} deep")
        tools = any(part.startswith(".") or part in TOOL_FOLDERS for part in parts)
        if is_folder or path.endswith("/") or not parts or tools or not path.isprintable():
            return ""
        target = "/".join(parts)
        if target in self._seen:
            raise CannotStage(f"{self._what} contains {shown} twice")
        self._seen.add(target)
        return target

    def write(self, target: str, file: BinaryIO) -> None:
        """Unpack an entry. Raises :class:`CannotStage` if all entries together are too large."""
        data = file.read(min(self._remaining, limits.MAX_FILE_BYTES) + 1)
        if len(data) > self._remaining:
            raise CannotStage(f"{self._what} unpacks to more than {limits.MAX_BYTES // 1_000_000} MB")
        self._remaining -= len(data)
        (self._place / target).parent.mkdir(parents=True, exist_ok=True)
        (self._place / target).write_bytes(data)


def _unzip(path: Path, place: Path, size: int) -> None:
    what = "the zip file"
    _require_short_directory(path)
    members = _Members(place, what)
    with zipfile.ZipFile(path) as archive:
        infos = archive.infolist()
        total = sum(info.file_size for info in infos)
        if total > limits.MAX_BYTES or (total > limits.RATIO_FROM and total > limits.MAX_RATIO * size):
            raise CannotStage(
                f"{what} has {size} bytes and unpacks to {total}: that is far more than a Raft written by hand needs"
            )
        wanted = {}
        for info in infos:
            target = members.wanted(info.filename, info.is_dir(), stat.S_IFMT(info.external_attr >> 16))
            if info.flag_bits & _ENCRYPTED:
                raise CannotStage(f"{what} is locked with a password: hand it in without one")
            if target:
                wanted[target] = info
        for target, info in wanted.items():
            with archive.open(info) as file:
                members.write(target, file)  # type: ignore[arg-type]


def _require_short_directory(path: Path) -> None:
    """Refuse a zip file with too many entries before its entries are read."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 66_000))
        end = file.read()
    at = end.rfind(_END_OF_ZIP)
    if at >= 0 and int.from_bytes(end[at + 12 : at + 16], "little") > _MAX_DIRECTORY_BYTES:
        raise CannotStage(f"the zip file has more than {limits.MAX_FILES} entries: hand in the Python files only")


def _untar(path: Path, place: Path) -> None:
    members = _Members(place, "the archive")
    with path.open("rb") as file, tarfile.open(fileobj=_Bounded(_decompressed(file)), mode="r|") as archive:
        for info in archive:
            mode = stat.S_IFREG if info.isreg() else stat.S_IFDIR if info.isdir() else stat.S_IFLNK
            if info.isdev():
                mode = stat.S_IFCHR
            target = members.wanted(info.name, info.isdir(), mode)
            content = archive.extractfile(info) if target else None
            if content is not None:
                members.write(target, content)  # type: ignore[arg-type]


def _decompressed(file: BinaryIO) -> io.BufferedIOBase:
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith(b"\xfd7zXZ"):
        data = lzma.LZMADecompressor(memlimit=_LZMA_MEMORY).decompress(file.read(), limits.MAX_BYTES * 2)
        return io.BytesIO(data)
    return io.BufferedReader(file)  # type: ignore[type-var]


class _Bounded(io.RawIOBase):
    """Reads from a stream, up to a limit. (Files that are left out must be decompressed, too, but :class:`_Members` does not
    count their bytes.)"""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self._stream = stream
        self._remaining = 2 * limits.MAX_BYTES

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(self._remaining + 1 if size < 0 else min(size, self._remaining + 1))
        self._remaining -= len(data)
        if self._remaining < 0:
            raise CannotStage(f"the archive unpacks to more than {2 * limits.MAX_BYTES // 1_000_000} MB")
        return data
