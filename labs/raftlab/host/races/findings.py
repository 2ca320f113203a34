"""The findings of the race detector in one run: which are excused, grouped and reported, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from raftlab.explain.races import MAX_FINDINGS
from raftlab.host.races.instrument import Site
from raftlab.messages.protocol import Finding


class Use(NamedTuple):
    """One of the two uses of a race.

    Attributes:
        what: ``"read"`` or ``"written"``.
        site: where.
        role: which thread, in words.
        locks: where each lock that it held was taken, as ``file:line``.
        stretch: equal for all uses of one thread between two synchronisations.
    """

    what: str
    site: Site
    role: str
    locks: tuple[str, ...]
    stretch: object


class _Pending(NamedTuple):
    """A read without a lock, which is reported only if there are others beside it."""

    server: int
    what: str
    reader: Use
    other: Use


class Findings:
    """The findings of one run.

    Args:
        lock_names: the expressions that name locks, by the place (``file:line``) where each is taken.
    """

    def __init__(self, lock_names: Mapping[str, str]) -> None:
        self._lock_names = lock_names
        self._keys: set[str] = set()
        self._new: list[Finding] = []
        # Reads without a lock that stand alone so far, by function or by stretch, and then by the field's name.
        self._alone: dict[object, dict[str, _Pending]] = {}

    def take(self) -> list[Finding]:
        """The findings since the last call."""
        new, self._new = self._new, []
        return new

    def add(self, server: int, kind: str, key: str, text: str) -> None:
        """Report a finding, once for each ``key``."""
        key = f"{kind}: {key}"
        if key not in self._keys and len(self._keys) < MAX_FINDINGS:
            self._keys.add(key)
            self._new.append(Finding(server, kind, key, text))

    def race(self, server: int, what: str, first: Use, second: Use, field: bool) -> bool:
        """Record that two uses of ``what`` are unordered. ``field``: it is a field or variable, not a container's contents.
        Returns ``False`` if it depends on what else is found whether this is reported."""
        for reader, other in ((first, second), (second, first)):
            if reader.what == "read" and not reader.locks and field:
                # To look once at one value, which is replaced as a whole, is a sound way to publish something. To look at
                # two fields is not: they may belong to different moments.
                self._look(_Pending(server, what, reader, other))
                return False
        self._report(server, what, first, second)
        return True

    def _look(self, pending: _Pending) -> None:
        reader = pending.reader
        for group in ((reader.site.file, reader.site.function), reader.stretch):
            fields = self._alone.setdefault(group, {})
            fields.setdefault(pending.what, pending)
            if len(fields) > 1:
                for each in fields.values():
                    self._report(each.server, each.what, each.reader, each.other)

    def _report(self, server: int, what: str, first: Use, second: Use) -> None:
        functions = sorted({f"{use.site.file} {use.site.function}" for use in (first, second)})
        text = f"{what}: {self._use(first)}, and {self._use(second)}; nothing decides which comes first"
        self.add(server, "race", f"{what} in {' and '.join(functions)}", text)

    def _use(self, use: Use) -> str:
        return f"{use.what} at {use.site.place} by {use.role} {self._holding(use.locks)}"

    def _holding(self, locks: tuple[str, ...]) -> str:
        if not locks:
            return "without a lock"
        return "holding " + " and ".join(self.lock(place) for place in locks)

    def lock(self, place: str) -> str:
        """A lock in words, by the place where it was taken."""
        return f"`{self._lock_names.get(place, 'a lock')}` (taken at {place})"
