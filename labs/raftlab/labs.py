"""The table of labs: what each one adds, which methods and features it needs, and where its suite is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Feature = Literal["log", "durable", "snapshots", "membership", "pre_vote", "transfer", "service", "reads"]
"""What servers can do from a certain lab on. Rules, scenarios and fuzzing ask for a feature, never for the name of a lab.

- ``log``: servers replicate a log and apply it.
- ``durable``: servers save their state and survive a crash.
- ``snapshots``: services take snapshots, and leaders install them.
- ``membership``: the set of servers that vote can change.
- ``pre_vote``: before a server starts an election, it asks whether it would win.
- ``transfer``: a leader can transfer its leadership to a server that the test chooses.
- ``service``: the student's own service runs above Raft, and clerks call it.
- ``reads``: the service answers reads that need no log entry.
"""


@dataclass(frozen=True, slots=True)
class Lab:
    """One lab.

    Attributes:
        name: its name on the command line, such as ``"2A"``.
        title: one word, such as ``"election"``.
        adds: what the student adds in this lab, as a phrase.
        methods: the methods that ``Raft`` must have from this lab on.
        optional: those of ``methods`` that ``Raft`` may lack, because no test or only a few tests of this lab call them.
        features: what the servers of this lab can do, earlier labs included.
        module: the dotted name of the suite's module.
    """

    name: str
    title: str
    adds: str
    methods: tuple[str, ...]
    features: frozenset[Feature]
    module: str
    optional: tuple[str, ...] = ()

    def has(self, feature: Feature) -> bool:
        """Whether servers of this lab have ``feature``."""
        return feature in self.features


_METHODS = ("start", "get_state", "request_vote", "append_entries")
_WITH_SNAPSHOTS = (*_METHODS, "snapshot", "install_snapshot")
_WITH_MEMBERSHIP = (*_WITH_SNAPSHOTS, "change_membership")

LABS: dict[str, Lab] = {
    lab.name: lab
    for lab in (
        Lab(
            "2A",
            "election",
            "terms, votes, heartbeats, randomised timeouts",
            _METHODS,
            frozenset(),
            "raftlab.suites.lab_2a",
        ),
        Lab(
            "2B",
            "replication",
            "the log, the consistency check, the commit rule, fast backup",
            _METHODS,
            frozenset({"log"}),
            "raftlab.suites.lab_2b",
        ),
        Lab(
            "2C",
            "persistence",
            "restarts, and saving state before a server answers",
            _METHODS,
            frozenset({"log", "durable"}),
            "raftlab.suites.lab_2c",
        ),
        Lab(
            "2D",
            "snapshots",
            "log compaction, InstallSnapshot in chunks, restart from a snapshot",
            _WITH_SNAPSHOTS,
            frozenset({"log", "durable", "snapshots"}),
            "raftlab.suites.lab_2d",
        ),
        Lab(
            "2E",
            "membership",
            "servers that come and go: one at a time, then any set by joint consensus; learners",
            _WITH_MEMBERSHIP,
            frozenset({"log", "durable", "snapshots", "membership"}),
            "raftlab.suites.lab_2e",
        ),
        Lab(
            "2F",
            "PreVote",
            "leadership that a cut-off or removed server cannot disturb, and leaders that notice when they are alone",
            (*_WITH_MEMBERSHIP, "pre_vote"),
            frozenset({"log", "durable", "snapshots", "membership", "pre_vote"}),
            "raftlab.suites.lab_2f",
            optional=("snapshot", "install_snapshot", "change_membership"),
        ),
        Lab(
            "2G",
            "transfer",
            "a leader that hands over to a server of your choice, without waiting for a timeout",
            (*_WITH_MEMBERSHIP, "pre_vote", "transfer_leadership", "timeout_now"),
            frozenset({"log", "durable", "snapshots", "membership", "pre_vote", "transfer"}),
            "raftlab.suites.lab_2g",
            # A student can do this lab without labs 2E and 2F. Only the tests that change members need lab 2E.
            optional=("change_membership", "pre_vote"),
        ),
        Lab(
            "3A",
            "clients",
            "a key/value service above Raft, and clerks whose operations are carried out exactly once",
            _WITH_SNAPSHOTS,
            frozenset({"log", "durable", "snapshots", "service"}),
            "raftlab.suites.lab_3a",
        ),
        Lab(
            "3B",
            "reads",
            "reads that cost no entry of the log: by index, by lease, by session, and of a snapshot",
            (*_WITH_SNAPSHOTS, "read_index", "lease_index", "read_index_of", "lease_of"),
            frozenset({"log", "durable", "snapshots", "service", "reads"}),
            "raftlab.suites.lab_3b",
            # Part 2 may use it.
            optional=("lease_of",),
        ),
    )
}


class UnknownLab(ValueError):
    """No lab has that name. The message lists the labs."""


def find(name: str) -> Lab:
    """The lab called ``name``, in upper or lower case.

    Raises:
        UnknownLab: there is no such lab.
    """
    lab = LABS.get(name.upper())
    if lab is None:
        raise UnknownLab(f"there is no lab {name!r}; the labs are: {', '.join(LABS)}")
    return lab
