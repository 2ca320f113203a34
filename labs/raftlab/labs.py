"""The ladder: which labs there are, what each adds, and what it asks of the student's class."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lab:
    """One rung. ``methods`` are what ``Raft`` must have from here on; ``module`` holds its suite."""

    name: str
    title: str
    adds: str
    methods: tuple[str, ...]
    module: str


LABS: dict[str, Lab] = {
    lab.name: lab
    for lab in (
        Lab(
            "2A",
            "election",
            "terms, votes, heartbeats, randomised timeouts",
            ("start", "get_state", "request_vote", "append_entries"),
            "raftlab.suites.lab_2a",
        ),
    )
}


class UnknownLab(ValueError):
    """No lab has that name. The message lists those there are."""


def find(name: str) -> Lab:
    """The lab called ``name`` (case does not matter). Raises :class:`UnknownLab`."""
    lab = LABS.get(name.upper())
    if lab is None:
        raise UnknownLab(f"there is no lab {name!r}; the labs are: {', '.join(LABS)}")
    return lab
