"""One seed a run, and from it a seed of its own for each purpose."""

from __future__ import annotations

import hashlib


def derive(seed: int, *labels: object) -> int:
    """A 63-bit seed for the purpose named by ``labels``: drawing more for one never disturbs another."""
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
