"""The service above Raft, as far as the labs need one: it takes a snapshot every so many entries (lab 2D).

What a service keeps does not matter to Raft, so a snapshot here is a heading and noise: every index has its own bytes,
and any two snapshots differ nearly everywhere. Whoever mixes, cuts or relabels them is found out.
"""

from __future__ import annotations

import random

from raftlab.api import ApplyMsg
from raftlab.harness.event_loop import EventLoop
from raftlab.referee.applied import StateMachineSafety
from raftlab.seeds import derive


class Service:
    """The services of all servers of a run. ``every`` entries applied, each takes a snapshot of ``size`` bytes or a
    little more; with ``every`` 0, none ever does."""

    def __init__(self, event_loop: EventLoop, applies: StateMachineSafety, seed: int) -> None:
        self._event_loop = event_loop
        self._applies = applies
        self._seed = seed
        self.every = 0
        self.size = 0
        # A service takes one snapshot after the other; what came due meanwhile, of which only the newest matters.
        self._busy: dict[tuple[int, int], int] = {}
        event_loop.on_apply = self._applied

    def snapshot_of(self, index: int) -> bytes:
        """The snapshot of everything up to ``index``. From now on a server may apply it."""
        data = self._applies.snapshots.get(index)
        if data is None:
            noise = random.Random(derive(self._seed, "snapshot", index)).randbytes(self.size)
            data = self._applies.snapshots[index] = f"everything up to {index}.".encode() + noise
        return data

    def _applied(self, server: int, msg: ApplyMsg) -> None:
        if self.every and msg.kind != "snapshot" and msg.index % self.every == 0:
            incarnation = (server, self._event_loop.server_states[server].incarnation)
            if incarnation in self._busy:
                self._busy[incarnation] = msg.index
            else:
                self._take(incarnation, msg.index)

    def _take(self, incarnation: tuple[int, int], index: int) -> None:
        self._busy[incarnation] = 0
        self._event_loop.tell(
            incarnation[0], "snapshot", [index, self.snapshot_of(index)], lambda: self._taken(incarnation)
        )

    def _taken(self, incarnation: tuple[int, int]) -> None:
        newer = self._busy.pop(incarnation)
        if newer:
            self._take(incarnation, newer)
