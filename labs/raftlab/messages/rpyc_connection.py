"""The telephone line: an rpyc connection that carries bytes and nothing else.

On the real network judge and host speak through rpyc: its frames on a TCP socket, its ``brine``, its
requests. Of rpyc's powers one is left, to call the other side with a single ``bytes`` argument. There are no
proxies of remote objects, no attributes, no pickle, no exceptions made from what the other side says; a frame
that is anything but such a call is refused before it is decoded, so that a hostile one costs neither time nor
memory.

A call is not answered. rpyc would send a reply to each, which here would say "got it": TCP says that already,
and the answers that matter are events and effects of their own. Without replies the lab carries about half as
many RPCs again.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any

from rpyc.core import brine, consts
from rpyc.core.channel import Channel
from rpyc.core.protocol import Connection
from rpyc.core.service import VoidService
from rpyc.core.stream import SocketStream

from raftlab.messages.protocol import MAX_FRAME_BYTES

_READ_BYTES = 1 << 18
_HEADER = Channel.FRAME_HEADER
_FLUSHER = Channel.FLUSHER

# What a call of ours looks like on the wire, up to its argument: a request, its sequence number (always 0:
# nobody answers it), the handler, and one value in a tuple.
_CALL = (
    brine.I1.pack(consts.MSG_REQUEST)
    + brine.TAG_TUP2
    + brine.IMM_INTS[0]
    + brine.TAG_TUP2
    + brine.IMM_INTS[consts.HANDLE_CALL]
    + brine.TAG_TUP2
    + brine.IMM_INTS[consts.LABEL_VALUE]
    + brine.TAG_TUP1
)
_BYTES_TAGS = frozenset(
    tag[0]
    for tag in (
        brine.TAG_EMPTY_STR,
        brine.TAG_STR1,
        brine.TAG_STR2,
        brine.TAG_STR3,
        brine.TAG_STR4,
        brine.TAG_STR_L1,
        brine.TAG_STR_L4,
    )
)
# What rpyc's frame adds to the bytes: the call, the tag and its length.
_OVERHEAD = len(_CALL) + 5


class Broken(ValueError):
    """The other side sent something that is no call with bytes. The line cannot be trusted any more."""


class _Stream(SocketStream):  # type: ignore[misc]
    """A socket that takes all bytes at once and gives what is there."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Raises ``EOFError`` when the other side is gone, ``TimeoutError`` when it does not read in time."""
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise
        except OSError as exc:
            raise EOFError(str(exc)) from exc

    def read_some(self) -> bytes:
        """What has arrived, at least one byte; blocks if nothing has. Raises ``EOFError`` at the end."""
        try:
            data: bytes = self.sock.recv(_READ_BYTES)
        except OSError as exc:
            raise EOFError(str(exc)) from exc
        if not data:
            raise EOFError("the other side hung up")
        return data


class _Channel(Channel):  # type: ignore[misc]
    """rpyc's frames, never compressed, of bounded length, and parsed only once they are complete."""

    __slots__ = ("_buffer",)

    def __init__(self, stream: _Stream) -> None:
        super().__init__(stream, compress=False)
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        self.stream.write(b"".join((_HEADER.pack(len(data), 0), data, _FLUSHER)))

    def frames(self) -> Iterator[bytes]:
        """Read what has arrived and give every frame that is complete. Raises :class:`Broken`."""
        buffer = self._buffer
        buffer += self.stream.read_some()
        while len(buffer) >= _HEADER.size:
            length, compressed = _HEADER.unpack_from(buffer)
            if compressed or length > MAX_FRAME_BYTES + _OVERHEAD:
                raise Broken("a frame that is compressed" if compressed else f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(buffer) <= end:
                return
            frame = bytes(buffer[_HEADER.size : end])
            del buffer[: end + len(_FLUSHER)]
            yield frame


class Line(Connection):  # type: ignore[misc]
    """One end of the line. ``deliver`` is called with the bytes of each call that arrives, in
    :meth:`serve_some`."""

    def __init__(self, sock: socket.socket, deliver: Callable[[bytes], None]) -> None:
        self._deliver = deliver
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(VoidService(), _Channel(_Stream(sock)), {"allow_pickle": False, "logger": None})

    def tell(self, data: bytes) -> None:
        """Call the other side with ``data``. Not for two threads at once. Raises ``EOFError`` when it is
        gone, ``TimeoutError`` when it reads nothing within the socket's timeout (the line is of no use then),
        and ``ValueError`` when ``data`` is longer than a frame may be."""
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(f"{len(data)} bytes are more than one frame may carry")
        request = (consts.HANDLE_CALL, self._box((data,)))
        self._channel.send(brine.I1.pack(consts.MSG_REQUEST) + brine.dump((0, request)))

    def serve_some(self) -> None:
        """Take in what has arrived; blocks only when nothing has. Raises ``EOFError`` and :class:`Broken`."""
        for frame in self._channel.frames():
            self._dispatch(frame)

    def close(self) -> None:
        """Hang up. Says no goodbye, as rpyc would: the other side may be hostile and never answer it."""
        if not self._closed:
            with contextlib.suppress(EOFError):
                self._cleanup()

    def _dispatch(self, data: bytes) -> None:
        """Take a call apart. Whatever does not begin as ours do is refused without looking any further."""
        at = len(_CALL)
        if not data.startswith(_CALL) or len(data) <= at or data[at] not in _BYTES_TAGS:
            raise Broken("something that is no call with bytes")
        try:
            argument = brine.load(data[at:])
        except Exception as exc:
            raise Broken("bytes without their length") from exc
        self._HANDLERS[consts.HANDLE_CALL](self, argument)

    def _unbox(self, package: Any) -> Any:
        raise Broken("an object")  # never asked for: see _dispatch

    @classmethod
    def _request_handlers(cls) -> dict[int, Callable[..., None]]:
        return {consts.HANDLE_CALL: cls._handle_bytes}

    def _handle_bytes(self, data: bytes) -> None:
        self._deliver(data)
