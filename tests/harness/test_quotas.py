"""What a submission sends to the judge is limited, and if the judge cannot handle it, the submission fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftlab.explain.failure import LabFailure
from raftlab.harness import quotas
from raftlab.harness.quotas import Quotas, shorten
from raftlab.messages import protocol
from tests.conftest import Write, sim_cluster


def text_of(send: Callable[[Quotas], object]) -> str:
    with pytest.raises(LabFailure) as caught:
        send(Quotas())
    return caught.value.failure.text


def test_a_busy_server_exceeds_no_quota() -> None:
    all_of_it = Quotas()
    for number in range(20_000):
        all_of_it.message(0, "request", 100, number / 5_000)
        all_of_it.save(0, 10_000, number / 5_000)
    all_of_it.result(0, "get_state", bytes(1000))


def test_a_server_that_exceeds_a_quota_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "_BYTES_KEPT", 10_000_000)
    flood = "expected S0 to send a few messages, but within a second it sent 10,001 (100,010 bytes)"
    assert text_of(lambda q: [q.message(0, "request", 10, 0.0) for _ in range(10_002)]) == flood
    run = "expected a run of at most 10,000,000 bytes of messages, but it has more"
    assert text_of(lambda q: [q.message(0, "request", 700, float(at)) for at in range(10_000)]) == run
    assert text_of(lambda q: [q.save(0, 0, float(at)) for at in range(30_000)]) == run
    assert text_of(lambda q: [q.kept(2_000_000) for _ in range(5)]) == run
    stored = "expected S0 to store at most 8,000,000 bytes, but state and snapshot have 8,000,001"
    assert text_of(lambda q: q.save(0, 8_000_001, 0.0)) == stored
    result = "expected S0.get_state() to return a short value, but it has 100,001 bytes"
    assert text_of(lambda q: q.result(0, "get_state", bytes(100_001))) == result


def test_lines_and_advice_are_dropped_silently() -> None:
    some = Quotas()
    kept = [some.line(protocol.LogLine(0, "x", "y" * 1_000_000)) for _ in range(25)]
    assert [len(text or "") for text in kept] == [1_000_000] * 19 + [len("(too much output: the rest is dropped)")] + [
        0
    ] * 5
    assert [some.advice() for _ in range(25)] == [True] * 20 + [False] * 5


def test_a_fault_is_shortened_and_an_unknown_kind_replaced() -> None:
    fault = protocol.Fault(0, "machine-busy", "x" * 5000, "y" * 5000, "z" * 50_000)
    shorten(fault)
    assert (fault.kind, len(fault.text), len(fault.where), len(fault.detail)) == ("exception", 995, 195, 8000)
    fault = protocol.Fault(0, "deadlock", "short", "raft.py:1", "stacks")
    shorten(fault)
    assert (fault.kind, fault.text, fault.where, fault.detail) == ("deadlock", "short", "raft.py:1", "stacks")


def test_what_the_judge_cannot_handle_is_a_failure(write_raft: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    init = """
        def run():
            time.sleep(0.1)
            peers[1].call("append_entries", heartbeat())
        if me == 0: threading.Thread(target=run).start()
    """

    def unforeseen(*event: Any) -> None:
        raise KeyError("vote_granted")

    with sim_cluster(write_raft(init), servers=2) as c:
        monkeypatch.setattr(c.event_loop.referee, "sent", unforeseen)
        c.start_all()
        with pytest.raises(LabFailure) as caught:
            c.sleep(1.0)
    failure = caught.value.failure
    assert (failure.kind, failure.text) == ("bad-message", "S0 sent something that the lab cannot handle (KeyError)")
    assert "KeyError: 'vote_granted'" in failure.detail


def test_numbers_above_2_to_the_62_are_refused(write_raft: Write) -> None:
    with sim_cluster(write_raft("self.term = 2**62 + 1"), servers=1) as c:
        c.start_all()
        with pytest.raises(
            LabFailure, match="S0 returned a value that cannot be read: 4611686018427387905 is too large"
        ):
            c.states([0])
