"""Tests of `Cluster`, with which a suite's test controls servers and network. They use small fake Rafts in the simulator."""

from __future__ import annotations

import re

import pytest

from raftlab.explain.failure import LabFailure
from raftlab.harness.cluster import Cluster
from raftlab.harness.trace import ArriveEvent, ReplyEvent, as_object
from tests.conftest import SOLUTION, Write, lines_of, sim_cluster

# A fake Raft: S0 always leads and sends each command to all servers. S0 applies a command when a majority has stored
# it. The other servers apply it as soon as they receive it.
COPYING = {
    "init": """
        self.log = []
        if persister.state(): self.log = persister.state().decode().split(",")
        self.term, self.leads = 1, me == 0
        for index, command in enumerate(self.log, 1): apply_ch.put(ApplyMsg(index, 1, command))
    """,
    "methods": """
        def start(self, command):
            if not self.leads: return -1, 1, False
            with self.lock:
                self.add(command)
                index = len(self.log)
                got = [self.me]
            def copy(server):
                args = AppendEntriesArgs(1, 0, index - 1, 1, [LogEntry(1, command)])
                if self.peers[server].call("append_entries", args):
                    with self.lock:
                        got.append(server)
                        if len(got) == len(self.peers) // 2 + 1:
                            self.apply_ch.put(ApplyMsg(index, 1, command))
            for server in range(1, len(self.peers)):
                threading.Thread(target=copy, args=(server,)).start()
            return index, 1, True

        def add(self, command):
            self.log.append(command)
            self.persister.save(",".join(self.log).encode())

        def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
            with self.lock:
                self.add(args.entries[0].command)
                self.apply_ch.put(ApplyMsg(len(self.log), 1, args.entries[0].command))
            return AppendEntriesReply(1, True)
    """,
}


def kinds(c: Cluster, *wanted: str) -> list[dict[str, object]]:
    return [as_object(event) for event in c.event_loop.trace.events if event.kind in wanted]


def test_agreement_is_seen_and_counted(write_raft: Write) -> None:
    with sim_cluster(write_raft(**COPYING), servers=3) as c:
        c.start_all()
        assert [c.agree(word, servers=3) for word in ("a", "b")] == [1, 2]
        assert c.committed(1) == (3, "a")
        assert c.committed(3) == (0, None)
        assert c.propose(1, "c") == (-1, 1, False)
        assert c.rpc_count(0, "append_entries") == 4
        assert c.rpc_count(1) == 0
        assert c.rpc_bytes() > 200
        assert c.one_leader() == 0
        assert c.agreed_term() == 1


def test_missing_agreement_is_a_failure(write_raft: Write) -> None:
    with sim_cluster(write_raft(**COPYING), servers=3) as c:
        c.start_all()
        c.disconnect(1)
        with pytest.raises(LabFailure, match="expected 'a' to be applied by 3 servers within 2 s"):
            c.agree("a", servers=3, retry=False)
        assert c.committed(1) == (2, "a")


def test_only_stored_state_survives_a_crash(write_raft: Write) -> None:
    with sim_cluster(write_raft(**COPYING), servers=3) as c:
        c.start_all()
        c.agree("a", servers=3)
        c.restart(2)
        assert c.server_state(2).state == b"a"
        c.crash(1)
        assert 1 not in c.connected()
        c.propose(0, "b")
        c.sleep(1)
        assert c.server_state(1).state == b"a"
        assert c.server_state(2).state == b"a,b"


@pytest.mark.parametrize(
    ("kind", "side", "stored", "answers"),
    [
        ("save", "before", b"", 0),
        ("save", "after", b"x", 0),
        ("answer", "before", b"x", 0),
        ("answer", "after", b"x", 1),
    ],
)
def test_a_crash_before_or_after_a_save_or_an_answer(
    write_raft: Write, kind: str, side: str, stored: bytes, answers: int
) -> None:
    with sim_cluster(write_raft(**COPYING), servers=2) as c:
        c.start_all()
        c.crash_at(1, kind, side=side)
        c.propose(0, "x")
        c.sleep(1)
        assert not c.server_state(1).up
        assert c.server_state(1).state == stored
        assert len(kinds(c, "answer")) == answers


def test_messages_of_the_same_moment_reach_no_crashed_server(write_raft: Write) -> None:
    with sim_cluster(write_raft(**COPYING), servers=4) as c:
        c.start_all()
        for server in (2, 3):
            c.disconnect(server)
        c.crash_at(1, "save", nth=3)
        for number in range(20):
            c.propose(0, f"x{number}")
        c.sleep(8)
        events = c.event_loop.trace.events
        crash = [event.kind for event in events].index("crash")
        assert not [event for event in events[crash:] if isinstance(event, ArriveEvent)]
        assert len([event for event in events if isinstance(event, ReplyEvent) and event.source == 1]) == 20


def test_a_crash_at_a_send_or_an_answer_of_one_method(write_raft: Write) -> None:
    with sim_cluster(write_raft(**COPYING), servers=2) as c:
        c.start_all()
        c.crash_at(1, "answer", method="request_vote")
        c.propose(0, "x")
        c.sleep(1)
        assert c.server_state(1).up
        c.crash_at(1, "answer", method="append_entries", when=lambda args: args["entries"][0]["command"] == "z")
        for command in ("y", "z"):
            c.propose(0, command)
            c.sleep(1)
        assert not c.server_state(1).up
        assert c.server_state(1).state == b"x,y,z"
        assert len(kinds(c, "answer")) == 2
        c.crash_at(0, "send", method="append_entries", when=lambda args: args["prev_log_index"] == 4)
        c.propose(0, "4")
        c.sleep(1)
        assert c.server_state(0).up
        c.propose(0, "5")
        c.sleep(1)
        assert not c.server_state(0).up


def test_raft_has_says_which_methods_exist(write_raft: Write) -> None:
    with sim_cluster(write_raft(**COPYING)) as c:
        c.start_all()
        assert c.raft_has("start")
        assert not c.raft_has("change_membership")


def test_a_failing_save_raises_and_stores_nothing(write_raft: Write) -> None:
    init = """
        def save():
            time.sleep(1)
            try: persister.save(b"new")
            except OSError as exc: log("t", str(exc))
            persister.save(b"newer", b"snap")
        persister.save(b"old")
        threading.Thread(target=save).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.fail_saves(0)
        c.sleep(2)
        assert lines_of(c) == ["[Errno 5] the disk failed; nothing was stored"]
        assert (c.server_state(0).state, c.server_state(0).snapshot, c.server_state(0).saves) == (b"newer", b"snap", 2)


def test_what_is_appended_is_stored_after_what_was_saved(write_raft: Write) -> None:
    init = """
        self.persister = persister
        log("size", str(len(persister.state())))
    """
    methods = """
        def start(self, command):
            if command == "save": self.persister.save(b"saved", b"snap")
            else: self.persister.append(command.encode())
            return len(self.persister.state()), 1, True
    """
    with sim_cluster(write_raft(init, methods)) as c:
        c.start_all()
        server = c.server_state(0)
        assert c.propose(0, "first")[0] == 5
        assert server.state == b"first"
        assert [c.propose(0, command)[0] for command in ("save", ", one", ", two")] == [5, 10, 15]
        assert (server.state, server.state_size, server.snapshot, server.saves) == (b"saved, one, two", 15, b"snap", 4)
        sizes = [(event["state_bytes"], event["snapshot_bytes"]) for event in kinds(c, "save")]
        assert sizes == [(5, 0), (5, 4), (10, 0), (15, 0)]
        c.restart(0)
        assert c.propose(0, ", three")[0] == 22
        assert server.state == b"saved, one, two, three"
        assert lines_of(c) == ["0", "15"]


@pytest.mark.parametrize(("side", "stored"), [("before", b"a"), ("after", b"ab")])
def test_a_crash_before_or_after_an_append(write_raft: Write, side: str, stored: bytes) -> None:
    methods = """
        def start(self, command):
            self.persister.append(command.encode())
            return 1, 1, True
    """
    with sim_cluster(write_raft(methods=methods)) as c:
        c.start_all()
        c.propose(0, "a")
        c.crash_at(0, "save", side=side)
        c.propose(0, "b")
        assert not c.server_state(0).up
        assert c.server_state(0).state == stored


def test_a_failing_append_raises_and_stores_nothing(write_raft: Write) -> None:
    init = """
        def save():
            time.sleep(1)
            try: persister.append(b" lost")
            except OSError as exc: log("t", str(exc))
            persister.append(b" more")
            log("t", str(persister.state()))
        persister.save(b"old")
        threading.Thread(target=save).start()
    """
    with sim_cluster(write_raft(init)) as c:
        c.start_all()
        c.fail_saves(0)
        c.sleep(2)
        assert lines_of(c) == ["[Errno 5] the disk failed; nothing was stored", "b'old more'"]
        assert (c.server_state(0).state, c.server_state(0).saves) == (b"old more", 2)


@pytest.mark.parametrize(
    ("init", "text"),
    [
        ("persister.append('text')", "persister.append expects bytes, not str"),
        ("persister.append(bytearray(2))", "persister.append expects bytes, not bytearray"),
        (
            "for _ in range(9): persister.append(bytes(1_000_000))",
            "expected S0 to store at most 8,000,000 bytes, but state and snapshot have 9,000,000",
        ),
    ],
)
def test_what_may_not_be_appended(write_raft: Write, init: str, text: str) -> None:
    with sim_cluster(write_raft(init)) as c, pytest.raises(LabFailure, match=re.escape(text)):
        c.start_all()


# A fake Raft: ten times a second, S0 calls S1 with the current time as the term, and logs the term of the reply.
ECHO = {
    "init": """
        def send():
            while True:
                time.sleep(0.1)
                reply = peers[1].call("append_entries", heartbeat(term=int(time.monotonic() * 10)))
                log("reply", str(reply and reply.term))
        if me == 0: threading.Thread(target=send, daemon=True).start()
    """
}


def test_messages_and_calls_of_a_block_arrive_at_once(write_raft: Write) -> None:
    methods = """
        def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply:
            log("vote", f"{time.monotonic():.6f}")
            time.sleep(1.0)
            return RequestVoteReply(args.term, True)
        def start(self, command):
            log("start", f"{time.monotonic():.6f}")
            return 1, 1, True
    """
    with sim_cluster(write_raft(methods=methods), servers=3, scripted=(1, 2)) as c:
        c.start_all()
        ask = {"term": 1, "candidate_id": 1, "last_log_index": 0, "last_log_term": 0}
        before = c.hold("request_vote")
        c.scripted_server(1).send(0, "request_vote", **ask)
        c.sleep(0.5)
        with c.at_once(0, before):
            calls = [c.ask_start(0, "x"), c.ask_start(0, "y")]
            c.scripted_server(2).send(0, "request_vote", **ask)
            assert lines_of(c) == []
        assert c.started(0, calls) == [(1, 1, True), (1, 1, True)]
        assert len(lines_of(c)) == 4
        assert len(set(lines_of(c))) == 1


def test_a_held_request_travels_when_released(write_raft: Write) -> None:
    with sim_cluster(write_raft(**ECHO), servers=2) as c:
        c.start_all()
        hold = c.hold("append_entries", src=0, dst=1, most=1)
        c.sleep(3)
        assert len(hold.messages) == 1
        assert lines_of(c) == []
        hold.release()
        c.sleep(0.05)
        assert lines_of(c) == ["10001"]
        assert [event["e"] for event in kinds(c, "hold", "release")] == ["hold", "release"]


def test_a_held_reply_is_dropped_or_delivered(write_raft: Write) -> None:
    with sim_cluster(write_raft(**ECHO), servers=2) as c:
        c.start_all()
        hold = c.hold("append_entries", leg="reply", when=lambda args: args["term"] > 10001)
        c.sleep(1)
        assert lines_of(c) == ["10001"]
        hold.drop()
        c.sleep(0.15)
        assert lines_of(c)[:2] == ["10001", "None"]


def test_the_connection_is_checked_again_before_a_reply_is_delivered(write_raft: Write) -> None:
    slow = {
        **ECHO,
        "methods": """
            def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply:
                time.sleep(0.5)
                return AppendEntriesReply(args.term, True)
        """,
    }
    with sim_cluster(write_raft(**slow), servers=2) as c:
        c.network.long_waits = False
        c.start_all()
        c.sleep(0.3)
        c.cut(1, 0)
        c.sleep(1)
        assert set(lines_of(c)) == {"None"}
        assert kinds(c, "lost")[0]["why"] == "the link is cut"


def test_a_message_survives_a_cut_that_is_healed_before_it_is_due(write_raft: Write) -> None:
    init = """
        def call():
            time.sleep(0.1)
            log("t", str(peers[1].call("append_entries", heartbeat())))
        def save():
            time.sleep(0.3)
            persister.save(b"x")
        threading.Thread(target=call if me == 0 else save).start()
    """
    with sim_cluster(write_raft(init), servers=2) as c:
        c.unreliable(on=False, latency=(1.0, 1.0))
        c.start_all()
        c.sleep(0.2)  # the request is in flight; it is due at 1.1
        c.cut(0, 1)
        # The wait could last beyond 1.1, but the save ends it at 0.3.
        assert c.wait_for(5.0, lambda: c.server_state(1).saves == 1)
        c.heal()
        c.sleep(3.0)
        assert lines_of(c) == ["AppendEntriesReply(term=1, success=True)"]
        times = [event.time for event in c.event_loop.trace.events]
        assert times == sorted(times)


def test_a_call_to_a_dead_server_takes_seconds_to_fail(write_raft: Write) -> None:
    with sim_cluster(write_raft(**ECHO), servers=2, seed=4) as c:
        c.start_all()
        c.crash(1)
        c.sleep(30)
        assert 4 <= len(lines_of(c)) <= 20
        assert set(lines_of(c)) == {"None"}


def test_duplicates_reach_the_handler_twice_and_the_caller_once(write_raft: Write) -> None:
    with sim_cluster(write_raft(**ECHO), servers=2) as c:
        c.start_all()
        c.unreliable(on=False, duplicate=1.0)
        c.sleep(1.05)
        sent, arrived, replies = (len(kinds(c, kind)) for kind in ("send", "arrive", "reply"))
        assert arrived >= 2 * sent - 2
        assert replies <= sent


def test_scripted_servers_call_and_answer() -> None:
    with sim_cluster(SOLUTION, servers=3, scripted=(1, 2)) as c:
        c.start_all()
        reply = c.scripted_server(1).ask(0, "request_vote", term=5, candidate_id=1, last_log_index=0, last_log_term=0)
        assert reply == {"term": 5, "vote_granted": True}
        for scripted_server in c.scripted:
            scripted_server.answer["request_vote"] = lambda rpc: {"term": rpc.args["term"], "vote_granted": True}
            scripted_server.answer["append_entries"] = lambda rpc: {"term": rpc.args["term"], "success": True}
        assert c.one_leader() == 0
        assert {rpc.method for rpc in c.scripted_server(2).received} == {"pre_vote", "request_vote", "append_entries"}


def test_two_leaders_in_a_term_end_the_run(write_raft: Write) -> None:
    with sim_cluster(write_raft("self.term, self.leads = 3, True"), servers=2) as c:
        c.start_all()
        with pytest.raises(LabFailure) as caught:
            c.one_leader()
    failure = caught.value.failure
    assert failure.text == "expected at most one leader in term 3, but S0 and S1 both lead it"
    assert failure.rule is not None
    assert (failure.rule.name, failure.rule.section) == ("Election Safety", "§5.2")


def applying(*plans: list[tuple[int, str]]) -> str:
    """The code of a fake Raft that applies a list of (index, command). ``plans`` has one list for each server."""
    return f"""
        for index, command in {list(plans)!r}[me]:
            apply_ch.put(ApplyMsg(index, 1, command))
    """


@pytest.mark.parametrize(
    ("plans", "text"),
    [
        (([(1, "a"), (3, "c")],), "expected S0 to apply index 2 next, but it applied index 3"),
        (([(1, "a"), (1, "a")],), "expected S0 to apply index 2 next, but it applied index 1"),
    ],
)
def test_applying_out_of_order_ends_the_run(
    write_raft: Write, plans: tuple[list[tuple[int, str]], ...], text: str
) -> None:
    with sim_cluster(write_raft(applying(*plans)), servers=1) as c, pytest.raises(LabFailure) as caught:
        c.start_all()
    assert caught.value.failure.text == text


def test_applying_different_commands_ends_the_run(write_raft: Write) -> None:
    with (
        sim_cluster(write_raft(applying([(1, "a")], [(1, "b")])), servers=2) as c,
        pytest.raises(LabFailure) as caught,
    ):
        c.start_all()
    text = caught.value.failure.text
    assert "at index 1 as S" in text
    assert caught.value.failure.rule is not None
    assert caught.value.failure.rule.name == "State Machine Safety"


def test_simulator_only_methods_are_refused_on_the_real_network(write_raft: Write) -> None:
    with sim_cluster(write_raft()) as c:
        c._world.virtual = False
        with pytest.raises(Exception, match=r"pause needs the simulator; mark the test networks=\('sim',\)"):
            c.pause(0)


def test_a_cluster_needs_at_least_one_server() -> None:
    with (
        pytest.raises(ValueError, match="a cluster has 1 to 25 servers, not 0"),
        sim_cluster(SOLUTION, servers=0),
    ):
        pass


def test_two_lasting_leaders_are_reported(write_raft: Write) -> None:
    methods = """
        def get_state(self):
            return self.me + 1, self.me < 2
    """
    with sim_cluster(write_raft(methods=methods), servers=3) as c:
        c.start_all()
        with pytest.raises(LabFailure) as caught:
            c.settled_leader(within=1.0)
    assert caught.value.failure.text == (
        "expected one leader and all servers in its term, but S0, S1 lead and the terms are S0: 1, S1: 2, S2: 3"
    )


def test_a_server_that_has_ended_has_no_state(write_raft: Write) -> None:
    with sim_cluster(write_raft()) as c:
        c.start_all()
        c.crash(0)
        with pytest.raises(LabFailure) as caught:
            c.get_state(0)
    assert caught.value.failure.text == "expected S0 to say its term and whether it leads, but it has ended"
