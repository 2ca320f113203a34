"""The clerk: takes the submissions in, and finds what of an earlier report in the same folder still holds.

A run is done again only when something changed that could change its outcome: the submission's files, the test, the seed,
the network, the walls, or the code that judges. A run that could not be judged is always tried again.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import raftgrade
import raftlab
from raftgrade.intake import staging
from raftgrade.intake.submissions import FoundSubmissions
from raftgrade.plan import Expected, Settings
from raftgrade.results import Problem, Report, SubmissionResult
from raftgrade.store import EarlierReport, Store
from raftgrade.tally import Entry, RefusalEntry, RunEntry, blank
from raftlab.safe_text import printable

HANDOUT = "handouts/confinement.md"

Key = tuple[str, str, str, str]  # submission, lab, test, network


@dataclass(slots=True)
class Intake:
    """What was taken in: the plan's submissions, where the copy of each is, and who was refused at the door."""

    submissions: list[SubmissionResult] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    refused: list[RefusalEntry] = field(default_factory=list)


def take_in(found: FoundSubmissions, tests: list[Expected], settings: Settings, store: Store) -> Intake:
    """Copy and fingerprint every submission. Raises ``OSError`` when the report's folder cannot be written."""
    intake = Intake()
    for item in found.submissions:
        copied = None
        try:
            copied = staging.stage(item, store.copy(item.slug), found.files, store.folder)
        except staging.CannotStage as exc:
            problem = Problem(str(exc), handout="" if exc.ours else HANDOUT)
            intake.refused.append(RefusalEntry(item.name, "unjudged" if exc.ours else "refused", [problem]))
        shown, hash = printable(item.where), copied.hash if copied else ""
        intake.submissions.append(blank(item.name, item.slug, shown, tests, settings, item.id, hash))
        intake.paths[item.name] = _argument(copied.path) if copied else ""
    return intake


def still_holds(plan: Report, earlier: EarlierReport | None) -> Iterator[Entry]:
    """The entries of the ``earlier`` report that are right for ``plan`` too."""
    if earlier is None:
        return
    before, entries = earlier
    if (before.tool, before.code, before.settings.level) != (plan.tool, plan.code, plan.settings.level):
        return
    hashes = {submission.name: submission.hash for submission in before.submissions}
    same = [item for item in plan.submissions if item.hash and hashes.get(item.name) == item.hash]
    names = {item.name for item in same}
    wanted: dict[Key, list[range]] = {}
    for item in same:
        for test in item.tests:
            for network in test.networks:
                wanted.setdefault((item.name, test.lab, test.name, network.network), []).append(range(*network.seeds))
    # A fault of the machine stays on record if a second attempt was judged. That one comes later in the records.
    faults: dict[tuple[Key, int], RunEntry] = {}
    for entry in entries:
        if isinstance(entry, RefusalEntry):
            if entry.submission in names and entry.state == "refused" and before.settings.labs == plan.settings.labs:
                yield entry
            continue
        key, seed = _key(entry), entry.record.seed
        if not any(seed in seeds for seeds in wanted.get(key, ())):
            continue
        if entry.record.outcome == "error":
            faults.setdefault((key, seed), entry)
            continue
        if (key, seed) in faults:
            yield faults.pop((key, seed))
        yield entry


def _key(entry: RunEntry) -> Key:
    record = entry.record
    return entry.submission, record.lab, record.test, record.network


def code(*packages: ModuleType) -> str:
    """A fingerprint of the code of ``packages`` and of Python's version; without any, of all code that has a part in a
    verdict: a version number alone does not change with every commit."""
    digest = hashlib.sha256(sys.version.encode())
    for package in packages or (raftlab, raftgrade):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _argument(path: Path) -> str:
    """``path`` so that no command line takes it for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text
