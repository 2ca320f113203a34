"""Copies each submission into the report's folder, and refuses those that cannot be copied."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from raftgrade.intake import our_own, repositories, staging
from raftgrade.intake.limits import CannotStage
from raftgrade.intake.submissions import FoundSubmissions, Submission
from raftgrade.plan import Expected, Settings
from raftgrade.results import Problem, SubmissionResult
from raftgrade.store import Store
from raftgrade.tally import RefusalEntry, blank
from raftlab import labs
from raftlab.safe_text import printable
from raftlab.submission import source

HANDOUT = "handouts/confinement.md"


@dataclass(slots=True)
class Intake:
    """The submissions that were ``given``, the ``copies`` of those that could be copied (by name), and the others, which
    were ``refused``."""

    given: list[Submission]
    copies: dict[str, staging.Staged] = field(default_factory=dict)
    refused: list[RefusalEntry] = field(default_factory=list)

    @property
    def paths(self) -> dict[str, str]:
        """The path of each copy, by name; empty for a refused submission."""
        copies = {name: _argument(copy.path) for name, copy in self.copies.items()}
        return {item.name: copies.get(item.name, "") for item in self.given}

    def some_have_a_service(self) -> bool:
        """Whether any submission can be run in lab 3."""
        return any(not why_no_service(copy.path) for copy in self.copies.values())

    def results(self, tests: list[Expected], settings: Settings) -> list[SubmissionResult]:
        """The submissions before their first run."""
        results = []
        for item in self.given:
            copy = self.copies.get(item.name)
            hash = copy.hash if copy else ""
            id = next((student.id for student in item.students if student.id), "")
            result = blank(item.name, item.slug, printable(item.where), tests, settings, id, hash)
            result.students, result.prefix = list(item.students), printable(item.prefix)
            result.submitted = printable(item.submitted) or (copy.committed if copy else "")
            why = why_no_service(copy.path) if copy else ""
            if why:
                text = f"{why}, so this lab earns no points"
                result.missing = {lab: text for lab in settings.labs if labs.LABS[lab].has("service")}
            results.append(result)
        return results


def take_in(submissions: FoundSubmissions, store: Store, raft: Path | None = None) -> Intake:
    """Copy every submission into ``store`` and compute its hash.

    Args:
        raft: the Raft to put below every ``kv.py``; ``None``: each submission's own.

    Raises:
        OSError: the folder cannot be written.
    """
    intake = Intake(submissions.submissions)
    deadline = repositories.Deadline()
    for left in store.submissions.glob(f"{staging.UNPACKING}*"):
        shutil.rmtree(left)  # left by a raftgrade that was killed

    def stage(item: Submission) -> staging.Staged:
        place = store.submission_folder(item.slug)
        return staging.stage(item, place, submissions.files, store.folder, deadline, raft)

    with ThreadPoolExecutor(repositories.AT_A_TIME) as pool:
        # Fetching repositories mostly means waiting for the network. Meanwhile, all other submissions are copied one at a
        # time.
        fetched = {item.name: pool.submit(stage, item) for item in submissions.submissions if item.kind == "git"}
        try:
            for item in submissions.submissions:
                try:
                    intake.copies[item.name] = fetched[item.name].result() if item.name in fetched else stage(item)
                except CannotStage as exc:
                    problem = Problem(str(exc), handout="" if exc.ours else HANDOUT)
                    state: Literal["refused", "unjudged", "absent"] = "unjudged" if exc.ours else "refused"
                    if item.kind == "absent":
                        state = "absent"
                    intake.refused.append(RefusalEntry(item.name, state, [problem]))
        finally:
            deadline.end_now()
    return intake


def why_no_service(path: Path) -> str:
    """Why the copy at ``path`` cannot be run in lab 3; empty if it can, or if the contract check will say why not."""
    try:
        file = source.locate(path).modules.get("kv")
    except source.SubmissionError:
        return ""
    if file is None:
        return "there is no kv.py beside raft.py"
    return "kv.py is still the skeleton" if our_own.is_skeleton(file) else ""


def _argument(path: Path) -> str:
    """``path`` in a form that no command line mistakes for an option."""
    text = str(path)
    return f"./{text}" if text.startswith("-") else text
