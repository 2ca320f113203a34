"""Feedback files: the page of each student, in a folder, or in a zip file that Moodle or Canvas takes back."""

from __future__ import annotations

import csv
import io
import zipfile
from pathlib import Path

import msgspec

from raftgrade import zip_files
from raftgrade.reports import gradebook, html
from raftgrade.reports.student_view import for_students
from raftgrade.results import Report, SubmissionResult
from raftgrade.students import Student, moodle_name
from raftlab.safe_text import count, number

INDEX = "students.csv"  # who gets which file, for sending the files by e-mail


def write(report: Report, folder: Path, output: Path) -> list[str]:
    """Write the feedback files.

    Args:
        report: the report.
        folder: the report's folder, which has the traces.
        output: a folder, which may exist, or a file whose name ends in ``.zip``. The zip has no pictures of failing runs,
            because course systems accept only a single file for each submission.

    Returns:
        Notes for the terminal.

    Raises:
        OSError: something cannot be written.
    """
    chosen = [each for each in report.submissions if each.state not in ("unjudged", "absent") or each.manual]
    left_out = len(report.submissions) - len(chosen)
    notes = [f"{count(left_out, 'submission')} without a result, left out"] if left_out else []
    if output.suffix.lower() == ".zip":
        return [*_write_zip(report, chosen, output), *notes]
    output.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", *gradebook.STUDENT, "points", "max_points"])
    for submission in chosen:
        target = output / f"{submission.slug}.html"
        own = _own(report, submission)
        target.write_text(html.render(own, html.pictures(own, folder, target), alone=True), encoding="utf-8")
        points = number(submission.points) if submission.final else ""
        for student in submission.students or [Student(id=submission.id)]:
            row = [target.name, *gradebook.about(student), points, number(submission.max_points)]
            writer.writerow([gradebook.safe_cell(cell) for cell in row])
    (output / INDEX).write_text(text.getvalue(), encoding="utf-8")
    return [f"{count(len(chosen), 'feedback file')} and a list of them ({INDEX}) are in {output}", *notes]


def _write_zip(report: Report, chosen: list[SubmissionResult], output: Path) -> list[str]:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for submission in chosen:
            zip_files.add(archive, _name(submission), html.render(_own(report, submission), alone=True).encode())
    output.write_bytes(buffer.getvalue())
    unknown = sum(not submission.prefix for submission in chosen)
    notes = [f"{count(len(chosen), 'feedback file')} in {output}"]
    if unknown:
        text = "not from a Moodle or Canvas download, so these systems cannot tell whose file it is"
        notes.append(f"{count(unknown, 'submission')} {text}")
    return notes


def _name(submission: SubmissionResult) -> str:
    """The name of the file in the zip, in the form that the course system expects."""
    if not submission.prefix:
        return f"{submission.slug}.html"
    # The name must begin as in the system's own download: in Moodle with the submission's folder, in Canvas with the prefix
    # of the submission's files.
    return f"{submission.prefix}{'/' if moodle_name(submission.prefix) else ''}feedback.html"


def _own(report: Report, submission: SubmissionResult) -> Report:
    """What the author of ``submission`` may see of the report."""
    return for_students(msgspec.structs.replace(report, submissions=[submission]))
