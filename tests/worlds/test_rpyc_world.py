"""The rpyc world with code that means well, or is merely wrong: real processes, real threads, real sockets."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftlab.messages import protocol
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.rpyc_world import RpycWorld
from tests.obedient import submission, where
from tests.tiny_switch import PATIENCE, TinySwitch


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmHost]:
    with WarmHost(submission(tmp_path_factory.mktemp("submission"))) as warm:
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


@pytest.mark.parametrize(("op", "role"), [("thread_raises", "thread 'bomb'"), ("bare_thread_raises", "a thread")])
def test_an_exception_that_ends_a_thread(switch: TinySwitch, op: str, role: str) -> None:
    switch.boot(1)
    switch.call(1, op)
    fault = switch.fault()
    assert fault.kind == "exception"
    assert fault.text == f"S1: an exception nobody caught in {role}: ValueError: boom"
    assert fault.where == where("raise ValueError")
    assert 'raise ValueError("boom")' in fault.detail


def test_an_exception_in_a_handler(switch: TinySwitch) -> None:
    switch.boot()
    switch.post_call(0, "start", ["ask", 1, "fall"])
    fault = switch.fault()
    assert fault.text == "S1: an exception nobody caught in the request_vote handler: KeyError: 'fell'"
    assert fault.where == where("raise KeyError")


def test_a_message_that_cannot_cross(switch: TinySwitch) -> None:
    switch.boot(0)
    switch.post_call(0, "start", ["ask_wrongly"])
    fault = switch.fault()
    assert (fault.kind, fault.where) == ("not-by-value", where("self.bell))"))
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
