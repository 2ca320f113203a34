"""Dates as people and course systems write them, and how late a submission is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, tzinfo

from raftgrade.students import Student

# Moodle's dates in English: "Monday, 5 March 2018, 10:15 AM".
_MOODLE = ("%A, %d %B %Y, %I:%M %p", "%d %B %Y, %I:%M %p", "%A, %d %B %Y, %H:%M")
_DAY_S = 86_400


def parse_date(text: str) -> datetime | None:
    """The moment that ``text`` names: ISO 8601, or as Moodle or Gradescope write it. The moment has no time zone if
    the text has none. ``None`` if the text is not understood."""
    text = " ".join(text.split())
    # Python does not accept the space before the zone in 2026-11-20 23:59:00 +0100 or 2026-11-20 23:59:00 UTC.
    compact = re.sub(r"\s*(?:UTC|GMT)$", "Z", re.sub(r"\s+([+-]\d\d:?\d\d|Z)$", r"\1", text))
    try:
        return datetime.fromisoformat(compact)
    except ValueError:
        pass
    for form in _MOODLE:
        try:
            return datetime.strptime(text, form)
        except ValueError:
            continue
    return None


def parse_deadline(text: str, zone: tzinfo | None = None) -> datetime | None:
    """Parse a deadline. A date without a time means the end of that day. A deadline without a time zone is in ``zone``, or,
    if this is ``None``, in the time zone of this machine."""
    moment = parse_date(text)
    if moment is None:
        return None
    if re.fullmatch(r"\s*\d{4}-\d\d-\d\d\s*", text):
        moment = moment.replace(hour=23, minute=59, second=59)
    if moment.tzinfo is not None:
        return moment
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)


def late_days(submitted: str, due: datetime, students: Sequence[Student]) -> float | None:
    """The number of days by which a submission is late; ``None`` if its date is not known.

    Args:
        submitted: when the submission was handed in. A time without a zone is in the deadline's zone.
        due: the course's deadline, with a time zone.
        students: the authors. The latest deadline of any of them counts.
    """
    moment = parse_date(submitted) if submitted else None
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=due.tzinfo)
    late = []
    for student in students or [Student()]:
        own = parse_deadline(student.due, due.tzinfo) if student.due else None
        late.append((moment - (own or due)).total_seconds() / _DAY_S - student.extension_days)
    return max(0.0, min(late))


def after_extension(days: float, students: Sequence[Student]) -> float:
    """The days by which a submission is late when the authors' longest extension has been subtracted from ``days``."""
    return max(0.0, days - max((student.extension_days for student in students), default=0.0))
