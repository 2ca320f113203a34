"""The saved state of a server, as both the judge and the host keep it."""

from __future__ import annotations


class SavedState:
    """The bytes that a server has saved. They are joined only when they are read, so that an append takes constant time.

    Attributes:
        size: the number of bytes.
    """

    __slots__ = ("_parts", "size")

    def __init__(self, state: bytes = b"") -> None:
        self.replace(state)

    def replace(self, state: bytes) -> None:
        self._parts, self.size = [state], len(state)

    def append(self, data: bytes) -> None:
        self._parts.append(data)
        self.size += len(data)

    def read(self) -> bytes:
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        return self._parts[0]
