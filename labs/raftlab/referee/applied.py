"""State Machine Safety: servers apply every index in order, and the same command at the same index (§5.4.3, Figure 3);
a snapshot that is applied is one that a service took, complete and unchanged (§7).

The referee checks what servers put into ``apply_ch``.

Styles it must accept: a restarted server that applies everything again from index 1 (or from its snapshot); no-op
entries, which have no command but take up an index; a snapshot that skips indexes.
"""

from __future__ import annotations

from typing import Any

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.base import Invariant, broken


class StateMachineSafety(Invariant):
    """The rule, and the record of applied entries that the harness uses.

    Attributes:
        values: ``values[index]`` is the (kind, command or members) that every server must apply at ``index``.
        last_applied: the last index that each server has applied in its present incarnation.
        term: the term of that entry.
        servers_at: ``servers_at[index]`` are the servers that have applied ``index`` in their present incarnations.
        snapshots: ``snapshots[index]`` are the bytes of the services' snapshot up to ``index``.
    """

    def __init__(self) -> None:
        self.values: dict[int, tuple[str, Any]] = {}
        self._first_server: dict[int, int] = {}
        self.last_applied: dict[int, int] = {}
        self.term: dict[int, int] = {}
        self.servers_at: dict[int, set[int]] = {}
        self.snapshots: dict[int, bytes] = {}

    def booted(self, server: int, incarnation: int) -> None:
        self.last_applied[server] = self.term[server] = 0
        for servers in self.servers_at.values():
            servers.discard(server)

    def applied(self, server: int, msg: ApplyMsg) -> None:
        if msg.kind == "snapshot":
            self._restored(server, msg)
            return
        upto = self.last_applied.get(server, 0)
        if msg.index != upto + 1:
            text = f"expected S{server} to apply index {upto + 1} next, but it applied index {msg.index}"
            if upto == 0 and self.snapshots:
                text = f"expected S{server} to begin with a snapshot or index 1, but it applied index {msg.index}"
                raise broken(rules.SNAPSHOT_FIRST, text, frozenset((server,)))
            raise broken(rules.APPLY_IN_ORDER, text, frozenset((server,)))
        value = (msg.kind, sorted(msg.members) if msg.members is not None else msg.command)
        first = self._first_server.setdefault(msg.index, server)
        known = self.values.setdefault(msg.index, value)
        if known != value:
            text = (
                f"expected S{server} to apply {short(known[1])} at index {msg.index} as S{first} did, "
                f"but it applied {short(value[1])}"
            )
            raise broken(rules.STATE_MACHINE_SAFETY, text, frozenset((server, first)))
        self.last_applied[server] = msg.index
        self.term[server] = msg.term
        self.servers_at.setdefault(msg.index, set()).add(server)

    def _restored(self, server: int, msg: ApplyMsg) -> None:
        upto = self.last_applied.get(server, 0)
        if msg.index <= upto:
            text = f"expected S{server} to go on from index {upto + 1}, but it applied a snapshot up to {msg.index}"
            raise broken(rules.NEWER_SNAPSHOT, text, frozenset((server,)))
        data = self.snapshots.get(msg.index)
        if data is None:
            text = "expected a snapshot that some service has taken, but"
            text = f"{text} S{server} applied one up to index {msg.index}, where no service took one"
            raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((server,)))
        if msg.snapshot != data:
            seen = len(msg.snapshot or b"")
            what = f"{seen} bytes" if seen != len(data) else "other bytes"
            text = f"expected S{server} to apply the {len(data)} bytes of the snapshot up to {msg.index}, not {what}"
            raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((server,)))
        self.last_applied[server] = msg.index
        self.term[server] = msg.term
        for index in range(upto + 1, msg.index + 1):
            self.servers_at.setdefault(index, set()).add(server)
