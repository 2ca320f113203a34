"""Lab 2C: persistence (Figure 2, State: what is persistent on all servers; §5.2, §5.3, §5.4.2, Figure 8).

Every test requires only this: a server keeps the promises that it made before it crashed. The votes that it granted, the
terms that it was in and the entries that it acknowledged survive a restart; anything that it never sent to another server
may be lost. When to save, how often, and in which format are the student's choice.

Servers crash at any moment: in tests marked SIM, even between a save and the answer after it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from raftlab.explain import rules
from raftlab.harness import message_filters
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.churn import churn, pause_briefly, propose_everywhere
from raftlab.suites.helpers.durability import REQUESTS, expect_answer_kept, prepare
from raftlab.suites.helpers.scripted_servers import (
    ScriptedFollower,
    accept,
    append,
    ask_vote,
    campaign_terms,
    entries,
    expect_entry,
    expect_term,
    grant,
    request_vote,
    send_append,
    wait_for_campaign,
    wait_for_leadership,
)
from raftlab.suites.marking import SIM, StartCluster, points

# The moments at which a crash can interrupt S0's work. Each is (the kind of effect; 1 for S0's first effect of that kind, 2
# for the second; whether the crash comes before or after this effect).
_SIDES = ("before", "after")
_POINTS = [(kind, nth, side) for kind, nth in (("save", 1), ("save", 2), ("answer", 1)) for side in _SIDES]

# --- clusters whose servers crash and come back ---


@points(5)
def test_restarts(cluster: StartCluster) -> None:
    """Committed entries are still there after all servers, the leader or a follower restart."""
    c = cluster(3)
    c.agree("before any crash", 3)
    _restart_all(c)
    c.agree("after all restarted", 3)
    c.restart(c.one_leader())
    c.agree("after a leader restarted", 3)
    leader = c.one_leader()
    c.disconnect(leader)
    c.agree("without a leader of the past", 2)
    c.restart(leader)
    c.agree("with it again", 3)
    follower = (c.one_leader() + 1) % 3
    c.disconnect(follower)
    c.agree("without a follower", 2)
    c.restart(follower)
    c.agree("with it again, too", 3)


@points(4)
def test_commands_survive(cluster: StartCluster) -> None:
    """Commands of every kind are the same after they were saved and read back."""
    c = cluster(3)
    commands: tuple[Any, ...] = (0, "", [], {}, None, False, 2.5, [1, "a", None], {"key": [True, "é"]}, "x" * 5_000)
    for command in commands:
        c.agree(command, 3)
    _restart_all(c)
    # The referee compares what the services get now with what they got before.
    c.agree("after all restarted", 3)


@points(5)
def test_changing_majorities(cluster: StartCluster) -> None:
    """Servers restart in turn; in each new majority, only one server has the entries that were committed."""
    c = cluster(5)
    for time in range(3):
        c.agree(f"{time}: by all", 5)
        leader = c.one_leader()
        first, second, third, fourth = ((leader + step) % 5 for step in range(1, 5))
        c.disconnect(first)
        c.disconnect(second)
        c.agree(f"{time}: by the leader, S{third} and S{fourth}", 3)
        for server in (leader, third, fourth):
            c.disconnect(server)
        c.restart(first)
        c.restart(second)
        c.sleep(1.0)
        c.restart(third)
        # Only the third server has the committed entries, so only this server can win, and it needs every vote. That may
        # take several elections.
        c.agree(f"{time}: by S{first}, S{second} and S{third}", 3, within=20.0)
        c.connect(leader)
        c.connect(fourth)
    c.agree("by all in the end", 5)


@points(5)
def test_leader_and_follower_restart(cluster: StartCluster) -> None:
    """A leader and a follower crash; then the restarted leader and a server that was cut off go on."""
    c = cluster(3)
    c.agree("by all", 3)
    leader = c.one_leader()
    follower, alone = (leader + 1) % 3, (leader + 2) % 3
    c.disconnect(alone)
    c.agree("by two", 2)
    c.crash(leader)
    c.crash(follower)
    c.connect(alone)
    c.restart(leader)
    c.agree("by two others", 2)
    c.restart(follower)
    c.agree("by all again", 3)


@points(5)
def test_long_life(cluster: StartCluster) -> None:
    """One server, or all of them, restart again and again in the middle of their work, and the cluster goes on."""
    c = cluster(3)
    c.agree("first", 3)
    for time in range(6):
        leader = c.one_leader()
        c.states(range(3))  # the referee remembers their terms, which must not go back
        for number in range(3):
            c.propose(leader, f"{time}: in the middle, {number}")
        c.sleep(c.random.uniform(0.0, 0.01))
        if time % 2:
            _restart_all(c)
        else:
            c.restart(c.random.choice([leader, (leader + 1) % 3]))
        c.states(range(3))
        c.agree(f"{time}: after it", 3)


# --- one real server, S0; the test plays the others ---


@points(5)
def test_vote_survives(cluster: StartCluster) -> None:
    """A server that crashes remembers its vote and its term."""
    c = cluster(3, scripted=(1, 2))
    for term in (1000, 2000, 3000):
        # Begin with S0 as a candidate: a server that has just heard a leader may ignore vote requests (§6).
        wait_for_campaign(c)
        ask_vote(c, 1, term)
        if term == 2000:
            append(c, 1, term)  # a heartbeat of the winner
        c.restart(0)
        if term == 3000:
            c.restart(0)
        ask_vote(c, 2, term)  # the referee remembers for whom S0 has voted
        expect_term(c, term)
        append(c, 2, term + 500)  # a newer leader: now S0 has only the term to remember, and no vote
        c.restart(0)
        expect_term(c, term + 500)
        reply = append(c, 1, term + 499)
        text = f"expected S0 to refuse a leader of term {term + 499} after it had answered one of term {term + 500}"
        c.expect(not reply["success"], f"{text}, but it said success", rules.SURVIVES, [0])


@points(5)
def test_every_term_survives(cluster: StartCluster) -> None:
    """A term that S0 has named in an answer survives a crash, however S0 learned of it."""
    c = cluster(3, scripted=(1, 2))
    append(c, 1, 100, (0, 0), entries(100, "one"))

    def answer_with(term: int) -> Callable[[Rpc], Message]:
        return lambda rpc: {"term": term, "vote_granted": False, "success": False}

    for number, how in enumerate(
        ("a refused vote", "refused entries", "the reply to a vote", "the reply to a heartbeat")
    ):
        term = 1000 * (number + 1)
        # Begin with S0 as a candidate: a server that has just heard a leader may ignore vote requests (§6).
        wait_for_campaign(c)
        if how == "a refused vote":
            c.reply_to(request_vote(c, 1, term, (0, 0)))
        elif how == "refused entries":
            append(c, 1, term, (50, term - 1))
        else:
            if how == "the reply to a heartbeat":
                for scripted_server in c.scripted:
                    scripted_server.answer.update(request_vote=grant, append_entries=accept)
                wait_for_leadership(c)
            for scripted_server in c.scripted:
                scripted_server.answer.update(request_vote=answer_with(term), append_entries=answer_with(term))
            deadline = c.now + ELECTION_LIMIT
            while c.get_state(0)[0] < term and c.now < deadline:
                c.sleep(0.005)
            for scripted_server in c.scripted:
                scripted_server.answer.clear()
        # S0 refuses an old leader, and names its own term.
        named = append(c, 2, 50)["term"]
        text = (
            f"expected S0 to answer with term {term} or a higher one, but it said {named}. It saw term {term} in {how}"
        )
        c.expect(named >= term, text, rules.HIGHER_TERM, [0])
        c.restart(0)
        expect_term(c, named)


@points(5)
def test_own_vote_survives(cluster: StartCluster) -> None:
    """A candidate that crashes remembers its own vote, and a leader that crashes no longer leads its term."""
    c = cluster(3, scripted=(1, 2))
    term = wait_for_campaign(c)
    for elected in (False, True, False):
        if elected:
            for scripted_server in c.scripted:
                scripted_server.answer.update(request_vote=grant, append_entries=accept)
            term = wait_for_leadership(c)
        c.restart(0)
        for scripted_server in c.scripted:
            scripted_server.answer.clear()
        ask_vote(c, 1, term)
        expect_term(c, term)
        term = wait_for_campaign(c)


@points(5)
def test_log_survives(cluster: StartCluster) -> None:
    """After a crash, acknowledged entries are still there, and replaced ones are not."""
    c = cluster(3, scripted=(1, 2))
    last, seen = (0, 0), ""

    def restart(command: str) -> str:
        """Restart S0. Returns a clause for failure messages: whether the bytes that S0 had saved contain ``command``."""
        saved = command.encode() in c.server_state(0).state
        c.restart(0)
        return f", {'although' if saved else 'and'} what it had saved {'contains' if saved else 'lacks'} {command!r}"

    for term in (100, 200, 300):
        if last[0]:
            expect_entry(c, 1, term - 50, last, seen=seen)
        reply = append(c, 1, term, last, entries(term, f"of term {term}"))
        c.expect(reply["success"], "expected S0 to take an entry, but it refused", rules.CONSISTENCY, [0])
        last = (last[0] + 1, term)
        seen = restart(f"of term {term}")
    expect_entry(c, 1, 400, last, seen=seen)
    # The next leader has the same first entry, but another second entry. S0 replaces its second entry and drops its third.
    reply = append(c, 2, 500, (1, 100), entries(500, "instead"))
    c.expect(reply["success"], "expected S0 to replace the entry at index 2, but it refused", rules.LOG_MATCHING, [0])
    seen = restart("instead")
    expect_entry(c, 2, 600, (2, 500), seen=seen)
    reply = append(c, 1, 700, last)
    text = "expected S0 to have no entry at index 3, but it still has one. The entry at index 2 was replaced"
    c.expect(not reply["success"], text, rules.LOG_MATCHING, [0])


# How many entries one message has in the next test. Full messages are a special case in many Rafts, and each Raft has
# its own limit.
_SIZES = (2, 10, 50, 64, 100, 128, 200, 256, 300, 500, 1000)


@points(5)
def test_many_entries_survive(cluster: StartCluster) -> None:
    """Entries that S0 has acknowledged survive a crash, however many of them came in one message."""
    c = cluster(3, scripted=(1, 2))
    for number, size in enumerate(_SIZES):
        term = 1000 * (number + 1)
        reply = append(c, 1, term, entries=entries(term, *("saved",) * size))
        text = f"expected S0 to take {size} entries from a new leader, but it refused"
        c.expect(reply["success"], text, rules.CONSISTENCY, [0])
        c.restart(0)
        kept = append(c, 1, term + 500, (size, term))
        text = f"expected S0 still to have the last of {size} entries after its restart, but it is gone"
        c.expect(kept["success"], f"{text}. They came in one message", rules.SURVIVES, [0])


@points(5)
def test_saves_at_once(cluster: StartCluster) -> None:
    """Entries and vote requests arrive at the same moment, and S0 crashes after its answers; it keeps its promises."""
    c = cluster(3, scripted=(1, 2))
    accepted = 0
    for number in range(32 if c.virtual else 16):
        term = 1000 + 10 * number
        if number >= 16:
            # S0 crashes as soon as it has sent an answer. It must have saved what this answer says.
            c.crash_at(0, "answer", side="after")
        with c.at_once(0):
            # If a thread is preempted in one of these calls, the other threads may wait for its lock.
            calls = [c.begin_get_state(0) for _ in range(8 if number >= 16 else 0)]
            acks = [send_append(c, 1, term, entries=entries(term, *("saved",) * count)) for count in (1, 3, 2)]
            votes = [request_vote(c, who, term + 4 - who) for who in (2, 1)] if number % 2 else []
        requests = [*acks, *votes]
        c.wait_for(5.0, lambda: all(rpc.done for rpc in requests) or not c.server_state(0).up)  # noqa: B023
        c.sleep(0.01)  # an answer that S0 sent before the crash arrives
        c.get_state_results(0, calls)
        kept = [len(rpc.args["entries"]) for rpc in acks if (rpc.reply or {}).get("success")]
        voted = [(rpc.args["term"], rpc.src) for rpc in votes if (rpc.reply or {}).get("vote_granted")]
        c.restart(0)
        if voted:
            last, who = max(voted)
            ask_vote(c, 3 - who, last)  # the referee remembers for whom S0 has voted
        if kept:
            expect_entry(c, 1, term + 5, (max(kept), term))
        accepted += len(kept)
    c.expect(accepted > 0, "expected S0 to accept entries from new leaders, but it refused all", rules.CONSISTENCY, [0])


# Sim only: on a busy machine, a server starts late.
@points(4, networks=SIM)
def test_restart_waits_for_a_leader(cluster: StartCluster) -> None:
    """A server that restarts gives the leader a whole election timeout before it starts an election."""
    c = cluster(3, scripted=(1, 2))
    for term in (1000, 2000, 3000):
        reply = append(c, 1, term)
        text = "expected S0 to accept the heartbeat of a new leader, but it refused"
        c.expect(reply["success"], text, rules.CONSISTENCY, [0])
        c.restart(0)
        c.sleep(0.1)  # as long as the leader's next heartbeat may take
        now, _ = c.get_state(0)
        text = (
            f"expected S0 to wait for the leader of term {term} after its restart, but it is in term {now} after 0.1 s"
        )
        c.expect(now <= term and not campaign_terms(c, term), text, rules.TIMER_RESTARTS, [0])


@points(5)
def test_restart_commits_nothing(cluster: StartCluster) -> None:
    """After a restart, saved entries are not yet committed, and committed ones are applied again."""
    c = cluster(3, scripted=(1, 2))
    reply = append(c, 1, 1000, (0, 0), entries(1000, "never", "committed"))
    c.expect(reply["success"], "expected S0 to take the first entries, but it refused", rules.CONSISTENCY, [0])
    c.restart(0)
    c.sleep(0.2)
    text = "expected S0 to apply nothing after its restart, but it did. No leader has said that anything is committed"
    c.expect(not c.committed(1)[0], text, rules.COMMIT_MAJORITY, [0])
    reply = append(c, 2, 2000, (0, 0), entries(2000, "at last", "committed", "not yet"), commit=2)
    c.expect(reply["success"], "expected S0 to take entries from index 1 on, but it refused", rules.LOG_MATCHING, [0])
    term = 2000
    for _ in range(3):
        deadline = c.now + ELECTION_LIMIT
        while c.committed(2)[0] == 0 and c.now < deadline:
            term += 10  # so that S0 obeys even if it has started an election
            append(c, 2, term, (3, 2000), commit=2)
            c.sleep(0.05)
        text = "expected S0 to apply index 1 and 2 within 5 s, but it did not"
        c.expect(bool(c.committed(2)[0]), text, rules.APPLY_IN_ORDER, [0])
        c.sleep(0.1)
        c.expect(not c.committed(3)[0], "expected S0 not to apply index 3 yet, but it did", rules.COMMIT_PROVED, [0])
        c.restart(0)


@points(6, networks=SIM)
def test_crash_points(cluster: StartCluster) -> None:
    """S0 crashes before and after each save and each answer, and keeps every promise that it has sent."""
    c = cluster(3, scripted=(1, 2))
    term = 0
    for request in REQUESTS:
        for kind, nth, side in _POINTS:
            term += 1000
            prepare(c, request, term)
            c.crash_at(0, kind, nth, side)
            rpc = REQUESTS[request].send(c, term)
            c.wait_for(1.0, lambda rpc=rpc: rpc.done or not c.server_state(0).up)  # type: ignore[misc]
            if c.server_state(0).up:
                c.crash_at(0, kind, nth=0)  # disarm the crash: S0 does not save that often
                continue
            c.sleep(0.01)  # an answer that S0 sent before the crash arrives
            c.restart(0)
            expect_answer_kept(c, request, term, rpc.reply or {}, rules.SAVE_FIRST)


@points(6, networks=SIM)
def test_own_crash_points(cluster: StartCluster) -> None:
    """S0 crashes in the middle of its own election, or while it leads, and keeps every promise that it has sent."""
    c = cluster(3, scripted=(1, 2))
    for kind, nth, side in _POINTS:
        if kind == "answer":
            c.crash_at(0, "send", nth, side, method="request_vote")
        else:
            c.crash_at(0, kind, nth, side)
        # S0 starts one election after another, and nobody votes for it.
        c.wait_for(2 * ELECTION_LIMIT, lambda: not c.server_state(0).up)
        c.sleep(0.01)
        c.restart(0)
        terms = [rpc.args["term"] for each in c.scripted for rpc in each.received if rpc.method == "request_vote"]
        if terms:
            # If S0 had not saved its vote for itself yet, that vote was not counted, so S0 may now vote for S1.
            ask_vote(c, 1, max(terms))
            expect_term(c, max(terms))
    # Now the others vote for S0 at once. If S0 became the leader, its vote for itself was counted, so S0 must remember that
    # vote.
    c.unreliable(on=False, latency=(0.0, 0.0))
    for scripted_server in c.scripted:
        scripted_server.answer["request_vote"] = grant
    for nth in (1, 2, 3, 4):
        c.crash_at(0, "send", nth, "after", method="append_entries")
        since = c.now
        c.wait_for(2 * ELECTION_LIMIT, lambda: not c.server_state(0).up)
        observed = c.why_no_leader(since, [0])
        c.sleep(0.01)
        led = _led_terms(c)
        c.restart(0)
        if not led:
            c.fail("expected S0 to lead with every vote, but it does not", rules.LIVENESS, [0], observed=observed)
        ask_vote(c, 1, led[-1])  # the referee remembers that S0 led this term
        expect_term(c, led[-1])
    c.unreliable(on=False)
    c.scripted_server(2).answer.clear()
    # Now S1 votes for S0 and stores S0's entries, and S2 stays silent: what S0 commits is on S0 and S1 only.
    log = ScriptedFollower(c, 1).log
    upto = 0
    for kind, nth, side in [*_POINTS, ("send", 1, "after"), ("apply", 1, "before"), ("apply", 1, "after")]:
        if kind == "answer":
            continue
        since = c.now
        leads = c.wait_for(2 * ELECTION_LIMIT, lambda: c.get_state(0)[1])
        text = "expected S0 to lead with the vote of S1, but it does not"
        c.expect(leads, text, rules.LIVENESS, [0], observe=partial(c.why_no_leader, since, [0]))
        c.sleep(0.1)
        c.crash_at(0, kind, nth, side)
        c.propose(0, f"crash {side} {kind} {nth}")
        c.wait_for(0.3, lambda: not c.server_state(0).up)
        c.crash(0)
        c.sleep(0.01)
        while c.committed(upto + 1)[0]:
            upto += 1
        c.restart(0)
        term = c.get_state(0)[0] + 1000
        text = f"expected S0 to commit no more than index {len(log)}, but it applied index {upto}. No other server has more"
        c.expect(upto <= len(log), text, rules.COMMIT_MAJORITY, [0])
        if upto:
            expect_entry(c, 1, term, (upto, log[upto - 1]["term"]), rules.SAVE_FIRST)
        append(c, 1, term, (0, 0), log, commit=upto)


@points(5, networks=SIM)
def test_start_saves_at_once(cluster: StartCluster) -> None:
    """S0's own copy counts only after it is saved, even if the reply of another server arrives while start() runs."""
    c = cluster(3, scripted=(1, 2))
    c.unreliable(on=False, latency=(0.0, 0.0))
    log = ScriptedFollower(c, 1).log
    command = ""

    def unsaved(_: Message) -> bool:
        # A Raft may save in a format in which its commands cannot be found. Then S0 crashes too often, which does no harm.
        return command.encode() not in c.server_state(0).state

    for attempt in range(3):
        wait_for_leadership(c)
        c.agree(f"{attempt}: before", 1)
        # S2 is silent, so what S0 applies is on S1 and S0 only. A crash shows whether S0 still has it.
        c.crash_at(0, "apply", 1, "after", when=unsaved)
        for number in range(40):
            command = f"{attempt}: command {number}."
            index, _, is_leader = c.propose(0, command)
            c.wait_for(2.0, lambda: not is_leader or c.committed(index)[0] == 1)  # noqa: B023  (called in this round only)
            if not c.server_state(0).up or not c.committed(index)[0]:
                break
        if c.server_state(0).up:
            return  # nothing was applied too early, or S0 has stepped down
        upto = c.event_loop.referee.applies.last_applied[0]
        text = f"expected S0 to commit no more than index {len(log)}, but it applied index {upto}. No other server has more"
        c.expect(upto <= len(log), text, rules.COMMIT_MAJORITY)
        c.restart(0)
        expect_entry(c, 1, c.get_state(0)[0] + 1000, (upto, log[upto - 1]["term"]), rules.SAVE_FIRST)


@points(4, networks=SIM)
def test_start_while_elected(cluster: StartCluster) -> None:
    """Commands arrive just as the only server is elected after a restart; it takes each in its new term, or refuses it."""
    c = cluster(1)
    led = 0
    for attempt in range(16):
        before, leads = c.get_state(0)
        if leads or before > led:
            # This Raft starts an election as soon as its only server starts, and may lead already. So this test cannot
            # choose the moment of the election.
            return
        # S0's timer runs out while S0 is paused. So S0 starts an election when it goes on, and leads at once.
        c.pause(0)
        c.sleep(2.0)
        calls = [c.ask_start(0, f"{attempt}: command {number}") for number in range(40)]
        c.resume(0)
        for _ in range(5):  # some Rafts start the election a few milliseconds later
            c.sleep(0.001)
            calls += [c.ask_start(0, f"{attempt}: command {len(calls) + number}") for number in range(2)]
        text = f"expected S0 to take commands in a term after {before}, but start() returned index"
        for index, term, is_leader in c.started(0, calls):
            wrong = is_leader and term <= before
            c.expect(
                not wrong, f"{text} {index}, term {term}. S0 was a follower in that term", rules.ELECTION_SAFETY, [0]
            )
        led = wait_for_leadership(c)
        c.restart(0)


@points(6, networks=SIM)
def test_crash_points_in_a_cluster(cluster: StartCluster) -> None:
    """Servers crash at random moments; no promise is broken, and the cluster goes on."""
    c = cluster(3)
    for time in range(10):
        leader = c.settled_leader()
        victim = c.random.randrange(3)
        kind, nth, side = c.random.choice(("save", "send", "answer")), c.random.randint(1, 4), c.random.choice(_SIDES)
        c.note(f"S{victim} crashes {side} {kind} {nth}")
        c.crash_at(victim, kind, nth, side)
        for number in range(3):
            if c.server_state(leader).up:
                c.propose(leader, f"{time}: {number}")
        c.sleep(0.02)
        # Only the old leader gets the next entry. Meanwhile, the others may elect a new leader.
        c.disconnect(leader)
        if c.server_state(leader).up:
            c.propose(leader, f"{time}: in vain")
        if victim != leader and not c.server_state(victim).up:
            c.restart(victim)
        c.sleep(1.0)
        c.crash_at(victim, kind, nth=0)
        if not c.server_state(victim).up:
            c.restart(victim)
        c.connect(leader)
        c.agree(f"{time}: by all", 3)


@points(5)
def test_failed_save(cluster: StartCluster) -> None:
    """When a save fails, the server does not answer as if it had succeeded."""
    c = cluster(3, scripted=(1, 2))
    term = 0
    # A server may try again to save. If one save fails, its second attempt succeeds. If five fail, all its attempts fail.
    for fails in (1, 5):
        for request in REQUESTS:
            term += 1000
            prepare(c, request, term)
            c.fail_saves(0, fails)
            rpc = REQUESTS[request].send(c, term)
            c.wait_for(1.0, lambda rpc=rpc: rpc.done or not c.server_state(0).up)  # type: ignore[misc]
            c.restart(0)
            expect_answer_kept(c, request, term, rpc.reply or {}, rules.FAILED_SAVE)
        # S0 stands for election while its saves fail, and everybody votes for it. If S0 could not save its vote for itself,
        # that vote does not count.
        for scripted_server in c.scripted:
            scripted_server.answer["request_vote"] = grant
        c.fail_saves(0, fails)
        c.wait_for(ELECTION_LIMIT, lambda: bool(_led_terms(c)) or not c.server_state(0).up)
        c.sleep(0.01)
        terms = _led_terms(c)
        c.restart(0)
        for scripted_server in c.scripted:
            scripted_server.answer.clear()
        if terms:
            ask_vote(c, 1, terms[-1])  # the referee remembers that S0 led this term
        for how in ("vote request", "heartbeat"):
            term += 1000
            _learn_term_while_saves_fail(c, term, how, fails)


def _learn_term_while_saves_fail(c: Cluster, term: int, how: str, fails: int) -> None:
    """Let S0 learn of ``term`` from the replies to its vote requests or heartbeats while ``fails`` saves fail. Require that
    S0 names this term to others only after it has saved the term."""
    for scripted_server in c.scripted:
        scripted_server.answer.update(request_vote=grant, append_entries=accept)
    if how == "heartbeat":
        wait_for_leadership(c)
    answered_at: list[float] = []

    def refuse(rpc: Rpc) -> Message:
        if not answered_at:
            c.fail_saves(0, fails)  # only now, because S0 must be able to save its vote for itself
        answered_at.append(c.now)
        return {"term": term, "vote_granted": False, "success": False}

    for scripted_server in c.scripted:
        scripted_server.answer.update(request_vote=refuse, append_entries=refuse)
    c.wait_for(ELECTION_LIMIT, lambda: bool(answered_at))
    c.sleep(0.3)
    incarnation = c.server_state(0).incarnation
    sent = [rpc for each in c.scripted for rpc in each.received if rpc.src_incarnation == incarnation]
    old_leader = send_append(c, 2, 50)  # S0 refuses an old leader, and names its own term
    c.wait_for(1.0, lambda: old_leader.done or not c.server_state(0).up)
    # A candidate may ask for votes before its own vote is saved, as long as it does not count that vote.
    named = [rpc.args["term"] for rpc in sent if rpc.method == "append_entries"]
    named.append((old_leader.reply or {}).get("term", 0))
    c.restart(0)
    for scripted_server in c.scripted:
        scripted_server.answer.clear()
    # Do not call c.get_state() here: the referee would see its result, and name another rule in the failure.
    now, _ = c.get_state_results(0, [c.begin_get_state(0)])[0]
    text = (
        f"expected S0 to name term {term} only once it has saved this term, but its save failed, and S0 named the term"
    )
    text += (
        f" all the same. It had learned the term from the reply to its {how}. After its restart, S0 is in term {now}"
    )
    c.expect(now >= term or max(named) < term, text, rules.FAILED_SAVE, [0])


@points(5)
def test_failed_saves_in_a_cluster(cluster: StartCluster) -> None:
    """A copy that the leader or a follower could not save does not count for a commit."""
    c = cluster(3)
    c.agree("by all", 3)
    for failing in ("leader", "follower"):
        leader = c.settled_leader()
        follower, alone = (leader + 1) % 3, (leader + 2) % 3
        c.disconnect(alone)
        c.fail_saves(leader if failing == "leader" else follower, 5)
        c.propose(leader, f"the {failing} cannot save this")
        c.sleep(0.3)
        # The server that could not save the entry, and the one that never got it, are a majority.
        c.crash(leader)
        c.crash(follower)
        c.connect(alone)
        back, last = (leader, follower) if failing == "leader" else (follower, leader)
        c.restart(back)
        c.agree(f"the {failing} restarted", 2)
        c.restart(last)
        c.agree(f"all are back from the {failing}'s failure", 3)


# --- Figure 8, churn and bad networks ---


@points(5)
def test_figure_8_in_steps(cluster: StartCluster) -> None:
    """An entry of an old term is not committed just because a majority has it (Figure 8, step by step)."""
    c = cluster(3)
    c.agree("by all", 3)
    # (a) A leader has an entry that no other server gets.
    first = c.settled_leader()
    unsent = c.hold("append_entries", src=first, when=message_filters.entries)
    c.propose(first, "the older")
    c.sleep(0.1)
    c.crash(first)
    unsent.drop()
    # (b) The next leader has such an entry, too, at the same index.
    others = [server for server in range(3) if server != first]
    holds = [c.hold("append_entries", src=server, when=message_filters.entries) for server in others]
    second = c.one_leader()
    third = next(server for server in others if server != second)
    c.propose(second, "the newer")
    c.sleep(0.1)
    c.crash(second)
    for hold in holds:
        hold.drop()
    # (c) The first leader leads again and copies its old entry to the third server, so that a majority has the entry. No
    # entry of the new term reaches another server.
    own = c.hold("append_entries", src=first, when=message_filters.own_term)
    c.restart(first)
    # Only the first server can win. A Raft that restarts its timer in each term may let the other server campaign often.
    c.one_leader(within=2 * ELECTION_LIMIT)
    c.sleep(1.0)
    # (d) The first leader crashes. The second leader's log is newer than the third server's, so the second leader is elected
    # and overwrites the old entry everywhere.
    c.crash(first)
    own.drop()
    c.restart(second)
    c.agree("after all that", 2)
    c.restart(first)
    c.agree(f"S{third} has seen it all", 3)


@points(5)
def test_figure_8(cluster: StartCluster) -> None:
    """Leaders take a command and crash at once, again and again; then all agree."""
    c = cluster(5)
    c.agree("first", 1)
    for time in range(150):
        leader = propose_everywhere(c, f"{time}")
        pause_briefly(c, leader is not None)
        if leader is not None:
            c.crash(leader)
        down = [server for server in range(5) if not c.server_state(server).up]
        if len(down) > 2:
            c.restart(c.random.choice(down))
    for server in range(5):
        if not c.server_state(server).up:
            c.restart(server)
    c.agree("last", 5, within=20.0)


@points(5)
def test_unreliable_agreement(cluster: StartCluster) -> None:
    """Clients send many commands at a time over a network that delays, loses and repeats messages; no command is lost."""
    c = cluster(5)
    c.unreliable(duplicate=0.1)
    taken: list[tuple[int, int, str]] = []
    for time in range(12):
        leader = c.leader_now()
        for number in range(4):
            command = f"{time}: {number}"
            index, term, is_leader = (-1, -1, False) if leader is None else c.propose(leader, command)
            if is_leader:
                taken.append((index, term, command))
        c.agree(f"{time}: together", 1)
    c.unreliable(on=False)
    leader = c.settled_leader()
    last = c.agree("last", 5)
    term, _ = c.get_state(leader)
    # The command "last" is committed. So a command that was taken earlier in the same term cannot be missing (Leader
    # Append-Only). Commands of other terms may be lost.
    for index, of_term, command in taken:
        if of_term == term and index < last:
            text = f"expected {command!r} to be committed at index {index}, but it is not"
            text = f"{text}. The leader of term {term} took it there"
            c.expect(c.committed(index)[1] == command, text, rules.LEADER_APPEND_ONLY)


@points(5)
def test_figure_8_unreliable(cluster: StartCluster) -> None:
    """Leaders come and go on a network that loses messages and delays replies for seconds; then all agree."""
    c = cluster(5)
    c.unreliable()
    c.agree("first", 1)
    for time in range(150):
        if time == 50:
            c.unreliable(reorder_reply=2 / 3)
        leader = propose_everywhere(c, f"{time}")
        pause_briefly(c, leader is not None)
        if leader is not None and c.random.random() < 0.5:
            c.disconnect(leader)
        away = [server for server in range(5) if not c.network.connected(server)]
        if len(away) > 2:
            c.connect(c.random.choice(away))
    for server in range(5):
        c.connect(server)
    c.unreliable()
    c.agree("last", 5, within=20.0)


@points(5)
def test_churn(cluster: StartCluster) -> None:
    """Three clients work while servers crash, restart and lose connections; nothing that a client saw committed is lost."""
    churn(cluster(5))


@points(5)
def test_unreliable_churn(cluster: StartCluster) -> None:
    """Three clients work while servers fail, on a network that delays and loses messages."""
    c = cluster(5)
    c.unreliable()
    churn(c)


# --- helpers ---


def _led_terms(c: Cluster) -> list[int]:
    """The terms in which S0 has sent AppendEntries in its current incarnation, one per request."""
    incarnation = c.server_state(0).incarnation
    requests = (rpc for scripted_server in c.scripted for rpc in scripted_server.received)
    return sorted(
        rpc.args["term"] for rpc in requests if rpc.method == "append_entries" and rpc.src_incarnation == incarnation
    )


def _restart_all(c: Cluster) -> None:
    for server in c.real_servers:
        c.crash(server)
    c.start_all()
