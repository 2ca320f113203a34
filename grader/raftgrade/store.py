"""The folder of a report, written so that a kill at any moment loses no finished run.

    DIR/report.json     the report and its signature, replaced as a whole every few seconds and at the end
    DIR/records.jsonl   one line for each outcome, appended the moment it arrives
    DIR/submissions/    the copies that are graded
    DIR/logs/           the output of jobs that ended badly
    DIR/traces/         traces of failed runs, a folder for each submission

A complete ``report.json`` holds everything. An incomplete one holds the plan and the counts so far, and its readers count
the records again. The records of a large course may not fit into memory (there can be a million records of 1.2 KB each), so
they are read one by one.
"""

from __future__ import annotations

import contextlib
import fcntl
import hmac
import os
import re
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import msgspec

from raftgrade import output_folder
from raftgrade.output_folder import BadFolder
from raftgrade.plan import Settings
from raftgrade.results import SCHEMA, ManualMark, Report, SubmissionResult
from raftgrade.signatures import Signer, kept_key, report_digest
from raftgrade.spill import SpillFile
from raftgrade.tally import Entry, RefusalEntry, RunEntry, Tally
from raftlab.safe_text import printable

REPORT = "report.json"
RECORDS = "records.jsonl"
MAIN = "raft.py"  # the main file of a submission
_PARTIAL = REPORT + ".tmp"
_NEW_RECORDS = RECORDS + ".tmp"
LOGS = "logs"
TRACES = "traces"
SUBMISSIONS = "submissions"
_SIGNATURE = b',\n "signature": "%s"\n}'
_SIGNED = re.compile(rb',\n "signature": "([0-9a-f]{64})"\n\}\Z')  # the end of a signed report


class EarlierSubmission(msgspec.Struct):
    """The part of a submission in an earlier report that a new report needs."""

    name: str
    hash: str = ""
    manual: list[ManualMark] = []


class EarlierHeader(msgspec.Struct):
    """The part of an earlier report that a new one needs. Its results are not read: they would fill the memory."""

    schema: int
    tool: str
    settings: Settings
    submissions: list[EarlierSubmission]
    code: str = ""
    options: dict[str, str] = {}


class EarlierReport(NamedTuple):
    """The report that a folder already has. ``entries`` can be read only once. ``signed``: whether this user signed it."""

    header: EarlierHeader
    entries: Iterator[Entry]
    signed: bool = False


_AReport = TypeVar("_AReport", Report, EarlierHeader)
_encode = msgspec.json.Encoder().encode
_read_entry: msgspec.json.Decoder[Entry] = msgspec.json.Decoder(Entry)


def read(folder: Path, key: bytes | None = None) -> Report:
    """The report in ``folder``, complete or not.

    Args:
        folder: the folder of the report.
        key: the key that must have signed the report (see signatures.py). If not, the report's ``unverified`` says so.

    Raises:
        BadFolder: there is no report of this schema, or it is damaged. The message says why, in one sentence.
    """
    report, entries, data = _open(folder, Report)
    signer = None if key is None else Signer(key, report)
    signed = key is not None and _is_signed(data, key)
    report.unverified = "" if signed else f"{printable(str(folder))}/{REPORT} is not signed with your key"
    if report.complete:
        _check_all(entries)
        return report
    seconds = report.seconds
    tally = Tally(report)
    for entry in entries:
        tally.add(entry)
        if signed and signer is not None and not signer.accepts(entry):
            report.unverified = f"{printable(str(folder))}/{RECORDS} has lines that are not signed with your key"
    tally.update_report(complete=False, seconds=seconds)
    for submission in report.submissions:
        traces = folder / TRACES / submission.slug
        for bad in (bad for test in submission.tests for result in test.networks for bad in result.bad):
            if bad.trace and not (traces / Path(bad.trace).name).is_file():
                bad.trace = ""  # the trace was over the quota, and so was deleted
    return report


def _is_signed(data: bytes, key: bytes) -> bool:
    """Whether ``data``, the text of a report, ends with a signature made with ``key``."""
    found = _SIGNED.search(data, max(0, len(data) - 100))
    if found is None:
        return False
    digest = report_digest(key)
    digest.update(memoryview(data)[: found.start()])
    return hmac.compare_digest(found[1], digest.hexdigest().encode())


def _open(folder: Path, kind: type[_AReport]) -> tuple[_AReport, Iterator[Entry], bytes]:
    """``report.json``, an iterator over the records, and the text of ``report.json``."""
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
    return _parse(data, f"{shown}/{REPORT}", kind), _entries(folder, shown), data


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
                    return  # a kill cut this line short, so its run counts as not reported
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
        self._offsets: dict[str, array[int]] = {}  # by submission: where its runs begin in the records
        self.refused: list[RefusalEntry] = []
        self.outcomes = 0  # the number of runs and refusals that need not be repeated

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
        earlier: the earlier report in the folder; ``None`` once :meth:`start_report` has replaced it.
        spill: takes the details of finished submissions out of memory.
        signer: signs the report, and what is added to the records.
    """

    def __init__(self, folder: Path, records: BinaryIO, earlier: EarlierReport | None) -> None:
        self.folder = folder
        self._records = records
        self.earlier = earlier
        self.spill = SpillFile(folder)
        self.signer: Signer | None = None

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Claim ``folder`` for a new report.

        Args:
            folder: new, empty, or with an earlier report, which stays until :meth:`start_report`.

        Raises:
            BadFolder: the folder cannot be used, or holds something else, which is left as it is.
        """
        records = output_folder.claim(folder, RECORDS, "report", _check_ours)
        try:
            with output_folder.usable(folder, "report"):
                for name in (LOGS, TRACES):
                    (folder / name).mkdir(exist_ok=True)
                earlier = _earlier(folder) if (folder / REPORT).exists() else None
        except BaseException:
            records.close()
            raise
        return cls(folder, records, earlier)

    def start_report(self, entries: Iterable[Entry], slugs: Mapping[str, str] | None = None) -> ReusedEntries:
        """Start the new report. Logs and traces of the earlier one are removed, except the traces of submissions that
        occur in ``entries``.

        Args:
            entries: the entries of the earlier report that are still valid.
            slugs: the slugs of the submissions, by name.

        Raises:
            OSError: the new records cannot be written. The earlier report is then still there.
        """
        reused = ReusedEntries(self.folder / RECORDS)
        # A new file replaces the old one atomically, because a kill must not lose the reused entries.
        new = (self.folder / _NEW_RECORDS).open("ab", buffering=0)
        fcntl.flock(new, fcntl.LOCK_EX)
        new.truncate(0)
        new.seek(0)
        old_records, self._records = self._records, new
        for entry in entries:
            reused.add(entry, self.add(entry))
        os.replace(self.folder / _NEW_RECORDS, self.folder / RECORDS)
        old_records.close()
        self.earlier = None  # its entries have all been read
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
        line = _encode(entry if self.signer is None else self.signer.sign(entry)) + b"\n"
        while line:
            line = line[self._records.write(line) or 0 :]
        return offset

    def save(self, report: Report) -> None:
        """Replace ``report.json`` atomically. It contains the spilled details only when the report is complete; until then,
        readers count the records. Raises ``OSError``."""
        partial = self.folder / _PARTIAL
        digest = None if self.signer is None else self.signer.report_digest()
        with partial.open("wb") as file:
            for piece in _pieces(report, self.spill.as_json if report.complete else _encode):
                file.write(piece)
                if digest is not None:
                    digest.update(piece)
            file.write(b"\n}" if digest is None else _SIGNATURE % digest.hexdigest().encode())
        os.replace(partial, self.folder / REPORT)

    def log(self, job: str) -> Path:
        """The file for the output of ``job``."""
        return self.folder / LOGS / f"{job}.txt"

    def traces(self, slug: str) -> Path:
        """The folder for the traces of a submission."""
        return self.folder / TRACES / slug

    @property
    def submissions(self) -> Path:
        """The folder for the copies of all submissions."""
        return self.folder / SUBMISSIONS

    def submission_folder(self, slug: str) -> Path:
        """The folder for the copy of a submission."""
        return self.submissions / slug

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


def _earlier(folder: Path) -> EarlierReport:
    header, entries, data = _open(folder, EarlierHeader)
    key = kept_key()
    return EarlierReport(header, entries, key is not None and _is_signed(data, key))


def _pieces(report: Report, as_json: Callable[[SubmissionResult], bytes]) -> Iterator[bytes]:
    """The text of ``report.json`` up to its last line, one submission at a time, because the whole text of a large course
    would fill the memory."""
    frame = msgspec.json.format(_encode(msgspec.structs.replace(report, submissions=[])), indent=1)
    start, _ = frame.rsplit(b"[]", 1)  # the submissions come last
    yield start + b"["
    for number, submission in enumerate(report.submissions):
        yield b",\n  " if number else b"\n  "
        yield msgspec.json.format(as_json(submission), indent=1).replace(b"\n", b"\n  ")
    yield b"\n ]" if report.submissions else b"]"


def _just_made(folder: Path) -> bool:
    """Whether ``folder`` holds only the files that a grading run leaves if it is killed before it writes its first
    ``report.json``."""
    if not all(
        entry.name in (RECORDS, LOGS, TRACES, SUBMISSIONS, _PARTIAL, _NEW_RECORDS) for entry in folder.iterdir()
    ):
        return False
    records = folder / RECORDS
    return not (records.exists() and records.stat().st_size) and not any(
        any((folder / name).iterdir()) for name in (LOGS, TRACES) if (folder / name).is_dir()
    )


def _check_ours(folder: Path) -> None:
    """Raise :class:`BadFolder` unless ``folder`` holds a report, or only the first files of one."""
    if (folder / MAIN).exists():
        raise BadFolder(f"{printable(str(folder))} has a {MAIN} in it, so it is a submission and not a report of ours")
    if not _just_made(folder):
        _check_all(_open(folder, EarlierHeader)[1])
