"""Tests of printing events in columns, one for each server."""

from __future__ import annotations

from raftlab.harness import trace
from raftlab.harness.trace import Event
from raftlab.tools.columns import in_columns

EVENTS: list[Event] = [
    trace.BootEvent(0.0, "boot", 2, 1),
    trace.TextEvent(0.25, "net", "S0 is cut off"),
    trace.OutgoingEvent(0.593, "send", 0, 2, 1, "request_vote", trace._pack({"term": 1, "last_log_index": 0})),
    trace.RateEvent(0.6, "rate", 2, 1.1),
    trace.CallEvent(1.0, "call", 0, 1, "get_state", trace._pack([])),
]


def test_each_server_has_a_column() -> None:
    assert list(in_columns(EVENTS, 60)) == [
        "         S0                       S2",
        "   0.000                          starts",
        "   0.250 network: S0 is cut off",
        "   0.593 →S2 RequestVote term=1",
        "         last=(0,?)",
        "   0.600                          clock now runs at 1.1",
        "   1.000 get_state()",
    ]


def test_columns_are_wide_enough_to_read() -> None:
    assert next(in_columns(EVENTS, 20)) == "         S0                S2"
    assert list(in_columns(EVENTS[1:2], 20)) == ["   0.250 network: S0 is cut off"]
