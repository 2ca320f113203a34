# ruff: noqa: E501  (a table of events and their notation)
"""Tests of the trace: its file, its hash, the notation of an event in one line, and the handout about the file's format."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import msgspec
import pytest

from raftlab.harness.trace import (
    EVENT_TYPES,
    FIELDS,
    SCHEMA,
    ArriveEvent,
    BadTrace,
    BootEvent,
    CallEvent,
    Event,
    HoldEvent,
    LogLineEvent,
    LostEvent,
    OutgoingEvent,
    ReplyEvent,
    SaveEvent,
    ServerEvent,
    TextEvent,
    Trace,
    line,
    read,
)  # fmt: skip
from tests.conftest import ROOT

pack = msgspec.msgpack.encode

HANDOUT = ROOT / "handouts" / "trace-format.md"

VOTE = {"term": 3, "candidate_id": 1, "last_log_index": 4, "last_log_term": 2}
APPEND = {
    "term": 3,
    "leader_id": 1,
    "prev_log_index": 4,
    "prev_log_term": 2,
    "entries": [{"term": 3, "command": "x"}, {"term": 3, "command": "y"}],
    "leader_commit": 4,
}

NOTATION = [
    (OutgoingEvent(12.345, "send", 1, 2, 7, "append_entries", pack(APPEND)), "  12.345 S1→S2 AppendEntries term=3 prev=(4,2) entries=2 commit=4"),
    (OutgoingEvent(0.5, "send", 1, 2, 8, "request_vote", pack(VOTE)), "   0.500 S1→S2 RequestVote term=3 last=(4,2)"),
    (OutgoingEvent(0.5, "answer", 2, 1, 8, "request_vote", pack({"term": 3, "vote_granted": True})), "   0.500 S2⇢S1 RequestVote answers term=3 vote_granted=True"),
    (ReplyEvent(0.5, "reply", 1, 2, 8, "request_vote", None), "   0.500 S1 no reply of S2 to its RequestVote"),
    (ArriveEvent(0.5, "arrive", 2, 1, 8, "request_vote"), "   0.500 S2 receives RequestVote #8 of S1"),
    (LostEvent(0.5, "lost", 8, "reply", "the link is cut"), "   0.500 reply #8 lost: the link is cut"),
    (HoldEvent(0.5, "hold", 8, "request"), "   0.500 request #8 is held back by the test"),
    (HoldEvent(0.5, "release", 8, "request"), "   0.500 request #8 is let go"),
    (BootEvent(1.0, "boot", 0, 1), "   1.000 S0 starts"),
    (BootEvent(1.0, "boot", 0, 2), "   1.000 S0 restarts"),
    (ServerEvent(1.0, "crash", 0), "   1.000 S0 crashes"),
    (TextEvent(1.0, "net", "cut S0→S1"), "   1.000 network: cut S0→S1"),
    (SaveEvent(1.0, "save", 0, 12, 0), "   1.000 S0 saves 12 bytes"),
    (LogLineEvent(1.0, "line", 0, "vote", "for S1"), "   1.000 S0 [vote] for S1"),
    (CallEvent(1.0, "call", 0, 3, "start", pack(["x"])), "   1.000 S0.start('x')"),
    (CallEvent(1.0, "result", 0, 3, "start", pack([1, 1, True])), "   1.000 S0.start returns [1, 1, True]"),
]  # fmt: skip


@pytest.mark.parametrize(("event", "shown"), NOTATION, ids=[shown[9:40] for _, shown in NOTATION])
def test_the_notation_of_each_event(event: Event, shown: str) -> None:
    assert line(event) == shown


def test_no_line_of_a_text_looks_like_an_event() -> None:
    event = LogLineEvent(1.0, "line", 0, "a", "b\n   2.000 S0 x\r")
    assert line(event) == "   1.000 S0 [a] b\n            |    2.000 S0 x\\r"


def test_a_trace_is_read_back(tmp_path: Path) -> None:
    trace = Trace()
    for event, _ in NOTATION:
        trace.add(event)
    path = tmp_path / "run.jsonl"
    trace.write(path, {"test": "x", "seed": 1})
    header, *events = read(path)
    assert header == {"trace": 1, "test": "x", "seed": 1, "hash": trace.hash()}
    assert events[0]["message"] == APPEND
    assert [event["e"] for event in events] == [event.kind for event, _ in NOTATION]
    trace.write(path, {}, most=path.stat().st_size)
    assert path.exists()
    trace.write(path, {}, most=300)
    assert not path.exists()


@pytest.mark.parametrize("data", [b"\xc1", b"\x91" * 5000 + b"\x90", b"\xa1\xff", b"\x81\x92\x01\x01\x01"])
def test_a_message_that_cannot_be_decoded_is_shown_as_such(tmp_path: Path, data: bytes) -> None:
    trace = Trace()
    event = OutgoingEvent(1.0, "send", 0, 1, 1, "request_vote", data)
    trace.add(event)
    assert line(event).startswith("   1.000 S0→S1 RequestVote ")
    trace.write(tmp_path / "run.jsonl", {})
    assert [item["message"] for item in read(tmp_path / "run.jsonl") if "e" in item]


def test_the_hash_covers_every_event() -> None:
    first, second = Trace(), Trace()
    for trace in (first, second):
        trace.add(ServerEvent(1.0, "crash", 0))
    assert first.hash() == second.hash()
    second.add(ServerEvent(1.0, "crash", 1))
    assert first.hash() != second.hash()


def test_the_hash_is_of_plain_arrays_in_the_order_of_the_file() -> None:
    """Hashes are in reports, transcripts and scenario files, so they must not depend on how events are stored."""
    trace = Trace()
    trace.add(OutgoingEvent(12.345, "send", 1, 2, 7, "append_entries", b"x"))
    trace.add(ReplyEvent(13.0, "reply", 1, 2, 7, "append_entries", None))
    arrays = [(12.345, "send", 1, 2, 7, "append_entries", b"x"), (13.0, "reply", 1, 2, 7, "append_entries", None)]
    assert trace.hash() == hashlib.blake2b(pack(arrays), digest_size=16).hexdigest()
    assert FIELDS["reply"] == ("server", "from", "id", "method", "message")


def test_every_kind_of_event_has_a_notation() -> None:
    for kind, event_type in EVENT_TYPES.items():
        fields = event_type.__struct_fields__[2:]
        values = [b"\xc0" if name == "message" else 0 for name in fields]
        if kind != "call":  # a call's message must be a list, not the null that is used here
            assert line(event_type(1.0, kind, *values)).startswith("   1.000 "), kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json\n", "run.jsonl: line 1 is not JSON: the file is truncated or is not a trace"),
        ('{"other": 1}\n', "run.jsonl is not a raftlab trace"),
        ('{"trace": 9}\n', "run.jsonl is a trace of version 9; this raftlab reads 1"),
        ('{"trace": 1}\n{"t": 1, "e"', "run.jsonl: line 2 is not JSON: the file is truncated or is not a trace"),
    ],
)
def test_a_file_that_is_not_a_trace(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.jsonl"
    path.write_text(text)
    with pytest.raises(BadTrace) as caught:
        list(read(path))
    assert str(caught.value) == message


def test_the_handout_lists_every_kind_with_its_fields() -> None:
    listed = {}
    for row in re.findall(r"^\| (`.*)$", HANDOUT.read_text(), flags=re.MULTILINE):
        kinds, fields, _ = (re.findall(r"`(\w+)`", cell) for cell in row.split(" | ", 2))
        listed |= dict.fromkeys(kinds, tuple(fields))
    del listed["e"]  # this is the table's heading
    assert listed == FIELDS


def test_the_example_in_the_handout_has_the_fields_of_its_events() -> None:
    header, *events = map(msgspec.json.decode, HANDOUT.read_text().split("```json\n")[1].split("```")[0].splitlines())
    assert header["trace"] == SCHEMA
    assert events
    for event in events:
        assert tuple(event) == ("t", "e", *FIELDS[event["e"]])
