"""Lab 3A: a key/value service above Raft, and the clerks that call it (§8; dissertation, 6.3).

Every test requires that operations are carried out exactly once and that the history is linearizable
(:func:`~raftlab.harness.history_check.check_history`). How a service finds the request that an entry belongs to, what its
entries contain beyond the operation, and which server a clerk asks first are the student's choice.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.harness.clerks import OPERATION_LIMIT, ClientOperation, client_requests, token
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.membership import MembershipCall
from raftlab.harness.message_filters import entries
from raftlab.harness.rpc import Rpc
from raftlab.harness.trace import ApplyEvent, message_of
from raftlab.referee.base import Message
from raftlab.suites.helpers.clients import EVERYTHING, Load, end_well, reply, request
from raftlab.suites.helpers.configurations import without
from raftlab.suites.helpers.scripted_clients import (
    REFUSALS,
    Client,
    Session,
    describe,
    longest_log,
    spoil,
    undisturbed,
)
from raftlab.suites.helpers.scripted_servers import NO_LIMIT, ScriptedFollower, append, send_append, wait_for_leadership
from raftlab.suites.helpers.scripted_service import PlayedService, after
from raftlab.suites.helpers.service_faults import divide, expect_no_promise, expect_value, fill_log, hold_answer, lead
from raftlab.suites.helpers.write_path import WritePath
from raftlab.suites.marking import SIM, StartCluster, points

# --- one clerk, several clerks -------------------------------------------------------------------------------


@points(5)
def test_one_clerk(cluster: StartCluster) -> None:
    """One clerk puts, appends, swaps and gets."""
    c = cluster(3, clerks=1)
    clerk = c.clerks[0]
    steps: list[tuple[str, tuple[str | None, ...], str | bool | None]] = [
        ("get", ("x",), None),
        ("put", ("x", "1;"), None),
        ("get", ("x",), "1;"),
        ("append", ("x", "2;"), None),
        ("get", ("x",), "1;2;"),
        ("append", ("y", "3;"), None),
        ("get", ("y",), "3;"),
        ("swap", ("x", "1;", "4;"), False),
        ("get", ("x",), "1;2;"),
        ("swap", ("x", "1;2;", "4;"), True),
        ("get", ("x",), "4;"),
        ("swap", ("z", None, "5;"), True),
        ("swap", ("z", None, "6;"), False),
        ("get", ("z",), "5;"),
        ("put", ("empty", ""), None),
        ("swap", ("empty", None, "7;"), False),
        ("get", ("empty",), ""),
        ("append", ("new", ""), None),
        ("get", ("new",), ""),
        ("swap", ("new", None, "8;"), False),
        ("append", ("", "9;"), None),  # the empty string is a key, too
        ("get", ("",), "9;"),
        ("swap", ("'\"\n| ä", None, "'\"\n| ö"), True),
        ("get", ("'\"\n| ä",), "'\"\n| ö"),
    ]
    for number, (op, (key, *args), wanted) in enumerate(steps):
        assert key is not None
        operation = clerk.run(op, key, *args)
        before = [f"{name}{values}" for name, values, _ in steps[:number] if values[0] == key and name != "get"]
        text = f"expected {operation.describe()} to return {wanted!r}, but it returned {operation.result!r}"
        c.expect(operation.result == wanted, f"{text}; before: {', '.join(before) or 'nothing'}", rules.LINEARIZABLE)
    end_well(c)


@points(5)
def test_many_clerks(cluster: StartCluster) -> None:
    """Five clerks write and read the same keys at the same time."""
    c = cluster(3, clerks=5, max_state=1500)
    Load(c, mix=EVERYTHING, most=15).wait_until_idle(40.0)
    end_well(c)


# --- faults --------------------------------------------------------------------------------------------------
#
# Most of these tests have rounds: clerks begin a few operations, and a moment later something fails. An operation that
# cannot end meanwhile goes on in the next round. In the end nothing is broken any more, and all operations must return.


@points(5)
def test_messages_are_lost(cluster: StartCluster) -> None:
    """Five clerks append to the same keys while the network loses and delays messages."""
    c = cluster(3, clerks=5, max_state=1500)
    c.unreliable()
    load = Load(c, most=10)
    load.wait(10.0)
    c.unreliable(False)
    load.finish()
    end_well(c)


@points(5)
def test_messages_come_twice(cluster: StartCluster) -> None:
    """Messages arrive twice, late or out of order."""
    c = cluster(3, clerks=4, max_state=1500)
    c.unreliable(lose_request=0.0, lose_reply=0.0, duplicate=0.5, echo=0.3, reorder_reply=0.1)
    load = Load(c, mix=EVERYTHING, most=12)
    load.wait(10.0)
    c.unreliable(False)
    load.finish()
    end_well(c)


@points(5)
def test_servers_are_divided(cluster: StartCluster) -> None:
    """Changing partitions divide the servers, while some clerks reach only one side and others reach both."""
    c = cluster(5, clerks=5, max_state=1500)
    load = Load(c, most=1)
    for _ in range(4):
        load.more(2)
        c.sleep(c.random.uniform(0.0, 0.02))
        divide(c)
        load.wait(1.2)
    c.heal()
    load.finish()
    end_well(c)


@points(5)
def test_one_way_links(cluster: StartCluster) -> None:
    """Links between clerks and servers, and between servers, fail in one direction."""
    c = cluster(3, clerks=4, max_state=1500)
    load = Load(c, most=1)
    for _ in range(5):
        load.more(2)
        c.sleep(c.random.uniform(0.0, 0.02))
        for clerk in c.clerks:
            server = c.random.randrange(3)
            c.cut(*c.random.choice([(clerk.number, server), (server, clerk.number)]))
        c.cut(*c.random.sample(range(3), 2))
        load.wait(0.8)
        c.heal()
    load.finish()
    end_well(c)


@points(5)
def test_leaders_crash(cluster: StartCluster) -> None:
    """The leader crashes again and again while clerks write."""
    c = cluster(3, clerks=4, max_state=1500)
    load = Load(c, mix=EVERYTHING, most=1)
    for _ in range(4):
        leader = c.one_leader()
        load.more(2)
        c.sleep(c.random.uniform(0.0, 0.02))
        c.crash(leader)
        load.wait(c.random.choice((0.1, 1.2)))
        c.restart(leader)
    load.finish()
    end_well(c)


@points(5)
def test_all_servers_crash(cluster: StartCluster) -> None:
    """All servers crash at once, again and again, and continue from what they have saved."""
    c = cluster(3, clerks=4, max_state=1500)
    load = Load(c, mix=EVERYTHING, most=1)
    for _ in range(3):
        c.one_leader()
        load.more(3)
        c.sleep(c.random.uniform(0.0, 0.03))
        for server in range(3):
            c.crash(server)
        c.sleep(0.1)
        c.start_all()
    load.finish()
    end_well(c)


@points(5)
def test_clerks_crash(cluster: StartCluster) -> None:
    """Clerks crash in the middle of an operation, and new clerks replace them."""
    c = cluster(3, clerks=5, max_state=1500)
    c.unreliable(duplicate=0.2)
    load = Load(c, most=2)
    for clerk in c.clerks:
        load.more(2)
        c.sleep(c.random.uniform(0.02, 0.1))
        clerk.crash()
        c.sleep(0.1)
        clerk.restart()
        load.resume(clerk)
        load.wait(1.0)
    c.unreliable(False)
    load.finish()
    end_well(c)


@points(5)
def test_snapshots_keep_sessions(cluster: StartCluster) -> None:
    """Requests are retried after a snapshot: at a server that received it, and after all servers have restarted."""
    max_state = 1000
    c = cluster(3, clerks=4, max_state=max_state)
    appender, swapper, filler, reader = c.clerks
    appender.append("x", "1;")
    swapper.put("y", "1;")
    behind = (c.settled_leader() + 1) % 3
    for number, when in ((2, f"S{behind} received a snapshot"), (3, "all servers restarted")):
        if number == 2:
            c.disconnect(behind)
        append = appender.begin("append", "x", f"{number};")
        swap = swapper.begin("swap", "y", f"{number - 1};", f"{number};")
        unheard = [hold_answer(c, clerk) for clerk in (appender, swapper)]
        fill_log(c, filler, max_state)
        if number == 2:
            c.connect(behind)
            lead(c, behind)
        else:
            for server in range(3):
                c.crash(server)
            c.start_all()
        for hold in unheard:
            hold.drop()
        appender.finish(append)
        swapper.finish(swap)
        c.start_all()
        text = f"expected {swap.describe()} to return True after {when}, but it returned {swap.result}"
        c.expect(swap.result is True, f"{text}. Its first request had already swapped the value", rules.EXACTLY_ONCE)
        expect_value(c, reader, "x", "".join(f"{each};" for each in range(1, number + 1)), f"after {when}")
        expect_value(c, reader, "y", f"{number};", f"after {when}")
    end_well(c)


@points(5)
def test_everything_at_once(cluster: StartCluster) -> None:
    """Lost, late and repeated messages, partitions, crashes and snapshots, all in one run."""
    c = cluster(5, clerks=5, max_state=1500)
    c.unreliable(duplicate=0.1)
    load = Load(c, mix=EVERYTHING, most=1)
    for _ in range(4):
        load.more(2)
        c.sleep(c.random.uniform(0.0, 0.05))
        divide(c)
        for server in c.random.sample(range(5), c.random.choice((1, 1, 2, 5))):
            c.crash(server)
        load.wait(0.6)
        c.start_all()
        load.wait(0.6)
        c.heal()
    c.unreliable(False)
    load.finish()
    end_well(c)


# Seconds. After the last fault, a clerk may still wait for a call to a server that it could not reach. Then a leader
# may still wait for a call to a follower. Each call takes up to 7 s to fail. From then on, the limit is that of
# the other tests.
LONG_WAITS_LIMIT = 7.0 + 7.0 + OPERATION_LIMIT


@points(5)
def test_calls_that_fail_late(cluster: StartCluster) -> None:
    """Calls to servers that are down or cut off take up to 7 s to fail."""
    c = cluster(3, clerks=3, max_state=1500, long_waits=True)
    load = Load(c, most=1)
    for _ in range(3):
        leader = c.one_leader()
        load.more(3)
        c.sleep(c.random.uniform(0.0, 0.02))
        if c.random.random() < 0.5:
            c.crash(leader)
        else:
            c.disconnect(leader)
        load.wait(2.0)
        c.restart(leader)
    load.finish(LONG_WAITS_LIMIT)
    end_well(c)


@points(5, networks=SIM)
def test_leaders_pause(cluster: StartCluster) -> None:
    """A leader is paused until another one is elected, and then continues with its clerks' requests."""
    c = cluster(3, clerks=4, max_state=1500)
    load = Load(c, mix=EVERYTHING, most=1)
    for _ in range(3):
        leader = c.one_leader()
        load.more(3)
        c.sleep(c.random.uniform(0.0, 0.02))
        c.pause(leader)
        c.sleep(1.5)
        c.resume(leader)
    load.finish()
    end_well(c)


@points(5)
def test_every_server_has_the_state(cluster: StartCluster) -> None:
    """Each server leads in turn, and a clerk reads every key."""
    c = cluster(3, clerks=4, max_state=1500)
    Load(c, c.clerks[:3], mix=EVERYTHING, most=12).wait_until_idle(20.0)
    values: dict[str, tuple[str | None, int]] = {}
    for target in range(3):
        leader = lead(c, target)
        for key in ("a", "b", "c"):
            value = c.clerks[3].get(key)
            first, of = values.setdefault(key, (value, leader))
            text = f"expected S{leader} and S{of} to have the same value of {key!r}, but S{of} has {short(first)}"
            c.expect(value == first, f"{text} and S{leader} has {short(value)}", rules.APPLIED_STATE, [leader, of])
        c.start_all()
    end_well(c)


@points(5)
def test_members_change_under_load(cluster: StartCluster) -> None:
    """Servers leave and come back while clerks write, if this Raft can change its members (lab 2E)."""
    c = cluster(5, clerks=4, max_state=1500, features={"membership"})
    can_change = c.raft_has("change_membership")
    load = Load(c, mix=EVERYTHING, most=1)
    everybody = list(range(5))
    for away in c.random.sample(everybody, 2):
        for members in (without(everybody, away), everybody):
            leader = c.leader_now()
            load.more(2)
            if can_change and leader is not None:
                # Whether the leader agrees does not matter: what the clerks see must be right either way.
                change = MembershipCall(c, leader, members)
                c.wait_for(1.0, lambda change=change: not change.pending)  # type: ignore[misc]
            load.wait(0.5)
    load.finish()
    end_well(c)


@points(5)
def test_leadership_moves_under_load(cluster: StartCluster) -> None:
    """Leaders hand over while clerks write. If this Raft cannot hand over (lab 2G), its leaders crash instead."""
    c = cluster(3, clerks=4, max_state=1500)
    can_transfer = c.raft_has("transfer_leadership")
    load = Load(c, mix=EVERYTHING, most=1)
    for _ in range(4):
        leader = c.one_leader()
        load.more(2)
        c.sleep(c.random.uniform(0.0, 0.01))
        if can_transfer:
            c.transfer(leader, (leader + c.random.randint(1, 2)) % 3)
            load.wait(1.0)
        else:
            c.restart(leader)
            load.wait(1.0)
    load.finish()
    end_well(c)


# --- the eight steps of the write path -----------------------------------------------------------------------
#
# handouts/clients.md has the table of steps. Each test makes one step fail in a few ways. After each failure, the write must
# have been carried out exactly once.


@points(5)
def test_step_1_request(cluster: StartCluster) -> None:
    """Step 1 of a write: the request is lost, arrives twice or late, or meets a server that does not lead."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 1, the request travels to a server")
    with path.write("the request is lost"):
        hold = path.hold_request()
        path.begin()
        path.wait_for(lambda: hold.messages)
        hold.drop()
    with path.write("the request arrives twice"):
        first = path.hold_request()
        path.begin()
        path.wait_for(lambda: first.messages)
        path.deliver_twice(first)
    with path.write("the request is late, and its server does not lead any more"):
        late = path.hold_request()
        path.begin()
        path.wait_for(lambda: late.messages)
        path.crash(path.leader)
        c.one_leader()
        c.restart(path.leader)
        late.release()
    with path.write("the request arrives again after the next one"):
        old = path.request()
        path.begin()
        path.wait_for(lambda: path.operation.done)
        c.event_loop.deliver(c.now, old, None)
        c.sleep(0.1)
    end_well(c)


@points(5, networks=SIM)
def test_step_2_leader_saves(cluster: StartCluster) -> None:
    """Step 2 of a write: the leader crashes before or after it has saved the entry, or the entry comes twice."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 2, the leader appends the command and saves it")
    for side in ("before", "after"):
        with path.write(f"the leader crashes {side} it saves the entry"):
            path.crash_at(path.leader, "save", side=side)
    with path.write("the leader does not commit the entry in time, and gets the request again"):
        held = path.hold_entries("request")
        path.begin()
        path.wait_for(path.asked_again, 5.0)
        held.release()
    end_well(c)


@points(5, networks=SIM)
def test_step_3_append_entries(cluster: StartCluster) -> None:
    """Step 3 of a write: AppendEntries are lost, or the leader crashes while it sends them, or it is cut off."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 3, AppendEntries carry the entry to the followers")
    for nth, side, when in (
        (1, "before", "before it sends the entry"),
        (1, "after", "when one follower has the entry"),
    ):
        with path.write(f"the leader crashes {when}"):
            path.crash_at(path.leader, "send", nth, side, "append_entries", entries)
    with path.write("AppendEntries are lost"):
        lost = path.hold_entries("request")
        path.begin()
        path.wait_for(lambda: len(lost.messages) > 1)
        lost.drop()
    with path.write("AppendEntries arrive only after a new election"):
        late = path.hold_entries("request")
        path.begin()
        path.wait_for(lambda: late.messages)
        path.crash(path.leader)
        c.one_leader()
        late.release()
    with path.write("the leader is cut off from the followers"):
        c.partition([path.leader, c.clerks[0].number], path.followers)
        path.begin()
        path.wait_for(lambda: False, 2.5)
        c.heal()
    end_well(c)


@points(5, networks=SIM)
def test_step_4_followers_save(cluster: StartCluster) -> None:
    """Step 4 of a write: followers crash before or after they have saved the entry, or their answers are lost."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 4, the followers save the entry and answer")
    for side in ("before", "after"):
        with path.write(f"a follower crashes {side} it saves the entry"):
            path.crash_at(path.followers[0], "save", side=side)
        with path.write(f"both followers crash {side} they save the entry"):
            for follower in path.followers:
                c.crash_at(follower, "save", side=side)
            path.begin()
            path.wait_for(lambda: not any(c.server_state(follower).up for follower in path.followers))
    with path.write("the followers' answers are lost"):
        lost = path.hold_entries("reply")
        path.begin()
        path.wait_for(lambda: len(lost.messages) > 1)
        lost.drop()
    end_well(c)


@points(5)
def test_step_5_commit(cluster: StartCluster) -> None:
    """Step 5 of a write: a majority has the entry, but the leader crashes, or learns of this late."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 5, a majority has the entry, and the leader learns of it")
    for who in ("the leader crashes", "all servers crash"):
        with path.write(f"{who} before an answer arrives"):
            held = path.hold_entries("reply")
            path.begin()
            path.wait_for(lambda held=held: held.messages)  # type: ignore[misc]
            path.crash(*(range(3) if who == "all servers crash" else [path.leader]))
    with path.write("the answers arrive late"):
        held = path.hold_entries("reply")
        path.begin()
        path.wait_for(path.asked_again, 5.0)
        held.release()
    end_well(c)


@points(5, networks=SIM)
def test_step_6_leader_applies(cluster: StartCluster) -> None:
    """Step 6 of a write: the leader crashes before or after it has applied the entry."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 6, the leader applies the entry")
    for side in ("before", "after"):
        with path.write(f"the leader crashes {side} it applies the entry"):
            path.crash_at(path.leader, "apply", side=side)
        with path.write(f"the leader crashes {side} it applies the entry, and then the others crash"):
            path.crash_at(path.leader, "apply", side=side)
            path.crash(*range(3))
    end_well(c)


@points(5, networks=SIM)
def test_step_7_reply(cluster: StartCluster) -> None:
    """Step 7 of a write: the leader crashes before or after it has answered, or its reply is lost or late."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 7, the reply travels to the clerk")
    for side in ("before", "after"):
        with path.write(f"the leader crashes {side} it answers the clerk"):
            path.crash_at(path.leader, "answer", side=side, method="client_request")
    for then in ("", ", and the leader crashes", ", and all servers crash"):
        with path.write(f"the reply is lost{then}"):
            lost = path.hold_reply()
            path.begin()
            path.wait_for(lambda lost=lost: lost.messages)  # type: ignore[misc]
            path.crash(*{"": [], ", and the leader crashes": [path.leader]}.get(then, range(3)))
            lost.drop()
    with path.write("the reply is late"):
        late = path.hold_reply()
        path.begin()
        path.wait_for(lambda: late.messages)
        path.crash(path.leader)
        c.one_leader()
        late.release()
    end_well(c)


@points(5, networks=SIM)
def test_step_8_followers_apply(cluster: StartCluster) -> None:
    """Step 8 of a write: the clerk has its answer, and followers crash or do not learn that the entry is committed."""
    c = cluster(3, clerks=2, max_state=1500)
    path = WritePath(c, "step 8, the followers learn that the entry is committed, and apply it")
    for side in ("before", "after"):
        with path.write(f"a follower crashes {side} it applies the entry"):
            path.crash_at(path.followers[0], "apply", side=side)
    for who in ("the leader is cut off", "the leader crashes", "all servers crash"):
        with path.write(f"{who} as soon as the clerk has its answer"):
            path.begin()
            path.wait_for(lambda: path.operation.done, 5.0)
            if who == "the leader is cut off":
                c.disconnect(path.leader)
                path.check()
                c.connect(path.leader)
            else:
                path.crash(*(range(3) if who == "all servers crash" else [path.leader]))
    end_well(c)


# --- split brain ---------------------------------------------------------------------------------------------


@points(5)
def test_split_brain(cluster: StartCluster) -> None:
    """A leader with a minority answers its clerks in time but never with ok, while the majority goes on without it."""
    c = cluster(3, clerks=5, max_state=1500)
    *sessions, without_session = c.clerks
    for clerk in sessions:
        clerk.append("x", f"{clerk.name}.0;")
    leader = c.settled_leader()
    inside = [*sessions[:2], without_session]
    outside = sessions[2:]
    c.partition([leader, *(clerk.number for clerk in inside)], [*without(range(3), leader), outside[0].number])
    since = c.now
    operations = [
        inside[0].begin("append", "x", "C0.1;"),
        inside[1].begin("get", "x"),
        inside[2].begin("put", "y", "1"),
    ]
    Load(c, outside, keys=["x"], most=5).wait_until_idle(30.0)
    c.wait_for(since + 4.0 - c.now, lambda: any(operation.done for operation in operations))
    for operation in operations:
        text = f"expected {operation.describe()} not to return without a majority, but it did"
        c.expect(not operation.done, text, rules.LINEARIZABLE)
    expect_no_promise(c, [leader], since, "reaches only a minority")
    c.heal()
    for clerk, operation in zip(inside, operations, strict=True):
        clerk.finish(operation)
    end_well(c)


@points(5)
def test_foreign_entries(cluster: StartCluster) -> None:
    """Requests wait at a leader with a minority. Other entries take the place of theirs, so no answer may be ok."""
    c = cluster(3, clerks=4, scripted_clerks=1, max_state=1500)
    client, fresh = c.scripted_clerks[0], c.clerks[3]
    for number in range(3):
        for clerk in c.clerks[:3]:
            clerk.append("a", f"{clerk.name}.{2 * number};")
        leader = c.settled_leader()
        others = without(range(3), leader)
        c.partition([leader, *(clerk.number for clerk in c.clerks)], others)
        operations = [
            c.clerks[0].begin("append", "a", f"C0.{2 * number + 1};"),
            c.clerks[1].begin("get", "a"),
            c.clerks[2].begin("swap", f"b{number}", None, "1"),
            fresh.begin("append", "a", f"C3.{number};"),  # this clerk has no session yet
        ]
        # Wait for a leader that has just been elected: at that moment, the old leader cannot have noticed yet that it
        # reaches no majority.
        until = c.now + ELECTION_LIMIT
        while c.now < until and c.leader_now(others) is None:
            c.sleep(0.02)
        successor = c.leader_now(others)
        if successor is None:
            successor = c.one_leader(others)
        entries_there = [client.send(successor, "client_request", **request("register", 1, 0)) for _ in range(10)]
        c.wait_for(2.0, lambda sent=entries_there: all(rpc.done for rpc in sent))  # type: ignore[misc]
        c.heal()
        for clerk, operation in zip(c.clerks, operations, strict=True):
            clerk.finish(operation)
        fresh.restart()
    end_well(c)


@points(5)
def test_leader_hears_nobody(cluster: StartCluster) -> None:
    """A leader reaches the other servers, but hears none of them: it answers clerks in time but never with ok."""
    c = cluster(3, clerks=3, max_state=1500)
    Load(c, keys=["x"], most=2).wait_until_idle(20.0)
    leader = c.settled_leader()
    for follower in without(range(3), leader):
        c.cut(follower, leader)
        for clerk in c.clerks[:2]:
            c.cut(clerk.number, follower)
    since = c.now
    operations = [c.clerks[0].begin("append", "x", "C0.10;"), c.clerks[1].begin("get", "x")]
    c.wait_for(4.0, lambda: any(operation.done for operation in operations))
    expect_no_promise(c, [leader], since, "hears no other server")
    c.heal()
    for clerk, operation in zip(c.clerks, operations, strict=False):
        clerk.finish(operation)
    end_well(c)


# --- sessions ------------------------------------------------------------------------------------------------


@points(5)
def test_register(cluster: StartCluster) -> None:
    """Each register begins a new session, which has its own serials."""
    c = cluster(3, scripted_clerks=2)
    one, other = Client(c), Client(c, 1)
    sessions = [one.register(), one.register(), other.register()]
    with c.at_once(one.server):
        registrations = [one.registration(), one.registration(7), other.registration(7)]
        rpcs = [
            client.send(one.server, fields) for client, fields in zip((one, one, other), registrations, strict=True)
        ]
    answers = [one.answer(rpc) for rpc in rpcs]
    sessions += [Session(one, answer["value"]) for answer in answers if answer["status"] == "ok"]
    numbers = [session.number for session in sessions]
    text = f"expected every register to begin a session of its own, but the answers were {numbers}"
    c.expect(len(set(numbers)) == len(numbers), text, rules.SESSIONS)
    written = ""
    for serial in (1, 2, 7, 1000):  # there may be gaps
        for session in sessions:
            value = f"{session.number}.{serial};"
            written += value
            one.succeed(session.request("append", "x", value, serial=serial), when="Serials may have gaps")
    one.expect_value(sessions[0], "x", written, "Sessions must not affect each other", rules.SESSIONS)


@points(5)
def test_sessions_end_in_order(cluster: StartCluster) -> None:
    """With too many sessions, the one unused for the longest time ends on all servers and never comes back."""
    c = cluster(3, scripted_clerks=1, max_sessions=3)
    client = Client(c)
    longest_ago = "Three other sessions had later requests, and max_sessions is 3"

    def attempt() -> None:
        client.register()  # finds the leader
        first, second, third = [client.register_once() for _ in range(3)]
        first.do_once("put", "x", "1;")
        second.do_once("get", "x")
        fourth = client.register_once()
        third.expect_ended(longest_ago)
        for session in (first, second, fourth):
            session.do_once("get", "x")
        first.do_once("swap", "x", "0;", "2;")  # changes nothing, but counts as a use of the session
        fifth = client.register_once()
        second.expect_ended(longest_ago)
        for session in (first, fourth, fifth):
            session.do_once("get", "x")
        # `first` is now the next session to end. A register makes no old session valid again, whatever client_id it has.
        sixth = client.register_once(second.number)
        first.expect_ended(longest_ago)
        second.expect_ended("No register may bring it back")
        c.restart(client.server)
        c.one_leader()
        for session in (fourth, fifth, sixth):
            session.do("put", "x", f"of {session.number};")
        for session in (first, second, third):
            session.expect_ended("Another server leads now")
        client.expect_value(sixth, "ended", None, "Only requests of ended sessions wrote this key", rules.SESSIONS)

    undisturbed(c, attempt)


@points(5, networks=SIM)
def test_no_clock_ends_a_session(cluster: StartCluster) -> None:
    """Sessions do not end with time, and clocks do not decide which session ends."""
    c = cluster(1, scripted_clerks=1, max_sessions=4)
    client = Client(c)

    def attempt() -> None:
        client.register()  # waits for the leader
        first, second, third = sessions = [client.register_once() for _ in range(3)]
        old = [session.request("append", "x", f"{session.number};") for session in sessions]
        for fields in old:
            client.succeed_once(fields)
        c.sleep(60.0)
        # A register ends the session that was used least recently, but no session ends because of its age.
        fourth = client.register_once()
        for fields in old:
            client.succeed_once(fields, when="No session ends with time")
        written = "".join(fields["value"] for fields in old)
        value = client.succeed_once(third.request("get", "x"))
        text = f"expected 'x' to be {written!r}, but it is {short(value)}. A retry after 60 s must change nothing"
        c.expect(value == written, text, rules.EXACTLY_ONCE)
        # A clock begins anew when its server restarts, as time.monotonic() does when a computer restarts.
        c.restart(0)
        for session in (fourth, first):
            session.do("append", "x", "again;")
        client.register_once()
        second.expect_ended("Its last request was applied first, and clocks must not matter")
        for session in (first, third, fourth):
            session.do_once("get", "x")

    undisturbed(c, attempt)


@points(5)
def test_clerk_outlives_its_session(cluster: StartCluster) -> None:
    """A clerk whose session has ended begins a new one, and raises Unknown if an operation may have been carried out."""
    c = cluster(3, clerks=1, scripted_clerks=1, max_sessions=3)
    clerk, client = c.clerks[0], Client(c)

    def end_session() -> None:
        for _ in range(3):
            client.register()

    def wait(operation: ClientOperation) -> ClientOperation:
        if not c.wait_for(OPERATION_LIMIT, lambda: operation.done):
            text = f"expected {operation.describe()} to end within {OPERATION_LIMIT:.0f} s, but it has not"
            c.fail(f"{text}. The clerk's session has ended", rules.PROGRESS, [clerk.number])
        return operation

    clerk.append("x", token("C0", 1))
    end_session()
    operation = wait(clerk.begin("append", "x", token("C0", 2)))
    sent = sum(each["op"] == "append" for each in client_requests(c, clerk, operation.call))
    if operation.outcome == "unknown" and sent == 1:
        text = f"expected {operation.describe()} to register and go on, but it raised Unknown"
        c.fail(f"{text}. Its first request got no_session", rules.UNKNOWN_ONLY_IF, [clerk.number])
    end_session()
    clerk.get("x")  # a get may be repeated in any case
    for number, leg in enumerate(("request", "reply"), 3):
        leader = c.settled_leader()
        hold = c.hold("client_request", clerk.number, leader, leg)
        operation = clerk.begin("append", "x", token("C0", number))
        c.wait_for(OPERATION_LIMIT, lambda hold=hold, operation=operation: hold.messages or operation.done)  # type: ignore[misc]
        end_session()
        hold.drop()
        wait(operation)  # the operation raises Unknown, unless the clerk has asked another leader meanwhile
        following = wait(clerk.begin("append", "x", token("C0", 10 + number)))
        if operation.outcome == "unknown":
            clerk.require_known(following)
        # If `operation` returned, a server that is behind may have answered it from its table. Then the clerk does not know
        # that its session has ended, and `following` may raise Unknown.
    end_well(c)


def _fill(c: Cluster, session: Session, servers: Collection[int]) -> None:
    """Put values of 200 bytes, until all of ``servers`` have a snapshot that was made meanwhile."""
    before = {server: c.server_state(server).snapshot for server in servers}

    def without() -> list[int]:
        return [server for server in servers if c.server_state(server).snapshot == before[server]]

    for number in range(80):
        session.do("put", "filler", f"{number:4}" * 50)
        # A service must take a snapshot once 8 times max_state bytes are stored, and then has 2 s to do so.
        if c.wait_for(2.0 if number % 20 == 19 else 0.0, lambda: not without()):
            return
    text = "expected every server to take a snapshot during 80 puts of 200 bytes with max_state=2000"
    c.fail(f"{text}, but {', '.join(f'S{server}' for server in without())} did not", rules.SERVICE_SNAPSHOTS)


@points(6)
def test_sessions_survive_restarts(cluster: StartCluster) -> None:
    """Snapshots contain the sessions, their last answers, and the order in which they were last used."""
    c = cluster(3, scripted_clerks=1, max_state=2000, max_sessions=4)
    client = Client(c)

    def attempt() -> None:
        client.register()  # finds the leader
        # The order in which the sessions are used is neither that of their numbers nor its reverse.
        third, first, fourth, second = [client.register_once() for _ in range(4)]
        first.do_once("get", "x")
        second.do_once("put", "x", "0;")
        failed = second.request("swap", "x", "2;", "1;", serial=9)
        client.succeed_once(failed)
        succeeded = third.request("swap", "x", "3;", "0;", serial=7)
        client.succeed_once(succeeded)
        _fill(c, fourth, range(3))
        fourth.do("put", "x", "1;")
        for server in range(3):
            c.crash(server)
        c.start_all()
        fourth.do("get", "x")  # finds the leader
        client.register_once()
        first.expect_ended("Its last request is the oldest one, even after all servers have restarted")
        restarted = "The servers have restarted since its first answer"
        for fields, wanted in ((failed, False), (succeeded, True)):
            answer = client.succeed(fields, when=restarted)
            text = f"expected {describe(fields)} to be answered with {wanted} again, but the answer is {answer}. {restarted}"
            c.expect(answer is wanted, text, rules.EXACTLY_ONCE)
        client.expect_value(fourth, "x", "1;", "Retries must change nothing", rules.EXACTLY_ONCE)

    undisturbed(c, attempt)


@points(4, networks=SIM, schedule="release")
def test_snapshot_has_its_index(cluster: StartCluster) -> None:
    """Snapshots are taken while entries arrive quickly: each snapshot has all entries up to its index, and no others."""
    c = cluster(1, scripted_clerks=1, max_state=1)
    client = Client(c)
    sessions = [client.register() for _ in range(6)]
    written = []
    for _ in range(24):
        # A session begins, and is used before its number is known. Suppose that a snapshot contains the effects of the
        # session's first entries but names a lower index. Then a restart applies these entries once more, so the session
        # begins again, and its append is carried out again.
        new = Session(client, max(c.event_loop.referee.applies.values) + 1)
        begun = client.send(0, client.registration())
        c.sleep(c.random.uniform(0.0, 0.001))
        rpcs = []
        for session in (new, *sessions):
            rpcs.append(client.send(0, session.request("append", "x", f"{session.number}.{session.serial};")))
            c.sleep(c.random.uniform(0.0, 0.001))
        client.answer(begun)
        for rpc in rpcs:
            # Do not repeat a request that got ok: its copy would add an entry, and perhaps cause another snapshot.
            status = client.answer(rpc)["status"]
            if status != "ok" and rpc is rpcs[0]:
                continue  # the session that has just begun has another number than `new`
            if status != "ok":
                client.succeed(rpc.args)
            written.append(rpc.args["value"])
        before = len(c.event_loop.trace.events)
        c.restart(0)
        c.one_leader()
        value = sessions[0].do("get", "x") or ""
        missing = [each for each in written if f";{each}" not in f";{value}"]
        lacks = ", ".join(map(repr, missing))
        text = f"expected 'x' to have every append that returned before S0 restarted, but it lacks {lacks}. S0"
        applied = (event for event in c.event_loop.trace.events[before:] if isinstance(event, ApplyEvent))
        if any(message_of(event.message).get("kind") != "snapshot" for event in applied):
            text, rule = (
                f"{text} started from a snapshot, which must include all entries up to its index",
                rules.SERVICE_SNAPSHOTS,
            )
        else:  # what is missing may still come, so this does not show that the snapshot is wrong
            text, rule = f"{text} has applied no entry since its restart, not even one for this get", rules.STATUSES
        c.expect(not missing, text, rule, [0])
        twice = [each for each in written if f";{value}".count(f";{each}") > 1]
        text = (
            f"expected 'x' to have every append once, but it has {', '.join(map(repr, twice))} twice. S0 started from"
        )
        text = f"{text} a snapshot, which must include no entries after its index"
        c.expect(not twice, text, rules.SERVICE_SNAPSHOTS, [0])


@points(6)
def test_snapshot_on_another_server(cluster: StartCluster) -> None:
    """A server that was sent a snapshot knows the sessions and answers retries as the old leader did."""
    max_sessions = 10  # a register that is sent again may begin several sessions, and no session in use may end
    c = cluster(3, scripted_clerks=1, max_state=2000, max_sessions=max_sessions)
    client = Client(c)
    session, filler, ended = client.register(), client.register(), client.register()
    leader = c.settled_leader()
    late, other = [server for server in range(3) if server != leader]
    for each in (session, ended):
        each.do("put", "x", "0;")
    c.disconnect(late)
    for _ in range(max_sessions):
        client.register()
        for each in (session, filler):
            each.do("get", "x")
    ended.expect_ended(f"{max_sessions} other sessions began and were used later")
    swap = session.request("swap", "x", "1;", "0;")
    client.succeed(swap)
    _fill(c, filler, [leader, other])
    append = filler.request("append", "x", "2;")
    client.succeed(append)
    c.connect(late)
    applies = c.event_loop.referee.applies
    caught_up = c.wait_for(OPERATION_LIMIT, lambda: applies.last_applied[late] >= applies.last_applied[leader])
    c.expect(caught_up, f"expected S{late} to get a snapshot and the entries after it, but it did not", rules.PROGRESS)
    # Nobody hears `other` ask for votes, so the server with the snapshot is elected. That takes some elections, because
    # `other` raises its term each time.
    c.network.set_link(other, late, lose_request=1.0)
    c.crash(leader)
    c.one_leader(among=[late], within=6 * ELECTION_LIMIT)
    when = f"S{late} was sent a snapshot"
    answer = client.succeed(swap, when=when, servers=[late])
    text = f"expected {describe(swap)} to be answered with True again, but the answer is {answer}. {when}"
    c.expect(answer is True, text, rules.EXACTLY_ONCE)
    client.succeed(append, when=when, servers=[late])
    client.expect_value(session, "x", "1;2;", "Retries must change nothing", rules.EXACTLY_ONCE)
    ended.expect_ended(f"S{late} learned this from the snapshot")


# --- scripted clerks: requests that no clerk sends -----------------------------------------------------------


@points(5)
def test_same_request_twice(cluster: StartCluster) -> None:
    """A request arrives twice, at one server or several: it is carried out once, and every copy gets the same answer."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    written = ""
    previous: str | None = None
    for again in ("to the same server", "to every server", *["at the same instant"] * 4):
        append = session.request("append", "x", f"{session.serial};")
        swap = session.request("swap", "y", f"{session.serial};", previous)
        written, previous = written + append["value"], swap["value"]
        for fields in (append, swap):
            _send_copies(c, client, fields, again)
    client.expect_value(session, "x", written, "Each append must be carried out once", rules.EXACTLY_ONCE)
    client.expect_value(session, "y", previous, "Each swap must be carried out once", rules.EXACTLY_ONCE)


def _send_copies(c: Cluster, client: Client, fields: Message, again: str) -> None:
    """Send several copies of a request, and check their answers. ``again`` says where and when."""
    answers: list[Message] = []
    if again == "at the same instant":
        with c.at_once(client.server):
            rpcs = [client.send(client.server, fields) for _ in range(3)]
        answers += map(client.answer, rpcs)
    client.succeed(fields)  # after this, it has been carried out in any case
    others = range(c.size) if again == "to every server" else [client.server]
    answers += [client.ask(server, fields) for server in others]
    for answer in answers:
        text = f"expected a copy of {describe(fields)}, sent {again}, to get the first answer"
        c.expect(answer["status"] in ("ok", *REFUSALS), f"{text}, but the status is {answer['status']}", rules.SESSIONS)
        if fields["op"] == "swap" and answer["status"] == "ok":
            c.expect(answer["value"] is True, f"{text}, True, but it got {answer['value']}", rules.EXACTLY_ONCE)


@points(5)
def test_answers_are_not_mixed_up(cluster: StartCluster) -> None:
    """Requests of several sessions arrive at once with equal serials: each request gets its own answer."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    sessions = [client.register() for _ in range(4)]
    for number in range(4):
        key = f"key {number}"
        swaps = [session.request("swap", key, f"{session.number};") for session in sessions]
        with c.at_once(client.server):
            rpcs = [client.send(client.server, fields) for fields in swaps]
        first = [client.answer(rpc) for rpc in rpcs]
        answers = [client.succeed(fields) for fields in swaps]
        for fields, at_first, answer in zip(swaps, first, answers, strict=True):
            text = (
                f"expected {describe(fields)} to be answered with {at_first['value']} again, but the answer is {answer}"
            )
            c.expect(at_first["status"] != "ok" or at_first["value"] is answer, text, rules.EXACTLY_ONCE)
        value = client.succeed(sessions[0].request("get", key))
        seen = f"the answers were {answers} and the value is {value!r}"
        text = "expected one of four swaps of a missing key to succeed and to leave its value there, but"
        holds = [answer is True for answer in answers] == [fields["value"] == value for fields in swaps]
        c.expect(holds and sum(map(bool, answers)) == 1, f"{text} {seen}", rules.LINEARIZABLE)


@points(4)
def test_late_copy(cluster: StartCluster) -> None:
    """An old request that arrives late is not carried out again."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session, other = client.register(), client.register()
    old = [session.request("put", "x", "1;"), session.request("append", "x", "2;"), session.request("put", "x", "3;")]
    for fields in old:
        client.succeed(fields)
    other.do("append", "x", "4;")
    for fields in old[:2]:
        for server in range(3):
            client.ask(server, fields)  # the answer does not matter, because nobody waits for it
    client.expect_value(session, "x", "3;4;", "Late copies must change nothing", rules.EXACTLY_ONCE)
    session.do("append", "x", "5;")
    client.expect_value(other, "x", "3;4;5;", "Late copies must change nothing", rules.EXACTLY_ONCE)


@points(5)
def test_bad_requests(cluster: StartCluster) -> None:
    """A request that makes no sense is answered with bad_request and does not reach the log."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    session.do("put", "x", "1;")
    marks = []
    for op, changes in (
        ("fly", {"value": "1;"}), ("", {"value": "1;"}), ("PUT", {"value": "1;"}),
        ("put", {}), ("append", {}), ("swap", {}), ("get", {"read": "guess"}),
    ):  # fmt: skip
        marks.append(f"a bad {op or 'empty'} request")
        fields = session.request(op, marks[-1]) | changes
        status = client.carry_out(fields)["status"]
        text = f"expected {describe(fields)}, with {changes or 'no value'}, to be answered with bad_request"
        c.expect(status == "bad_request", f"{text}, but the status is {status}", rules.BAD_REQUESTS)
    session.do("append", "x", "2;")
    for index, (_, command) in sorted(c.event_loop.referee.applies.values.items()):
        found = [mark for mark in marks if mark in repr(command)]
        text = f"expected no bad request to reach the log, but the entry at index {index} is {short(command)}"
        c.expect(not found, text, rules.BAD_REQUESTS)
    for mark in marks:
        client.expect_value(session, mark, None, "Bad requests must not be carried out", rules.BAD_REQUESTS)
    client.expect_value(session, "x", "1;2;", "Bad requests must not be carried out", rules.BAD_REQUESTS)


@points(4)
def test_unknown_session(cluster: StartCluster) -> None:
    """A request of a session that was never begun is answered with no_session and is not carried out."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    registration = client.registration()
    session = Session(client, client.succeed(registration))
    for number in (registration["client_id"], session.number + 1_000_000):
        made_up = Session(client, number)
        for op, key, expected in (("put", "a", None), ("append", "b", None), ("swap", "c", None)):
            fields = made_up.request(op, key, "1;", expected)
            status = client.carry_out(fields)["status"]
            text = f"expected {describe(fields)} to be answered with no_session, but the status is {status}"
            c.expect(status == "no_session", f"{text}. This session was never begun", rules.SESSIONS)
    for key in ("a", "b", "c"):
        client.expect_value(
            session, key, None, "Only requests of sessions that were never begun wrote this key", rules.SESSIONS
        )


@points(4)
def test_get_with_the_serial_of_a_put(cluster: StartCluster) -> None:
    """A get reuses the serial of a put: any answer is allowed, but later operations must still work."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    for op, wanted in (("put", "1;"), ("append", "1;1;"), ("swap", "1;")):
        fields = session.request(op, "x", "1;", "1;1;" if op == "swap" else None)
        client.succeed(fields)
        for _ in range(2):
            client.ask(client.server, session.request("get", "x", serial=session.serial))
        client.expect_value(session, "x", wanted, "A get must change nothing", rules.EXACTLY_ONCE)


@points(5)
def test_server_that_is_behind(cluster: StartCluster) -> None:
    """A server that has not heard of a session yet does not answer its requests with no_session."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    client.register()
    leader = c.settled_leader()
    behind = (leader + 1) % 3
    client.server = leader
    for _ in range(5):
        hold = c.hold("append_entries", dst=behind)
        session = client.register()
        fields = session.request("append", "x", f"{session.number};")
        status = client.ask(behind, fields)["status"]
        text = f"expected S{behind} not to answer a request of session {session.number} with no_session, but it does"
        c.expect(status != "no_session", f"{text}. It has not heard of this session yet", rules.SESSIONS, [behind])
        hold.release()
        client.succeed(fields)
        c.sleep(0.1)
    for server in range(3):
        c.crash(server)
    c.start_all()
    # The first server that leads has not applied everything yet. This session has not ended, so no server may say that the
    # session has ended.
    session.do("get", "x")


@points(5)
def test_entries_of_others(cluster: StartCluster) -> None:
    """An entry that the service cannot understand does not stop any server."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session, victim = client.register(), client.register()
    victim.serial = 4710
    victim.do("append", "y", "1;")
    session.do("append", "x", "1;")
    like_yours = [value for _, value in c.event_loop.referee.applies.values.values() if "4711" in repr(value)]
    odd: list[Any] = [
        7,
        "append",
        [],
        ["append", "x"],
        {},
        {"op": "fly"},
        {"op": "append"},
        {"op": ["append"], "key": {}},
    ]
    odd += [spoiled for value in like_yours[:1] for spoiled in spoil(value, 4711)]
    c.propose_together(c.one_leader(), odd)
    c.agree("no request", 3)
    when = "The log has entries that the service cannot understand"
    for number in (2, 3):
        client.succeed(session.request("append", "x", f"{number};"), rules.BAD_REQUESTS, when, late=rules.BAD_REQUESTS)
        c.crash(client.server)  # so that another server answers the next request
    for server in range(3):
        c.crash(server)
    c.start_all()
    client.succeed(session.request("append", "x", "4;"), rules.BAD_REQUESTS, when, late=rules.BAD_REQUESTS)
    client.expect_value(session, "x", "1;2;3;4;", "Those entries must change nothing", rules.BAD_REQUESTS)


@points(5)
def test_ok_needs_a_majority(cluster: StartCluster) -> None:
    """A request is answered with ok only after a majority has stored it. This includes gets."""
    c = cluster(5, scripted=[1, 2, 3, 4], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2, 3, 4)]
    wait_for_leadership(c)
    client = Client(c)
    session = Session(client, client.succeed(client.registration(), servers=[0]))
    client.succeed(session.request("put", "x", "1;"), servers=[0])
    for op, value in (("append", "2;"), ("get", None), ("register", None)):
        fields = client.registration() if op == "register" else session.request(op, "x", value)
        for follower in followers[1:]:
            follower.limit = len(longest_log(followers))
        answer = client.ask(0, fields)
        text = f"expected S0 to refuse {describe(fields)}, but the status is {answer['status']}"
        text = f"{text}. Only one of the four other servers has stored it"
        c.expect(answer["status"] in REFUSALS, text, rules.STATUSES, [0])
        for follower in followers:
            follower.limit = NO_LIMIT
        client.succeed(fields, servers=[0])
    read = client.succeed(session.request("get", "x"), servers=[0])
    text = f"expected 'x' to be '1;2;', but it is {read!r}. The append must be carried out once"
    c.expect(read == "1;2;", text, rules.EXACTLY_ONCE)


@points(5)
def test_entry_of_another_leader(cluster: StartCluster) -> None:
    """Another leader's entry takes the index that start() returned: the request must not be answered with ok."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    wait_for_leadership(c)
    client = Client(c)
    registration = client.registration()
    session = Session(client, client.succeed(registration, servers=[0]))
    register = longest_log(followers)[-1]["command"]
    client.succeed(session.request("put", "x", "1;"), servers=[0])
    put = longest_log(followers)[-1]["command"]
    for fields, foreign in (
        (client.registration(), register),
        (session.request("append", "x", "2;"), put),
        (session.request("get", "x"), register),
    ):
        _overwrite(c, client, followers, fields, foreign)
        wait_for_leadership(c)
        client.succeed(fields, servers=[0])
    read = client.succeed(session.request("get", "x"), servers=[0])
    c.expect(read == "1;2;", f"expected 'x' to be '1;2;', but it is {read!r}", rules.EXACTLY_ONCE)
    # S1 leads, and a session begins at the index after the next. S0 gets a request of that session before it knows of
    # the session.
    later = Session(client, len(longest_log(followers)) + 2)
    _overwrite(c, client, followers, later.request("append", "x", "3;"), put)


def _overwrite(c: Cluster, client: Client, followers: list[ScriptedFollower], fields: Message, foreign: Any) -> Any:
    """Send S0 the request ``fields``. Replace its entry by one with the command ``foreign``, commit the new entry, and
    require that S0 does not answer with ok. Returns the command of the entry that was replaced."""
    log = longest_log(followers)
    for follower in followers:
        follower.limit = len(log)
    rpc, lost = _ask_for_entry(c, client, len(log) + 1, fields)
    term = c.get_state(0)[0] + 1000
    entry = {"term": term, "command": foreign}
    append(c, 1, term, (len(log), log[-1]["term"]), [entry], len(log) + 1)
    for follower in followers:
        follower.log = [*log, entry]
        follower.limit = NO_LIMIT
    # S1 goes on leading. If S0 led again, it could carry out the request by another entry, and rightly answer with ok.
    until = c.now + 2.5
    while not rpc.done and c.now < until:
        append(c, 1, term, (len(log) + 1, term), [], len(log) + 1)
        c.sleep(0.05)
    status = client.answer(rpc)["status"]
    text = f"expected S0 not to answer a request of session {fields['client_id']} with no_session, but it does"
    c.expect(status != "no_session", f"{text}. Another leader's entry is at its index", rules.SESSIONS, [0])
    text = f"expected S0 to refuse {describe(fields)}, but the status is {status}"
    c.expect(status in REFUSALS, f"{text}. Another leader's entry is at its index", rules.STATUSES, [0])
    return None if lost is None else lost["command"]


@points(4, networks=SIM)
def test_another_leader_at_once(cluster: StartCluster) -> None:
    """Requests reach a leader just as another leader's entries take their indexes: no answer may be ok."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    wait_for_leadership(c)
    client = Client(c)
    sessions = [Session(client, client.succeed(client.registration(), servers=[0])) for _ in range(4)]
    register = longest_log(followers)[-1]["command"]
    for number in range(10):
        client.succeed(sessions[0].request("put", "x", f"{number};"), servers=[0])
        log, term = list(longest_log(followers)), c.get_state(0)[0]
        for follower in followers:
            follower.limit = len(log)
        new = term + 1000
        foreign = [{"term": new, "command": register} for _ in sessions]
        asked = [session.request("append", "lost", f"{number}.{each};") for each, session in enumerate(sessions)]
        with c.at_once(0):
            rpcs = [client.send(0, fields) for fields in asked]
            send_append(c, 1, new, (len(log), log[-1]["term"]), foreign, len(log) + len(foreign))
        for follower in followers:
            follower.log, follower.limit = [*log, *foreign], NO_LIMIT
        answers = [client.answer(rpc) for rpc in rpcs]
        wait_for_leadership(c)
        # A service may have proposed its entry again, once S0 led a new term. Then the value is there.
        found = "" if all(answer["status"] != "ok" for answer in answers) else _value_at_s0(client, sessions[0], "lost")
        for fields, answer in zip(asked, answers, strict=True):
            text = (
                f"expected S0 to refuse {describe(fields)}, but the status is ok. "
                "Another leader's entry has just replaced its entry"
            )
            fine = answer["status"] != "ok" or fields["value"] in found
            c.expect(fine, text, rules.STATUSES, [0])


def _value_at_s0(client: Client, session: Session, key: str) -> str:
    return client.succeed(session.request("get", key), servers=[0]) or ""


@points(4)
def test_get_after_another_get(cluster: StartCluster) -> None:
    """A get must not share the entry of an earlier get that still waits: a write may have returned in between."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    wait_for_leadership(c)
    client = Client(c)
    writer, one, other = [Session(client, client.succeed(client.registration(), servers=[0])) for _ in range(3)]
    client.succeed(writer.request("put", "x", "0;"), servers=[0])
    for number in range(1, 3):
        # S0's entry shows how its service writes this put, but S0 loses this entry.
        written = writer.request("put", "x", f"{number};")
        put = _overwrite(c, client, followers, written, longest_log(followers)[-1]["command"])
        wait_for_leadership(c)
        client.succeed(one.request("get", "x"), servers=[0])
        log = list(longest_log(followers))
        for follower in followers:
            follower.limit = len(log)
        rpc, first = _ask_for_entry(c, client, len(log) + 1, one.request("get", "x"))
        # S1 has the entry of this get (`first`), leads a new term, and has carried out the put, which is in the next entry.
        # S0 learns of the put only after it has been asked for another get.
        new = c.get_state(0)[0] + 1000
        later = other.request("get", "x")
        second = client.send(0, later)
        c.sleep(0.05)
        if first is not None:
            entry = {"term": new, "command": put}
            append(c, 1, new, (len(log) + 1, first["term"]), [entry], len(log) + 2)
            log += [first, entry]
        for follower in followers:
            follower.log, follower.limit = list(log), NO_LIMIT
        answer = client.answer(second)
        text = (
            f"expected S0 to refuse {describe(later)} or answer it with '{number};', but the answer is "
            f"{answer['value']!r}. {describe(written)} had returned before this get, but not before an earlier get"
        )
        fine = answer["status"] in REFUSALS or answer["value"] == f"{number};"
        c.expect(first is None or fine, text, rules.LINEARIZABLE, [0])
        client.answer(rpc)
        wait_for_leadership(c)


def _ask_for_entry(c: Cluster, client: Client, index: int, fields: Message) -> tuple[Rpc, Message | None]:
    """Send S0 the request ``fields``, and wait until S0 sends the entry at ``index`` to a scripted server. Returns
    the request and the entry; ``None`` for the entry if S0 has answered without one."""
    seen = [len(server.received) for server in c.scripted]

    def entry() -> Message | None:
        for server, earlier in zip(c.scripted, seen, strict=True):
            for each in server.received[earlier:]:
                if each.method == "append_entries":
                    place = index - each.args["prev_log_index"] - 1
                    if 0 <= place < len(each.args["entries"]):
                        found: Message = each.args["entries"][place]
                        return found
        return None

    rpc = client.send(0, fields)
    c.wait_for(OPERATION_LIMIT, lambda: rpc.done or entry() is not None)
    return rpc, entry()


# --- scripted servers: answers that clerks must cope with ----------------------------------------------------


@points(5)
def test_clerk_asks_again(cluster: StartCluster) -> None:
    """A clerk repeats a request with the same serial until it is answered, and returns the answer."""
    c = cluster(3, scripted=[0, 1, 2], clerks=1)
    service, clerk = PlayedService(c), c.clerks[0]
    cases: list[tuple[str, list[Message | None], str, tuple[str | None, ...], str | bool | None]] = [
        ("although nothing is refused", [], "get", (), "0;"),
        ("although its request was lost", [None], "put", ("1;",), None),
        ("although its request was lost", [None, None, None, None], "append", ("2;",), None),
        ("although no server leads for a while", [reply("not_leader")] * 7, "swap", ("3;", "4;"), True),
        ("although servers say try_again", [reply("try_again")] * 7, "swap", (None, "5;"), True),
        ("although nothing is refused", [], "swap", (None, "6;"), False),
        (
            "although it is refused in different ways",
            [reply("try_again"), None, reply("not_leader")] * 2,
            "get",
            (),
            None,
        ),
        ("although no server leads for a while", [reply("not_leader")] * 4, "get", (), ""),
    ]
    for number, (when, refusals, op, args, result) in enumerate(cases):
        service.answer = after(*refusals, value=result)
        operation = service.run(clerk, op, f"key {number}", *args, when=when)
        service.expect_result(operation, result, when)
    service.check_requests()


@points(4, networks=SIM)
def test_clerk_after_an_outage(cluster: StartCluster) -> None:
    """For 20 s no server answers a clerk: once servers answer again, the clerk's operation soon ends."""
    c = cluster(3, scripted=[0, 1, 2], clerks=1)
    service, clerk = PlayedService(c), c.clerks[0]
    outage, asked = 0.0, set[int]()

    def answer(rpc: Rpc) -> Message | None:
        # The outage lasts for 20 s, and then until each server has been asked once more. Some clerks pause whenever they
        # have asked every server. So the outage ends when such a clerk has just begun to pause.
        if len(asked) < 3:
            if c.now >= outage:
                asked.add(rpc.dst)
            return None
        return reply("ok")

    service.answer = service.answer_register = answer
    for key in ("first", "second"):  # in the first outage, the clerk has no session yet
        asked.clear()
        outage = c.now + 20.0
        operation = clerk.begin("put", key, "1;")
        c.wait_for(20.0 + OPERATION_LIMIT, lambda: len(asked) == 3)
        c.wait_for(OPERATION_LIMIT, lambda done=operation: done.done)  # type: ignore[misc]
        text = f"expected {operation.describe()} to end within {OPERATION_LIMIT:.0f} s after an outage of 20 s"
        c.expect(operation.done, f"{text}, but it has not", rules.PROGRESS, [clerk.number])
    service.check_requests()


@points(5)
def test_clerk_and_hints(cluster: StartCluster) -> None:
    """A clerk finds the leader despite wrong hints: to no server, to the hinting server itself, or in a circle."""
    c = cluster(3, scripted=[0, 1, 2], clerks=1)
    service, clerk = PlayedService(c), c.clerks[0]
    hints: list[tuple[str, Callable[[int, int], int | None]]] = [
        ("without a hint", lambda server, leader: None),
        ("with the right hint", lambda server, leader: leader),
        ("with a hint to server 99, which does not exist", lambda server, leader: 99),
        ("with a hint to server -1, which does not exist", lambda server, leader: -1),
        ("with a hint to server 3, which does not exist", lambda server, leader: 3),
        ("if each server names itself", lambda server, leader: server),
        ("if the servers that do not lead name each other", lambda server, leader: 3 - server - leader),
    ]
    for number, (when, hint) in enumerate(hints * 2):
        leader = (2 * number + number // len(hints)) % 3  # nearly always a different one than before

        def answer(rpc: Rpc, leader: int = leader, hint: Callable[[int, int], int | None] = hint) -> Message:
            return reply("ok") if rpc.dst == leader else reply("not_leader", leader=hint(rpc.dst, leader))

        service.answer = answer
        operation = service.run(clerk, "put", f"key {number}", "1;", when=when)
        service.expect_result(operation, None, when)
    service.check_requests()


@points(5)
def test_clerk_registers(cluster: StartCluster) -> None:
    """Clerk(...) returns at once. The clerk then registers until it has a session, and uses that session."""
    c = cluster(3, scripted=[0, 1, 2], clerks=1, start=False)
    service, clerk = PlayedService(c), c.clerks[0]
    hold = c.hold("client_request")
    c.start_all()  # fails if Clerk() waits for an answer
    hold.drop()
    for number in range(3):
        # In the last round, the clerk already has a session. It may register again.
        service.answer_register = after(
            None, reply("not_leader"), reply("try_again"), None, reply("not_leader", leader=1)
        )
        when = "although the first requests to register are lost or refused"
        for op, args in (("put", ("1;",)), ("append", ("2;",)), ("get", ())):
            operation = service.run(clerk, op, f"{op} {number}", *args, when=when)
            service.expect_result(operation, None, when)
        if number == 0:
            clerk.restart()
    service.check_requests()


@points(6)
def test_clerk_without_its_session(cluster: StartCluster) -> None:
    """After no_session, a clerk registers and goes on. If it had sent the same write before, it raises Unknown."""
    c = cluster(3, scripted=[0, 1, 2], clerks=1)
    service, clerk = PlayedService(c), c.clerks[0]
    writes: list[tuple[str, tuple[str | None, ...]]] = [("put", ("1;",)), ("append", ("1;",)), ("swap", (None, "1;"))]
    service.run(clerk, "put", "first", "1;", when="although nothing is refused")
    number = 0
    # In the last case, every server refuses once.
    for earlier in ([], [None], [reply("try_again")], [reply("not_leader")], [reply("try_again")] * 3):
        which = (
            "its first request" if not earlier else "a request after a lost one" if earlier[0] is None else "its retry"
        )
        when = f"when {which} is answered with no_session"
        for op, args in [*writes, ("get", ())]:
            number += 1
            service.end_sessions()
            service.answer = after(*earlier, value=False if op == "swap" else None)
            operation = service.run(clerk, op, f"{op} {number}", *args, when=when)
            if op == "get" or service.tries_in_ended_sessions(operation) == 1:
                service.expect_result(operation, False if op == "swap" else None, when)
            elif earlier and operation.key in service.without_session:
                text = f"expected {operation.describe()} to raise Unknown {when}, but it returned"
                c.expect(
                    operation.outcome == "unknown",
                    f"{text}. It may have been carried out in the old session",
                    rules.EXACTLY_ONCE,
                )
            operation = service.run(clerk, "put", f"after {number}", "1;", when=f"after {operation.describe()}")
            service.expect_result(operation, None, "in a new session")
    service.check_requests()


@points(4)
def test_clerk_and_bad_requests(cluster: StartCluster) -> None:
    """A clerk raises ValueError if its request is answered with bad_request. Its next operation works again."""
    c = cluster(3, scripted=[0, 1, 2], clerks=1)
    service, clerk = PlayedService(c), c.clerks[0]
    clerk.may_refuse = True
    for op, args in (("put", ("1;",)), ("append", ("1;",)), ("swap", (None, "1;")), ("get", ())):
        service.answer = lambda rpc: reply("bad_request")
        operation = service.run(
            clerk, op, f"{op} refused", *args, when="when it is answered with bad_request", rule=rules.BAD_REQUESTS
        )
        text = f"expected {operation.describe()} to raise ValueError when the answer is bad_request, but it returned"
        c.expect(operation.outcome == "refused", text, rules.BAD_REQUESTS)
        service.answer = after(value=True if op == "swap" else None)
        operation = service.run(clerk, op, f"{op} carried out", *args, when="after a bad request")
        service.expect_result(operation, True if op == "swap" else None, "after a bad request")
    service.check_requests()


# --- what a service costs ------------------------------------------------------------------------------------

# Operations of one clerk in a second of virtual time, without preemption. The reference does 245; a service that checks only
# every 10 ms whether its entry was applied still does 70.
_LEAST_RATE = 60
_MOST_REQUESTS = 1.2  # for each operation, in a quiet cluster


def _time_of_raft(c: Cluster) -> float:
    """The seconds that Raft itself needs for an entry, from ``start`` until the leader applies it."""
    applies = c.event_loop.referee.applies
    # Propose a copy of one of the service's entries: the copy has no further effect.
    copy = next(command for _, (kind, command) in sorted(applies.values.items(), reverse=True) if kind == "command")
    leader = c.settled_leader()
    times = [c.now]
    for _ in range(5):
        index, _, _ = c.propose(leader, copy)
        c.wait_for(1.0, lambda index=index: applies.last_applied[leader] >= index)  # type: ignore[misc]
        times.append(c.now)
    return (times[-1] - times[1]) / 4  # the first proposal may have come in the middle of a heartbeat interval


@points(5, networks=SIM, schedule="none")
def test_requests_and_time(cluster: StartCluster) -> None:
    """In a quiet cluster, one clerk does 60 operations a second, with about one request per operation."""
    c = cluster(3, clerks=1, max_state=4000)
    clerk = c.clerks[0]
    c.settled_leader()
    clerk.put("warm-up", "0;")
    start, number = c.now, 60
    load = Load(c, keys=("a", "b"), mix=EVERYTHING, most=number)
    load.wait_until_idle(60.0)
    rate = number / max(c.now - start, 0.001)  # a service that never waits takes no virtual time
    if rate < _LEAST_RATE:
        text = f"expected at least {_LEAST_RATE} operations a second from one clerk in a quiet cluster"
        alone, most = 1000 * _time_of_raft(c), 1000 / _LEAST_RATE
        text = f"{text}, but there were {rate:.0f}. Raft alone takes {alone:.0f} ms for an entry"
        c.fail(f"{text}, and a whole operation may take {most:.0f} ms", rules.CLIENT_COST)
    sent = len(client_requests(c, clerk, start))
    text = f"expected at most {_MOST_REQUESTS} requests for each operation in a quiet cluster"
    c.expect(
        sent <= _MOST_REQUESTS * number, f"{text}, but there were {sent} for {number} operations", rules.CLIENT_COST
    )
    clerk.on_return = lambda operation: None
    for change in range(2):
        leader = c.settled_leader()
        c.disconnect(leader)
        c.settled_leader()
        operation = clerk.run("append", "a", f"after change {change};")
        sent = len(client_requests(c, clerk, operation.call))
        text = f"expected {operation.describe()} to need at most 4 requests after a change of leader"
        c.expect(sent <= 1 + c.size, f"{text}, but there were {sent}", rules.CLIENT_COST)
        c.connect(leader)
        c.settled_leader()
    end_well(c)


@points(4, networks=SIM)
def test_nobody_is_forgotten(cluster: StartCluster) -> None:
    """A single server answers each request within half a second, even if many others wait."""
    c = cluster(1, scripted_clerks=1)
    client = Client(c)
    sessions = [client.register() for _ in range(8)]
    refused = 0
    for number in range(40):
        together = sessions if number % 4 == 0 else sessions[:1]
        with c.at_once(0):
            rpcs = [client.send(0, session.request("append", "x", f"{number};")) for session in together]
        refused += _expect_prompt(c, client, rpcs)
        c.sleep(0.01)
    text = "expected S0, the only server, to refuse at most 20 of 110 requests, but it refused"
    c.expect(refused <= 20, f"{text} {refused}", rules.CLIENT_COST, [0])


@points(4, networks=SIM)
def test_requests_in_quick_succession(cluster: StartCluster) -> None:
    """A leader answers each request within half a second, even right after another request or a copy of the same one."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    for number in (1, 2):
        ScriptedFollower(c, number)
    wait_for_leadership(c)
    client = Client(c)
    sessions = [Session(client, client.succeed(client.registration(), servers=[0])) for _ in range(4)]
    for number in range(20):
        fields = [
            session.request(*(("get", "x") if (number + each) % 2 else ("append", "x", f"{number};")))
            for each, session in enumerate(sessions)
        ]
        rpcs = []
        for each in c.random.sample(fields * 3, 12):
            rpcs.append(client.send(0, each))
            c.sleep(0.0005)
        _expect_prompt(c, client, rpcs)


# Seconds within which a leader answers if its followers answer at once, or if it has none. The reference takes a few
# hundredths of a second.
_PROMPT = 0.5


def _expect_prompt(c: Cluster, client: Client, rpcs: Collection[Rpc]) -> int:
    """Require that S0 answers these requests soon, and does not say that their sessions have ended. Returns how many it
    refuses."""
    c.wait_for(_PROMPT, lambda: all(rpc.done for rpc in rpcs))
    others = f". {len(rpcs) - 1} other requests arrived at the same time" if len(rpcs) > 1 else ""
    statuses = []
    for rpc in rpcs:
        text = f"expected S0 to answer {describe(rpc.args)} within {_PROMPT} s, but it has not"
        c.expect(rpc.done, f"{text}. A majority answers S0 at once{others}", rules.CLIENT_COST, [0])
        status = client.answer(rpc)["status"]
        text = f"expected S0 to carry out {describe(rpc.args)}, but the status is {status}. Its session has not ended"
        c.expect(status in ("ok", *REFUSALS), f"{text}{others}", rules.SESSIONS, [0])
        statuses.append(status)
    return len(statuses) - statuses.count("ok")


@points(6)
def test_size(cluster: StartCluster) -> None:
    """A service takes snapshots, so that both they and Raft's saved state stay small."""
    max_state, max_sessions = 1000, 4
    c = cluster(3, clerks=1, scripted_clerks=1, max_state=max_state, max_sessions=max_sessions)
    clerk, client = c.clerks[0], Client(c)
    clerk.put("large", "0123456789" * 100)
    readers = [client.register() for _ in range(max_sessions - 1)]
    keys = ("a", "b", "c")
    for number in range(1, 91):
        if number % 45 == 1:
            for reader in readers:
                reader.do("get", "large")
        key = keys[number % 3]
        value = f"{number:3}" * 20
        clerk.put(key, value)
        if number % 15 == 0:
            clerk.get(key)
        if number % 45 == 0:
            held = sum(map(len, keys)) + 3 * len(value) + len("large") + 1000
            _expect_small(c, max_state, most=held + 200 * max_sessions)
    end_well(c)


def _expect_small(c: Cluster, max_state: int, most: int) -> None:
    """Let the cluster be quiet for 2 s, and then check what each server stores. ``most``: the limit for a snapshot, in
    bytes."""
    c.sleep(2.0)  # entries that are not committed yet cannot be removed from the log
    for server in range(3):
        stored, snapshot = c.server_state(server).state_size, len(c.server_state(server).snapshot)
        text = f"expected S{server} to store at most 8 x max_state = {8 * max_state} bytes besides the snapshot"
        c.expect(stored <= 8 * max_state, f"{text}, but it stores {stored}", rules.SERVICE_SNAPSHOTS, [server])
        c.expect(
            snapshot > 0, f"expected S{server} to take snapshots, but it has none", rules.SERVICE_SNAPSHOTS, [server]
        )
        text = (
            f"expected S{server}'s snapshot to have at most {most} bytes, but it has {snapshot}. "
            "The limit is the size of all keys and values plus 200 bytes per session"
        )
        c.expect(snapshot <= most, text, rules.SERVICE_SNAPSHOTS, [server])
