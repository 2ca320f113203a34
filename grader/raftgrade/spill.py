"""Spill to disk the submissions whose results are final.

A failed run takes hundreds of bytes in the report, and the first run of each kind of failure takes thousands. A class of
hundreds of students can have hundreds of thousands of failed runs. A submission that was spilled keeps its numbers in
memory, but not its failed runs. The file has no name and disappears with the process; after a kill, the records are counted
again.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec

from raftgrade.results import SubmissionResult

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(SubmissionResult).decode


class SpillFile:
    """Submissions in a file without a name in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed at the end)
        self._places: dict[str, tuple[int, int]] = {}  # by name: offset and length in bytes

    def put(self, submission: SubmissionResult) -> None:
        """Write ``submission`` to the file, and drop from memory its runs that did not pass. A second call does nothing,
        because a spilled submission no longer changes. Raises ``OSError`` (a full disk)."""
        if submission.name in self._places:
            return
        data = _encode(submission)
        place = self._file.seek(0, os.SEEK_END)
        self._file.write(data)
        self._places[submission.name] = place, len(data)
        for test in submission.tests:
            for result in test.networks:
                result.bad = []

    def as_json(self, submission: SubmissionResult) -> bytes:
        """All of ``submission`` as JSON, whether it was spilled or not."""
        if submission.name not in self._places:
            return _encode(submission)
        place, length = self._places[submission.name]
        self._file.seek(place)
        return self._file.read(length)

    def load(self, submission: SubmissionResult) -> SubmissionResult:
        """``submission`` with all its runs. If it was spilled, this is a copy."""
        return _decode(self.as_json(submission)) if submission.name in self._places else submission

    def close(self) -> None:
        self._file.close()
