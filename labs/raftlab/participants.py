"""The numbers and names of those who take part in a run: servers S0, S1, ..., and from lab 3A on clerks C0, C1, ...

Servers and clerks share one space of numbers, so that the network, the trace and the protocol treat them alike.
"""

from __future__ import annotations

# The number of clerk C0. A cluster has at most 25 servers.
FIRST_CLERK = 100


def clerk(number: int) -> int:
    """The number of the participant that is called C``number``."""
    return FIRST_CLERK + number


def is_clerk(participant: int) -> bool:
    """Whether this number is a clerk's."""
    return participant >= FIRST_CLERK


def name_of(participant: int) -> str:
    """The name in messages and traces: ``S2``, ``C0``."""
    return f"C{participant - FIRST_CLERK}" if participant >= FIRST_CLERK else f"S{participant}"
