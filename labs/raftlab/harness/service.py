"""The service above Raft, reduced to what the labs need: it takes a snapshot from time to time (lab 2D).

Raft does not interpret snapshots, so here a snapshot is a heading and random bytes. The bytes depend on the index, and any
two snapshots differ in nearly every byte. So a Raft is detected if it mixes snapshots, truncates one, or uses one for
another index.
"""

from __future__ import annotations

import random

from raftlab.api import ApplyMsg
from raftlab.harness.event_loop import EventLoop
from raftlab.referee.applied import StateMachineSafety
from raftlab.seeds import derive


class Service:
    """The services of all servers of a run.

    Args:
        event_loop: the run's event loop.
        applies: the referee's record of what was applied. The service registers its snapshots in it.
        seed: seeds the contents of snapshots.

    Attributes:
        every: a service takes a snapshot each time it has applied this many entries; 0 means never.
        size: number of random bytes in a snapshot.
    """

    def __init__(self, event_loop: EventLoop, applies: StateMachineSafety, seed: int) -> None:
        self._event_loop = event_loop
        self._applies = applies
        self._seed = seed
        self.every = 0
        self.size = 0
        # The calls of snapshot() in progress, by server and incarnation. The value is the highest index at which
        # another snapshot has become due since the call began, or 0. A service takes one snapshot at a time, and only
        # the newest matters.
        self._taking: dict[tuple[int, int], int] = {}
        self._inside_put = False
        event_loop.on_apply = self._on_apply

    def snapshot_of(self, index: int) -> bytes:
        """The snapshot of everything up to ``index``. From now on the referee lets servers apply it."""
        data = self._applies.snapshots.get(index)
        if data is None:
            noise = random.Random(derive(self._seed, "snapshot", index)).randbytes(self.size)
            data = self._applies.snapshots[index] = f"everything up to {index}.".encode() + noise
        return data

    def snapshot_inside_put(self) -> None:
        """Let the services of all servers that start from now on call ``snapshot()`` in the thread that called ``put``,
        before ``put`` returns."""
        self._event_loop.put_waits = self._inside_put = True

    def snapshot_before_put_returns(self) -> None:
        """Let the services of all servers that start from now on call ``snapshot()`` in a separate thread, and let ``put``
        return only after ``snapshot()`` has returned."""
        self._event_loop.put_waits, self._inside_put = True, False

    def _on_apply(self, server: int, msg: ApplyMsg) -> None:
        if self._event_loop.put_waits:
            self._take(server, self._due_while_put_waits(msg))
        elif self.every and msg.kind != "snapshot" and msg.index % self.every == 0:
            incarnation = (server, self._event_loop.server_states[server].incarnation)
            if incarnation in self._taking:
                self._taking[incarnation] = msg.index
            else:
                self._begin(incarnation, msg.index)

    def _due_while_put_waits(self, msg: ApplyMsg) -> int:
        """The index up to which to take a snapshot during this ``put``; 0: no snapshot.

        Each snapshot is taken twice: during the ``put`` of its last entry, and again during the next ``put``. A Raft that
        counts a message as applied only after ``put`` has returned may ignore the first call."""
        if not self.every or msg.kind == "snapshot" or msg.index < self.every or msg.index % self.every > 1:
            return 0
        return msg.index - msg.index % self.every

    def _take(self, server: int, index: int) -> None:
        event_loop = self._event_loop
        if not index:
            event_loop.take(server)
        elif self._inside_put:
            event_loop.take(server, index, self.snapshot_of(index))
        else:
            args = [index, self.snapshot_of(index)]
            event_loop.begin_call(server, "snapshot", args, callback=lambda: event_loop.take(server))

    def _begin(self, incarnation: tuple[int, int], index: int) -> None:
        self._taking[incarnation] = 0
        self._event_loop.begin_call(
            incarnation[0], "snapshot", [index, self.snapshot_of(index)], callback=lambda: self._taken(incarnation)
        )

    def _taken(self, incarnation: tuple[int, int]) -> None:
        newer = self._taking.pop(incarnation)
        if newer:
            self._begin(incarnation, newer)
