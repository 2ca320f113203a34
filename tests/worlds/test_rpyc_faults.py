"""Tests of the rpyc world when a server's process exits, hangs or sends malformed data: the fault is reported, other servers
go on, and no process is left behind."""

from __future__ import annotations

import os
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftlab.host.rpyc_server import Outbox, RpycServer
from raftlab.messages import protocol
from raftlab.worlds import rpyc_world
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.rpyc_world import RpycWorld
from tests.worlds.obedient_submission import submission
from tests.worlds.tiny_event_loop import PATIENCE, TinyEventLoop


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmHost]:
    with WarmHost(submission(tmp_path_factory.mktemp("submission"))) as warm:
        yield warm


@pytest.fixture
def event_loop(host: WarmHost) -> Iterator[TinyEventLoop]:
    world = RpycWorld(host)
    yield TinyEventLoop(world, 3)
    world.close()


# --- processes that exit, hang or send malformed data ---------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["exit", 3], "S1: the process that runs your code ended by itself with exit code 3"),
        (["signal", int(signal.SIGSEGV)], "S1: the process that runs your code was killed by signal SIGSEGV"),
        (["signal", 40], "S1: the process that runs your code was killed by signal 40"),
        (["hang_up"], "S1: the process that runs your code"),
    ],
)
def test_a_process_that_ends_by_itself(event_loop: TinyEventLoop, command: list[object], text: str) -> None:
    event_loop.boot(0, 1)
    event_loop.begin_call(1, "start", command)
    fault = event_loop.fault()
    assert (fault.kind, fault.server) == ("host-died", 1)
    assert fault.text.startswith(text)
    assert event_loop.call(0, "ask", 0, "unharmed") == [2, "unharmed by 0, 0"]
    assert len(event_loop.faults()) == 1


def test_a_process_that_reported_its_fault_is_not_reported_twice(event_loop: TinyEventLoop) -> None:
    event_loop.boot(1)
    event_loop.call(1, "thread_raises")
    event_loop.fault()
    event_loop.begin_call(1, "start", ["exit", 3])
    event_loop.world.wait(event_loop.world.now() + 0.5, [])
    assert len(event_loop.faults()) == 1


def frame(payload: bytes, compressed: int = 0) -> bytes:
    return struct.pack("!LB", len(payload), compressed) + payload + b"\n"


def call(argument: bytes) -> bytes:
    """A call with ``argument``, as brine writes it."""
    return frame(b"\x01\x11\x50\x11\x57\x11\x51\x10" + argument)


def effects(*some: protocol.Effect) -> bytes:
    data = protocol.encode(list(some))
    return call(b"\x0e" + bytes([len(data)]) + data)


# Bytes that a child writes to its socket, and what the fault says about them.
MALFORMED = {
    "noise": (os.urandom(5000), ""),
    "a huge frame": (b"\xff\xff\xff\xff\x00", "a frame of 4294967295 bytes"),
    "a compressed frame": (frame(b"x", compressed=1), "a frame that is compressed"),
    "an empty frame": (frame(b""), "something other than a call with bytes"),
    "a request for the root": (frame(b"\x01\x11\x50\x11\x53\x11\x51\x02"), "something other than a call with bytes"),
    "a netref": (
        frame(b"\x01\x11\x50\x11\x57\x11\x54\x12\x08\x0d_obj\x51\x52"),
        "something other than a call with bytes",
    ),
    "a call with a number": (call(b"\x51"), "something other than a call with bytes"),
    "a reply": (frame(b"\x02\x11\x50\x11\x51\x00"), "something other than a call with bytes"),
    "an exception": (frame(b"\x03\x11\x50\x11\x51\x00"), "something other than a call with bytes"),
    "bytes without a length": (call(b"\x0f\x00"), "a byte string with a wrong length"),
    "no effects": (call(b"\x0c\x92\x90"), ""),
    "deeply nested": (call(b"\x0f" + struct.pack("!L", 9000) + b"\x91" * 9000), ""),
    "an effect of another server": (effects(protocol.Ready(0)), "a message that claims to come from S0"),
}  # fmt: skip


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_data_is_reported_and_harms_no_other_server(event_loop: TinyEventLoop, what: str) -> None:
    data, message = MALFORMED[what]
    event_loop.boot(0, 1)
    event_loop.begin_call(1, "start", ["write", data])
    fault = event_loop.fault()
    assert (fault.kind, fault.server) == ("host-died", 1)
    assert f"S1: the process that runs your code sent malformed data: {message}" in fault.text
    assert event_loop.call(0, "ask", 0, "unharmed") == [2, "unharmed by 0, 0"]


def test_half_a_frame_does_not_block_the_judge(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0, 1)
    event_loop.begin_call(1, "start", ["write", b"\x00\x00\x10\x00\x00 and no more"])
    assert event_loop.call(0, "ask", 0, "unharmed") == [2, "unharmed by 0, 0"]
    until = event_loop.world.now() + 0.2
    event_loop.world.wait(until, [])
    assert not event_loop.faults()


def test_a_host_that_does_not_read_is_lost(event_loop: TinyEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpyc_world, "SEND_TIMEOUT_S", 0.5)
    event_loop.boot(1)
    event_loop.begin_call(1, "start", ["signal", int(signal.SIGSTOP)])
    event_loop.world.wait(event_loop.world.now() + 0.5, [])
    for _ in range(8):
        event_loop.world.send_event(protocol.Request(1, 1, "request_vote", bytes(8_000_000)))
    fault = event_loop.fault()
    assert (fault.kind, fault.text) == (
        "host-hangs",
        "S1: the process that runs your code has read nothing for 0 s",
    )


def test_threads_that_the_machine_cannot_start_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    class ListOutbox(Outbox):
        def __init__(self) -> None:
            self.effects: list[protocol.Effect] = []

        def put(self, effect: protocol.Effect) -> None:
            self.effects.append(effect)

    monkeypatch.setattr(threading.Thread, "start", start)
    outbox = ListOutbox()
    boot = protocol.Boot(0, 1, 1, [0], b"", b"", 1)
    RpycServer(boot, (), lambda: threading, outbox).start()
    text = (
        "S0: 0 handlers and calls are running in your code and none has returned; the machine cannot start more threads"
    )
    assert outbox.effects == [protocol.Fault(0, "no-answer", text)]


# --- no process is left behind --------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(world: RpycWorld) -> list[int]:
    return [world._host.pid(process.child) for process in world._processes.values()]


def test_close_leaves_no_process(host: WarmHost) -> None:
    world = RpycWorld(host)
    event_loop = TinyEventLoop(world, 3)
    event_loop.boot()
    event_loop.call(0, "burn")  # this uses more CPU time than the smallest amount that can be measured
    children = pids(world)
    assert len(children) == 3
    assert all(map(alive, children))
    world.close()
    assert not any(map(alive, children))
    assert world.cpu_s > 0
    world.close()


JUDGE = """
import sys, time
from pathlib import Path
from tests.worlds.tiny_event_loop import TinyEventLoop
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.rpyc_world import RpycWorld
host = WarmHost(Path(sys.argv[1]))
world = RpycWorld(host)
TinyEventLoop(world, 3).boot()
print(host._process.pid, *[host.pid(process.child) for process in world._processes.values()], flush=True)
time.sleep(1000)
"""


def test_a_judge_that_is_killed_leaves_no_process(host: WarmHost) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    judge = subprocess.Popen(
        [sys.executable, "-c", JUDGE, str(host.path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with judge:
        assert judge.stdout is not None
        children = [int(word) for word in judge.stdout.readline().split()]
        assert len(children) == 4
        assert all(map(alive, children))
        judge.kill()
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, children)):
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- help with debugging --------------------------------------------------------------------------------------


def test_what_the_threads_of_a_silent_server_wait_for_is_described(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0, 1)
    event_loop.begin_call(0, "start", ["ask", 1, "wait"])
    event_loop.run(lambda: event_loop.in_flight() == 1)  # nothing below hands over messages
    # It may take a while until the request has arrived and the handler has begun to wait.
    deadline = time.monotonic() + 30
    while "to be notified" not in (text := event_loop.world.threads(1)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert re.fullmatch(r"start\(\) waits at raft\.py:\d+ for a reply", event_loop.world.threads(0))
    assert re.fullmatch(r"the request_vote handler waits at raft\.py:\d+ to be notified", text)
    event_loop.kill(1)
    assert event_loop.world.threads(1) == ""


@pytest.mark.parametrize("command", ["stop_here", "set_trace"])
def test_a_breakpoint_is_refused(event_loop: TinyEventLoop, command: str) -> None:
    event_loop.boot(1)
    event_loop.begin_call(1, "start", [command])
    fault = event_loop.fault()
    assert fault.kind == "refused-call"
    assert re.fullmatch(r"raft\.py:\d+", fault.where)
    assert fault.text == (
        "S1: breakpoint() does not work on the real network: here your code has no terminal. In the simulator, "
        "`raftlab test ... --pdb` opens the debugger there"
    )
