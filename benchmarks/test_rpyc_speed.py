"""RPCs per second on the real network through the judge, compared with bare rpyc.

With bare rpyc, one process calls a function in another over loopback TCP, without Nagle's delay. Through the judge, a server
calls its peer: the request goes to the judge and on to the peer, and the reply returns the same way. Such a call takes four
hops instead of two, and wakes two threads.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import rpyc
from rpyc.core.stream import SocketStream

from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.rpyc_world import RpycWorld
from tests.worlds.tiny_event_loop import TinyEventLoop

SECONDS = 2.0  # of real time, for each measurement
PAYLOAD = "x" * 200

RAFT = """
import threading, time
from dataclasses import dataclass

@dataclass
class RequestVoteArgs:
    term: int
    text: str = ""

@dataclass
class RequestVoteReply:
    term: int
    text: str = ""

class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.peers, self.counts = peers, []

    def start(self, command):
        callers, seconds, text = command
        self.counts.clear()
        threads = [threading.Thread(target=self.call_repeatedly, args=(seconds, text)) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(self.counts)

    def get_state(self):
        return 0, False

    def call_repeatedly(self, seconds, text):
        count, end = 0, time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.peers[1].call("request_vote", RequestVoteArgs(1, text)).text == text
            count += 1
        self.counts.append(count)

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        return RequestVoteReply(args.term, args.text)
"""

BARE = """
import rpyc, socket
from rpyc.core.stream import SocketStream
class Echo(rpyc.Service):
    def exposed_echo(self, data):
        return data
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
sock, _ = listener.accept()
sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
rpyc.utils.factory.connect_stream(SocketStream(sock), Echo).serve_all()
"""


def bare_rate(seconds: float = SECONDS) -> float:
    """Sequential calls per second with bare rpyc."""
    with subprocess.Popen([sys.executable, "-c", BARE], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        connection = rpyc.connect_stream(SocketStream.connect("127.0.0.1", port, nodelay=True))
        call, data = connection.root.echo, PAYLOAD.encode()
        count, began = 0, time.monotonic()
        while time.monotonic() < began + seconds:
            call(data)
            count += 1
        rate = count / (time.monotonic() - began)
        connection.close()
    return rate


def judge_rate(folder: Path, callers: int, seconds: float = SECONDS) -> float:
    """RPCs per second if one server calls its peer from ``callers`` threads."""
    (folder / "raft.py").write_text(RAFT)
    with WarmHost(folder) as host:
        world = RpycWorld(host)
        event_loop = TinyEventLoop(world, 2)
        event_loop.boot()
        event_loop.call(0, callers, 0.2, PAYLOAD)  # to warm up
        count: int = event_loop.call(0, callers, seconds, PAYLOAD)
        world.close()
    return count / seconds


def test_speed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare, one, eight = bare_rate(), judge_rate(tmp_path, 1), judge_rate(tmp_path, 8)
    with capsys.disabled():
        print(f"\n  bare rpyc, sequential:                 {bare:8,.0f} calls/s")
        print(f"  through the judge, sequential:         {one:8,.0f} RPC/s  ({one / bare:.2f} of bare)")
        print(f"  through the judge, 8 callers at once:  {eight:8,.0f} RPC/s  ({eight / bare:.2f} of bare)")
