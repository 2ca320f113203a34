"""The folder of a report, written so that a kill at any moment loses no finished run.

    DIR/report.json     the report, replaced as a whole every few seconds and at the end
    DIR/records.jsonl   one line for each outcome, appended the moment it arrives
    DIR/submissions/    the copies that are graded
    DIR/logs/           what jobs that ended badly printed
    DIR/traces/         traces of failed runs, a folder for each submission

A complete ``report.json`` holds everything. An incomplete one holds the plan and the counts so far, and whoever reads it
counts the records again. The records of a large course may not fit into memory (1.2 KB each, and there can be a million
of them), so they are read one by one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec

from raftgrade import output_folder
from raftgrade.output_folder import BadFolder
from raftgrade.plan import Settings
from raftgrade.results import SCHEMA, Report, SubmissionResult
from raftgrade.spill import SpillFile
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally
from raftlab.safe_text import printable

REPORT = "report.json"
RECORDS = "records.jsonl"
_PARTIAL = REPORT + ".tmp"
_NEW_RECORDS = RECORDS + ".tmp"
LOGS = "logs"
TRACES = "traces"
SUBMISSIONS = "submissions"


class EarlierSubmission(msgspec.Struct):
    """The part of a submission in an earlier report that a new report needs."""

    name: str
    hash: str = ""


class EarlierHeader(msgspec.Struct):
    """The part of an earlier report that a new one needs. Its results are not read: they would fill the memory."""

    schema: int
    tool: str
    settings: Settings
    submissions: list[EarlierSubmission]
    code: str = ""


class EarlierReport(NamedTuple):
    """The report that a folder already has. ``entries`` can be read once."""

    header: EarlierHeader
    entries: Iterator[Entry]


_AReport = TypeVar("_AReport", Report, EarlierHeader)
_encode = msgspec.json.Encoder().encode
_read_entry: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def read(folder: Path) -> Report:
    """The report in ``folder``, complete or not.

    Raises:
        BadFolder: there is no report of this schema, or it is damaged. The message says why, in one sentence.
    """
    report, entries = _open(folder, Report)
    if report.complete:
        _check_all(entries)
        return report
    seconds = report.seconds
    tally = Tally(report)
    for entry in entries:
        tally.add(entry)
    tally.update_report(complete=False, seconds=seconds)
    for submission in report.submissions:
        traces = folder / TRACES / submission.slug
        for bad in (bad for test in submission.tests for result in test.networks for bad in result.bad):
            if bad.trace and not (traces / Path(bad.trace).name).is_file():
                bad.trace = ""  # it was over the quota
    return report


def _open(folder: Path, kind: type[_AReport]) -> tuple[_AReport, Iterator[Entry]]:
    """``report.json``, and an iterator over the records."""
    shown = printable(str(folder))
    if not folder.exists():
        raise BadFolder(f"there is no {shown}")
    if not folder.is_dir():
        raise BadFolder(f"{shown} is a file, not a folder with a report")
    try:
        data = (folder / REPORT).read_bytes()
    except FileNotFoundError:
        raise BadFolder(f"{shown} holds no {REPORT}") from None
    except OSError as exc:
        raise BadFolder(f"{shown}/{REPORT} cannot be read: {exc.strerror or exc}") from None
    return _parse(data, f"{shown}/{REPORT}", kind), _entries(folder, shown)


def _parse(data: bytes, shown: str, kind: type[_AReport]) -> _AReport:
    try:
        report = msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadFolder(f"{shown} is not a report of raftgrade, or is damaged") from None
    if report.schema != SCHEMA:
        raise BadFolder(f"{shown} has schema {report.schema}; this raftgrade reads schema {SCHEMA}")
    return report


def _entries(folder: Path, shown: str) -> Iterator[Entry]:
    try:
        with (folder / RECORDS).open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return  # a kill cut it short: its run counts as not reported
                try:
                    yield _read_entry.decode(line)
                except (msgspec.DecodeError, UnicodeDecodeError):
                    raise BadFolder(f"line {number} of {shown}/{RECORDS} is not a record of raftgrade") from None
    except FileNotFoundError:
        return
    except OSError as exc:
        raise BadFolder(f"{shown}/{RECORDS} cannot be read: {exc.strerror or exc}") from None


def _check_all(entries: Iterator[Entry]) -> None:
    """Read all entries, which raises :class:`BadFolder` if one is damaged."""
    for _ in entries:
        pass


class ReusedEntries:
    """The entries that a new report takes over from an earlier one. Runs stay on disk until they are needed."""

    def __init__(self, records: Path) -> None:
        self._records = records
        self._offsets: dict[str, array[int]] = {}  # of the runs of each submission, in the records
        self.refused: list[RefusalEntry] = []
        self.outcomes = 0  # how many of the runs and refusals will not be tried again

    def add(self, entry: Entry, offset: int) -> None:
        """Note that ``entry`` begins at ``offset`` in the records."""
        if isinstance(entry, RefusalEntry):
            self.refused.append(entry)
            self.outcomes += 1
        else:
            self._offsets.setdefault(entry.submission, array("Q")).append(offset)
            self.outcomes += entry.record.outcome != "error"

    @property
    def submissions(self) -> list[str]:
        """The submissions that have runs here."""
        return list(self._offsets)

    def runs(self, submission: str) -> Iterator[RunEntry]:
        """The runs of ``submission``. Raises ``OSError``."""
        with self._records.open("rb") as file:
            for offset in self._offsets.get(submission, ()):
                file.seek(offset)
                entry = _read_entry.decode(file.readline())
                assert isinstance(entry, RunEntry)
                yield entry


class Store:
    """The folder of a report, open for writing and locked. Use as a context manager.

    Attributes:
        folder: where it is.
        earlier: the report that the folder had, until :meth:`start_report`.
        spill: takes the details of finished submissions out of memory.
    """

    def __init__(self, folder: Path, records: BinaryIO, earlier: EarlierReport | None) -> None:
        self.folder = folder
        self._records = records
        self.earlier = earlier
        self.spill = SpillFile(folder)

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Claim ``folder`` for a new report.

        Args:
            folder: new, empty, or with an earlier report, which stays until :meth:`start_report`.

        Raises:
            BadFolder: the folder holds something else, which is left as it is, or cannot be used.
        """
        records = output_folder.claim(folder, RECORDS, "report", _check_ours)
        try:
            with output_folder.usable(folder, "report"):
                for name in (LOGS, TRACES):
                    (folder / name).mkdir(exist_ok=True)
                earlier = EarlierReport(*_open(folder, EarlierHeader)) if (folder / REPORT).exists() else None
        except BaseException:
            records.close()
            raise
        return cls(folder, records, earlier)

    def start_report(self, entries: Iterable[Entry], slugs: Mapping[str, str] | None = None) -> ReusedEntries:
        """Start the new report. Logs and traces of the earlier one are removed, except the traces of submissions that
        have one of ``entries``.

        Args:
            entries: the entries of the earlier report that are still valid.
            slugs: the slugs of the submissions, by name.

        Raises:
            OSError: the new records cannot be written. The earlier report is then still there.
        """
        reused = ReusedEntries(self.folder / RECORDS)
        # A new file replaces the records at once: a kill in between must not lose what is reused.
        new = (self.folder / _NEW_RECORDS).open("ab", buffering=0)
        fcntl.flock(new, fcntl.LOCK_EX)
        new.truncate(0)
        new.seek(0)
        old_records, self._records = self._records, new
        for entry in entries:
            reused.add(entry, self.add(entry))
        os.replace(self.folder / _NEW_RECORDS, self.folder / RECORDS)
        old_records.close()
        self.earlier = None  # read to its end
        names = {*reused.submissions, *(entry.submission for entry in reused.refused)}
        stay = {slug for name, slug in (slugs or {}).items() if name in names}
        for name in (LOGS, TRACES):
            for old in (self.folder / name).iterdir():
                if old.is_dir() and old.name not in stay:
                    shutil.rmtree(old)
                elif not old.is_dir():
                    old.unlink()
        return reused

    def add(self, entry: Entry) -> int:
        """Append ``entry`` to the records, and return its offset there. Raises ``OSError`` (a full disk)."""
        offset = self._records.tell()
        line = _encode(entry) + b"\n"
        while line:
            line = line[self._records.write(line) or 0 :]
        return offset

    def save(self, report: Report) -> None:
        """Replace ``report.json`` atomically. What was spilled to disk is in it only when the report is complete: until
        then, readers count the records. Raises ``OSError``."""
        partial = self.folder / _PARTIAL
        with partial.open("wb") as file:
            file.writelines(_pieces(report, self.spill.as_json if report.complete else _encode))
        os.replace(partial, self.folder / REPORT)

    def log(self, job: str) -> Path:
        """The file for the output of ``job``."""
        return self.folder / LOGS / f"{job}.txt"

    def traces(self, slug: str) -> Path:
        """The folder for the traces of a submission."""
        return self.folder / TRACES / slug

    def submission_folder(self, slug: str) -> Path:
        """The folder for the copy of a submission."""
        return self.folder / SUBMISSIONS / slug

    def close(self) -> None:
        """Release the folder, and remove empty folders in it."""
        self._records.close()
        self.spill.close()
        for folder in (*(self.folder / TRACES).glob("*"), self.folder / TRACES, self.folder / LOGS):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _pieces(report: Report, as_json: Callable[[SubmissionResult], bytes]) -> Iterator[bytes]:
    """The text of ``report.json``, one submission at a time: that of a large course is larger than all else in memory."""
    frame = msgspec.json.format(_encode(msgspec.structs.replace(report, submissions=[])), indent=1)
    start, end = frame.rsplit(b"[]", 1)  # the submissions come last
    yield start + b"["
    for number, submission in enumerate(report.submissions):
        yield b",\n  " if number else b"\n  "
        yield msgspec.json.format(as_json(submission), indent=1).replace(b"\n", b"\n  ")
    yield (b"\n ]" if report.submissions else b"]") + end


def _just_made(folder: Path) -> bool:
    """Whether ``folder`` is what a raftgrade leaves that was killed before its first ``report.json``."""
    if not all(
        entry.name in (RECORDS, LOGS, TRACES, SUBMISSIONS, _PARTIAL, _NEW_RECORDS) for entry in folder.iterdir()
    ):
        return False
    records = folder / RECORDS
    return not (records.exists() and records.stat().st_size) and not any(
        any((folder / name).iterdir()) for name in (LOGS, TRACES) if (folder / name).is_dir()
    )


def _check_ours(folder: Path) -> None:
    """Raise :class:`BadFolder` if ``folder`` holds anything but a report, or the first files of one."""
    if not _just_made(folder):
        _check_all(_open(folder, EarlierHeader)[1])
