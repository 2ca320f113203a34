"""Filters for ``Cluster.hold(when=...)``: they select RPCs by the fields of the request. Scenario files use their names."""

from __future__ import annotations

from collections.abc import Callable

from raftlab.referee.base import Message


def entries(args: Message) -> bool:
    """Selects an AppendEntries with entries."""
    return bool(args.get("entries"))


def own_term(args: Message) -> bool:
    """Selects an AppendEntries with an entry of the leader's own term."""
    return any(entry["term"] == args["term"] for entry in args.get("entries") or [])


def later_chunk(args: Message) -> bool:
    """Selects every chunk of a snapshot except the first."""
    return bool(args.get("offset", 0) > 0)


def last_chunk(args: Message) -> bool:
    """Selects the last chunk of a snapshot."""
    return bool(args.get("done"))


# The filters by their names in scenario files.
FILTERS: dict[str, Callable[[Message], bool]] = {
    "entries": entries,
    "own-term": own_term,
    "later-chunk": later_chunk,
    "last-chunk": last_chunk,
}
