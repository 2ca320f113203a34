"""A quota for traces: which traces of failing runs are kept if all of them together are too large.

Traces have a fixed order: by seed, then by test. A trace is kept if it fits into the quota together with all traces
before it. So which traces are kept depends only on which runs failed, not on when, where or how often they were
performed. Low seeds come first so that each failing test keeps some traces.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

Place = tuple[int, int]
"""A trace's place in the order: its seed, and the number of its test."""


class _Header(msgspec.Struct):
    """The part of a trace's first line that counts towards the quota."""

    failure: msgspec.Raw = msgspec.Raw()


class TraceQuota:
    """The traces in one folder."""

    def __init__(self, folder: Path | None, most: int) -> None:
        """
        Args:
            folder: Where the traces are. ``None``: no trace is kept.
            most: How many bytes of events and failures to keep. Below 0: no limit.
        """
        self._folder = folder
        self.most = most
        self._traces: dict[Place, tuple[Path, int]] = {}
        self._bytes = 0
        self._first_out: Place | None = None  # this trace did not fit, so no later one is kept

    def folder_for(self, place: Place) -> Path | None:
        """The folder for the trace of ``place``; ``None`` if it would not be kept."""
        return None if self._first_out is not None and place >= self._first_out else self._folder

    def took(self, place: Place, trace: str) -> list[Place]:
        """Count a trace that was written, and delete the traces that no longer fit.

        Args:
            place: The trace's place. If there was a trace at this place before, that trace no longer counts.
            trace: The file's name or path; only its name counts. Empty: no trace was written.

        Returns:
            The places of the traces that are gone. If the folder exists but the file of ``trace`` does not, the trace
            was deleted earlier because it did not fit.

        Raises:
            OSError: A file cannot be deleted.
        """
        if self._folder is None or self.most < 0 or not trace:
            return []
        path = self._folder / Path(trace).name
        try:
            size = _weight(path)
        except OSError:
            return self._drop_from(place) if self._folder.exists() else [place]
        self._bytes += size - self._traces.get(place, (path, 0))[1]
        self._traces[place] = path, size
        if self.folder_for(place) is None:
            return self._drop_from(place)
        gone: list[Place] = []
        while self._bytes > self.most:
            gone += self._drop_from(max(self._traces))
        return gone

    def _drop_from(self, place: Place) -> list[Place]:
        """Delete the trace of ``place`` and all traces after it. Returns their places."""
        self._first_out = place if self._first_out is None else min(place, self._first_out)
        gone = [each for each in self._traces if each >= self._first_out]
        for each in gone:
            path, size = self._traces.pop(each)
            self._bytes -= size
            path.unlink(missing_ok=True)
        return gone if place in gone else [*gone, place]


def _weight(trace: Path) -> int:
    """The bytes of a trace that count: its events, and the failure in its first line. The rest of the first line
    contains the path of the submission, which differs between machines."""
    with trace.open("rb") as file:
        try:
            header = msgspec.json.decode(file.readline(), type=_Header)
        except msgspec.DecodeError:
            header = _Header()
        return os.fstat(file.fileno()).st_size - file.tell() + len(bytes(header.failure))
