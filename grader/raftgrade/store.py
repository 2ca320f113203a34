"""The cellar: a report's folder on disk, written so that a kill at any moment loses no finished run.

    DIR/report.json     the report, replaced as a whole now and then and at the end
    DIR/records.jsonl   one line for each outcome, appended the moment it arrives
    DIR/submissions/    the copies that are graded
    DIR/logs/           what jobs that ended badly printed
    DIR/traces/         pictures of failed runs, a folder for each submission

A complete ``report.json`` says it all. An incomplete one holds the plan and what is known in short, and the records are
counted again. The records of a large course do not fit well into memory (1.2 KB each, and there are a million of them),
so they are read one by one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, TypeVar

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
    """Of a submission in an earlier report."""

    name: str
    hash: str = ""


class EarlierHeader(msgspec.Struct):
    """What a new report wants to know of an earlier one: not its results, which would fill the memory again."""

    schema: int
    tool: str
    settings: Settings
    submissions: list[EarlierSubmission]
    code: str = ""


EarlierReport = tuple[EarlierHeader, Iterator[Entry]]  # what stands in the folder, and its records, to be read once
_AReport = TypeVar("_AReport", Report, EarlierHeader)
_encode = msgspec.json.Encoder().encode
_read_entry: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def read(folder: Path) -> Report:
    """The report in ``folder``, whole or partial. Raises :class:`BadFolder`."""
    report, entries = _opened(folder, Report)
    if report.complete:
        _look_through(entries)
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
                bad.trace = ""  # there was no room for it
    return report


def _opened(folder: Path, kind: type[_AReport]) -> tuple[_AReport, Iterator[Entry]]:
    """``report.json`` as it is, and the records."""
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


def _look_through(entries: Iterator[Entry]) -> None:
    """Read them all, only to see that none is damaged."""
    for _ in entries:
        pass


class KeptEntries:
    """What a new report takes over from an earlier one. Runs stay on the disk until they are asked for."""

    def __init__(self, records: Path) -> None:
        self._records = records
        self._lines: dict[str, array[int]] = {}  # of each submission: where its runs stand in the records
        self.refused: list[RefusalEntry] = []
        self.outcomes = 0  # how many runs and refusals that are the last word

    def note(self, entry: Entry, place: int) -> None:
        """``entry`` stands at ``place`` in the records."""
        if isinstance(entry, RefusalEntry):
            self.refused.append(entry)
            self.outcomes += 1
        else:
            self._lines.setdefault(entry.submission, array("Q")).append(place)
            self.outcomes += entry.record.outcome != "error"

    @property
    def submissions(self) -> list[str]:
        """Those of which there are runs."""
        return list(self._lines)

    def runs(self, submission: str) -> Iterator[RunEntry]:
        """The runs of ``submission``. Raises ``OSError``."""
        with self._records.open("rb") as file:
            for place in self._lines.get(submission, ()):
                file.seek(place)
                entry = _read_entry.decode(file.readline())
                assert isinstance(entry, RunEntry)
                yield entry


class Store:
    """A report's folder, open for writing. Use as a context manager."""

    def __init__(self, folder: Path, records: BinaryIO, earlier: EarlierReport | None) -> None:
        self.folder = folder
        self._records = records
        self.earlier = earlier
        self.spill = SpillFile(folder)

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Claim ``folder`` for a new report: absent, empty, or holding an earlier report, which stays until
        :meth:`begin`. Anything else is left exactly as it is. Raises :class:`BadFolder`."""
        records = output_folder.claim(folder, RECORDS, "report", _check_ours)
        try:
            with output_folder.usable(folder, "report"):
                for name in (LOGS, TRACES):
                    (folder / name).mkdir(exist_ok=True)
                earlier = _opened(folder, EarlierHeader) if (folder / REPORT).exists() else None
        except BaseException:
            records.close()
            raise
        return cls(folder, records, earlier)

    def start_report(self, entries: Iterable[Entry], slugs: Mapping[str, str] | None = None) -> KeptEntries:
        """Start the new report with those ``entries`` of the earlier one that still hold. Traces of submissions that have
        such an entry stay; ``slugs`` says by their names where they are. Raises ``OSError``."""
        kept = KeptEntries(self.folder / RECORDS)
        # All at once: a kill in between must not lose what is kept.
        new = (self.folder / _NEW_RECORDS).open("ab", buffering=0)
        fcntl.flock(new, fcntl.LOCK_EX)
        new.truncate(0)
        new.seek(0)
        before, self._records = self._records, new
        for entry in entries:
            kept.note(entry, self.add(entry))
        os.replace(self.folder / _NEW_RECORDS, self.folder / RECORDS)
        before.close()
        self.earlier = None  # read to its end
        named = {*kept.submissions, *(entry.submission for entry in kept.refused)}
        stay = {slug for name, slug in (slugs or {}).items() if name in named}
        for name in (LOGS, TRACES):
            for old in (self.folder / name).iterdir():
                if old.is_dir() and old.name not in stay:
                    shutil.rmtree(old)
                elif not old.is_dir():
                    old.unlink()
        return kept

    def add(self, entry: Entry) -> int:
        """Append ``entry`` to the records; where it stands there. Raises ``OSError`` (a full disk)."""
        place = self._records.tell()
        line = _encode(entry) + b"\n"
        while line:
            line = line[self._records.write(line) or 0 :]
        return place

    def save(self, report: Report) -> None:
        """Replace ``report.json`` in one stroke. What is on the shelf is in it when the report is complete; before that
        nobody asks for it. Raises ``OSError``."""
        partial = self.folder / _PARTIAL
        with partial.open("wb") as file:
            file.writelines(_pieces(report, self.spill.as_json if report.complete else _encode))
        os.replace(partial, self.folder / REPORT)

    def log(self, job: str) -> Path:
        """Where the output of ``job`` goes."""
        return self.folder / LOGS / f"{job}.txt"

    def traces(self, slug: str) -> Path:
        """Where the traces of a submission go."""
        return self.folder / TRACES / slug

    def submission_folder(self, slug: str) -> Path:
        """Where the copy of a submission goes."""
        return self.folder / SUBMISSIONS / slug

    def close(self) -> None:
        """Let go of the folder, and leave no empty room in it."""
        self._records.close()
        self.spill.close()
        for folder in (*(self.folder / TRACES).glob("*"), self.folder / TRACES, self.folder / LOGS):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _pieces(report: Report, text: Callable[[SubmissionResult], bytes]) -> Iterator[bytes]:
    """The file, submission by submission: the report of a large course is larger than all else that we hold."""
    frame = msgspec.json.format(_encode(msgspec.structs.replace(report, submissions=[])), indent=1)
    start, end = frame.rsplit(b"[]", 1)  # the submissions come last
    yield start + b"["
    for number, submission in enumerate(report.submissions):
        yield b",\n  " if number else b"\n  "
        yield msgspec.json.format(text(submission), indent=1).replace(b"\n", b"\n  ")
    yield (b"\n ]" if report.submissions else b"]") + end


def _just_made(folder: Path) -> bool:
    """Empty, or what a raftgrade leaves that was killed before its first ``report.json``."""
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
        _look_through(_opened(folder, EarlierHeader)[1])
