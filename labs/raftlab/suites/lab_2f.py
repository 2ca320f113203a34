"""Lab 2F: PreVote (dissertation, 9.6, 6.2 and 4.2.3).

Every test requires three things. Before a server starts an election, it asks whether it would be elected, and its term does
not grow until a majority says yes. As long as a majority hears the leader, the leader continues to lead, no matter which
server returns or cannot hear it. If no majority answers a leader, it steps down, and the others elect a new one.

How often a server asks, and what a reply contains beyond Figure 2, are the student's choice. The referee checks that no term
grows without the pre-votes of a majority. In the last tests there is one real server (S0), and the others are scripted
servers, which say yes to every pre-vote unless a test sets another answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from raftlab.explain import rules
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.membership import MembershipCall, agree_by, change, leader_of, ready_leader, reconfigure
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.referee.configuration import names
from raftlab.suites.helpers.configurations import configuration_entry, hold_change, without
from raftlab.suites.helpers.scripted_leader import SnapshotSender
from raftlab.suites.helpers.scripted_servers import (
    ScriptedFollower,
    accept,
    append,
    ask_vote,
    campaign_terms,
    entries,
    grant,
    request_vote,
    send_append,
    wait_for_campaign,
    wait_for_leadership,
)
from raftlab.suites.marking import SIM, StartCluster, points


def _expect_undisturbed(c: Cluster, leader: int, term: int, when: str) -> None:
    """Require that ``leader`` still leads ``term``."""
    now, leads = c.get_state(leader)
    text = f"expected S{leader} to go on leading term {term} {when}, but it is in term {now}"
    c.expect(leads and now == term, text + ("" if leads else " and follows"), rules.NOT_DISTURBED, [leader])


def _expect_pre_votes_only(c: Cluster, server: int, seconds: float, when: str) -> None:
    """Require that for ``seconds`` a server that hears no leader asks for pre-votes, and that its term does not grow."""
    before, _ = c.get_state(server)
    count = c.rpc_count(server, "pre_vote")
    c.sleep(seconds)
    calls = c.rpc_count(server, "pre_vote") - count
    c.expect(calls > 0, f"expected S{server} to call pre_vote {when}, but it did not", rules.STILL_ELECTED, [server])
    now, _ = c.get_state(server)
    text = f"expected S{server} to stay in term {before} {when}, but it is in term {now}"
    c.expect(now == before, text, rules.PRE_VOTE_CHANGES_NOTHING, [server])


# Sim only, like others below: on a busy machine a heartbeat may be late, and then an election is correct.
@points(6, networks=SIM)
def test_partitioned_server_returns(cluster: StartCluster) -> None:
    """A server that was cut off returns in the term that it had, and the leader is not disturbed."""
    c = cluster(5)
    for number in range(3):
        leader = c.settled_leader()
        term = c.agreed_term()
        away = (leader + 1 + number) % 5
        c.disconnect(away)
        _expect_pre_votes_only(c, away, 5.0, "while it is cut off")
        c.agree(f"without S{away}", 4)
        c.connect(away)
        c.sleep(2.0)
        _expect_undisturbed(c, leader, term, f"now that S{away} is back")
        c.agree(f"with S{away}", 5)


@points(4)
def test_cut_off_server_stays_in_its_term(cluster: StartCluster) -> None:
    """While one or two of five servers are cut off, they ask for pre-votes again and again; their terms do not grow."""
    c = cluster(5)
    leader = c.settled_leader()
    first, second = (leader + 1) % 5, (leader + 2) % 5
    c.disconnect(first)
    _expect_pre_votes_only(c, first, 4.0, "while it is cut off")
    c.heal()
    leader = c.settled_leader()
    two = [first, second] if leader not in (first, second) else [(leader + 1) % 5, (leader + 2) % 5]
    c.partition(two, [server for server in range(5) if server not in two])
    c.sleep(0.3)
    for server in two:
        _expect_pre_votes_only(c, server, 3.0, "as one of two of five")
    c.heal()
    c.agree("by all", 5)


@points(5, networks=SIM)
def test_flapping_link(cluster: StartCluster) -> None:
    """While one server's link comes and goes, the leader and the term stay the same."""
    c = cluster(5)
    leader = c.settled_leader()
    term = c.agreed_term()
    away = (leader + 1) % 5
    for number in range(12):
        c.disconnect(away)
        c.sleep(c.random.uniform(0.1, 3.0))
        c.connect(away)
        c.sleep(c.random.uniform(0.05, 0.6))
        _expect_undisturbed(c, leader, term, f"while S{away} comes and goes")
        c.agree(f"number {number}", 4)
    calls = c.rpc_count(away, "pre_vote")
    c.expect(calls > 0, f"expected S{away} to call pre_vote in between, but it did not", rules.STILL_ELECTED, [away])


@points(5, networks=SIM)
def test_one_way_cuts(cluster: StartCluster) -> None:
    """A server that can only send, or only receive, does not disturb the leader."""
    c = cluster(5)
    leader = c.settled_leader()
    term = c.agreed_term()
    deaf, mute = (leader + 1) % 5, (leader + 2) % 5
    for server in without(range(5), deaf):
        c.cut(server, deaf)
    _expect_pre_votes_only(c, deaf, 4.0, "while it hears nothing")
    _expect_undisturbed(c, leader, term, f"while S{deaf} hears nothing and asks everybody")
    c.heal()
    c.agree("by all", 5)
    for server in without(range(5), mute):
        c.cut(mute, server)
    c.sleep(4.0)
    _expect_undisturbed(c, leader, term, f"while nobody hears S{mute}")
    c.heal()
    c.agree("by all again", 5)
    _expect_undisturbed(c, leader, term, "when all can talk again")


@points(6, networks=SIM)
def test_one_link_is_cut(cluster: StartCluster) -> None:
    """A follower loses only its link to the leader; the others hear the leader and do not help to replace it."""
    c = cluster(5)
    leader = c.settled_leader()
    term = c.agreed_term()
    for number, other in enumerate(without(range(5), leader)):
        both, hears, speaks = (number % 3 == kind for kind in range(3))
        if both or speaks:
            c.cut(leader, other)
        if both or hears:
            c.cut(other, leader)
        c.sleep(4.0)
        _expect_undisturbed(c, leader, term, f"without its link to S{other} (the others hear it)")
        c.agree(f"number {number}", 4)
        c.heal()
        c.agree(f"by all, {number}", 5)


@points(6, networks=SIM)
def test_partial_partition(cluster: StartCluster) -> None:
    """Two servers cannot reach each other, but both reach the third: the leader is stable, and work goes on."""
    c = cluster(3)
    c.agree("by three", 3)
    for number in range(3):
        leader = c.settled_leader()
        other, both = (leader + 1 + number % 2) % 3, (leader + 2 - number % 2) % 3
        term = c.agreed_term()
        c.note(f"S{leader} and S{other} do not see each other, both see S{both}")
        c.cut(leader, other)
        c.cut(other, leader)
        for step in range(8):
            c.sleep(0.8)
            c.agree(f"{number}: {step}", 2)
        _expect_undisturbed(c, leader, term, f"while S{both} hears it, although S{other} does not")
        calls = c.rpc_count(other, "pre_vote")
        c.expect(calls > 0, f"expected S{other} to call pre_vote, but it did not", rules.STILL_ELECTED, [other])
        c.heal()
        c.agree(f"{number}: by three", 3)
        c.disconnect(leader)
        c.one_leader()
        c.connect(leader)


@points(5, networks=SIM)
def test_ring_with_gaps(cluster: StartCluster) -> None:
    """Of five servers, only the pairs 1-2, 1-3, 2-3, 2-4 and 3-5 reach each other; the leader stays, and work goes on."""
    c = cluster(5)
    c.agree("by all", 5)
    links = {(0, 1), (0, 2), (1, 2), (1, 3), (2, 4)}
    for a in range(5):
        for b in range(5):
            if a != b and (a, b) not in links and (b, a) not in links:
                c.cut(a, b)
    c.sleep(6.0)
    c.agree("by three that see each other", 3, among=range(3), within=20.0)
    leader = c.one_leader(among=range(3))
    term, _ = c.get_state(leader)
    for number in range(6):
        c.sleep(1.0)
        _expect_undisturbed(c, leader, term, "while most servers hear it")
        c.agree(f"number {number}", 3, among=range(3))
    c.heal()
    c.agree("by all again", 5)


@points(5, networks=SIM)
def test_removed_server_was_never_told(cluster: StartCluster) -> None:
    """A server that was removed while it was cut off returns, and cannot raise anybody's term."""
    c = cluster(4)
    c.agree("by four", 4)
    leader = leader_of(c, range(4))
    gone = (leader + 1) % 4
    left = without(range(4), gone)
    c.disconnect(gone)
    reconfigure(c, left)
    leader = leader_of(c, left)
    term, _ = c.get_state(leader)
    _expect_pre_votes_only(c, gone, 5.0, "while it is cut off")
    c.connect(gone)
    for number in range(5):
        c.sleep(1.0)
        _expect_undisturbed(c, leader, term, f"although S{gone}, which is no longer a member, is back")
        c.agree(f"number {number}", 3, among=left)


@points(5)
def test_leader_fails(cluster: StartCluster) -> None:
    """Whenever the leader really fails, a new leader is elected within 5 seconds."""
    c = cluster(5)
    for number in range(6):
        leader = c.one_leader()
        c.agree(f"number {number}", 4)
        if number % 2:
            c.disconnect(leader)
        else:
            c.crash(leader)
        c.one_leader()
        c.agree(f"without S{leader}", 4)
        if number % 2:
            c.connect(leader)
        else:
            c.restart(leader)


@points(5)
def test_two_of_three_elect(cluster: StartCluster) -> None:
    """The leader is gone and only a bare majority of two servers is left; they always elect a leader."""
    c = cluster(3)
    for number in range(6):
        c.agree(f"by all, {number}", 3)
        leader = c.settled_leader()
        c.crash(leader)
        c.one_leader()
        c.agree(f"by two, {number}", 2)
        c.restart(leader)


@points(5)
def test_all_restart(cluster: StartCluster) -> None:
    """All servers restart together and elect a leader."""
    c = cluster(5)
    for number in range(4):
        c.agree(f"number {number}", 5)
        for server in range(5):
            c.crash(server)
        c.start_all()
        c.one_leader()


@points(4, networks=SIM)
def test_alone(cluster: StartCluster) -> None:
    """A cluster of one server needs nobody's pre-vote: the server leads, also after a restart."""
    c = cluster(1)
    for number in range(3):
        c.agree(f"number {number}", 1)
        c.restart(0)
    c.agree("at last", 1)


@points(5)
def test_lost_and_repeated(cluster: StartCluster) -> None:
    """Even if pre-votes and the replies to them are lost, late or repeated, there is only one leader in each term."""
    c = cluster(5)
    c.unreliable(duplicate=0.5, echo=1.0)
    for number in range(5):
        leader = c.one_leader(within=2 * ELECTION_LIMIT)
        c.disconnect(leader)
        c.one_leader(within=2 * ELECTION_LIMIT)
        c.agree(f"number {number}", 3, within=20.0)
        c.connect(leader)


def _expect_step_down(c: Cluster, leader: int, why: str) -> None:
    """Require that ``leader`` steps down by itself within ``ELECTION_LIMIT``. ``why`` says who answers it."""
    done = c.wait_for(ELECTION_LIMIT, lambda: not c.get_state(leader)[1])
    text = f"expected S{leader} to step down within 5 s, but it still says that it leads. {why}"
    c.expect(done, text, rules.CHECK_QUORUM, [leader])


@points(6)
def test_deaf_leader(cluster: StartCluster) -> None:
    """A leader that can send but not receive steps down, and the others elect a new leader."""
    c = cluster(5)
    for number in range(3):
        c.agree(f"by all, {number}", 5)
        leader = c.settled_leader()
        rest = without(range(5), leader)
        for server in rest:
            c.cut(server, leader)
        _expect_step_down(c, leader, "It hears nobody")
        c.one_leader(among=rest)
        c.agree(f"without S{leader}", 4, among=rest)
        c.heal()


@points(6)
def test_leader_of_a_minority(cluster: StartCluster) -> None:
    """A leader that reaches only one of four others steps down, and that server helps to elect a new leader."""
    c = cluster(5)
    for number in range(3):
        c.agree(f"by all, {number}", 5)
        leader = c.settled_leader()
        friend, second, third, alone = without(range(5), leader)
        # The leader reaches only its friend; the friend reaches two more; nobody reaches the fifth.
        for server in (second, third):
            c.cut(server, leader)
            c.cut(leader, server)
        c.disconnect(alone)
        _expect_step_down(c, leader, f"Only S{friend} answers it")
        quorum = [friend, second, third]
        c.one_leader(among=quorum)
        c.agree(f"by three, {number}", 3, among=quorum, within=20.0)
        c.heal()


@points(5, networks=SIM)
def test_old_leader_returns(cluster: StartCluster) -> None:
    """A leader that was cut off steps down, and its return raises nobody's term."""
    c = cluster(5)
    for number in range(3):
        c.agree(f"by all, {number}", 5)
        old = c.settled_leader()
        c.disconnect(old)
        _expect_step_down(c, old, "It is cut off")
        new = c.one_leader()
        term, _ = c.get_state(new)
        c.sleep(3.0)
        c.connect(old)
        c.sleep(2.0)
        _expect_undisturbed(c, new, term, f"now that S{old} is back")


@points(5)
def test_old_leader_is_needed(cluster: StartCluster) -> None:
    """Two servers are left, and only the old leader has the newest log; the other server votes for it."""
    c = cluster(3)
    for number in range(3):
        c.agree(f"by all, {number}", 3)
        old = c.settled_leader()
        other, gone = without(range(3), old)
        c.crash(gone)
        unsent = c.hold("append_entries", src=old, when=lambda args: bool(args["entries"]))
        c.propose(old, f"on S{old} alone, {number}")
        c.sleep(0.05)
        c.partition([old], [other])
        _expect_step_down(c, old, "It is alone")
        unsent.drop()
        c.heal()
        c.agree(f"by the two, {number}", 2, within=20.0)
        c.restart(gone)


@points(5, networks=SIM)
def test_answers_during_a_snapshot(cluster: StartCluster) -> None:
    """The only follower that answers needs a long snapshot, and refuses entries until it has it; the leader stays."""
    c = cluster(3)
    c.take_snapshots(5, size=150_000)
    c.agree("by all", 3)
    leader = c.one_leader()
    behind, gone = without(range(3), leader)
    c.disconnect(behind)
    for number in range(5):
        c.agree(f"without S{behind}, {number}", 2)
    # The snapshot has at least 36 chunks. If they are sent one after another, each takes 45 ms. Some Rafts wait only
    # for the answer to their last message, so answers must come sooner than the next heartbeat.
    for link in ((leader, behind), (behind, leader)):
        c.network.set_link(*link, latency=(0.022, 0.022))
    c.connect(behind)
    c.sleep(0.2)
    term, leads = c.get_state(leader)
    if not leads:
        return  # there was an election before the transfer began, so this run is inconclusive
    c.crash(gone)
    for _ in range(8):
        c.sleep(0.25)
        now, leads = c.get_state(leader)
        text = f"expected S{leader} to go on leading term {term} while S{behind} answers all the time and receives a"
        seen = f"snapshot, but it {'leads' if leads else 'does not lead, and is in'} term {now}"
        c.expect((now, leads) == (term, True), f"{text} {seen}", rules.CHECK_QUORUM, [leader])
    c.agree("by the two", 2, within=20.0)


@points(5)
def test_changing_members(cluster: StartCluster) -> None:
    """During a change of members, a server is elected if a majority of each set gives it pre-votes, and only then."""
    c = cluster(6, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    hold = hold_change(c, MembershipCall(c, leader, (3, 4, 5)), "reply", joint=True)
    c.sleep(0.3)
    c.crash(leader)
    hold.drop()
    c.agree("in the middle of it", 2, within=20.0)
    # The new configuration elects a leader by itself; servers outside it, or a minority of it, do not.
    c.restart(leader)
    reconfigure(c, (3, 4, 5))
    agree_by(c, "by the new three", (3, 4, 5))
    c.partition([0, 1, 2, 3], [4, 5])
    c.one_leader(among=(4, 5))
    c.sleep(2.0)
    c.no_leader(among=(0, 1, 2, 3))
    c.heal()
    agree_by(c, "by the new three again", (3, 4, 5))


# --- one real server, S0; the test plays the others ---


def _ask_pre_vote(c: Cluster, who: int, term: int, last: tuple[int, int]) -> Message:
    """Have S``who`` ask for S0's pre-vote. ``last`` is (index, term) of the last entry in its log. Returns S0's reply."""
    log = {"last_log_index": last[0], "last_log_term": last[1]}
    return c.scripted_server(who).ask(0, "pre_vote", term=term, candidate_id=who, **log)


def _pre_vote_answer(granted: bool, term: int | None = None) -> Callable[[Rpc], Message]:
    """A scripted server's answer to pre-votes: yes or no, in ``term``, by default the term that the candidate is in."""
    return lambda rpc: {"term": rpc.args["term"] - 1 if term is None else term, "vote_granted": granted}


def _deny(rpc: Rpc) -> Message:
    """A scripted server's answer to RequestVote: no."""
    return {"term": rpc.args["term"], "vote_granted": False}


def _pre_vote_terms(c: Cluster, above: int = 0) -> list[int]:
    """The terms above ``above`` for which S0 has asked for pre-votes in its current incarnation, one per request."""
    incarnation = c.server_state(0).incarnation
    requests = (
        rpc
        for scripted_server in c.scripted
        for rpc in scripted_server.received
        if rpc.method == "pre_vote" and rpc.src_incarnation == incarnation
    )
    return sorted(rpc.args["term"] for rpc in requests if rpc.args["term"] > above)


def _deny_all(c: Cluster) -> None:
    """Let every scripted server say no to pre-votes and votes."""
    for scripted_server in c.scripted:
        scripted_server.answer.update(pre_vote=_pre_vote_answer(False, 0), request_vote=_deny)


def _wait_for_pre_vote(c: Cluster, above: int = 0) -> int:
    """Discard S0's requests so far, and wait until it asks for pre-votes. Returns the latest term that it asks for."""
    c.sleep(0.1)  # a slow thread may still send a request of an earlier round
    for scripted_server in c.scripted:
        scripted_server.received.clear()
    c.wait_for(ELECTION_LIMIT, lambda: bool(_pre_vote_terms(c, above)))
    terms = _pre_vote_terms(c, above)
    text = "expected S0 to call pre_vote within 5 s" + (f" for a term above {above}" if above else "")
    c.expect(bool(terms), f"{text}, but it did not", rules.STILL_ELECTED, [0])
    return terms[-1]


@points(6)
def test_who_gets_a_pre_vote(cluster: StartCluster) -> None:
    """S0 gives pre-votes to the right servers and to no others; its term and its vote stay the same."""
    c = cluster(5, scripted=range(1, 5))
    _deny_all(c)
    append(c, 1, 1000, (0, 0), entries(900, "one", "two"))
    rule = rules.WHO_GETS_A_PRE_VOTE
    # While it hears a leader, S0 says no. (A heartbeat comes with each request, so that this holds on a slow machine.)
    for last, term in (((2, 900), 1001), ((9, 1000), 5000)):
        send_append(c, 1, 1000, (2, 900))
        reply = _ask_pre_vote(c, 2, term, last)
        text = f"expected S0 to say no to a pre-vote for term {term} while it hears the leader of term 1000"
        c.expect(not reply["vote_granted"], f"{text}, but it said yes", rule, [0])
    _wait_for_pre_vote(c)
    rows = (
        ("with the same log", 1001, (2, 900), True),
        ("with a longer log", 1001, (3, 900), True),
        ("with a shorter log of a later term", 1001, (1, 901), True),
        ("with a shorter log", 1001, (1, 900), False),
        ("with a longer log of an older term", 1001, (9, 899), False),
        ("with no log, for a term far ahead", 9000, (0, 0), False),
        ("with the same log, for a term far ahead", 9000, (2, 900), True),
        ("with the same log, for an older term", 999, (2, 900), False),
        ("with a longer log, for an older term", 500, (9, 999), False),
    )
    for case, term, last, granted in rows:
        for who in (2, 3):
            reply = _ask_pre_vote(c, who, term, last)
            want, got = ("yes" if yes else "no" for yes in (granted, reply["vote_granted"]))
            request = f"a pre-vote {case}, term {term}"
            text = f"expected {want} from S0 (in term 1000, log: 900 900) to {request}, but it said {got}"
            c.expect(want == got, text, rule, [0])
        now, _ = c.get_state(0)
        text = f"expected S0 to stay in term 1000 after a pre-vote for term {term}, but it is in term {now}"
        c.expect(now == 1000, text, rules.PRE_VOTE_CHANGES_NOTHING, [0])
    if not reply["vote_granted"] and reply["term"] not in (500, 1000):
        c.fail(f"expected S0 to say no with its term, 1000, but it said {reply['term']}", rule, [0])


@points(5)
def test_a_pre_vote_is_no_vote(cluster: StartCluster) -> None:
    """A server that gives a pre-vote keeps its vote, even after a restart, and does not restart its election timer."""
    c = cluster(5, scripted=range(1, 5))
    _deny_all(c)
    for term in (1000, 2000, 3000):
        append(c, 1, term)
        _wait_for_pre_vote(c)
        for who in (2, 3, 4):
            reply = _ask_pre_vote(c, who, term + 10, (0, 0))
            text = f"expected S0 to give S{who} a pre-vote for term {term + 10} too, but it said no. A pre-vote binds nobody"
            c.expect(reply["vote_granted"], text, rules.PRE_VOTE_CHANGES_NOTHING, [0])
        reply = ask_vote(c, 1, term + 10)
        text = f"expected S0 to vote for S1 in term {term + 10}, but it did not. It has voted for nobody in that term"
        c.expect(reply["vote_granted"], text, rules.PRE_VOTE_CHANGES_NOTHING, [0])
        c.restart(0)
    # S0 asks for pre-votes itself, no matter how often the others ask.
    for scripted_server in c.scripted:
        scripted_server.received.clear()
    deadline = c.now + ELECTION_LIMIT
    while not _pre_vote_terms(c) and c.now < deadline:
        c.scripted_server(2).send(0, "pre_vote", term=9000, candidate_id=2, last_log_index=9, last_log_term=9)
        c.sleep(0.05)
    text = "expected S0 to call pre_vote within 5 s although other servers keep asking it for pre-votes, but it did not"
    c.expect(bool(_pre_vote_terms(c)), text, rules.TIMER, [0])


@points(5)
def test_asking_changes_nothing(cluster: StartCluster) -> None:
    """While most servers refuse a pre-vote, S0 asks again and again for the same term and starts no election."""
    c = cluster(5, scripted=range(1, 5))
    _deny_all(c)
    append(c, 1, 1000)
    c.scripted_server(1).answer["pre_vote"] = _pre_vote_answer(True)
    first = _wait_for_pre_vote(c)
    c.sleep(4.0)
    now, _ = c.get_state(0)
    text = f"expected S0 to stay in term 1000, but it is in term {now}. Only one of the four others would vote for it"
    c.expect(now == 1000 and not campaign_terms(c), text, rules.PRE_VOTE_CHANGES_NOTHING, [0])
    asked = len([rpc for rpc in c.scripted_server(1).received if rpc.method == "pre_vote"])
    text = f"expected S0 to wait for a new timeout before it asks again, but it asked S1 {asked} times in 4 s"
    c.expect(asked <= 120, text, rules.TIMER_RESTARTS, [0])
    terms = set(_pre_vote_terms(c))
    text = f"expected S0 to ask for term 1001 each time, but it asked for {sorted({first, *terms})}"
    c.expect(terms == {1001}, text, rules.PRE_VOTE_CHANGES_NOTHING, [0])
    for scripted_server in c.scripted:
        scripted_server.answer.update(pre_vote=_pre_vote_answer(True), request_vote=grant)
    c.wait_for(ELECTION_LIMIT, lambda: c.get_state(0)[1])
    leads = c.get_state(0)[1]
    c.expect(
        leads, "expected S0 to lead within 5 s after all servers say yes, but it does not", rules.STILL_ELECTED, [0]
    )


@points(6)
def test_pre_votes_of_the_past(cluster: StartCluster) -> None:
    """Pre-votes do not count as votes; replies from an earlier term, or to an earlier request, do not count at all."""
    c = cluster(5, scripted=range(1, 5))
    _deny_all(c)
    append(c, 1, 1000)
    for scripted_server in c.scripted:
        scripted_server.answer["pre_vote"] = _pre_vote_answer(True)
    late = c.hold("pre_vote", leg="reply")
    _wait_for_pre_vote(c)
    c.wait_for(1.0, lambda: len(late.messages) >= 4)
    # Meanwhile there is a leader of a newer term. It falls silent, and no server would vote for S0 any more.
    append(c, 2, 2000)
    _deny_all(c)
    for scripted_server in c.scripted:
        scripted_server.received.clear()
    late.release()
    c.sleep(3.0)
    now, _ = c.get_state(0)
    text = f"expected S0 to stay in term 2000, but it is in term {now}. Its pre-votes are for term 1001"
    c.expect(now == 2000 and not campaign_terms(c, 1000), text, rules.PRE_VOTE_CHANGES_NOTHING, [0])
    # All say yes, but two of these replies arrive late. S0 starts an election, in which only S1 votes for it. The late
    # replies are not votes.
    for scripted_server in c.scripted:
        scripted_server.answer["pre_vote"] = _pre_vote_answer(True)
    late = c.hold("pre_vote", leg="reply", dst=3)
    more = c.hold("pre_vote", leg="reply", dst=4)
    c.scripted_server(1).answer["request_vote"] = grant
    c.wait_for(ELECTION_LIMIT, lambda: bool(campaign_terms(c, 2000)))
    text = "expected S0 to start an election with three pre-votes of five, but it did not"
    c.expect(bool(campaign_terms(c, 2000)), text, rules.STILL_ELECTED, [0])
    c.sleep(0.05)
    late.release()
    more.release()
    for _ in range(8):
        c.sleep(0.05)
        leads = c.get_state(0)[1]
        text = "expected S0 not to lead, but it leads. Only S1 has voted for it, and pre-votes are not votes"
        c.expect(not leads, text, rules.PRE_VOTE_CHANGES_NOTHING, [0])


@points(5)
def test_pre_votes_and_leader_at_once(cluster: StartCluster) -> None:
    """Pre-votes arrive just as S0 hears a leader of a newer term; they do not count in that term."""
    c = cluster(5, scripted=range(1, 5))
    term = 1000
    append(c, 4, term)
    for number in range(10):
        held = c.hold("pre_vote", leg="reply")
        _wait_for_pre_vote(c)
        c.wait_for(0.3, lambda: len(held.messages) >= 4)  # noqa: B023  (called in this round only)
        term += 10
        with c.at_once(0, held):
            send_append(c, 4, term) if number % 2 else request_vote(c, 4, term)
        c.sleep(0.03)
        now, _ = c.get_state(0)
        text = f"expected S0 to be in term {term} or a newer one, but it is in term {now}. It has seen term {term}"
        c.expect(now >= term, text, rules.TERMS_ONLY_GROW, [0])
        campaigns = sorted(set(campaign_terms(c, term)) - set(_pre_vote_terms(c, term)))
        text = f"expected S0 to start no election above term {term}, but it asks for votes in the terms {campaigns}"
        why = "Nobody gave it a pre-vote for these terms"
        c.expect(not campaigns, f"{text}. {why}", rules.PRE_VOTE_CHANGES_NOTHING, [0])
        append(c, 4, term)


@points(5)
def test_no_with_a_higher_term(cluster: StartCluster) -> None:
    """After a refusal with a higher term, S0 asks for pre-votes for a term above that one, and is elected in it."""
    c = cluster(3, scripted=(1, 2))
    append(c, 1, 1000, (0, 0), entries(1000, "one"))
    # S2 does not answer. S1 has a higher term and a shorter log: it refuses lower terms, and cannot win without S0's vote.
    c.scripted_server(2).answer["pre_vote"] = lambda rpc: None
    c.scripted_server(1).answer["pre_vote"] = lambda rpc: {
        "term": max(5000, rpc.args["term"] - 1),
        "vote_granted": rpc.args["term"] > 5000,
    }
    ScriptedFollower(c, 1)
    _wait_for_pre_vote(c, above=5000)
    term = wait_for_leadership(c)
    c.expect(term > 5000, f"expected S0 to lead a term above 5000, but it leads {term}", rules.HIGHER_TERM, [0])


@points(6)
def test_pre_votes_of_an_earlier_round(cluster: StartCluster) -> None:
    """A pre-vote that arrives late counts neither after S0 has heard a leader of its term nor after it has asked again."""
    c = cluster(5, scripted=range(1, 5))
    append(c, 1, 1000)
    for mistake in (
        "It counted pre-votes that it had asked for before it heard from the leader of term 1000 again",
        "It counted answers to its earlier request. Most answers to the latest one were no",
    ):
        for scripted_server in c.scripted:
            scripted_server.answer["pre_vote"] = _pre_vote_answer(True)
        late = c.hold("pre_vote", leg="reply")
        _wait_for_pre_vote(c)
        c.wait_for(1.0, lambda: len(late.messages) >= 4)  # noqa: B023  (called in this round only)
        late.stop()
        _deny_all(c)
        if mistake.startswith("It counted pre-votes"):
            append(c, 1, 1000)
            late.release()
            c.sleep(0.2)
        else:
            # Wait until S0 has asked again, and has got the answers. Some Rafts ask one server after the other, or look
            # only every 0.1 s at what has arrived. S1's yes to the new request comes last: the late answers must not
            # count together with this yes.
            c.scripted_server(1).answer["pre_vote"] = _pre_vote_answer(True)
            last = c.hold("pre_vote", dst=1, leg="reply")
            _wait_for_pre_vote(c)
            c.sleep(0.15)
            late.release()
            c.sleep(0.1)
            last.release()
            c.sleep(0.15)
        now, _ = c.get_state(0)
        text = f"expected S0 to stay in term 1000, but it is in term {now}. {mistake}"
        c.expect(now == 1000 and not campaign_terms(c), text, rules.PRE_VOTE_CHANGES_NOTHING, [0])


@points(5, networks=SIM)
def test_late_votes_and_pre_votes(cluster: StartCluster) -> None:
    """Late votes elect a candidate that already asks for pre-votes again; it goes on leading when pre-votes arrive."""
    c = cluster(3, scripted=(1, 2))
    for number in (1, 2):
        ScriptedFollower(c, number)
        c.scripted_server(number).answer["pre_vote"] = _pre_vote_answer(True)
    for _ in range(3):
        votes = c.hold("request_vote", leg="reply")
        term = wait_for_campaign(c, c.get_state(0)[0])
        late = c.hold("pre_vote", leg="reply")
        _wait_for_pre_vote(c, above=term)
        c.wait_for(0.1, lambda: len(late.messages) == 2)  # noqa: B023  (called in this round only)
        votes.release()
        c.sleep(0.05)
        won = c.get_state(0) == (term, True)  # if not, S0 is no longer a candidate: it asks as a follower
        late.release()
        c.sleep(0.2)
        if won:
            _expect_undisturbed(c, 0, term, "when pre-votes that it no longer needs arrive")
        newer = c.get_state(0)[0] + 5
        append(c, 1, newer)


@points(6, networks=SIM)
def test_signs_of_a_leader(cluster: StartCluster) -> None:
    """S0 refuses pre-votes when it has just heard the leader of its term, by any kind of message, or leads itself."""
    c = cluster(5, scripted=range(1, 5))
    _deny_all(c)
    sender = SnapshotSender(c)
    append(c, 1, 1000)
    log = {"last_log_index": 10_000, "last_log_term": 1000}

    def expect_answer(granted: bool, when: str, term: int = 1001) -> None:
        reply = c.scripted_server(2).ask(0, "pre_vote", term=term, candidate_id=2, **log)
        want, got = ("yes" if yes else "no" for yes in (granted, reply["vote_granted"]))
        text = f"expected {want} from S0 to a pre-vote for term {term} {when}, but it said {got}"
        c.expect(want == got, text, rules.WHO_GETS_A_PRE_VOTE, [0])

    def old_chunk() -> None:
        c.scripted_server(3).ask(0, "install_snapshot", term=999, leader_id=3, **sender.chunk(20, 0))

    signs: tuple[tuple[str, Callable[[], object], bool], ...] = (
        ("after a heartbeat that it had to refuse", lambda: append(c, 1, 1000, (50, 1000)), False),
        ("after a chunk of a snapshot", lambda: sender.ask("install_snapshot", **sender.chunk(20, 0)), False),
        ("after a heartbeat of an older term", lambda: append(c, 3, 999), True),
        ("after a candidate of an older term asked for its vote", lambda: ask_vote(c, 3, 999), True),
        ("after a chunk of a snapshot from a leader of an older term", old_chunk, True),
    )
    for when, send, granted in signs:
        _wait_for_pre_vote(c)  # so that S0 hears no leader any more
        send()
        expect_answer(granted, when)
    for scripted_server in c.scripted:
        scripted_server.answer.update(pre_vote=_pre_vote_answer(True), request_vote=grant, append_entries=accept)
    term = wait_for_leadership(c)
    c.sleep(1.0)
    expect_answer(False, f"while it leads term {term}", term + 10)
    now, leads = c.get_state(0)
    c.expect(
        leads and now == term, f"expected S0 to go on leading term {term}, but it does not", rules.NOT_DISTURBED, [0]
    )


@points(4, networks=SIM)
def test_loser_asks_again(cluster: StartCluster) -> None:
    """A candidate that loses its election asks for pre-votes again before it starts the next election."""
    c = cluster(5, scripted=range(1, 5))
    append(c, 1, 1000)
    for scripted_server in c.scripted:
        scripted_server.answer.update(pre_vote=_pre_vote_answer(True), request_vote=_deny)
    c.wait_for(ELECTION_LIMIT, lambda: bool(campaign_terms(c, 1000)))
    text = "expected S0 to start an election within 5 s, but it did not. All would vote for it"
    c.expect(bool(campaign_terms(c, 1000)), text, rules.STILL_ELECTED, [0])
    _deny_all(c)
    c.sleep(0.15)  # answers to an earlier question may still arrive
    term, _ = c.get_state(0)
    c.sleep(3.0)
    now, _ = c.get_state(0)
    text = (
        f"expected S0 to stay in term {term} after it lost that election, but it is in term {now}. "
        "Nobody would vote for it"
    )
    c.expect(now == term, text, rules.PRE_VOTE_CHANGES_NOTHING, [0])


def _expect_no_election(c: Cluster, yes: Collection[int], why: str) -> None:
    """Let only the servers ``yes`` say yes to pre-votes, and require that S0 starts no election for 2.5 s."""
    _deny_all(c)
    # First let every timeout run out once. Until S0's timer runs out, an earlier yes still counts, and S0 may repeat its
    # request to the servers that have not said yes.
    c.sleep(2.5)
    term, _ = c.get_state(0)
    for number in yes:
        c.scripted_server(number).answer["pre_vote"] = _pre_vote_answer(True)
    c.sleep(2.5)
    now, _ = c.get_state(0)
    text = (
        f"expected S0 to stay in term {term} with the pre-votes of {names([0, *yes])} ({why}), but it is in term {now}"
    )
    c.expect(now == term, text, rules.PRE_VOTE_CHANGES_NOTHING, [0])


@points(6, networks=SIM)
def test_pre_votes_that_count(cluster: StartCluster) -> None:
    """An election needs pre-votes from more than half of the members (of the old and of the new ones, during a change)."""
    c = cluster(6, scripted=range(1, 6), members=range(4))
    _deny_all(c)
    append(c, 1, 1000)
    _expect_no_election(c, [1], "half of the four members")
    _expect_no_election(c, [1, 4, 5], "only two of the four members")
    append(c, 1, 1000, (0, 0), [configuration_entry(1000, [0, 4, 5], [0, 1, 2, 3])])
    _expect_no_election(c, [4, 5], "all of the new three and one of the old four")
    _expect_no_election(c, [1, 2, 3], "all of the old four and one of the new three")
    for number in (1, 2, 4):
        c.scripted_server(number).answer["pre_vote"] = _pre_vote_answer(True)
    c.wait_for(ELECTION_LIMIT, lambda: bool(campaign_terms(c, 1000)))
    text = "expected S0 to start an election within 5 s with the pre-votes of S0, S1, S2, S4 (most of each set)"
    c.expect(bool(campaign_terms(c, 1000)), f"{text}, but it did not", rules.STILL_ELECTED, [0])


@points(6, networks=SIM)
def test_answers_that_count(cluster: StartCluster) -> None:
    """If only half of the members answer, the leader steps down, keeps its vote for itself, and names no leader."""
    c = cluster(4, scripted=range(1, 4))
    followers = [ScriptedFollower(c, number) for number in (1, 2, 3)]
    term = wait_for_leadership(c)
    c.agree("by all", 1)
    followers[2].silent = True
    c.sleep(3.0)
    text = f"expected S0 to go on leading term {term}, but it does not. Two of the three others answer"
    c.expect(c.get_state(0) == (term, True), text, rules.NOT_DISTURBED, [0])
    _deny_all(c)
    followers[1].silent = True
    _expect_step_down(c, 0, "Only one of the three others answers it")
    now, _ = c.get_state(0)
    c.expect(now == term, f"expected S0 to step down in term {term}, but it is in term {now}", rules.CHECK_QUORUM, [0])
    known, _, leads = change(c, 0, [0, 1, 2])
    text = f"expected S0 to know no leader of term {term} after it stepped down, but it names itself"
    c.expect(leads or known != 0, text, rules.CHECK_QUORUM, [0])
    c.reply_to(request_vote(c, 2, term, (10_000, term)))  # the referee remembers that S0 has voted for itself
    for _ in range(10):
        reply = _ask_pre_vote(c, 1, term + 1, (10_000, term))
        if reply["vote_granted"]:
            break
        c.sleep(0.2)
    text = f"expected S0 to say yes to a pre-vote for term {term + 1} within 2 s of stepping down, but it said no"
    c.expect(reply["vote_granted"], text, rules.STILL_ELECTED, [0])


@points(5, networks=SIM)
def test_silence_of_an_earlier_term(cluster: StartCluster) -> None:
    """A leader that nobody answers is deposed just before it would step down; elected again, it waits anew for answers."""
    c = cluster(3, scripted=(1, 2))
    followers = [ScriptedFollower(c, number) for number in (1, 2)]

    def heartbeats() -> int:
        return sum(rpc.method == "append_entries" for rpc in c.scripted_server(1).received)

    def fall_silent() -> float:
        """Let S0 lead. After its next heartbeat, nobody answers it. Returns the time of that heartbeat."""
        wait_for_leadership(c)
        c.sleep(0.3)
        count = heartbeats()
        c.wait_for(2.0, lambda: heartbeats() > count)
        since = c.now
        c.sleep(0.005)
        for follower in followers:
            follower.silent = True
        return since

    since = fall_silent()
    count = heartbeats()
    _expect_step_down(c, 0, "Nobody answers it")
    patience = c.now - since
    between = patience / max(1, heartbeats() - count)
    for follower in followers:
        follower.silent = False
    # Now S0 is deposed a little earlier: between the last two moments at which it checks whether it gets answers.
    for part in (0.5, 0.25, 0.75):
        since = fall_silent()
        c.sleep(max(0.0, since + patience - part * between - c.now))
        before, leads = c.get_state(0)
        newer = before + 5
        append(c, 1, newer)
        for follower in followers:
            follower.silent = False
        if not leads:
            continue
        first = wait_for_campaign(c, newer)
        term = wait_for_leadership(c)
        text = f"expected S0 to lead term {first}, in which all servers vote for it, but it leads only term {term}. In term"
        text = f"{text} {before}, nobody had answered it"
        c.expect(term == first, text, rules.CHECK_QUORUM, [0])


@points(4, networks=SIM)
def test_short_silence(cluster: StartCluster) -> None:
    """A leader goes on leading when nobody answers it for half of its shortest election timeout."""
    c = cluster(3, scripted=(1, 2))
    c.network.long_waits = False  # so that the calls that nobody answers fail soon
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    term = wait_for_leadership(c)
    timeouts = []
    for _ in range(4):
        newer = term + 10
        append(c, 1, newer)
        since = c.now
        wait_for_campaign(c, newer)
        timeouts.append(c.now - since)
        term = wait_for_leadership(c)
    # The last answer may arrive up to a heartbeat interval before the silence begins. Even then, the time without an answer
    # is shorter than the longest timeout, and a leader waits for answers as long as the longest timeout.
    silence = min(timeouts) / 2
    text = f"when nobody answers it for {silence:.1f} s, half of its shortest election timeout in this run"
    for number in range(3):
        # First let the time pass that a new leader allows for its first answers.
        c.sleep(2 * max(timeouts) + 0.03 * number)
        for follower in followers:
            follower.silent = True
        c.sleep(silence)
        _expect_undisturbed(c, 0, term, text)
        for follower in followers:
            follower.silent = False


@points(5)
def test_both_sets_answer(cluster: StartCluster) -> None:
    """During a change of members, a leader steps down if only the new members answer it."""
    c = cluster(5, scripted=range(1, 5), members=range(3))
    followers = {number: ScriptedFollower(c, number) for number in range(1, 5)}
    wait_for_leadership(c)
    index = c.agree("by all", 1)
    for number in (1, 2):
        followers[number].limit = index  # so that C_old,new is not committed
    call = MembershipCall(c, 0, (0, 3, 4))
    c.wait_for(5.0, lambda: not call.pending)
    _deny_all(c)
    for number in (1, 2):
        followers[number].silent = True
    _expect_step_down(c, 0, "Most of the new members answer it, but none of the old ones")
