"""The rpyc world: real processes, real threads, real sockets, and student code that means no good."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from raftlab import protocol
from raftlab.worlds import rpyc as rpyc_world
from raftlab.worlds.hosts import WarmHost
from raftlab.worlds.rpyc import RpycWorld

from tests.tiny_switch import PATIENCE, TinySwitch

# A Raft that does as it is told: `start(["op", ...])` calls `op(...)`.
RAFT = """
import _thread, logging, os, random, signal, sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import helper
from box.inner import DEEP
from raftlab.api import ApplyMsg, log


@dataclass
class RequestVoteArgs:
    term: int
    text: str = ""
    blob: bytes = b""


@dataclass
class RequestVoteReply:
    term: int
    text: str = ""


class Raft:
    def __init__(self, peers, me, persister, apply_ch, members):
        self.peers, self.me, self.persister, self.apply_ch = peers, me, persister, apply_ch
        self.members = members
        self.bell = threading.Event()
        if me == 2:
            time.sleep(0.2)  # one is always late

    def start(self, command):
        op, *rest = command
        return getattr(self, op)(*rest)

    def get_state(self):
        return 7, True

    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
        if args.text == "wait":
            self.bell.wait()
        if args.text == "ring":
            self.bell.set()
        if args.text == "fall":
            raise KeyError("fell")
        return RequestVoteReply(args.term + 1, f"{args.text} by {self.me}, {len(args.blob)}")

    # What `start` can be told.

    def ask(self, target, text, size=0):
        reply = self.peers[target].call("request_vote", RequestVoteArgs(1, text, bytes(size)))
        return None if reply is None else [reply.term, reply.text]

    def ask_many(self, target, texts):
        with ThreadPoolExecutor(len(texts)) as pool:
            return list(pool.map(lambda text: self.ask(target, text), texts))

    def ask_wrongly(self):
        self.peers[1].call("request_vote", RequestVoteArgs(1, {1, 2}))

    def save(self, text):
        self.persister.save(text.encode(), b"snapshot of " + text.encode())

    def try_save(self, text):
        try:
            self.persister.save(text.encode())
        except OSError as exc:
            return str(exc)

    def stored(self):
        return [self.persister.state(), self.persister.snapshot()]

    def apply(self):
        self.apply_ch.put(ApplyMsg(1, 1, "x"))

    def say(self):
        print("printed", "by", self.me)
        print("to stderr", file=sys.stderr)
        logging.getLogger("raft").warning("logged %d", 5)
        log("vote", "half a pair: \\udc80")

    def imported(self):
        return [helper.NAME, DEEP, __file__, helper.__file__]

    def roll(self):
        return random.getrandbits(60)

    def thread_raises(self):
        threading.Thread(target=self.explode, name="bomb").start()

    def bare_thread_raises(self):
        _thread.start_new_thread(self.explode, ())

    def thread_exits(self):
        threading.Thread(target=sys.exit).start()

    def explode(self):
        raise ValueError("boom")

    def exit(self, code):
        os._exit(code)

    def signal(self, number):
        os.kill(os.getpid(), number)

    def linger(self):
        try:
            print("lingering")
            time.sleep(100)
        finally:
            print("never seen")

    def fds(self):
        found = []
        for name in os.listdir("/proc/self/fd"):
            try:
                if os.readlink("/proc/self/fd/" + name).startswith("socket:"):
                    found.append(int(name))
            except OSError:
                pass
        return found

    def write(self, data):
        for fd in self.fds():
            os.write(fd, data)

    def hang_up(self):
        for fd in self.fds():
            os.close(os.dup(fd)), __import__("socket").socket(fileno=os.dup(fd)).shutdown(2)
        time.sleep(100)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmHost]:
    folder = tmp_path_factory.mktemp("submission")
    (folder / "raft.py").write_text(RAFT)
    (folder / "helper.py").write_text("NAME = __name__\n")
    (folder / "box").mkdir()
    (folder / "box" / "__init__.py").write_text("")
    (folder / "box" / "inner.py").write_text("from . import other\nDEEP = other.DEEP\n")
    (folder / "box" / "other.py").write_text("DEEP = 'deep'\n")
    with WarmHost(folder) as warm:
        yield warm


@pytest.fixture
def switch(host: WarmHost) -> Iterator[TinySwitch]:
    world = RpycWorld(host)
    yield TinySwitch(world, 3)
    world.close()


def one_file(folder: Path, code: str) -> Path:
    (folder / "raft.py").write_text(textwrap.dedent(code))
    return folder


# --- life in a healthy cluster --------------------------------------------------------------------------------


def test_three_servers_boot_and_talk(switch: TinySwitch) -> None:
    switch.boot()
    assert switch.call(0, "ask", 1, "hello") == [2, "hello by 1, 0"]
    assert switch.call(1, "ask", 1, "myself") == [2, "myself by 1, 0"]
    assert not switch.faults()


def test_what_arrives_before_raft_is_constructed_waits(switch: TinySwitch) -> None:
    world = switch.world
    world.boot(protocol.Boot(2, 1, 3, [0, 1, 2], b"", b"", 1))
    number = switch.post_call(2, "get_state")
    switch.run(lambda: switch.result(number) is not None)
    assert switch.ready == {2}
    assert switch.result(number) == [7, True]


def test_a_slow_handler_holds_nobody_up(switch: TinySwitch) -> None:
    switch.boot()
    slow = ["wait"] * 20
    answers = switch.call(0, "ask_many", 1, [*slow, "ring"])
    assert answers == [[2, "wait by 1, 0"]] * 20 + [[2, "ring by 1, 0"]]


def test_long_messages_pass(switch: TinySwitch) -> None:
    switch.boot()
    assert switch.call(0, "ask", 1, "long", 20_000_000) == [2, "long by 1, 20000000"]


def test_effects_keep_their_order(switch: TinySwitch) -> None:
    switch.boot(0)
    number = switch.post_call(0, "start", ["save", "first"])
    order: list[str] = []
    while switch.world.now() < PATIENCE:
        order += [type(effect).__name__ for _, effect in switch.world.wait(PATIENCE, []).effects]
        if "Result" in order:
            break
    assert order == ["Save", "Result"]
    assert number


def test_the_submissions_modules_are_imported_by_their_short_names(switch: TinySwitch) -> None:
    switch.boot(0)
    assert switch.call(0, "imported") == ["helper", "deep", "raft.py", "helper.py"]


def test_servers_do_not_share_their_randomness(switch: TinySwitch) -> None:
    switch.boot()
    assert len({switch.call(server, "roll") for server in range(3)}) == 3


def test_wait_delivers_what_is_due_and_comes_back_in_time(switch: TinySwitch) -> None:
    switch.boot(0)
    world = switch.world
    start = world.now()
    call = protocol.Call(0, 999, "get_state", b"\x90")
    stepped = world.wait(start + 5.0, [(start + 0.05, call), (start + 5.5, call)])
    assert stepped.consumed == 1
    assert [effect.call for _, effect in stepped.effects if isinstance(effect, protocol.Result)] == [999]
    assert stepped.effects[0][0] >= start + 0.05
    until = world.now() + 0.05
    assert world.wait(until, []) == protocol.Stepped(pytest.approx(until, abs=PATIENCE), 0, [], None)
    assert world.now() >= until


# --- crashes and storage --------------------------------------------------------------------------------------


def test_a_crash_drops_everything_and_a_restart_finds_what_was_stored(switch: TinySwitch) -> None:
    switch.boot(0, 1)
    switch.call(0, "save", "kept")
    switch.post_call(0, "start", ["linger"])
    switch.run(lambda: (0, "print", "lingering") in switch.lines())
    switch.kill(0)
    assert switch.call(1, "stored") == [b"", b""]
    switch.boot(0)
    assert switch.call(0, "stored") == [b"kept", b"snapshot of kept"]
    assert not switch.faults()
    assert (0, "print", "never seen") not in switch.lines()


def test_nothing_is_heard_of_a_killed_server(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.post_call(0, "start", ["say"])
    switch.world.wait(switch.world.now(), [])  # the call is on its way, its effects perhaps too
    time.sleep(0.2)
    switch.kill(0)
    assert switch.world.wait(switch.world.now() + 0.2, []).effects == []
    switch.world.post(protocol.Call(0, 1, "get_state", b"\x90"))  # goes nowhere
    switch.kill(0)


def test_a_disk_that_fails(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.world.post(protocol.FailSaves(0, 1))
    assert switch.call(0, "try_save", "lost") == "[Errno 5] the disk failed; nothing was stored"
    assert switch.call(0, "try_save", "kept") is None
    assert switch.call(0, "stored")[0] == b"kept"


def test_what_only_the_simulator_can_do_is_refused(switch: TinySwitch) -> None:
    with pytest.raises(NotImplementedError, match="pause: a real process cannot be treated so"):
        switch.world.post(protocol.Pause(0))


# --- what the student's code says -----------------------------------------------------------------------------


def test_lines(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.call(0, "say")
    assert switch.lines() == [
        (0, "print", "printed by 0"),
        (0, "stderr", "to stderr"),
        (0, "warning", "logged 5"),
        (0, "vote", "half a pair: \\udc80"),
    ]


def test_an_apply_message(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.call(0, "apply")
    assert isinstance(switch.seen[0], protocol.Applied)


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(RAFT.splitlines(), 1) if text in line)


@pytest.mark.parametrize(("op", "role"), [("thread_raises", "thread 'bomb'"), ("bare_thread_raises", "a thread")])
def test_an_exception_that_ends_a_thread(switch: TinySwitch, op: str, role: str) -> None:
    switch.boot(1)
    switch.call(1, op)
    fault = switch.fault()
    assert fault.kind == "exception"
    assert fault.text == f"S1: an exception nobody caught in {role}: ValueError: boom"
    assert fault.where == f"raft.py:{line_of('raise ValueError')}"
    assert 'raise ValueError("boom")' in fault.detail


def test_an_exception_in_a_handler(switch: TinySwitch) -> None:
    switch.boot()
    switch.post_call(0, "start", ["ask", 1, "fall"])
    fault = switch.fault()
    assert fault.text == "S1: an exception nobody caught in the request_vote handler: KeyError: 'fell'"
    assert fault.where == f"raft.py:{line_of('raise KeyError')}"


def test_a_message_that_cannot_cross(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.post_call(0, "start", ["ask_wrongly"])
    fault = switch.fault()
    assert (fault.kind, fault.where) == ("not-by-value", f"raft.py:{line_of('{1, 2}')}")
    assert "RequestVoteArgs.text" in fault.text


def test_a_thread_may_leave_by_system_exit(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.call(0, "thread_exits")
    assert switch.call(0, "roll")
    assert not switch.faults()


@pytest.mark.parametrize(
    ("code", "text", "where"),
    [
        (
            "class Raft:\n    def __init__(self, *args):\n        self.x",
            "S0: Raft() raised: AttributeError: 'Raft' object has no attribute 'x'",
            "raft.py:3",
        ),
        ("import nowhere", "S0: Raft() raised: ModuleNotFoundError: No module named 'nowhere'", "raft.py:1"),
        ("class Raft(:", "S0: Raft() raised: SyntaxError: invalid syntax", ""),
    ],
)
def test_a_raft_that_cannot_be_made(tmp_path: Path, code: str, text: str, where: str) -> None:
    with WarmHost(one_file(tmp_path, code)) as warm:
        world = RpycWorld(warm)
        switch = TinySwitch(world, 1)
        world.boot(protocol.Boot(0, 1, 1, [0], b"", b"", 1))
        fault = switch.fault()
        world.close()
    assert (fault.kind, fault.text, fault.where) == ("init-exception", text, where)


# --- processes that end, hang or lie --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["exit", 3], "S1: the process that runs your code ended by itself with exit code 3"),
        (["signal", int(signal.SIGSEGV)], "S1: the process that runs your code was ended by signal SIGSEGV"),
        (["signal", 40], "S1: the process that runs your code was ended by signal 40"),
        (["hang_up"], "S1: the process that runs your code"),
    ],
)
def test_a_process_that_ends_by_itself(switch: TinySwitch, command: list[object], text: str) -> None:
    switch.boot(0, 1)
    switch.post_call(1, "start", command)
    fault = switch.fault()
    assert (fault.kind, fault.server) == ("host-died", 1)
    assert fault.text.startswith(text)
    assert switch.call(0, "ask", 0, "unharmed") == [2, "unharmed by 0, 0"]
    assert len(switch.faults()) == 1


def test_a_process_that_named_its_fault_is_not_reported_twice(switch: TinySwitch) -> None:
    switch.boot(1)
    switch.call(1, "thread_raises")
    switch.fault()
    switch.post_call(1, "start", ["exit", 3])
    switch.world.wait(switch.world.now() + 0.5, [])
    assert len(switch.faults()) == 1


def frame(payload: bytes, compressed: int = 0) -> bytes:
    return struct.pack("!LB", len(payload), compressed) + payload + b"\n"


def call(argument: bytes) -> bytes:
    """A call with ``argument``, as brine writes it."""
    return frame(b"\x01\x11\x50\x11\x57\x11\x51\x10" + argument)


def effects(*some: protocol.Effect) -> bytes:
    data = protocol.encode(list(some))
    return call(b"\x0e" + bytes([len(data)]) + data)


NONSENSE = {
    "noise": (os.urandom(5000), ""),
    "a huge frame": (b"\xff\xff\xff\xff\x00", "a frame of 4294967295 bytes"),
    "a compressed frame": (frame(b"x", compressed=1), "a frame that is compressed"),
    "an empty frame": (frame(b""), "something that is no call with bytes"),
    "a request for the root": (frame(b"\x01\x11\x50\x11\x53\x11\x51\x02"), "something that is no call with bytes"),
    "a netref": (
        frame(b"\x01\x11\x50\x11\x57\x11\x54\x12\x08\x0d_obj\x51\x52"),
        "something that is no call with bytes",
    ),
    "a call with a number": (call(b"\x51"), "something that is no call with bytes"),
    "a reply": (frame(b"\x02\x11\x50\x11\x51\x00"), "something that is no call with bytes"),
    "an exception": (frame(b"\x03\x11\x50\x11\x51\x00"), "something that is no call with bytes"),
    "bytes without a length": (call(b"\x0f\x00"), "bytes without their length"),
    "no effects": (call(b"\x0c\x92\x90"), ""),
    "deeply nested": (call(b"\x0f" + struct.pack("!L", 9000) + b"\x91" * 9000), ""),
    "someone else's name": (effects(protocol.Ready(0)), "something in the name of S0"),
}  # fmt: skip


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_on_the_line_is_named_and_harms_nobody(switch: TinySwitch, what: str) -> None:
    data, named = NONSENSE[what]
    switch.boot(0, 1)
    switch.post_call(1, "start", ["write", data])
    fault = switch.fault()
    assert (fault.kind, fault.server) == ("host-died", 1)
    assert f"S1: the process that runs your code sent nonsense to the lab: {named}" in fault.text
    assert switch.call(0, "ask", 0, "unharmed") == [2, "unharmed by 0, 0"]


def test_half_a_frame_does_not_hold_the_judge_up(switch: TinySwitch) -> None:
    switch.boot(0, 1)
    switch.post_call(1, "start", ["write", b"\x00\x00\x10\x00\x00 and no more"])
    assert switch.call(0, "ask", 0, "unharmed") == [2, "unharmed by 0, 0"]
    until = switch.world.now() + 0.2
    switch.world.wait(until, [])
    assert not switch.faults()


def test_a_host_that_does_not_read_is_lost(switch: TinySwitch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rpyc_world, "SEND_PATIENCE", 0.5)
    switch.boot(1)
    switch.post_call(1, "start", ["signal", int(signal.SIGSTOP)])
    switch.world.wait(switch.world.now() + 0.5, [])
    for _ in range(8):
        switch.world.post(protocol.Request(1, 1, "request_vote", bytes(8_000_000)))
    fault = switch.fault()
    assert (fault.kind, fault.text) == (
        "host-hangs",
        "S1: the process that runs your code has read nothing for 0 s",
    )


# --- no process is left behind --------------------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def pids(world: RpycWorld) -> list[int]:
    return [world._host.pid(link.child) for link in world._links.values()]


def test_close_leaves_nothing(host: WarmHost) -> None:
    world = RpycWorld(host)
    switch = TinySwitch(world, 3)
    switch.boot()
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
from tests.tiny_switch import TinySwitch
from raftlab.worlds.hosts import WarmHost
from raftlab.worlds.rpyc import RpycWorld
host = WarmHost(Path(sys.argv[1]))
world = RpycWorld(host)
TinySwitch(world, 3).boot()
print(host._process.pid, *[host.pid(link.child) for link in world._links.values()], flush=True)
time.sleep(1000)
"""


def test_a_judge_that_is_killed_leaves_nothing(host: WarmHost) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    judge = subprocess.Popen(
        [sys.executable, "-c", JUDGE, str(host.path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    with judge:
        assert judge.stdout is not None
        family = [int(word) for word in judge.stdout.readline().split()]
        assert len(family) == 4
        assert all(map(alive, family))
        judge.kill()
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, family)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
