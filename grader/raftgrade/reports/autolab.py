"""Autolab: what an autograder prints about one submission. The last line is JSON with the points of each lab, and what comes
before it is feedback for the student."""

from __future__ import annotations

import msgspec

from raftgrade.reports import student_text
from raftgrade.reports.student_view import for_students
from raftgrade.results import Report, SubmissionResult
from raftlab.safe_text import number


def render(report: Report) -> str:
    """The output of the autograder. Raises :class:`raftgrade.reports.student_text.NoMark`."""
    report = for_students(report)
    submission = student_text.only_one(report, "the last line")
    blocks = [student_text.about_submission(report, submission)]
    if submission.state != "refused":
        blocks += [
            f"{test.lab} {test.name}: {number(test.points)} of {number(test.max_points)} points\n"
            + student_text.about_test(test)
            for test in submission.tests
        ]
    scores = msgspec.json.encode({"scores": _scores(submission)}).decode()
    return "\n\n".join(blocks) + f"\n{scores}\n"


def _scores(submission: SubmissionResult) -> dict[str, float]:
    """The points of each lab. (Autolab calls each part of an assignment a problem; here, these are the labs.) Autolab
    refuses a problem that it does not know. So if points were given for the whole submission, they are spread over the
    labs."""
    scores: dict[str, float] = {}
    for test in submission.tests:
        scores[test.lab] = scores.get(test.lab, 0.0) + test.points
    earned = sum(scores.values())
    if submission.state == "refused" or not earned:
        scores = dict.fromkeys(scores, 0.0)
        if scores:
            scores[next(iter(scores))] = submission.points
    elif earned != submission.points:
        scores = {lab: points * submission.points / earned for lab, points in scores.items()}
    return {lab: round(points, 4) for lab, points in scores.items()}
