"""Tests of the service that the judge plays and of the servers' storage: snapshots, failing saves, a slow service, and
servers that send, save or apply without end."""

from __future__ import annotations

import pytest

from raftlab.explain.failure import LabFailure, short
from raftlab.harness.cluster import Cluster
from tests.conftest import Write, lines_of, sim_cluster

APPLY_TWENTY = "for index in range(1, 21): apply_ch.put(ApplyMsg(index, 1, index))"
SNAPSHOT = """
    def snapshot(self, index, data):
        log("snapshot", f"{index} {len(data)}")
        self.persister.save(b"", data)
"""


def failure_text(c: Cluster) -> str:
    with pytest.raises(LabFailure) as caught:
        c.start_all()
    return caught.value.failure.text


def test_services_take_snapshots_and_each_has_its_own_bytes(write_raft: Write) -> None:
    with sim_cluster(write_raft(APPLY_TWENTY, SNAPSHOT)) as c:
        c.take_snapshots(every=10, size=5000)
        c.start_all()
        c.sleep(0.1)
        assert [line.split()[0] for line in lines_of(c)] == ["10", "20"]
        assert c.server_state(0).snapshot == c.snapshot_of(20)
        assert c.snapshot_of(10)[30:] != c.snapshot_of(20)[30:]
        assert len(c.snapshot_of(20)) > 5000


def put_snapshot(index: int, data: str) -> str:
    return f"apply_ch.put(ApplyMsg({index}, 1, kind='snapshot', snapshot={data}))"


@pytest.mark.parametrize(
    ("init", "text"),
    [
        (
            put_snapshot(7, "b'x'"),
            "expected a snapshot that some service has taken, but S0 applied one up to index 7, where no service took one",
        ),
        (put_snapshot(5, "b'x'"), "expected S0 to apply the 19 bytes of the snapshot up to 5, not 1 bytes"),
        (put_snapshot(5, "b'x' * 19"), "expected S0 to apply the 19 bytes of the snapshot up to 5, not other bytes"),
        (
            "apply_ch.put(ApplyMsg(6, 1, 'x'))",
            "expected S0 to begin with a snapshot or index 1, but it applied index 6",
        ),
        (
            f"{APPLY_TWENTY}; {put_snapshot(5, 'b`everything up to 5.`')}".replace("`", '"'),
            "expected S0 to go on from index 21, but it applied a snapshot up to 5",
        ),
    ],
)
def test_an_invalid_snapshot_ends_the_run(init: str, text: str, write_raft: Write) -> None:
    with sim_cluster(write_raft(init.replace("; ", "\n")), lab="2D") as c:
        c.snapshot_of(5)
        assert failure_text(c) == text


def test_a_snapshot_advances_the_service(write_raft: Write) -> None:
    data = 'b"everything up to 5."'
    with sim_cluster(write_raft(f"{put_snapshot(5, data)}\napply_ch.put(ApplyMsg(6, 1, 'x'))"), lab="2D") as c:
        c.snapshot_of(5)
        c.start_all()
        assert c.committed(3) == (1, None)
        assert c.committed(6) == (1, "x")


def test_a_slow_service_blocks_the_thread_that_calls_put(write_raft: Write) -> None:
    init = """
        def apply():
            time.sleep(1)
            apply_ch.put(ApplyMsg(1, 1, "x"))
            log("t", f"{time.monotonic() - 1000:.3f}")
        threading.Thread(target=apply).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.slow_service(0, 2.0)
        c.sleep(2.5)
        assert c.committed(1)[0] == 0
        c.sleep(1.0)
        assert c.committed(1) == (1, "x")
        assert lines_of(c) == ["3.000"]


PUT_TWELVE = {
    "init": """
        def apply():
            self.applier = threading.get_ident()
            for index in range(1, 13):
                apply_ch.put(ApplyMsg(index, 1, index))
                log("put", str(index))
        threading.Thread(target=apply).start()
    """,
    "methods": """
        def snapshot(self, index, data):
            log("snapshot", f"up to {index}, inside put: {threading.get_ident() == self.applier}")
            self.persister.save(b"", data)
    """,
}


@pytest.mark.parametrize("inside", [True, False])
def test_put_returns_after_snapshot(inside: bool, write_raft: Write) -> None:
    with sim_cluster(write_raft(**PUT_TWELVE)) as c:
        c.take_snapshots(every=5)
        if inside:
            c.service.snapshot_inside_put()
        else:
            c.service.snapshot_before_put_returns()
        c.start_all()
        c.sleep(0.1)
        five, ten = (f"up to {index}, inside put: {inside}" for index in (5, 10))
        puts = [str(index) for index in range(1, 13)]
        assert lines_of(c) == [*puts[:4], five, "5", five, *puts[5:9], ten, "10", ten, *puts[10:]]
        assert c.server_state(0).snapshot == c.snapshot_of(10)


def test_a_server_that_crashes_while_put_waits_starts_again(write_raft: Write) -> None:
    methods = """
        def snapshot(self, index, data):
            time.sleep(1.0)
    """
    with sim_cluster(write_raft(PUT_TWELVE["init"], methods)) as c:
        c.take_snapshots(every=5)
        c.service.snapshot_before_put_returns()
        c.start_all()
        c.sleep(0.5)
        assert c.committed(5)[0] == 1
        c.restart(0)
        c.sleep(0.5)
        assert lines_of(c) == ["1", "2", "3", "4"] * 2
        c.sleep(5.0)
        assert lines_of(c)[-1] == "12"


def test_a_server_whose_disk_fails_is_down(write_raft: Write) -> None:
    init = """
        def save():
            time.sleep(1)
            persister.save(b"new")
        threading.Thread(target=save).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.fail_saves(0)
        c.sleep(2)
        assert not c.server_state(0).up
        assert c.server_state(0).state == b""
        assert c.propose(0, "x") == (-1, -1, False)
        c.restart(0)
        c.sleep(2)
        assert (c.server_state(0).up, c.server_state(0).state) == (True, b"new")


FLOODS = {
    "sends without end": (
        "while True: threading.Thread(target=peers[1].call, args=('append_entries', heartbeat())).start(); time.sleep(0)",
        "S0: a thread sends, saves or applies without end: 5,000 times within half a millisecond",
    ),
    "saves without end": (
        "while True: persister.save(b'')",
        "S0: a thread sends, saves or applies without end: 5,000 times within half a millisecond",
    ),
    "appends to the disk without end": (
        "while True: persister.append(b'')",
        "S0: a thread sends, saves or applies without end: 5,000 times within half a millisecond",
    ),
    "applies without end": (
        "for index in range(1, 10**9): apply_ch.put(ApplyMsg(index, 1, 'x'))",
        "S0: a thread sends, saves or applies without end: 200,000 times within half a millisecond",
    ),
    "starts threads without end": (
        "while True: threading.Thread(target=lambda: None).start()",
        "S0: a thread has started too many threads: there are 20,000 now",
    ),
    "sends and sends": (
        "while True: threading.Thread(target=peers[1].call, args=('append_entries', heartbeat())).start(); "
        "time.sleep(0.00005)",
        "expected S0 to send a few messages, but within a second it sent 10,001 (",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", FLOODS)
def test_a_server_that_floods_is_stopped(what: str, write_raft: Write) -> None:
    code, text = FLOODS[what]
    init = f"""
        def run():
            time.sleep(0.1)
            {code}
        if me == 0: threading.Thread(target=run).start()
    """
    with sim_cluster(write_raft(init), servers=2) as c:
        c.start_all()
        with pytest.raises(LabFailure) as caught:
            c.sleep(5)
    assert caught.value.failure.text.startswith(text)
    assert caught.value.failure.kind == "flood"


@pytest.mark.slow
def test_the_thread_too_many_may_be_one_that_handles_a_message(write_raft: Write) -> None:
    init = "for _ in range(19_990 if me == 0 else 0): threading.Thread(target=time.sleep, args=(1e6,)).start()"
    methods = """
        def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
            time.sleep(1e6)
    """
    with sim_cluster(write_raft(init, methods=methods), servers=2, scripted=(1,)) as c:
        c.start_all()
        for _ in range(20):
            c.scripted_server(1).send(0, "append_entries", term=1, leader_id=1, prev_log_index=0, prev_log_term=0)
        with pytest.raises(LabFailure) as caught:
            c.sleep(1)
    assert caught.value.failure.text == "S0: your code has started too many threads: there are 20,000 now"
    assert caught.value.failure.kind == "flood"


@pytest.mark.slow
def test_too_many_threads_are_reported_for_the_server_that_has_most(write_raft: Write) -> None:
    init = """
        if me: time.sleep(0.5)
        for _ in range(5 if me else 19_990): threading.Thread(target=time.sleep, args=(1e6,)).start()
    """
    with sim_cluster(write_raft(init), servers=5) as c, pytest.raises(LabFailure) as caught:
        c.start_all()
    assert caught.value.failure.text == "S0: your code has started too many threads: there are 20,000 now"


def test_a_long_log_may_be_applied_at_once(write_raft: Write) -> None:
    """A restarted server applies its whole log at once when it learns how far the log is committed."""
    with sim_cluster(write_raft("for index in range(1, 20_001): apply_ch.put(ApplyMsg(index, 1, index))")) as c:
        c.start_all()
        c.sleep(0.1)
        assert c.committed(20_000) == (1, 20_000)


def test_many_messages_at_once_all_arrive_on_time(write_raft: Write) -> None:
    """More messages are due at once than the judge passes to the host in one step. The host must not advance the clock past
    a message that it has not received yet."""
    methods = """
        def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
            log("t", f"{time.monotonic() - 1000:.6f}")
            return AppendEntriesReply(args.term, True)
    """
    with sim_cluster(write_raft(methods=methods), servers=2, scripted=(1,)) as c:
        c.start_all()
        for _ in range(200):
            c.scripted_server(1).send(0, "append_entries", term=1, leader_id=1, prev_log_index=0, prev_log_term=0)
        c.sleep(0.1)
        arrived = sorted(f"{event.time:.6f}" for event in c.event_loop.trace.events if event.kind == "arrive")
        assert sorted(lines_of(c)) == arrived
        assert len(arrived) == 200


def test_long_values_are_shown_short() -> None:
    assert short("x" * 5000) == "'" + "x" * 39 + "..." + "x" * 11 + "'"
    assert short({"a": 1}) == "{'a': 1}"
