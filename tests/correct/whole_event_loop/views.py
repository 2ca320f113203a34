"""What a leader knows of the other servers and of a change of members; snapshots in transfer."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any

from durable import Configuration


@dataclass
class Shipment:
    """A snapshot in transfer: at the leader the rest to be sent, at a follower the part that has arrived."""

    leader_term: int
    index: int
    index_term: int
    data: bytes
    configuration: Configuration | None
    offset: int = 0


@dataclass
class View:
    """What a leader knows of another server."""

    next_index: int
    match_index: int = 0
    unanswered: Any = None
    shipment: Shipment | None = None


@dataclass
class Round:
    """A learner, and the index ``target`` that it must reach soon."""

    number: int
    target: int
    since: float


@dataclass
class Change:
    """A change of members that waits for its learners, and the call to answer then."""

    term: int
    members: frozenset[int]
    answer: queue.Queue[Any]
    until: float
    rounds: dict[int, Round] = field(default_factory=dict)
