"""The service above Raft, as far as the labs need one: it takes a snapshot every so many entries (lab 2D).

What a service keeps does not matter to Raft, so a snapshot here is a heading and noise: every index has its own bytes,
and any two snapshots differ nearly everywhere. Whoever mixes, cuts or relabels them is found out.
"""

from __future__ import annotations

import random

from raftlab.api import ApplyMsg
from raftlab.harness.event_loop import Switch
from raftlab.referee.applied import Applied
from raftlab.seeds import derive


class Service:
    """The services of all servers of a run. ``every`` entries applied, each takes a snapshot of ``size`` bytes or a
    little more; with ``every`` 0, none ever does."""

    def __init__(self, switch: Switch, applies: Applied, seed: int) -> None:
        self._switch = switch
        self._applies = applies
        self._seed = seed
        self.every = 0
        self.size = 0
        # A service takes one snapshot after the other; what came due meanwhile, of which only the newest matters.
        self._busy: dict[tuple[int, int], int] = {}
        switch.on_apply = self._applied

    def snapshot_of(self, index: int) -> bytes:
        """The snapshot of everything up to ``index``. From now on a server may apply it."""
        data = self._applies.snapshots.get(index)
        if data is None:
            noise = random.Random(derive(self._seed, "snapshot", index)).randbytes(self.size)
            data = self._applies.snapshots[index] = f"everything up to {index}.".encode() + noise
        return data

    def _applied(self, server: int, msg: ApplyMsg) -> None:
        if self.every and msg.kind != "snapshot" and msg.index % self.every == 0:
            life = (server, self._switch.seats[server].life)
            if life in self._busy:
                self._busy[life] = msg.index
            else:
                self._take(life, msg.index)

    def _take(self, life: tuple[int, int], index: int) -> None:
        self._busy[life] = 0
        self._switch.tell(life[0], "snapshot", [index, self.snapshot_of(index)], lambda: self._taken(life))

    def _taken(self, life: tuple[int, int]) -> None:
        newer = self._busy.pop(life)
        if newer:
            self._take(life, newer)
