"""How other platforms read what raftgrade writes. The rules of each reader are reimplemented from its source or
documentation.

Each function raises ``AssertionError`` where its platform refuses the file, and returns what the platform would record.
"""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as xml

from tests.grader.trial_class import PEOPLE, moodle_number


def canvas(text: str, column: str) -> dict[str, str]:
    """The grades by login. Rules of lib/gradebook_importer.rb in instructure/canvas-lms: ``row_has_student_headers?``,
    ``update_column_count``, ``header?``, ``process_pp``, ``process_student`` and the converter of decimal commas."""
    delimiter = ";" if text.partition("\n")[0].count(";") > text.partition("\n")[0].count(",") else ","
    rows = list(csv.reader(io.StringIO(text), delimiter=delimiter))
    header = rows[0]
    assert len(header) > 3
    assert "Student" in header[0]
    assert "ID" in header[1]
    columns = 3
    if re.search(r"SIS\s+User\s+ID", header[2]) and re.search(r"SIS\s+Login\s+ID", header[3]):
        columns += 2
    assert "Section" in header[columns - 1], "Invalid header row"
    assert len({len(row) for row in rows}) == 1
    place = header.index(column)
    by_id = {str(person.number): person.login for person in PEOPLE}
    by_sis = {person.sis: person.login for person in PEOPLE}
    found = {}
    for row in rows[1:]:
        if "Points Possible" in row[0]:
            assert "read only" not in row[place]
            continue
        login = by_id.get(row[1]) or by_sis.get(row[2]) or f"a new student {row[0]}"
        grade = row[place].strip()
        if re.fullmatch(r"-?[0-9.,]+%?", grade):
            *whole, last = re.split("[,.]", grade)
            grade = f"{''.join(whole)}.{last}" if whole else last
        found[login] = grade
    return found


def moodle_gradebook(text: str, column: str) -> dict[str, float | None]:
    """The grades by login. Rules of grade/import/csv/classes/load_data.php in moodle/moodle: to ``update_grade_item``, an
    empty cell or ``-`` means no grade, and ``unformat_float`` reads numbers. Anything else, or an unknown user, aborts the
    whole import (``cleanup_import``)."""
    rows = csv.DictReader(io.StringIO(text))
    by_email = {person.email: person.login for person in PEOPLE}
    found: dict[str, float | None] = {}
    for row in rows:
        assert row["Email address"] in by_email, "User mapping error"
        for title in [title for title in rows.fieldnames or () if title.endswith("(Real)")]:
            value = row[title].strip()
            assert value in ("", "-") or re.fullmatch(r"-?\d+(\.\d+)?", value), f"Bad grade in {title}: {value}"
        value = row[column].strip()
        found[by_email[row["Email address"]]] = None if value in ("", "-") else float(value)
    return found


def moodle_worksheet(text: str) -> dict[str, tuple[float, str]]:
    """The new grades and the comments by login. Rules of mod/assign/feedback/offline/importgradeslib.php and locallib.php:
    the columns Identifier, Grade and Last modified (grade) are required, the number follows "Participant ", and a grade that
    is empty, negative or above the maximum is skipped."""
    rows = csv.DictReader(io.StringIO(text))
    assert {"Identifier", "Grade", "Last modified (grade)"} <= set(rows.fieldnames or ())
    by_number = {str(moodle_number(person)): person.login for person in PEOPLE}
    found = {}
    for row in rows:
        login = by_number[row["Identifier"].removeprefix("Participant ")]
        if row["Grade"] and 0 <= float(row["Grade"]) <= 15:
            found[login] = float(row["Grade"]), row["Feedback comments"]
    return found


def moodle_feedback(path: Path) -> dict[str, str]:
    """The feedback files by login. Rules of ``is_valid_filename_for_import`` in mod/assign/feedback/file/importziplib.php:
    the first part of the path that has at least four words between underscores names the student.
    Its second word is a participant's number, and the next two words name a plugin. The rest of the path is the file."""
    by_number = {moodle_number(person): person.login for person in PEOPLE}
    found = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            parts = entry.split("/")
            while parts:
                words = parts.pop(0).split("_", 4)
                if len(words) < 4 or not words[1].isdigit() or int(words[1]) not in by_number:
                    continue
                assert words[2:4] == ["assignsubmission", "file"]
                found[by_number[int(words[1])]] = "/".join([*words[4:], *parts]).strip("/")
                break
            else:
                raise AssertionError(f"ignored: {entry}")
    return found


def canvas_feedback(path: Path) -> list[str]:
    """The logins of those who get a feedback file. Rules of ``infer_comment_context_from_filename`` in
    app/models/assignment.rb of instructure/canvas-lms: the first two numbers between underscores are the user and one of the
    user's attachments."""
    by_number = {str(person.number): person for person in PEOPLE}
    found = []
    with zipfile.ZipFile(path) as archive:
        for entry in archive.namelist():
            user, attachment = [word for word in entry.rpartition("/")[2].split("_") if re.fullmatch(r"\d+", word)][:2]
            person = by_number[user]
            assert attachment == "9000" or int(attachment) - 9000 in (10 * person.number, 10 * person.number + 1)
            found.append(person.login)
    return found


# Elements and attributes of junit-10.xsd of jenkinsci/xunit-plugin; ``!`` marks those that are required.
_JUNIT = {
    "testsuites": "name time tests failures errors",
    "testsuite": "name! tests! failures! errors! group time skipped timestamp hostname id package file log url",
    "properties": "",
    "property": "name! value!",
    "testcase": "name! time classname group",
    "failure": "type message",
    "error": "type message",
    "skipped": "type message",
    "system-out": "",
}
_JUNIT_CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testsuite", "properties", "testcase", "system-out", "system-err"},
    "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"},
}


def junit(text: str) -> dict[str, int]:
    """The number of cases without a failure or error, by the first part of their class name."""
    passed: dict[str, int] = {}

    def check(element: xml.Element) -> None:
        allowed = _JUNIT[element.tag].split()
        assert set(element.attrib) <= {name.rstrip("!") for name in allowed}, element.attrib
        assert {name.rstrip("!") for name in allowed if name.endswith("!")} <= set(element.attrib)
        assert re.fullmatch(r"(([0-9]{0,3},)*[0-9]{3}|[0-9]{0,3})*(\.[0-9]*)?", element.get("time", ""))
        assert {child.tag for child in element} <= _JUNIT_CHILDREN.get(element.tag, set())
        for child in element:
            check(child)

    root = xml.fromstring(text)
    check(root)
    for case in root.iter("testcase"):
        who = case.attrib["classname"]
        passed.setdefault(who, 0)
        passed[who] += case.find("failure") is None and case.find("error") is None
    return passed


# https://gradescope-autograders.readthedocs.io/en/latest/specs/ lists these keys and values.
_GRADESCOPE = {
    *("score", "execution_time", "output", "output_format", "test_output_format", "test_name_format", "visibility"),
    *("stdout_visibility", "extra_data", "tests", "leaderboard"),
}
_GRADESCOPE_TEST = {
    *("score", "max_score", "status", "name", "name_format", "number", "output", "output_format", "tags", "visibility"),
    "extra_data",
}
_WHEN = {"visible", "hidden", "after_due_date", "after_published"}


def gradescope(text: str) -> float:
    """The score that Gradescope records."""
    data = json.loads(text)
    assert set(data) <= _GRADESCOPE
    assert data["visibility"] in _WHEN
    for test in data["tests"]:
        assert set(test) <= _GRADESCOPE_TEST
        assert test["status"] in ("passed", "failed")
        assert test["visibility"] in _WHEN
    return float(data["score"])


def prairielearn(text: str) -> float | None:
    """The score; ``None`` if the answer counts as not gradable. Rules of apps/prairielearn/src/lib/externalGraderCommon.ts
    (``makeGradingResult``), of elements/pl-external-grader-results, and of docs/externalGrading.md in
    PrairieLearn/PrairieLearn: at most 1 MB, a number from 0 to 1, and points in all tests or in none."""
    assert len(text.encode()) < 1_000_000
    data = json.loads(text)
    assert isinstance(data["score"], int | float)
    assert 0 <= data["score"] <= 1
    assert isinstance(data.get("format_errors", []), list)
    for test in data["tests"]:
        assert isinstance(test["points"], int | float)
        assert isinstance(test["max_points"], int | float)
        assert all(isinstance(test[key], str) for key in ("name", "description", "output"))
    return data["score"] if data["gradable"] else None


def autolab(output: str, problems: set[str]) -> dict[str, float]:
    """The scores by problem. Rules of ``saveAutograde`` and ``parseAutoresult`` in app/helpers/assessment_autograde_core.rb
    of autolab/Autolab: the last line is JSON, in which words before a colon get quotes, and every problem must be
    defined."""
    line = output.rstrip().splitlines()[-1]
    parsed: dict[str, Any] = json.loads(re.sub(r"([a-zA-Z0-9]+):", r'"\1":', line))
    assert parsed["scores"]
    assert set(parsed["scores"]) <= problems
    return {name: float(score) for name, score in parsed["scores"].items()}
