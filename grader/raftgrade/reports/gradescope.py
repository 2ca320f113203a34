"""Gradescope: the results.json of one submission, as its author may see it, and the zip of an autograder."""

from __future__ import annotations

import io
import shlex
import zipfile
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import msgspec

import raftgrade
import raftlab
from raftgrade import zip_files
from raftgrade.reports import student_text
from raftgrade.reports.student_view import for_students
from raftgrade.results import Report, TestResult, passed
from raftlab.safe_text import printable

MAX_OUTPUT = 20_000  # characters for one test
# "hidden" hides a result from students for good, "after_due_date" until the assignment is due, and "after_published" until
# its grades are published.
VISIBILITIES = ("visible", "hidden", "after_due_date", "after_published")
_PACKAGES = ("greenlet", "jinja2", "msgspec", "pytest", "pytest-timeout", "rpyc", "tabulate")


def render(report: Report, for_student: bool = True, visibility: str = "visible") -> str:
    """``results.json``.

    Args:
        for_student: leave out what students must not see.
        visibility: when students see the result, one of :data:`VISIBILITIES`.

    Raises:
        NoMark: no mark may be given yet.
    """
    if for_student:
        report = for_students(report)
    submission = student_text.only_one(report, "results.json")
    data: dict[str, Any] = {
        "score": submission.points,
        "execution_time": report.seconds,
        "output": student_text.about_submission(report, submission),
        "output_format": "text",
        "test_output_format": "text",
        "test_name_format": "text",
        "visibility": visibility,
        "stdout_visibility": "hidden",
        "extra_data": {"tool": report.tool, "late_days": submission.late_days, "penalty": submission.penalty},
        "tests": [_test(place, test, visibility) for place, test in enumerate(submission.tests, start=1)],
    }
    if submission.state == "refused":
        data["tests"] = []
    return msgspec.json.format(msgspec.json.encode(data), indent=1).decode() + "\n"


def _test(place: int, test: TestResult, visibility: str) -> dict[str, Any]:
    return {
        "name": f"{test.lab} {test.name}",
        "number": str(place),
        "score": test.points,
        "max_score": test.max_points,
        "status": "passed" if passed(test) and test.points == test.max_points else "failed",
        "output": student_text.about_test(test)[:MAX_OUTPUT],
        "tags": [test.lab],
        "visibility": visibility,
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
# The report is signed with a key that is kept here; the container's user may have no other place for it.
XDG_STATE_HOME=$(mktemp -d)
export XDG_STATE_HOME
grade() { venv/bin/python -m raftgrade "$@"; }
rm -rf out
# A submission without the file that is asked for gets 0 points and the reason (--single).
grade run submission --single --labs @labs@@raft@ --network @network@ --runs @runs@ --sandbox @sandbox@@rubric@ --out out
# If something could not be judged, there is no results.json: Gradescope says that the autograder failed, nobody loses
# points, and the instructor runs it again.
grade report out --format gradescope --visibility @visibility@ -o results/results.json
"""


def make_zip(
    out: Path,
    labs: list[str],
    network: str,
    runs: int,
    rubric: str | None,
    sandbox: str = "auto",
    visibility: str = "visible",
    raft: str = "",
    more_files: Mapping[str, bytes] | None = None,
) -> None:
    """Write the autograder's zip.

    Args:
        rubric: the text of the rubric, if there is one.
        visibility: one of :data:`VISIBILITIES`.
        raft: the argument of ``--raft``, if every ``kv.py`` runs on one Raft.
        more_files: the contents of more files, by their names in the zip.

    Raises:
        OSError: the zip cannot be written.
    """
    values = {
        "@labs@": ",".join(labs),
        "@raft@": f" --raft {shlex.quote(raft)}" if raft else "",
        "@visibility@": visibility,
        "@network@": network,
        "@runs@": str(runs),
        "@sandbox@": sandbox,
        "@rubric@": " --rubric source/rubric.toml" if rubric is not None else "",
        "@needs@": " ".join(f"{name}=={metadata.version(name)}" for name in _PACKAGES),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (("setup.sh", _SETUP), ("run_autograder", _RUN)):
            for placeholder, value in values.items():
                text = text.replace(placeholder, value)
            zip_files.add(archive, name, text.encode(), executable=True)
        if rubric is not None:
            zip_files.add(archive, "rubric.toml", rubric.encode())
        files = {
            f"packages/{package.__name__}/{name}": data
            for package in (raftlab, raftgrade)
            for name, data in zip_files.package_files(package)
        }
        for name, data in (files | dict(more_files or {})).items():
            zip_files.add(archive, name, data)
    out.write_bytes(buffer.getvalue())
