"""Derives a separate seed for each purpose from the one seed of a run."""

from __future__ import annotations

import hashlib


def derive(seed: int, *labels: object) -> int:
    """Derive a 63-bit seed for one purpose. Drawing more numbers for one purpose never changes the numbers for another.

    Args:
        seed: the seed of the run.
        labels: the purpose, as in ``derive(seed, "link", 0, 1)``.
    """
    text = "/".join(map(str, (seed, *labels)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
