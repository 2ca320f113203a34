"""What a held message may be picked by, besides its method and its ends: named, so that a scenario's text can say it."""

from __future__ import annotations

from collections.abc import Callable

from raftlab.referee.base import Message


def entries(args: Message) -> bool:
    """An AppendEntries that is more than a heartbeat."""
    return bool(args.get("entries"))


def own_term(args: Message) -> bool:
    """An AppendEntries that brings an entry of the leader's own term."""
    return any(entry["term"] == args["term"] for entry in args.get("entries") or [])


def later_chunk(args: Message) -> bool:
    """A chunk of a snapshot that is not the first."""
    return bool(args.get("offset", 0) > 0)


def last_chunk(args: Message) -> bool:
    """The last chunk of a snapshot."""
    return bool(args.get("done"))


FILTERS: dict[str, Callable[[Message], bool]] = {
    "entries": entries,
    "own-term": own_term,
    "later-chunk": later_chunk,
    "last-chunk": last_chunk,
}
