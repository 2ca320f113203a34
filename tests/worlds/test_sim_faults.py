"""Tests of the faults in student code that the simulator detects, and of the messages that report them."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from raftlab.explain.failure import Failure, LabFailure
from raftlab.explain.render import as_text
from raftlab.harness.cluster import Cluster
from tests.conftest import Write, sim_cluster


def failure_of(c: Cluster, script: Callable[[Cluster], object] = lambda c: c.sleep(30)) -> Failure:
    def run() -> None:
        c.start_all()
        script(c)

    with pytest.raises(LabFailure) as caught:
        run()
    return caught.value.failure


def line(folder_text: str, wanted: str) -> int:
    return next(number for number, text in enumerate(folder_text.splitlines(), 1) if wanted in text)


class Case:
    """A mistake in student code, and the kind, the text and the place of the failure that reports it."""

    def __init__(
        self, kind: str, text: str, where: str = "", init: str = "", methods: str = "", module: str = ""
    ) -> None:
        self.kind, self.text, self.where = kind, text, where
        self.code = {"init": init, "methods": methods, "module": module}


# `where` is part of the line of student code that the failure must name.
CASES = {
    "exception-in-a-thread": Case(
        "exception",
        "S0: uncaught exception in thread 'ticker': ZeroDivisionError: division by zero",
        "1 / zero",
        init="""
            def tick(zero=0):
                return 1 / zero
            threading.Thread(target=tick, name="ticker").start()
        """,
    ),
    "exception-in-a-bare-thread": Case(
        "exception",
        "S0: uncaught exception in a thread: KeyError: 'x'",
        "{}['x']",
        init="""
            import _thread
            _thread.start_new_thread(lambda: {}['x'], ())
        """,
    ),
    "exception-that-is-its-own-cause": Case(
        "exception",
        "S0: uncaught exception in thread 'ticker': ValueError: no",
        "raise ValueError",
        init="""
            def tick():
                try:
                    raise ValueError("no")
                except ValueError as exc:
                    raise exc from exc
            threading.Thread(target=tick, name="ticker").start()
        """,
    ),
    "disk-that-has-not-failed": Case(
        "host-died",
        "S0 said that its disk failed, but it did not fail",
        init="""
            def tick():
                from raftlab.host.server import DiskFailed
                raise DiskFailed(5, "the disk failed")
            threading.Thread(target=tick).start()
        """,
    ),
    "exception-in-a-handler": Case(
        "exception",
        "S1: uncaught exception in the append_entries handler: RuntimeError: no",
        "raise RuntimeError",
        init="threading.Thread(target=lambda: me == 0 and peers[1].call('append_entries', heartbeat())).start()",
        methods="""
            def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
                raise RuntimeError("no")
        """,
    ),
    "init-raises": Case(
        "init-exception", "S0: Raft() raised: ValueError: bad", "ValueError", init="raise ValueError('bad')"
    ),
    "init-never-returns": Case(
        "init-hangs",
        "expected Raft(...) to return within 15 s, but it has not on S0, S1",
        init="time.sleep(1000)",
    ),
    "busy-loop": Case(
        "busy-loop",
        "S0: a thread keeps running without ever waiting, so the clock stands still",
        "pass  # spin",
        init="""
            def spin():
                while True:
                    pass  # spin
            if me == 0: threading.Thread(target=spin).start()
        """,
    ),
    "busy-sleep-zero": Case(
        "busy-loop",
        "S0: a thread keeps running without ever waiting, so the clock stands still",
        "time.sleep(0)",
        init="""
            def spin():
                while True:
                    time.sleep(0)
            if me == 0: threading.Thread(target=spin).start()
        """,
    ),
    "deadlock-with-itself": Case(
        "deadlock",
        "S0: deadlock: get_state() has not answered for 2 s and never will",
        methods="""
            def get_state(self):
                with self.lock:
                    with self.lock:
                        return 0, False
        """,
    ),
    "deadlock-of-two": Case(
        "deadlock",
        "S0: deadlock: get_state() has not answered for 2 s and never will",
        init="""
            self.a, self.b = threading.Lock(), threading.Lock()
            def other():
                with self.a:
                    time.sleep(1)
                    with self.b: pass
            if me == 0: threading.Thread(target=other, name="other").start()
        """,
        methods="""
            def get_state(self):
                with self.b:
                    time.sleep(1)
                    with self.a: return 0, False
        """,
    ),
    "no-answer": Case(
        "no-answer",
        "expected S0.get_state() to return at once, but after 15 s it has not",
        methods="""
            def get_state(self):
                threading.Event().wait()
        """,
    ),
    "handler-never-answers": Case(
        "no-answer",
        "S1: the append_entries handler has not answered for 21 s",
        "threading.Event().wait()",
        init="threading.Thread(target=lambda: me == 0 and peers[1].call('append_entries', heartbeat())).start()",
        methods="""
            def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
                threading.Event().wait()
        """,
    ),
    "no-reply": Case(
        "bad-reply",
        "S1: append_entries must return AppendEntriesReply, returned None",
        init="threading.Thread(target=lambda: me == 0 and peers[1].call('append_entries', heartbeat())).start()",
        methods="""
            def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
                pass
        """,
    ),
    "unserialisable-field": Case(
        "not-by-value",
        "S0: AppendEntriesArgs.entries[0].command: a Lock cannot travel by value; use numbers, strings, bytes, and lists or "
        "dicts of these",
        "peers[1].call",
        init="""
            def send():
                args = heartbeat()
                args.entries.append(LogEntry(1, threading.Lock()))
                peers[1].call("append_entries", args)
            if me == 0: threading.Thread(target=send).start()
        """,
    ),
    "unknown-method": Case(
        "bad-peer",
        "S0: there is no RPC handler 'appendEntries'; your code has: request_vote, append_entries",
        "appendEntries",
        init="threading.Thread(target=lambda: me == 0 and peers[1].call('appendEntries', heartbeat())).start()",
    ),
    "missing-method": Case(
        "no-method",
        "expected Raft to have the method get_state, which this test calls, but it has none",
        init="self.get_state = None",
    ),
    "bad-state": Case(
        "bad-result",
        "expected get_state() to return (term, is_leader), but S0 returned None",
        methods="""
            def get_state(self):
                pass
        """,
    ),
    "socket": Case(
        "refused-call",
        "S0: import socket cannot be used here: servers talk through peers[i].call only",
        "import socket",
        init="import socket",
    ),
    "urandom-even-if-caught": Case(
        "refused-call",
        "S0: os.urandom() cannot be used here: a run must be repeatable: use random",
        "os.urandom",
        init="""
            import os
            try: os.urandom(4)
            except Exception: pass
        """,
    ),
    "subprocess": Case(
        "refused-call",
        "S0: import subprocess cannot be used here: one server is one process",
        "import subprocess",
        init="import subprocess",
    ),
    "asyncio": Case(
        "refused-call",
        "S0: import asyncio cannot be used here: the labs use threads",
        "import asyncio",
        module="import asyncio",
    ),
    "system-random": Case(
        "refused-call",
        "S0: random.SystemRandom cannot be used here: a run must be repeatable: use random.Random",
        "SystemRandom",
        init="random.SystemRandom()",
    ),
    "breakpoint": Case(
        "refused-call",
        "S0: breakpoint() cannot be used here: there is no terminal to read from; it works under `raftlab test --pdb`",
        "breakpoint()",
        init="breakpoint()",
    ),
    "uuid4": Case(
        "refused-call",
        "S0: uuid.uuid4() cannot be used here: a run must be repeatable: use random",
        "uuid.uuid4()",
        init="import uuid; uuid.uuid4()",
    ),
    "exit": Case(
        "host-died",
        "the process that runs your code ended by itself with exit code 3",
        init="import posix; posix._exit(3)",
    ),
    "bad-apply": Case(
        "bad-apply", "S0: apply_ch.put takes an ApplyMsg, got a str", "apply_ch.put", init="apply_ch.put('x')"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_fault_is_reported(name: str, write_raft: Write) -> None:
    case = CASES[name]
    folder = write_raft(**case.code)
    with sim_cluster(folder, servers=2) as c:
        failure = failure_of(c, lambda c: (c.states([0]), c.sleep(30)))
    assert failure.kind == case.kind
    # If both servers make the same mistake, the seed decides which of them is reported.
    assert re.sub("^S1", "S0", failure.text) == re.sub("^S1", "S0", case.text)
    source = (folder / "raft.py").read_text()
    if case.where:
        assert failure.where == f"raft.py:{line(source, case.where)}"


def test_a_scripted_server_calls_a_handler_that_is_missing(write_raft: Write) -> None:
    chunk = {
        "term": 1,
        "leader_id": 1,
        "last_included_index": 1,
        "last_included_term": 1,
        "offset": 0,
        "data": b"",
        "done": True,
    }
    with sim_cluster(write_raft(), servers=2, scripted=(1,)) as c:
        failure = failure_of(c, lambda c: c.scripted_server(1).ask(0, "install_snapshot", **chunk))
    assert failure.kind == "no-method"
    assert failure.text == "expected Raft to have the method install_snapshot, which this test calls, but it has none"


def test_a_deadlock_report_shows_who_waits_for_what(write_raft: Write) -> None:
    case = CASES["deadlock-of-two"]
    folder = write_raft(**case.code)
    with sim_cluster(folder, servers=1) as c:
        failure = failure_of(c, lambda c: (c.states([0]), c.sleep(30)))
    source = (folder / "raft.py").read_text()
    wanted_a, wanted_b = line(source, "with self.a: return"), line(source, "with self.b: pass")
    lock_lines = [
        number for number, text in enumerate(source.splitlines(), 1) if text.strip() in ("with self.a:", "with self.b:")
    ]
    assert failure.detail.splitlines() == [
        f"get_state() waits at raft.py:{wanted_a} for a lock that a thread took at raft.py:{lock_lines[0]}",
        f"a thread waits at raft.py:{wanted_b} for a lock that get_state() took at raft.py:{lock_lines[1]}",
    ]


@pytest.mark.slow
def test_a_loop_in_c_code_is_detected(write_raft: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftlab.worlds.sim_world.HANG_CPU_S", 1.0)
    with sim_cluster(write_raft("sum(range(10**11))")) as c:
        failure = failure_of(c)
    assert failure.kind == "host-hangs"
    assert "without letting the clock move on" in failure.text
    assert 'raft.py", line' in failure.detail


@pytest.mark.slow
def test_a_wait_in_real_time_is_detected(write_raft: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a wait uses no CPU time. Without this check, it would take two minutes to detect it."""
    monkeypatch.setattr("raftlab.worlds.sim_world.HANG_ASLEEP_LOOKS", 2)
    with sim_cluster(
        write_raft('sys.modules["builtins"].__import__("ctypes").PyDLL(None).sleep(100)', module="import sys")
    ) as c:
        failure = failure_of(c)
    assert failure.kind == "host-hangs"
    assert failure.text.endswith("your code has waited for 2 s of real time without letting the clock move on")


def test_a_lock_used_as_a_signal_is_not_a_deadlock(write_raft: Write) -> None:
    init = """
        signal = threading.Lock()
        signal.acquire()
        def wait():
            while True:
                signal.acquire()
                log("t", "woken")
        def give():
            time.sleep(10)
            signal.release()
        threading.Thread(target=wait).start()
        threading.Thread(target=give).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.sleep(12)
        c.states([0])


def test_locks_held_across_waits_cause_advice_but_no_failure(write_raft: Write) -> None:
    init = """
        def work():
            with self.lock:
                time.sleep(0.1)
                peers[1].call("append_entries", heartbeat())
                apply_ch.put(ApplyMsg(1, 1, "x"))
        if me == 0: threading.Thread(target=work).start()
    """
    folder = write_raft(init)
    with sim_cluster(folder, servers=2) as c:
        c.start_all()
        c.sleep(1)
        source = (folder / "raft.py").read_text()
        lock_line = line(source, "with self.lock:")
        assert list(c.event_loop.advice) == [
            f"raft.py:{lock_line + 1}: the lock taken at raft.py:{lock_line} is held across time.sleep",
            f"raft.py:{lock_line + 2}: the lock taken at raft.py:{lock_line} is held across peers[1].call",
            f"raft.py:{lock_line + 3}: the lock taken at raft.py:{lock_line} is held across apply_ch.put",
        ]


def test_a_failure_is_shown_in_a_fixed_order(write_raft: Write) -> None:
    with sim_cluster(write_raft(init="raise ValueError('bad')")) as c:
        failure = failure_of(c)
    failure.events = ["   0.000 S0 starts"]
    text = as_text(failure, "raftlab replay x@1").splitlines()
    assert text[0] == "S0: Raft() raised: ValueError: bad"
    assert text[1].startswith("  at raft.py:")
    assert text[2:4] == [
        "  read: handouts/debugging.md#named-faults (init-exception)",
        "  hint: Raft(...) must return: let it set fields and start threads, and do everything else in those threads.",
    ]
    assert text[4:6] == ["  what led there:", "       0.000 S0 starts"]
    assert text[6] == "  details:"
    assert text[-1] == "  replay: raftlab replay x@1"
