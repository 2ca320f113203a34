"""Frames over the pair of pipes between the judge and the simulator's host. A frame is a length, then that many bytes."""

from __future__ import annotations

import os

from raftlab.messages.protocol import HEADER, MAX_FRAME_BYTES

# The number of bytes that a read asks for. Nearly every frame fits. The buffer is small enough to come from the heap; a
# large buffer would be mapped and unmapped each time, which takes longer than the read.
_CHUNK = 1 << 14
# The number of bytes that a read asks for inside a longer frame.
_LARGE_CHUNK = 1 << 18


class PipeClosed(EOFError):
    """The other end has closed the pipe."""


class FrameTooLong(ValueError):
    """The other end announced a frame that is too long. Nothing that it sends afterwards can be trusted."""


class Pipe:
    """Reads frames of at most ``longest`` bytes from ``read_fd``, and writes frames to ``write_fd``. Owns both
    descriptors."""

    def __init__(self, read_fd: int, write_fd: int, longest: int = MAX_FRAME_BYTES) -> None:
        self.read_fd = read_fd
        self.write_fd = write_fd
        self._longest = longest
        self._rest = b""

    def send(self, packed: bytes) -> None:
        """Write a frame that ``protocol.pack`` has prepared. Raises :class:`PipeClosed`."""
        view = memoryview(packed)
        try:
            while view:
                view = view[os.write(self.write_fd, view) :]
        except BrokenPipeError as exc:
            raise PipeClosed("the other end of the pipe is closed") from exc

    def receive(self) -> bytes:
        """Wait for the next frame and return its bytes. Raises :class:`PipeClosed` and :class:`FrameTooLong`."""
        data = self._rest
        while True:
            if len(data) >= HEADER.size:
                (length,) = HEADER.unpack_from(data)
                if length > self._longest:
                    raise FrameTooLong(f"{length:,} bytes at a time, and at most {self._longest:,} are accepted")
                end = HEADER.size + length
                if len(data) >= end:
                    self._rest = data[end:]
                    return data[HEADER.size : end]
                # A long frame arrives in many chunks. Joining them once is faster than appending each.
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
