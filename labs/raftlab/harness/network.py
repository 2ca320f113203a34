"""The unreliable lab network: who can reach whom, and what happens to a message on its way.

It holds no messages and no clock. The judge asks it "what becomes of this message on this link?" and gets delays (none:
lost; two: duplicated); the answer depends only on the link, its conditions and the link's own seeded generator, so a
message more on one link changes nothing on another.

A request from S1 to S2 travels the link S1→S2, its reply the link S2→S1. A cut of one direction stops requests one way
and replies the other.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from raftlab.seeds import derive

# Seconds. No message is faster than this: the simulator relies on it to run servers ahead of the judge (lookahead).
MIN_DELAY = 0.000_5


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a link treats messages. Times are seconds, chances are between 0 and 1.

    The figures of :data:`UNRELIABLE` and of :meth:`Network.give_up_after` are the original lab's.
    """

    latency: tuple[float, float] = (0.000_5, 0.001_5)
    """The wire itself, uniform; never below :data:`MIN_DELAY`."""
    extra: tuple[float, float] = (0.0, 0.0)
    """Added to requests, uniform."""
    lose_request: float = 0.0
    lose_reply: float = 0.0
    duplicate: float = 0.0
    """The chance that a message arrives a second time, up to :attr:`echo` seconds later."""
    echo: float = 0.05
    reorder_reply: float = 0.0
    """The chance that a reply is kept back for 0.2 s to 2.4 s, so that later ones overtake it."""


RELIABLE = Conditions()
UNRELIABLE = Conditions(extra=(0.0, 0.026), lose_request=0.1, lose_reply=0.1)


class Network:
    """The state of every link between ``servers`` servers."""

    def __init__(self, servers: int, seed: int) -> None:
        self.servers = servers
        self.conditions = RELIABLE
        self.long_waits = True
        """Whether a call to a server that cannot be reached fails after up to 7 s (as in all of the original's Raft
        tests), or after up to 0.1 s."""
        self._special: dict[tuple[int, int], Conditions] = {}
        self._cut: set[tuple[int, int]] = set()
        self._off: set[int] = set()
        self._seed = seed
        self._rngs: dict[tuple[int, int], random.Random] = {}

    def reseed(self, seed: int) -> None:
        """What becomes of messages comes from another seed from now on."""
        self._seed = seed
        self._rngs.clear()

    # --- who can reach whom ---

    def connected(self, server: int) -> bool:
        """Whether the server is on the network at all."""
        return server not in self._off

    def open(self, src: int, dst: int) -> bool:
        """Whether a message from ``src`` reaches ``dst``. A server always reaches itself."""
        if src == dst:
            return True
        return not (src in self._off or dst in self._off or (src, dst) in self._cut)

    def disconnect(self, server: int) -> None:
        self._off.add(server)

    def connect(self, server: int) -> None:
        self._off.discard(server)

    def cut(self, src: int, dst: int) -> None:
        """Cut one direction: nothing from ``src`` reaches ``dst``."""
        self._cut.add((src, dst))

    def mend(self, src: int, dst: int) -> None:
        self._cut.discard((src, dst))

    def partition(self, groups: Iterable[Iterable[int]]) -> None:
        """Cut every link between servers of different groups, and no other. A server in no group is alone."""
        home: dict[int, int] = {}
        for number, group in enumerate(groups):
            home.update(dict.fromkeys(group, number))
        self._cut = {
            (a, b)
            for a in range(self.servers)
            for b in range(self.servers)
            if a != b and (a not in home or home[a] != home.get(b))
        }

    def heal(self) -> None:
        """Every server on the network, every link open. Conditions (loss, delay) stay as they are."""
        self._cut.clear()
        self._off.clear()

    # --- what becomes of a message ---

    def set_link(self, src: int, dst: int, **changes: object) -> None:
        """Give one direction conditions of its own: ``set_link(0, 1, lose_request=0.5)``."""
        old = self._special.get((src, dst), self.conditions)
        self._special[src, dst] = replace(old, **changes)  # type: ignore[arg-type]

    def request_delays(self, src: int, dst: int) -> list[float]:
        """When the copies of a request arrive, in seconds from now; none when it is lost."""
        rng, link = self._link(src, dst)
        if link.lose_request and rng.random() < link.lose_request:
            return []
        delay = rng.uniform(*link.latency)
        if link.extra[1]:
            delay += rng.uniform(*link.extra)
        return self._copies(rng, link, delay)

    def reply_delays(self, src: int, dst: int) -> list[float]:
        """The same for a reply travelling from ``src`` back to ``dst``."""
        rng, link = self._link(src, dst)
        if link.lose_reply and rng.random() < link.lose_reply:
            return []
        delay = rng.uniform(*link.latency)
        if link.reorder_reply and rng.random() < link.reorder_reply:
            delay += 0.2 + rng.uniform(0.0, rng.uniform(0.0, 2.2))
        return self._copies(rng, link, delay)

    def give_up_after(self, src: int, dst: int) -> float:
        """How long a caller waits for a server that cannot be reached, in seconds."""
        rng, _ = self._link(src, dst)
        return max(MIN_DELAY, rng.uniform(0.0, 7.0 if self.long_waits else 0.1))

    def loss_noticed_after(self, src: int, dst: int) -> float:
        """How long a caller waits before it learns that a message was lost on an open link."""
        rng, _ = self._link(src, dst)
        return max(MIN_DELAY, rng.uniform(0.0, 0.1))

    def _link(self, src: int, dst: int) -> tuple[random.Random, Conditions]:
        key = (src, dst)
        rng = self._rngs.get(key)
        if rng is None:
            rng = self._rngs[key] = random.Random(derive(self._seed, "link", src, dst))
        return rng, self._special.get(key, self.conditions)

    @staticmethod
    def _copies(rng: random.Random, link: Conditions, delay: float) -> list[float]:
        delay = max(MIN_DELAY, delay)
        if link.duplicate and rng.random() < link.duplicate:
            return [delay, delay + rng.uniform(MIN_DELAY, link.echo)]
        return [delay]
