"""Lab 2E: membership (§6; dissertation, chapter 4).

Every test requires this: a leader performs the requested change. From then on, the servers of the new configuration, and no
others, elect leaders and commit entries. No failure during a change loses a committed entry. Part 1 changes one server at a
time, by any method. The tests of part 2, whose names begin with part2, change any number of servers at once.

How a new server is brought up to date, how long a leader tries, and whether it notifies a removed server are the student's
choice. The referee reads the configurations in entries and snapshots. In the tests at the end of each part there is one real
server (S0), and the others are scripted servers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from raftlab.explain import rules
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.membership import (
    MembershipCall,
    agree_by,
    change,
    configured,
    leader_of,
    ready_leader,
    reconfigure,
    refused,
)
from raftlab.referee.base import Message
from raftlab.referee.configuration import names
from raftlab.suites.helpers.configurations import (
    ScriptedFollowers,
    ScriptedVoters,
    carries_configuration,
    commit_in_vain,
    configuration_at,
    configuration_entry,
    crash_leader_during_change,
    expect_commit_among,
    expect_members,
    hold_change,
    without,
)
from raftlab.suites.helpers.scripted_leader import SnapshotSender, term_of
from raftlab.suites.helpers.scripted_servers import (
    ROUNDS,
    ScriptedFollower,
    append,
    ask_vote,
    entries,
    propose_to_s0,
    request_vote,
    send_append,
    wait_for_campaign,
    wait_for_leadership,
)
from raftlab.suites.marking import SIM, StartCluster, points

# --- part 1: one server at a time ---


@points(5)
def test_add_one(cluster: StartCluster) -> None:
    """A fourth server is added to a cluster of three; from then on, a majority is three of four."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    index = reconfigure(c, range(4))
    expect_members(c, [0, 1, 2, 3], index, "after S3 was added")
    c.agree("by four", 4)
    leader = leader_of(c, range(4))
    rest = without(range(4), leader)
    c.partition([leader, rest[0]], rest[1:])
    commit_in_vain(c, leader)  # at most two of four servers have it
    expect_commit_among(c, rest, "three of four")
    c.heal()
    c.agree("by four again", 4)


@points(5)
def test_remove_one(cluster: StartCluster) -> None:
    """One of four servers is removed; from then on, a majority is two of three, and the removed server does not count."""
    c = cluster(4)
    c.agree("by four", 4)
    gone = (leader_of(c, range(4)) + 1) % 4
    left = without(range(4), gone)
    index = reconfigure(c, left)
    expect_members(c, left, index, f"after S{gone} was removed")
    agree_by(c, "by three", left)
    leader = leader_of(c, left)
    others = without(left, leader)
    c.partition([leader, gone], others)
    commit_in_vain(c, leader)  # one of three members has it
    expect_commit_among(c, others, "two of three")
    c.heal()
    agree_by(c, "by three again", left)


@points(4)
def test_replace_in_two_steps(cluster: StartCluster) -> None:
    """A new server is added and an old one is removed; from then on, the new server counts and the old one does not."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    gone = leader_of(c, range(3))
    reconfigure(c, range(4))
    left = without(range(4), gone)
    reconfigure(c, left, among=range(4))
    c.crash(gone)
    agree_by(c, "by the three that are left", left)
    expect_commit_among(c, [left[0], 3], "one of the old ones, and the new one")


@points(6)
def test_remove_the_leader(cluster: StartCluster) -> None:
    """Each leader in turn removes itself and steps down, until only one server is left."""
    c = cluster(4)
    c.agree("by four", 4)
    left = list(range(4))
    while len(left) > 1:
        old = leader_of(c, left)
        left = without(left, old)
        reconfigure(c, left, among=[old, *left])
        c.wait_for(ELECTION_LIMIT, lambda: not c.get_state(old)[1])  # noqa: B023  (called in this round only)
        text = f"expected the removed leader S{old} to step down within 5 s, but it still leads"
        c.expect(not c.get_state(old)[1], text, rules.REMOVED_LEADER, [old])
        c.one_leader(among=left)
        agree_by(c, f"without S{old}", left)


@points(5)
def test_removed_leader_crashes(cluster: StartCluster) -> None:
    """One of two servers removes itself, and crashes before the other gets the change; restarted, it can be elected."""
    c = cluster(2)
    c.agree("by two", 2)
    first = ready_leader(c, range(2))
    other = 1 - first
    call = MembershipCall(c, first, [other])
    hold = hold_change(c, call, "request")
    c.crash(first)
    hold.drop()
    c.restart(first)
    # Only the log of the first server has the change, so only that server can win an election, with the other's vote.
    c.agree("after all", 1, within=20.0)
    reconfigure(c, [other])
    c.crash(first)
    agree_by(c, "by the other one alone", [other])


# Sim only: a leader that the dead server does not answer may step down. The dead server must be removed before that.
@points(4, networks=SIM)
def test_remove_a_dead_server(cluster: StartCluster) -> None:
    """One of two servers has crashed, and the other one removes it; that change is committed at once."""
    c = cluster(2)
    c.agree("by two", 2)
    leader = ready_leader(c, range(2))
    c.network.long_waits = False  # so that the leader's calls to the dead server fail soon
    c.crash(1 - leader)
    waiting, _, _ = c.propose(leader, "waiting")
    index, term, leads = change(c, leader, [leader])
    text = f"expected S{leader} to accept the change, but it refuses"
    c.expect(leads and index > 0, text, rules.CHANGE_ANSWERS, [leader])
    c.sleep(1.0)
    commit = c.event_loop.referee.commit
    sent = None if commit is None else commit.sent_configurations.get((index, term))
    if c.committed(index)[0] == 0 and (sent is None or sent.old):
        return  # the change goes through C_old,new, which needs the dead server; that is correct, too
    c.wait_for(2.0, lambda: c.committed(index)[0] == 1)
    text = f"expected S{leader} to apply index {waiting} and its change at {index} within 2 s"
    c.expect(
        c.committed(index)[0] == 1, f"{text}, but it has not. It is now the only member", rules.MEMBERS_COUNT, [leader]
    )
    c.agree("by one", 1)


@points(6)
def test_grow_and_shrink(cluster: StartCluster) -> None:
    """A cluster grows from one server to seven and shrinks to one again, one at a time, while commands keep coming."""
    c = cluster(7, members=(0,))
    c.agree("by one", 1)
    for size in (2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1):
        leader = c.leader_now()
        if leader is not None:
            c.propose_together(leader, [f"{size}: {number}" for number in range(5)])
        reconfigure(c, range(size))
        agree_by(c, f"by {size}", range(size))
    c.partition([0])
    c.agree("by one again", 1, among=[0])


@points(5)
def test_changes_on_a_bad_network(cluster: StartCluster) -> None:
    """Servers are added and removed on a network that delays, loses and repeats messages."""
    c = cluster(5, members=range(3))
    c.unreliable(duplicate=0.1)
    c.agree("by three", 3, within=20.0)
    for members in ((0, 1, 2, 3), (1, 2, 3), (1, 2, 3, 4), (0, 1, 2, 3, 4), (0, 1, 2, 4), (0, 1, 4)):
        reconfigure(c, members)
        agree_by(c, f"by {members}", members)


@points(5)
def test_outsiders_do_not_count(cluster: StartCluster) -> None:
    """Servers that are not members count neither in elections nor in commits."""
    c = cluster(5, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    rest = without(range(3), leader)
    c.partition([leader, 3, 4], rest)
    # The leader is asked to add S3, and S3 gets every entry. But the leader and S3 are no majority, whether S3 is a member
    # already (two of four) or not (one of three).
    c.propose(leader, "before S3 comes")
    MembershipCall(c, leader, range(4))
    commit_in_vain(c, leader)
    c.one_leader(among=rest)
    c.agree("by two members", 2, among=rest)
    c.crash(leader)
    c.restart(leader)
    c.partition([leader, 3, 4], rest)
    for _ in range(6):
        c.sleep(0.5)
        c.no_leader(among=[leader, 3, 4])
    c.heal()
    agree_by(c, "by three again", range(3))


@points(5)
def test_a_learner_that_is_not_there(cluster: StartCluster) -> None:
    """If a new server cannot be reached, change_membership gives up and returns; meanwhile, commands are still committed."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    leader = ready_leader(c, range(3))
    away = (leader + 1) % 3
    for server in (3, away):
        c.disconnect(server)
    call = MembershipCall(c, leader, range(4))
    for number in range(4):
        c.agree(f"by two, {number}", 2)
    answer = call.answer()
    if answer is not None and answer[2]:
        text = f"expected S{leader} to answer -1, but it answered {answer[0]}. S3 never caught up"
        c.expect(answer[0] == -1, text, rules.LEARNERS, [leader])
    c.agree("by two of three still", 2)
    c.heal()
    reconfigure(c, range(4))
    c.agree("by four", 4)


@points(5)
def test_a_learner_that_crashes(cluster: StartCluster) -> None:
    """A new server crashes while it catches up; the others go on, and the server can be added after it restarts."""
    c = cluster(4, members=range(3))
    for number in range(3):
        c.propose_together(c.one_leader(among=range(3)), [f"{number}: {at}" for at in range(30)])
        c.agree(f"by three, {number}", 3)
        leader = ready_leader(c, range(3))
        slow = c.hold("append_entries", dst=3, leg="reply", when=lambda args: bool(args["entries"]), most=1)
        call = MembershipCall(c, leader, range(4))
        c.wait_for(3.0, lambda: bool(slow.messages))  # noqa: B023  (called in this round only)
        c.crash(3)
        slow.drop()
        c.agree(f"by three, while S3 is down, {number}", 3)
        answer = call.answer()
        c.restart(3)
        if answer is not None and answer[0] > 0:
            reconfigure(c, range(3))  # S3 may have caught up just before its crash
    reconfigure(c, range(4))
    c.agree("by four", 4)


@points(5)
def test_one_at_a_time(cluster: StartCluster) -> None:
    """While a change is under way, the leader refuses a second one; afterwards, it accepts one again."""
    c = cluster(5, members=range(4))
    c.agree("by four", 4)
    leader = ready_leader(c, range(4))
    first, second, _ = without(range(4), leader)
    held = c.hold("append_entries", src=leader, when=lambda args: bool(args["entries"]))
    taken = change(c, leader, [leader, first, second])
    again = change(c, leader, [leader, first])
    if taken[2] and taken[0] > 0 and again[2]:
        text = f"expected S{leader} to refuse a change while the one at index {taken[0]} is not committed"
        c.expect(
            again[0] == -1, f"{text}, but it accepted a second one at index {again[0]}", rules.ONE_CHANGE, [leader]
        )
    held.release()
    c.agree("by three", 3, within=20.0)
    reconfigure(c, range(4))
    # A new server that catches up is a change under way as well.
    leader = ready_leader(c, range(4))
    c.disconnect(4)
    call = MembershipCall(c, leader, range(5))
    c.sleep(0.1)
    if call.pending:
        again = change(c, leader, without(range(4), (leader + 1) % 4))
        text = f"expected S{leader} to refuse a change while a new server catches up, but it answered {again[0]}"
        c.expect(not again[2] or again[0] == -1, text, rules.ONE_CHANGE, [leader])
    call.answer()
    c.heal()
    c.agree("by four again", 4)


@points(6)
def test_own_term_first(cluster: StartCluster) -> None:
    """A new leader begins no change before it has committed an entry of its own term (Raft lacked this rule until 2015)."""
    c = cluster(4)
    c.agree("by four", 4)
    for number in range(3):
        # A leader starts a change that no other server gets, and is cut off.
        old = ready_leader(c, range(4))
        rest = without(range(4), old)
        unheard = c.hold("append_entries", src=old, when=lambda args: bool(args["entries"]))
        change(c, old, without(range(4), rest[0]))
        c.partition([old], rest)
        # The next leader is asked for another change of the same four servers, while none of its own entries reaches the
        # others.
        held = [c.hold("append_entries", src=who, when=lambda args: bool(args["entries"])) for who in rest]
        new = c.one_leader(among=rest)
        index, term, leads = change(c, new, rest)
        if leads:
            text = f"expected S{new} to refuse a change before an entry of its term {term} is committed"
            c.expect(index == -1, f"{text}, but it answered {index}", rules.OWN_TERM_FIRST, [new])
        unheard.drop()
        for hold in held:
            hold.release()
        c.agree(f"by three, {number}", 3, among=rest, within=20.0)
        c.heal()
        c.agree(f"by four, {number}", 4, within=20.0)


@points(5)
def test_what_is_refused(cluster: StartCluster) -> None:
    """A leader refuses a configuration without servers, or with servers that do not exist; a follower says who leads."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    for number in range(2):
        leader = ready_leader(c, range(3))
        c.sleep(0.5)
        for members in ([], [0, 1, 2, 99], [-1, 0, 1, 2], [7]):
            index, _, leads = change(c, leader, members)
            text = f"expected S{leader} to refuse the members {members}, but it answered {index}"
            c.expect(not leads or index == -1, text, rules.CHANGE_ANSWERS, [leader])
        for server in without(range(3), leader):
            index, _, leads = change(c, server, range(4))
            if c.leader_now(among=range(3)) != leader:
                continue  # the leader has changed, so this attempt is inconclusive
            text = f"expected S{server}, a follower, to answer that S{leader} leads, ({leader}, term, False)"
            c.expect(
                (index, leads) == (leader, False),
                f"{text}, but it answered ({index}, term, {leads})",
                rules.CHANGE_ANSWERS,
                [server],
            )
        c.agree(f"nothing has changed, {number}", 3)
        c.crash(leader)
        c.agree(f"nor in the next term, {number}", 2)
        c.restart(leader)


@points(6)
def test_leader_crashes_in_a_change(cluster: StartCluster) -> None:
    """The leader crashes at each step of a change; the others elect a leader, and the change can be made."""
    c = cluster(5, members=range(3))
    now, then = list(range(3)), list(range(4))
    for phase in ("while others catch up", "with the entry", "once the entry is sent", "at the end"):
        leader = crash_leader_during_change(c, now, then, phase, joint=False)
        c.agree(f"without S{leader}, which crashed {phase}", 2, within=20.0)
        c.restart(leader)
        reconfigure(c, then)
        c.agree(f"with all, {phase}", 4, within=20.0)
        # Change the members back, with another crash.
        leader = crash_leader_during_change(
            c, then, now, phase.replace("while others catch up", "at the end"), joint=False
        )
        c.agree(f"without S{leader} again, {phase}", 2, within=20.0)
        c.restart(leader)
        reconfigure(c, now)
        agree_by(c, f"with three, {phase}", now)


@points(5)
def test_partition_in_a_change(cluster: StartCluster) -> None:
    """The network is partitioned during a change; if the change is not committed, the old configuration counts again."""
    c = cluster(4, members=range(3))
    for number in range(3):
        c.agree(f"by three, {number}", 3)
        leader = ready_leader(c, range(3))
        rest = without(range(3), leader)
        call = MembershipCall(c, leader, range(4))
        hold = hold_change(c, call, "request")
        c.partition([leader, 3], rest)
        hold.release()
        commit_in_vain(c, leader)  # two of four members have it
        # The other two servers have not heard of the change. They are two of three members.
        c.agree(f"by the other two, {number}", 2, among=rest, within=20.0)
        c.heal()
        agree_by(c, f"by three again, {number}", range(3))
        # The change was never committed, so it is undone everywhere: any two of three are enough.
        expect_commit_among(c, [leader, rest[0]], "two of three")
        c.heal()


@points(5)
def test_configuration_survives(cluster: StartCluster) -> None:
    """After a restart, servers use the configuration in their logs, not the initial one."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    reconfigure(c, range(4))
    c.agree("by four", 4)
    for server in range(4):
        c.crash(server)
    c.start_all()
    c.partition([0, 1], [2, 3])
    for _ in range(6):
        c.sleep(0.5)
        c.no_leader()
    expect_commit_among(c, [1, 2, 3], "three of four")
    c.heal()
    # Remove all servers but one. After a restart, that server must know that it needs no other.
    for members in ((1, 2, 3), (2, 3), (3,)):
        reconfigure(c, members)
    for server in range(4):
        c.crash(server)
    c.restart(3)
    c.agree("by one, after a restart", 1, among=[3])


@points(6)
def test_snapshot_carries_the_configuration(cluster: StartCluster) -> None:
    """A configuration that is only in a snapshot counts, both after a restart and on a server that receives the snapshot."""
    c = cluster(5, members=range(3))
    c.take_snapshots(every=5)
    c.agree("by three", 3)
    reconfigure(c, range(4))
    reconfigure(c, (1, 2, 3))
    for number in range(3):
        c.propose_together(c.one_leader(among=(1, 2, 3)), [f"{number}: {at}" for at in range(8)])
        agree_by(c, f"by the three, {number}", (1, 2, 3))
    reconfigure(c, (1, 2, 3, 4))
    c.propose_together(c.one_leader(among=(1, 2, 3, 4)), [f"at last: {at}" for at in range(12)])
    agree_by(c, "by the four", (1, 2, 3, 4))
    for server in range(5):
        c.crash(server)
    c.start_all()
    # Servers 0 to 2 were all the members at first. Now two of them are half of the four members.
    c.partition([0, 1, 2], [3, 4])
    for _ in range(6):
        c.sleep(0.5)
        c.no_leader()
    expect_commit_among(c, (2, 3, 4), "three of the four")
    c.heal()
    agree_by(c, "by the four again", (1, 2, 3, 4))


@points(6)
def test_snapshot_replaces_a_configuration(cluster: StartCluster) -> None:
    """A change that only one server has in its log is undone when a snapshot replaces that log."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    old = ready_leader(c, range(3))
    first, second = without(range(3), old)
    unheard = c.hold("append_entries", src=old, when=lambda args: bool(args["entries"]))
    change(c, old, [old, second])
    c.partition([old], [first, second, 3])
    unheard.drop()
    c.take_snapshots(every=5)
    c.agree("by two", 2, among=[first, second])
    reconfigure(c, range(4), among=[first, second])
    c.propose_together(c.one_leader(among=[first, second, 3]), [f"number {at}" for at in range(15)])
    c.agree("by the three", 3, among=[first, second, 3])
    c.heal()
    c.agree("by four", 4)
    c.take_snapshots(every=0)
    # These two servers are half of the four members. A server that still used the lost change would think that these two
    # are all the members.
    c.partition([old, second], [first, 3])
    for _ in range(8):
        c.sleep(0.5)
    leader = c.leader_now(among=[old, second])
    if leader is not None:
        commit_in_vain(c, leader)  # two of four members have it
    c.heal()
    c.agree("by four again", 4)


@points(6)
def test_removed_server_comes_back(cluster: StartCluster) -> None:
    """A server that was removed while it was cut off returns with a high term; the others go on undisturbed."""
    c = cluster(4)
    c.agree("by four", 4)
    gone = (leader_of(c, range(4)) + 1) % 4
    left = without(range(4), gone)
    # At first, `gone` hears nothing, but the others hear it: it asks for their votes in one new term after another.
    for server in left:
        c.cut(server, gone)
    reconfigure(c, left)
    term, since = c.agreed_term(among=left), c.now
    c.sleep(5.0)
    now = c.agreed_term(among=left)
    text = (
        f"expected the members to stay in term {term} while S{gone} hears nothing, but 5 s later they are in term {now}"
    )
    observe = partial(c.disturbance_seen, gone, since)
    c.expect(now <= term + 1, text, rules.REMOVED_SERVER, left, observe=observe)
    c.disconnect(gone)
    c.sleep(5.0)
    for server in left:
        c.mend(server, gone)
    term = c.agreed_term(among=left)
    c.connect(gone)
    for number in range(10):
        c.sleep(0.7)
        c.agree(f"while S{gone} is back, {number}", 3, among=left)
    c.sleep(1.0)
    # Every change of leader starts a new term. When the server returns, one or two new terms are allowed, but none later.
    leader = leader_of(c, left)
    since = c.now
    before, _ = c.get_state(leader)
    c.sleep(5.0)
    now = c.agreed_term(among=left)
    text = f"expected the members to stay in term {before} while S{gone} is back, but 5 s later they are in term {now}"
    text += f" (and were in term {term} when it returned)"
    observe = partial(c.disturbance_seen, gone, since)
    c.expect(now <= before + 1, text, rules.REMOVED_SERVER, left, observe=observe)


# --- part 1, one real server, S0; the test plays the others ---


@points(6)
def test_who_counts(cluster: StartCluster) -> None:
    """The latest configuration counts: as soon as its entry is in the log, after a restart, and when it is in a snapshot."""
    c = cluster(5, scripted=range(1, 5), members=range(3))
    voters = ScriptedVoters(c)
    rule = rules.MEMBERS_COUNT
    voters.expect_loss([3, 4], "S3 and S4 are not members", rule)
    append(c, 1, 1000, (0, 0), [configuration_entry(1000, [0, 1, 2, 3])])
    voters.expect_loss([1], "two of four since the entry at index 1", rule)
    append(c, 1, 2000, (1, 1000), [configuration_entry(2000, [0, 1, 2, 3, 4])])
    voters.expect_loss([1], "two of five since the entry at index 2", rule)
    c.restart(0)
    voters.expect_loss([2], "two of five, also after a restart", rules.CONFIGURATION_STAYS)
    voters.expect_win([3, 4], "three of five", rule)
    # Another leader's entry replaces the entry at index 2, so the configuration at index 1 counts again.
    append(c, 2, 20_000, (1, 1000), entries(20_000, "instead"))
    voters.expect_loss([4, 1], "two of the four members at index 1; the entry at index 2 is gone", rule)
    voters.expect_win([2, 3], "three of four", rule)
    # The configuration at index 1 cannot be removed any more: it was committed before the change at index 2 began.
    # Now a snapshot brings a configuration.
    sender = SnapshotSender(c)
    sender.term = 40_000
    sender.ask("install_snapshot", **sender.chunk(10, 0), members=[0, 3, 4], old_members=None)
    voters.expect_loss(
        [1, 2], "S1 and S2 are not members according to the snapshot up to index 10", rules.CONFIGURATION_STAYS
    )
    c.restart(0)
    voters.expect_win([3], "two of three according to the snapshot, after a restart", rules.CONFIGURATION_STAYS)
    last = (10, term_of(10))
    append(c, 1, 50_000, last, [configuration_entry(50_000, [0, 2, 3, 4])])
    voters.expect_loss([3], "two of four since the entry at index 11", rule)
    append(c, 2, 60_000, last, entries(60_000, "instead"))
    voters.expect_loss(
        [2, 1], "S1 and S2 are not members according to the snapshot; the entry at index 11 is gone", rule
    )
    voters.expect_win([4], "two of three according to the snapshot; the entry at index 11 is gone", rule)


@points(6)
def test_leader_counts_itself_out(cluster: StartCluster) -> None:
    """A leader that removes itself does not count itself, and leads until the change is committed."""
    c = cluster(4, scripted=range(1, 4))
    followers = ScriptedFollowers(c)
    wait_for_leadership(c)
    first = c.agree("by all", 1)
    followers.limit_logs(first, 1, 2, 3)
    index, _, leads = change(c, 0, [1, 2, 3])
    if leads and index == -1:
        refused(c, 0, [1, 2, 3])
    followers.lift_limits(1)
    c.wait_for(1.5, lambda: c.committed(index)[0] > 0)
    text = (
        f"expected S0 not to apply index {index}, but it did. S0 removes itself, and only one of three others has the"
    )
    text = f"{text} entry"
    c.expect(c.committed(index)[0] == 0, text, rules.REMOVED_LEADER, [0])
    followers.lift_limits(2)
    done = followers.wait_for(lambda: c.committed(index)[0] > 0 and not c.get_state(0)[1])
    text = (
        f"expected S0 to apply index {index} and step down within 10 s, but it did not. Two of the three others have it"
    )
    c.expect(done, text, rules.REMOVED_LEADER, [0])


# Sim only: on a busy machine S0 may lose its leadership before the change is committed.
@points(5, networks=SIM)
def test_removed_leader_does_not_linger(cluster: StartCluster) -> None:
    """A leader that removes itself steps down although one server does not answer, and sends nothing in a later term."""
    c = cluster(4, scripted=range(1, 4))
    ScriptedFollowers(c)
    wait_for_leadership(c)
    c.agree("by all", 1)
    away = c.hold(dst=1)  # a call to S1 does not return before this hold ends
    index, term, leads = change(c, 0, [1, 2, 3])
    if leads and index == -1:
        refused(c, 0, [1, 2, 3])
    c.wait_for(ELECTION_LIMIT, lambda: configured(c, [1, 2, 3]) > 0)
    text = "expected S0 to apply the configuration [1, 2, 3] within 5 s, but it did not. S2 and S3 have it"
    c.expect(configured(c, [1, 2, 3]) > 0, text, rules.REMOVED_LEADER, [0])
    c.wait_for(ELECTION_LIMIT, lambda: not c.get_state(0)[1])
    text = "expected S0 to step down within 5 s after its removal is committed, even if S1 does not answer"
    c.expect(not c.get_state(0)[1], f"{text}, but it still leads", rules.REMOVED_LEADER, [0])
    # S2 leads the next term, and S0 hears of it. Only then do the calls to S1 return.
    newer = term + 5
    append(c, 2, newer)
    away.drop()
    c.sleep(0.3)
    wrong = [
        scripted_server.number
        for scripted_server in c.scripted
        for rpc in scripted_server.received
        if rpc.method == "append_entries" and rpc.args["term"] == newer
    ]
    text = (
        f"expected S0 to send no AppendEntries of term {newer}, but it sent one to {names(wrong)}. S2 leads that term"
    )
    c.expect(not wrong, text, rules.ELECTION_SAFETY, [0])


@points(5)
def test_change_while_stepping_down(cluster: StartCluster) -> None:
    """Two changes are requested just as the leader steps down; it makes at most one of them, in its own term."""
    c = cluster(4, scripted=range(1, 4))
    followers = ScriptedFollowers(c)
    for attempt in range(12):
        wait_for_leadership(c)
        followers.lift_limits(1, 2, 3)
        last = c.agree(f"{attempt} in peace", 1)
        term, _ = c.get_state(0)
        newer = term + 5
        followers.limit_logs(last, 1, 2, 3)  # so that nothing after this index is committed
        holders = [(who, each.log) for who, each in followers.followers.items() if len(each.log) >= last]
        text = f"expected another server to have index {last} before S0 applies it, but none has it"
        c.expect(bool(holders), text, rules.COMMIT_MAJORITY, [0])
        who, log = holders[0]
        with c.at_once(0):
            calls = [MembershipCall(c, 0, members) for members in ((0, 1, 2), (0, 1, 3))]
            # In every third attempt, the new leader's entry is committed. Then S0 must refuse changes for one reason only:
            # it is a follower.
            commit = last + 1 if attempt % 3 == 2 else 0
            send_append(c, who, newer, (last, log[last - 1]["term"]), entries(newer, f"{attempt} by S{who}"), commit)
        answers = [call.answer() or (-1, -1, False) for call in calls]
        for index, in_term, leads in answers:
            text = f"expected S0 to answer with its own term {term} or to refuse, but it answered {index}, {in_term}"
            c.expect(not leads or in_term == term, text, rules.ELECTION_SAFETY, [0])
        taken = [index for index, _, leads in answers if leads and index > 0]
        text = f"expected S0 to accept at most one of two changes requested together, but it answered {answers}"
        c.expect(len(taken) <= 1, text, rules.ONE_CHANGE, [0])
        c.sleep(0.03)
        # If S0 made a change, the new leader's entry has replaced it. S0's log ends with the new leader's entry.
        beyond = any(append(c, who, newer, (last + 2, each))["success"] for each in (term, newer))
        text = f"expected S0 to append nothing once it follows S{who} in term {newer}, but it has index {last + 2}"
        c.expect(not beyond, text, rules.ELECTION_SAFETY, [0])


# Sim only, like the next two: on a busy machine a new server may not catch up in time, and then a refusal is correct.
@points(5, networks=SIM)
def test_index_of_a_change(cluster: StartCluster) -> None:
    """A new server that answers at once is added; if commands come at the same moment, every answer has its own index."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    log = ScriptedFollowers(c).followers[1].log
    wait_for_leadership(c)
    c.agree("by three", 1)
    for number in range(ROUNDS):
        members = [0, 1, 2] if number % 2 else [0, 1, 2, 3]
        commands = [f"{number}: {each}" for each in range(2)] if number else []
        with c.at_once(0):
            call = MembershipCall(c, 0, members)
            calls = [c.ask_start(0, command) for command in commands]
        index, _, leads = answer = call.answer() or (-1, 0, False)
        if not leads or index < 1:
            refused(c, 0, members, answer)
        started = [at for at, _, _ in c.started(0, calls)]
        last = max([index, *started])
        text = f"expected S0 to send S1 its entries up to {last} within 5 s, but it did not"
        stored = c.wait_for(5.0, lambda: len(log) >= last)  # noqa: B023  (called in this round only)
        c.expect(stored, text, rules.AGREEMENT, [0])
        entry = log[index - 1]
        text = f"expected change_membership({members}) to answer the index of its configuration, but it"
        right = entry.get("kind") == "configuration" and entry["members"] == members
        what = "another configuration" if entry.get("kind") == "configuration" else "a command"
        c.expect(right, f"{text} answered {index}. At that index, there is {what}", rules.CHANGE_ANSWERS, [0])
        for command, at in zip(commands, started, strict=True):
            text = f"expected start({command!r}) to answer the index of this command, but it answered {at}"
            c.expect(log[at - 1]["command"] == command, text, rules.AGREEMENT, [0])

        def complete(members: list[int] = members, index: int = index) -> bool:
            alone = configuration_at(log, members, index)
            return alone > 0 and c.committed(alone)[0] > 0

        text = f"expected S0 to apply the configuration {members} within 5 s, but it did not. All servers answer"
        c.expect(c.wait_for(5.0, complete), text, rules.MEMBERS_TOLD, [0])


@points(4, networks=SIM)
def test_a_slow_learner(cluster: StartCluster) -> None:
    """Each answer of a new server takes a while, and commands keep coming; change_membership answers within 15 s."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    ScriptedFollowers(c)
    wait_for_leadership(c)
    c.agree("by three", 1)
    call = MembershipCall(c, 0, range(4))
    # Every round in which the new server catches up takes about 0.7 s: more than the election timeout of many Rafts.
    late = [c.hold("append_entries", dst=3, leg="reply")]
    for number in range(150):
        if not call.pending:
            break
        c.propose(0, f"number {number}")
        c.sleep(0.1)
        late.append(c.hold("append_entries", dst=3, leg="reply"))
        late[-2].stop()
        if len(late) > 7:
            late.pop(0).release()
    for hold in late:
        hold.release()
    call.answer()  # fails after 15 s
    c.agree("by three still", 1)


@points(4, networks=SIM)
def test_a_learner_that_was_slow(cluster: StartCluster) -> None:
    """A new server answers nothing for a second, and then everything at once; it is added."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    ScriptedFollowers(c)
    wait_for_leadership(c)
    c.agree("by three", 1)
    late = c.hold("append_entries", dst=3, leg="reply")
    call = MembershipCall(c, 0, range(4))
    c.sleep(1.2)
    late.release()
    index, _, leads = call.answer() or (-1, 0, False)
    text = "expected S0 to add S3, but S0 refuses. S3 answers at once, beginning 1.2 s after the call"
    c.expect(not leads or index > 0, text, rules.LEARNERS, [0])


@points(5, networks=SIM)
def test_a_change_ends_with_its_term(cluster: StartCluster) -> None:
    """The leader is deposed while a new server catches up, and elected again: that change is over, another begins."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    followers = ScriptedFollowers(c)
    followers.limit_logs(0, 3)
    for number, members in enumerate(([0, 1], [0, 1, 2])):
        wait_for_leadership(c)
        c.agree(f"before it, {number}", 1)
        term, _ = c.get_state(0)
        call = MembershipCall(c, 0, [*without((0, 1, 2), *([2] if number else [])), 3])
        c.sleep(0.2)
        append(c, 1, term + 5)
        call.answer()
        wait_for_leadership(c)
        c.agree(f"after it, {number}", 1)
        answer = change(c, 0, members)
        if not answer[2] or answer[0] < 1:
            refused(c, 0, members, answer)
        c.wait_for(5.0, lambda: configured(c, members) > 0)  # noqa: B023  (called in this round only)


@points(5)
def test_voters_do_not_look_at_members(cluster: StartCluster) -> None:
    """A server votes and follows leaders, even if its configuration lacks the candidate, the leader or the server itself."""
    c = cluster(5, scripted=range(1, 5), members=range(3))
    wait_for_campaign(c)
    for term, why in ((1000, "S4 is not a member"), (2000, "Neither of them is a member")):
        reply = ask_vote(c, 4, term)
        text = f"expected S0 to vote for S4, but it did not. {why}, but the log of S4 is newer"
        c.expect(reply["vote_granted"], text, rules.MEMBERS_COUNT, [0])
        reply = append(c, 4, term, (0, 0), [configuration_entry(1000, [1, 2, 3])])
        text = f"expected S0 to take entries of S4, the leader of term {term}, but it refused. {why}"
        c.expect(reply["success"], text, rules.MEMBERS_COUNT, [0])
        c.sleep(3.0)  # a server that has just heard a leader ignores vote requests


# Sim only: the requests must arrive within the shortest election timeout.
@points(6, networks=SIM)
def test_votes_while_there_is_a_leader(cluster: StartCluster) -> None:
    """A server that has just heard the leader, by any kind of message, ignores candidates; after a while, it votes."""
    c = cluster(3, scripted=(1, 2))
    sender = SnapshotSender(c)
    leader = 0  # the term of S1, which leads

    def old_chunk(term: int) -> None:
        c.scripted_server(1).ask(0, "install_snapshot", term=term, leader_id=1, **sender.chunk(20, 0))

    signs: tuple[tuple[str, Callable[[], object], bool], ...] = (
        ("after a heartbeat", lambda: append(c, 1, leader), False),
        ("after a heartbeat that it had to refuse", lambda: append(c, 1, leader, (50, leader)), False),
        ("after a chunk of a snapshot", lambda: sender.ask("install_snapshot", **sender.chunk(20, 0)), False),
        ("after a heartbeat of an older term", lambda: append(c, 1, leader - 1), True),
        ("after a chunk of a snapshot from a leader of an older term", lambda: old_chunk(leader - 1), True),
        ("when it has heard no leader for a while", lambda: None, True),
    )
    for when, send, granted in signs:
        leader = sender.term = wait_for_campaign(c, above=leader) + 1000
        if granted:
            append(c, 1, leader)
            leader = wait_for_campaign(c, above=leader)  # S0 no longer hears that leader
        send()
        reply = ask_vote(c, 2, leader + 100)
        want, got = ("a vote" if yes else "no vote" for yes in (granted, reply["vote_granted"]))
        c.expect(want == got, f"expected {want} from S0 {when}, but it gave {got}", rules.REMOVED_SERVER, [0])
        if not granted:
            text = f"expected S0 to ignore the candidate and to answer with its own term, {leader}, {when}, but it said"
            c.expect(reply["term"] == leader, f"{text} {reply['term']}", rules.REMOVED_SERVER, [0])


# Sim only: on a busy machine, the second request may be late enough for a vote.
@points(5, networks=SIM)
def test_vote_and_leader_at_once(cluster: StartCluster) -> None:
    """A candidate asks for S0's vote just as a leader's message arrives: S0 hears the leader, or votes, but not both."""
    c = cluster(3, scripted=(1, 2))
    for _ in range(ROUNDS // 2):
        term = wait_for_campaign(c, above=c.get_state(0)[0]) + 1000
        with c.at_once(0):
            requests = request_vote(c, 2, term + 100), send_append(c, 1, term)
        vote, heartbeat = (c.reply_to(rpc) for rpc in requests)
        text = f"expected S0 to follow S1 in term {term}, or to vote for S2 in term {term + 100}, but it did both."
        wrong = vote["vote_granted"] and heartbeat["success"]
        c.expect(not wrong, f"{text} It heard a leader, and then voted for another server", rules.REMOVED_SERVER, [0])


@points(5)
def test_own_entry_must_be_committed(cluster: StartCluster) -> None:
    """A leader refuses a change until an entry of its own term is committed; to have one in the log is not enough."""
    c = cluster(3, scripted=(1, 2))
    for number in (1, 2):
        ScriptedFollower(c, number, limit=0)
    wait_for_leadership(c)
    propose_to_s0(c, "not committed")
    c.sleep(0.1)
    index, term, leads = MembershipCall(c, 0, [0, 1]).answer() or (-1, 0, False)
    text = f"expected S0 to refuse a change as long as nothing of term {term} is committed, but it made one at index {index}"
    c.expect(not leads or index == -1, text, rules.OWN_TERM_FIRST, [0])


@points(5)
def test_new_member_may_stand(cluster: StartCluster) -> None:
    """A server may be elected as soon as its own log says that it is a member, even if that entry is not committed yet."""
    c = cluster(4, scripted=range(1, 4), members=(1, 2, 3))
    voters = ScriptedVoters(c)
    append(c, 1, 1000, (0, 0), [configuration_entry(1000, [0, 1, 2, 3])])
    voters.expect_win([1, 2], "three of four since the entry at index 1", rules.MEMBERS_COUNT)


@points(5)
def test_kept_configuration_counts(cluster: StartCluster) -> None:
    """If a snapshot arrives and later entries stay in the log, a configuration among them stays in effect."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    voters = ScriptedVoters(c)
    sender = SnapshotSender(c)
    sender.append(0, 10)
    append(c, 1, sender.term, (10, term_of(10)), [configuration_entry(sender.term, [0, 1, 2, 3])])
    sender.ask("install_snapshot", **sender.chunk(10, 0), members=[0, 1, 2], old_members=None)
    voters.expect_loss([1], "two of four according to the entry at index 11, which stays", rules.CONFIGURATION_STAYS)
    voters.expect_win(
        [1, 2], "three of four according to the entry at index 11, which stays", rules.CONFIGURATION_STAYS
    )


@points(5, networks=SIM)
def test_snapshot_undoes_a_change(cluster: StartCluster) -> None:
    """A snapshot replaces a longer log; the configuration at the end of that log no longer counts."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    voters = ScriptedVoters(c)
    lost = [*entries(1000, *(f"lost, {number}" for number in range(10))), configuration_entry(1000, [0, 1, 2, 3])]
    append(c, 1, 1000, (0, 0), lost)
    sender = SnapshotSender(c)
    sender.term = 2000
    sender.ask("install_snapshot", **sender.chunk(10, 0), members=[0, 1, 2], old_members=None)
    why = "two of three according to the snapshot up to index 10, which has replaced S0's log"
    voters.expect_win([1], why, rules.CONFIGURATION_STAYS)


def _expect_snapshot_members(
    c: Cluster, follower: ScriptedFollower, server: int, at: int, members: list[int], old: list[int] | None
) -> None:
    """Require that S0 brings ``server`` up to date. If S0 sends the snapshot up to ``at``, require that the snapshot has the
    configuration at that index. For a while, a Raft may keep entries that a snapshot covers, and send those."""
    received = c.scripted_server(server).received

    def chunks() -> list[Message]:
        sent = (rpc.args for rpc in received if rpc.method == "install_snapshot")
        return [args for args in sent if args["last_included_index"] == at]

    c.wait_for(15.0, lambda: bool(chunks()) or len(follower.log) >= at)
    text = (
        f"expected S0 to send S{server} the snapshot up to {at} within 15 s, but it did not. S{server} lacks index {at}"
    )
    c.expect(bool(chunks()) or len(follower.log) >= at, text, rules.CATCH_UP, [0])
    for args in chunks():
        named = args.get("members"), args.get("old_members") or None
        text = f"expected the snapshot up to {at} to carry the members at that index, {members}" + (
            f" and {old}" if old else ""
        )
        text += f", but it carries {named[0]}" + (f" and {named[1]}" if named[1] else "")
        c.expect(named == (members, old), text, rules.CONFIGURATION_STAYS, [0])


@points(6)
def test_snapshot_names_the_members_of_then(cluster: StartCluster) -> None:
    """A snapshot carries the configuration at its last index, not a later one, even while a later snapshot is taken."""
    c = cluster(4, scripted=range(1, 4), members=range(3))
    c.take_snapshots(every=0, size=6000)
    followers = ScriptedFollowers(c)
    followers.limit_logs(0, 2)
    c.scripted_server(2).answer["install_snapshot"] = lambda rpc: {"term": rpc.args["term"]}
    wait_for_leadership(c)
    at = c.agree("by two of three", 1)
    change(c, 0, [0, 1, 2, 3])
    later = c.agree("by three of four", 1)
    first = c.hold("install_snapshot", dst=2, leg="reply", most=1)
    c.call_snapshot(0, at)
    c.sleep(0.1)
    followers.lift_limits(2)
    _expect_snapshot_members(c, followers.followers[2], 2, at, [0, 1, 2], None)
    # The leader cuts its log again, while the rest of that snapshot is not sent yet.
    c.call_snapshot(0, later)
    c.sleep(0.1)
    first.release()
    c.sleep(0.5)
    _expect_snapshot_members(c, followers.followers[2], 2, at, [0, 1, 2], None)


# --- part 2: any number of servers at once (joint consensus, dissertation 4.3) ---
# A Raft that has only part 1 refuses such a change, and the failure says so.


@points(5)
def test_part2_replace_one(cluster: StartCluster) -> None:
    """Part 2: a single change adds one server and removes another."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    gone = (leader_of(c, range(3)) + 1) % 3
    left = without(range(4), gone)
    index = reconfigure(c, left)
    expect_members(c, left, index, f"after S3 took S{gone}'s place")
    agree_by(c, "by the new three", left)
    expect_commit_among(c, [3, left[0]], "two of the three")


@points(5)
def test_part2_any_set(cluster: StartCluster) -> None:
    """Part 2: each change leads to a larger, smaller or entirely new configuration, while commands keep coming."""
    c = cluster(7, members=range(3))
    c.agree("by three", 3)
    for members in ((0, 1, 2, 3, 4), (3, 4, 5, 6), (6,), (0, 1, 6), (0, 1, 2, 3, 4, 5, 6), (0, 2)):
        leader = c.leader_now()
        if leader is not None:
            c.propose_together(leader, [f"to {members}: {number}" for number in range(5)])
        reconfigure(c, members)
        agree_by(c, f"by {members}", members)


@points(6)
def test_part2_swap_all(cluster: StartCluster) -> None:
    """Part 2: three new servers replace all three old ones, which then crash."""
    c = cluster(6, members=range(3))
    c.take_snapshots(every=10)
    c.agree("by the old three", 3)
    c.propose_together(c.one_leader(among=range(3)), [f"number {at}" for at in range(25)])
    old = leader_of(c, range(3))
    reconfigure(c, (3, 4, 5), among=range(6))
    c.wait_for(ELECTION_LIMIT, lambda: not c.get_state(old)[1])
    text = f"expected the removed leader S{old} to step down within 5 s, but it still leads"
    c.expect(not c.get_state(old)[1], text, rules.REMOVED_LEADER, [old])
    for server in range(3):
        c.crash(server)
    agree_by(c, "by the new three", (3, 4, 5))
    c.crash(c.one_leader(among=(3, 4, 5)))
    c.agree("by two of the new three", 2, among=[server for server in (3, 4, 5) if c.server_state(server).up])


@points(6)
def test_part2_minority_of_the_new(cluster: StartCluster) -> None:
    """Part 2: under C_old,new, a majority of the old servers alone commits nothing."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    leader = ready_leader(c, range(3))
    hold = hold_change(c, MembershipCall(c, leader, (3, 4, 5)), "request")
    c.partition([0, 1, 2, 3], [4, 5])
    hold.release()
    commit_in_vain(c, leader)  # one of the new three members has it
    c.heal()
    reconfigure(c, (3, 4, 5), among=range(6))
    agree_by(c, "by the new three", (3, 4, 5))


@points(6)
def test_part2_minority_of_the_old(cluster: StartCluster) -> None:
    """Part 2: under C_old,new, a majority of the new servers alone commits nothing, not even if it is a majority of all."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    leader = ready_leader(c, range(3))
    rest = without(range(3), leader)
    hold = hold_change(c, MembershipCall(c, leader, (leader, 3, 4, 5)), "request")
    c.partition([leader, 3, 4, 5], rest)
    hold.release()
    commit_in_vain(c, leader)  # one of the old three members has it
    # The other two servers have not heard of the change. They are two of three members.
    c.agree("by the other two", 2, among=rest, within=20.0)
    c.heal()
    reconfigure(c, (leader, 3, 4, 5))
    agree_by(c, "by the new four", (leader, 3, 4, 5))


@points(6)
def test_part2_leader_crashes(cluster: StartCluster) -> None:
    """Part 2: the leader crashes at each step of a change; the others elect a leader, and the change can be made."""
    c = cluster(6, members=range(3))
    now, then = [0, 1, 2], [3, 4, 5]
    for phase in (
        "while others catch up",
        "with C_old,new",
        "once C_old,new is sent",
        "with C_new",
        "once C_new is sent",
        "at the end",
    ):
        leader = crash_leader_during_change(c, now, then, phase, joint=True)
        c.agree(f"without S{leader}, which crashed {phase}", 2, within=20.0)
        c.restart(leader)
        reconfigure(c, then)
        agree_by(c, f"by all the new, {phase}", then)
        now, then = then, now


@points(6)
def test_part2_restart_between_two(cluster: StartCluster) -> None:
    """Part 2: all servers restart under C_old,new; the change is completed without another request."""
    c = cluster(6, members=range(3))
    now, then = [0, 1, 2], [3, 4, 5]
    for number in range(3):
        c.agree(f"before, {number}", 2, within=20.0)
        leader = ready_leader(c, now)
        call = MembershipCall(c, leader, then)
        hold = hold_change(c, call, "request", joint=False)
        # C_old,new is committed, and only the leader has C_new (if it still leads).
        begun = bool(hold.messages)
        index = max(c.event_loop.referee.applies.values)
        for server in range(6):
            c.crash(server)
        hold.drop()
        c.start_all()
        c.agree(f"after the restart, {number}", 3, within=20.0)
        if begun:
            expect_members(c, then, index, "although nobody has asked again since the restart")
        else:
            reconfigure(c, then)
        now, then = then, now


@points(6)
def test_part2_two_leaders(cluster: StartCluster) -> None:
    """Part 2: a new leader with C_old,new in its log needs a majority of each set to commit it; C_new comes only then."""
    c = cluster(5, members=range(3))
    for number in range(3):
        c.agree(f"by the old three, {number}", 3)
        first = ready_leader(c, range(3))
        rest = without(range(3), first)
        # C_old,new reaches only the new servers, and the leader crashes and restarts.
        hold = hold_change(c, MembershipCall(c, first, (first, 3, 4)), "request")
        c.partition([first, 3, 4], rest)
        hold.release()
        c.sleep(0.3)
        # The first leader is elected again, with the votes of the other old servers. But its AppendEntries to them are held.
        holds = [c.hold(method, src=who) for who in rest for method in ("request_vote", "pre_vote")]
        holds += [c.hold("append_entries", dst=who) for who in rest]
        c.restart(first)
        c.heal()
        c.sleep(4.0)
        c.partition([first, 3, 4], rest)
        for hold in holds:
            hold.drop()
        # C_old,new is not committed, so the two other old servers may still decide otherwise.
        c.agree(f"by two of the old, {number}", 2, among=rest, within=20.0)
        c.heal()
        c.agree(f"by the old three again, {number}", 3, within=20.0)
        agree_by(c, "and once more", range(3))


@points(5)
def test_part2_asked_twice(cluster: StartCluster) -> None:
    """Part 2: two changes are requested at the same moment; at most one of them is made, exactly as requested."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    wanted: list[list[int]] = [[0, 1, 2, 3, 4], [3, 4, 5], [0, 1, 2]]
    for number in range(3):
        c.agree(f"before both, {number}", 2)
        leader = ready_leader(c, range(3))
        both = [MembershipCall(c, leader, members) for members in wanted[:2]]
        answers = [call.answer() or (-1, -1, False) for call in both]
        taken = [members for members, (index, _, leads) in zip(wanted, answers, strict=False) if leads and index > 0]
        text = f"expected S{leader} to accept at most one of two changes requested together, but it answered {answers}"
        c.expect(len(taken) <= 1 or answers[0][0] != answers[1][0], text, rules.ONE_CHANGE, [leader])
        if not taken and all(leads for _, _, leads in answers):
            refused(c, leader, wanted[0])
        c.sleep(1.0)
        c.agree(f"after both, {number}", 2)
        applied = [
            value[1] for at, value in sorted(c.event_loop.referee.applies.values.items()) if value[0] == "configuration"
        ]
        if taken:
            text = f"expected the members to be {taken[-1]} in the end, but the services got {applied}"
            c.expect(applied[-1:] == taken[-1:], text, rules.ONE_CHANGE)
        reconfigure(c, wanted[2])


@points(6)
def test_part2_churn(cluster: StartCluster) -> None:
    """Part 2: servers crash, links are cut, messages are lost, and the members change all the time."""
    c = cluster(6, members=range(3))
    c.unreliable(duplicate=0.05)
    c.agree("by three", 3, within=20.0)
    under_way: list[MembershipCall] = []
    for number in range(40):
        c.propose_together(c.random.randrange(6), [f"{number}: {at}" for at in range(2)])
        leader = c.leader_now()
        if leader is not None:
            c.propose(leader, f"{number} at S{leader}")
            if c.random.random() < 0.4:
                size = c.random.randint(1, 5)
                under_way.append(MembershipCall(c, leader, c.random.sample(range(6), size)))
            if c.random.random() < 0.15:
                c.crash(leader)
        chance = c.random.random()
        victim = c.random.randrange(6)
        if chance < 0.15:
            c.disconnect(victim)
        elif chance < 0.5:
            c.heal()
        if not c.server_state(victim).up:
            c.restart(victim)
        c.sleep(c.random.uniform(0.05, 0.6))
    c.heal()
    for server in range(6):
        if not c.server_state(server).up:
            c.restart(server)
    for call in under_way:
        call.answer()
    c.agree("at last", 1, within=30.0)
    reconfigure(c, range(6))
    c.unreliable(on=False)
    c.agree("by all six", 6, within=20.0)


@points(4)
def test_part2_service_is_told(cluster: StartCluster) -> None:
    """Part 2: services are told of C_old,new, with all old and new members, and then of C_new."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    index = reconfigure(c, (2, 3, 4, 5), among=range(6))
    agree_by(c, "by the new four", (2, 3, 4, 5))
    applied = {at: value[1] for at, value in c.event_loop.referee.applies.values.items() if value[0] == "configuration"}
    first = applied.get(index)
    text = f"expected the services to get C_old,new at index {index}, with all voters, [0, 1, 2, 3, 4, 5], but"
    c.expect(first == [0, 1, 2, 3, 4, 5], f"{text} they got {first}", rules.MEMBERS_TOLD)
    expect_members(c, [2, 3, 4, 5], index + 1, "after C_old,new")


# --- part 2, one real server, S0; the test plays the others ---


@points(6)
def test_part2_two_majorities(cluster: StartCluster) -> None:
    """Part 2: with C_old,new in the log or in a snapshot, a candidate needs a majority of the old and of the new members."""
    c = cluster(7, scripted=range(1, 7), members=range(3))
    voters = ScriptedVoters(c)
    rule = rules.BOTH_MAJORITIES
    append(c, 1, 1000, (0, 0), [configuration_entry(1000, [0, 3, 4, 5, 6], [0, 1, 2])])
    voters.expect_loss([1, 2], "all of the old three and one of the new five", rule)
    append(c, 1, 2000, (1, 1000), entries(2000, "behind"))
    voters.expect_loss([3, 4, 5, 6], "one of the old three and all of the new five", rule)
    append(c, 1, 3000, (2, 2000), entries(3000, "behind"))
    voters.expect_loss([1, 3], "two of the old three and two of the new five", rule)
    c.restart(0)
    voters.expect_loss([3, 4, 5, 6], "one of the old three and all of the new five, after a restart", rule)
    append(c, 1, 4000, (2, 2000), entries(4000, "instead"))
    voters.expect_win([1, 3, 4], "two of the old three and three of the new five", rule)
    append(c, 2, 20_000, (2, 2000), [configuration_entry(20_000, [0, 3, 4, 5, 6])])
    voters.expect_loss([1, 2, 3], "two of the new five; C_new is in the log", rules.MEMBERS_COUNT)
    append(c, 2, 30_000, (3, 20_000), entries(30_000, "behind"))
    voters.expect_win([3, 4], "three of the new five", rules.MEMBERS_COUNT)
    sender = SnapshotSender(c)
    sender.term = 40_000
    sender.ask("install_snapshot", **sender.chunk(10, 0), members=[0, 1, 2], old_members=[0, 4, 5])
    voters.expect_loss([1, 2], "all of the new three and one of the old, according to the snapshot", rule)
    c.restart(0)
    voters.expect_loss([4, 5], "all of the old three and one of the new, according to the snapshot", rule)
    c.restart(0)
    voters.expect_win([1, 4], "two of each, according to the snapshot", rule)


@points(6)
def test_part2_two_commits(cluster: StartCluster) -> None:
    """Part 2: to be committed, C_old,new needs majorities of both the old and the new members, and C_new only of the new."""
    c = cluster(7, scripted=range(1, 7), members=range(3))
    followers = ScriptedFollowers(c)
    wait_for_leadership(c)
    first = c.agree("by all", 1)
    call = MembershipCall(c, 0, [3, 4, 5, 6])
    followers.limit_logs(first, 1, 2)
    index, _, leads = call.answer() or (-1, -1, False)
    if leads and index == -1:
        refused(c, 0, [3, 4, 5, 6])
    c.wait_for(1.5, lambda: c.committed(index)[0] > 0)
    text = f"expected S0 not to apply C_old,new at index {index}, but it did. All four new servers, but only one of the"
    text = f"{text} three old ones, have it"
    c.expect(c.committed(index)[0] == 0, text, rules.BOTH_MAJORITIES, [0])
    for number in (5, 6):
        followers.ignored_configuration[number] = [3, 4, 5, 6]
    followers.lift_limits(1)
    done = followers.wait_for(lambda: c.committed(index)[0] > 0)
    text = f"expected S0 to apply C_old,new at index {index} within 10 s, but it did not. A majority of each set has it"
    c.expect(done, text, rules.BOTH_MAJORITIES, [0])
    # C_new follows. It makes no difference whether the old servers get C_new.
    followers.lift_limits(2)
    c.wait_for(1.5, lambda: configured(c, [3, 4, 5, 6]) > 0)
    text = "expected S0 not to apply C_new, but it did. S0 is not in C_new, and only two of these four servers have it"
    c.expect(configured(c, [3, 4, 5, 6]) == 0, text, rules.REMOVED_LEADER, [0])
    followers.ignored_configuration.clear()
    done = followers.wait_for(lambda: configured(c, [3, 4, 5, 6]) > 0 and not c.get_state(0)[1])
    text = "expected S0 to apply C_new and step down within 10 s, but it did not. All four new servers have C_new"
    c.expect(done, text, rules.REMOVED_LEADER, [0])


@points(6, networks=SIM)
def test_part2_next_leader_completes_it(cluster: StartCluster) -> None:
    """Part 2: a server learns that C_old,new is committed, and is elected only then; it still completes the change."""
    c = cluster(5, scripted=range(1, 5), members=range(3))
    followers = ScriptedFollowers(c)
    joint = configuration_entry(1000, [0, 3, 4], [0, 1, 2])
    append(c, 1, 1000, (0, 0), [joint])
    for follower in followers.followers.values():
        follower.log.append(joint)
    append(c, 1, 1000, (1, 1000), commit=1)
    wait_for_leadership(c)
    done = followers.wait_for(lambda: configured(c, [0, 3, 4]) > 0)
    text = (
        "expected the leader S0 to complete the change and apply C_new within 10 s, but it did not. "
        "C_old,new had been committed before its election"
    )
    c.expect(done, text, rules.JOINT_CONSENSUS, [0])


@points(5, networks=SIM)
def test_part2_deposed_at_the_commit(cluster: StartCluster) -> None:
    """Part 2: the leader is deposed just as C_old,new is committed; it appends C_new while it leads, or not at all."""
    c = cluster(5, scripted=range(1, 5), members=range(3))
    ScriptedFollowers(c)
    for number, members in enumerate(([0, 3, 4], [0, 1, 2]) * 2):
        wait_for_leadership(c)
        c.agree(f"before it, {number}", 1)
        # All replies to C_old,new arrive together with a message of a newer leader.
        late = c.hold("append_entries", src=0, leg="reply", when=carries_configuration(members, joint=True))
        index, term, leads = answer = change(c, 0, members)
        if not leads or index < 1:
            refused(c, 0, members, answer)
        c.wait_for(1.0, lambda: len({rpc.dst for rpc, _ in late.messages}) == 4)  # noqa: B023  (this round only)
        newer = term + 5
        with c.at_once(0, late):
            send_append(c, 1, newer, (index, term))
        c.sleep(0.03)
        # After C_old,new, S0's log has C_new of S0's own term, or nothing: S1 has sent no entries.
        beyond = append(c, 1, newer, (index + 1, newer))["success"]
        text = (
            f"expected S0 to append C_new while it leads term {term}, or not at all, but at index {index + 1} it has an"
        )
        c.expect(not beyond, f"{text} entry of term {newer}. S1 leads that term", rules.ELECTION_SAFETY, [0])
        wait_for_leadership(c)
        c.agree(f"after it, {number}", 1)
        c.wait_for(5.0, lambda: configured(c, members, index) > 0)  # noqa: B023  (this round only)


@points(5)
def test_part2_one_learner_is_missing(cluster: StartCluster) -> None:
    """Part 2: the leader gives up a change that adds two servers if one of them cannot be reached."""
    c = cluster(5, members=range(3))
    c.agree("by three", 3)
    c.disconnect(4)
    leader = ready_leader(c, range(3))
    index, _, leads = MembershipCall(c, leader, range(5)).answer() or (-1, 0, False)
    text = (
        f"expected S{leader} to give up a change that adds S4, but it began it at index {index}. S4 cannot be reached"
    )
    c.expect(not leads or index == -1, text, rules.LEARNERS, [leader])
    c.agree("by three again", 3)
    c.connect(4)  # a Raft that refuses every such change would have passed so far
    reconfigure(c, range(5))
    agree_by(c, "by five", range(5))


@points(5)
def test_part2_half_is_no_majority(cluster: StartCluster) -> None:
    """Part 2: two of the four old servers are no majority; a server that the change removes may still be elected."""
    c = cluster(7, scripted=range(1, 7), members=range(4))
    voters = ScriptedVoters(c)
    rule = rules.BOTH_MAJORITIES
    append(c, 1, 1000, (0, 0), [configuration_entry(1000, [4, 5, 6], [0, 1, 2, 3])], commit=1)
    voters.expect_loss([1, 4, 5, 6], "half of the old four and all of the new three", rule)
    voters.expect_win([1, 2, 4, 5], "three of the old four and two of the new three", rule)


@points(6)
def test_part2_snapshot_names_both_sets(cluster: StartCluster) -> None:
    """Part 2: a snapshot that ends with C_old,new carries both the old and the new members."""
    c = cluster(5, scripted=range(1, 5), members=range(3))
    followers = ScriptedFollowers(c)
    wait_for_leadership(c)
    # S4 catches up to this index, and does not get C_old,new.
    followers.limit_logs(c.agree("by the old three", 1), 4)
    index, _, leads = change(c, 0, [0, 3, 4])
    if leads and index == -1:
        refused(c, 0, [0, 3, 4])
    done = followers.wait_for(lambda: c.committed(index)[0] > 0)
    text = f"expected S0 to apply C_old,new at index {index} within 10 s, but it did not. A majority of each set has it"
    c.expect(done, text, rules.BOTH_MAJORITIES, [0])
    c.call_snapshot(0, index)
    c.sleep(0.1)
    followers.lift_limits(4)
    _expect_snapshot_members(c, followers.followers[4], 4, index, [0, 3, 4], [0, 1, 2])
