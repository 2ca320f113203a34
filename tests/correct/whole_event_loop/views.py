"""What a leader knows of the other servers and of a membership change that is under way, and snapshots in transfer."""

from __future__ import annotations

import queue
from dataclasses import dataclass, field
from typing import Any

from durable import Configuration


@dataclass
class Shipment:
    """A snapshot in transfer. A leader keeps the part that it has not sent yet. A follower keeps the part that has
    arrived."""

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
    """A learner's round: it began at ``since``, and ends when the learner reaches the index ``target``."""

    number: int
    target: int
    since: float


@dataclass
class Change:
    """A membership change that waits for its learners, and the queue in which the call waits for its answer."""

    term: int
    members: frozenset[int]
    answer: queue.Queue[Any]
    until: float
    rounds: dict[int, Round] = field(default_factory=dict)
