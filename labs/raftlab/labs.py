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


_RAFT = ("start", "get_state", "request_vote", "append_entries")
_SNAPSHOTS = (*_RAFT, "snapshot", "install_snapshot")

LABS: dict[str, Lab] = {
    lab.name: lab
    for lab in (
        Lab(
            "2A",
            "election",
            "terms, votes, heartbeats, randomised timeouts",
            _RAFT,
            "raftlab.suites.lab_2a",
        ),
        Lab(
            "2B",
            "replication",
            "the log, the consistency check, the commit rule, fast backup",
            _RAFT,
            "raftlab.suites.lab_2b",
        ),
        Lab(
            "2C",
            "persistence",
            "what must be durable before an answer leaves, restarts",
            _RAFT,
            "raftlab.suites.lab_2c",
        ),
        Lab(
            "2D",
            "snapshots",
            "log compaction, InstallSnapshot in chunks, restart from a snapshot",
            _SNAPSHOTS,
            "raftlab.suites.lab_2d",
        ),
        Lab(
            "2E",
            "membership",
            "servers that come and go: one at a time, then any set by joint consensus; learners",
            (*_SNAPSHOTS, "change_membership"),
            "raftlab.suites.lab_2e",
        ),
        Lab(
            "2F",
            "PreVote",
            "leadership that a cut-off or removed server cannot disturb, and leaders that notice when they are alone",
            (*_SNAPSHOTS, "change_membership", "pre_vote"),
            "raftlab.suites.lab_2f",
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
