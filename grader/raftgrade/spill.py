"""The shelf: submissions whose results are final, on the disk instead of in memory.

A run that failed is some hundred bytes of the report, the first of its kind some thousand, and a class of hundreds has
hundreds of thousands of them. What is on the shelf keeps its numbers in memory and lets go of its runs. The file has no
name and goes with us: after a kill the records are counted again.
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
    """In a file without a name in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  (closed at the end)
        self._places: dict[str, tuple[int, int]] = {}  # by name: where it begins, how long it is

    def put(self, submission: SubmissionResult) -> None:
        """Take the runs of ``submission`` that did not pass out of memory. Once: what is here does not change any more.
        Raises ``OSError`` (a full disk)."""
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
        """All of ``submission`` as JSON, whether it is here or in memory."""
        if submission.name not in self._places:
            return _encode(submission)
        place, length = self._places[submission.name]
        self._file.seek(place)
        return self._file.read(length)

    def load(self, submission: SubmissionResult) -> SubmissionResult:
        """``submission`` with all its runs, for as long as somebody holds it."""
        return _decode(self.as_json(submission)) if submission.name in self._places else submission

    def close(self) -> None:
        self._file.close()
