"""The unreliable lab network: which servers and clerks can reach each other, and what happens to each message.

The network has no clock and stores no messages. The judge asks what happens to a message on a link and gets a list of
delays, one for each copy that arrives: none if the message is lost, two if it is duplicated. The answer depends only on the
conditions and the random generator of the link. So an additional message on one link changes nothing on another.

A request from S1 to S2 travels on the link S1→S2, and the reply on the link S2→S1. So cutting the link S1→S2 stops the
requests of S1 to S2 and the replies of S1 to requests of S2.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from raftlab.seeds import derive

# The minimum delay of a message, in seconds, and the lower bound of RELIABLE's latency. The simulator relies on it: no
# server can affect another one sooner, so servers may run this far ahead of the judge (the lookahead).
MIN_DELAY = 0.000_5


@dataclass(frozen=True, slots=True)
class Conditions:
    """How a link delays, loses and duplicates messages. Times are in seconds, probabilities between 0 and 1.

    The values of :data:`UNRELIABLE` and of :meth:`Network.give_up_after` come from the 6.824 lab.
    """

    latency: tuple[float, float] = (0.000_5, 0.001_5)
    """Bounds of the delay of every message. The delay is uniformly distributed, but never below :data:`MIN_DELAY`."""
    extra: tuple[float, float] = (0.0, 0.0)
    """Bounds of a further delay of requests. This delay, too, is uniformly distributed."""
    lose_request: float = 0.0
    lose_reply: float = 0.0
    duplicate: float = 0.0
    """The probability that a message arrives a second time, up to :attr:`echo` seconds later."""
    echo: float = 0.05
    reorder_reply: float = 0.0
    """The probability that a reply is delayed by a further 0.2 s to 2.4 s, so that later replies overtake it."""


RELIABLE = Conditions()
UNRELIABLE = Conditions(extra=(0.0, 0.026), lose_request=0.1, lose_reply=0.1)


class Network:
    """The state of every link.

    Args:
        servers: how many servers there are.
        seed: seeds the random generator of each link.
        clerks: the numbers of the clerks (lab 3A).

    Attributes:
        conditions: the conditions of every link for which :meth:`set_link` has set none.
        long_waits: whether a call to a server that cannot be reached takes up to 7 s to fail (as in the Raft tests of
            6.824) instead of up to 0.1 s.
    """

    def __init__(self, servers: int, seed: int, clerks: Iterable[int] = ()) -> None:
        self.servers = servers
        self._clerks = tuple(clerks)
        self.conditions = RELIABLE
        self.long_waits = True
        self._link_conditions: dict[tuple[int, int], Conditions] = {}
        self._cut: set[tuple[int, int]] = set()
        self._disconnected: set[int] = set()
        self._seed = seed
        self._rngs: dict[tuple[int, int], random.Random] = {}

    def reseed(self, seed: int) -> None:
        """Seed the random generator of each link anew."""
        self._seed = seed
        self._rngs.clear()

    # --- who can reach whom ---

    def connected(self, server: int) -> bool:
        """Whether the server is connected to the network at all."""
        return server not in self._disconnected

    @property
    def cuts(self) -> list[tuple[int, int]]:
        """Every cut direction as (from, to), the numbers of servers or clerks, sorted."""
        return sorted(self._cut)

    @property
    def disconnected(self) -> list[int]:
        """The servers that are off the network, sorted."""
        return sorted(self._disconnected)

    @property
    def loses(self) -> bool:
        """Whether links for which :meth:`set_link` has set no conditions may lose messages."""
        return self.conditions.lose_request > 0 or self.conditions.lose_reply > 0

    def open(self, src: int, dst: int) -> bool:
        """Whether a message from ``src`` reaches ``dst``. A server always reaches itself."""
        if (not self._cut and not self._disconnected) or src == dst:
            return True
        return not (src in self._disconnected or dst in self._disconnected or (src, dst) in self._cut)

    def disconnect(self, server: int) -> None:
        """Cut a server off from all others."""
        self._disconnected.add(server)

    def connect(self, server: int) -> None:
        """Undo :meth:`disconnect`. Cut links stay cut."""
        self._disconnected.discard(server)

    def cut(self, src: int, dst: int) -> None:
        """Cut one direction: nothing from ``src`` reaches ``dst``."""
        self._cut.add((src, dst))

    def mend(self, src: int, dst: int) -> None:
        """Undo :meth:`cut`."""
        self._cut.discard((src, dst))

    def partition(self, groups: Iterable[Iterable[int]]) -> None:
        """Cut every link between members of different groups, and no other. A server in no group is isolated; a clerk in no
        group reaches all servers."""
        group_of: dict[int, int] = {}
        for number, group in enumerate(groups):
            group_of.update(dict.fromkeys(group, number))
        everybody = [*range(self.servers), *(clerk for clerk in self._clerks if clerk in group_of)]
        self._cut = {
            (a, b)
            for a in everybody
            for b in everybody
            if a != b and (a not in group_of or group_of[a] != group_of.get(b))
        }

    def heal(self) -> None:
        """Connect every server and open every link. Conditions (loss, delay) stay as they are."""
        self._cut.clear()
        self._disconnected.clear()

    # --- delays and losses ---

    def set_link(self, src: int, dst: int, **changes: object) -> None:
        """Change some conditions of one direction: ``set_link(0, 1, lose_request=0.5)``."""
        old = self._link_conditions.get((src, dst), self.conditions)
        self._link_conditions[src, dst] = replace(old, **changes)  # type: ignore[arg-type]

    def request_delays(self, src: int, dst: int) -> list[float]:
        """The delay of each copy of a request, in seconds. Empty if the request is lost."""
        rng, link = self._link(src, dst)
        if link.lose_request and rng.random() < link.lose_request:
            return []
        delay = _uniform(rng, link.latency)
        if link.extra[1]:
            delay += _uniform(rng, link.extra)
        return self._copies(rng, link, delay)

    def reply_delays(self, src: int, dst: int) -> list[float]:
        """The delay of each copy of a reply from ``src`` to ``dst``, in seconds. Empty if the reply is lost."""
        rng, link = self._link(src, dst)
        if link.lose_reply and rng.random() < link.lose_reply:
            return []
        delay = _uniform(rng, link.latency)
        if link.reorder_reply and rng.random() < link.reorder_reply:
            delay += 0.2 + rng.uniform(0.0, rng.uniform(0.0, 2.2))
        return self._copies(rng, link, delay)

    def give_up_after(self, src: int, dst: int) -> float:
        """The number of seconds after which a call to a server that cannot be reached returns ``None``."""
        rng, _ = self._link(src, dst)
        return max(MIN_DELAY, rng.uniform(0.0, 7.0 if self.long_waits else 0.1))

    def loss_noticed_after(self, src: int, dst: int) -> float:
        """The number of seconds after which a call returns ``None`` if the network has lost its request or reply."""
        rng, _ = self._link(src, dst)
        return max(MIN_DELAY, rng.uniform(0.0, 0.1))

    def _link(self, src: int, dst: int) -> tuple[random.Random, Conditions]:
        key = (src, dst)
        rng = self._rngs.get(key)
        if rng is None:
            rng = self._rngs[key] = random.Random(derive(self._seed, "link", src, dst))
        return rng, self._link_conditions.get(key, self.conditions)

    @staticmethod
    def _copies(rng: random.Random, link: Conditions, delay: float) -> list[float]:
        if delay < MIN_DELAY:
            delay = MIN_DELAY
        if link.duplicate and rng.random() < link.duplicate:
            return [delay, delay + rng.uniform(MIN_DELAY, link.echo)]
        return [delay]


def _uniform(rng: random.Random, bounds: tuple[float, float]) -> float:
    """``rng.uniform(*bounds)``, written out for speed."""
    low, high = bounds
    return low + (high - low) * rng.random()
