"""A Raft as a plain discrete-event simulation, without threads, processes, encoded messages or a referee: what an RPC costs
when nothing checks it. The benchmarks page compares raftlab's simulator with it.

    python benchmarks/plain_raft.py [VIRTUAL_SECONDS]

Five servers elect a leader, which sends heartbeats. Prints the number of RPCs and the CPU seconds that they took.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Any

SERVERS = 5
HEARTBEAT = 0.1  # seconds, as in the reference solution
TIMEOUT = (0.4, 0.8)  # bounds of the election timeout, in seconds


@dataclass
class Entry:
    term: int
    command: Any


class Simulation:
    """A clock, a heap of what happens when, and a network with random delays."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.rng = random.Random(seed)
        self.rpcs = 0
        self.servers = [Server(self, number) for number in range(SERVERS)]
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._sequence = 0
        for server in self.servers:
            server.restart_timer()

    def after(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self._sequence += 1
        heappush(self._events, (self.now + seconds, self._sequence, call, args))

    def call(self, server: int, method: str, args: tuple[Any, ...], on_reply: Callable[..., None]) -> None:
        """Send a request. When the reply arrives, ``on_reply`` is called with ``args`` and the reply."""
        self.rpcs += 1
        self.after(self.rng.uniform(0.0005, 0.0015), self._arrive, server, method, args, on_reply)

    def _arrive(self, server: int, method: str, args: tuple[Any, ...], on_reply: Callable[..., None]) -> None:
        reply = getattr(self.servers[server], method)(*args)
        self.after(self.rng.uniform(0.0005, 0.0015), on_reply, *args, reply)

    def run(self, until: float) -> None:
        while self._events[0][0] <= until:
            self.now, _, call, args = heappop(self._events)
            call(*args)
        self.now = until


@dataclass
class Server:
    sim: Simulation
    id: int
    term: int = 0
    voted_for: int | None = None
    role: str = "follower"
    votes: int = 0
    log: list[Entry] = field(default_factory=lambda: [Entry(0, None)])
    timer: int = 0

    def restart_timer(self) -> None:
        self.timer += 1
        self.sim.after(self.sim.rng.uniform(*TIMEOUT), self.time_out, self.timer)

    def time_out(self, timer: int) -> None:
        if timer != self.timer or self.role == "leader":
            return
        self.term, self.voted_for, self.role, self.votes = self.term + 1, self.id, "candidate", 1
        self.restart_timer()
        last = len(self.log) - 1
        for peer in range(SERVERS):
            if peer != self.id:
                args = (self.term, self.id, last, self.log[last].term)
                self.sim.call(peer, "request_vote", args, self.count_vote)

    def see(self, term: int) -> None:
        if term > self.term:
            self.term, self.voted_for, self.role = term, None, "follower"

    def request_vote(self, term: int, candidate: int, last: int, last_term: int) -> tuple[int, bool]:
        self.see(term)
        up_to_date = (last_term, last) >= (self.log[-1].term, len(self.log) - 1)
        granted = term == self.term and self.voted_for in (None, candidate) and up_to_date
        if granted:
            self.voted_for = candidate
            self.restart_timer()
        return self.term, granted

    def count_vote(self, term: int, candidate: int, last: int, last_term: int, reply: tuple[int, bool]) -> None:
        self.see(reply[0])
        if reply[1] and self.role == "candidate" and self.term == term:
            self.votes += 1
            if 2 * self.votes > SERVERS:
                self.role = "leader"
                self.send_heartbeats(term)

    def send_heartbeats(self, term: int) -> None:
        if self.role != "leader" or self.term != term:
            return
        for peer in range(SERVERS):
            if peer != self.id:
                prev = len(self.log) - 1
                args = (term, self.id, prev, self.log[prev].term, [], 0)
                self.sim.call(peer, "append_entries", args, self.count_success)
        self.sim.after(HEARTBEAT, self.send_heartbeats, term)

    def append_entries(
        self, term: int, leader: int, prev: int, prev_term: int, entries: list[Entry], commit: int
    ) -> tuple[int, bool]:
        self.see(term)
        if term < self.term:
            return self.term, False
        self.role = "follower"
        self.restart_timer()
        if prev >= len(self.log) or self.log[prev].term != prev_term:
            return self.term, False
        self.log[prev + 1 :] = entries or self.log[prev + 1 :]
        return self.term, True

    def count_success(
        self, term: int, leader: int, prev: int, prev_term: int, entries: list[Entry], commit: int,
        reply: tuple[int, bool],
    ) -> None:  # fmt: skip
        self.see(reply[0])


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 1000.0
    sim = Simulation(0)
    sim.run(5.0)
    rpcs, cpu = sim.rpcs, time.process_time()
    sim.run(5.0 + seconds)
    print(sim.rpcs - rpcs, time.process_time() - cpu)


if __name__ == "__main__":
    main()
