"""Finds the outcomes that are still valid in an earlier report in the same folder.

A run is repeated only if something has changed that could affect its outcome: the submission's files, the test, the seed,
the network, the sandbox, or the code that judges. A run that could not be judged is always repeated.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import raftgrade
import raftlab
from raftgrade.results import Report
from raftgrade.signatures import Signer
from raftgrade.store import EarlierHeader, EarlierReport
from raftgrade.tally import Entry, RefusalEntry, RunEntry

Key = tuple[str, str, str, str]  # submission, lab, test, network


def _made_by(report: Report | EarlierHeader) -> tuple[object, ...]:
    """The facts that two reports must have in common if runs of one are to count in the other."""
    return report.tool, report.code, report.settings.level, report.settings.races


def reusable_entries(plan: Report, earlier: EarlierReport | None, signer: Signer) -> Iterator[Entry]:
    """The entries of the ``earlier`` report that this user has signed and that are still valid for ``plan``."""
    if earlier is None:
        return
    header, entries, _ = earlier
    if _made_by(header) != _made_by(plan):
        return
    hashes = {submission.name: submission.hash for submission in header.submissions}
    same = [item for item in plan.submissions if item.hash and hashes.get(item.name) == item.hash]
    names = {item.name for item in same}
    wanted: dict[Key, list[range]] = {}
    for item in same:
        for test in item.tests:
            for network in test.networks:
                wanted.setdefault((item.name, test.lab, test.name, network.network), []).append(range(*network.seeds))
    # A run that could not be judged is kept only if its second attempt, which comes later in the records, was judged.
    unjudged: dict[tuple[Key, int], RunEntry] = {}
    for entry in entries:
        if isinstance(entry, RefusalEntry):
            same_labs = header.settings.labs == plan.settings.labs
            if entry.submission in names and entry.state == "refused" and same_labs and signer.accepts(entry):
                yield entry
            continue
        key, seed = _key(entry), entry.record.seed
        if not any(seed in seeds for seeds in wanted.get(key, ())) or not signer.accepts(entry):
            continue
        if entry.record.outcome == "error":
            unjudged.setdefault((key, seed), entry)
            continue
        if (key, seed) in unjudged:
            yield unjudged.pop((key, seed))
        yield entry


def _key(entry: RunEntry) -> Key:
    record = entry.record
    return entry.submission, record.lab, record.test, record.network


def code_fingerprint(*packages: ModuleType) -> str:
    """A fingerprint of the code of ``packages`` and of Python's version. Without packages, it covers all code that affects
    a verdict. (The version number would not do, because it does not change with every commit.)"""
    digest = hashlib.sha256(sys.version.encode())
    for package in packages or (raftlab, raftgrade):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]
