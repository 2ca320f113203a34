"""State Machine Safety: servers apply every index in order, and the same command at the same index (§5.4.3, Figure 3).
A snapshot that is applied must be one that a service took, complete and unchanged (§7).

The referee checks what servers put into ``apply_ch``.

The rule must accept: a restarted server that applies everything again from index 1 (or from its snapshot); no-op
entries, which have no command but take up an index; a snapshot that skips indexes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.base import Invariant, broken


class StateMachineSafety(Invariant):
    """State Machine Safety, and the record of applied entries that the harness uses.

    Attributes:
        values: ``values[index]`` is the (kind, command or members) that every server must apply at ``index``.
        last_applied: The last index that each server has applied in its current incarnation.
        term: For each server, the term of the entry at its ``last_applied``.
        servers_at: ``servers_at[index]`` are the servers that have applied ``index`` in their current incarnations.
        snapshots: ``snapshots[index]`` are the bytes of the snapshot up to ``index`` that the judge's own services
            take.
    """

    def __init__(self) -> None:
        self.values: dict[int, tuple[str, Any]] = {}
        self._first_server: dict[int, int] = {}
        self.last_applied: dict[int, int] = {}
        self._restarted: set[int] = set()  # the servers that have restarted at least once
        self.term: dict[int, int] = {}
        self.servers_at: dict[int, set[int]] = {}
        self.snapshots: dict[int, bytes] = {}
        # By index: the snapshots that students' services have taken. Two servers' snapshots may differ.
        self._of_services: dict[int, set[bytes]] = {}
        self._highest = 0  # the last index that any server has applied

    def service_took(self, index: int, data: bytes) -> bool:
        """Record that a student's service takes a snapshot up to ``index`` (lab 3A). A snapshot can contain only
        entries that some server has applied. Bytes that claim to contain more are not recorded. Returns whether the
        bytes were newly recorded."""
        taken = self._of_services.setdefault(index, set()) if index <= self._highest else {data}
        if data in taken:
            return False
        taken.add(data)
        return True

    def snapshots_at(self, index: int) -> Collection[bytes]:
        """The bytes of every snapshot up to ``index`` that some service has taken."""
        own = self.snapshots.get(index)
        return self._of_services.get(index, ()) if own is None else (own,)

    def booted(self, server: int, incarnation: int) -> None:
        self.last_applied[server] = self.term[server] = 0
        self._restarted.discard(server)
        if incarnation > 1:
            self._restarted.add(server)
        for servers in self.servers_at.values():
            servers.discard(server)

    def applied(self, server: int, msg: ApplyMsg) -> None:
        if msg.kind == "snapshot":
            self._restored(server, msg)
            return
        upto = self.last_applied.get(server, 0)
        if msg.index != upto + 1:
            text = f"expected S{server} to apply index {upto + 1} next, but it applied index {msg.index}"
            if upto == 0 and (self.snapshots or self._of_services):
                text = f"expected S{server} to begin with a snapshot or index 1, but it applied index {msg.index}"
                raise broken(rules.SNAPSHOT_FIRST, text, frozenset((server,)))
            raise broken(rules.APPLY_IN_ORDER, text, frozenset((server,)))
        value = (msg.kind, sorted(msg.members) if msg.members is not None else msg.command)
        first = self._first_server.setdefault(msg.index, server)
        known = self.values.setdefault(msg.index, value)
        if known != value:
            before = f"as S{first} did" if first != server else "again after its restart"
            text = (
                f"expected S{server} to apply {short(known[1])} at index {msg.index} {before}, "
                f"but it applied {short(value[1])}"
            )
            raise broken(rules.STATE_MACHINE_SAFETY, text, frozenset((server, first)))
        self.last_applied[server] = msg.index
        self._highest = max(self._highest, msg.index)
        self.term[server] = msg.term
        self.servers_at.setdefault(msg.index, set()).add(server)

    def _restored(self, server: int, msg: ApplyMsg) -> None:
        upto = self.last_applied.get(server, 0)
        if msg.index <= upto:
            text = f"expected S{server} to go on from index {upto + 1}, but it applied a snapshot up to {msg.index}"
            raise broken(rules.NEWER_SNAPSHOT, text, frozenset((server,)))
        taken = self.snapshots_at(msg.index)
        if not taken:
            text = "expected a snapshot that some service has taken, but"
            text = f"{text} S{server} applied one up to index {msg.index}, where no service took one"
            raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((server,)))
        if msg.snapshot not in taken:
            seen = len(msg.snapshot or b"")
            lengths = sorted({len(data) for data in taken})
            what = "other bytes" if seen in lengths else f"{seen} bytes"
            whole = " or ".join(map(str, lengths))
            after = " after its restart" if upto == 0 and server in self._restarted else ""
            text = f"expected S{server} to apply{after} the {whole} bytes of the snapshot up to {msg.index}, not {what}"
            raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((server,)))
        self.last_applied[server] = msg.index
        self.term[server] = msg.term
        for index in range(upto + 1, msg.index + 1):
            self.servers_at.setdefault(index, set()).add(server)
