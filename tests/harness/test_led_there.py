"""Tests of the events that a failure shows below "what led there": which ones are chosen, and their notation."""

from __future__ import annotations

import pytest

from raftlab.harness.led_there import led_there
from raftlab.harness.trace import (
    ApplyEvent,
    BootEvent,
    LogLineEvent,
    OutgoingEvent,
    SaveEvent,
    ServerEvent,
    TextEvent,
    _pack,
)
from raftlab.participants import clerk
from tests.harness.test_observations import Script

SWAP = {"client_id": 1, "serial": 6, "op": "swap", "key": "y", "value": "5;", "expected": "3;"}


@pytest.fixture
def script() -> Script:
    return Script()


def apply(script: Script, time: float, server: int, index: int, command: object = None) -> None:
    message = {"index": index, "command": command, "kind": "command"}
    script.trace.add(ApplyEvent(time, "apply", server, _pack(message)))


def test_messages_that_come_again_and_entries_in_a_row_are_one_line(script: Script) -> None:
    for tenth in range(10):
        script.append(tenth / 10, 0, 1, 2, success=None)
    for index in (1, 2, 3):
        apply(script, 2.0 + index / 10, 1, index)
    script.trace.add(ServerEvent(3.0, "crash", 1))
    apply(script, 4.0, 1, 1)
    assert led_there(script.events) == [
        "   0.900 S0→S1 AppendEntries term=1 prev=(2,1) entries=0 commit=0 (the last of 10, from 0.000 on)",
        "   2.300 S1 applies index 1 to 3",
        "   3.000 S1 crashes",
        "   4.000 S1 applies index=1 kind='command'",
    ]


def test_what_several_servers_get_or_say_is_one_line(script: Script) -> None:
    for server in (0, 1, 2):
        script.trace.add(ServerEvent(0.0, "ready", server))
    for _ in range(2):
        for follower in (1, 2):
            script.append(1.0, 0, follower, 0, success=True)
    for voter in (0, 1):
        script.vote(2.0, 2, voter, 2, granted=True)
    assert led_there(script.events) == [
        "   1.000 S0→S1, S2 AppendEntries term=1 prev=(0,1) entries=0 commit=0, answered with success=True"
        " (the last of 4, from 1.000 on)",
        "   2.000 S2→S0, S1 RequestVote term=2 last=(0,0)",
        "   2.001 S0, S1⇢S2 RequestVote answers term=2 vote_granted=True (its term was 1)",
        "   2.002 S2 has the reply term=2 vote_granted=True of S0, S1 to its RequestVote",
    ]


def test_votes_for_two_candidates_are_two_lines(script: Script) -> None:
    script.vote(1.0, 1, 0, 7, granted=True)
    script.vote(2.0, 2, 0, 7, granted=True)
    shown = led_there(script.events)
    assert [line for line in shown if "answers" in line] == [
        "   1.001 S0⇢S1 RequestVote answers term=7 vote_granted=True",
        "   2.001 S0⇢S2 RequestVote answers term=7 vote_granted=True",
    ]


def test_what_the_sentence_speaks_of_is_shown_though_much_happened_since(script: Script) -> None:
    script.vote(0.5, 1, 0, 3, granted=True)
    script.rpc(0.6, 1, 2, "timeout_now", {"term": 3})
    for term in range(10, 40):
        script.vote(float(term), 2, 1, term, granted=False)
    shown = led_there(script.events, "expected S0 to vote once in term 3, but it voted for S1 and then for S2")
    assert "   0.500 S1→S0 RequestVote term=3 last=(0,0)" in shown
    assert "   0.501 S0⇢S1 RequestVote answers term=3 vote_granted=True" in shown
    assert "   0.600 S1→S2 TimeoutNow term=3" in shown
    assert shown[-1].startswith("  39.001 S1⇢S2") or shown[-1].startswith("  39.002 S2")
    assert len(shown) == 12


def test_an_operation_that_the_sentence_names_is_shown_with_its_answer(script: Script) -> None:
    clients, put = clerk(0), SWAP | {"serial": 7, "op": "put", "expected": None}
    script.rpc(1.0, clients, 0, "client_request", SWAP, {"status": "ok", "value": True})
    for server in (0, 1):
        apply(script, 1.5, server, 8, put | {"serial": 5})
        for index in (9, 10):
            apply(script, 1.5, server, index, SWAP)
    for number in range(20):
        script.rpc(2.0 + number, clients, 0, "client_request", put | {"serial": 7 + number}, {"status": "ok"})
    shown = led_there(script.events, "expected swap('y', '3;', '5;') (session 1, serial 6) to get True", 8)
    assert shown[:3] == [
        "   1.000 C0→S0 ClientRequest client_id=1 serial=6 op='swap' key='y' value='5;' expected='3;'",
        "   1.001 S0⇢C0 ClientRequest answers status='ok' value=True",
        "   1.500 S0, S1 apply index 9 to 10, with swap('y', '3;', '5;') client_id=1 serial=6 2 times",
    ]


def test_the_students_lines_and_the_messages_of_the_sentence_are_added(script: Script) -> None:
    about = script.vote(0.1, 1, 0, 1, granted=False)
    for number in range(30):
        script.vote(1.0 + number, 1, 0, 2 + number)
        script.trace.add(LogLineEvent(1.0 + number, "line", 1, "vote", f"line {number}"))
    shown = led_there(script.events, about={about})
    assert shown[:2] == [
        "   0.100 S1→S0 RequestVote term=1 last=(0,0)",
        "   0.101 S0⇢S1 RequestVote answers term=1 vote_granted=False",
    ]
    assert shown[-2:] == ["  30.000 S1→S0 RequestVote term=31 last=(0,0)", "  30.000 S1 [vote] line 29"]
    assert sum("[vote] line" in line for line in shown) == 5


def test_what_a_server_saved_before_its_crash_is_shown_if_the_sentence_is_about_a_restart(script: Script) -> None:
    for time in (0.1, 0.2):
        script.trace.add(SaveEvent(time, "save", 0, int(time * 100), 0))
    script.trace.add(ServerEvent(0.3, "crash", 0))
    script.trace.add(BootEvent(0.3, "boot", 0, 2))
    script.trace.add(SaveEvent(0.4, "save", 1, 40, 0))
    script.trace.add(TextEvent(0.5, "note", "the next save of S0 fails"))
    for term in range(10, 40):
        script.vote(float(term), 2, 1, term, granted=False)
    shown = led_there(script.events, "expected S0 to have index 3 after its restart, but it has lost it")
    assert shown[:2] == ["   0.200 S0 saves 20 bytes (the last of 2, from 0.100 on)", "   0.300 S0 crashes"]
    assert "   0.500 test: the next save of S0 fails" in shown
    assert not any("saves" in line for line in led_there(script.events, "expected S1 to vote for S2"))


@pytest.mark.parametrize("value", [[], {}, "x", -1, b"x", None])
def test_messages_may_contain_anything(script: Script, value: object) -> None:
    """Student code may send a value of any type where a number is expected. That must not end in an error of the judge."""
    names = (
        "term",
        "index",
        "prev_log_index",
        "entries",
        "client_id",
        "serial",
        "op",
        "key",
        "value",
        "kind",
        "success",
    )
    message = dict.fromkeys(names, value)
    for method in ("append_entries", "request_vote", "client_request"):
        script.rpc(1.0, clerk(0), 0, method, message, message | {"status": "ok"})
    script.trace.add(OutgoingEvent(2.0, "send", 0, 1, 99, "append_entries", b"\xc1"))
    script.trace.add(ApplyEvent(2.0, "apply", 0, _pack(message | {"command": message})))
    script.trace.add(ApplyEvent(2.0, "apply", 0, b"\xc1"))
    sentence = "expected S0 (session 1, serial 6) in term 3 to apply index 2 of put('x', 'y') and 'x'"
    assert len(led_there(script.events, sentence)) >= 6
