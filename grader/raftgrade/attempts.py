"""Which submission of a student counts, if there are several."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from raftgrade.dates import parse_date
from raftgrade.results import Report, SubmissionResult
from raftgrade.students import folded, folded_name

Standing = Literal["counts", "superseded", "undecided"]


def standings(report: Report) -> dict[str, Standing]:
    """For each submission, by its name: whether it counts, is superseded by another submission of the same student, or is
    undecided. It is undecided if nobody has said which of several submissions counts, if their dates do not show which is
    the last, or if a mark that may become the best is not final."""
    found: dict[str, Standing] = {each.name: "counts" for each in report.submissions}
    by_author: dict[str, list[SubmissionResult]] = {}
    for submission in report.submissions:
        for key in _authors(submission):
            by_author.setdefault(key, []).append(submission)
    for several in by_author.values():
        if len(several) < 2:
            continue
        chosen = _choose(several, report.attempts)
        for submission in several:
            if chosen is None or found[submission.name] == "undecided":
                found[submission.name] = "undecided"
            elif submission is not chosen:
                found[submission.name] = "superseded"
    return found


def _authors(submission: SubmissionResult) -> set[str]:
    """A key for each author. Two submissions that share a key have an author in common."""
    return {
        min(student.ids, default="") or f"name {folded_name(student.name)}"
        for student in submission.students
        if student.label
    } or {f"submission {folded(submission.name)}"}


def _choose(several: Sequence[SubmissionResult], attempts: str) -> SubmissionResult | None:
    if attempts == "best":
        final = [each for each in several if each.final]
        best = max(final, key=lambda each: each.points, default=None)
        open_ = [each.points + each.open_points for each in several if not each.final]
        return None if best is None or any(points > best.points for points in open_) else best
    if attempts == "last":
        dates = [parse_date(each.submitted) for each in several]
        if None in dates:
            return None
        moments = [_with_zone(date) for date in dates if date is not None]
        last = max(moments)
        return several[moments.index(last)] if moments.count(last) == 1 else None
    return None


def _with_zone(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
