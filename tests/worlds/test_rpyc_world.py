"""Tests of the rpyc world with correct code and with ordinary mistakes. They use real processes, threads and sockets."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftlab.messages import protocol
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.rpyc_world import RpycWorld
from tests.worlds.obedient_submission import submission, where
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


def one_file(folder: Path, code: str) -> Path:
    (folder / "raft.py").write_text(textwrap.dedent(code))
    return folder


# --- a healthy cluster -----------------------------------------------------------------------------------------


def test_three_servers_boot_and_talk(event_loop: TinyEventLoop) -> None:
    event_loop.boot()
    assert event_loop.call(0, "ask", 1, "hello") == [2, "hello by 1, 0"]
    assert event_loop.call(1, "ask", 1, "myself") == [2, "myself by 1, 0"]
    assert not event_loop.faults()


def test_messages_wait_until_raft_is_constructed(event_loop: TinyEventLoop) -> None:
    world = event_loop.world
    world.boot(protocol.Boot(2, 1, 3, [0, 1, 2], b"", b"", 1))
    number = event_loop.begin_call(2, "get_state")
    event_loop.run(lambda: event_loop.result(number) is not None)
    assert event_loop.ready == {2}
    assert event_loop.result(number) == [7, True]


def test_a_slow_handler_delays_no_other(event_loop: TinyEventLoop) -> None:
    event_loop.boot()
    slow = ["wait"] * 20
    answers = event_loop.call(0, "ask_many", 1, [*slow, "ring"])
    assert answers == [[2, "wait by 1, 0"]] * 20 + [[2, "ring by 1, 0"]]


def test_long_messages_pass(event_loop: TinyEventLoop) -> None:
    event_loop.boot()
    assert event_loop.call(0, "ask", 1, "long", 10_000_000) == [2, "long by 1, 10000000"]


def test_effects_keep_their_order(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    number = event_loop.begin_call(0, "start", ["save", "first"])
    order: list[str] = []
    while event_loop.world.now() < PATIENCE:
        order += [type(effect).__name__ for _, effect in event_loop.world.wait(PATIENCE, []).effects]
        if "Result" in order:
            break
    assert order == ["Save", "Result"]
    assert number


def test_the_submissions_modules_are_imported_by_their_short_names(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    assert event_loop.call(0, "imported") == ["helper", "deep", "raft.py", "helper.py"]


def test_servers_do_not_share_their_randomness(event_loop: TinyEventLoop) -> None:
    event_loop.boot()
    assert len({event_loop.call(server, "roll") for server in range(3)}) == 3


def test_wait_delivers_what_is_due_and_returns_in_time(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    world = event_loop.world
    start = world.now()
    call = protocol.Call(0, 999, "get_state", b"\x90")
    result = world.wait(start + 5.0, [(start + 0.05, call), (start + 5.5, call)])
    assert result.consumed == 1
    assert [effect.call for _, effect in result.effects if isinstance(effect, protocol.Result)] == [999]
    assert result.effects[0][0] >= start + 0.05
    until = world.now() + 0.05
    assert world.wait(until, []) == protocol.StepResult(pytest.approx(until, abs=PATIENCE), 0, [], None)
    assert world.now() >= until


# --- crashes and storage --------------------------------------------------------------------------------------


def test_a_crash_drops_everything_and_a_restart_finds_what_was_stored(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0, 1)
    event_loop.call(0, "save", "kept")
    event_loop.begin_call(0, "start", ["linger"])
    event_loop.run(lambda: (0, "print", "lingering") in event_loop.lines())
    event_loop.kill(0)
    assert event_loop.call(1, "stored") == [b"", b""]
    event_loop.boot(0)
    assert event_loop.call(0, "stored") == [b"kept", b"snapshot of kept"]
    assert not event_loop.faults()
    assert (0, "print", "never seen") not in event_loop.lines()


def test_a_killed_server_has_no_further_effects(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    event_loop.begin_call(0, "start", ["say"])
    event_loop.world.wait(event_loop.world.now(), [])  # this sends the call, whose effects may arrive soon
    time.sleep(0.2)
    event_loop.kill(0)
    assert event_loop.world.wait(event_loop.world.now() + 0.2, []).effects == []
    event_loop.world.send_event(protocol.Call(0, 1, "get_state", b"\x90"))  # the server is down, so this is discarded
    event_loop.kill(0)


def test_a_disk_that_fails(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    event_loop.world.send_event(protocol.FailSaves(0, 1))
    assert event_loop.call(0, "try_save", "lost") == "[Errno 5] the disk failed; nothing was stored"
    assert event_loop.call(0, "try_save", "kept") is None
    assert event_loop.call(0, "stored")[0] == b"kept"


def test_what_was_appended_is_stored_after_what_was_saved(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    assert event_loop.call(0, "append", "first") is None
    event_loop.call(0, "save", "saved")
    assert event_loop.call(0, "append", ", one") is None
    event_loop.world.send_event(protocol.FailSaves(0, 1))
    assert event_loop.call(0, "append", ", lost") == "[Errno 5] the disk failed; nothing was stored"
    assert event_loop.call(0, "append", ", two") is None
    stored = [b"saved, one, two", b"snapshot of saved"]
    assert event_loop.call(0, "stored") == stored
    event_loop.kill(0)
    event_loop.boot(0)
    assert event_loop.call(0, "stored") == stored
    event_loop.call(0, "append", ", three")
    assert event_loop.call(0, "stored")[0] == b"saved, one, two, three"


def test_events_that_only_the_simulator_supports_are_refused(event_loop: TinyEventLoop) -> None:
    with pytest.raises(NotImplementedError, match="pause works in the simulator only"):
        event_loop.world.send_event(protocol.Pause(0))


# --- log lines and faults --------------------------------------------------------------------------------------


def test_output_becomes_log_lines(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    event_loop.call(0, "say")
    assert event_loop.lines() == [
        (0, "print", "printed by 0"),
        (0, "stderr", "to stderr"),
        (0, "warning", "logged 5"),
        (0, "vote", "half a pair: \\udc80"),
    ]


def test_an_apply_message_reaches_the_judge(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    event_loop.call(0, "apply")
    assert isinstance(event_loop.seen[0], protocol.Apply)


@pytest.mark.parametrize(("op", "role"), [("thread_raises", "thread 'bomb'"), ("bare_thread_raises", "a thread")])
def test_an_exception_that_ends_a_thread(event_loop: TinyEventLoop, op: str, role: str) -> None:
    event_loop.boot(1)
    event_loop.call(1, op)
    fault = event_loop.fault()
    assert fault.kind == "exception"
    assert fault.text == f"S1: uncaught exception in {role}: ValueError: boom"
    assert fault.where == where("raise ValueError")
    assert 'raise ValueError("boom")' in fault.detail


def test_an_exception_in_a_handler(event_loop: TinyEventLoop) -> None:
    event_loop.boot()
    event_loop.begin_call(0, "start", ["ask", 1, "fall"])
    fault = event_loop.fault()
    assert fault.text == "S1: uncaught exception in the request_vote handler: KeyError: 'fell'"
    assert fault.where == where("raise KeyError")


def test_a_message_that_cannot_travel_by_value(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    event_loop.begin_call(0, "start", ["ask_wrongly"])
    fault = event_loop.fault()
    assert (fault.kind, fault.where) == ("not-by-value", where("self.bell))"))
    assert "RequestVoteArgs.text" in fault.text


def test_a_thread_may_end_with_system_exit(event_loop: TinyEventLoop) -> None:
    event_loop.boot(0)
    event_loop.call(0, "thread_exits")
    assert event_loop.call(0, "roll")
    assert not event_loop.faults()


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
def test_a_raft_that_cannot_be_constructed(tmp_path: Path, code: str, text: str, where: str) -> None:
    with WarmHost(one_file(tmp_path, code)) as warm:
        world = RpycWorld(warm)
        event_loop = TinyEventLoop(world, 1)
        world.boot(protocol.Boot(0, 1, 1, [0], b"", b"", 1))
        fault = event_loop.fault()
        world.close()
    assert (fault.kind, fault.text, fault.where) == ("init-exception", text, where)
