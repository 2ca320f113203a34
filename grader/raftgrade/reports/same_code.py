"""Sentences about submissions that have the same code."""

from __future__ import annotations

from raftgrade.results import Report, SameCode
from raftlab.safe_text import one_line

HEADING = "Same code (apart from comments, docstrings and formatting)"
_MAX_NAMES = 5  # in a cell of a gradebook


def lines(report: Report) -> list[str]:
    """A sentence for each group of places that have the same code."""
    return [_line(group) for group in report.same_code]


def _line(group: SameCode) -> str:
    first = group.places[0]
    places = [
        one_line(each.submission if not each.name else f"{each.submission}/{each.file}", 100)
        + (f" ({one_line(each.name)})" if each.name != first.name else "")
        for each in group.places
    ]
    what = f"{one_line(first.name)} in " if first.name else ""
    origin = f" = {group.origin}" if group.origin else ""
    renamed = "; names, strings or annotations differ" if group.renamed else ""
    return f"{what}{', '.join(places)}{origin}{renamed}"


def others(report: Report, submission: str) -> list[str]:
    """The names of everything that has code in common with ``submission``: first what raftlab hands out, then other
    submissions."""
    origins: dict[str, None] = {}
    names: dict[str, None] = {}
    for group in report.same_code:
        members = dict.fromkeys(place.submission for place in group.places)
        if submission in members:
            origins |= {group.origin: None} if group.origin else {}
            names |= {name: None for name in members if name != submission}
    shown = [one_line(name, 60) for name in names]
    more = [f"and {len(shown) - _MAX_NAMES} more"] if len(shown) > _MAX_NAMES else []
    return [*origins, *shown[:_MAX_NAMES], *more]
