"""The class report: one HTML file that needs no other file, with a page for each student inside it.

Jinja2 makes it from ``templates/`` and escapes whatever students wrote. The page's content security policy allows no script
but ours and loads nothing. Pictures of failing runs are made from the traces that were kept, and are put into a folder
beside the page.
"""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from raftgrade.reports import charts, same_code, student_pages, table
from raftgrade.reports.items import MIN_SUBMISSIONS
from raftgrade.reports.student_pages import Pictures
from raftgrade.results import BadRun, Report, SubmissionResult
from raftlab.harness.trace import BadTrace
from raftlab.safe_text import count, duration, number, one_line
from raftlab.viewer import page

MAX_PICTURES = 12  # pictures for one student; one for each way of failing is enough


def render(report: Report, pictures: Pictures | None = None, alone: bool = False) -> str:
    """The page as HTML.

    Args:
        report: the whole report, or the part that one student may see (:func:`raftgrade.reports.student_view.only`).
        pictures: maps runs to links to their pictures (see :func:`pictures`).
        alone: leave out the overview of the class, because a student gets the page.
    """
    style, script = _file("class.css"), _file("class.js")
    common = {
        # Not escaped: this text is ours, and HTML has no escapes inside <style> and <script>.
        "style": Markup(style),
        "script": Markup(script),
        "style_hash": _digest(style),
        "script_hash": _digest(script),
        "students": [student_pages.student(report, each, pictures or {}) for each in report.submissions],
    }
    if alone:
        title = one_line(report.submissions[0].name, 80) if report.submissions else "Class report"
        return _templates().get_template("alone.html").render(common, title=title, unverified=report.unverified)
    return (
        _templates()
        .get_template("class.html")
        .render(
            common,
            title="Class report",
            report=report,
            facts=" · ".join(_facts(report)),
            sandbox=table.confinement(report.settings),
            class_cards=charts.cards(report),
            overview=charts.overview(report),
            lab_maps=charts.lab_maps(report),
            few=MIN_SUBMISSIONS,
            marks=charts.marks(report),
            reliability=charts.reliability(report),
            teach_again=charts.teach_again(report),
            slowest=charts.slowest(report),
            same_code_heading=same_code.HEADING,
            same_code=same_code.lines(report),
        )
    )


@cache
def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_file),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "casefold": str.casefold,
        "certainty": student_pages.certainty,
        "clean": _clean,
        "count": count,
        "number": number,
    }
    return environment


def _clean(text: str, limit: int = 300) -> str:
    """Text that a student may have chosen, on one line of printable characters."""
    return one_line(text, limit)


def _facts(report: Report) -> list[str]:
    return [
        *student_pages.plan(report),
        count(report.done, "run") + " in all",
        f"the last grading run took {duration(report.seconds)}",
        *student_pages.origin(report),
    ]


# --- pictures ---


def pictures(report: Report, folder: Path, output: Path | None) -> Pictures:
    """Make the pictures of failing runs in a folder beside ``output``.

    Args:
        report: names the runs.
        folder: the report's folder, which has their traces.
        output: the page. ``None``: the page goes to the terminal, and there are no pictures.

    Returns:
        Links, relative to ``output``. Runs whose trace is missing or damaged have none.

    Raises:
        OSError: a picture cannot be written.
    """
    if output is None:
        return {}
    beside = output.with_name(f"{output.stem}-pictures")
    links: Pictures = {}
    for submission in report.submissions:
        for bad in _shown(submission)[:MAX_PICTURES]:
            trace = folder / "traces" / submission.slug / Path(bad.trace).name
            picture = beside / submission.slug / f"{trace.stem}.html"
            if not trace.is_file():
                continue
            if not _newer(picture, trace):
                try:
                    page.write(trace, picture)
                except (BadTrace, page.CannotShow):
                    # The trace is too large, or was cut off by a full disk; the page still shows the replay command.
                    continue
            links[submission.slug, bad.trace] = os.path.relpath(picture, output.parent).replace(os.sep, "/")
    return links


def _shown(submission: SubmissionResult) -> list[BadRun]:
    """The runs that the student's page shows in full."""
    return [group.example for group in student_pages.groups(submission) if group.example.trace]


def _newer(picture: Path, trace: Path) -> bool:
    return picture.is_file() and picture.stat().st_mtime >= trace.stat().st_mtime


def _file(name: str) -> str:
    return resources.files("raftgrade.reports").joinpath("templates", name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
