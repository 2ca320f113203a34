"""Gradescope: the results.json of one submission, as its author may see it, and the zip of an autograder."""

from __future__ import annotations

import io
import stat
import zipfile
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import msgspec

import raftgrade
import raftlab
from raftgrade.reports import table
from raftgrade.reports.student_view import for_students
from raftgrade.results import Report, SubmissionResult, TestResult, passed
from raftlab.explain import render as explain
from raftlab.safe_text import count, number, one_line, printable, spans

MAX_OUTPUT = 20_000  # characters for one test
_PACKAGES = ("greenlet", "jinja2", "msgspec", "pytest", "pytest-timeout", "rpyc", "tabulate")
_EPOCH = (2020, 1, 1, 0, 0, 0)  # the date of all files, so that the same files give the same zip


class NoMark(Exception):
    """No mark may be given yet, because something could not be judged. Gradescope then shows that its autograder failed."""


def render(report: Report, for_student: bool = True) -> str:
    """``results.json``. Raises :class:`NoMark`."""
    if len(report.submissions) != 1:
        raise NoMark(
            f"results.json is about one submission, and this report has {len(report.submissions)}: choose one with "
            "--student NAME"
        )
    if for_student:
        report = for_students(report)
    submission = report.submissions[0]
    if not submission.final:
        raise NoMark(
            f"{printable(submission.name)} gets no mark yet: {number(submission.open_points)} points are open because "
            "runs could not be judged, or runs are missing; run it again"
        )
    data: dict[str, Any] = {
        "score": submission.points,
        "execution_time": report.seconds,
        "output": _output(report, submission),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": "visible",
        "stdout_visibility": "hidden",
        "extra_data": {"tool": report.tool, "late_days": submission.late_days, "penalty": submission.penalty},
        "tests": [_test(place, test) for place, test in enumerate(submission.tests, start=1)],
    }
    if submission.state == "refused":
        data["tests"] = []
    return msgspec.json.format(msgspec.json.encode(data), indent=1).decode() + "\n"


def _output(report: Report, submission: SubmissionResult) -> str:
    lines = []
    if submission.state == "refused":
        lines.append("The submission cannot be tested:")
        for problem in submission.problems:
            lines += [f"  {one_line(problem.text, 600)}", *([f"    at {problem.where}"] if problem.where else [])]
            lines += [f"    read: {problem.handout}"] if problem.handout else []
    elif submission.clean:
        lines.append("Every run of every test passed.")
    else:
        red = sum(not passed(test) for test in submission.tests)
        lines.append(f"{count(red, 'test')} of {len(submission.tests)} did not pass every run.")
        lines.append("Each failure below has a command that repeats the run on your own machine.")
    if submission.penalty:
        lines.append(f"Late by {number(submission.late_days)} days: {number(submission.penalty)} points less.")
    if report.settings.sandbox is not None:
        lines.append(f"({table.sandbox_line(report.settings.sandbox)})")
    return printable("\n".join(lines))


def _test(place: int, test: TestResult) -> dict[str, Any]:
    blocks = [printable(note) for note in test.notes]
    for network in test.networks:
        name = f"{network.network}, hidden seeds" if network.hidden else network.network
        judged = network.passes + network.failures
        blocks.append(f"{name}: {network.passes} of {count(judged, 'run')} passed")
        for sort in network.classes:
            same = [bad for bad in network.bad if bad.sort == sort and bad.outcome == "failed"]
            if same:
                seeds = "" if network.hidden else f" (seeds {spans([bad.seed for bad in same])})"
                blocks.append(
                    f"{count(len(same), 'time')}{seeds}:\n" + explain.as_text(same[0].failure, same[0].replay)
                )
    if not passed(test):
        blocks += [f"advice: {line}" for line in test.advice]
    return {
        "name": f"{test.lab} {test.name}",
        "number": str(place),
        "score": test.points,
        "max_score": test.max_points,
        "status": "passed" if passed(test) and test.points == test.max_points else "failed",
        "output": printable("\n\n".join(blocks))[:MAX_OUTPUT],
        "tags": [test.lab],
        "visibility": "visible",
        "extra_data": {"title": printable(test.title)},
    }


# --- the autograder ---

_SETUP = """#!/usr/bin/env bash
# Made by raftgrade gradescope-zip. Runs once, as root, when Gradescope builds the image.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq python3 python3-venv bubblewrap
python=
for candidate in python3.13 python3.12 python3.11 python3; do
  if ! "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then continue; fi
  python=$candidate; break
done
if [ -z "$python" ]; then
  apt-get install -y -qq python3.11 python3.11-venv
  python=python3.11
fi
"$python" -m venv /autograder/venv
/autograder/venv/bin/pip install -q --require-virtualenv @needs@
site=$(/autograder/venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
cp -r /autograder/source/packages/. "$site/"
# Students' code runs in processes of its own, which must not read this folder.
chmod -R go-rwx /autograder/source
/autograder/venv/bin/python -m raftgrade --version
"""

_RUN = """#!/usr/bin/env bash
# Made by raftgrade gradescope-zip. Runs once for each submission.
set -uo pipefail
cd /autograder
export PYTHONDONTWRITEBYTECODE=1
grade() { venv/bin/python -m raftgrade "$@"; }
rm -rf out
grade run submission --labs @labs@ --network @network@ --runs @runs@@rubric@ --out out
# If something could not be judged, there is no results.json: Gradescope says that the autograder failed, nobody loses
# points, and the instructor runs it again.
grade report out --format gradescope -o results/results.json
"""


def make_zip(out: Path, labs: list[str], network: str, runs: int, rubric: str | None) -> None:
    """Write the autograder's zip. Raises ``OSError``."""
    values = {
        "@labs@": ",".join(labs),
        "@network@": network,
        "@runs@": str(runs),
        "@rubric@": " --rubric source/rubric.toml" if rubric is not None else "",
        "@needs@": " ".join(f"{name}=={metadata.version(name)}" for name in _PACKAGES),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("setup.sh", _SETUP), ("run_autograder", _RUN)):
            for placeholder, value in values.items():
                text = text.replace(placeholder, value)
            _add(archive, name, text.encode(), executable=True)
        if rubric is not None:
            _add(archive, "rubric.toml", rubric.encode())
        for package in (raftlab, raftgrade):
            for name, data in _files(Path(str(resources.files(package)))):
                _add(archive, f"packages/{package.__name__}/{name}", data)
    out.write_bytes(buffer.getvalue())


def _files(folder: Path) -> list[tuple[str, bytes]]:
    return [
        (path.relative_to(folder).as_posix(), path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    ]


def _add(archive: zipfile.ZipFile, name: str, data: bytes, executable: bool = False) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = (stat.S_IFREG | (0o755 if executable else 0o644)) << 16
    archive.writestr(entry, data)
