"""PrairieLearn: the results.json of an external grader, about one submission."""

from __future__ import annotations

from typing import Any

import msgspec

from raftgrade.reports import student_text
from raftgrade.reports.student_view import for_students
from raftgrade.results import Report
from raftlab.safe_text import one_line, printable

MAX_BYTES = 900_000  # of the whole file; PrairieLearn accepts 1 MB
_MAX_OUTPUT = 20_000  # characters for one test


def render(report: Report) -> str:
    """``results.json`` for the submission's author. Raises :class:`raftgrade.reports.student_text.NoMark`."""
    report = for_students(report)
    submission = student_text.only_one(report, "results.json")
    share = submission.points / submission.max_points if submission.max_points else 0.0
    data: dict[str, Any] = {
        "gradable": True,
        "score": round(min(1.0, share), 6),
        "message": student_text.about_submission(report, submission),
        "tests": [
            {
                "name": f"{test.lab} {test.name}",
                "description": printable(test.title),
                "points": test.points,
                "max_points": test.max_points,
                "output": student_text.about_test(test),
            }
            for test in submission.tests
        ],
    }
    if submission.state == "refused" and not submission.settled:
        # If the answer says that the submission is not gradable, the student loses no attempt.
        errors = [one_line(problem.text, 600) for problem in submission.problems]
        data |= {"gradable": False, "format_errors": errors, "tests": []}
    limit = _MAX_OUTPUT
    while True:
        for test in data["tests"]:
            test["output"] = test["output"][:limit]
        text = msgspec.json.format(msgspec.json.encode(data), indent=1)
        if len(text) <= MAX_BYTES or not limit:
            return text.decode() + "\n"
        limit //= 2
