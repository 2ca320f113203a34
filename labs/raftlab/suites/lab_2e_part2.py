"""Lab 2E, part 2: joint consensus (§6; dissertation, 4.3). These tests are the second half of :mod:`raftlab.suites.lab_2e`.

Any set of servers may take the place of any other, in one change. Who has done part 1 only refuses that, and is told so.
"""

from __future__ import annotations

from raftlab import rules
from raftlab.cluster import ELECTION_LIMIT
from raftlab.membership import Asked, agree_by, configured, leader_of, reconfigure, refused
from raftlab.suites import Start, points
from raftlab.suites.leader import Leader as Sender
from raftlab.suites.members import (
    PART_2,
    Storing,
    Voters,
    commits_alone,
    commits_nothing,
    configuration,
    crash_in_change,
    expect_members,
    hold_change,
    without,
)
from raftlab.suites.players import append, entries, lead


@points(5)
def test_part2_replace_one(cluster: Start) -> None:
    """Part 2: one server takes another one's place in a single change."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    gone = (leader_of(c, range(3)) + 1) % 3
    left = without(range(4), gone)
    index = reconfigure(c, left)
    expect_members(c, left, index, f"after S3 took S{gone}'s place")
    agree_by(c, "by the new three", left)
    commits_alone(c, [3, left[0]], "two of the three")


@points(5)
def test_part2_any_set(cluster: Start) -> None:
    """Part 2: from one set to any other, larger, smaller or altogether new, while commands keep coming."""
    c = cluster(7, members=range(3))
    c.agree("by three", 3)
    for members in ((0, 1, 2, 3, 4), (3, 4, 5, 6), (6,), (0, 1, 6), (0, 1, 2, 3, 4, 5, 6), (0, 2)):
        leader = c.leader_now()
        if leader is not None:
            c.propose_together(leader, [f"to {members}: {number}" for number in range(5)])
        reconfigure(c, members)
        agree_by(c, f"by {members}", members)


@points(6)
def test_part2_swap_all(cluster: Start) -> None:
    """Part 2: three new servers take the place of all three old ones, which are gone then."""
    c = cluster(6, members=range(3))
    c.take_snapshots(every=10)
    c.agree("by the old three", 3)
    c.propose_together(c.one_leader(among=range(3)), [f"number {at}" for at in range(25)])
    old = leader_of(c, range(3))
    reconfigure(c, (3, 4, 5), among=range(6))
    c.wait_for(ELECTION_LIMIT, lambda: not c.get_state(old)[1])
    said = f"expected S{old}, which is removed, to step down within 5 s, but it still leads"
    c.expect(not c.get_state(old)[1], said, rules.REMOVED_LEADER, [old])
    for server in range(3):
        c.crash(server)
    agree_by(c, "by the new three", (3, 4, 5))
    c.crash(c.one_leader(among=(3, 4, 5)))
    c.agree("by two of the new three", 2, among=[server for server in (3, 4, 5) if c.seat(server).up])


@points(6)
def test_part2_minority_of_the_new(cluster: Start) -> None:
    """Part 2: while there are two configurations, most of the old ones alone commit nothing."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    leader = leader_of(c, range(3))
    hold = hold_change(c, Asked(c, leader, (3, 4, 5)), "request")
    c.partition([0, 1, 2, 3], [4, 5])
    hold.release()
    commits_nothing(c, leader, "since only one of the new three has it", rules.BOTH_MAJORITIES)
    c.heal()
    reconfigure(c, (3, 4, 5), among=range(6))
    agree_by(c, "by the new three", (3, 4, 5))


@points(6)
def test_part2_minority_of_the_old(cluster: Start) -> None:
    """Part 2: while there are two configurations, most of the new ones alone commit nothing, be they most of all."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    leader = leader_of(c, range(3))
    rest = without(range(3), leader)
    hold = hold_change(c, Asked(c, leader, (leader, 3, 4, 5)), "request")
    c.partition([leader, 3, 4, 5], rest)
    hold.release()
    commits_nothing(c, leader, "since only one of the old three has it", rules.BOTH_MAJORITIES)
    # The other two know of no change, and are two of three.
    c.agree("by the other two", 2, among=rest, within=20.0)
    c.heal()
    reconfigure(c, (leader, 3, 4, 5))
    agree_by(c, "by the new four", (leader, 3, 4, 5))


@points(6)
def test_part2_leader_crashes(cluster: Start) -> None:
    """Part 2: the leader crashes at each step of the way; those that are left elect and go on."""
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
        leader = crash_in_change(c, now, then, phase, joint=True)
        c.agree(f"without S{leader}, which crashed {phase}", 2, within=20.0)
        c.restart(leader)
        reconfigure(c, then)
        agree_by(c, f"by all the new, {phase}", then)
        now, then = then, now


@points(6)
def test_part2_restart_between_two(cluster: Start) -> None:
    """Part 2: all servers restart while there are two configurations; the change is completed without another word."""
    c = cluster(6, members=range(3))
    now, then = [0, 1, 2], [3, 4, 5]
    for number in range(3):
        c.agree(f"before, {number}", 2, within=20.0)
        leader = leader_of(c, now)
        asked = Asked(c, leader, then)
        hold = hold_change(c, asked, "request", joint=False)
        # C_old,new is committed, and C_new is nowhere but at the leader (if that still leads).
        begun = bool(hold.messages)
        index = max(c.switch.referee.applies.values)
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
def test_part2_two_leaders(cluster: Start) -> None:
    """Part 2: a leader that recovers C_old,new commits it by both halves before it goes on to C_new."""
    c = cluster(5, members=range(3))
    for number in range(3):
        c.agree(f"by the old three, {number}", 3)
        first = leader_of(c, range(3))
        rest = without(range(3), first)
        # C_old,new reaches the new ones only, and the leader goes down and comes up again.
        hold = hold_change(c, Asked(c, first, (first, 3, 4)), "request")
        c.partition([first, 3, 4], rest)
        hold.release()
        c.sleep(0.3)
        # It is elected again, as the other old ones vote for it. But whatever it sends them is held up.
        kept = [c.hold(method, src=who) for who in rest for method in ("request_vote", "pre_vote")]
        kept += [c.hold("append_entries", dst=who) for who in rest]
        c.restart(first)
        c.heal()
        c.sleep(4.0)
        c.partition([first, 3, 4], rest)
        for each in kept:
            each.drop()
        # C_old,new is committed nowhere, so these two may still decide otherwise.
        c.agree(f"by two of the old, {number}", 2, among=rest, within=20.0)
        c.heal()
        c.agree(f"by the old three again, {number}", 3, within=20.0)
        agree_by(c, "and once more", range(3))


@points(5)
def test_part2_asked_twice(cluster: Start) -> None:
    """Part 2: two changes asked for at the same moment: one is made, as it was asked for, or none."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    wanted: list[list[int]] = [[0, 1, 2, 3, 4], [3, 4, 5], [0, 1, 2]]
    for number in range(3):
        c.agree(f"before both, {number}", 2)
        leader = leader_of(c, range(3))
        both = [Asked(c, leader, members) for members in wanted[:2]]
        for again in range(4):
            if not all(asked.refused() for asked in both):
                break
            # A leader that was elected after the last command has nothing of its own term to commit, and must refuse.
            c.propose(leader, f"S{leader} leads, {number}, {again}")
            c.sleep(0.5)
            both = [Asked(c, leader, members) for members in wanted[:2]]
        answers = [asked.answer() or (-1, -1, False) for asked in both]
        taken = [members for members, (index, _, leads) in zip(wanted, answers, strict=False) if leads and index > 0]
        said = f"expected S{leader} to take one of two changes asked for together at most, but it answered {answers}"
        c.expect(len(taken) <= 1 or answers[0][0] != answers[1][0], said, rules.ONE_CHANGE, [leader])
        if not taken and all(leads for _, _, leads in answers):
            refused(c, leader, wanted[0])
        c.sleep(1.0)
        c.agree(f"after both, {number}", 2)
        told = [
            value[1] for at, value in sorted(c.switch.referee.applies.values.items()) if value[0] == "configuration"
        ]
        if taken:
            text = f"expected the members to be {taken[-1]} in the end, but the services were told of {told}"
            c.expect(told[-1:] == taken[-1:], text, rules.ONE_CHANGE)
        reconfigure(c, wanted[2])


@points(6)
def test_part2_churn(cluster: Start) -> None:
    """Part 2: servers crash, links are cut, messages are lost, and the members change all the time."""
    c = cluster(6, members=range(3))
    c.unreliable(duplicate=0.05)
    c.agree("by three", 3, within=20.0)
    under_way: list[Asked] = []
    for number in range(40):
        c.propose_together(c.random.randrange(6), [f"{number}: {at}" for at in range(2)])
        leader = c.leader_now()
        if leader is not None:
            c.propose(leader, f"{number} at S{leader}")
            if c.random.random() < 0.4:
                size = c.random.randint(1, 5)
                under_way.append(Asked(c, leader, c.random.sample(range(6), size)))
            if c.random.random() < 0.15:
                c.crash(leader)
        chance = c.random.random()
        victim = c.random.randrange(6)
        if chance < 0.15:
            c.disconnect(victim)
        elif chance < 0.5:
            c.heal()
        if not c.seat(victim).up:
            c.restart(victim)
        c.sleep(c.random.uniform(0.05, 0.6))
    c.heal()
    for server in range(6):
        if not c.seat(server).up:
            c.restart(server)
    for asked in under_way:
        asked.answer()
    c.agree("at last", 1, within=30.0)
    reconfigure(c, range(6))
    c.unreliable(on=False)
    c.agree("by all six", 6, within=20.0)


@points(4)
def test_part2_service_is_told(cluster: Start) -> None:
    """Part 2: services are told of C_old,new, with everybody who votes then, and of C_new."""
    c = cluster(6, members=range(3))
    c.agree("by the old three", 3)
    index = reconfigure(c, (2, 3, 4, 5), among=range(6))
    agree_by(c, "by the new four", (2, 3, 4, 5))
    told = {at: value[1] for at, value in c.switch.referee.applies.values.items() if value[0] == "configuration"}
    first = told.get(index)
    said = f"expected the services to be told of C_old,new at index {index}, with all who vote, [0, 1, 2, 3, 4, 5], but"
    c.expect(first == [0, 1, 2, 3, 4, 5], f"{said} they were told {first}", rules.MEMBERS_TOLD, hint=PART_2)
    expect_members(c, [2, 3, 4, 5], index + 1, "behind C_old,new")


# --- part 2, one real server, S0; the test plays the others ---


@points(6)
def test_part2_two_majorities(cluster: Start) -> None:
    """Part 2: C_old,new needs votes of most of each half: when appended, after a restart, from a snapshot."""
    c = cluster(7, puppets=range(1, 7), members=range(3))
    voters = Voters(c)
    rule = rules.BOTH_MAJORITIES
    append(c, 1, 1000, (0, 0), [configuration(1000, [0, 3, 4, 5, 6], [0, 1, 2])])
    voters.elects([1, 2], False, "all of the old three and one of the new five", rule, PART_2)
    append(c, 1, 2000, (1, 1000), entries(2000, "behind"))
    voters.elects([3, 4, 5, 6], False, "one of the old three and all of the new five", rule, PART_2)
    append(c, 1, 3000, (2, 2000), entries(3000, "behind"))
    voters.elects([1, 3], False, "two of the old three and two of the new five", rule, PART_2)
    c.restart(0)
    voters.elects([3, 4, 5, 6], False, "one of the old three and all of the new five, after a restart", rule, PART_2)
    append(c, 1, 4000, (2, 2000), entries(4000, "instead"))
    voters.elects([1, 3, 4], True, "two of the old three and three of the new five", rule, PART_2)
    append(c, 2, 20_000, (2, 2000), [configuration(20_000, [0, 3, 4, 5, 6])])
    voters.elects([1, 2, 3], False, "two of the new five, as C_new is in the log", rules.MEMBERS_COUNT, PART_2)
    append(c, 2, 30_000, (3, 20_000), entries(30_000, "behind"))
    voters.elects([3, 4], True, "three of the new five", rules.MEMBERS_COUNT, PART_2)
    sender = Sender(c)
    sender.term = 40_000
    sender.ask("install_snapshot", **sender.chunk(10, 0), members=[0, 1, 2], old_members=[0, 4, 5])
    voters.elects([1, 2], False, "all of the new three and one of the old, by the snapshot", rule, PART_2)
    c.restart(0)
    voters.elects([4, 5], False, "all of the old three and one of the new, by the snapshot", rule, PART_2)
    c.restart(0)
    voters.elects([1, 4], True, "two of each, by the snapshot", rule, PART_2)


@points(6)
def test_part2_two_commits(cluster: Start) -> None:
    """Part 2: a leader commits C_old,new once most of each half have it, then C_new once most of the new have it."""
    c = cluster(7, puppets=range(1, 7), members=range(3))
    storing = Storing(c)
    lead(c)
    first = c.agree("by all", 1)
    asked = Asked(c, 0, [3, 4, 5, 6])
    storing.stop_at(first, 1, 2)
    index, _, leads = asked.answer() or (-1, -1, False)
    if leads and index == -1:
        refused(c, 0, [3, 4, 5, 6])
    c.wait_for(1.5, lambda: c.committed(index)[0] > 0)
    said = (
        f"expected S0 not to apply C_old,new at index {index}, which all of the new four and one of the old three have"
    )
    c.expect(c.committed(index)[0] == 0, f"{said}, but it did", rules.BOTH_MAJORITIES, [0])
    for number in (5, 6):
        storing.silent_to[number] = [3, 4, 5, 6]
    storing.go_on(1)
    done = storing.in_the_end(lambda: c.committed(index)[0] > 0)
    said = f"expected S0 to apply C_old,new at index {index}, which most of both have, within 10 s"
    c.expect(done, f"{said}, but it did not", rules.BOTH_MAJORITIES, [0], PART_2)
    # C_new follows, which the old ones may have or not.
    storing.go_on(2)
    c.wait_for(1.5, lambda: configured(c, [3, 4, 5, 6]) > 0)
    said = "expected S0, which is not in C_new, not to apply it, as two of these four have it, but it did"
    c.expect(configured(c, [3, 4, 5, 6]) == 0, said, rules.REMOVED_LEADER, [0])
    storing.silent_to.clear()
    done = storing.in_the_end(lambda: configured(c, [3, 4, 5, 6]) > 0 and not c.get_state(0)[1])
    said = "expected S0 to apply C_new, which all of the new four have, and to step down, within 10 s"
    c.expect(done, f"{said}, but it did not", rules.REMOVED_LEADER, [0], PART_2)
