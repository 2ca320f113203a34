"""Tests of reading the dates of submissions, and of how late a submission is."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from raftgrade.dates import late_days, parse_date, parse_deadline
from raftgrade.students import Student

DUE = datetime(2026, 11, 20, 23, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-11-20 22:15", "2026-11-20T22:15:00"),
        ("2026-11-20T22:15:00+01:00", "2026-11-20T22:15:00+01:00"),
        ("2026-11-20 22:15:00 UTC", "2026-11-20T22:15:00+00:00"),
        ("2026-11-20 22:15:59.123456000 Z", "2026-11-20T22:15:59.123456+00:00"),
        ("2026-11-20 22:15:59 -0500", "2026-11-20T22:15:59-05:00"),
        ("Friday, 20 November 2026, 10:15 PM", "2026-11-20T22:15:00"),
        ("-", None),
        ("late", None),
        ("yesterday", None),
    ],
)
def test_the_date_formats_of_platforms_are_read(text: str, iso: str | None) -> None:
    found = parse_date(text)
    assert (found and found.isoformat()) == iso


def test_a_day_ends_at_midnight_and_has_this_machines_zone() -> None:
    due = parse_deadline("2026-11-20")
    assert due is not None
    assert due.tzinfo is not None
    assert due.isoformat().startswith("2026-11-20T23:59:59")


@pytest.mark.parametrize(
    ("submitted", "students", "days"),
    [
        ("2026-11-20T22:59Z", [], 0),
        ("2026-11-21 23:00", [], 1),  # a date without a time zone has the deadline's
        ("2026-11-21T23:00+02:00", [], 22 / 24),
        ("2026-11-21T23:00Z", [Student(extension_days=0.5)], 0.5),
        ("2026-11-21T23:00Z", [Student(), Student(extension_days=2)], 0),  # the latest deadline of a group counts
        ("2026-11-21T23:00Z", [Student(due="2026-11-21 12:00")], 11 / 24),
        ("", [], None),
        ("late", [], None),
    ],
)
def test_how_many_days_late_a_submission_is(submitted: str, students: list[Student], days: float | None) -> None:
    assert late_days(submitted, DUE, students) == (None if days is None else pytest.approx(days))
