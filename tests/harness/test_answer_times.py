"""Tests of the check that servers answer each client_request within 2 s by their own clocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftlab.explain import rules
from raftlab.explain.failure import LabFailure
from raftlab.harness.answer_times import answered_in_time
from raftlab.harness.cluster import Cluster
from raftlab.suites.helpers.clients import request
from tests.conftest import SOLUTION, Write, sim_cluster

# A service that waits N tenths of a second, by its own clock, before it answers a request with serial N. It never answers a
# request with serial 0.
SLEEPING = """
    def client_request(self, args: ClientRequest) -> ClientReply:
        if not args.serial: threading.Event().wait()
        time.sleep(args.serial / 10)
        return ClientReply("try_again")
"""


@contextmanager
def sleeping(write_raft: Write) -> Iterator[Cluster]:
    """A cluster of one server, whose service is ``SLEEPING``, and a scripted clerk."""
    folder: Path = write_raft()
    before, method, after = SOLUTION.with_name("kv.py").read_text().partition("    def client_request(")
    assert method
    # The reference's method follows, under another name.
    (folder / "kv.py").write_text(f"{before}{SLEEPING}\n    def unused(" + after)
    with sim_cluster(folder, lab="3A", scripted_clerks=1) as c:
        c.start_all()
        yield c


def ask(c: Cluster, serial: int) -> None:
    c.scripted_clerks[0].send(0, "client_request", **request("get", 1, serial, "x"))


def failure_of(c: Cluster) -> str:
    with pytest.raises(LabFailure) as caught:
        answered_in_time(c)
    assert caught.value.failure.rule is rules.ANSWERED_IN_TIME
    return caught.value.failure.text


def test_answers_within_the_limit_and_its_tolerance_pass(write_raft: Write) -> None:
    with sleeping(write_raft) as c:
        for serial in (1, 19, 20, 23):
            ask(c, serial)
        answered_in_time(c)
        assert c.now < 2.5, "the check waited longer than for the last answer"


@pytest.mark.parametrize(
    ("serial", "text"),
    [
        (27, "expected S0 to answer the get of C0 (session 1, serial 27) within 2 s, but after 2.6 s it has not"),
        (0, "expected S0 to answer the get of C0 (session 1, serial 0) within 2 s, but after 2.6 s it has not"),
    ],
)
def test_an_answer_that_has_not_come(write_raft: Write, serial: int, text: str) -> None:
    with sleeping(write_raft) as c:
        ask(c, serial)
        c.sleep(0.01)
        assert failure_of(c) == text


def test_an_answer_that_came_too_late(write_raft: Write) -> None:
    with sleeping(write_raft) as c:
        ask(c, 30)
        c.sleep(4.0)
        text = "expected S0 to answer the get of C0 (session 1, serial 30) within 2 s, but it took 3.0 s"
        assert failure_of(c) == text


def crash(c: Cluster) -> None:
    c.sleep(1.0)
    c.restart(0)
    c.sleep(3.0)


def pause(c: Cluster) -> None:
    c.sleep(1.0)
    c.pause(0)
    c.sleep(5.0)
    c.resume(0)


def run_fast_from_now_on(c: Cluster) -> None:
    c.sleep(0.5)
    c.clock_rate(0, 10.0)


@pytest.mark.parametrize(("serial", "happens"), [(0, crash), (20, pause), (20, run_fast_from_now_on)])
def test_a_crash_or_a_pause_or_a_faster_clock_excuses_a_late_answer(
    write_raft: Write, serial: int, happens: Callable[[Cluster], None]
) -> None:
    with sleeping(write_raft) as c:
        ask(c, serial)
        happens(c)
        answered_in_time(c)


@pytest.mark.parametrize(("rate", "serial", "late"), [(0.4, 20, False), (2.0, 20, False), (2.0, 30, True)])
def test_time_is_measured_by_the_servers_own_clock(write_raft: Write, rate: float, serial: int, late: bool) -> None:
    with sleeping(write_raft) as c:
        c.clock_rate(0, rate)
        c.restart(0)
        ask(c, serial)
        c.sleep(6.0)
        if late:
            assert failure_of(c).endswith("it took 3.0 s")
        else:
            answered_in_time(c)


def test_each_copy_of_a_request_is_answered(write_raft: Write) -> None:
    with sleeping(write_raft) as c:
        c.unreliable(lose_request=0.0, lose_reply=0.0, duplicate=1.0, echo=0.01)
        ask(c, 20)
        c.sleep(4.0)
        answered_in_time(c)
        answers = [event for event in c.event_loop.trace.events if event.kind == "answer"]
        assert len(answers) == 2
