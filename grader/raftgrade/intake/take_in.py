"""Take the submissions in: copy each into the report's folder, and refuse those that cannot be copied."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from raftgrade.intake import staging
from raftgrade.intake.submissions import FoundSubmissions
from raftgrade.plan import Expected, Settings
from raftgrade.results import Problem, SubmissionResult
from raftgrade.store import Store
from raftgrade.tally import RefusalEntry, blank
from raftlab.safe_text import printable

HANDOUT = "handouts/confinement.md"


@dataclass(slots=True)
class Intake:
    """The submissions without results, where the copy of each is (by name), and those that were refused."""

    submissions: list[SubmissionResult] = field(default_factory=list)
    paths: dict[str, str] = field(default_factory=dict)
    refused: list[RefusalEntry] = field(default_factory=list)


def take_in(submissions: FoundSubmissions, tests: list[Expected], settings: Settings, store: Store) -> Intake:
    """Copy every submission into ``store`` and compute its hash. Raises ``OSError`` if the folder cannot be written."""
    intake = Intake()
    for item in submissions.submissions:
        copied = None
        try:
            copied = staging.stage(item, store.submission_folder(item.slug), submissions.files, store.folder)
        except staging.CannotStage as exc:
            problem = Problem(str(exc), handout="" if exc.ours else HANDOUT)
            intake.refused.append(RefusalEntry(item.name, "unjudged" if exc.ours else "refused", [problem]))
        shown, hash = printable(item.where), copied.hash if copied else ""
        intake.submissions.append(blank(item.name, item.slug, shown, tests, settings, item.id, hash))
        intake.paths[item.name] = _argument(copied.path) if copied else ""
    return intake


def _argument(path: Path) -> str:
    """``path`` in a form that no command line takes for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text
