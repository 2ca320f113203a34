"""Frames over a pair of pipes: a length, then the bytes. Used by the judge and by the simulator's host alike."""

from __future__ import annotations

import os

from raftlab.messages.protocol import HEADER, MAX_FRAME_BYTES

# A read asks for this much: nearly every frame fits, and the buffer is small enough to come from the heap (a large one
# would be mapped and unmapped by the operating system each time, which costs more than the read).
_CHUNK = 1 << 14
_LARGE_CHUNK = 1 << 18


class PipeClosed(EOFError):
    """The other end is gone."""


class FrameTooLong(ValueError):
    """The other end announced a frame beyond the bound. The stream cannot be trusted any more."""


class Pipe:
    """One direction in (``read_fd``), one out (``write_fd``)."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._rest = b""

    def send(self, packed: bytes) -> None:
        """Write a frame already packed with its length. Raises :class:`PipeClosed`."""
        view = memoryview(packed)
        try:
            while view:
                view = view[os.write(self.write_fd, view) :]
        except BrokenPipeError as exc:
            raise PipeClosed("the other end of the pipe is closed") from exc

    def receive(self) -> bytes:
        """The next frame's bytes. Blocks. Raises :class:`PipeClosed` at the end, :class:`FrameTooLong` on nonsense."""
        data = self._rest
        while True:
            if len(data) >= HEADER.size:
                (length,) = HEADER.unpack_from(data)
                if length > MAX_FRAME_BYTES:
                    raise FrameTooLong(f"a frame of {length} bytes was announced")
                end = HEADER.size + length
                if len(data) >= end:
                    self._rest = data[end:]
                    return data[HEADER.size : end]
                # Many chunks for one long frame: gather them once instead of growing a string step by step.
                if end - len(data) > _CHUNK:
                    data = b"".join(self._gather(data, end))
                    continue
            more = os.read(self.read_fd, _CHUNK)
            if not more:
                raise PipeClosed("the other end of the pipe is closed")
            data += more

    def _gather(self, start: bytes, end: int) -> list[bytes]:
        parts, have = [start], len(start)
        while have < end:
            more = os.read(self.read_fd, _LARGE_CHUNK)
            if not more:
                raise PipeClosed("the other end of the pipe is closed")
            parts.append(more)
            have += len(more)
        return parts

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            if fd >= 0:
                os.close(fd)
        self.read_fd = self.write_fd = -1
