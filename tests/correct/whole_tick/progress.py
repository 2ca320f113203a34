"""What a leader knows of another server: is it probing, replicating or sending a snapshot?"""

from __future__ import annotations

from dataclasses import dataclass, field

# How many messages with entries may be in flight to a server that takes them.
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
    paused: bool = False  # while probing: one message until there is an answer
    inflight: list[int] = field(default_factory=list)  # while replicating: the last index of each message
    transfer: Transfer | None = None
    active: bool = False  # whether it has answered since the last check
    learner: bool = False
    round: int = 0  # the last round that it has answered
    leaving: int | None = None  # ticks for which a removed server still gets messages

    def waits(self) -> bool:
        if self.state == "probe":
            return self.paused
        return self.state == "snapshot" or len(self.inflight) >= WINDOW

    def become(self, state: str) -> None:
        self.state, self.paused, self.inflight = state, False, []
        if state != "snapshot":
            self.next = self.match + 1

    def update(self, match: int) -> bool:
        """It agrees up to ``match``. Returns whether that is news."""
        news = match > self.match
        if news:
            self.match, self.paused = match, False
        self.next = max(self.next, self.match + 1)
        self.inflight = [last for last in self.inflight if last > self.match]
        return news

    def refuse(self, prev: int, hint: int) -> bool:
        """It has refused a message that began at ``prev``. Returns whether that is news."""
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
