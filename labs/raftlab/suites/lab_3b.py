"""Lab 3B: reads that cost no entry of the log (dissertation, 6.4).

``Cluster.check_history`` judges reads of kind log, index and lease as operations of a linearizable history, and those of
kind session and snapshot by the index that their replies name (:mod:`raftlab.harness.reads_check`). So a test only has to
bring about a situation in which a wrong service gives a wrong answer.

Leases rely on clocks whose rates differ by less than :data:`raftlab.api.MAX_DRIFT`. Tests that set how fast clocks run work
in the simulator only. On the real network, clocks agree, and no test demands more than a busy machine can do.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from raftlab.explain import rules
from raftlab.explain.failure import Rule, short
from raftlab.harness.clerks import OPERATION_LIMIT, ClerkHandle, ClientOperation
from raftlab.harness.cluster import CALL_PATIENCE, ELECTION_LIMIT, Cluster
from raftlab.harness.membership import MembershipCall
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.clients import ALL_READS, FRESH_READS, Load, end_well, request
from raftlab.suites.helpers.configurations import carries_configuration, without
from raftlab.suites.helpers.scripted_clients import REFUSALS, Client, Session, longest_log
from raftlab.suites.helpers.scripted_servers import (
    NO_LIMIT,
    ScriptedFollower,
    append,
    entries,
    send_append,
    wait_for_leadership,
)
from raftlab.suites.marking import SIM, StartCluster, points

# Seconds within which a server answers a request, and a little more.
ANSWERED = 2.5
# No election timeout is longer, because a leader must be elected within 5 s (lab 2A).
LONGEST_TIMEOUT = ELECTION_LIMIT


def read_of(kind: str, key: str = "x", seen: int = 0) -> Message:
    """A request to read ``key``. These reads need no session."""
    return request("get", 900_001, 1, key, read=kind, seen=seen)


# What the messages call each kind of read.
_NAMES = {"index": "read by index", "lease": "read by lease", "session": "session read", "snapshot": "snapshot read"}


def described(kind: str, number: int = 1) -> str:
    """Reads of this kind in words, such as ``a read by index`` or ``9 session reads``."""
    name = _NAMES.get(kind, f"read of kind {kind!r}")
    return f"a {name}" if number == 1 else f"{number} {name.replace('read', 'reads')}"


def leads_alone(c: Cluster) -> tuple[int, Client, Session]:
    """Wait until S0 leads the scripted followers, begin a session at S0 and put ``1;`` into ``x``. Returns S0's term, the
    client and the session."""
    term = wait_for_leadership(c)
    client = Client(c)
    session = Session(client, client.succeed(client.registration(), servers=[0]))
    client.succeed(session.request("put", "x", "1;"), servers=[0])
    return term, client, session


def expect_refused(c: Cluster, client: Client, fields: Message, why: str, rule: Rule, server: int = 0) -> None:
    """Require that a server refuses a read: it must not answer with a value. ``why`` is a sentence."""
    status = client.ask(server, fields)["status"]
    text = f"expected S{server} to refuse {described(fields['read'])}, but the status is {status}. {why}"
    c.expect(status in REFUSALS, text, rule, [server])


def expect_soon(
    c: Cluster, client: Client, server: int, fields: Message, value: str | None, rule: Rule, when: str = ""
) -> Message:
    """Require that a server soon answers a read with this value. Returns its reply."""
    deadline, status = c.now + OPERATION_LIMIT, "nothing"
    while c.now < deadline:
        reply = client.answer(client.send(server, fields))
        status = reply["status"]
        if status == "ok":
            text = (
                f"expected S{server} to answer {described(fields['read'])} with {value!r}{when}, but the value is "
                f"{reply['value']!r}"
            )
            c.expect(reply["value"] == value, text, rule, [server])
            return reply
        c.sleep(0.05)
    text = f"expected S{server} to answer {described(fields['read'])} with ok within {OPERATION_LIMIT:.0f} s{when}"
    return c.fail(f"{text}, but the status is {status}", rules.PROGRESS, [server])


# --- every kind of read, with and without faults -------------------------------------------------------------


@points(5)
def test_each_kind(cluster: StartCluster) -> None:
    """Each kind of read returns the value written last; only a snapshot read may return an older one."""
    c = cluster(3, clerks=1)
    clerk = c.clerks[0]
    for number in range(3):
        for read in ("log", "index", "lease", "session", "snapshot"):
            clerk.put("x", f"{number}{read};")
            seen = clerk.get("x", read=read)
            if read != "snapshot":
                text = f"expected get('x', {read!r}) to return what the same clerk had just put, but it returned"
                c.expect(seen == f"{number}{read};", f"{text} {seen!r}", rules.LINEARIZABLE)
    c.expect(clerk.get("nobody", read="index") is None, "expected None as the value of a key that nobody has written")
    end_well(c)


@points(5)
def test_many_clerks_read(cluster: StartCluster) -> None:
    """Five clerks write and use every kind of read."""
    c = cluster(5, clerks=5, max_state=4000)
    Load(c, mix=ALL_READS, most=24).wait_until_idle(40.0)
    end_well(c)


@points(5)
def test_lost_messages(cluster: StartCluster) -> None:
    """Five clerks write and use every kind of read while the network loses and delays messages."""
    c = cluster(3, clerks=5, max_state=4000)
    c.unreliable()
    Load(c, mix=ALL_READS, most=12).wait_until_idle(90.0)
    end_well(c)


@points(5)
def test_leaders_fail(cluster: StartCluster) -> None:
    """Four clerks write and use every kind of read while leaders crash or are cut off from the other servers."""
    c = cluster(3, clerks=4, max_state=4000)
    load = Load(c, mix=ALL_READS, most=1)
    for number in range(4):
        leader = c.one_leader()
        load.more(6)
        c.sleep(c.random.uniform(0.0, 0.03))
        if number % 2:
            c.crash(leader)
            load.wait(1.5)
            c.restart(leader)
        else:
            # The clerks can still reach the old leader.
            c.partition([leader], without(range(3), leader))
            load.wait(1.5)
            c.heal()
    load.finish()
    end_well(c)


@points(5)
def test_partitions(cluster: StartCluster) -> None:
    """Clerks on both sides of changing partitions write, and read by index and by lease."""
    c = cluster(5, clerks=4, max_state=4000)
    load = Load(c, mix=FRESH_READS, most=1)
    for _ in range(4):
        load.more(6)
        c.sleep(c.random.uniform(0.0, 0.03))
        order = c.random.sample(range(5), 5)
        clerks = c.random.sample([clerk.number for clerk in c.clerks], 4)
        c.partition([*order[:2], *clerks[:2]], [*order[2:], *clerks[2:]])
        load.wait(1.2)
    c.heal()
    load.finish()
    end_well(c)


@points(5)
def test_servers_restart_with_snapshots(cluster: StartCluster) -> None:
    """Servers restart from snapshots while clerks read from all of them."""
    c = cluster(3, clerks=3, max_state=1500)
    load = Load(c, keys=("a", "b"), mix=ALL_READS, most=1)
    for _ in range(5):
        load.more(8)
        c.sleep(c.random.uniform(0.0, 0.1))
        c.restart(c.random.randrange(3))
        load.wait(0.5)
    load.finish()
    end_well(c)


# --- index ---------------------------------------------------------------------------------------------------


@points(5)
def test_index_costs_no_entry(cluster: StartCluster) -> None:
    """In a quiet cluster, a read by index adds nothing to the log and costs one round of messages."""
    c = cluster(3, clerks=1)
    clerk = c.clerks[0]
    clerk.put("x", "1;")
    clerk.get("x", read="index")  # a new leader may need an entry of its own first
    last, idle = _last_index(c), _rpcs_in(c, 2.0)
    before, since = _server_rpcs(c), c.now
    for _ in range(40):
        clerk.get("x", read="index")
    seconds = c.now - since
    c.expect(
        _last_index(c) == last,
        f"expected 40 reads by index to add nothing to the log, but its end moved from {last} to {_last_index(c)}",
        rules.READ_COST,
    )
    # Each read may cost three messages: two for a round, and one if the clerk asks a follower, which then asks the leader.
    most = 40 * 3 + 1.2 * idle * seconds / 2.0 + 5
    spent = _server_rpcs(c) - before
    text = f"expected 40 reads by index to cost at most {most:.0f} messages between servers, but they cost {spent}"
    c.expect(spent <= most, text, rules.READ_COST)
    end_well(c)


@points(5)
def test_index_needs_a_new_round(cluster: StartCluster) -> None:
    """A read by index needs a new round: a majority must answer messages that were sent after the read arrived."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    for _ in range(3):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        # While the read waits, the only answers in flight are those to messages that were sent before the read.
        held = [c.hold("append_entries", src=0, dst=number, leg="reply") for number in (1, 2)]
        c.sleep(0.3)
        for follower in followers:
            follower.silent = True
        rpc = client.send(0, read_of("index"))
        c.sleep(0.1)
        for hold in held:
            hold.deliver(c.now)
        reply = client.answer(rpc)
        text = (
            f"expected S0 to refuse a read by index, but the status is {reply['status']}. "
            "S0 has received answers only to messages sent before the read"
        )
        c.expect(reply["status"] in REFUSALS, text, rules.READ_INDEX, [0])
        for follower in followers:
            follower.silent = False
        wait_for_leadership(c)


@points(3)
def test_index_and_a_late_chunk(cluster: StartCluster) -> None:
    """A follower's answer to a chunk of a snapshot arrives late: it says nothing about a read that came later."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1, max_state=1)
    behind, other = ScriptedFollower(c, 1), ScriptedFollower(c, 2)
    behind.silent = True
    _, client, session = leads_alone(c)
    expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
    for number in range(2):
        client.succeed(session.request("put", "x", f"{number};"), servers=[0])
    # S1 lacks entries that S0 has in a snapshot only.
    answers = c.hold("install_snapshot", src=0, dst=1, leg="reply")
    c.scripted_server(1).answer["install_snapshot"] = lambda rpc: {"term": rpc.args["term"]}
    behind.silent = False
    c.wait_for(2.0, lambda: bool(answers.messages))
    for follower in (behind, other):
        follower.silent = True
    c.scripted_server(1).answer["install_snapshot"] = lambda rpc: None
    c.sleep(0.02)
    rpc = client.send(0, read_of("index"))
    c.sleep(0.12)  # S0 has sent new messages since
    answers.deliver(c.now)
    status = client.answer(rpc)["status"]
    text = (
        f"expected S0 to refuse a read by index, but the status is {status}. "
        "S0 has received only S1's answer to a chunk that was sent before the read"
    )
    c.expect(status in REFUSALS, text, rules.READ_INDEX, [0])


@points(3)
def test_read_ends_with_the_leadership(cluster: StartCluster) -> None:
    """A leader learns of a new leader while a read by index waits: it starts no more rounds and refuses the read."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    for _ in range(3):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        for follower in followers:
            follower.silent = True
        c.sleep(0.05)
        rpc = client.send(0, read_of("index"))
        c.sleep(0.01)
        new = c.get_state(0)[0] + 10
        _keep_following(c, new, longest_log(followers), 1.2)
        sent = [each for server in c.scripted for each in server.received if each.method == "append_entries"]
        text = f"expected S0 to send no AppendEntries in term {new}, because S1 leads that term, but S0 sent some"
        c.expect(not any(each.src == 0 and each.args["term"] == new for each in sent), text, rules.READ_INDEX, [0])
        status = client.answer(rpc)["status"]
        text = "expected S0 to refuse a read by index after it learned of a new leader, but the status is"
        c.expect(status in REFUSALS, f"{text} {status}", rules.READ_INDEX, [0])
        for follower in followers:
            follower.silent = False
        wait_for_leadership(c)


@points(3)
def test_read_of_an_earlier_term(cluster: StartCluster) -> None:
    """A leader is deposed and elected again while a read by index waits: it must not return the old index."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    if not c.raft_has("timeout_now"):
        return  # without TimeoutNow, S0 must wait for its timer, and leads again too late
    for _ in range(3):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        for follower in followers:
            follower.silent = True
        c.sleep(0.05)
        call = c.ask_read_index(0)
        c.sleep(0.01)
        # S1 has led a newer term for a while, and has committed an entry. S0 learns of the term and the entry now.
        log, new = list(longest_log(followers)), c.get_state(0)[0] + 10
        more = entries(new, f"of term {new}")
        append(c, 1, new, (len(log), log[-1]["term"]), more, len(log) + 1)
        for follower in followers:
            follower.log[:] = [*log, *more]
            follower.silent = False
        c.scripted_server(1).send(0, "timeout_now", term=new, leader_id=1)
        c.wait_for(2.5, lambda call=call: not c.event_loop.pending(call))  # type: ignore[misc]
        index = c.found_read_index(0, call)
        text = (
            f"expected S0.read_index() to return -1 or at least {len(log) + 1}, but it returns {index}. "
            f"S1 has committed index {len(log) + 1} in term {new}"
        )
        c.expect(index == -1 or index > len(log), text, rules.READ_INDEX, [0])
        wait_for_leadership(c)


@points(3)
def test_half_is_not_enough(cluster: StartCluster) -> None:
    """Only one of three followers answers: the leader refuses reads by index, and soon reads by lease too."""
    c = cluster(4, scripted=[1, 2, 3], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2, 3)]
    _, client, _ = leads_alone(c)
    for number in range(3):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        expect_soon(c, client, 0, read_of("lease"), "1;", rules.LEASE)
        for follower in followers:
            follower.silent = follower is not followers[number]
        c.sleep(0.05)  # the answers to earlier messages arrive
        why = "Only one of the three other servers answers S0"
        expect_refused(c, client, read_of("index"), why, rules.READ_INDEX)
        c.sleep(LONGEST_TIMEOUT)
        expect_refused(c, client, read_of("lease"), why, rules.LEASE)
        for follower in followers:
            follower.silent = False
        wait_for_leadership(c)


@points(3)
def test_index_for_a_follower(cluster: StartCluster) -> None:
    """A follower asks the leader for a read index: this needs a new round too, as another leader may be elected."""
    c = cluster(5, scripted=[1, 2, 3, 4], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2, 3, 4)]
    _, client, _ = leads_alone(c)
    for number in range(1, 4):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        for follower in followers:
            follower.silent = True
        c.sleep(0.05)  # the answers to earlier messages arrive
        term = c.get_state(0)[0]
        asked = c.scripted_server(number).send(0, "read_index_of", term=term, server_id=number)
        c.wait_for(2.5, lambda sent=asked: sent.done)  # type: ignore[misc]
        index = -1 if asked.reply is None else asked.reply["index"]
        text = (
            f"expected S0 to answer S{number}'s read_index_of with index -1, but the index is {index}. "
            f"No other server has answered S0 since S{number} asked"
        )
        c.expect(index == -1, text, rules.READ_INDEX, [0])
        for follower in followers:
            follower.silent = False
        wait_for_leadership(c)


@points(3)
def test_reads_and_a_new_leader(cluster: StartCluster) -> None:
    """Reads arrive just as a leader learns of a new leader: it must no longer append to its log."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    c.scripted_server(1).answer["read_index_of"] = lambda rpc: {"term": rpc.args["term"], "index": -1}
    for _ in range(10):
        # S0 has an entry of its own term, so it need not add another as long as it leads.
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        log, term = list(longest_log(followers)), c.get_state(0)[0]
        prev, new = (len(log), log[-1]["term"]), term + 10
        with c.at_once(0):
            asked = []
            for half in range(2):
                for _ in range(3):
                    asked += [client.send(0, read_of(kind)) for kind in ("index", "lease")]
                    c.scripted_server(2).send(0, "read_index_of", term=term, server_id=2)
                if not half:
                    send_append(c, 1, new, prev)
        c.sleep(0.02)
        # If S0 has wrongly added an entry since, that entry has the same term and index as S1's entry here, so S0 takes the
        # two for the same entry.
        command, index = f"of term {new}", len(log) + 1
        if append(c, 1, new, prev, entries(new, command), index)["term"] != new:
            wait_for_leadership(c)
            continue  # on a busy machine S0 may have waited too long for a heartbeat, and stood for election
        c.wait_for(2.0, lambda at=index: c.committed(at)[0] > 0)  # type: ignore[misc]
        applied, other = c.committed(index)
        what = f"it applied {short(other)}" if applied else "it did not"
        text = (
            f"expected S0 to apply {command!r} at index {index}, but {what}. S1, the leader of term {new}, had sent it"
        )
        c.expect(applied > 0 and other == command, text, rules.SAME_ENTRY, [0])
        for follower in followers:
            follower.log[:] = [*log, *entries(new, command)]
        for rpc in asked:
            client.answer(rpc)
        wait_for_leadership(c)


@points(4)
def test_index_during_a_change(cluster: StartCluster) -> None:
    """While C_old,new is in force, a read by index needs a majority of both sets (with part 2 of lab 2E)."""
    c = cluster(5, members=range(3), clerks=1, scripted_clerks=1, features={"membership"})
    clerk, client = c.clerks[0], Client(c)
    clerk.put("x", "1;")
    if not c.raft_has("change_membership"):
        return
    leader = c.one_leader(range(3))
    expect_soon(c, client, leader, read_of("index"), "1;", rules.READ_INDEX)
    old, new = without(range(3), leader), sorted([leader, 3, 4])
    held = [c.hold("append_entries", dst=dst, when=carries_configuration(new, joint=True)) for dst in old]
    change = MembershipCall(c, leader, new)
    c.wait_for(10.0, lambda: bool(held[0].messages) or not change.pending)
    c.wait_for(1.0, lambda: bool(held[0].messages))
    if held[0].messages:  # otherwise, this Raft changes one server at a time
        c.partition([leader, 3, 4, client_number(c)], [*old, clerk.number])
        c.sleep(0.3)
        why = f"S{leader} can reach none of the other old members, S{old[0]} and S{old[1]}"
        expect_refused(c, client, read_of("index"), why, rules.READ_INDEX, leader)
    for hold in held:
        hold.drop()
    c.heal()
    end_well(c)


@points(5)
def test_index_needs_a_commit_of_the_term(cluster: StartCluster) -> None:
    """A new leader refuses reads by index and lease until it has committed an entry of its own term."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    term, client, session = leads_alone(c)
    # The followers store a second entry, but S0 does not learn of that: their answers are lost.
    c.wait_for(2.0, lambda: len(followers[0].log) == len(followers[1].log))
    stored = len(followers[0].log)
    answers = [c.hold("append_entries", src=0, dst=number, leg="reply") for number in (1, 2)]
    client.send(0, session.request("put", "x", "2;"))
    c.wait_for(2.0, lambda: all(len(follower.log) > stored for follower in followers))
    log = list(longest_log(followers))
    for hold in answers:
        hold.drop()
    for follower in followers:
        follower.log[:] = log
        # The followers answer heartbeats, but store nothing more, so no entry of S0's new term is committed.
        follower.limit = len(log)
    # Another leader makes S0 a follower for a moment, and may have told clients that the second put is done.
    append(c, 1, term + 10, (len(log), log[-1]["term"]))
    wait_for_leadership(c)
    # The first read by lease makes S0 ask for a lease. The followers answer before the second read by lease, so S0 may
    # hold a lease by then.
    for kind in ("lease", "index", "lease"):
        why = "S0 has committed no entry of its own term"
        expect_refused(c, client, read_of(kind), why, rules.READ_INDEX if kind == "index" else rules.LEASE)
    with c.at_once(0):
        reads = [client.send(0, read_of(kind)) for kind in ("index", "lease") * 4]
    for read in reads:
        client.answer(read)
    _expect_one_noop(c)
    # While this read waits, the entry of S0's own term is committed, and with it the second put. An index that S0 noted
    # before this commit does not cover the put, so S0 must not return that index.
    call = c.ask_read_index(0)
    c.sleep(0.05)
    for follower in followers:
        follower.limit = NO_LIMIT
    index = c.found_read_index(0, call)
    text = (
        f"expected S0.read_index() to return -1 or at least {len(log)}, but it returns {index}. "
        f"The second put has index {len(log)}"
    )
    c.expect(index == -1 or index >= len(log), text, rules.READ_INDEX, [0])
    wait_for_leadership(c)
    expect_soon(c, client, 0, read_of("index"), "2;", rules.READ_INDEX)


def _expect_one_noop(c: Cluster) -> None:
    """Require that S0, which leads and has committed no entry of its own term, has not appended a no-op for each read.
    Entries of other kinds do not count, because a service without a lease may answer reads through the log."""
    term = c.get_state(0)[0]
    own = {
        each.args["prev_log_index"] + place
        for server in c.scripted
        for each in server.received
        if each.method == "append_entries" and each.args["term"] == term
        for place, entry in enumerate(each.args["entries"], 1)
        if entry["term"] == term and entry.get("kind") == "noop"
    }
    text = f"expected reads at S0 to append one no-op in its term {term}, but there are {len(own)} of this term"
    # One no-op more does no harm.
    c.expect(len(own) <= 2, text, rules.READ_COST, [0])


@points(4)
def test_deposed_leader_answers_nothing(cluster: StartCluster) -> None:
    """A leader and one follower are cut off, and a new leader is elected: these two servers must refuse reads by index."""
    c = cluster(5, clerks=1, scripted_clerks=1)
    clerk, client = c.clerks[0], Client(c)
    clerk.put("x", "old;")
    leader = c.settled_leader()
    follower = (leader + 1) % 5
    others = [server for server in range(5) if server not in (leader, follower)]
    c.partition([leader, follower, client_number(c)], [*others, clerk.number])
    for number in range(2):
        clerk.put("x", f"new{number};")
        for server in (leader, follower):
            why = f"S{server} can reach only one of the four other servers"
            expect_refused(c, client, read_of("index"), why, rules.READ_INDEX, server)
    c.heal()
    end_well(c)


def client_number(c: Cluster) -> int:
    """The number of the scripted clerk as a participant."""
    return c.scripted_clerks[0].number


@points(5)
def test_index_at_a_follower(cluster: StartCluster) -> None:
    """A follower asks the leader for a read index. Its service then answers the read or refuses it."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    for number in range(3):
        session.do("put", "x", f"{number};")
        written = _last_index(c)
        for server in range(3):
            _expect_read_index(c, server, written)
            _expect_current_or_refused(c, client, server, f"{number};")
        leader = c.settled_leader()
        expect_soon(c, client, leader, read_of("index"), f"{number};", rules.READ_INDEX)


@points(3)
def test_follower_asks_for_each_read(cluster: StartCluster) -> None:
    """A follower asks the leader again for each read: an earlier answer may be older than the read."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    for number in range(3):
        session.do("put", "x", f"{2 * number};")
        leader = c.settled_leader()
        follower = (leader + 1 + number % 2) % 3
        _expect_read_index(c, follower, _last_index(c))
        # The leader answers the first read, but neither this answer nor the put after it reaches the follower.
        answers = c.hold("read_index_of", src=follower, dst=leader, leg="reply")
        news = c.hold("append_entries", src=leader, dst=follower)
        first, first_read = c.ask_read_index(follower), client.send(follower, read_of("index"))
        c.wait_for(0.1, lambda held=answers: len(held.messages) > 1)  # type: ignore[misc]
        since = c.now
        client.succeed(session.request("put", "x", f"{2 * number + 1};"))
        written = _last_index(c)
        if c.now < since + 0.15:  # otherwise, the follower may stand for election, because it hears nobody
            second, second_read = c.ask_read_index(follower), client.send(follower, read_of("index"))
            c.sleep(0.02)
            answers.release()
            c.sleep(0.03)
            news.release()
            index = c.found_read_index(follower, second)
            text = (
                f"expected S{follower}.read_index() to return -1 or at least {written}, but it returns {index}. "
                f"The put at index {written} had been answered before the call"
            )
            c.expect(index == -1 or index >= written, text, rules.READ_INDEX, [follower])
            _check_current_or_refused(c, client.answer(second_read), follower, f"{2 * number + 1};")
        answers.release()
        news.release()
        c.found_read_index(follower, first)
        client.answer(first_read)


def _expect_read_index(c: Cluster, server: int, written: int) -> None:
    """Require that a server's Raft soon finds a read index, and that this index is not before ``written``."""
    deadline = c.now + OPERATION_LIMIT
    while c.now < deadline:
        index = c.read_index(server)
        if index != -1:
            text = (
                f"expected S{server}.read_index() to return at least {written}, but it returns {index}. "
                f"Some server had applied index {written} before the call"
            )
            c.expect(index >= written, text, rules.READ_INDEX, [server])
            return
        c.sleep(0.05)
    text = (
        f"expected S{server}.read_index() to return an index within {OPERATION_LIMIT:.0f} s, but it keeps returning -1"
    )
    c.fail(text, rules.PROGRESS, [server])


def _expect_current_or_refused(c: Cluster, client: Client, server: int, value: str) -> None:
    """Require that a server answers a read by index with ``value``, or refuses it, as servers that do not lead may."""
    _check_current_or_refused(c, client.ask(server, read_of("index")), server, value)


def _is_current_or_refused(reply: Message, value: str) -> bool:
    return reply["status"] in REFUSALS or (reply["status"] == "ok" and reply["value"] == value)


def _check_current_or_refused(c: Cluster, reply: Message, server: int, value: str) -> None:
    """Require that this reply to a read by index has ``value``, or is a refusal."""
    fine = _is_current_or_refused(reply, value)
    text = f"expected S{server} to refuse a read by index or answer it with {value!r}, but {_answer(reply)}"
    c.expect(fine, text, rules.READ_INDEX, [server])


def _answer(reply: Message) -> str:
    return f"the status is {reply['status']} and the value is {reply['value']!r}"


@points(5)
def test_follower_waits_for_the_index(cluster: StartCluster) -> None:
    """A follower answers a read by index only after it has applied the index that the leader named."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    term, client, session = leads_alone(c)
    client.succeed(session.request("put", "x", "2;"), servers=[0])
    log = list(longest_log(followers))
    new = term + 10
    named = len(log) + 1
    c.scripted_server(1).answer["read_index_of"] = lambda rpc: {"term": new, "index": named}
    for server in c.scripted:
        server.answer["request_vote"] = lambda rpc: {"term": new, "vote_granted": False}
        server.answer["pre_vote"] = lambda rpc: {"term": new, "vote_granted": False}
    # S1 leads, and has one more entry, which S0 does not get.
    append(c, 1, new, (len(log), log[-1]["term"]), [], len(log))
    asked = c.scripted_server(2).send(0, "read_index_of", term=new, server_id=2)
    c.wait_for(0.2, lambda: asked.done)
    if asked.reply is not None and asked.reply["term"] == new:
        index = asked.reply["index"]
        text = f"expected S0, a follower of S1, to answer read_index_of with index -1, but the index is {index}"
        c.expect(index == -1, text, rules.READ_INDEX, [0])
    rpc = client.send(0, read_of("index"))
    _keep_following(c, new, log, 0.5)
    c.expect(
        not rpc.done or rpc.reply is None or rpc.reply["status"] in REFUSALS,
        f"expected S0 to apply index {named} before it answers a read by index, but it answered first",
        rules.READ_INDEX,
        [0],
    )
    deadline, index = c.now + OPERATION_LIMIT, -1
    while index == -1 and c.now < deadline:
        call = c.ask_read_index(0)
        while c.event_loop.pending(call):
            _keep_following(c, new, log, 0.1)
        index = c.found_read_index(0, call)
    text = f"expected S0.read_index() to return {named}, the index that the leader S1 names, but it returns {index}"
    c.expect(index == named, text, rules.READ_INDEX, [0])


def _keep_following(c: Cluster, term: int, log: list[Message], seconds: float) -> None:
    """Send S0 heartbeats as the leader of ``term``, for ``seconds``. All entries of ``log`` are committed."""
    until = c.now + seconds
    while c.now < until:
        append(c, 1, term, (len(log), log[-1]["term"]), [], len(log))
        c.sleep(0.1)


# Seconds within which a service answers: 2 s, and a little for a service that looks at the clock only at intervals.
_ALL_WAITS = 2.3


@points(4, networks=SIM, schedule="none")
def test_waits_add_up(cluster: StartCluster) -> None:
    """A server answers a read by index within 2 s, even if a slow leader names an index that never comes."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    term, client, _ = leads_alone(c)
    log, new = list(longest_log(followers)), term + 1000
    c.scripted_server(1).answer["read_index_of"] = lambda rpc: {"term": new, "index": len(log) + 1}
    answers = c.hold("read_index_of", src=0, leg="reply")
    append(c, 1, new, (len(log), log[-1]["term"]), [], len(log))
    with c.at_once(0):
        reads = [client.send(0, read_of("index")) for _ in range(10)]
    since = c.now
    for _ in range(round(_ALL_WAITS / 0.1)):
        # S1 is a slow leader, whose answers to S0's questions arrive one at a time.
        if answers.messages and c.now > since + 0.5:
            rpc, data = answers.messages.pop(0)
            c.event_loop.deliver(c.now, rpc, data)
        _keep_following(c, new, log, 0.1)
    for read in reads:
        text = (
            f"expected S0 to answer a read by index within 2 s in total, but after {_ALL_WAITS} s it has not. "
            f"The leader S1 was slow to name index {len(log) + 1}, and S0 cannot apply that index"
        )
        c.expect(read.done, text, rules.ANSWERED_IN_TIME, [0])
    answers.drop()


@points(4, networks=SIM)
def test_reads_wait_side_by_side(cluster: StartCluster) -> None:
    """Reads by index wait at a leader without followers: they delay neither each other nor other kinds of reads."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    for _ in range(2):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        for follower in followers:
            follower.silent = True
        c.sleep(0.05)
        with c.at_once(0):
            waiting = [client.send(0, read_of("index")) for _ in range(4)]
        c.sleep(0.05)
        others = [client.send(0, read_of(kind)) for kind in ("session", "snapshot")]
        c.wait_for(_WOKEN, lambda sent=others: all(rpc.done for rpc in sent))  # type: ignore[misc]
        for rpc in others:
            text = (
                f"expected S0 to answer {described(rpc.args['read'])} within {_WOKEN} s while four reads by index wait"
            )
            c.expect(rpc.done, f"{text}, but it has not", rules.READ_COST, [0])
        c.wait_for(ANSWERED, lambda sent=waiting: all(rpc.done for rpc in sent))  # type: ignore[misc]
        late = sum(not rpc.done for rpc in waiting)
        text = (
            f"expected S0 to answer four reads by index within 2 s, even if no follower answers, but {late} still wait"
        )
        c.expect(not late, text, rules.ANSWERED_IN_TIME, [0])
        for follower in followers:
            follower.silent = False
        wait_for_leadership(c)


@points(2)
def test_one_server_reads(cluster: StartCluster) -> None:
    """A single server answers every kind of read, with the value at the index that it names."""
    c = cluster(1, clerks=6)
    clerk, *readers = c.clerks
    for number, read in enumerate(("index", "lease", "session", "snapshot", "log")):
        clerk.put("x", f"{number};")
        value = clerk.get("x", read=read)
        text = f"expected get('x', {read!r}) to return '{number};' from a single server, but it returned {value!r}"
        # A snapshot may be old, even at the only server. The harness compares its value with the index in the reply.
        c.expect(value == f"{number};" or read == "snapshot", text, rules.READ_INDEX)
    # Reads arrive together with a write that S0 applies at once.
    for number in range(30):
        with c.at_once(0):
            clerk.begin("put", "y", f"{number};")
            for reader, read in zip(readers, ("session", "snapshot") * 3, strict=False):
                reader.begin("get", "y", read=read)
            c.sleep(0.02)
        if not c.wait_for(OPERATION_LIMIT, lambda: all(each.operation is None for each in c.clerks)):
            break  # end_well reports it
    end_well(c)


# --- leases --------------------------------------------------------------------------------------------------


@points(5, networks=SIM)
def test_lease_costs_no_message(cluster: StartCluster) -> None:
    """In a quiet cluster, 200 reads by lease cost no extra messages between servers."""
    c = cluster(3, clerks=1)
    clerk = c.clerks[0]
    clerk.put("x", "1;")
    clerk.get("x", read="lease")
    idle, last = _rpcs_in(c, 2.0), _last_index(c)
    before, since = _server_rpcs(c), c.now
    for _ in range(200):
        clerk.get("x", read="lease")
    most = 1.2 * idle * (c.now - since) / 2.0 + 5
    spent = _server_rpcs(c) - before
    # Entries cost messages, too. This check comes first, because its failure says more.
    text = "expected reads by lease to add nothing to the log, but the log has grown"
    c.expect(_last_index(c) == last, text, rules.READ_COST)
    text = (
        f"expected at most {most:.0f} messages between servers during 200 reads by lease, but there were {spent}. "
        "Reads by lease must add nothing to what an idle leader sends"
    )
    c.expect(spent <= most, text, rules.READ_COST)
    c.check_history()


@points(5, networks=SIM)
def test_lease_ends(cluster: StartCluster) -> None:
    """A leader that is cut off stops answering reads by lease before another leader can be elected."""
    c = cluster(5, clerks=3)
    _read_at_old_leaders(c, 2)
    end_well(c)


@points(5, networks=SIM)
def test_lease_of_a_slow_clock(cluster: StartCluster) -> None:
    """The leader's clock is slow, within the bound: its lease must end before another leader can be elected."""
    c = cluster(3, clerks=3, start=False)
    _set_clocks(c, [0.84, 1.0, 1.0])
    _lead(c, 0)
    _read_at_old_leaders(c, 2, wanted=0)
    end_well(c)


@points(5, networks=SIM)
def test_lease_of_slow_voters(cluster: StartCluster) -> None:
    """Two followers' clocks are fast, within the bound: the lease must end before they can elect a leader."""
    c = cluster(3, clerks=3, start=False)
    _set_clocks(c, [0.95, 1.16, 1.16])
    _lead(c, 0)
    _read_at_old_leaders(c, 2, wanted=0)
    end_well(c)


@points(6, networks=SIM)
def test_voter_restarts(cluster: StartCluster) -> None:
    """A server restarts and forgets that it heard the leader: it must not vote while a lease may depend on it."""
    c = cluster(3, clerks=2)
    reader, writer = c.clerks
    for number in range(3):
        leader = c.settled_leader()
        voter, candidate = (leader + 1) % 3, (leader + 2) % 3
        writer.on_return = reader.on_return = _nothing
        writer.put("x", f"{number};")
        reader.get("x", read="lease")
        # The candidate hears nothing from the leader. It asks the voter again and again, but the voter hears the leader.
        c.cut(leader, candidate)
        c.cut(candidate, leader)
        _only(c, reader, [leader])
        _only(c, writer, [voter, candidate])
        c.sleep(1.2)
        if not c.get_state(leader)[1]:
            c.heal()
            continue
        stop = _keep_reading(c, reader, "lease")
        c.sleep(0.02)
        c.crash(voter)
        c.cut(leader, voter)
        c.cut(voter, leader)
        c.event_loop.boot(voter, c.members)  # restart() would connect it to the leader again
        operation = writer.begin("append", "x", f"{number}+;")
        c.wait_for(OPERATION_LIMIT, lambda done=operation: done.done)  # type: ignore[misc]
        c.sleep(0.1)
        stop()
        c.heal()
        c.wait_for(OPERATION_LIMIT, lambda: reader.operation is None and writer.operation is None)
        c.check_history()
    end_well(c)


def wait_for_vote(
    c: Cluster, candidate: int, voter: int, term: int, meanwhile: Callable[[], None] = lambda: None
) -> int:
    """Let a scripted candidate ask a real server for its vote every 5 ms, until the server votes for the candidate. The
    candidate's log is newer than any other log.

    Args:
        c: the cluster.
        candidate: the scripted server.
        voter: the real server, which must agree within twice the longest election timeout.
        term: the candidate's first term. If the voter is in a later one, the candidate goes on in a higher term.
        meanwhile: what to do after each refusal.

    Returns:
        The term in which the candidate got the vote.
    """
    deadline = c.now + 2 * LONGEST_TIMEOUT
    while c.now < deadline:
        rpc = c.scripted_server(candidate).send(
            voter,
            "request_vote",
            term=term,
            candidate_id=candidate,
            last_log_index=10_000,
            last_log_term=term - 1,
        )
        c.wait_for(0.005, lambda sent=rpc: sent.done)  # type: ignore[misc]
        if rpc.reply is not None and rpc.reply["vote_granted"]:
            return term
        if rpc.reply is not None and rpc.reply["term"] > term:
            term = rpc.reply["term"] + 10
        meanwhile()
    text = f"expected S{voter}, which hears no leader, to vote for a candidate within {2 * LONGEST_TIMEOUT:.0f} s"
    return c.fail(f"{text}, but it did not", rules.LIVENESS, [voter])


class Candidate:
    """S2, a scripted server beside the real leader S0 and the real voter S1. S2 stands for election as soon as S1 would vote
    for it. From that moment on, S0 must not answer by lease.

    S2 answers no AppendEntries, so a lease of S0 rests on S1 alone.
    """

    def __init__(self, c: Cluster) -> None:
        self.c = c
        self.client = Client(c)
        self._term = 1000
        answer = c.scripted_server(2).answer
        answer["request_vote"] = answer["pre_vote"] = _vote_for_s0
        answer["append_entries"] = lambda rpc: None
        self.let_s0_lead()
        self.session = Session(self.client, self.client.succeed(self.client.registration(), servers=[0]))
        self.client.succeed(self.session.request("put", "x", "1;"), servers=[0])

    def lease_at_s0(self) -> None:
        """Wait until S0 answers by lease."""
        expect_soon(self.c, self.client, 0, read_of("lease"), "1;", rules.LEASE)

    def isolate_s0(self) -> None:
        self.c.cut(0, 1)
        self.c.cut(1, 0)

    def raise_term(self) -> None:
        """Let S1 learn of the term in which S2 is going to stand, by a message that asks for no vote."""
        self._term = max(self._term, self.c.get_state(1)[0])
        rpc = self.c.scripted_server(2).send(1, "read_index_of", term=self._term + 10, server_id=2)
        self.c.wait_for(0.02, lambda: rpc.done)

    def stand(self, why: str, rule: Rule, reads: bool = False) -> None:
        """Ask S1 for its vote every 5 ms until it agrees, and require that S0 then refuses to answer by lease. ``why`` is a
        sentence. ``reads``: a client reads by lease at S0 meanwhile, about every 20 ms."""
        last = self.c.now

        def read() -> None:
            nonlocal last
            if self.c.now >= last + 0.02:
                last = self.c.now
                self.client.send(0, read_of("lease"))

        self._term = wait_for_vote(self.c, 2, 1, self._term + 10, read if reads else lambda: None)
        expect_refused(self.c, self.client, read_of("lease"), f"S1 has just voted for S2. {why}", rule)

    def let_s0_lead(self) -> None:
        _let_s0_lead(self.c)


def _let_s0_lead(c: Cluster) -> None:
    """Open every link, and make S0 lead: S1 is off the network until S0 has been elected with S2's vote."""
    c.heal()
    for _ in range(10):
        c.sleep(0.2)  # S0 learns of S1's term
        c.disconnect(1)
        c.wait_for(2 * ELECTION_LIMIT, lambda: c.get_state(0)[1])
        c.connect(1)
        c.sleep(0.5)
        (term, leads), (other, _) = c.get_state(0), c.get_state(1)
        if leads and term == other:
            return
    c.fail("expected S0 to be elected with S2's vote, but it does not lead", rules.LIVENESS, [0])


def _candidate(cluster: StartCluster, rates: Sequence[float]) -> Candidate:
    c = cluster(3, scripted=[2], scripted_clerks=1, start=False)
    _set_clocks(c, [*rates, 1.0])
    return Candidate(c)


@points(6, networks=SIM)
def test_lease_and_vote(cluster: StartCluster) -> None:
    """A lease that depends on one server must end before this server would vote for another candidate."""
    for_s0, for_s1 = 0.9, 1.1
    candidate = _candidate(cluster, (for_s0, for_s1))
    for number in range(4):
        candidate.lease_at_s0()
        candidate.c.sleep(0.03 * number)  # so that each cut comes at a different time after a heartbeat
        candidate.isolate_s0()
        why = f"S1's clock runs at {for_s1} and S0's at {for_s0}, so S1's is less than 1.25 times as fast"
        candidate.stand(why, rules.LEASE, reads=number % 2 == 1)
        candidate.let_s0_lead()


@points(5, networks=SIM)
def test_lease_and_slow_answers(cluster: StartCluster) -> None:
    """Answers take 150 ms to arrive: a lease begins when the messages are sent, not when their answers arrive."""
    candidate = _candidate(cluster, (0.95, 1.1))
    c = candidate.c
    c.network.set_link(1, 0, latency=(0.15, 0.16))
    c.note("messages from S1 to S0 take 150 ms")
    for number in range(3):
        candidate.lease_at_s0()
        c.sleep(0.03 * number)
        candidate.isolate_s0()
        candidate.stand("S0's last messages to S1 were sent long before their answers arrived", rules.LEASE)
        candidate.let_s0_lead()


@points(6, networks=SIM)
def test_lease_and_restart(cluster: StartCluster) -> None:
    """A lease depends on one server, which restarts: it must refuse to vote as long as the lease may last."""
    candidate = _candidate(cluster, (0.9, 1.1))
    c = candidate.c
    for _ in range(4):
        candidate.lease_at_s0()
        candidate.isolate_s0()
        c.crash(1)
        c.event_loop.boot(1, c.members)  # restart() would connect it to S0 again
        c.wait_for(1.0, lambda: c.server_state(1).ready)
        candidate.stand("S1 had restarted and forgotten that it heard S0", rules.SILENT_VOTERS)
        candidate.let_s0_lead()


@points(4, networks=SIM)
def test_lease_and_a_refusal(cluster: StartCluster) -> None:
    """A lease depends on a server that refuses entries because it lacks earlier ones: this server must not vote, either."""
    c = cluster(3, scripted=[2], scripted_clerks=1)
    c.crash(1)
    other = ScriptedFollower(c, 2)
    for method in ("request_vote", "pre_vote"):
        c.scripted_server(2).answer[method] = _vote_for_s0
    term, client, _ = leads_alone(c)
    expect_soon(c, client, 0, read_of("lease"), "1;", rules.LEASE)
    # Measure how long a lease that rests on S2 alone lasts. Below, the test waits until no lease can rest on S2.
    other.silent, since, lasts = True, c.now, 0.0
    while client.ask(0, read_of("lease"))["status"] == "ok" and c.now < since + LONGEST_TIMEOUT:
        lasts = c.now - since
        c.sleep(0.01)
    other.silent = False
    # S0 is elected again, so it supposes that S1 has what S0 has. But S1 has nothing.
    append(c, 2, term + 10, (len(other.log), other.log[-1]["term"]), [], len(other.log))
    wait_for_leadership(c)
    expect_soon(c, client, 0, read_of("lease"), "1;", rules.LEASE)
    everything = c.hold("append_entries", src=0, dst=1)
    c.restart(1)
    c.wait_for(1.0, lambda: c.server_state(1).ready)
    # S2 answers no more, so a lease rests on S1 alone. S1 refuses what S0 sends first, and does not get the entries from the
    # beginning of the log, which it would accept.
    other.silent, since = True, c.now
    c.sleep(max(0.15, lasts))
    acceptable = c.hold("append_entries", src=0, dst=1, when=lambda args: args["prev_log_index"] == 0)
    everything.drop()
    c.wait_for(0.3, lambda: bool(acceptable.messages and c.replies(1, "append_entries")))
    if all(reply["success"] for _, reply in c.replies(1, "append_entries")):
        return  # S0 has sent nothing that S1 refuses
    c.cut(0, 1)
    c.cut(1, 0)
    c.crash(1)
    c.event_loop.boot(1, c.members)  # restart() would connect it to S0 again
    c.wait_for(1.0, lambda: c.server_state(1).ready)
    # Heartbeats are 0.1 s apart, so a lease that rests on S2 may last 0.1 s longer than before.
    c.sleep(max(0.0, since + max(0.31, lasts + 0.13) - c.now))
    wait_for_vote(c, 2, 1, c.get_state(0)[0] + 10)
    why = "S1 has just voted for S2. S1 had refused entries of S0 and then restarted"
    expect_refused(c, client, read_of("lease"), why, rules.SILENT_VOTERS)


@points(5, networks=SIM)
def test_lease_and_a_risen_term(cluster: StartCluster) -> None:
    """A lease depends on one server, whose term rises: it must still refuse its vote to a candidate of that term."""
    candidate = _candidate(cluster, (1.0, 1.0))
    for _ in range(3):
        candidate.lease_at_s0()
        candidate.isolate_s0()
        candidate.raise_term()
        candidate.stand("S1 had learned S2's term from an earlier message", rules.SILENT_VOTERS)
        candidate.let_s0_lead()


@points(4, networks=SIM)
def test_lease_needs_the_new_members(cluster: StartCluster) -> None:
    """While members change by joint consensus, a lease also needs a majority of the new members (if Raft has lab 2E)."""
    _lease_during_a_change(cluster, voter=3, candidate=4, others=(1, 2))


@points(4, networks=SIM)
def test_lease_needs_the_old_members(cluster: StartCluster) -> None:
    """While members change by joint consensus, a lease also needs a majority of the old members (if Raft has lab 2E)."""
    _lease_during_a_change(cluster, voter=1, candidate=2, others=(3, 4))


def _lease_during_a_change(cluster: StartCluster, voter: int, candidate: int, others: tuple[int, int]) -> None:
    """S0 leads, and begins a change of the members from S0, S1, S2 to S0, S3, S4. The change is never committed. The
    ``others`` answer S0, so only the real ``voter`` can end S0's lease, by its vote for the ``candidate``."""
    scripted = sorted([candidate, *others])
    c = cluster(5, scripted=scripted, members=[0, 1, 2], scripted_clerks=1, features={"membership"})
    if not c.raft_has("change_membership"):
        return
    followers = {number: ScriptedFollower(c, number) for number in scripted}
    for number in scripted:
        c.scripted_server(number).answer["request_vote"] = _vote_for_s0
        c.scripted_server(number).answer["pre_vote"] = _vote_for_s0
    for number in others:
        c.scripted_server(number).answer["append_entries"] = _without_changes(followers[number], [0, 1, 2])
    for number in others:
        # S0 immediately resends whatever was refused. Slower answers mean fewer messages.
        c.network.set_link(number, 0, latency=(0.02, 0.03))
    c.disconnect(voter)
    wait_for_leadership(c)
    c.connect(voter)
    c.sleep(0.5)
    _, client, _ = leads_alone(c)
    expect_soon(c, client, 0, read_of("lease"), "1;", rules.LEASE)
    answer = MembershipCall(c, 0, [0, 3, 4]).answer()
    if answer is None or answer[0] < 1:
        return  # this Raft changes one member at a time
    c.sleep(0.5)
    followers[candidate].silent = True
    c.sleep(0.5)
    c.cut(0, voter)
    c.cut(voter, 0)
    wait_for_vote(c, candidate, voter, 1000)
    why = f"S{voter} has just voted for S{candidate}. Both configurations, S0, S1, S2 and S0, S3, S4, are in force"
    expect_refused(c, client, read_of("lease"), why, rules.LEASE)


def _vote_for_s0(rpc: Rpc) -> Message:
    """An answer to requests for votes and pre-votes: a yes for S0, a no for anybody else. A server that gives a pre-vote is
    not yet in the term that it was asked about, and some Rafts would adopt the higher term from a yes."""
    term = rpc.args["term"] - 1 if rpc.method == "pre_vote" else rpc.args["term"]
    return {"term": term, "vote_granted": rpc.src == 0}


def _without_changes(follower: ScriptedFollower, members: list[int]) -> Callable[[Rpc], Message | None]:
    """Answers to AppendEntries that refuse every message with a configuration other than ``members``. Even a refusal
    confirms that S0 leads."""

    def answer(rpc: Rpc) -> Message | None:
        entries = rpc.args["entries"]
        if any(entry.get("kind") == "configuration" and sorted(entry["members"]) != members for entry in entries):
            return {"term": rpc.args["term"], "success": False}
        return follower.append(rpc)

    return answer


@points(4)
def test_lease_after_a_transfer(cluster: StartCluster) -> None:
    """A leader gives up its lease when it tells another server to stand for election (if Raft has lab 2G)."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    clerk, client = c.clerks[0], Client(c)
    if not c.raft_has("transfer_leadership"):
        return
    for number in range(4):
        c.heal()
        clerk.put("x", f"{number};")
        leader = c.settled_leader()
        target, other = (leader + 1) % 3, (leader + 2) % 3
        expect_soon(c, client, leader, read_of("lease"), f"{number};", rules.LEASE)
        asked = c.rpc_count(leader, "timeout_now")
        _only(c, clerk, [target, other])
        slow = c.hold("timeout_now", src=leader) if number % 2 else None
        begun = c.transfer(leader, target)[0] == target
        if slow is not None:
            # TimeoutNow takes so long that the leader gives the transfer up. Clients read by lease meanwhile.
            for _ in range(12):
                client.ask(leader, read_of("lease"))
                c.sleep(0.1)
        # The old leader does not learn that another one is elected: all requests and answers to it are held.
        held = [c.hold(src=src, dst=leader) for src in (target, other)]
        held += [c.hold(src=leader, dst=dst, leg="reply") for dst in (target, other)]
        if slow is not None:
            slow.release()
        if begun:
            c.wait_for(1.0, lambda before=asked, by=leader: c.rpc_count(by, "timeout_now") > before)  # type: ignore[misc]
            elected = c.wait_for(1.0, lambda new=target: c.get_state(new)[1])  # type: ignore[misc]
            if elected:
                why = f"S{leader} has told S{target} to stand for election, and S{target} leads now"
                expect_refused(c, client, read_of("lease"), why, rules.LEASE, leader)
        for hold in held:
            hold.release()
        c.sleep(0.3)
    c.heal()
    end_well(c)


@points(5, networks=SIM)
def test_lease_of_a_paused_leader(cluster: StartCluster) -> None:
    """A leader's threads pause until its lease has ended: it must not answer by that lease afterwards."""
    c = cluster(3, clerks=3)
    reader, writer, _ = c.clerks
    for number in range(4):
        leader = c.settled_leader()
        writer.put("x", f"{number};")
        reader.get("x", read="lease")
        _only(c, reader, [leader])
        stop = _keep_reading(c, reader, "lease")
        c.sleep(0.05)
        c.pause(leader)
        others = [server for server in range(3) if server != leader]
        _only(c, writer, others)
        writer.put("x", f"{number}+;")
        c.resume(leader)
        c.sleep(0.3)
        stop()
        c.heal()
        c.wait_for(OPERATION_LIMIT, lambda: reader.operation is None)
        c.check_history()
    end_well(c)


@points(5, networks=SIM)
def test_lease_counts_from_the_sending(cluster: StartCluster) -> None:
    """Answers arrive seconds late: they must not begin a lease, because it counts from when messages were sent."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    for _ in range(2):
        expect_soon(c, client, 0, read_of("lease"), "1;", rules.LEASE)
        held = [c.hold("append_entries", src=0, dst=number, leg="reply") for number in (1, 2)]
        c.sleep(0.35)
        for follower in followers:
            follower.silent = True
        c.sleep(LONGEST_TIMEOUT)
        for hold in held:
            hold.deliver(c.now)
        c.sleep(0.01)
        why = f"No message that S0 sent in the last {LONGEST_TIMEOUT:.0f} s has been answered"
        expect_refused(c, client, read_of("lease"), why, rules.LEASE)
        for follower in followers:
            follower.silent = False
        wait_for_leadership(c)


@points(4)
def test_no_lease_without_answers(cluster: StartCluster) -> None:
    """Clients reach the leader, but no server answers it: it must soon refuse reads by lease."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    expect_soon(c, client, 0, read_of("lease"), "1;", rules.LEASE)
    for follower in followers:
        follower.silent = True
    c.sleep(LONGEST_TIMEOUT)
    why = f"No server has answered S0 for {LONGEST_TIMEOUT:.0f} s"
    expect_refused(c, client, read_of("lease"), why, rules.LEASE)


@points(3)
def test_follower_holds_no_lease(cluster: StartCluster) -> None:
    """A follower refuses reads by lease or answers with the current value."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    clerk, client = c.clerks[0], Client(c)
    for number in range(3):
        clerk.put("x", f"{number};")
        leader = c.settled_leader()
        for server in range(3):
            if server == leader:
                continue
            reply = client.ask(server, read_of("lease"))
            text = f"expected S{server} to refuse a read by lease or answer it with '{number};', but {_answer(reply)}"
            c.expect(_is_current_or_refused(reply, f"{number};"), text, rules.LEASE, [server])
    end_well(c)


@points(0, networks=SIM)
def test_clocks_beyond_the_bound(cluster: StartCluster) -> None:
    """Clocks differ by more than the bound: the test shows a stale read, which costs no points."""
    c = cluster(3, clerks=3, start=False)
    _set_clocks(c, [0.6, 1.3, 1.3])
    _lead(c, 0)
    _read_at_old_leaders(c, 2, wanted=0, judged=False)
    stale = c.stale_reads()
    if stale:
        c.note(f"a stale read, because leases promise nothing if clocks run at 0.6 and 1.3: {stale}")
        c.event_loop.advice.setdefault(
            "a read by lease was stale. This is no mistake, because the clocks ran at 0.6 and 1.3 and so differed by more "
            "than MAX_DRIFT. The last note of raftlab replay clocks_beyond_the_bound@0 shows this read"
        )


# --- part 2: leases at followers -----------------------------------------------------------------------------
# In a Raft that has only part 1, followers refuse reads by lease, and the failure says so.

# Seconds. A lease at a follower lasts at most this long (handouts/lab-3b-details.md).
LONGEST_LEASE = 1.0
# The maximum number of messages per second with which the servers of a quiet cluster renew leases.
_RENEWALS = 20


def hold_lease(c: Cluster, client: Client, holder: int, value: str) -> None:
    """Read by lease at a server that does not lead, until its Raft holds a lease. Its answers must be ``value``."""
    deadline, status, index = c.now + OPERATION_LIMIT, "nothing", -1
    while c.now < deadline:
        reply = client.ask(holder, read_of("lease"))
        status = reply["status"]
        if status == "ok":
            _expect_current(c, holder, reply, value, f"The put of {value!r} had returned before the read")
            # A service may also answer such a read by index, as long as it holds no lease.
            index = c.event_loop.call(holder, "lease_index", [], CALL_PATIENCE)
            if type(index) is int and index >= 0:
                return
        c.sleep(0.02)
    text = f"expected S{holder}, a follower, to hold a lease after {OPERATION_LIMIT:.0f} s of reads by lease"
    seen = f"lease_index() returns {short(index)}" if status == "ok" else f"it answered the last read with {status}"
    text = f"{text}, but {seen}. Part 2 needs leases at followers"
    c.fail(text, rules.HOLDERS, [holder], hint="Part 1 needs leases only at the leader. Continue with part 2.")


def _expect_current(c: Cluster, holder: int, reply: Message, value: str, why: str) -> None:
    """Require that a server refuses a read by lease, or answers it with ``value``. ``why`` is a sentence."""
    text = f"expected S{holder} to refuse a read by lease or answer it with {value!r}, but {_answer(reply)}. {why}"
    c.expect(_is_current_or_refused(reply, value), text, rules.HOLDERS, [holder])


def _write_and_read(
    c: Cluster, client: Client, holder: int, value: str, why: str, no_lease: str = "The lease of S{} has ended by now"
) -> float:
    """Let C0 put ``value`` into ``x``, and read by lease at ``holder`` every 10 ms meanwhile and for a while after.
    Reads that began after the put had returned must show no other value. Returns the seconds that the put took.
    ``no_lease`` says why no lease can delay the put for ever; ``{}`` stands for the holder's number.
    """
    writer, reads, begun = c.clerks[0], [], c.now
    operation = writer.begin("put", "x", value)
    while c.now < begun + OPERATION_LIMIT and not (operation.returned is not None and c.now > operation.returned + 0.5):
        reads.append((c.now, client.send(holder, read_of("lease"))))
        c.sleep(0.01)
    if operation.returned is None:
        text = f"expected {operation.describe()} to return within {OPERATION_LIMIT:.0f} s, but it has not"
        c.fail(f"{text}. {no_lease.format(holder)}", rules.HOLDERS)
    _check_reads(c, holder, reads, operation.returned, value, why)
    return operation.returned - begun


def _check_reads(
    c: Cluster, holder: int, reads: Sequence[tuple[float, Rpc]], written: float, value: str, why: str
) -> None:
    """Require that no read by lease that began after ``written`` (seconds) shows anything but ``value``. ``reads``: each
    read, and when it was sent."""
    c.wait_for(ANSWERED, lambda: all(rpc.done for _, rpc in reads))
    for sent, rpc in reads:
        if sent >= written and rpc.reply is not None:
            _expect_current(c, holder, rpc.reply, value, f"The put of {value!r} had returned before the read. {why}")


def _isolate(c: Cluster, server: int) -> None:
    """Cut a server off from the other servers. Clients still reach it."""
    for other in range(c.size):
        if other != server:
            c.cut(server, other)
            c.cut(other, server)


def _followers(c: Cluster) -> tuple[int, list[int]]:
    """The leader, and the other servers."""
    leader = c.settled_leader()
    return leader, [server for server in range(c.size) if server != leader]


@points(5)
def test_part2_reads_at_followers(cluster: StartCluster) -> None:
    """Part 2: followers answer reads by lease, always with the value written last."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    for number in range(3):
        session.do("put", "x", f"{number};")
        _, followers = _followers(c)
        for holder in followers:
            hold_lease(c, client, holder, f"{number};")
        for step in range(8):
            session.do("put", "x", f"{number}.{step};")
            for holder in followers:
                reply = client.ask(holder, read_of("lease"))
                why = f"The put of '{number}.{step};' had returned before the read"
                _expect_current(c, holder, reply, f"{number}.{step};", why)


@points(5, networks=SIM)
def test_part2_reads_cost_no_message(cluster: StartCluster) -> None:
    """Part 2: in a quiet cluster, 200 reads by lease at a follower cost no messages except lease renewals."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client = Client(c)
    c.clerks[0].put("x", "1;")
    _, followers = _followers(c)
    idle, holder = _rpcs_in(c, 2.0), followers[0]
    hold_lease(c, client, holder, "1;")
    before, since, last, answered = _server_rpcs(c), c.now, _last_index(c), 0
    for _ in range(200):
        answered += client.ask(holder, read_of("lease"))["status"] == "ok"
    most = (1.2 * idle / 2.0 + _RENEWALS) * (c.now - since) + 5
    spent = _server_rpcs(c) - before
    text = "expected reads by lease to add nothing to the log, but the log has grown"
    c.expect(_last_index(c) == last, text, rules.READ_COST)
    text = (
        f"expected at most {most:.0f} messages between servers during 200 reads by lease at S{holder}, but there were "
        f"{spent}. Reads by lease must add nothing to what an idle leader sends, except lease renewals"
    )
    c.expect(spent <= most, text, rules.READ_COST)
    text = (
        f"expected S{holder} to answer most of 200 reads by lease in a quiet cluster, but it refused {200 - answered}"
    )
    c.expect(answered >= 100, text, rules.HOLDERS, [holder])


@points(4, networks=SIM)
def test_part2_leader_is_spared(cluster: StartCluster) -> None:
    """Part 2: three followers hold leases; fewer than half of the reads by lease go to the leader."""
    c = cluster(4, clerks=1, scripted_clerks=3)
    clients = [Client(c, number) for number in range(3)]
    c.clerks[0].put("x", "1;")
    leader, followers = _followers(c)
    for client, holder in zip(clients, followers, strict=True):
        hold_lease(c, client, holder, "1;")
    asked, refused = 0, 0
    for _ in range(150):
        sent = [
            (client, client.send(holder, read_of("lease"))) for client, holder in zip(clients, followers, strict=True)
        ]
        for client, rpc in sent:
            asked += 1
            if client.answer(rpc)["status"] != "ok":
                # The client goes to the leader instead.
                refused += 1
                client.ask(leader, read_of("lease"))
        c.sleep(0.01)
    text = (
        f"expected the three followers to refuse fewer than half of {asked} reads by lease, but they refused {refused}"
    )
    text = f"{text}. Each refused read goes to the leader S{leader}"
    c.expect(refused * 2 < asked, text, rules.HOLDERS)


@points(6)
def test_part2_holder_is_cut_off(cluster: StartCluster) -> None:
    """Part 2: a lease holder is cut off; writes resume when its lease has ended, and no later read is stale."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    _cut_holders_off(c, 3)
    end_well(c)


@points(6, networks=SIM)
def test_part2_clocks(cluster: StartCluster) -> None:
    """Part 2: a lease holder with a slow clock, within the bound, is cut off; its lease ends before writes resume."""
    c = cluster(3, clerks=1, scripted_clerks=1, start=False)
    _set_clocks(c, [1.11, 0.9, 0.9])
    _cut_holders_off(c, 3, wanted=0)
    end_well(c)


def _cut_holders_off(c: Cluster, rounds: int, wanted: int | None = None) -> None:
    """Cut one holder after another off from the servers, while C0 writes. If ``wanted`` is given, that server must lead."""
    client, writer = Client(c), c.clerks[0]
    for number in range(rounds):
        if wanted is not None:
            _lead(c, wanted)
        writer.put("x", f"{number};")
        leader, followers = _followers(c)
        if wanted is not None and leader != wanted:
            continue
        holder = followers[number % 2]
        hold_lease(c, client, holder, f"{number};")
        for _ in range(5 + 3 * number):  # so that each cut comes at a different time after a renewal
            client.ask(holder, read_of("lease"))
            c.sleep(0.01)
        _isolate(c, holder)
        took = _write_and_read(c, client, holder, f"{number}+;", f"S{holder} was cut off")
        limit = LONGEST_LEASE + (0.5 if c.virtual else 3.0)
        text = f"expected a put to return within {limit} s after a lease holder was cut off, but it took {took:.1f} s"
        c.expect(took <= limit, f"{text}. A lease lasts at most {LONGEST_LEASE} s", rules.HOLDERS, [leader])
        c.heal()
        c.sleep(0.5)


@points(6)
def test_part2_new_leader(cluster: StartCluster) -> None:
    """Part 2: a new leader cannot reach a lease holder; it commits nothing while the holder's lease may last."""
    c = cluster(5, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    for number in range(2):
        writer.put("x", f"{number};")
        leader, followers = _followers(c)
        holder, *others = followers
        hold_lease(c, client, holder, f"{number};")
        _only(c, writer, others)
        if number % 2:
            _isolate(c, holder)
            c.crash(leader)
            why = f"S{holder} was cut off, and its leader had crashed"
        else:
            # The old leader and the holder still reach each other.
            c.partition([leader, holder], others)
            why = f"S{holder} could reach only S{leader}, the old leader"
            _only(c, writer, others)
        _write_and_read(c, client, holder, f"{number}+;", why)
        c.heal()
        c.start_all()
        c.sleep(0.5)
    end_well(c)


@points(5)
def test_part2_transfer(cluster: StartCluster) -> None:
    """Part 2: a leader hands over while a lease holder is cut off; the new leader waits until the lease has ended (if Raft
    has lab 2G)."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    for number in range(3):
        writer.put("x", f"{number};")
        leader, followers = _followers(c)
        holder, target = followers[number % 2], followers[1 - number % 2]
        # Each round begins in a new term, because a leader that has tried to hand over may refuse leases for the rest of
        # its term.
        hold_lease(c, client, holder, f"{number};")
        if not c.raft_has("transfer_leadership"):
            return
        _isolate(c, holder)
        c.transfer(leader, target)
        _write_and_read(c, client, holder, f"{number}+;", f"S{holder} was cut off before S{target} became the leader")
        c.heal()
        c.sleep(0.5)
        if not c.get_state(target)[1]:
            c.restart(c.settled_leader())  # a new term
    end_well(c)


@points(4)
def test_part2_holder_is_removed(cluster: StartCluster) -> None:
    """Part 2: a lease holder is cut off and removed; nothing is committed without it until its lease has ended (if Raft
    has lab 2E)."""
    c = cluster(3, clerks=1, scripted_clerks=1, features={"membership"})
    client, writer = Client(c), c.clerks[0]
    writer.put("x", "1;")
    leader, followers = _followers(c)
    holder = followers[0]
    hold_lease(c, client, holder, "1;")
    if not c.raft_has("change_membership"):
        return
    _isolate(c, holder)
    MembershipCall(c, leader, without(range(3), holder)).answer()
    _write_and_read(c, client, holder, "2;", f"S{holder} was cut off and then removed")


@points(4, networks=SIM)
def test_part2_removed_server_asks(cluster: StartCluster) -> None:
    """Part 2: a removed server still gets reads by lease; writes go on, and no read is stale (if Raft has lab 2E)."""
    c = cluster(3, clerks=1, scripted_clerks=1, features={"membership"})
    client, writer = Client(c), c.clerks[0]
    writer.put("x", "1;")
    leader, followers = _followers(c)
    removed = followers[0]
    hold_lease(c, client, removed, "1;")
    if not c.raft_has("change_membership"):
        return
    MembershipCall(c, leader, without(range(3), removed)).answer()
    # These reads go on for longer than the lease that this server got as a member lasts. So the server must ask for another
    # lease.
    for _ in range(round(2 * LONGEST_LEASE / 0.01)):
        client.send(removed, read_of("lease"))
        c.sleep(0.01)
    why = f"S{removed} had been removed from the cluster"
    _write_and_read(c, client, removed, "2;", why, no_lease="S{} was removed, so it gets no more entries")


@points(5)
def test_part2_holder_restarts(cluster: StartCluster) -> None:
    """Part 2: a lease holder restarts; it has no lease until it gets a new one, and no read is stale."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    for number in range(4):
        writer.put("x", f"{number};")
        _, followers = _followers(c)
        holder = followers[number % 2]
        hold_lease(c, client, holder, f"{number};")
        if number % 2:
            c.restart(holder)
            hold_lease(c, client, holder, f"{number};")
            continue
        c.crash(holder)
        _isolate(c, holder)
        c.event_loop.boot(holder, c.members)  # restart() would connect it again
        c.wait_for(5.0, lambda server=holder: c.server_state(server).ready)  # type: ignore[misc]
        status = client.ask(holder, read_of("lease"))["status"]
        text = (
            f"expected S{holder} to refuse a read by lease, but the status is {status}. It has restarted since it got"
        )
        c.expect(status in REFUSALS, f"{text} its lease", rules.HOLDERS, [holder])
        _write_and_read(c, client, holder, f"{number}+;", f"S{holder} had restarted and was cut off")
        c.heal()
        c.sleep(0.5)
    end_well(c)


@points(5, networks=SIM)
def test_part2_leader_restarts(cluster: StartCluster) -> None:
    """Part 2: a leader grants a lease, restarts or steps down, and is then asked to vote; the lease still counts."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    for number in range(2):
        session.do("put", "x", f"{number};")
        leader, (holder, other) = _followers(c)
        hold_lease(c, client, holder, f"{number};")
        # The other server hears nothing from the leader. Its requests arrive only after the leader has restarted or stepped
        # down. (Without PreVote, the leader steps down when it learns the other server's term, which is higher by now.)
        c.cut(leader, other)
        asked = [c.hold(method, src=other, dst=leader) for method in ("pre_vote", "request_vote")]
        for _ in range(round(2 * LONGEST_TIMEOUT / 0.02)):
            client.ask(holder, read_of("lease"))
            c.sleep(0.02)
            if any(hold.messages for hold in asked):
                break
        _isolate(c, holder)
        c.mend(leader, other)
        if number % 2:
            c.wait_for(0.15, lambda old=leader: not c.get_state(old)[1])  # type: ignore[misc]
        else:
            c.crash(leader)
            c.event_loop.boot(leader, c.members)  # restart() would connect it to the holder again
            c.wait_for(5.0, lambda server=leader: c.server_state(server).ready)  # type: ignore[misc]
        for hold in asked:
            hold.deliver(c.now)
        put, reads, written, until = session.request("put", "x", f"{number}+;"), [], None, c.now + OPERATION_LIMIT
        write = client.send(other, put)
        while c.now < until:
            if write.done and written is None:
                if write.reply is not None and write.reply["status"] == "ok":
                    written, until = c.now, c.now + 0.5
                else:
                    write = client.send(other if write.dst == leader else leader, put)
            reads.append((c.now, client.send(holder, read_of("lease"))))
            c.sleep(0.01)
        if written is None:
            text = (
                f"expected S{leader} or S{other} to carry out a put within {OPERATION_LIMIT:.0f} s, but they have not"
            )
            c.fail(f"{text}. The lease of S{holder} has ended by now", rules.HOLDERS)
        what = "stepped down" if number % 2 else "restarted"
        why = f"S{leader} had granted the lease. S{holder} was cut off, and then S{leader} {what}"
        _check_reads(c, holder, reads, written, f"{number}+;", why)
        c.heal()
        c.sleep(0.5)


@points(5)
def test_part2_two_holders(cluster: StartCluster) -> None:
    """Part 2: a lease holder does not know that its last entry is committed; its reads must include this entry."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    for number in range(4):
        writer.put("x", f"{number};")
        _, followers = _followers(c)
        for holder in followers:
            hold_lease(c, client, holder, f"{number};")
        behind = followers[number % 2]
        last = _last_index(c)
        # S{behind} gets the next entry, but not the news that it is committed.
        news = c.hold("append_entries", dst=behind, when=lambda args, upto=last: args["leader_commit"] > upto)  # type: ignore[misc]
        operation = writer.begin("put", "x", f"{number}+;")
        for _ in range(40):
            if operation.done:
                break
            c.sleep(0.01)
        if operation.done:
            rpc = client.send(behind, read_of("lease"))
            c.sleep(0.05)
            news.release()
            why = f"The put had returned, and S{behind} did not know that its entry was committed"
            _expect_current(c, behind, client.answer(rpc), f"{number}+;", why)
        news.release()
        writer.finish(operation)
    end_well(c)


@points(5, networks=SIM, schedule="release")
def test_part2_behind(cluster: StartCluster) -> None:
    """Part 2: a follower asks for a lease while it lacks an entry, committed or not; no read is stale."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    for number in range(4):
        writer.put("x", f"{number};")
        leader, followers = _followers(c)
        behind, other = followers[number // 2], followers[1 - number // 2]
        hold_lease(c, client, behind, f"{number};")
        c.sleep(LONGEST_LEASE + 0.2)  # no lease is in force any more
        late = c.hold("append_entries", dst=behind, when=lambda args: bool(args["entries"]))
        # In every second round, the entry is in the leader's log, but not committed, until S{behind} may have a lease.
        slow = c.hold("append_entries", src=leader, dst=other, leg="reply") if number % 2 else None
        # In the last round, S{leader} commits the entry at the moment when S{behind} asks for a lease.
        asked = c.hold(src=behind, dst=leader) if number == 3 else None
        operation = writer.begin("put", "x", f"{number}+;")
        if slow is None:
            c.wait_for(0.2, lambda done=operation: done.done)  # type: ignore[misc]
        reads: list[tuple[float, Rpc]] = []
        for step in range(60):
            answered = any(rpc.done and rpc.reply is not None and rpc.reply["status"] == "ok" for _, rpc in reads)
            if slow is not None and asked is not None and slow.messages and asked.messages:
                with c.at_once(leader, slow, asked):
                    slow, asked = None, None
            if slow is not None and (answered or step == 45):
                slow.release()
                slow = None
            reads.append((c.now, client.send(behind, read_of("lease"))))
            c.sleep(0.005)
        for hold in (late, *([asked] if asked is not None else [])):
            hold.release()
        writer.finish(operation)
        assert operation.returned is not None
        when = "before" if number % 2 else "after"
        why = f"S{behind} lacked its entry, and asked for a lease {when} the entry was committed"
        _check_reads(c, behind, reads, operation.returned, f"{number}+;", why)
    end_well(c)


@points(4, networks=SIM)
def test_part2_stalled_holder(cluster: StartCluster) -> None:
    """Part 2: a lease holder asks in time but stores no more entries; it must lose its lease, so that writes go on."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    writer.put("x", "1;")
    _, followers = _followers(c)
    holder = followers[0]
    hold_lease(c, client, holder, "1;")
    entries_to_it = c.hold("append_entries", dst=holder, when=lambda args: bool(args["entries"]))
    why = f"S{holder} had stored no more entries"
    _write_and_read(c, client, holder, "2;", why, no_lease="S{} stores no more entries, so it must lose its lease")
    entries_to_it.drop()
    end_well(c)


@points(4, networks=SIM, schedule="none")
def test_part2_commit_needs_no_message(cluster: StartCluster) -> None:
    """Part 2: when the lease of a holder that is cut off has ended, the leader commits without waiting for a message."""
    c = cluster(3, scripted=[2], scripted_clerks=1)
    follower = ScriptedFollower(c, 2)
    c.scripted_server(2).answer["request_vote"] = c.scripted_server(2).answer["pre_vote"] = _vote_for_s0
    _let_s0_lead(c)
    client = Client(c)
    session = Session(client, client.succeed(client.registration(), servers=[0]))
    for number in range(2):
        client.succeed(session.request("put", "x", f"{number};"), servers=[0])
        hold_lease(c, client, 1, f"{number};")
        for _ in range(40 * number):  # in the second round, S1 renews its lease before it is cut off
            client.ask(1, read_of("lease"))
            c.sleep(0.01)
        stored = len(follower.log)
        # S1 sends nothing more, and gets the answers that are on their way. After that, S1 has heard of every lease that S0
        # has granted it.
        for other in (0, 2):
            c.cut(1, other)
        c.sleep(0.01)
        _isolate(c, 1)
        put = client.send(0, session.request("put", "x", f"{number}+;"))
        c.wait_for(0.2, lambda before=stored: len(follower.log) > before)  # type: ignore[misc]
        c.sleep(0.02)  # S2's answer arrives
        follower.silent = True
        read_at, reads, begun = c.now, [client.send(1, read_of("lease"))], c.now
        while c.now < read_at + _NO_MESSAGE and c.now < begun + 2 * LONGEST_LEASE and not put.done:
            c.sleep(0.01)
            if reads[-1].done and reads[-1].reply is not None and reads[-1].reply["status"] == "ok":
                read_at = c.now
            reads.append(client.send(1, read_of("lease")))
        text = (
            f"expected S0 to carry out a put within {_NO_MESSAGE} s after the last read by lease at S1, a lease holder"
        )
        text = (
            f"{text} that was cut off, but it has not. S2 has stored the put, so S0 must not wait for another message"
        )
        c.expect(put.done or len(follower.log) == stored or not c.get_state(0)[1], text, rules.HOLDERS, [0])
        client.answer(put)
        follower.silent = False
        _let_s0_lead(c)


# Seconds. By the leader's clock, a lease may last a quarter longer (MAX_DRIFT) than by the holder's: for example, 1 s
# (LONGEST_LEASE) instead of 0.8 s. So the leader waits at most 0.2 s longer than the holder answers.
_NO_MESSAGE = 0.4


@points(5)
def test_part2_late_answers(cluster: StartCluster) -> None:
    """Part 2: when the answer that grants a lease arrives late, the lease is already over."""
    c = cluster(3, clerks=1, scripted_clerks=1)
    client, writer = Client(c), c.clerks[0]
    for number in range(3):
        writer.put("x", f"{number};")
        leader, followers = _followers(c)
        holder = followers[number % 2]
        hold_lease(c, client, holder, f"{number};")
        c.sleep(LONGEST_LEASE + 0.5)
        # The leader's answers to this server are held back until any lease that they grant has ended.
        answers = c.hold(src=holder, dst=leader, leg="reply")
        for _ in range(30):
            client.send(holder, read_of("lease"))
            c.sleep(0.01)
        c.sleep(LONGEST_LEASE)
        news = [c.hold(dst=holder, src=server) for server in range(c.size) if server != holder]
        own = [c.hold(src=holder, dst=server) for server in range(c.size) if server != holder]
        operation = writer.begin("put", "x", f"{number}+;")
        c.wait_for(0.2, lambda done=operation: done.done)  # type: ignore[misc]
        if operation.done:
            answers.deliver(c.now)
            c.sleep(0.02)
            why = f"The put had returned before S{holder} received the answer that grants it a lease"
            _expect_current(c, holder, client.ask(holder, read_of("lease")), f"{number}+;", why)
        for hold in (answers, *news, *own):
            hold.release()
        writer.finish(operation)
        c.sleep(0.5)
    end_well(c)


@points(5)
def test_part2_history(cluster: StartCluster) -> None:
    """Part 2: one clerk reads by lease at each server and two write, while servers are cut off or crash and restart."""
    c = cluster(3, clerks=5, scripted_clerks=1, max_state=3000)
    client, readers, writers = Client(c), c.clerks[:3], c.clerks[3:]
    writers[0].append("x", "begin;")
    _, followers = _followers(c)
    hold_lease(c, client, followers[0], "begin;")
    load = Load(c, clerks=writers, keys=("x",), mix=("append",), most=30)
    for server, reader in enumerate(readers):
        _only(c, reader, [server])
    stops = [_keep_reading(c, reader, "lease", every=0.05) for reader in readers]
    for number in range(4):
        c.sleep(0.7)
        server = c.random.randrange(3)
        if number % 3 == 2:
            c.restart(server)
            continue
        _isolate(c, server)
        c.sleep(0.7)
        for other in range(3):
            c.mend(server, other)
            c.mend(other, server)
    for stop in stops:
        stop()
    c.heal()
    load.finish()
    c.wait_for(OPERATION_LIMIT, lambda: all(reader.operation is None for reader in readers))
    end_well(c)


# --- session and snapshot ------------------------------------------------------------------------------------


@points(5)
def test_session_without_a_leader(cluster: StartCluster) -> None:
    """Any server answers session reads and snapshot reads, even while there is no leader."""
    c = cluster(5, clerks=1, scripted_clerks=1)
    clerk, client = c.clerks[0], Client(c)
    clerk.put("x", "1;")
    seen = expect_soon(c, client, c.settled_leader(), read_of("index"), "1;", rules.READ_INDEX)["index"]
    c.sleep(1.0)  # the others learn that it is committed
    c.partition(*[[server] for server in range(5)])
    c.sleep(2.0)
    for server in range(5):
        for kind in ("session", "snapshot"):
            expect_soon(
                c, client, server, read_of(kind, seen=seen), "1;", rules.SESSION_READS, " while there is no leader"
            )
    value = clerk.get("x", read="session")
    c.expect(value == "1;", f"expected the clerk to read '1;' while there is no leader, but it read {value!r}")
    c.heal()
    end_well(c)


@points(5)
def test_session_waits(cluster: StartCluster) -> None:
    """A server that is behind answers a session read only after it has applied all that the client has seen."""
    c = cluster(3, scripted_clerks=1)
    client = Client(c)
    session = client.register()
    for number in range(3):
        leader = c.settled_leader()
        behind = (leader + 1 + number % 2) % 3
        c.partition([leader, 3 - leader - behind], [behind])
        session.do("put", "x", f"{number};")
        seen = expect_soon(c, client, leader, read_of("index"), f"{number};", rules.READ_INDEX)["index"]
        fields = read_of("session", seen=seen)
        why = f"S{behind} has not applied index {seen}"
        expect_refused(c, client, fields, why, rules.SESSION_READS, behind)
        c.heal()
        reply = expect_soon(c, client, behind, fields, f"{number};", rules.SESSION_READS)
        text = f"expected the reply to name index {seen} or a later one, but it names {reply['index']}"
        c.expect(reply["index"] >= seen, text, rules.SESSION_READS, [behind])


@points(5)
def test_session_at_changing_servers(cluster: StartCluster) -> None:
    """A clerk that moves from server to server sees its own writes and never goes back in time."""
    c = cluster(3, clerks=2, max_state=3000)
    load = Load(c, clerks=[c.clerks[1]], keys=("x",), mix=("append",), most=40)
    clerk = c.clerks[0]
    for number in range(6):
        leader = c.one_leader()
        behind = (leader + 1 + number % 2) % 3
        c.cut(leader, behind)
        clerk.append("x", f"own{number};")
        _only(c, clerk, [behind])
        operation = clerk.begin("get", "x", read="session")
        c.sleep(0.1)
        _only(c, clerk, [leader, behind])
        clerk.finish(operation)
        value = operation.result
        text = f"expected {clerk.name} to see its own append of 'own{number};', but it read {value!r}"
        c.expect(f"own{number};" in (value or ""), text, rules.SESSION_READS)
        clerk.get("x", read="snapshot")
        c.heal()
    c.heal()
    load.finish()
    end_well(c)


@points(4)
def test_session_after_every_reply(cluster: StartCluster) -> None:
    """A session read shows no older state than the clerk's last read or write, even if the write was sent twice."""
    c = cluster(3, clerks=2, max_state=3000)
    reader, writer = c.clerks
    for number, before in enumerate(("log", "index", "lease", "retry", "snapshot")):
        leader = c.settled_leader()
        behind, other = (leader + 1) % 3, (leader + 2) % 3
        c.partition([leader, other], [behind])
        if before in ("log", "index", "lease"):
            writer.append("x", f"{number};")
            _only(c, reader, [leader, other])
            reader.get("x", read=before)
        else:
            _append_twice(c, reader, leader, f"{number};")
        # Only the server that is behind can be reached: a correct clerk waits until that server has caught up.
        _only(c, reader, [behind])
        if before == "snapshot":
            # The snapshot may be of any age. But what the clerk saw before still counts for the next read.
            _begin_and_heal(c, reader, "snapshot")
            _only(c, reader, [behind])
        value = _begin_and_heal(c, reader, "session").result or ""
        text = (
            f"expected {reader.name} to see the append of '{number};', but it read {value!r}. "
            f"{reader.name} had already seen the index of this append"
        )
        c.expect(f"{number};" in value, text, rules.SESSION_READS)
        c.check_history()
        c.heal()
    end_well(c)


def _append_twice(c: Cluster, clerk: ClerkHandle, leader: int, value: str) -> None:
    """Let a clerk append to ``x``. The first reply is lost, so that the clerk sends its request again."""
    lost = c.hold("client_request", src=clerk.number, dst=leader, leg="reply")
    operation = clerk.begin("append", "x", value)
    c.wait_for(OPERATION_LIMIT, lambda: bool(lost.messages) or operation.done)
    lost.drop()
    clerk.finish(operation)


def _begin_and_heal(c: Cluster, clerk: ClerkHandle, kind: str) -> ClientOperation:
    """Let a clerk read ``x``, and heal all links if it has no answer after a second."""
    operation = clerk.begin("get", "x", read=kind)
    if not c.wait_for(1.0, lambda: operation.done):
        c.heal()
        clerk.finish(operation)
    return operation


@points(4)
def test_snapshot_has_the_state_of_its_index(cluster: StartCluster) -> None:
    """A server that restarts alone returns the state of its snapshot and names the snapshot's index."""
    c = cluster(3, clerks=4, max_state=1500)
    reader, writers = c.clerks[0], c.clerks[1:]
    for _ in range(2):
        Load(c, clerks=writers, keys=("x",), mix=("append",), most=15).wait_until_idle(20.0)
        for server in range(3):
            c.crash(server)
        for alone in range(3):
            c.restart(alone)
            reader.restart()  # a new clerk has seen nothing yet, so it takes what this server has
            _only(c, reader, [alone])
            c.sleep(0.3)
            reader.get("x", read="snapshot")
            c.crash(alone)
        c.check_history()
        c.heal()
        c.start_all()
    end_well(c)


@points(4, networks=SIM, schedule="release")
def test_snapshot_taken_while_clients_write(cluster: StartCluster) -> None:
    """Snapshots are taken while entries arrive quickly: each snapshot has the state of its index."""
    c = cluster(1, scripted_clerks=1, max_state=1)
    client = Client(c)
    sessions = [client.register() for _ in range(6)]
    written: dict[str, int] = {}  # the index of each append; 0 if it is not known
    for _ in range(14):
        rpcs = []
        for session in sessions:
            rpcs.append(client.send(0, session.request("append", "x", f"{session.number}.{session.serial};")))
            c.sleep(c.random.uniform(0.0, 0.001))
        for rpc in rpcs:
            reply = client.answer(rpc)
            written[rpc.args["value"]] = reply["index"] if reply["status"] == "ok" else 0
            if reply["status"] != "ok":
                client.succeed(rpc.args)
        c.restart(0)
        c.wait_for(1.0, lambda: c.server_state(0).ready)
        # S0 has not been elected yet, so it has the state of its snapshot.
        reply = client.ask(0, read_of("snapshot"))
        shown, index = f";{reply['value'] or ''}", reply["index"]
        for value, at in written.items():
            has = f";{value}" in shown
            wrong = at > 0 and has != (at <= index)
            text = f"expected a snapshot read at S0, which has restarted, to show the state at index {index}, but it"
            text = f"{text} {'includes' if has else 'lacks'} {value!r}, the entry at index {at}"
            c.expect(reply["status"] != "ok" or not wrong, text, rules.SNAPSHOT_READS, [0])
        c.one_leader()


@points(4)
def test_snapshots_never_go_back(cluster: StartCluster) -> None:
    """After a snapshot read, a clerk accepts no older snapshot from a server that is behind."""
    c = cluster(3, clerks=2, max_state=3000)
    reader, writer = c.clerks
    for number in range(4):
        leader = c.settled_leader()
        behind, other = (leader + 1) % 3, (leader + 2) % 3
        c.partition([leader, other], [behind])
        writer.append("x", f"{number};")
        _only(c, reader, [leader])
        reader.get("x", read="snapshot")
        # Only the server that is behind can be reached: a correct clerk waits until it can reach another server. It
        # makes no difference whether the second read is of another key.
        _only(c, reader, [behind])
        operation = reader.begin("get", ("x", "y")[number % 2], read="snapshot")
        c.sleep(1.0)
        c.heal()
        reader.finish(operation)
        c.check_history()
    end_well(c)


@points(4)
def test_index_and_value_belong_together(cluster: StartCluster) -> None:
    """Every reply to a read names the index at which its value was read, even while other clerks write."""
    c = cluster(3, clerks=4)
    Load(c, clerks=c.clerks[:2], keys=("x",), mix=("append",), most=25)
    stops = [
        _keep_reading(c, clerk, kind, every=0.005)
        for clerk, kind in zip(c.clerks[2:], ("snapshot", "log"), strict=True)
    ]
    c.clerks_idle(40.0)
    for stop in stops:
        stop()
    c.wait_for(OPERATION_LIMIT, lambda: all(clerk.operation is None for clerk in c.clerks))
    end_well(c)


@points(4)
def test_snapshot_arrives_while_clerks_read(cluster: StartCluster) -> None:
    """A server installs a snapshot: state and index change together, and no read sees one without the other."""
    c = cluster(3, clerks=5, max_state=300)
    writer, *readers = c.clerks
    for number in range(10):
        leader = c.settled_leader()
        behind = (leader + 1 + number % 2) % 3
        held = [c.hold(method, dst=behind) for method in ("append_entries", "install_snapshot")]
        c.sleep(0.05)
        for each in range(4):
            writer.put("x", f"{number}.{each};" * 40)
        for reader in readers:
            _only(c, reader, [behind])
        stops = [_keep_reading(c, reader, "snapshot", every=0.001) for reader in readers]
        for hold in held:
            hold.drop()
        c.wait_for(1.0, lambda server=behind: _has_applied_all(c, server))  # type: ignore[misc]
        for stop in stops:
            stop()
        c.heal()
        c.wait_for(OPERATION_LIMIT, lambda: all(reader.operation is None for reader in readers))
        c.check_history()
    end_well(c)


def _has_applied_all(c: Cluster, server: int) -> bool:
    applies = c.event_loop.referee.applies
    return applies.last_applied[server] >= max(applies.values, default=0)


@points(4, networks=SIM)
def test_nobody_waits_in_vain(cluster: StartCluster) -> None:
    """Many reads wait at the same time: each is answered as soon as possible."""
    c = cluster(3, scripted=[1, 2], scripted_clerks=1)
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    _, client, _ = leads_alone(c)
    for _ in range(3):
        expect_soon(c, client, 0, read_of("index"), "1;", rules.READ_INDEX)
        with c.at_once(0):
            reads = [client.send(0, read_of("index")) for _ in range(20)]
        c.wait_for(_WOKEN, lambda sent=reads: all(rpc.done for rpc in sent))  # type: ignore[misc]
        _expect_woken(c, reads, "S0's followers answer at once")
    for _ in range(2):
        # The first reads of a term wait until an entry of that term is committed.
        log = longest_log(followers)
        append(c, 1, c.get_state(0)[0] + 10, (len(log), log[-1]["term"]), [], len(log))
        wait_for_leadership(c)
        with c.at_once(0):
            reads = [client.send(0, read_of("index")) for _ in range(6)]
        c.wait_for(_WOKEN, lambda sent=reads: all(rpc.done for rpc in sent))  # type: ignore[misc]
        _expect_woken(c, reads, "S0's followers answer at once")
    log, new = list(longest_log(followers)), c.get_state(0)[0] + 1000
    for number in range(8):
        more = entries(new, *(f"{number}.{each}" for each in range(3)))
        if number % 2 == 0:
            more[2] = {
                "term": new,
                "command": None,
                "kind": "noop",
            }  # it changes nothing, but reads wait for its index, too
        _keep_following(c, new, log, 0.2)
        prev, parts = (len(log), log[-1]["term"]), [more] if number % 2 else [[entry] for entry in more]
        # Each read waits for one of the next three entries. S0 gets these after the reads, all at once or one by one. In the
        # last four rounds, they also arrive together with the reads.
        with c.at_once(0):
            reads = [client.send(0, read_of("session", seen=len(log) + 1 + each % 3)) for each in range(9)]
            if number >= 4:
                send_append(c, 1, new, prev, more, len(log) + len(more))
        c.sleep(0.02)
        for part in parts:
            append(c, 1, new, (len(log), log[-1]["term"]), part, len(log) + len(part))
            log += part
        c.wait_for(0.1, lambda sent=reads: all(rpc.done for rpc in sent))  # type: ignore[misc]
        for _ in range(round((_WOKEN - 0.1) / 0.1)):
            if not all(rpc.done for rpc in reads):
                _keep_following(c, new, log, 0.1)
        _expect_woken(c, reads, f"S0 has applied index {len(log)}")


@points(4, networks=SIM)
def test_snapshot_wakes_reads(cluster: StartCluster) -> None:
    """A read waits for an index: it is answered as soon as a snapshot takes the server past that index."""
    c = cluster(3, clerks=1, scripted_clerks=1, max_state=1)
    clerk, client = c.clerks[0], Client(c)
    applied = c.event_loop.referee.applies.last_applied
    for number in range(4):
        leader = c.settled_leader()
        behind = (leader + 1 + number % 2) % 3
        held = [c.hold(method, dst=behind) for method in ("append_entries", "install_snapshot")]
        c.sleep(0.02)
        for each in range(2):
            clerk.put("x", f"{number}.{each};")
        seen = _last_index(c)
        read = client.send(behind, read_of("session", seen=seen))
        c.sleep(0.02)
        for hold in held:
            hold.drop()
        c.wait_for(1.0, lambda server=behind, last=seen: applied[server] >= last)  # type: ignore[misc]
        c.wait_for(_WOKEN, lambda sent=read: sent.done)  # type: ignore[misc]
        text = (
            f"expected S{behind} to answer a session read within {_WOKEN} s, but it has not. "
            f"The read waits for index {seen}, which S{behind} has applied"
        )
        c.expect(read.done or applied[behind] < seen, text, rules.READ_COST, [behind])
        client.answer(read)
    end_well(c)


# Seconds within which a read is answered once it need not wait any more. With preemption, the reference takes a few
# hundredths of a second.
_WOKEN = 0.5


def _expect_woken(c: Cluster, reads: Sequence[Rpc], since: str) -> None:
    """Require that all these reads at S0 have been answered by now. ``since`` is a sentence that says why."""
    left = [rpc for rpc in reads if not rpc.done]
    if left:
        text = f"expected S0 to answer {described(left[0].args['read'], len(reads))} within {_WOKEN} s"
        c.fail(f"{text}, but {len(left)} of them still wait. {since}", rules.READ_COST, [0])
    for rpc in reads:
        if rpc.reply is not None and rpc.reply["status"] == "ok":
            index, seen = rpc.reply["index"], rpc.args["seen"]
            text = f"expected S0 to apply index {seen} before it answers {described(rpc.args['read'])}"
            c.expect(index >= seen, f"{text}, but its reply names index {index}", rules.SESSION_READS, [0])


@points(3)
def test_reads_need_no_session(cluster: StartCluster) -> None:
    """Reads that need no entry are answered whether or not their session has ended."""
    c = cluster(1, clerks=1, scripted_clerks=1, max_sessions=1)
    clerk, client = c.clerks[0], Client(c)
    clerk.put("x", "1;")
    ended = client.register()
    client.register()
    for kind in ("index", "lease", "session", "snapshot"):
        # A snapshot may be older than the put. So may a session's read, unless the client says that it has seen the put.
        values = ("1;", None) if kind == "snapshot" else ("1;",)
        for number in (ended.number, 1_000_000):
            fields = {**read_of(kind), "client_id": number, "seen": ended.number if kind == "session" else 0}
            reply = client.carry_out(fields)
            which = f"of session {number}, which {'has ended' if number == ended.number else 'was never begun'}"
            text = f"expected S0 to answer {described(kind)} {which}, with '1;', but {_answer(reply)}"
            c.expect(reply["status"] == "ok" and reply["value"] in values, text, rules.SESSIONS, [0])
        operation = clerk.begin("get", "x", read=kind)
        c.wait_for(OPERATION_LIMIT, lambda done=operation: done.done)  # type: ignore[misc]
        text = f"expected {operation.describe()} to return '1;', though the clerk's session has ended, but it"
        seen = f"returned {operation.result!r}" if operation.done else "has not returned"
        c.expect(operation.done and operation.result in values, f"{text} {seen}", rules.SESSIONS)


@points(3)
def test_unknown_kind(cluster: StartCluster) -> None:
    """A read of an unknown kind is answered with bad_request."""
    c = cluster(1, scripted_clerks=1)
    client = Client(c)
    client.register()
    for kind in ("", "Index", "linearizable", "lease "):
        status = client.ask(0, read_of(kind))["status"]
        text = f"expected a read of kind {kind!r} to be answered with bad_request, but the status is {status}"
        c.expect(status in ("bad_request", *REFUSALS), text, rules.BAD_REQUESTS, [0])


# --- helpers -------------------------------------------------------------------------------------------------


def _nothing(operation: ClientOperation) -> None:
    """What a clerk does after an operation: nothing."""


def _keep_reading(c: Cluster, clerk: ClerkHandle, read: str, key: str = "x", every: float = 0.02) -> Callable[[], None]:
    """Let a clerk read again and again, at most 150 times, with a pause of ``every`` seconds after each read. Returns a
    function that stops the reading."""
    left = 150

    def again() -> None:
        nonlocal left
        if left > 0 and clerk.operation is None:
            left -= 1
            clerk.begin("get", key, read=read)

    def stop() -> None:
        nonlocal left
        left = 0

    clerk.on_return = lambda operation: c.event_loop.at(c.now + every, again)
    again()
    return stop


def _only(c: Cluster, clerk: ClerkHandle, servers: Collection[int]) -> None:
    """Let a clerk reach these servers only."""
    for server in range(c.size):
        change = c.mend if server in servers else c.cut
        change(clerk.number, server)
        change(server, clerk.number)


def _set_clocks(c: Cluster, rates: Sequence[float]) -> None:
    """Set the rates of the clocks before the servers start. A wait that is already under way would still end at the time
    computed with the old rate."""
    for server, rate in enumerate(rates):
        c.clock_rate(server, rate)
    c.start_all()


def _lead(c: Cluster, wanted: int) -> None:
    """Make ``wanted`` lead: cut off every other server that leads, for a while."""
    for _ in range(10):
        leader = c.one_leader()
        if leader == wanted:
            return
        c.disconnect(leader)
        c.sleep(1.5)
        c.connect(leader)
        c.sleep(0.5)


def _read_at_old_leaders(c: Cluster, rounds: int, wanted: int | None = None, judged: bool = True) -> None:
    """Cut the leader off from the other servers while one clerk reads there by lease and two write at the other
    servers."""
    reader, *writers = c.clerks
    for number in range(rounds):
        if wanted is not None:
            _lead(c, wanted)
        leader = c.settled_leader()
        if wanted is not None and leader != wanted:
            continue
        others = [server for server in range(c.size) if server != leader]
        for clerk in c.clerks:
            clerk.on_return = _nothing
        writers[0].put("x", f"{number}a;")
        reader.get("x", read="lease")
        _only(c, reader, [leader])
        for writer in writers:
            _only(c, writer, others)
        stop = _keep_reading(c, reader, "lease")
        c.sleep(0.1)
        for other in others:
            c.cut(leader, other)
            c.cut(other, leader)
        for step in range(2):
            operations = [writer.begin("append", "x", f"{number}.{step}{writer.name};") for writer in writers]
            c.wait_for(OPERATION_LIMIT, lambda begun=operations: all(one.done for one in begun))  # type: ignore[misc]
        stop()
        c.heal()
        c.wait_for(OPERATION_LIMIT, lambda: all(clerk.operation is None for clerk in c.clerks))
        if judged:
            c.check_history()


def _server_rpcs(c: Cluster) -> int:
    """How many messages servers have sent to each other so far."""
    return sum(c.rpc_count(server) for server in range(c.size))


def _rpcs_in(c: Cluster, seconds: float) -> int:
    """How many messages servers send to each other in ``seconds`` while no client asks anything."""
    before = _server_rpcs(c)
    c.sleep(seconds)
    return _server_rpcs(c) - before


def _last_index(c: Cluster) -> int:
    """The last index that some server has applied."""
    return max(c.event_loop.referee.applies.values, default=0)
