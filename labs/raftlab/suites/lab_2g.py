"""Lab 2G: leadership transfer (dissertation, 3.10).

Every test requires this: a leader that is asked to hand over brings the target up to date and tells it to stand for
election. The target is elected at once, although all servers hear the old leader. Meanwhile, the leader takes no commands. A
transfer that fails is given up, and nothing is worse than before.

How often TimeoutNow is sent, and what a server does with a late TimeoutNow, are the student's choice. The referee checks
that TimeoutNow is sent only when the target has acknowledged the whole log. It also checks that a server sets
leadership_transfer in its RequestVotes only if it was told to stand for election. This lab needs labs 2A to 2D. If a Raft
also has labs 2E and 2F, a transfer must work with these; the tests that change members need lab 2E. In the tests at the
end there is one real server (S0), and the others are scripted.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from raftlab.explain import rules
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.event_loop import Hold
from raftlab.harness.membership import (
    MembershipCall,
    agree_by,
    change,
    configured,
    leader_of,
    ready_leader,
    reconfigure,
)
from raftlab.suites.helpers.configurations import carries_configuration, configuration_entry, hold_change, without
from raftlab.suites.helpers.scripted_servers import (
    NO_LIMIT,
    ROUNDS,
    append,
    campaign_terms,
    entries,
    propose_to_s0,
    send_append,
    wait_for_leadership,
)
from raftlab.suites.helpers.transfers import (
    COMMANDS_WITHIN,
    COMMANDS_WITHIN_AT_MOST,
    LEADS_WITHIN,
    LateFollower,
    ask_for_vote_on_request,
    begin,
    deny_votes,
    elections_on_request,
    expect_commands_again,
    expect_no_command,
    expect_refused,
    expect_timeout_now,
    hand_over,
    hand_over_at_once,
    lead_again,
    send_timeout_now,
    timeouts_now,
)
from raftlab.suites.marking import SIM, StartCluster, points


@points(5)
def test_hand_over(cluster: StartCluster) -> None:
    """Each leader hands over to another server, which then leads."""
    c = cluster(5)
    for number in range(5):
        leader = c.settled_leader()
        c.agree(f"by all, {number}", 5)
        hand_over(c, (leader + 1 + number % 4) % 5)
        c.agree(f"by all again, {number}", 5)


# Sim only, like others below: on a busy machine there may be an election at any time.
@points(5, networks=SIM)
def test_two_are_left(cluster: StartCluster) -> None:
    """Of three servers one has crashed; the other two hand over to each other, so the old leader has to vote, too."""
    c = cluster(3)
    c.agree("by all", 3)
    gone = c.settled_leader()
    c.crash(gone)
    for number in range(4):
        leader = c.settled_leader()
        c.agree(f"by two, {number}", 2)
        hand_over_at_once(c, leader, 3 - gone - leader, ", with the vote of the old leader")
        c.agree(f"by two again, {number}", 2)


@points(5, networks=SIM)
def test_back_and_forth(cluster: StartCluster) -> None:
    """Two servers hand over to each other at once, many times; the last leader sends no more heartbeats than the first."""
    c = cluster(3)
    c.agree("by all", 3)
    leader = c.settled_leader()
    target = (leader + 1) % 3
    counts = []
    for rounds in (0, 8):
        for _ in range(rounds):
            hand_over_at_once(c, leader, target)
            leader, target = target, leader
        c.sleep(0.2)
        before = c.rpc_count(leader, "append_entries")
        c.sleep(1.0)
        counts.append(c.rpc_count(leader, "append_entries") - before)
    text = f"expected S{leader} to send about {counts[0]} heartbeats within a second, but it sent {counts[1]}."
    text = f"{text} The first leader sent {counts[0]}, and eight transfers between S{leader} and S{target} followed"
    c.expect(counts[1] <= 1.5 * counts[0] + 2, text, rules.HEARTBEATS, [leader])
    c.agree("by all again", 3)


@points(6, networks=SIM)
def test_target_leads_at_once(cluster: StartCluster) -> None:
    """A target that lacks the last entries leads the next term at once, without the old leader's vote, and stays leader."""
    c = cluster(3)
    for number in range(4):
        leader = c.settled_leader()
        term = c.agreed_term()
        c.agree(f"by all, {number}", 3)
        c.propose_together(leader, [f"just before, {number}: {each}" for each in range(3)])
        target = (leader + 1 + number % 2) % 3
        # The third server hears the old leader, and its vote is needed.
        held = c.hold("request_vote", src=target, dst=leader)
        hand_over_at_once(c, leader, target, ", with the vote of the third server")
        held.drop()
        c.sleep(1.0)
        now, leads = c.get_state(target)
        text = f"expected S{target} to go on leading term {term + 1}, the one after the old leader's, but it"
        seen = f"{'leads' if leads else 'does not lead, and is in'} term {now}"
        c.expect((now, leads) == (term + 1, True), f"{text} {seen}", rules.TRANSFER, [leader, target])
        c.agree(f"by all again, {number}", 3)


@points(6, networks=SIM)
def test_faster_than_an_election(cluster: StartCluster) -> None:
    """Handing over takes less than a third of the time that the same Raft needs after its leader has crashed."""
    c = cluster(5)
    transfers, elections = [], []
    for number in range(4):
        leader = c.settled_leader()
        c.agree(f"number {number}", 5)
        transfers.append(hand_over_at_once(c, leader, (leader + 1 + number % 4) % 5))
        leader = c.settled_leader()
        since = c.now
        c.crash(leader)
        while c.leader_now() is None and c.now < since + ELECTION_LIMIT:
            c.sleep(0.02)
        elections.append(c.now - since)
        c.one_leader()
        c.restart(leader)
    transfer, election = statistics.median(transfers), statistics.median(elections)
    text = f"expected handing over to take less than a third of an election after a crash ({1000 * election:.0f} ms)"
    c.expect(3 * transfer < election, f"{text}, but it takes {1000 * transfer:.0f} ms (medians of 4)", rules.TRANSFER)


@points(5)
def test_transfers_refused(cluster: StartCluster) -> None:
    """A leader refuses to hand over to itself and to unknown servers; a follower says who leads. Nothing else changes."""
    c = cluster(3)
    c.agree("by all", 3)
    leader = c.settled_leader()
    term = c.agreed_term()
    for number, target in enumerate((leader, -1, 3, 99)):
        answer = c.transfer(leader, target)
        if c.get_state(leader) != (term, True):
            return  # the leader has changed, so this run is inconclusive
        text = f"expected the leader S{leader} to refuse a transfer to S{target} and answer (-1, term, True)"
        hint = "Begin with step 1 of the handout of lab 2G." if answer == (-1, -1, False) else ""
        c.expect(
            answer == (-1, term, True), f"{text}, but it answered {answer}", rules.TRANSFER_ANSWERS, [leader], hint
        )
        index, _, leads = c.propose(leader, f"number {number}")
        text = f"expected S{leader} to take commands after it has refused a transfer, but it does not"
        c.expect(index > 0 or not leads, text, rules.NO_COMMANDS_MEANWHILE, [leader])
    for server in without(range(3), leader):
        for target in range(3):
            answer = c.transfer(server, target)
            if c.get_state(leader) != (term, True):
                return
            text = f"expected S{server}, a follower, to answer ({leader} or -1, {term}, False) to a transfer"
            right = answer in ((leader, term, False), (-1, term, False))
            c.expect(right, f"{text}, but it answered {answer}", rules.TRANSFER_ANSWERS, [server])
    calls = c.rpc_count(method="timeout_now")
    c.expect(calls == 0, f"expected no TimeoutNow, but there were {calls}", rules.TRANSFER_ANSWERS)
    c.agree("by all again", 3)


@points(5, networks=SIM)
def test_nothing_is_asked(cluster: StartCluster) -> None:
    """While nobody asks for a transfer, the leader and the term stay the same, before the first transfer and after it."""
    c = cluster(5)
    leader = c.settled_leader()
    term = c.agreed_term()
    for number in range(2):
        c.agree(f"number {number}", 5)
        calls = c.rpc_count(method="timeout_now")
        c.sleep(2.0)
        now = c.states(range(5))
        text = f"expected S{leader} to go on leading term {term} while nobody asks for a transfer, but the terms are"
        seen = ", ".join(f"S{server}: {each}" for server, (each, _) in now.items())
        right = now[leader] == (term, True) and {each for each, _ in now.values()} == {term}
        c.expect(right, f"{text} {seen}", rules.ELECTION_ON_REQUEST)
        more = c.rpc_count(method="timeout_now") - calls
        text = f"expected no TimeoutNow while nobody asks for a transfer, but there were {more}"
        c.expect(more == 0, text, rules.ELECTION_ON_REQUEST)
        target = (leader + 1 + number) % 5
        hand_over_at_once(c, leader, target)
        leader = c.settled_leader()
        term = c.agreed_term()
        c.sleep(0.3)  # what is still under way may arrive


# --- transfers that fail, or nearly ---


@points(5, networks=SIM)
def test_target_has_crashed(cluster: StartCluster) -> None:
    """A transfer to a server that has crashed is given up: the leader takes commands again, and stays leader."""
    c = cluster(5)
    c.network.long_waits = False  # so that no earlier call delays the heartbeats to the target once it is back
    for number in range(2):
        leader = c.settled_leader()
        term = c.agreed_term()
        c.agree(f"by all, {number}", 5)
        target = (leader + 1 + number) % 5
        c.crash(target)
        if number:
            c.agree("without the target", 4)
        since = c.now
        begin(c, leader, target)
        expect_no_command(c, leader)
        expect_commands_again(c, leader, since)
        c.agree(f"without S{target}, {number}", 4)
        c.restart(target)
        c.sleep(1.0)
        now, leads = c.get_state(leader)
        text = f"expected S{leader} to go on leading term {term} after its target S{target} is back, but it"
        seen = f"{'leads' if leads else 'does not lead, and is in'} term {now}"
        c.expect((now, leads) == (term, True), f"{text} {seen}", rules.NO_COMMANDS_MEANWHILE, [leader, target])
        hand_over_at_once(c, leader, target, ", now that it is back")


@points(5)
def test_target_is_far_behind(cluster: StartCluster) -> None:
    """A target that was cut off, and needs a snapshot, gets it before it is told to stand, and then leads."""
    c = cluster(3)
    c.take_snapshots(5, size=10_000)
    c.agree("by all", 3)
    leader = c.settled_leader()
    target = (leader + 1) % 3
    c.disconnect(target)
    for number in range(20):
        c.agree(f"number {number}", 2)
    c.connect(target)
    hand_over(c, target)
    c.agree("by all again", 3, within=20.0)


@points(6, networks=SIM)
def test_late_timeout_now(cluster: StartCluster) -> None:
    """A TimeoutNow arrives long after its transfer was given up; no entry is lost, even if the target lacks some."""
    c = cluster(5)
    for behind in (False, True):
        leader = c.settled_leader()
        c.agree(f"by all, {behind}", 5)
        target = (leader + 1) % 5
        late = c.hold("timeout_now")
        since = c.now
        begin(c, leader, target)
        told = c.wait_for(1.0, lambda: bool(late.messages))  # noqa: B023  (this round only)
        text = f"expected S{leader} to send TimeoutNow once S{target} has its whole log, but it did not"
        c.expect(told, text, rules.TRANSFER, [leader])
        entries_held = c.hold("append_entries", dst=target, when=lambda args: bool(args["entries"])) if behind else None
        expect_commands_again(c, leader, since)
        c.agree(f"before it arrives, {behind}", 4 if behind else 5)
        late.release()
        c.sleep(0.3)
        if entries_held is not None:
            entries_held.drop()
        c.agree(f"after it has arrived, {behind}", 5)


@points(6, networks=SIM)
def test_crashes_in_between(cluster: StartCluster) -> None:
    """The leader crashes before or after it sends TimeoutNow, or the target when it asks for votes; the others go on."""
    c = cluster(5)
    c.network.long_waits = False
    crashes = (("leader", "before"), ("target", "before"), ("leader", "after"), ("target", "after"))
    for number, (who, side) in enumerate(crashes):
        leader = c.settled_leader()
        c.agree(f"by all, {number}", 5)
        target = (leader + 1 + number) % 5
        victim = leader if who == "leader" else target
        c.crash_at(victim, "send", 1, side, "timeout_now" if who == "leader" else "request_vote")
        c.transfer(leader, target)
        crashed = c.wait_for(LEADS_WITHIN, lambda: not c.server_state(victim).up)  # noqa: B023  (this round only)
        what = "send TimeoutNow" if who == "leader" else f"ask for votes when S{leader} hands over to it"
        c.expect(crashed, f"expected S{victim} to {what}, but it did not", rules.TRANSFER, [leader, target])
        c.one_leader()
        c.agree(f"without S{victim}, {number}", 4)
        c.restart(victim)
        c.agree(f"with S{victim}, {number}", 5)


@points(6)
def test_under_load(cluster: StartCluster) -> None:
    """On a bad network, leaders hand over again and again while clients propose and servers crash; nothing is lost."""
    c = cluster(5)
    c.unreliable(duplicate=0.2)
    down: int | None = None
    for step in range(80):
        leader = c.leader_now()
        if leader is not None:
            if step % 4 == 0:
                c.transfer(leader, c.random.randrange(5))
            c.propose_together(leader, [f"{step}: {number}" for number in range(c.random.randint(1, 4))])
        if step % 20 == 10:
            down = c.random.randrange(5) if leader is None or c.random.random() < 0.5 else leader
            c.crash(down)
        if step % 20 == 19 and down is not None:
            c.restart(down)
        c.sleep(c.random.choice((0.0, 0.01, 0.05, 0.1)))
    c.unreliable(False)
    c.agree("last", 5, within=20.0)
    hand_over(c, c.random.randrange(5))
    c.agree("by all again", 5, within=20.0)


# --- with changes of members: these tests need lab 2E ---


def _complete_change(c: Cluster, members: list[int]) -> None:
    """Wait until a change of members that has begun is complete; if it got lost, ask for it again."""
    if not c.wait_for(5.0, lambda: configured(c, members) > 0):
        reconfigure(c, members)


@points(5, networks=SIM)
def test_who_has_no_vote(cluster: StartCluster) -> None:
    """A leader refuses to hand over to a server that joins, one that is leaving, and one that has left (with lab 2E)."""
    c = cluster(5, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    expect_refused(c, leader, 3, "it is no member")
    catching_up = c.hold("append_entries", dst=3)
    joining = MembershipCall(c, leader, range(4))
    c.sleep(0.1)
    if joining.pending:
        expect_refused(c, leader, 3, "it is only catching up")
    catching_up.release()
    _complete_change(c, [0, 1, 2, 3])
    leader = ready_leader(c, range(4))
    gone = (leader + 1) % 4
    left = without(range(4), gone)
    hold = hold_change(c, MembershipCall(c, leader, left), "reply")
    expect_refused(c, leader, gone, "the latest configuration does not have it")
    hold.release()
    _complete_change(c, left)
    leader = leader_of(c, left)
    expect_refused(c, leader, gone, "it was removed")
    hand_over_at_once(c, leader, without(left, leader)[0])
    agree_by(c, "by those that are left", left)


@points(4, networks=SIM)
def test_both_sets_have_the_target(cluster: StartCluster) -> None:
    """While C_old,new is in force, a leader hands over only to a server of both sets (with part 2 of lab 2E)."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    stays, leaves = without(range(3), leader)
    new = sorted([leader, stays, 3])
    call = MembershipCall(c, leader, new)
    late = c.hold("append_entries", src=leader, leg="reply", when=carries_configuration(new, joint=True))
    c.wait_for(10.0, lambda: bool(late.messages) or not call.pending)
    c.wait_for(1.0, lambda: bool(late.messages))
    if not late.messages:
        return  # this Raft changes one server at a time
    expect_refused(c, leader, leaves, "it is not in C_new")
    expect_refused(c, leader, 3, "it is not in C_old")
    begin(c, leader, stays)
    late.release()
    agree_by(c, "by those of the new set")


@dataclass(frozen=True)
class _JointChange:
    """A change of the members from S0, S1 and S2 to the servers ``new``. ``late`` has the held answers to C_old,new, by
    server. ``target`` is a member before and after the change, and ``leaves`` only before it."""

    c: Cluster
    leader: int
    target: int
    leaves: int
    new: list[int]
    late: dict[int, Hold]


def _joint_change(cluster: StartCluster) -> _JointChange | None:
    """Begin a change by joint consensus, and hold all answers to C_old,new. Returns None if the Raft changes one server at
    a time."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    target, leaves = without(range(3), leader)
    new = sorted([leader, target, 3])
    joint = carries_configuration(new, joint=True)
    late = {dst: c.hold("append_entries", leader, dst, "reply", when=joint) for dst in (target, leaves, 3)}
    call = MembershipCall(c, leader, new)
    c.wait_for(10.0, lambda: bool(late[target].messages) or not call.pending)
    c.wait_for(1.0, lambda: all(hold.messages for hold in late.values()))
    held = all(hold.messages for hold in late.values())
    return _JointChange(c, leader, target, leaves, new, late) if held else None


@points(4, networks=SIM)
def test_new_configuration_first(cluster: StartCluster) -> None:
    """The leader appends C_new while it hands over: TimeoutNow waits until the target has C_new, too (part 2 of lab 2E)."""
    change = _joint_change(cluster)
    if change is None:
        return  # this Raft changes one server at a time
    c, leader, target = change.c, change.leader, change.target
    lacks = c.hold("append_entries", dst=target, when=carries_configuration(change.new, joint=False))
    begin(c, leader, target)
    # C_old,new is committed without the target. The target's answer for C_old,new comes when C_new is in the leader's log.
    for server in (change.leaves, 3):
        change.late[server].release()
    # Some leaders send nothing more to the target while they wait for its answer, and later send everything again.
    if c.wait_for(0.6, lambda: bool(lacks.messages)):
        asked = c.rpc_count(leader, "timeout_now")
        change.late[target].release()
        c.sleep(0.3)
        text = f"expected S{leader} to send no TimeoutNow before S{target} has acknowledged C_new, but it did"
        c.expect(c.rpc_count(leader, "timeout_now") == asked, text, rules.WHOLE_LOG_FIRST, [leader])
    change.late[target].release()
    lacks.release()
    agree_by(c, "by those of the new set")


@points(4, networks=SIM)
def test_joint_change_goes_on(cluster: StartCluster) -> None:
    """C_old,new is committed during a transfer that fails: the leader completes the change (part 2 of lab 2E)."""
    change = _joint_change(cluster)
    if change is None:
        return  # this Raft changes one server at a time
    c, leader, target = change.c, change.leader, change.target
    asked = c.hold("timeout_now")
    begin(c, leader, target)
    for hold in change.late.values():
        hold.release()
    c.sleep(COMMANDS_WITHIN)
    asked.drop()
    c.wait_for(5.0, lambda: configured(c, change.new) > 0)
    text = f"expected S{leader} to complete the change to {change.new}, but it does not. C_old,new is committed, and"
    c.expect(configured(c, change.new) > 0, f"{text} the transfer was given up", rules.JOINT_CONSENSUS, [leader])
    agree_by(c, "by those of the new set")


@points(4, networks=SIM)
def test_during_a_joint_change(cluster: StartCluster) -> None:
    """The target stands while two sets of members are in force: it asks both for their votes (part 2 of lab 2E)."""
    c = cluster(6, members=range(5))
    c.agree("by five", 5)
    leader = ready_leader(c, range(5))
    target, *others = without(range(5), leader)
    new = sorted([leader, target, 5])
    joint = carries_configuration(new, joint=True)
    # Only the target gets C_old,new. The target needs the votes of three of the old five, so at least one from a server
    # that leaves.
    held = [c.hold("append_entries", leader, dst, when=joint) for dst in (*others, 5)]
    call = MembershipCall(c, leader, new)
    c.wait_for(10.0, lambda: bool(held[0].messages) or not call.pending)
    c.wait_for(1.0, lambda: bool(held[0].messages))
    if not held[0].messages:
        return  # this Raft changes one server at a time
    c.sleep(0.05)
    hand_over_at_once(c, leader, target, ", while two sets of members are in force")
    for hold in held:
        hold.drop()
    agree_by(c, "by those of the new set")


@points(5, networks=SIM)
def test_change_of_an_earlier_term(cluster: StartCluster) -> None:
    """S0 waits for a new server, is deposed and elected again at once; the change ends with the old term (lab 2E)."""
    c = cluster(2, scripted=(1,), members=(0,))
    LateFollower(c, 1).stop = 0
    for number in range(3):
        wait_for_leadership(c)
        c.agree(f"by S0 alone, {number}", 1)
        term, _ = c.get_state(0)
        call = MembershipCall(c, 0, range(2))
        c.sleep(0.1)
        if not call.pending:
            return  # for this Raft, a server that lacks so few entries has caught up
        # S0 is the only member. So as soon as it stands, it leads: in the term after the one that TimeoutNow has.
        send_timeout_now(c, 1, term + 5)
        answer = call.answer() or (-1, 0, False)
        text = f"expected S0 to drop the change of term {term} when it leads a later term, but it answered {answer}. S1 has"
        text = f"{text} none of its entries"
        c.expect(not answer[2] or answer[0] < 0, text, rules.LEARNERS, [0])


@points(4, networks=SIM)
def test_change_waits_meanwhile(cluster: StartCluster) -> None:
    """A change of members waits for a new server, which catches up during a transfer: the change is not made (lab 2E)."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    followers = {number: LateFollower(c, number) for number in range(1, 4)}
    followers[3].stop = 0
    wait_for_leadership(c)
    c.agree("by three", 1)
    call = MembershipCall(c, 0, range(4))
    c.sleep(0.2)
    followers[1].stop = len(followers[1].log)
    propose_to_s0(c, "what S1 lacks")
    begin(c, 0, 1)
    followers[3].stop = NO_LIMIT
    answered = c.wait_for(0.3, lambda: not call.pending)
    index, _, _ = c.propose(0, "meanwhile")
    if answered and index < 0:  # the transfer is still under way
        answer = call.answer() or (-1, 0, True)
        text = (
            f"expected S0 to refuse the change, but it answered {answer}. S3 caught up only after S0 began to hand over"
        )
        c.expect(answer[0] < 0, text, rules.NO_COMMANDS_MEANWHILE, [0])
    followers[1].stop = NO_LIMIT


@points(6, networks=SIM)
def test_during_a_change(cluster: StartCluster) -> None:
    """A leader hands over in the middle of a change of members, and refuses changes while it hands over (with lab 2E)."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    target, other = without(range(3), leader)
    # Only the target gets the new configuration, so that it is not committed yet.
    held = [c.hold("append_entries", dst=dst, when=carries_configuration(range(4))) for dst in (other, 3)]
    MembershipCall(c, leader, range(4))
    c.wait_for(10.0, lambda: bool(held[0].messages))
    c.sleep(0.05)
    hand_over_at_once(c, leader, target, ", while S3 joins")
    for hold in held:
        hold.drop()
    agree_by(c, "by the new leader")
    _complete_change(c, [0, 1, 2, 3])
    agree_by(c, "by four", range(4))
    leader = ready_leader(c, range(4))
    target = (leader + 1) % 4
    behind = c.hold("append_entries", dst=target)
    c.propose(leader, "what the target lacks")
    begin(c, leader, target)
    answer = change(c, leader, without(range(4), target))
    text = f"expected S{leader} to refuse a change of members during its transfer and answer (-1, term, True)"
    right = (answer[0], answer[2]) == (-1, True)
    c.expect(right, f"{text}, but it answered {answer}", rules.NO_COMMANDS_MEANWHILE, [leader])
    behind.drop()
    agree_by(c, "by four again", range(4))


# --- one real server, S0; the test plays the others ---


@points(6, networks=SIM)
def test_no_commands_meanwhile(cluster: StartCluster) -> None:
    """While the target does not catch up, S0 takes no commands and begins no other transfer; after 1 s it gives up."""
    c = cluster(3, scripted=(1, 2))
    followers = {number: LateFollower(c, number) for number in (1, 2)}

    def expect_no_timeout_now() -> None:
        """Let S1 catch up, and require that S0 sends S1 no TimeoutNow."""
        followers[1].stop = NO_LIMIT
        c.sleep(0.7)
        calls = len(timeouts_now(c, 1))
        text = f"expected no TimeoutNow, but there were {calls}. S1 caught up only after the transfer was given up"
        c.expect(calls == 0, text, rules.NO_COMMANDS_MEANWHILE, [0])

    term = wait_for_leadership(c)
    index = c.agree("by all", 1)
    c.wait_for(2.0, lambda: len(followers[1].log) >= index)
    followers[1].stop = index
    last = propose_to_s0(c, "what S1 lacks")
    since = c.now
    begin(c, 0, 1)
    for _ in range(2):
        expect_no_command(c, 0)
        for target in (1, 2):
            expect_refused(c, 0, target, "it hands over to S1 already")
        c.sleep(0.01)  # an election timeout, after which S0 gives up, is much longer than this
    text = "expected S0 to go on leading until S1 leads, but it does not"
    c.expect(c.get_state(0) == (term, True), text, rules.TRANSFER, [0])
    expect_commands_again(c, 0, since)
    done = c.wait_for(2.0, lambda: c.committed(last)[1] == "what S1 lacks")
    c.expect(done, "expected S0 to commit with S2 what S1 lacks, but it does not", rules.AGREEMENT, [0])
    expect_no_timeout_now()
    # Once more, but now nobody calls S0 after the transfer has ended and before S1 answers that it has caught up.
    followers[1].stop = len(followers[1].log)
    propose_to_s0(c, "what S1 lacks again")
    begin(c, 0, 1)
    c.sleep(COMMANDS_WITHIN)
    expect_no_timeout_now()
    expect_timeout_now(c, 1, term, ", now that it has caught up,")


@points(6)
def test_whole_log_first(cluster: StartCluster) -> None:
    """The leader sends TimeoutNow only when the target has acknowledged the leader's whole log, committed or not."""
    c = cluster(5, scripted=range(1, 5))
    followers = {number: LateFollower(c, number) for number in range(1, 5)}
    term = wait_for_leadership(c)
    index = c.agree("by all", 1)
    cases = (
        "lacks an entry that the others have",
        "lacks an entry that all others lack, too",
        "has not answered for it",
    )
    for case in cases:
        c.wait_for(2.0, lambda: all(len(each.log) >= index for each in followers.values()))  # noqa: B023  (this round)
        c.sleep(0.1)  # the answers arrive
        late = c.hold("append_entries", dst=1, leg="reply") if case == cases[2] else None
        for number, follower in followers.items():
            if case == cases[1] or (case == cases[0] and number == 1):
                follower.stop = index
        lacking = propose_to_s0(c, case)
        c.sleep(0.05)
        calls = len(timeouts_now(c, 1))
        begin(c, 0, 1)
        c.sleep(0.2)
        text = f"expected S0 to send S1 no TimeoutNow, but it did. The log ends with index {lacking}, and S1 {case}"
        c.expect(len(timeouts_now(c, 1)) == calls, text, rules.WHOLE_LOG_FIRST, [0])
        for follower in followers.values():
            follower.stop = NO_LIMIT
        if late is not None:
            late.release()
        expect_timeout_now(c, 1, term, ", which then has the whole log,")
        index = expect_commands_again(c, 0, c.now, COMMANDS_WITHIN_AT_MOST)


@points(6, networks=SIM)
def test_stands_at_once(cluster: StartCluster) -> None:
    """After TimeoutNow, S0 asks for votes at once, without pre-votes, and with the flag; its next election has no flag."""
    c = cluster(4, scripted=range(1, 4))
    deny_votes(c)
    for term, told in ((1000, 1000), (2000, 2000), (3000, 3500)):
        append(c, 1, term)
        for scripted_server in c.scripted:
            scripted_server.received.clear()
        send_timeout_now(c, 1, told)
        c.wait_for(0.2, lambda: campaign_terms(c, told - 1) == [told + 1] * 3)  # noqa: B023  (this round only)
        text = f"expected S0 (in term {term}) to ask S1, S2 and S3 for votes in term {told + 1} within 0.2 s after a"
        text = f"{text} TimeoutNow of term {told}, but it asked {len(campaign_terms(c, told))} times"
        c.expect(campaign_terms(c, told - 1) == [told + 1] * 3, text, rules.WHO_STANDS, [0])
        text = "expected S0 to set leadership_transfer in these requests, but it did not"
        c.expect(elections_on_request(c) == [told + 1], text, rules.ELECTION_ON_REQUEST, [0])
        asked = [rpc for scripted_server in c.scripted for rpc in scripted_server.received if rpc.method == "pre_vote"]
        text = "expected S0 to ask for no pre-votes after a TimeoutNow"
        c.expect(not asked, f"{text}, but it did", rules.WHO_STANDS, [0])
    # S0 loses this election. Its next one is an ordinary election: the referee checks that it lacks the flag.
    for scripted_server in c.scripted:
        del scripted_server.answer["pre_vote"]
    c.wait_for(ELECTION_LIMIT, lambda: bool(campaign_terms(c, 3501)))
    text = "expected S0 to start another election within 5 s after it has lost that one, but it did not"
    c.expect(bool(campaign_terms(c, 3501)), text, rules.LIVENESS, [0])


@points(5, networks=SIM)
def test_who_obeys(cluster: StartCluster) -> None:
    """S0 refuses a TimeoutNow of an older term, and one of the term that it leads; nothing changes."""
    c = cluster(3, scripted=(1, 2))
    deny_votes(c)
    append(c, 1, 1000)
    for term in (999, 0):
        reply = c.reply_to(send_timeout_now(c, 2, term))
        text = f"expected S0, in term 1000, to answer a TimeoutNow of term {term} with its own term, but it answered"
        c.expect(reply["term"] == 1000, f"{text} {reply['term']}", rules.WHO_STANDS, [0])
        c.sleep(0.1)
        text = f"expected S0, in term 1000, to ignore a TimeoutNow of term {term}, but it asks for votes in term"
        terms = campaign_terms(c)
        c.expect(not terms, f"{text} {terms[-1:]}", rules.WHO_STANDS, [0])
    for number in (1, 2):
        LateFollower(c, number)
        del c.scripted_server(number).answer["pre_vote"]
    term = wait_for_leadership(c)
    reply = c.reply_to(send_timeout_now(c, 1, term))
    c.sleep(0.2)
    text = f"expected S0 to ignore a TimeoutNow of its own term {term} while it leads, but it asks for votes in term"
    terms = campaign_terms(c, term)
    c.expect(not terms, f"{text} {terms[-1:]}", rules.WHO_STANDS, [0])
    text = f"expected S0 to go on leading term {term} after a TimeoutNow of that term, but it does not"
    c.expect(c.get_state(0) == (term, True), text, rules.WHO_STANDS, [0])
    text = f"expected S0 to answer with its term, {term}, but it answered {reply['term']}"
    c.expect(reply["term"] == term, text, rules.WHO_STANDS, [0])


@points(5, networks=SIM)
def test_outside_the_configuration(cluster: StartCluster) -> None:
    """S0 ignores TimeoutNow while it is not a member, and obeys as soon as it has a vote again (with lab 2E)."""
    c = cluster(4, scripted=range(1, 4))
    deny_votes(c)
    append(c, 1, 1000)
    change(c, 0, range(4))  # fails here, with a hint, if there is no lab 2E yet
    append(c, 1, 1000, (0, 0), [configuration_entry(1000, [1, 2, 3])], commit=1)
    c.sleep(0.05)
    reply = c.reply_to(send_timeout_now(c, 1, 1000))
    c.sleep(0.1)
    why = "S0 is not in its configuration {1, 2, 3}"
    text = f"expected S0 to ignore a TimeoutNow, but it asks for votes. {why}"
    c.expect(not campaign_terms(c), text, rules.WHO_STANDS, [0])
    text = f"expected S0 to answer a TimeoutNow with its term 1000, but it answered {reply['term']}. {why}"
    c.expect(reply["term"] == 1000, text, rules.WHO_STANDS, [0])
    append(c, 1, 1000, (1, 1000), [configuration_entry(1000, [0, 1, 2, 3])], commit=1)
    send_timeout_now(c, 1, 1000)
    c.wait_for(0.2, lambda: elections_on_request(c) == [1001])
    text = "expected S0 to obey TimeoutNow as soon as the latest configuration in its log has it, but it does not"
    c.expect(elections_on_request(c) == [1001], text, rules.WHO_STANDS, [0])


@points(5)
def test_told_at_once(cluster: StartCluster) -> None:
    """TimeoutNow arrives twice, or together with a newer leader's message or heartbeats; S0 stands in one term at most."""
    c = cluster(4, scripted=range(1, 4))
    deny_votes(c)
    rounds = ROUNDS * 3 // 2
    for number in range(rounds):
        term = 1000 + 10 * number
        append(c, 1, term)
        with c.at_once(0):
            send_timeout_now(c, 1, term)
            if number % 3 == 0:
                send_append(c, 2, term + 5)
            elif number % 3 == 1:
                send_timeout_now(c, 1, term)
            else:
                for _ in range(3):
                    send_append(c, 1, term)
        c.sleep(0.02)
        if number % 3 == 2 and term + 1 not in elections_on_request(c):
            # A heartbeat came first, and S0 did not stand. So a later election must be an ordinary one, without the flag.
            # The referee checks this.
            append(c, 1, term + 5)
            c.sleep(1.0)
    text = f"expected S0 to obey at least one of {rounds} TimeoutNows, but it did not"
    c.expect(bool(elections_on_request(c)), text, rules.WHO_STANDS, [0])


@points(6, networks=SIM)
def test_votes_on_request(cluster: StartCluster) -> None:
    """If a leader wants an election, S0 votes although it hears that leader, or leads itself; the other rules stay."""
    c = cluster(4, scripted=range(1, 4))
    deny_votes(c)
    append(c, 1, 1000, (0, 0), entries(900, "one", "two"))
    rows = (
        ("which has the same log", (2, 900), True),
        ("which has a longer log", (3, 900), True),
        ("which has a shorter log of a later term", (1, 901), True),
        ("which has a shorter log", (1, 900), False),
        ("which has a longer log of an older term", (9, 899), False),
    )

    def expect_answer(who: int, term: int, last: tuple[int, int], wanted: bool, why: str) -> None:
        granted = ask_for_vote_on_request(c, who, term, last)
        want, got = "to vote" if wanted else "not to vote", "did" if granted else "did not"
        text = f"expected S0 {want} in term {term} for S{who}, {why}, but it {got}. S{who} was told to stand"
        c.expect(granted == wanted, text, rules.ELECTION_ON_REQUEST, [0])

    for number, (why, last, wanted) in enumerate(rows):
        term = 1000 + 10 * number
        append(c, 1, term, (2, 900))
        expect_answer(2, term + 1, last, wanted, why)
        if wanted:
            expect_answer(3, term + 1, (9, 901), False, "as it has voted for S2 in that term")
            if not number:
                c.restart(0)
                expect_answer(3, term + 1, (9, 901), False, "as it has voted for S2 in that term, before its restart")
        append(c, 2, term + 3, (2, 900))
        expect_answer(3, term + 2, (9, 901), False, f"as S0 is in term {term + 3}")
    for number in (1, 2, 3):
        LateFollower(c, number)
        del c.scripted_server(number).answer["pre_vote"]
    term = wait_for_leadership(c)
    expect_answer(1, term + 1, (10_000, term), True, f"although S0 leads term {term}")
    c.expect(not c.get_state(0)[1], "expected S0 to stop leading when it votes, but it leads", rules.HIGHER_TERM, [0])


@points(5, networks=SIM)
def test_higher_term_ends_it(cluster: StartCluster) -> None:
    """S0 leads again in a higher term, soon after a transfer of its earlier term; that transfer is over."""
    c = cluster(3, scripted=(1, 2))
    for number in (1, 2):
        LateFollower(c, number)
    term = wait_for_leadership(c)
    for number in range(3):
        begin(c, 0, 1)
        c.sleep(0.02)
        calls = len(timeouts_now(c, 1))
        term = lead_again(c, 2, term)
        index, _, leads = c.propose(0, f"number {number}")
        text = f"expected S0 to take commands in term {term}, but start() returned ({index}, term, {leads})"
        why = "Its transfer ended with the term before"
        c.expect(leads and index > 0, f"{text}. {why}", rules.NO_COMMANDS_MEANWHILE, [0])
        c.sleep(0.3)
        more = [rpc for rpc in timeouts_now(c, 1)[calls:] if rpc.args["term"] == term]
        text = f"expected S0 to send no TimeoutNow in term {term}, but it did. Nobody asked for a transfer in that term"
        c.expect(not more, text, rules.NO_COMMANDS_MEANWHILE, [0])
    # The target answers TimeoutNow with a higher term, because it has heard of a newer leader.
    c.scripted_server(1).answer["timeout_now"] = lambda rpc: {"term": term + 7}
    begin(c, 0, 1)
    c.wait_for(0.3, lambda: c.get_state(0)[0] >= term + 7)
    now, _ = c.get_state(0)
    text = f"expected S0 to adopt term {term + 7} from S1's answer to TimeoutNow, but it is in term {now}"
    c.expect(now >= term + 7, text, rules.HIGHER_TERM, [0])


@points(5, networks=SIM)
def test_answers_of_an_earlier_transfer(cluster: StartCluster) -> None:
    """TimeoutNow calls of an earlier transfer fail or are answered while S0 hands over to S2; the new transfer goes on."""
    c = cluster(3, scripted=(1, 2))
    followers = {number: LateFollower(c, number) for number in (1, 2)}
    c.scripted_server(1).answer["timeout_now"] = lambda rpc: {"term": rpc.args["term"]}
    wait_for_leadership(c)
    for leg, how in (("request", "have failed"), ("reply", "are answered")):
        followers[2].stop = NO_LIMIT
        index = c.agree(f"by all, {c.now:.3f}", 1)
        c.wait_for(2.0, lambda: all(len(each.log) >= index for each in followers.values()))  # noqa: B023  (this round)
        late = c.hold("timeout_now", dst=1, leg=leg)
        since = c.now
        begin(c, 0, 1)
        c.sleep(0.6)
        expect_commands_again(c, 0, since)
        followers[2].stop = len(followers[2].log)
        propose_to_s0(c, "what S2 lacks")
        begin(c, 0, 2)
        late.drop() if leg == "request" else late.deliver(c.now)
        since = c.now
        while c.now < since + 0.11:  # in this time a lost message is noticed; an election timeout is longer
            c.sleep(0.01)
            at, _, leads = c.propose(0, f"meanwhile, {c.now:.3f}")
            text = f"expected S0 to take no command while it hands over to S2, but start() returned {at}. S0's calls of"
            text = f"{text} TimeoutNow to S1 {how}, but they belong to an earlier transfer"
            c.expect(not leads or at < 0, text, rules.NO_COMMANDS_MEANWHILE, [0])
        c.sleep(0.6)
        expect_commands_again(c, 0, since)


@points(4, networks=SIM)
def test_next_transfer_begins_at_once(cluster: StartCluster) -> None:
    """A target is told to stand and does not; once that transfer is given up, the next target is told at once."""
    c = cluster(3, scripted=(1, 2))
    followers = {number: LateFollower(c, number) for number in (1, 2)}
    for number in (1, 2):
        c.scripted_server(number).answer["timeout_now"] = lambda rpc: {"term": rpc.args["term"]}
    wait_for_leadership(c)
    for first, target in ((1, 2), (1, 1), (2, 1)):
        since = c.now
        begin(c, 0, first)
        index = expect_commands_again(c, 0, since)
        c.wait_for(2.0, lambda: all(len(each.log) >= index for each in followers.values()))  # noqa: B023  (this round)
        c.sleep(0.05)  # the answers arrive
        seen = len(timeouts_now(c, target))
        begin(c, 0, target)
        # The handout allows a whole transfer a third of the time of an election after a crash. 0.3 s is less than that.
        told = c.wait_for(0.3, lambda: len(timeouts_now(c, target)) > seen)  # noqa: B023  (this round)
        text = (
            f"expected S0 to send TimeoutNow to S{target} at once, but after 0.3 s it has not. S{target} has the whole"
        )
        text = f"{text} log, and S0's earlier transfer to S{first} was given up"
        c.expect(told, text, rules.TRANSFER, [0])
        expect_commands_again(c, 0, c.now)


@points(5, networks=SIM)
def test_transfers_at_once(cluster: StartCluster) -> None:
    """S0 is asked for two transfers at the same moment, or for one just as it is deposed; it begins one at most."""
    c = cluster(3, scripted=(1, 2))
    for number in (1, 2):
        LateFollower(c, number)
    term = wait_for_leadership(c)
    for number in range(ROUNDS):
        with c.at_once(0):
            calls = [c.ask_transfer(0, target) for target in ((1, 2) if number % 2 else (1,))]
            if not number % 2:
                send_append(c, 2, term + 5)
        answers = c.transferred(0, calls)
        if not number % 2:
            text = f"expected S0 to begin a transfer in its own term {term}, or to answer in term {term + 5} that it"
            right = answers[0] == (1, term, True) or answers[0][1:] == (term + 5, False)
            c.expect(right, f"{text} follows, but it answered {answers[0]}", rules.TRANSFER_ANSWERS, [0])
            c.sleep(0.005)
            told = [rpc for rpc in timeouts_now(c, 1) if rpc.args["term"] == term + 5]
            text = f"expected S0 to send no TimeoutNow of term {term + 5}, but it sent one to S1. S2 leads that term"
            c.expect(not told, text, rules.TRANSFER, [0])
            term = lead_again(c, 2, term + 5)
            continue
        begun = [target for target, answer in zip((1, 2), answers, strict=True) if answer == (target, term, True)]
        refused = [answer for answer in answers if answer == (-1, term, True)]
        text = f"expected S0 to begin one of two transfers and to refuse the other, but it answered {answers[0]}"
        right = len(begun) == len(refused) == 1
        c.expect(right, f"{text} and {answers[1]}", rules.TRANSFER_ANSWERS, [0])
        term = lead_again(c, 2, term)


@points(5, networks=SIM)
def test_commands_at_once(cluster: StartCluster) -> None:
    """A command comes together with the request for a transfer: S1 gets it before TimeoutNow, or it is refused."""
    c = cluster(3, scripted=(1, 2))
    followers = {number: LateFollower(c, number) for number in (1, 2)}
    term = wait_for_leadership(c)
    for number in range(ROUNDS):
        index = c.agree(f"by all, {number}", 1)
        c.wait_for(1.0, lambda: len(followers[1].log) >= index)  # noqa: B023  (this round only)
        c.sleep(0.01)
        followers[1].stop = index
        seen = len(timeouts_now(c, 1))
        with c.at_once(0):
            transfer = c.ask_transfer(0, 1)
            command = c.ask_start(0, f"together, {number}")
        c.transferred(0, [transfer])
        at, _, leads = c.started(0, [command])[0]
        c.sleep(0.1)
        told = len(timeouts_now(c, 1)) > seen
        text = f"expected S0 to refuse the command, or to send S1 no TimeoutNow before S1 has it, but start() returned {at}"
        right = not (leads and at > 0 and told)
        c.expect(right, f"{text}, and S1 got TimeoutNow without the command", rules.WHOLE_LOG_FIRST, [0])
        followers[1].stop = NO_LIMIT
        term = lead_again(c, 2, term)
