"""Tests that the handout about the report's format names every field that the report has."""

import re
from pathlib import Path

import msgspec

from raftgrade import results
from raftgrade.plan import LeftOut, Settings
from raftgrade.students import Student
from raftlab.explain.failure import Failure

HANDOUT = Path(__file__).parents[2] / "handouts" / "report-schema.md"


def test_the_handout_names_exactly_the_fields_of_the_report() -> None:
    rows = re.findall(r"^\| (`[^|]*) \|", HANDOUT.read_text(encoding="utf-8").split("## `report.json`")[1], re.M)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    kinds = (
        results.Report,
        results.SubmissionResult,
        results.TestResult,
        results.NetworkResult,
        results.BadRun,
    )
    assert documented == {field.name for kind in kinds for field in msgspec.structs.fields(kind)}


def test_the_handout_names_the_fields_of_the_smaller_parts() -> None:
    text = HANDOUT.read_text(encoding="utf-8")
    for kind in (
        Settings,
        LeftOut,
        Student,
        results.ManualMark,
        results.SameCode,
        results.CodePlace,
        results.Problem,
        results.Spread,
        Failure,
    ):
        for field in msgspec.structs.fields(kind):
            assert f"`{field.name}`" in text, f"{kind.__name__}.{field.name}"
    assert f"schema {results.SCHEMA}" in text
