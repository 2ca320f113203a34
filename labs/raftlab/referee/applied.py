"""State Machine Safety, as far as the service can see it: every server applies every index in order, and the same thing
at the same index (§5.4.3, Figure 3); a snapshot is whole, and one that a service has taken (§7).

Seen from outside only through ``apply_ch``.

Styles it must accept: a restarted server that applies everything again from index 1 (or from its snapshot); no-op
entries, which carry nothing but take their index; a snapshot that jumps ahead.
"""

from __future__ import annotations

from typing import Any

from raftlab.api import ApplyMsg
from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.referee.base import Invariant, broken


class Applied(Invariant):
    """Also the harness's memory of what was applied: ``values[index]`` is what everybody must apply there, ``upto`` how
    far each server is, in its present life, and ``term`` the term of that entry. ``snapshots[index]`` are the bytes of the
    services' snapshot up to there."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[str, Any]] = {}
        self.first: dict[int, int] = {}
        self.upto: dict[int, int] = {}
        self.term: dict[int, int] = {}
        self.at: dict[int, set[int]] = {}
        self.snapshots: dict[int, bytes] = {}

    def booted(self, server: int, incarnation: int) -> None:
        self.upto[server] = self.term[server] = 0
        for servers in self.at.values():
            servers.discard(server)

    def applied(self, server: int, msg: ApplyMsg) -> None:
        if msg.kind == "snapshot":
            self._restored(server, msg)
            return
        upto = self.upto.get(server, 0)
        if msg.index != upto + 1:
            text = f"expected S{server} to apply index {upto + 1} next, but it applied index {msg.index}"
            if upto == 0 and self.snapshots:
                text = (
                    f"expected S{server}, fresh from its start, to apply a snapshot or index 1, not index {msg.index}"
                )
                raise broken(rules.SNAPSHOT_FIRST, text, frozenset((server,)))
            raise broken(rules.APPLY_IN_ORDER, text, frozenset((server,)))
        value = (msg.kind, sorted(msg.members) if msg.members is not None else msg.command)
        first = self.first.setdefault(msg.index, server)
        known = self.values.setdefault(msg.index, value)
        if known != value:
            text = (
                f"expected S{server} to apply {short(known[1])} at index {msg.index} as S{first} did, "
                f"but it applied {short(value[1])}"
            )
            raise broken(rules.STATE_MACHINE_SAFETY, text, frozenset((server, first)))
        self.upto[server] = msg.index
        self.term[server] = msg.term
        self.at.setdefault(msg.index, set()).add(server)

    def _restored(self, server: int, msg: ApplyMsg) -> None:
        upto = self.upto.get(server, 0)
        if msg.index <= upto:
            text = f"expected S{server} to go on from index {upto + 1}, but it applied a snapshot up to {msg.index}"
            raise broken(rules.NEWER_SNAPSHOT, text, frozenset((server,)))
        data = self.snapshots.get(msg.index)
        if data is None:
            text = f"S{server} applied one up to {msg.index}, where none has"
            text = f"expected a snapshot that some service has taken, but {text}"
            raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((server,)))
        if msg.snapshot != data:
            seen = len(msg.snapshot or b"")
            what = f"{seen} bytes" if seen != len(data) else "other bytes"
            text = f"expected S{server} to apply the {len(data)} bytes of the snapshot up to {msg.index}, not {what}"
            raise broken(rules.WHOLE_SNAPSHOT, text, frozenset((server,)))
        self.upto[server] = msg.index
        self.term[server] = msg.term
        for index in range(upto + 1, msg.index + 1):
            self.at.setdefault(index, set()).add(server)
