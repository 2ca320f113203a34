"""Which runs failed when they were last performed, kept in ``raftlab-out/results.json`` for ``raftlab test --failed``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

import msgspec

from raftlab.runs.record import Record
from raftlab.tools.arguments import OUTPUT_FOLDER, Target

_VERSION = 1


class FailedRun(msgspec.Struct, frozen=True):
    """A run that did not pass. ``schedule`` is the schedule that it used; empty on the real network."""

    test: str
    network: str
    seed: int
    schedule: str


class _File(msgspec.Struct):
    """The contents of the file: the runs that failed, by submission and lab. A lab is listed as soon as one of its tests has
    been run."""

    version: int = _VERSION
    failed: dict[str, dict[str, list[FailedRun]]] = {}


class LastResults:
    """The results of one submission."""

    def __init__(self, target: Target, folder: Path = OUTPUT_FOLDER) -> None:
        self._path = folder / "results.json"
        self._name = os.path.relpath(target.path) + (f" on {os.path.relpath(target.raft)}" if target.raft else "")

    def failed(self, lab: str) -> list[FailedRun] | None:
        """The runs of ``lab`` that failed; ``None`` if no test of ``lab`` has been run yet."""
        return self._read().failed.get(self._name, {}).get(lab)

    def labs(self) -> list[str]:
        """The labs of which tests have been run."""
        return list(self._read().failed.get(self._name, {}))

    def update(self, lab: str, records: Iterable[Record]) -> None:
        """Replace what is known about these runs. If the file cannot be written, no error is raised."""
        records = list(records)
        if not records:
            return
        file = self._read()
        again = {(record.test, record.network, record.seed) for record in records}
        of_lab = file.failed.setdefault(self._name, {}).setdefault(lab, [])
        of_lab[:] = [run for run in of_lab if (run.test, run.network, run.seed) not in again]
        of_lab += [
            FailedRun(record.test, record.network, record.seed, record.schedule)
            for record in records
            if record.outcome != "passed"
        ]
        partial = self._path.with_suffix(f".{os.getpid()}.tmp")
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(msgspec.json.encode(file))
            partial.replace(self._path)

    def _read(self) -> _File:
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except (OSError, msgspec.DecodeError):
            return _File()
        return file if file.version == _VERSION else _File()
