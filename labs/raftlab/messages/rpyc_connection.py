"""An rpyc connection that carries only bytes. Judge and host use it to communicate on the real network.

The connection uses only three parts of rpyc: its frames on a TCP socket, its encoding (``brine``) and its requests. Each
side can only call the other with one ``bytes`` argument. There are no proxies of remote objects, no attributes, no pickle,
and no exceptions built from what the other side sends. A frame that is not such a call is rejected before it is decoded,
so a hostile frame costs neither time nor memory.

Calls have no reply. A reply of rpyc would only say that the call arrived, which TCP guarantees already; the replies that
matter are separate events and effects. Without rpyc's replies, raftlab handles about 50 % more RPCs per second.

This module relies on rpyc's internals. So pyproject.toml allows only one major version of rpyc, and
``tests/messages/test_rpyc_connection.py`` checks the internals that are used here.
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

# The number of bytes that each read asks for. It is large, so that large messages need few reads.
_READ_BYTES = 1 << 18
_HEADER = Channel.FRAME_HEADER
_FLUSHER = Channel.FLUSHER

# The encoding of each call up to its argument: a request, its sequence number (always 0, because there is no reply), the
# handler, and one value in a tuple.
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
# The number of bytes that a frame adds to the argument: the call, and the tag and length of the argument.
_OVERHEAD = len(_CALL) + 5


class BadFrame(ValueError):
    """The other side sent something other than a call with bytes. Nothing that it sends afterwards can be trusted."""


class _Stream(SocketStream):  # type: ignore[misc]
    """A socket that writes everything at once and reads whatever has arrived."""

    __slots__ = ()

    def write(self, data: bytes) -> None:
        """Raises ``EOFError`` if the other side is gone, and ``TimeoutError`` if it does not read in time."""
        try:
            self.sock.sendall(data)
        except TimeoutError:
            raise
        except OSError as exc:
            raise EOFError(str(exc)) from exc

    def read_some(self) -> bytes:
        """Read what has arrived; block until there is at least one byte. Raises ``EOFError`` at the end."""
        try:
            data: bytes = self.sock.recv(_READ_BYTES)
        except OSError as exc:
            raise EOFError(str(exc)) from exc
        if not data:
            raise EOFError("the other side hung up")
        return data


class _Channel(Channel):  # type: ignore[misc]
    """rpyc's frames: never compressed, of bounded length, and parsed only once they are complete."""

    __slots__ = ("_buffer", "_longest")

    def __init__(self, stream: _Stream, longest: int) -> None:
        super().__init__(stream, compress=False)
        self._longest = longest
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        self.stream.write(b"".join((_HEADER.pack(len(data), 0), data, _FLUSHER)))

    def frames(self) -> Iterator[bytes]:
        """Read what has arrived and yield every complete frame. Raises :class:`BadFrame`."""
        buffer = self._buffer
        buffer += self.stream.read_some()
        while len(buffer) >= _HEADER.size:
            length, compressed = _HEADER.unpack_from(buffer)
            if compressed or length > self._longest + _OVERHEAD:
                raise BadFrame("a frame that is compressed" if compressed else f"a frame of {length} bytes")
            end = _HEADER.size + length
            if len(buffer) <= end:
                return
            frame = bytes(buffer[_HEADER.size : end])
            del buffer[: end + len(_FLUSHER)]
            yield frame


class BytesConnection(Connection):  # type: ignore[misc]
    """One end of the connection.

    Args:
        sock: a connected TCP socket. The connection owns it from now on.
        deliver: called in :meth:`receive` with the bytes of each call that arrives.
        longest: the maximum number of bytes in a call from the other side; ``None``: ``MAX_FRAME_BYTES``.
    """

    def __init__(self, sock: socket.socket, deliver: Callable[[bytes], None], longest: int | None = None) -> None:
        self._deliver = deliver
        # With Nagle's algorithm, each small one-way message would wait about 40 ms.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(
            VoidService(),
            _Channel(_Stream(sock), MAX_FRAME_BYTES if longest is None else longest),
            {"allow_pickle": False, "logger": None},
        )

    def send(self, data: bytes) -> None:
        """Call the other side with ``data``. Must not run in two threads at once.

        Raises:
            EOFError: the other side is gone.
            TimeoutError: the other side read nothing within the socket's timeout. The connection is unusable afterwards.
            ValueError: ``data`` is longer than a frame may be.
        """
        if len(data) > MAX_FRAME_BYTES:
            raise ValueError(f"{len(data)} bytes are more than one frame may carry")
        request = (consts.HANDLE_CALL, self._box((data,)))
        self._channel.send(brine.I1.pack(consts.MSG_REQUEST) + brine.dump((0, request)))

    def receive(self) -> None:
        """Deliver what has arrived; block only if nothing has.

        Raises:
            EOFError: the other side is gone.
            BadFrame: the other side sent something other than a call with bytes.
        """
        for frame in self._channel.frames():
            self._dispatch(frame)

    def close(self) -> None:
        """Close the socket, without rpyc's closing message: a hostile peer might never answer it."""
        if not self._closed:
            with contextlib.suppress(EOFError):
                self._cleanup()

    def _dispatch(self, data: bytes) -> None:
        """Decode a call. Data that does not begin with :data:`_CALL` is rejected without looking further."""
        at = len(_CALL)
        if not data.startswith(_CALL) or len(data) <= at or data[at] not in _BYTES_TAGS:
            raise BadFrame("something other than a call with bytes")
        try:
            argument = brine.load(data[at:])
        except Exception as exc:
            raise BadFrame("a byte string with a wrong length") from exc
        self._HANDLERS[consts.HANDLE_CALL](self, argument)

    def _unbox(self, package: Any) -> Any:
        raise BadFrame("an object")  # unreachable, see _dispatch; rpyc would build a proxy here

    @classmethod
    def _request_handlers(cls) -> dict[int, Callable[..., None]]:
        return {consts.HANDLE_CALL: cls._handle_bytes}

    def _handle_bytes(self, data: bytes) -> None:
        self._deliver(data)
