"""The findings of the race detector in one run: which are excused, how they are grouped, and how they are worded."""

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
        site: Where the use is.
        role: What the thread is for, in words.
        locks: Where each lock that the thread held was taken, as ``file:line``.
        stretch: Equal for all uses of one thread between two synchronisations.
    """

    what: str
    site: Site
    role: str
    locks: tuple[str, ...]
    stretch: object


class _Pending(NamedTuple):
    """A read of a field without a lock. It is reported only if the same function or stretch reads another field in the same
    way."""

    server: int
    what: str
    reader: Use
    other: Use


class Findings:
    """The findings of one run.

    Args:
        lock_names: The expressions that name locks, by the place (``file:line``) where each lock is taken.
    """

    def __init__(self, lock_names: Mapping[str, str]) -> None:
        self._lock_names = lock_names
        self._keys: set[str] = set()
        self._new: list[Finding] = []
        # By group (a function or a stretch), and then by field: the first read of the field without a lock.
        self._alone: dict[object, dict[str, _Pending]] = {}

    def take(self) -> list[Finding]:
        """The findings since the last call."""
        new, self._new = self._new, []
        return new

    def add(self, server: int, kind: str, key: str, text: str) -> None:
        """Report a finding, but only once for each ``key``."""
        key = f"{kind}: {key}"
        if key not in self._keys and len(self._keys) < MAX_FINDINGS:
            self._keys.add(key)
            self._new.append(Finding(server, kind, key, text))

    def race(self, server: int, what: str, first: Use, second: Use, field: bool) -> bool:
        """Record that two uses of ``what`` are unordered. ``field``: ``what`` is a field or variable, not a container's
        contents. Returns ``False`` if other findings decide whether this one is reported."""
        for reader, other in ((first, second), (second, first)):
            if reader.what == "read" and not reader.locks and field:
                # It is sound to read a single value once if it is always replaced as a whole: that is how values are
                # published. It is not sound to read two fields, because their values may belong to different moments.
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
        """The name of a lock in words, given the place where the lock was taken."""
        return f"`{self._lock_names.get(place, 'a lock')}` (taken at {place})"
