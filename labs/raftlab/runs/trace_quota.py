"""The picture hall: which traces of failing runs stay when there is no room for all.

A trace stays when it fits in together with all those that go before it. What goes before what is fixed (the seed, then the
test), so what stays depends on which runs failed and not on when, where or how often it was begun: two gradings keep the
same traces. Low seeds go first so that each test that fails keeps some.
"""

from __future__ import annotations

import os
from pathlib import Path

Place = tuple[int, int]  # of the seed, of the test


class TraceQuota:
    """``most`` bytes of events in ``folder`` (below 0: no end; without a folder no trace is kept). A place that is
    told twice counts once, with its newest trace."""

    def __init__(self, folder: Path | None, most: int) -> None:
        self._folder = folder
        self._most = most
        self._traces: dict[Place, tuple[Path, int]] = {}
        self._bytes = 0
        self._shut: Place | None = None  # this one did not fit, so nothing behind it does

    def folder_for(self, place: Place) -> Path | None:
        """Where the trace of ``place`` goes, ``None`` when it would not stay."""
        return None if self._shut is not None and place >= self._shut else self._folder

    def took(self, place: Place, trace: str) -> list[Place]:
        """The trace of ``place`` is the file ``trace`` in the folder (empty: none was written). Deletes what does not fit
        any more and returns its places. A trace that is not there any more did not fit earlier, unless somebody took the
        whole folder away. Raises ``OSError`` when one cannot be deleted."""
        if self._folder is None or self._most < 0 or not trace:
            return []
        path = self._folder / Path(trace).name
        try:
            size = _weight(path)
        except OSError:
            return self._shut_at(place) if self._folder.exists() else [place]
        self._bytes += size - self._traces.get(place, (path, 0))[1]
        self._traces[place] = path, size
        if self.folder_for(place) is None:
            return self._shut_at(place)
        gone: list[Place] = []
        while self._bytes > self._most:
            gone += self._shut_at(max(self._traces))
        return gone

    def _shut_at(self, place: Place) -> list[Place]:
        """Nothing from ``place`` on stays."""
        self._shut = place if self._shut is None else min(place, self._shut)
        gone = [each for each in self._traces if each >= self._shut]
        for each in gone:
            path, size = self._traces.pop(each)
            self._bytes -= size
            path.unlink(missing_ok=True)
        return gone if place in gone else [*gone, place]


def _weight(trace: Path) -> int:
    """The bytes of its events. The first line counts for nothing: it tells where the submission is, which is not the same
    everywhere."""
    with trace.open("rb") as file:
        file.readline()
        return os.fstat(file.fileno()).st_size - file.tell()
