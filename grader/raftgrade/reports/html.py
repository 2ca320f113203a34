"""The class report: one HTML file that needs nothing else, with a page for each student inside it.

What students wrote is escaped, and the page's own policy runs no script but ours and loads nothing at all. Pictures of
failing runs lie in a folder beside it, made from the traces that were kept.
"""

from __future__ import annotations

import base64
import hashlib
import os
from html import escape
from importlib import resources
from pathlib import Path

from raftgrade.reports import charts, student_pages, table
from raftgrade.reports.student_pages import Pictures
from raftgrade.results import Bad, Report, SubmissionResult
from raftlab.harness.trace import BadTrace
from raftlab.safe_text import count, duration, one_line
from raftlab.viewer import page

MOST_PICTURES = 12  # of one student: one for each way to fail is what people look at


def render(report: Report, found: Pictures | None = None, alone: bool = False) -> str:
    """The page. ``found`` maps runs to links to their pictures; ``alone``: of one student, to be handed out."""
    style, script = _file("class.css"), _file("class.js")
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    body = _alone(report, found or {}) if alone else _class(report, found or {})
    title = one_line(report.submissions[0].name, 80) if alone and report.submissions else "Class report"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{escape(title)} · raftgrade</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            *body,
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _class(report: Report, found: Pictures) -> list[str]:
    return [
        '<main id="class">',
        *_head(report),
        *charts.cards(report),
        *charts.heat_map(report),
        '<div class="columns">',
        *charts.marks(report),
        *charts.reliability(report),
        *charts.teach_again(report),
        *charts.slowest(report),
        "</div>",
        "</main>",
        *(line for submission in report.submissions for line in student_pages.student(report, submission, found)),
    ]


def _alone(report: Report, found: Pictures) -> list[str]:
    return [
        line
        for submission in report.submissions
        for line in student_pages.student(report, submission, found, alone=True)
    ] or ["<main><p>This report has no submission.</p></main>"]


def _head(report: Report) -> list[str]:
    settings = report.settings
    runs = [
        f"{settings.runs[name]} runs in {name}"
        if name != "sim" or settings.until is None
        else f"up to {settings.runs[name]} runs in sim, until sure"
        for name in settings.networks
    ]
    if settings.hidden is not None:
        runs.append(f"{settings.hidden[1] - settings.hidden[0]} with hidden seeds")
    facts = [
        f"labs {', '.join(settings.labs)}",
        " + ".join(runs) + " of each test",
        count(report.done, "run") + " in all",
        f"took {duration(report.seconds)}",
        report.started[:16].replace("T", " ") + " UTC",
        report.tool,
    ]
    head = ["<header>", "<h1>Class report</h1>", f'<p class="soft">{escape(" · ".join(facts))}</p>', "</header>"]
    if settings.sandbox is not None:
        head.insert(-1, f'<p class="soft">{escape(table.sandbox_line(settings.sandbox))}</p>')
    if not report.complete:
        head.append(f'<p class="notice">Not complete: {report.done} of {report.planned} runs have their outcome.</p>')
    return head


# --- pictures ---


def pictures(report: Report, folder: Path, output: Path | None) -> Pictures:
    """Make the pictures of failing runs in a folder beside ``output`` and say where they are. Without a file to stand
    beside there are none. Raises ``OSError``."""
    if output is None:
        return {}
    beside = output.with_name(f"{output.stem}-pictures")
    found: Pictures = {}
    for submission in report.submissions:
        for bad in _shown(submission)[:MOST_PICTURES]:
            trace = folder / "traces" / submission.slug / Path(bad.trace).name
            picture = beside / submission.slug / f"{trace.stem}.html"
            if not trace.is_file():
                continue
            if not _newer(picture, trace):
                try:
                    page.write(trace, picture)
                except (BadTrace, page.CannotShow):
                    continue  # too large, or cut off by a full disk: the replay command is still there
            found[submission.slug, bad.trace] = os.path.relpath(picture, output.parent).replace(os.sep, "/")
    return found


def _shown(submission: SubmissionResult) -> list[Bad]:
    """The runs that the student's page tells in full."""
    return [group.first for group in student_pages.groups(submission) if group.first.trace]


def _newer(picture: Path, trace: Path) -> bool:
    return picture.is_file() and picture.stat().st_mtime >= trace.stat().st_mtime


def _file(name: str) -> str:
    return resources.files("raftgrade.reports").joinpath(name).read_text(encoding="utf-8")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
