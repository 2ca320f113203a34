"""What a server keeps of the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class Other:
    """What a leader keeps of another server."""

    next_index: int
    heard_at: float
    match_index: int = 0
    told_commit: int = 0
    call: Any = None  # the arguments of the call with news that is under way
    call_since: float = 0.0
    parcel: Parcel | None = None


@dataclass
class Parcel:
    """A snapshot on its way to one server."""

    index: int
    index_term: int
    data: bytes
    offset: int = 0
    failures: int = 0
