"""What a leader knows of another server, and whether it is probing, replicating or sending a snapshot to it."""

from __future__ import annotations

from dataclasses import dataclass, field

# How many messages with entries may be in flight to a server that accepts them.
WINDOW = 8


@dataclass
class Transfer:
    index: int
    term: int
    data: bytes
    members: list[int]
    old_members: list[int] | None
    offset: int = 0


@dataclass
class Progress:
    next: int
    match: int = 0
    state: str = "probe"
    paused: bool = False  # while probing: whether a message was sent and has no reply yet
    inflight: list[int] = field(default_factory=list)  # while replicating: the last index of each message
    transfer: Transfer | None = None
    active: bool = False  # whether the server has answered since the last check of the quorum
    learner: bool = False
    round: int = 0  # the last round of heartbeats that the server has answered
    leaving: int | None = None  # for how many ticks a removed server still gets messages

    def waits(self) -> bool:
        if self.state == "probe":
            return self.paused
        return self.state == "snapshot" or len(self.inflight) >= WINDOW

    def become(self, state: str) -> None:
        self.state, self.paused, self.inflight = state, False, []
        if state != "snapshot":
            self.next = self.match + 1

    def update(self, match: int) -> bool:
        """Take note that the logs agree up to ``match``. Returns whether that is news."""
        news = match > self.match
        if news:
            self.match, self.paused = match, False
        self.next = max(self.next, self.match + 1)
        self.inflight = [last for last in self.inflight if last > self.match]
        return news

    def refuse(self, prev: int, hint: int) -> bool:
        """Take note that the server has refused a message that began at ``prev``. Returns whether that is news."""
        if self.state == "replicate":
            if prev <= self.match:
                return False
            self.become("probe")
            return True
        if self.state != "probe" or self.next - 1 != prev:
            return False
        self.next = max(min(prev, hint + 1), self.match + 1)
        self.paused = False
        return True
