"""The numbers and names of the participants of a run: servers S0, S1, ..., and from lab 3A on clerks C0, C1, ...

No server has the number of a clerk, so the network, the trace and the protocol need not distinguish servers and clerks.
"""

from __future__ import annotations

# The number of clerk C0. A cluster has at most 25 servers.
FIRST_CLERK = 100


def clerk(number: int) -> int:
    """The number of the participant that is called C``number``."""
    return FIRST_CLERK + number


def is_clerk(participant: int) -> bool:
    """Whether this is the number of a clerk."""
    return participant >= FIRST_CLERK


def name_of(participant: int) -> str:
    """The participant's name in messages and traces, such as ``S2`` or ``C0``."""
    return f"C{participant - FIRST_CLERK}" if participant >= FIRST_CLERK else f"S{participant}"
