"""Tests of the connection between judge and host: it carries bytes, and refuses everything else that rpyc can do."""

from __future__ import annotations

import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rpyc
from rpyc.core import brine, consts
from rpyc.core.channel import Channel
from rpyc.core.protocol import Connection
from rpyc.core.stream import SocketStream

from raftlab.messages import protocol, rpyc_connection
from raftlab.messages.rpyc_connection import BadFrame, BytesConnection
from raftlab.worlds.rpyc_world import _connected_pair


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = _connected_pair()
    with ours, theirs:
        yield ours, theirs


def test_bytes_pass_whole_and_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    sent = [b"", b"x", b"four", bytes(255), bytes(256), bytes(70_000), bytes(3_000_000), b"last"]
    got: list[bytes] = []
    sender, receiver = BytesConnection(pair[0], got.append), BytesConnection(pair[1], got.append)
    thread = threading.Thread(target=lambda: [sender.send(data) for data in sent])
    thread.start()
    while len(got) < len(sent):
        receiver.receive()
    thread.join()
    assert got == sent
    sender.close()
    with pytest.raises(EOFError):
        receiver.receive()
    receiver.close()
    receiver.close()


def test_nagles_algorithm_is_off(pair: tuple[socket.socket, socket.socket]) -> None:
    for end in pair:
        tcp = BytesConnection(end, lambda data: None)
        assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        tcp.close()


def test_frames_that_are_too_long_are_refused(
    pair: tuple[socket.socket, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    sender, receiver = BytesConnection(pair[0], lambda data: None), BytesConnection(pair[1], lambda data: None, 1000)
    monkeypatch.setattr(rpyc_connection, "MAX_FRAME_BYTES", 1000)
    sender.send(bytes(1000))
    receiver.receive()
    with pytest.raises(ValueError, match="1001 bytes are more than one frame may carry"):
        sender.send(bytes(1001))
    monkeypatch.setattr(rpyc_connection, "MAX_FRAME_BYTES", protocol.MAX_FRAME_BYTES)
    sender.send(bytes(2000))
    with pytest.raises(BadFrame, match="a frame of 20"):
        receiver.receive()
    sender.close()
    receiver.close()


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_internals_of_rpyc_are_those_that_we_rely_on() -> None:
    """If this test fails with a new version of rpyc, check that ``rpyc_connection.py`` still works with it before you allow
    that version in pyproject.toml."""
    assert parameters(Connection.__init__) == ["self", "root", "channel", "config"]
    assert parameters(Connection._box) == ["self", "obj"]
    assert parameters(Connection._unbox) == ["self", "package"]
    assert parameters(Connection._dispatch) == ["self", "data"]
    assert parameters(Connection._cleanup)[:1] == ["self"]
    assert all(
        parameter.default is not inspect.Parameter.empty
        for parameter in list(inspect.signature(Connection._cleanup).parameters.values())[1:]
    )
    assert inspect.ismethod(Connection._request_handlers)  # a class method
    assert parameters(Connection._request_handlers) == []
    assert parameters(Channel.__init__) == ["self", "stream", "compress"]
    assert parameters(Channel.send) == ["self", "data"]
    assert parameters(SocketStream.write) == ["self", "data"]
    assert Channel.FRAME_HEADER.format in ("!LB", b"!LB")
    assert Channel.FLUSHER == b"\n"
    assert (consts.MSG_REQUEST, consts.HANDLE_CALL, consts.LABEL_VALUE) == (1, 7, 1)
    assert brine.I1.pack(200) == b"\xc8"
    assert brine.load(brine.dump((0, b"x"))) == (0, b"x")


def test_a_connection_has_the_attributes_that_we_use(pair: tuple[socket.socket, socket.socket]) -> None:
    connection = rpyc.Connection(rpyc.VoidService(), rpyc.Channel(SocketStream(pair[0])), {})
    assert connection._closed is False
    assert connection._channel.stream.sock is pair[0]
    assert consts.HANDLE_CALL in connection._HANDLERS
    assert connection._box((b"x",)) == (consts.LABEL_VALUE, (b"x",))
    connection._cleanup()  # close() would wait for the peer
    assert connection._closed is True


def test_a_call_is_what_rpyc_itself_would_send_first(pair: tuple[socket.socket, socket.socket]) -> None:
    """Only the first call is equal, because rpyc numbers its calls from 0, and all of ours have the number 0."""
    ours = BytesConnection(pair[0], lambda data: None)
    theirs = rpyc.Connection(rpyc.VoidService(), rpyc.Channel(SocketStream(pair[1])), {})
    ours.send(b"hello")
    theirs.async_request(consts.HANDLE_CALL, b"hello")
    assert pair[1].recv(1000) == pair[0].recv(1000)
    ours.close()
    theirs._cleanup()


# What a peer that uses plain rpyc could try. Each function takes the peer's connection.
ATTEMPTS: dict[str, Callable[[rpyc.Connection], Any]] = {
    "the root": lambda peer: peer.root,
    "a ping": lambda peer: peer.ping(),
    "a netref of its own": lambda peer: peer.async_request(7, lambda: "call me back"),
    "an attribute": lambda peer: peer.async_request(4, b"", "__class__"),
    "pickle": lambda peer: peer.async_request(14, b"", 2),
    "a goodbye": lambda peer: peer.async_request(2),
    "text": lambda peer: peer.async_request(7, "text"),
    "two arguments": lambda peer: peer.async_request(7, b"one", b"two"),
}


@pytest.mark.parametrize("what", ATTEMPTS)
def test_requests_of_a_peer_that_uses_rpyc_itself_are_refused(
    pair: tuple[socket.socket, socket.socket], what: str
) -> None:
    received: list[bytes] = []
    ours = BytesConnection(pair[0], received.append)
    theirs = rpyc.Connection(rpyc.VoidService(), rpyc.Channel(SocketStream(pair[1])), {"sync_request_timeout": 60})
    outcome: list[BaseException] = []

    def attempt() -> None:
        try:
            result = ATTEMPTS[what](theirs)
            if isinstance(result, rpyc.AsyncResult):
                result.wait()
        except BaseException as exc:
            outcome.append(exc)

    thread = threading.Thread(target=attempt)
    thread.start()
    with pytest.raises(BadFrame, match="something other than a call with bytes"):
        ours.receive()
    ours.close()
    thread.join()
    assert [type(exc) for exc in outcome] == [EOFError]
    assert received == []
    theirs.close()
