"""Lab 2B: log replication (§5.3, §5.4, Figure 2).

Every test requires this: a command given to a leader that reaches a majority is applied by all servers that can be reached,
in the same order; a command without a majority is not applied; and no more messages are sent than a reasonable Raft needs.
The number of entries per message, whether heartbeats carry entries, and whether a new leader begins with a no-op entry are
the student's choice, so no test relies on an index before `start` has returned it.

In the last tests there is one real server (S0), and the others are scripted servers. They require the answers and the
commits that Figure 2 requires of any implementation.
"""

from __future__ import annotations

from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness import message_filters
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.suites.helpers.scripted_servers import (
    Interrupted,
    ScriptedFollower,
    ScriptedLeader,
    accept,
    append,
    campaign_terms,
    entries,
    grant,
    propose_to_s0,
    run_uninterrupted,
    send_append,
    wait_for_campaign,
    wait_for_leadership,
)
from raftlab.suites.marking import SIM, StartCluster, points


def _expect_not_applied(c: Cluster, index: int, seconds: float, why: str, rule: Rule = rules.COMMIT_MAJORITY) -> None:
    """Require that no server applies ``index`` for ``seconds``. ``why`` completes the failure's message."""
    c.wait_for(seconds, lambda: c.committed(index)[0] > 0)
    count, command = c.committed(index)
    c.expect(count == 0, f"expected nobody to apply index {index}, {why}, but {count} applied {command!r}", rule)


@points(5)
def test_basic_agreement(cluster: StartCluster) -> None:
    """Commands given to the leader are applied by all servers, one after the other."""
    c = cluster(3)
    before = 0
    for number in range(1, 4):
        index = c.agree(f"command {number}", 3)
        c.expect(index > before, f"expected an index above {before}, but start() said {index}", rules.APPLY_IN_ORDER)
        before = index


@points(3)
def test_one_server(cluster: StartCluster) -> None:
    """A cluster of one commits on its own: its own copy is more than half of one."""
    c = cluster(1)
    for number in range(3):
        c.agree(f"command {number}", 1)


@points(5)
def test_rpc_bytes(cluster: StartCluster) -> None:
    """Each command travels to each server once."""
    c = cluster(3)
    c.agree("the first", 3)
    before, command_bytes = c.rpc_bytes(), 0
    for number in range(10):
        command = f"{number}" * 5000
        c.agree(command, 3)
        command_bytes += len(command)
    total = c.rpc_bytes() - before
    limit = 3 * command_bytes + 50_000  # as in MIT 6.824's test
    text = f"expected at most {limit:,} bytes for {command_bytes:,} bytes of commands, but saw {total:,}"
    c.expect(total <= limit, text, rules.FEW_MESSAGES)


@points(5)
def test_follower_failure(cluster: StartCluster) -> None:
    """A majority goes on without a follower; a leader alone commits nothing."""
    c = cluster(3)
    c.agree("all", 3)
    leader = c.one_leader()
    c.disconnect((leader + 1) % 3)
    c.agree("two", 2)
    c.sleep(1.0)
    c.agree("two again", 2)
    leader = c.one_leader()
    for server in range(3):
        if server != leader:
            c.disconnect(server)
    index, _, is_leader = c.propose(leader, "alone")
    c.expect(is_leader, f"expected S{leader} still to lead, but start() says that it does not", rules.AGREEMENT)
    _expect_not_applied(c, index, 2.0, "since only the leader has it")


@points(5)
def test_leader_failure(cluster: StartCluster) -> None:
    """A new leader goes on with the log when the old one is gone; alone, it commits nothing."""
    c = cluster(3)
    c.agree("all", 3)
    c.disconnect(c.one_leader())
    c.agree("two", 2)
    c.sleep(1.0)
    c.agree("two again", 2)
    second = c.one_leader()
    c.disconnect(second)
    index, _, is_leader = c.propose(second, "alone")
    c.expect(is_leader, f"expected S{second} still to lead, but start() says that it does not", rules.AGREEMENT)
    _expect_not_applied(c, index, 2.0, "since only the leader has it")


# Sim only: on a busy machine an election may be correct.
@points(4, networks=SIM)
def test_dead_follower(cluster: StartCluster) -> None:
    """A follower that cannot be reached delays no one: leader and term stay as they are."""
    c = cluster(3)
    leader = c.settled_leader()
    term = c.agreed_term()
    c.disconnect((leader + 1) % 3)
    for number in range(8):
        c.sleep(0.8)
        c.agree(f"command {number}", 2)
        now, leads = c.get_state(leader)
        text = f"expected S{leader} to go on leading term {term}, but it is in term {now}"
        if not leads:
            text += " and does not lead"
        c.expect(leads and now == term, text, rules.STABLE_LEADER, hint="Call each server in a thread of its own.")


@points(5)
def test_agreement_after_reconnect(cluster: StartCluster) -> None:
    """A follower that was away gets everything that it missed."""
    c = cluster(3)
    c.agree("before", 3)
    away = (c.one_leader() + 1) % 3
    c.disconnect(away)
    for number in range(4):
        c.agree(f"without it {number}", 2)
    c.sleep(1.0)
    c.connect(away)
    for number in range(2):
        c.agree(f"with it {number}", 3)


@points(5)
def test_no_agreement_without_majority(cluster: StartCluster) -> None:
    """Two of four commit nothing; when the others are back, all agree again."""
    c = cluster(4)
    c.agree("before", 4)
    leader = c.settled_leader()
    for step in (1, 2):
        c.disconnect((leader + step) % 4)
    index, _, is_leader = c.propose(leader, "two of four")
    c.expect(is_leader, f"expected S{leader} still to lead, but start() says that it does not", rules.AGREEMENT)
    _expect_not_applied(c, index, 2.0, "since at most two of four have it")
    c.heal()
    c.agree("after", 4)


@points(5)
def test_concurrent_starts(cluster: StartCluster) -> None:
    """Commands started at the same time each get an index of their own."""
    c = cluster(3)
    for attempt in range(5):
        leader = c.one_leader()
        c.agree(f"before {attempt}", 3)
        commands = [f"{attempt} at once {number}" for number in range(5)]
        taken = c.propose_together(leader, commands)
        if len({term for _, term, _ in taken}) != 1 or not all(is_leader for _, _, is_leader in taken):
            continue  # the leader has changed, so this attempt is inconclusive
        places = {index: command for (index, _, _), command in zip(taken, commands, strict=True)}
        text = f"expected five commands to get five indexes, but start() said {sorted(i for i, _, _ in taken)}"
        c.expect(len(places) == 5, text, rules.APPLY_IN_ORDER)
        c.wait_for(2.0, lambda at=places: all(c.committed(index)[0] == 3 for index in at))  # type: ignore[misc]
        if c.get_state(leader) != (taken[0][1], True):
            continue
        for index, command in places.items():
            count, applied = c.committed(index)
            text = f"expected {command!r} at index {index} on 3 servers within 2 s, but saw {applied!r} on {count}"
            c.expect(count == 3 and applied == command, text, rules.AGREEMENT)
        return
    c.fail("expected a leader to last for the length of five commands, but five times it did not", rules.STABLE_LEADER)


@points(5)
def test_rejoin(cluster: StartCluster) -> None:
    """Entries of a leader without a majority disappear; those of the majority reach it."""
    c = cluster(3)
    c.agree("before", 3)
    first = c.one_leader()
    c.disconnect(first)
    c.propose_together(first, [f"doomed {number}" for number in range(3)])
    c.agree("without the first leader", 2)
    second = c.one_leader()
    c.disconnect(second)
    c.connect(first)
    c.agree("the first is back", 2)
    c.connect(second)
    c.agree("all are back", 3)


@points(6)
def test_backup(cluster: StartCluster) -> None:
    """Leaders bring followers with long wrong logs back into line, across partitions."""
    c = cluster(5)
    c.agree("before", 5)
    first = c.one_leader()
    rest = [server for server in range(5) if server != first]
    # The leader and one follower take 50 commands that have no majority.
    c.partition([first, rest[0]], rest[1:])
    c.propose_together(first, [f"doomed a{number}" for number in range(50)])
    c.sleep(0.5)
    # The other three go on alone.
    c.disconnect(first)
    c.disconnect(rest[0])
    second = c.one_leader(among=rest[1:])
    c.propose_together(second, [f"good b{number}" for number in range(50)])
    c.agree("good b", 3, among=rest[1:])
    # Their leader stays with only one of them, and takes 50 more commands that have no majority.
    second = c.one_leader(among=rest[1:])
    other = next(server for server in rest[1:] if server != second)
    c.disconnect(other)
    c.propose_together(second, [f"doomed c{number}" for number in range(50)])
    c.sleep(0.5)
    # Only the first leader, its follower and the server that was cut off last are left.
    for server in range(5):
        c.disconnect(server)
    left = [first, rest[0], other]
    c.partition(left)
    for server in left:
        c.connect(server)
    third = c.one_leader(among=left)
    c.propose_together(third, [f"good d{number}" for number in range(50)])
    c.agree("good d", 3, among=left)
    c.heal()
    c.agree("all are back", 5)


@points(5)
def test_fast_backup(cluster: StartCluster) -> None:
    """A follower with sixty wrong entries is repaired after a few refusals, not after sixty."""
    c = cluster(3)
    c.agree("before", 3)
    first = c.one_leader()
    c.disconnect(first)
    c.propose_together(first, [f"doomed {number}" for number in range(60)])
    c.agree("good", 2)
    second = c.one_leader()
    c.propose_together(second, [f"good {number}" for number in range(60)])
    c.agree("good, too", 2)
    # The third server has never led. As a new leader it must find the last index at which the first one's log agrees.
    second = c.one_leader()
    c.disconnect(second)
    c.connect(first)
    c.agree("repaired", 2)
    third = next(server for server in range(3) if server not in (first, second))
    term, _ = c.get_state(third)
    refused = 0
    for args, reply in c.replies(first, "append_entries"):
        if args["term"] == term and reply["term"] == term:
            if reply["success"] and args["entries"]:
                break  # the leader has found the index; later refusals are of messages that arrived out of order
            refused += not reply["success"]
    # One refusal is enough. Allow a few more for messages in flight and for other ways to search (such as bisection).
    text = f"expected S{first} to refuse at most 12 messages before it takes one, but it refused {refused}"
    c.expect(refused <= 12, text, rules.FAST_BACKUP)


@points(6)
def test_rpc_counts(cluster: StartCluster) -> None:
    """Elections, agreement and idle time need few messages."""
    c = cluster(3)
    c.settled_leader()
    count = c.rpc_count()
    text = f"expected 1 to 30 RPCs for a first election, but saw {count}"
    c.expect(1 <= count <= 30, text, rules.FEW_MESSAGES)
    for attempt in range(5):
        leader = c.one_leader()
        term, _ = c.get_state(leader)
        c.agree(f"before {attempt}", 3)
        before, since = c.rpc_count(), c.now
        taken = c.propose_together(leader, [f"{attempt} command {number}" for number in range(11)])
        last = max(index for index, _, _ in taken)
        done = c.wait_for(2.0, lambda at=last: c.committed(at)[0] == 3)  # type: ignore[misc]
        if not done or c.get_state(leader) != (term, True):
            continue  # the leader has changed, so this attempt is inconclusive
        used = c.rpc_count() - before
        # The limit of MIT 6.824's test, plus heartbeats for the elapsed time.
        limit = 42 + 40 * (c.now - since)
        text = f"expected at most {limit:.0f} RPCs for eleven commands, but saw {used}"
        c.expect(used <= limit, text, rules.FEW_MESSAGES)
        break
    else:
        text = "expected eleven commands to be applied by all within 2 s, but in five tries they were not"
        c.fail(text, rules.AGREEMENT)
    before = c.rpc_count()
    c.sleep(1.0)
    idle = c.rpc_count() - before
    c.expect(idle <= 60, f"expected at most 60 RPCs in a second of idleness, but saw {idle}", rules.FEW_MESSAGES)


@points(5)
def test_lossy_network(cluster: StartCluster) -> None:
    """Lost, late, repeated and reordered messages cost time and nothing else."""
    c = cluster(5)
    c.unreliable(duplicate=0.2, reorder_reply=0.2)
    for round_ in range(6):
        leader = c.leader_now()
        if leader is not None:
            c.propose_together(leader, [f"{round_} command {number}" for number in range(4)])
        c.agree(f"round {round_}", 3, within=15.0)
    c.unreliable(on=False)
    c.agree("at last", 5)


@points(5)
def test_messages_of_the_past(cluster: StartCluster) -> None:
    """Messages of an old leader that arrive terms later are refused."""
    c = cluster(3)
    c.agree("before", 3)
    old = c.one_leader()
    others = [server for server in range(3) if server != old]
    late = c.hold("append_entries", src=old, when=message_filters.entries)
    c.propose_together(old, ["doomed 1", "doomed 2"])
    c.wait_for(1.0, lambda: len(late.messages) >= 2)
    c.disconnect(old)
    for number in range(3):
        c.agree(f"good {number}", 2, among=others)
    c.connect(old)
    c.settled_leader()
    late.release()
    c.sleep(0.2)
    c.agree("all", 3)
    c.disconnect(old)
    c.agree("the two", 2)


@points(5)
def test_longer_log_is_not_newer(cluster: StartCluster) -> None:
    """Of a longer old log and a shorter new one, the new one wins, with nobody else left to help."""
    c = cluster(3)
    c.agree("before", 3)
    old = c.one_leader()
    others = [server for server in range(3) if server != old]
    c.disconnect(old)
    c.propose_together(old, [f"doomed {number}" for number in range(8)])
    index = c.agree("good", 2, among=others)
    c.disconnect(c.one_leader(among=others))
    c.connect(old)
    left = [server for server in range(3) if c.network.connected(server)]
    c.agree("the two that are left", 2, among=left)
    text = f"expected S{old} to get index {index}, too, but it did not"
    c.expect(c.committed(index) == (3, "good"), text, rules.NEWER_LOG)


@points(4)
def test_slow_service(cluster: StartCluster) -> None:
    """A slow service does not stop the Raft below it."""
    c = cluster(3)
    c.agree("before", 3)
    leader = c.settled_leader()
    c.slow_service(leader, 1.5)
    c.propose_together(leader, ["command 1", "command 2"])
    c.sleep(0.5)  # these are committed now, and the service is busy with the first
    taken = c.propose_together(leader, ["command 3", "command 4"])
    last = max(index for index, _, _ in taken)
    done = c.wait_for(4.0, lambda: c.committed(last)[0] >= 2)
    hint = "Hold no lock while you put a message into apply_ch, and let one thread do nothing but that."
    text = f"expected the others to apply 4 commands within 4 s while S{leader}'s service is slow, but they did not"
    c.expect(done, text, rules.AGREEMENT, hint=hint)
    done = c.wait_for(15.0, lambda: c.committed(last)[0] == 3)
    c.expect(done, f"expected S{leader} to apply all 4 commands in the end, but it did not", rules.AGREEMENT)


# --- one real server, S0; the test plays the others ---


@points(8)
def test_append_table(cluster: StartCluster) -> None:
    """The AppendEntries table: every relation between a log and a request."""
    c = cluster(3, scripted=(1, 2))

    def listed(terms: list[int]) -> str:
        return " ".join(map(str, terms)) or "nothing"

    def row(case: str, log: list[int], prev: tuple[int, int], sent: list[int], success: bool, after: list[int]) -> None:
        """Give S0 a log with entries of these terms, send it one request, and check its answer and its log ``after``. Terms
        are relative to the script's first term."""

        def script(base: int) -> None:
            def at(term: int) -> int:
                return base + term if term else 0

            # An earlier leader sends S0 its log. Its terms are new, so S0 drops its log from the previous row.
            former = ScriptedLeader(c, base + 5)
            former.append(0, 0, [at(term) for term in log])
            leader = ScriptedLeader(c, base + 9, who=2)
            took = leader.append(prev[0], at(prev[1]), [at(term) for term in sent])
            words = (
                f"{case}: S0's log has terms {listed(log)}, the request has prev_log_index={prev[0]}, "
                f"prev_log_term={prev[1]} and entries of terms {listed(sent)}"
            )
            want, got = ("success" if yes else "a refusal" for yes in (success, took))
            c.expect(success == took, f"expected {want}, but saw {got} ({words})", rules.CONSISTENCY, [0])
            for index, term in enumerate(after, 1):
                kept = leader.s0_has(index, at(term))
                text = f"expected S0 to have term {term} at index {index} afterwards, but it has not ({words})"
                c.expect(kept, text, rules.LOG_MATCHING, [0])
            # With a refusal, S0 may drop entries that the leader does not have, or keep them.
            if success and len(log) > len(after):
                stale = leader.s0_has(len(log), at(log[-1]))
                text = f"expected S0 to drop everything after a conflict, but index {len(log)} is still there ({words})"
                c.expect(not stale, text, rules.LOG_MATCHING, [0])

        run_uninterrupted(c, script)

    row("an empty log", [], (0, 0), [1, 1], True, [1, 1])
    row("a heartbeat for an empty log", [], (0, 0), [], True, [])
    row("a log that is too short", [1], (3, 1), [1], False, [1])
    row("a heartbeat beyond the log", [1], (3, 1), [], False, [1])
    row("a log that ends where the request begins", [1, 1], (2, 1), [2, 2], True, [1, 1, 2, 2])
    row("another term at prev_log_index", [1, 1], (2, 2), [2], False, [1])
    row("a heartbeat with another term at prev_log_index", [1, 1], (2, 2), [], False, [1])
    row("an old and short request", [1, 1, 1], (1, 1), [1], True, [1, 1, 1])
    row("a heartbeat before the end of the log", [1, 1, 1], (1, 1), [], True, [1, 1, 1])
    row("a request from the very beginning", [1, 1], (0, 0), [1, 1, 2], True, [1, 1, 2])
    row("a repeated request, shorter than the log", [1, 1, 2], (0, 0), [1], True, [1, 1, 2])
    row("a conflict at the first entry of the request", [1, 1, 1], (1, 1), [2], True, [1, 2])
    row("a conflict in the middle of the request", [1, 1, 1, 1], (0, 0), [1, 2, 2], True, [1, 2, 2])
    row("another log altogether", [1, 1], (0, 0), [2, 2], True, [2, 2])


@points(6)
def test_newer_log_table(cluster: StartCluster) -> None:
    """The up-to-date check: only a candidate whose log is at least as new gets the vote."""
    c = cluster(3, scripted=(1, 2))

    def script(base: int) -> None:
        ScriptedLeader(c, base + 5).append(0, 0, [base + 1, base + 3])
        # A server that has just heard a leader may ignore vote requests (§6), so begin with S0 as a candidate.
        term = max(wait_for_campaign(c, base + 5), base + 10)
        rows = (
            ("ends with the same term and index", 3, 2, True),
            ("ends with the same term and is shorter", 3, 1, False),
            ("ends with the same term and is longer", 3, 3, True),
            ("is longer, but ends with an older term", 2, 9, False),
            ("is shorter, but ends with a newer term", 4, 1, True),
            ("has the same length and ends with an older term", 1, 2, False),
            ("is empty", 0, 0, False),
        )
        for case, last_term, last_index, granted in rows:
            term += 1
            who = 1 + term % 2
            reply = c.scripted_server(who).ask(
                0,
                "request_vote",
                term=term,
                candidate_id=who,
                last_log_index=last_index,
                last_log_term=base + last_term if last_term else 0,
            )
            if reply["term"] > term:
                raise Interrupted
            text = (
                f"expected S0 to adopt term {term}, in which it is asked for a vote, but it answers in {reply['term']}"
            )
            c.expect(reply["term"] == term, text, rules.HIGHER_TERM, [0])
            want, got = ("a vote" if yes else "no vote" for yes in (granted, reply.get("vote_granted")))
            text = f"expected {want} from S0 (log: terms 1 3) for a candidate whose log {case}, but saw {got}"
            c.expect(want == got, text, rules.NEWER_LOG, [0])

    run_uninterrupted(c, script)


@points(6)
def test_commit_only_what_is_proved(cluster: StartCluster) -> None:
    """A follower commits nothing that the leader's message has not checked."""
    c = cluster(3, scripted=(1, 2))

    def script(base: int) -> None:
        # Two entries of an old leader, on S0 alone.
        ScriptedLeader(c, base + 1).append(0, 0, [base + 1, base + 1])
        # The new leader has a different log. Its heartbeat has leader_commit=2 before S0 has any of its entries.
        leader = ScriptedLeader(c, base + 5, who=2)
        for _ in range(10):
            leader.append(0, 0, [], commit=2)
            c.sleep(0.03)
        why = "which the leader's message did not check (leader_commit was 2, the message ended at 0)"
        _expect_not_applied(c, 1, 0.0, why, rules.COMMIT_PROVED)
        # One entry arrives: S0 may commit up to this one.
        leader.append(0, 0, [base + 5], commit=2)
        c.wait_for(2.0, lambda: c.committed(1)[0] == 1)
        c.expect(
            c.committed(1)[0] == 1, "expected S0 to apply index 1 within 2 s, but it did not", rules.AGREEMENT, [0]
        )
        why = "which the leader has not sent yet (leader_commit was 2, the message ended at 1)"
        _expect_not_applied(c, 2, 0.2, why, rules.COMMIT_PROVED)

    run_uninterrupted(c, script)


@points(6)
def test_old_entries_are_not_counted(cluster: StartCluster) -> None:
    """Figure 8: an entry of an older term is not committed by counting its copies."""
    c = cluster(3, scripted=(1, 2))
    ScriptedLeader(c, 10).append(0, 0, [10])
    # All three have the entry of term 10 now, but no server knows that it is committed. S0 leads next.
    old: list[Message] = [{"term": 10, "command": "10 at 1"}]
    followers = [ScriptedFollower(c, number, list(old), limit=1) for number in (1, 2)]
    term = wait_for_leadership(c)
    why = f"which is of term 10 while S0 leads term {term}, however many have it"
    _expect_not_applied(c, 1, 1.0, why, rules.COMMIT_OWN_TERM)
    # Once an entry of its own term is on a majority, both are committed.
    for follower in followers:
        follower.limit = 1_000_000
    c.agree("of its own term", 1)
    text = "expected S0 to apply index 1, too, but it did not"
    c.expect(c.committed(1) == (1, "10 at 1"), text, rules.COMMIT_OWN_TERM, [0])


@points(6)
def test_a_reply_proves_what_was_sent(cluster: StartCluster) -> None:
    """A late reply counts for the entries of its own request, not for those that came later."""
    c = cluster(3, scripted=(1, 2))
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    wait_for_leadership(c)
    # After this, the leader has sent everything that it may send first, such as a no-op. A leader may send one entry at a
    # time and wait for each reply.
    c.agree("before", 1)

    def carries_first(args: Message) -> bool:
        return any(entry["command"] == "first" for entry in args["entries"])

    # Hold no other replies yet: a leader may wait for a reply before its next request, and step down if it gets none.
    replies = c.hold("append_entries", leg="reply", when=carries_first)
    first = propose_to_s0(c, "first")
    if not c.wait_for(2.0, lambda: any(follower.has("first") for follower in followers)):
        _expect_not_applied(
            c, first, 0.0, "which no other server has: the replies were to requests before it", rules.REPLY_PROVES
        )
    others = c.hold("append_entries", leg="reply")
    for follower in followers:
        follower.limit = first
    second = propose_to_s0(c, "second")
    replies.release()
    others.release()
    c.wait_for(2.0, lambda: c.committed(first)[0] == 1)
    why = "which no other server has: the replies were to the request before it"
    _expect_not_applied(c, second, 0.5, why, rules.REPLY_PROVES)
    for follower in followers:
        follower.limit = 1_000_000
    c.agree("third", 1)


@points(5)
def test_replies_of_an_old_term(cluster: StartCluster) -> None:
    """A leader that is elected again does not count replies from its earlier term."""
    c = cluster(5, scripted=(1, 2, 3, 4))
    followers = {number: ScriptedFollower(c, number) for number in (1, 2, 3, 4)}
    term = wait_for_leadership(c)
    for number in (2, 3, 4):
        followers[number].silent = True
    # S1's replies for two entries arrive immediately, its reply for the third arrives late.
    propose_to_s0(c, "doomed 1")
    propose_to_s0(c, "doomed 2")
    c.wait_for(2.0, lambda: followers[1].has("doomed 2"))
    c.sleep(0.05)
    late = c.hold("append_entries", dst=1, leg="reply", when=message_filters.entries)
    c.propose(0, "doomed 3")  # S0 may have stepped down by now, since only S1 has answered
    c.wait_for(0.5, lambda: followers[1].has("doomed 3"))
    followers[1].silent = True
    # S2 leads, and S0 takes over its log of one entry. Then S0 leads again, and only S2 takes its entries.
    high = term + 10
    ScriptedLeader(c, high, who=2).append(0, 0, [high])
    followers[2].log, followers[2].silent = [{"term": high, "command": f"{high} at 1"}], False
    wait_for_campaign(c, high)
    wait_for_leadership(c)
    index = propose_to_s0(c, "on two of five")
    late.release()
    why = f"which two of five have: S1's late reply was about entries of term {term}"
    _expect_not_applied(c, index, 1.0, why, rules.REPLY_PROVES)
    for follower in followers.values():
        follower.silent = False
    c.agree("at last", 1)


@points(5)
def test_leader_keeps_its_log(cluster: StartCluster) -> None:
    """A leader keeps its own entries, whatever earlier leaders still send."""
    c = cluster(3, scripted=(1, 2))
    followers = [ScriptedFollower(c, number) for number in (1, 2)]
    for follower in followers:
        follower.silent = True
    term = wait_for_leadership(c)
    index = propose_to_s0(c, "the leader's own")
    reply = append(c, 1, term - 1, (0, 0), entries(term - 1, "of the past"), commit=1)
    text = f"expected S0 to refuse a leader of term {term - 1}, but it said success"
    c.expect(not reply["success"], text, rules.OLD_TERM, [0])
    for follower in followers:
        follower.silent = False
    c.agree("another", 1)
    applied = c.committed(index)[1]
    text = f"expected S0 to keep its own entry at index {index}, but it applied {applied!r} there"
    c.expect(applied == "the leader's own", text, rules.LEADER_APPEND_ONLY, [0])


@points(4)
def test_start_while_stepping_down(cluster: StartCluster) -> None:
    """A command that arrives just as the leader steps down is either of the old term or refused."""
    c = cluster(3, scripted=(1, 2))
    for number in (1, 2):
        ScriptedFollower(c, number)
    for attempt in range(6):
        term = wait_for_leadership(c)
        propose_to_s0(c, f"{attempt} in peace")
        # The heartbeat of a new leader is a millisecond away.
        send_append(c, 1, term + 5)
        for index, in_term, is_leader in c.propose_together(0, [f"{attempt} command {number}" for number in range(8)]):
            text = f"expected S0 to take a command in term {term}, which it leads, or to refuse it, but start() said "
            text += f"index {index}, term {in_term}"
            c.expect(not is_leader or in_term == term, text, rules.ELECTION_SAFETY, [0])
        c.sleep(0.1)


@points(5)
def test_commands_of_every_kind(cluster: StartCluster) -> None:
    """Commands of every kind and size are applied, also those that Python takes for false."""
    c = cluster(3)
    commands: tuple[Any, ...] = (0, "", [], {}, None, False, 0.0, "x" * 20_000, {"key": [1, None, ""]}, "the last")
    for command in commands:
        c.agree(command, 3)


# Sim only: the test must send on time, which a busy machine does not always allow.
@points(5, networks=SIM)
def test_refusals_calm(cluster: StartCluster) -> None:
    """A leader whose entries do not fit yet is heard all the same: a refusal restarts the election timer."""
    c = cluster(3, scripted=(1, 2))
    term = wait_for_campaign(c) + 10
    for _ in range(60):
        send_append(c, 1, term, prev=(50, term - 1))
        c.sleep(0.05)
    text = (
        "expected S0 to wait while the leader of its term sends entries that S0 must refuse, but S0 starts an election"
    )
    c.expect(not campaign_terms(c, term), text, rules.TIMER_RESTARTS, [0])


@points(5)
def test_refusal_ends_candidacy(cluster: StartCluster) -> None:
    """A candidate that hears the leader of its own term follows it, even if it must refuse the leader's entries."""
    c = cluster(3, scripted=(1, 2))
    c.scripted_server(2).answer["request_vote"] = grant
    term = 0
    for _ in range(10):
        votes = c.hold("request_vote", dst=2, leg="reply")
        term = wait_for_campaign(c, term)
        c.wait_for(1.0, lambda: bool(votes.messages))  # noqa: B023  (called in this round only)
        reply = append(c, 1, term, prev=(50, term))
        votes.release()
        c.sleep(0.3)
        if reply["term"] > term:
            term = reply["term"]  # S0's timer ran out just before: this round is inconclusive
            continue
        now, leads = c.get_state(0)
        text = f"expected S0 to follow S1, which led term {term} when the last vote came, but S0 leads that term too"
        c.expect(not (leads and now == term), text, rules.ELECTION_SAFETY, [0])
        return
    c.fail("expected S0 to wait between two elections, but it starts one after the other", rules.TIMER_RESTARTS, [0])


@points(5)
def test_entries_refused_in_a_newer_term(cluster: StartCluster) -> None:
    """A leader steps down when the answer to its entries comes from a newer term."""
    c = cluster(3, scripted=(1, 2))
    for number in (1, 2):
        ScriptedFollower(c, number)
    newer = wait_for_leadership(c) + 1000  # so high that S0 does not reach it by its own elections

    def refuse_entries(rpc: Rpc) -> Message:
        return {"term": newer, "success": False} if rpc.args["entries"] else accept(rpc)

    for scripted_server in c.scripted:
        scripted_server.answer["append_entries"] = refuse_entries
    c.propose(0, "refused")
    adopted = c.wait_for(ELECTION_LIMIT, lambda: c.get_state(0)[0] >= newer)
    text = f"expected S0 to adopt term {newer} from the answer to its entries within 5 s, but it did not"
    c.expect(adopted, text, rules.HIGHER_TERM, [0])
