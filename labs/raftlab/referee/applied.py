"""State Machine Safety, as far as the service can see it: every server applies every index in order, and the same thing
at the same index (§5.4.3, Figure 3).

Seen from outside only through ``apply_ch``.

Styles it must accept: a restarted server that applies everything again from index 1 (or from its snapshot); no-op
entries, which carry nothing but take their index; a snapshot that jumps ahead.
"""

from __future__ import annotations

from typing import Any

from raftlab import rules
from raftlab.api import ApplyMsg
from raftlab.referee import Invariant, broken


class Applied(Invariant):
    """Also the harness's memory of what was applied: ``values[index]`` is what everybody must apply there, ``upto`` how
    far each server is, in its present life."""

    def __init__(self) -> None:
        self.values: dict[int, tuple[str, Any]] = {}
        self.first: dict[int, int] = {}
        self.upto: dict[int, int] = {}
        self.at: dict[int, set[int]] = {}

    def booted(self, server: int, incarnation: int) -> None:
        self.upto[server] = 0
        for servers in self.at.values():
            servers.discard(server)

    def applied(self, server: int, msg: ApplyMsg) -> None:
        upto = self.upto.get(server, 0)
        if msg.kind == "snapshot":
            if msg.index <= upto:
                text = f"expected S{server} to go on from index {upto + 1}, but it applied a snapshot up to {msg.index}"
                raise broken(rules.APPLY_IN_ORDER, text, frozenset((server,)))
            self.upto[server] = msg.index
            for index in range(upto + 1, msg.index + 1):
                self.at.setdefault(index, set()).add(server)
            return
        if msg.index != upto + 1:
            text = f"expected S{server} to apply index {upto + 1} next, but it applied index {msg.index}"
            raise broken(rules.APPLY_IN_ORDER, text, frozenset((server,)))
        value = (msg.kind, sorted(msg.members) if msg.members is not None else msg.command)
        first = self.first.setdefault(msg.index, server)
        known = self.values.setdefault(msg.index, value)
        if known != value:
            text = (
                f"expected S{server} to apply {known[1]!r} at index {msg.index} as S{first} did, "
                f"but it applied {value[1]!r}"
            )
            raise broken(rules.STATE_MACHINE_SAFETY, text, frozenset((server, first)))
        self.upto[server] = msg.index
        self.at.setdefault(msg.index, set()).add(server)
