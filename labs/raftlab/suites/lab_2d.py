"""Lab 2D: snapshots (§7, Figure 13).

Every test requires three things. The log is cut where a service took a snapshot. A server that needs entries that were cut
gets the snapshot, in chunks of at most 4096 bytes. After a restart, the service gets the snapshot first. The guarantees of
lab 2C still hold: an acknowledged entry stays, in the log or in a snapshot.

How chunks are combined, what a reply to a chunk contains besides its term, and whether a transfer continues or starts over
after a loss are the student's choice. The referee checks that no service ever gets an incomplete, wrong or older snapshot.
In the last tests there is one real server (S0), and the others are scripted servers.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from raftlab.explain import rules
from raftlab.harness import message_filters
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message
from raftlab.referee.snapshots import CHUNK_BYTES
from raftlab.suites.helpers.scripted_leader import SnapshotSender, term_of
from raftlab.suites.helpers.scripted_servers import (
    ROUNDS,
    ScriptedFollower,
    accept,
    campaign_terms,
    expect_term,
    grant,
    propose_to_s0,
    wait_for_campaign,
    wait_for_leadership,
)
from raftlab.suites.marking import SIM, StartCluster, points

# The maximum number of bytes that a server may store besides the snapshot. Commands here have 200 characters, so more than
# 30 commands fit even in a verbose format. A service takes a snapshot every 10 commands.
MAX_STATE_BYTES = 10_000
# Seconds. A call to a server that is cut off may take 7 s, and some Rafts make no other call to it meanwhile.
CATCH_UP_LIMIT = 15.0


def _commands(c: Cluster, count: int) -> list[str]:
    """Random commands of 200 characters."""
    return [c.random.randbytes(100).hex() for _ in range(count)]


def _expect_short_logs(c: Cluster) -> None:
    """Require that within 2 s no server stores more than ``MAX_STATE_BYTES`` besides its snapshot."""
    c.wait_for(2.0, lambda: all(c.server_state(server).state_size <= MAX_STATE_BYTES for server in c.real_servers))
    for server in c.real_servers:
        size = c.server_state(server).state_size
        text = f"expected S{server} to store at most {MAX_STATE_BYTES:,} bytes besides the snapshot, but it stores {size:,}"
        c.expect(size <= MAX_STATE_BYTES, text, rules.LOG_IS_CUT, [server])


def _expect_saved(c: Cluster, server: int) -> None:
    """Require that within 2 s the server has saved a snapshot."""
    c.wait_for(2.0, lambda: bool(c.server_state(server).snapshot))
    text = f"expected S{server} to save the snapshot that its service has taken, but nothing is stored"
    c.expect(bool(c.server_state(server).snapshot), text, rules.LOG_IS_CUT, [server])


def _expect_applied(c: Cluster, index: int, servers: int, what: str) -> None:
    """Require that ``servers`` servers apply ``index`` within ``CATCH_UP_LIMIT``. ``what`` is part of the failure."""
    since = c.now
    c.wait_for(CATCH_UP_LIMIT, lambda: c.committed(index)[0] >= servers)
    got = c.committed(index)[0]
    text = (
        f"expected {what} within {CATCH_UP_LIMIT:.0f} s, but only {got} of {servers} servers have applied index {index}"
    )
    c.expect(got >= servers, text, rules.CATCH_UP, observe=lambda: c.why_behind(since, index))


def _rounds(c: Cluster, away: Callable[[int], None], back: Callable[[int], None], rounds: int) -> None:
    """Like MIT 6.824's test: in each round a server is away while the others take a snapshot or two.

    Args:
        c: the cluster, of three servers.
        away: cuts off or crashes a server.
        back: undoes ``away``.
        rounds: number of rounds; in every third one the leader is away, otherwise a follower.
    """
    c.take_snapshots(every=10)
    c.agree("first", 3, within=20.0)
    for number in range(rounds):
        leader = c.one_leader(within=2 * ELECTION_LIMIT)
        victim = leader if number % 3 == 1 else (leader + 1) % 3
        away(victim)
        c.agree(f"{number}: without S{victim}", 2, within=20.0)
        c.propose_together(c.one_leader(within=2 * ELECTION_LIMIT), _commands(c, c.random.randint(10, 19)))
        c.agree(f"{number}: still without S{victim}", 2, within=20.0)
        back(victim)
        c.agree(f"{number}: with S{victim} again", 3, within=20.0)
    _expect_short_logs(c)


@points(5)
def test_snapshots_basic(cluster: StartCluster) -> None:
    """Logs are cut when services take snapshots."""
    c = cluster(3)
    c.take_snapshots(every=10)
    for number in range(12):
        c.propose_together(c.one_leader(), _commands(c, c.random.randint(5, 14)))
        c.agree(f"round {number}", 3)
    _expect_short_logs(c)


@points(5)
def test_snapshot_after_disconnect(cluster: StartCluster) -> None:
    """A server that was cut off for a long time gets a snapshot, and then the entries after it."""
    c = cluster(3)
    _rounds(c, c.disconnect, c.connect, 9)


@points(5)
def test_snapshot_after_crash(cluster: StartCluster) -> None:
    """A server that was down for a long time starts from its own snapshot, gets a newer one, and then entries."""
    c = cluster(3)
    _rounds(c, c.crash, c.restart, 6)


@points(5)
def test_snapshot_unreliable(cluster: StartCluster) -> None:
    """Servers are cut off, or crash, on an unreliable network, and still catch up."""
    c = cluster(3)
    c.unreliable()
    _rounds(c, c.disconnect, c.connect, 5)
    _rounds(c, c.crash, c.restart, 3)


@points(5)
def test_snapshot_all_restart(cluster: StartCluster) -> None:
    """All servers restart, with or without entries after the snapshot; new entries continue from the same index."""
    c = cluster(3)
    c.unreliable()
    c.take_snapshots(every=10)
    for count in (10, c.random.randint(5, 14), c.random.randint(5, 14), 0, 0):
        c.propose_together(c.one_leader(within=2 * ELECTION_LIMIT), _commands(c, count))
        c.agree(f"before the crash, with {count}", 3, within=20.0)
        for server in range(3):
            c.crash(server)
        c.start_all()
        # The referee checks that this command's index comes after the index of the previous command.
        c.agree(f"after the crash, with {count}", 3, within=20.0)
    _expect_short_logs(c)
    for server in range(3):
        _expect_saved(c, server)


def _chunks_to(c: Cluster, server: int) -> list[Message]:
    """A list to which every InstallSnapshot request to ``server`` is added when it is sent, from now on."""
    chunks: list[Message] = []

    def record(args: Message) -> bool:
        chunks.append(args)
        return False  # do not hold it

    c.hold("install_snapshot", dst=server, when=record)
    return chunks


@points(6)
def test_snapshot_in_chunks(cluster: StartCluster) -> None:
    """A big snapshot travels in chunks, even if one request and one reply are lost."""
    c = cluster(3)
    # A snapshot begins with 20 bytes of text, such as "everything up to 60.", so the last chunk has a single byte.
    c.take_snapshots(every=10, size=5 * 4096 + 1 - 20)
    c.agree("by all", 3)
    away = (c.one_leader() + 1) % 3
    c.disconnect(away)
    c.propose_together(c.one_leader(), _commands(c, 60))
    last = c.agree("by two", 2)
    chunks = _chunks_to(c, away)
    answer = c.hold("install_snapshot", dst=away, leg="reply", when=message_filters.later_chunk, most=1)
    c.connect(away)
    c.wait_for(CATCH_UP_LIMIT, lambda: bool(answer.messages) or c.committed(last)[0] == 3)
    # The others go on while that reply is held, so that their next snapshot is a newer one.
    c.propose_together(c.one_leader(), _commands(c, 12))
    last = c.agree("by two, too", 2)
    newest = last - last % 10
    # During the transfer of that snapshot a request is lost, and only a retry can help.
    request = c.hold("install_snapshot", dst=away, when=lambda args: args["last_included_index"] >= newest, most=1)
    answer.drop()
    c.wait_for(CATCH_UP_LIMIT, lambda: bool(request.messages) or c.committed(last)[0] == 3)
    request.drop()
    _expect_applied(c, last, 3, f"S{away} to catch up with a snapshot of 20,481 bytes")
    # The referee has checked what the chunks contain, and that none is too big.
    c.expect(bool(chunks), "expected a snapshot to be sent for a log that was cut, but saw none", rules.CATCH_UP)
    c.agree("by all again", 3)
    # A server that restarts in the middle of a transfer loses the chunks that it has. Before the transfer, this server is
    # cut off for a while, and the others go on cutting their logs.
    c.disconnect(away)
    c.propose_together(c.one_leader(), _commands(c, 30))
    last = c.agree("by two again", 2)
    answer = c.hold("install_snapshot", dst=away, leg="reply", when=message_filters.later_chunk, most=1)
    c.connect(away)
    c.wait_for(CATCH_UP_LIMIT, lambda: bool(answer.messages) or c.committed(last)[0] == 3)
    c.disconnect(away)
    answer.drop()
    c.propose_together(c.one_leader(), _commands(c, 60))
    last = c.agree("by two in the end", 2)
    _expect_short_logs(c)
    c.restart(away)
    c.connect(away)
    _expect_applied(c, last, 3, f"S{away} to catch up after a restart in the middle of a snapshot")
    # Once more, but now the others take no newer snapshot: the transfer of a newer one would hide that this transfer failed.
    leader = c.settled_leader()
    away = (leader + 1) % 3
    c.disconnect(away)
    c.propose_together(leader, _commands(c, 30))
    c.agree("by two once more", 2)
    c.take_snapshots(every=0)
    answer = c.hold("install_snapshot", dst=away, leg="reply", when=message_filters.later_chunk, most=1)
    c.connect(away)
    c.wait_for(CATCH_UP_LIMIT, lambda: bool(answer.messages))
    c.restart(away)
    answer.drop()
    last = c.agree("by two at last", 2)
    _expect_applied(c, last, 3, f"S{away} to catch up after a restart in the middle of a snapshot")


@points(6)
def test_snapshot_chunks_come_again(cluster: StartCluster) -> None:
    """Every message arrives twice, the second time up to two seconds late; no server returns to an older state."""
    c = cluster(3)
    c.take_snapshots(every=10, size=9000)
    c.agree("by all", 3)
    c.unreliable(duplicate=1.0, echo=2.0, lose_request=0.0, lose_reply=0.05, reorder_reply=0.05)
    for number in range(3):
        away = (c.one_leader() + 1) % 3
        c.disconnect(away)
        c.propose_together(c.one_leader(), _commands(c, 20))
        c.agree(f"{number}: by two", 2, within=20.0)
        c.connect(away)
        c.agree(f"{number}: by all", 3, within=20.0)
        c.propose_together(c.one_leader(), _commands(c, 12))
        c.sleep(0.3)
    c.agree("by all in the end", 3, within=20.0)
    for server in range(3):
        _expect_saved(c, server)


@points(5)
def test_snapshot_boundary(cluster: StartCluster) -> None:
    """A server that lacks only the last entry of a snapshot catches up."""
    c = cluster(3)
    c.take_snapshots(every=10)
    index = c.agree("first", 3)
    while index % 10 != 9:
        index = c.agree(f"after {index}", 3)
    for _ in range(2):
        away = (c.one_leader() + 1) % 3
        c.disconnect(away)
        index = c.agree("the last one of the snapshot", 2)
        c.sleep(0.2)  # now the logs end with the snapshot
        c.connect(away)
        _expect_applied(c, index, 3, f"S{away} to apply index {index}")
        c.propose_together(c.one_leader(), _commands(c, 8))
        c.agree("by all", 3)
    for server in range(3):
        _expect_saved(c, server)


@points(5)
def test_entries_if_they_are_there(cluster: StartCluster) -> None:
    """A server that lacks only entries after the snapshot gets those entries, not the snapshot."""
    c = cluster(3)
    c.take_snapshots(every=10)
    index = c.agree("first", 3)
    while index % 10 != 0:
        index = c.agree(f"after {index}", 3)
    for server in range(3):
        _expect_saved(c, server)
    # From here on, services take no snapshots, and another leader adds many entries, which have a later term than the
    # snapshot. So a leader that goes back a whole term at a time, to find the last index at which two logs agree, does not
    # go back beyond the snapshot's end.
    c.take_snapshots(every=0)
    first = c.one_leader()
    c.disconnect(first)
    c.one_leader()
    c.connect(first)
    c.propose_together(c.settled_leader(), _commands(c, 25))
    c.agree("by all", 3)
    away = (c.one_leader() + 1) % 3
    c.disconnect(away)
    for number in range(3):
        index = c.agree(f"by two {number}", 2)
    # Another leader has to find out which entries `away` lacks. Only that leader and `away` are left.
    c.disconnect(c.one_leader())
    chunks = _chunks_to(c, away)
    c.connect(away)
    c.one_leader(within=2 * ELECTION_LIMIT)
    _expect_applied(c, index, 3, f"S{away} to apply index {index}")
    text = f"expected S{away} to get entries, but it was sent a snapshot. "
    text += f"The leader still has all entries that S{away} lacks"
    c.expect(not chunks, text, rules.CATCH_UP)


@points(5)
def test_restarted_leader_has_a_snapshot(cluster: StartCluster) -> None:
    """A leader that restarted from its snapshot brings a server with an empty log, or with other entries, up to date."""
    c = cluster(3)
    c.take_snapshots(every=10, size=5000)
    # In the second round, the server that stays behind is a leader. While it is cut off, it takes more entries than the
    # others commit. These entries conflict with entries that the restarted leader has only in its snapshot.
    for own in (0, 70):
        leader = c.one_leader()
        away = leader if own else (leader + 1) % 3
        c.disconnect(away)
        c.propose_together(away, _commands(c, own))
        c.propose_together(c.one_leader(), _commands(c, 50))
        last = c.agree(f"by two, {own}", 2)
        left = c.one_leader()
        _expect_saved(c, left)
        for server in range(3):
            if server != away:
                c.crash(server)
        c.restart(left)
        c.connect(away)
        # Only the restarted server can win, and it needs both votes. That may take several elections.
        c.agree(f"by the restarted one and one that was away, {own}", 2, within=20.0)
        _expect_applied(c, last, 2, f"S{away} to apply index {last}")
        c.restart(3 - left - away)
        c.agree(f"by all, {own}", 3)


@points(5)
def test_snapshot_reply_proves(cluster: StartCluster) -> None:
    """The reply to a snapshot counts for the entries that the snapshot covers, not for later ones."""
    c = cluster(3)
    c.take_snapshots(every=10)
    c.agree("by all", 3)
    for _ in range(3):
        leader = c.settled_leader()
        away = (leader + 1) % 3
        c.disconnect(away)
        c.propose_together(leader, _commands(c, 60))
        c.agree("by two", 2)
        _expect_saved(c, leader)
        entries = c.hold("append_entries", dst=away, when=message_filters.entries)
        answers = c.hold("install_snapshot", dst=away, leg="reply", when=message_filters.last_chunk)
        c.connect(away)
        c.wait_for(CATCH_UP_LIMIT, lambda: bool(answers.messages))  # noqa: B023  (called in this round only)
        leader = c.one_leader()
        if leader == away or {rpc.src for rpc, _ in answers.messages} != {leader}:
            break
        c.disconnect(3 - leader - away)
        c.propose(leader, "on the leader alone")
        answers.release()
        c.sleep(0.3)  # the referee checks that nobody applies this command
        entries.drop()
        c.heal()
        c.agree("by all again", 3, within=20.0)


@points(5)
def test_late_reply_to_a_snapshot(cluster: StartCluster) -> None:
    """A late reply says nothing about the next snapshot, and two replies to one chunk count once."""
    c = cluster(3)
    c.take_snapshots(every=10)
    c.agree("by all", 3)
    for number in range(2):
        leader = c.settled_leader()
        away = (leader + 1 + number) % 3
        c.disconnect(away)
        c.propose_together(leader, [f"{number}: {each}" for each in range(20)])
        first = c.agree(f"{number}: by two", 2)
        # The reply to the last chunk is late, so the leader sends this chunk again. The reply to the second copy comes
        # first, and the next snapshot begins.
        late, again = (
            c.hold("install_snapshot", dst=away, leg="reply", when=message_filters.last_chunk, most=1) for _ in range(2)
        )
        c.connect(away)
        c.wait_for(CATCH_UP_LIMIT, lambda: bool(late.messages))  # noqa: B023  (called in this round only)
        c.propose_together(c.one_leader(), [f"{number}: {each}" for each in range(20, 40)])
        last = c.agree(f"{number}: by two, too", 2)
        following = c.hold("install_snapshot", dst=away, when=lambda args: args["last_included_index"] > first)  # noqa: B023
        c.wait_for(1.0, lambda: bool(again.messages))  # noqa: B023
        again.release()
        c.wait_for(1.0, lambda: bool(following.messages))  # noqa: B023
        late.release()
        c.sleep(0.05)
        following.drop()
        _expect_applied(c, last, 3, f"S{away} to get two snapshots, with a late reply to the first one,")
    # The reply to the first of three chunks is late, so the leader sends this chunk again. Then both replies come.
    c.take_snapshots(every=10, size=10_000)
    leader = c.settled_leader()
    away = (leader + 1) % 3
    c.disconnect(away)
    c.propose_together(leader, _commands(c, 20))
    last = c.agree("by two, in the end", 2)
    both = c.hold("install_snapshot", dst=away, leg="reply", when=lambda args: args["offset"] == 0, most=2)
    c.connect(away)
    c.wait_for(2.0, lambda: len(both.messages) == 2)
    both.release()
    _expect_applied(c, last, 3, f"S{away} to get a snapshot whose first chunk is answered twice")


@points(5)
def test_old_snapshot_calls(cluster: StartCluster) -> None:
    """If snapshot() is called twice, late or for an older index, nothing changes."""
    c = cluster(3)
    c.take_snapshots(every=10)
    for number in range(2):
        c.propose_together(c.one_leader(), _commands(c, 25))
        last = c.agree(f"{number}: by all", 3)
        for server in range(3):
            for index in (last, last, last - 1, 10, last - 12, 1):
                c.call_snapshot(server, index)
        for server in range(3):
            c.crash(server)
        c.start_all()
        c.agree(f"{number}: after a restart", 3)
    _expect_short_logs(c)


def _expect_snapshots(c: Cluster) -> None:
    """Require that three servers agree on commands and save snapshots, before and after a restart."""
    c.take_snapshots(every=5)
    c.start_all()
    for number in range(12):
        c.agree(f"number {number}", 3)
    for server in range(3):
        _expect_saved(c, server)
    c.restart(c.one_leader())
    for number in range(12):
        c.agree(f"number {number} after a restart", 3)


@points(5)
def test_service_calls_back(cluster: StartCluster) -> None:
    """A service calls snapshot() from inside put(), in the thread that called put()."""
    c = cluster(3, start=False)
    c.service.snapshot_inside_put()
    _expect_snapshots(c)


@points(5)
def test_service_waits_for_snapshot(cluster: StartCluster) -> None:
    """put() waits while the service, in another thread, is still inside snapshot()."""
    c = cluster(3, start=False)
    c.service.snapshot_before_put_returns()
    _expect_snapshots(c)


# Sim only: the crash must happen at an exact point.
@points(6, networks=SIM)
def test_crash_while_cutting(cluster: StartCluster) -> None:
    """A crash while a server cuts its log and saves the snapshot loses nothing, and applies nothing twice."""
    c = cluster(3)
    c.take_snapshots(every=10, size=5000)
    index = c.agree("first", 3)
    for step in (0, 1):  # the leader crashes, or a follower
        for nth in (1, 2, 3):
            for side in ("before", "after"):
                while index % 10 != 9:
                    index = c.agree(f"after {index}", 3)
                c.sleep(0.05)  # so that the save of an earlier snapshot() is over
                # The first save stores the entry, the next one (or two) the snapshot.
                leader = c.settled_leader()
                victim = (leader + step) % 3
                c.crash_at(victim, "save", nth, side)
                c.propose(leader, f"S{victim} crashes {side} save {nth}")
                c.sleep(0.3)
                c.restart(victim)
                # The referee remembers what each server applied before the crash.
                index = c.agree(f"after S{victim} crashed {side} save {nth}", 3, within=20.0)
    for server in range(3):
        _expect_saved(c, server)


# --- one real server, S0; the test plays the others ---


@points(6)
def test_chunks_in_any_order(cluster: StartCluster) -> None:
    """Missing, repeated or late chunks, or those of another snapshot, do not make a snapshot; all chunks in order do."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=10_000)
    leader = SnapshotSender(c)
    rows = (
        # The chunks of an older snapshot are a, b, c, those of a newer one A, B, C. "+" is a new leader, "!" a restart. The
        # last column says which snapshot follows: the newer one (True) or the older one (False).
        ("of the same snapshot in order", "ABC", True),
        ("with the first one twice", "AABC", True),
        ("with the first one again in the middle", "ABAC", True),
        ("with the last one before the middle one", "ACB", True),
        ("without the middle one", "AC", True),
        ("with only the last one", "C", True),
        ("mixed with those of an older snapshot", "aAbBcC", True),
        ("of two snapshots, with fitting offsets", "abC", True),
        ("of two snapshots, with fitting offsets, the other way round", "AaBbc", True),
        ("followed by late ones of an older snapshot", "ABCabcc", True),
        ("cut short by a new leader", "AB+C", True),
        ("begun by one leader and ended by the next", "A+BC", True),
        ("cut short by a new leader with an older snapshot", "AB+", False),
        ("cut short by a restart", "AB!C", True),
        ("cut short by a restart after the first one", "A!BC", True),
    )
    for number, (case, sequence, newer) in enumerate(rows):
        old, new = 20 * number + 10, 20 * number + 20
        for step in sequence:
            if step == "+":
                leader.term += 1
            elif step == "!":
                c.restart(0)
            else:
                leader.ask("install_snapshot", **leader.chunk(old if step in "abc" else new, "abcABC".index(step) % 3))
        # These chunks may or may not have been enough for a snapshot. All chunks in order must be enough, even if the leader
        # has to send them more than once because S0 did not expect the transfer to start over.
        wanted = new if newer else old
        for _ in range(4):
            leader.install(wanted)
            if c.wait_for(0.5, lambda at=wanted: c.committed(at)[0] == 1):  # type: ignore[misc]
                break
        text = f"expected S0 to apply the snapshot up to {wanted}, but it did not"
        text = f"{text}. A leader sent it in order, after chunks {case}"
        c.expect(c.committed(wanted)[0] == 1, text, rules.CATCH_UP, [0])
        leader.commit_through(wanted, new, f"after a snapshot whose chunks came {case}")


@points(6)
def test_log_meets_snapshot(cluster: StartCluster) -> None:
    """S0 handles a snapshot correctly, whatever its log contains, even if the snapshot arrives twice or late."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=10, size=6000)
    leader = SnapshotSender(c)
    rows = (
        # The columns: what S0's log is like; how many of the leader's next entries S0 gets in this row (the snapshot ends
        # with the tenth of them); and whether S0 then gets entries of another term. 0: none. Any other number: their term
        # minus the term of the snapshot's last entry.
        ("a log that is shorter", 4, 0),
        ("a log that ends with the snapshot", 10, 0),
        ("a longer log that agrees", 13, 0),
        ("a longer log that conflicts with it", 0, -1),
        ("a longer log that conflicts after it", 10, 1),
        ("a longer log that conflicts with higher terms", 0, 2),
        ("a log that is cut beyond it", 23, 0),
    )
    for number, (case, own, other) in enumerate(rows):
        at, last = 30 * number, 30 * number + 10
        beyond = own > 20
        leader.commit_through(at - 6, at, "by entries") if at else None
        leader.append(at, at + own)
        if other:
            leader.append(at + own, at + 13, term=term_of(last) + other)
        if beyond:
            leader.commit_through(at, at + 20, "by entries")
        leader.term += 1  # another leader, which sends its snapshot
        for time in ("came", "came twice"):
            leader.install(last)
            if own > 10:
                leader.expect_kept(at + own, f"when a snapshot up to {last} {time}")
        if not beyond:
            leader.commit_through(last, last, f"after a snapshot came to {case}")
            leader.expect_vote_refused(
                at + 20, term_of(last) - 1, f"after a snapshot of term {term_of(last)} came to {case}"
            )
        if other and own < 10:
            when = f"when a snapshot up to {last} of term {term_of(last)} came"
            leader.expect_gone(at + 13, term_of(last) + other, when)
        leader.commit_through(at + 20 if beyond else last, at + 24, f"after a snapshot came to {case}")
        # Now this snapshot comes late, and so does a newer one: S0's log ends after both.
        leader.append(at + 24, at + 27)
        for late in (last, at + 22):
            leader.install(late)
            leader.expect_kept(at + 27, f"when a snapshot up to {late} came late")
    # After a restart, S0 does not know what was committed after its own snapshot. But the late snapshot is older than S0's
    # own, so S0 must not use it.
    c.restart(0)
    leader.install(last)
    leader.expect_kept(at + 27, f"when a snapshot up to {last} came late, after a restart")


@points(6)
def test_late_entries_below_snapshot(cluster: StartCluster) -> None:
    """Late entries that the snapshot covers remove nothing; after a restart, nothing after the snapshot is committed."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=10)
    leader = SnapshotSender(c)
    for at in (10, 20):
        leader.append(at - 10, at)
        leader.commit_through(at - 10, at, "by entries")
        c.sleep(0.05)  # so that the service takes its snapshot
        _expect_saved(c, 0)
        # The entries after S0's snapshot have the term of the snapshot's last entry, and conflict with the next leader's
        # log.
        leader.append(at, at + 5, term=term_of(at))
        leader.term += 1
        text = (
            f"expected S0 to refuse entries after index {at + 3} of term {term_of(at + 3)}, but it took them. It has an"
        )
        text = f"{text} entry of term {term_of(at)} there, as at index {at}, where its snapshot ends"
        c.expect(not leader.append(at + 3, at + 5), text, rules.CONSISTENCY, [0])
        leader.append(at, at + 5)
        leader.expect_kept(at + 5, "after the snapshot")
        for prev, last in ((at - 7, at - 7), (at - 7, at - 2), (0, 5), (at - 1, at), (at - 7, at + 2), (at, at + 1)):
            leader.append(prev, last)
            leader.expect_kept(
                at + 5, f"when entries {prev + 1} to {last} came late" if last > prev else "after a heartbeat"
            )
        c.restart(0)
        c.sleep(0.2)
        text = f"expected S0 to apply nothing after its snapshot up to {at} when it restarts, but it did. No leader has said"
        text += " that more is committed"
        c.expect(not c.committed(at + 1)[0], text, rules.COMMIT_PROVED, [0])
        leader.expect_kept(at + 5, "before it restarted")
        leader.commit_through(at + 5, at + 6, "after late entries")


@points(6)
def test_votes_after_snapshot(cluster: StartCluster) -> None:
    """If a log ends with a snapshot, the snapshot's last entry counts when the server votes and asks for votes."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=10)
    leader = SnapshotSender(c)
    for index in (10, 20, 30):
        term = term_of(index)
        if index == 20:
            leader.commit_through(10, 20, "by entries")
        else:
            # S1 gets S0's vote and sends a snapshot in the same term. S0 must not vote again.
            leader.term += 10
            log = {"last_log_index": index, "last_log_term": term}
            c.scripted_server(1).ask(0, "request_vote", term=leader.term, candidate_id=1, **log)
            leader.install(index)
            c.scripted_server(2).ask(0, "request_vote", term=leader.term, candidate_id=2, **log)
            leader.commit_through(index, index, "by a snapshot")
        old_term = leader.term
        for incarnation in ("before", "after"):
            when = f"{incarnation} a restart with a snapshot up to {index} of term {term}"
            leader.expect_vote_refused(index - 1, term, when)
            leader.expect_vote_refused(index + 10, term - 1, when)
            leader.expect_vote_refused(index + 10, 0, when)
            received = c.scripted_server(1).received
            received.clear()
            c.wait_for(ELECTION_LIMIT, lambda: any(rpc.method == "request_vote" for rpc in received))  # noqa: B023
            requests = [rpc.args for rpc in received if rpc.method == "request_vote"]
            ends = [(args["last_log_index"], args["last_log_term"]) for args in requests[:1]]
            text = f"expected S0 to ask for votes and name {index, term} as the end of its log, but it named {ends}, {when}"
            c.expect(ends == [(index, term)], text, rules.NEWER_LOG, [0])
            # S1 does not know the term of these requests, and sends a chunk in its older term. The chunk must not restart
            # S0's timer.
            deadline, above = c.now + ELECTION_LIMIT, requests[0]["term"]
            while not campaign_terms(c, above) and c.now < deadline:
                c.scripted_server(1).send(0, "install_snapshot", term=old_term, leader_id=1, **leader.chunk(index, 0))
                c.sleep(0.04)
            text = "expected S0 to start another election although a leader of an older term keeps sending a snapshot"
            c.expect(bool(campaign_terms(c, above)), f"{text}, but it did not, {when}", rules.TIMER, [0])
            if incarnation == "before":
                c.restart(0)


# Sim only: the two messages must arrive at the same moment.
@points(5, networks=SIM)
def test_snapshot_overtakes_entries(cluster: StartCluster) -> None:
    """A snapshot arrives while entries are being applied; the service gets everything in order."""
    c = cluster(3, scripted=(1, 2))
    c.unreliable(on=False, latency=(0.001, 0.001))
    leader = SnapshotSender(c)
    for at in range(0, 600, 20):
        leader.append(at, at + 15)
        heartbeat = {"prev_log_index": at + 15, "prev_log_term": term_of(at + 15), "entries": []}
        leader.send("append_entries", **heartbeat, leader_commit=at + 15)
        leader.send("install_snapshot", **leader.chunk(at + 20, 0))
        c.sleep(0.01)
        leader.commit_through(at + 20, at + 20, "by a snapshot")


@points(6)
def test_snapshot_at_once(cluster: StartCluster) -> None:
    """snapshot() is called just as entries and a leader's snapshot arrive: S0 keeps what it acknowledges."""
    c = cluster(3, scripted=(1, 2))
    leader = SnapshotSender(c)
    for number in range(24):
        at = 20 * number
        leader.append(at, at + 12, commit=at + 8)
        c.wait_for(1.0, lambda: c.committed(at + 8)[0] == 1)  # noqa: B023  (called in this round only)
        with c.at_once(0):
            calls = [c.ask_snapshot(0, at + 5)]
            more = [leader.send_append(at + 12, at + last, commit=at + 12) for last in (14, 16, 15)]
            if number % 2:
                leader.send("install_snapshot", **leader.chunk(at + 10, 0))
            calls.append(c.ask_snapshot(0, at + 8))
        c.snapshots_taken(0, calls)
        kept = max([12, *(len(rpc.args["entries"]) + 12 for rpc in more if c.reply_to(rpc)["success"])])
        leader.expect_kept(at + kept, "when snapshot() was called at the same moment")
        if number % 3 == 2:
            c.restart(0)
            leader.expect_kept(at + kept, "before its restart")
        leader.commit_through(at + kept, at + 20, "after snapshot() was called just as entries came")
    _expect_saved(c, 0)


@points(5)
def test_leader_cuts_its_log_at_once(cluster: StartCluster) -> None:
    """snapshot() is called just as a leader sends entries and snapshots; each message has what belongs at its index."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=6000)
    ScriptedFollower(c, 1)
    # S2 accepts snapshots, but refuses entries. So S0 sends S2 a new snapshot whenever S0 has cut its own log.
    behind = c.scripted_server(2)
    behind.answer.update(
        request_vote=grant,
        append_entries=lambda rpc: {"term": rpc.args["term"], "success": False},
        install_snapshot=lambda rpc: {"term": rpc.args["term"]},
    )
    for number in range(ROUNDS):
        wait_for_leadership(c)
        held = c.hold("append_entries", dst=2, leg="reply")
        before = c.agree(f"{number} first", 1)
        c.propose_together(0, [f"{number}: {each}" for each in range(4)])
        last = c.agree(f"{number} second", 1)
        c.wait_for(0.3, lambda: bool(held.messages))  # noqa: B023  (called in this round only)
        c.call_snapshot(0, before)
        # S2's refusals make S0 send the snapshot.
        with c.at_once(0, held):
            calls = [c.ask_start(0, f"{number}: {each}") for each in range(4, 8)]
            cuts = [c.ask_snapshot(0, before + 1)]
        for index in range(before + 2, last + 1):
            c.sleep(0.0005)
            cuts.append(c.ask_snapshot(0, index))
        c.snapshots_taken(0, cuts)
        places = [index for index, _, is_leader in c.started(0, calls) if is_leader]
        if places:
            applied = c.wait_for(5.0, lambda: c.committed(max(places))[0] == 1)  # noqa: B023  (called in this round only)
            text = f"expected S0 to apply index {max(places)}, but it did not. S1 has that entry, too"
            c.expect(applied or not c.get_state(0)[1], text, rules.AGREEMENT, [0])
        c.sleep(0.03)  # so that the transfer is over
        for scripted_server in c.scripted:
            for rpc in scripted_server.received:
                _expect_own_content(c, rpc)
            scripted_server.received.clear()
    _expect_saved(c, 0)


def _expect_own_content(c: Cluster, rpc: Rpc) -> None:
    """Require that a message of S0 has the right content: bytes of the snapshot that it names, or the entries that were
    applied at its indexes."""
    args = rpc.args
    if rpc.method == "install_snapshot":
        index, offset, data = args["last_included_index"], args["offset"], args["data"]
        same = data == c.snapshot_of(index)[offset : offset + len(data)]
        text = f"expected S0 to send bytes of the snapshot up to index {index}, but it sent others under that index"
        c.expect(same, text, rules.WHOLE_SNAPSHOT, [0])
    elif rpc.method == "append_entries":
        for index, entry in enumerate(args["entries"], args["prev_log_index"] + 1):
            if entry.get("kind") == "configuration":
                continue  # the servers apply its members, not its command
            servers, command = c.committed(index)
            text = f"expected S0 to send {command!r} as index {index}, but it sent {entry['command']!r}"
            text = f"{text}. The servers applied {command!r}"
            c.expect(not servers or command == entry["command"], text, rules.LOG_MATCHING, [0])


@points(5)
def test_only_a_follower_cuts(cluster: StartCluster) -> None:
    """A follower, whose answers were lost, cuts off entries that the leader is about to send again; both go on."""
    c = cluster(3)
    c.take_snapshots(every=0)
    c.agree("by all", 3)
    leader = c.settled_leader()
    follower = (leader + 1) % 3
    c.cut(follower, leader)
    c.propose_together(leader, _commands(c, 8))
    last = c.agree("unanswered by one", 2)
    c.wait_for(2.0, lambda: c.committed(last)[0] == 3)
    if c.committed(last)[0] == 3:
        # The leader still has these entries, and only the follower knows that it needs none of them.
        c.call_snapshot(follower, last)
    c.mend(follower, leader)
    c.agree("by all again", 3, within=20.0)


@points(5)
def test_chunks_at_once(cluster: StartCluster) -> None:
    """Each chunk of a snapshot arrives several times at the same moment; S0 puts the snapshot together only once."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=6000)
    leader = SnapshotSender(c)
    for at in range(20, 20 * ROUNDS, 20):
        for part in (0, 1):
            with c.at_once(0):
                for _ in range(3):
                    leader.send("install_snapshot", **leader.chunk(at, part))
            c.sleep(0.03)
        # The referee checks what S0 hands to the service.
        leader.install(at)
        leader.commit_through(at, at + 5, "once it has every chunk of a snapshot, and some of them twice")


@points(6, networks=SIM)
def test_crash_while_installing(cluster: StartCluster) -> None:
    """If S0 crashes while it saves the leader's snapshot, it keeps all acknowledged entries and no half of a snapshot."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=6000)
    leader = SnapshotSender(c)
    # The log has 13 entries: more than a snapshot up to 10 covers, and fewer than a snapshot up to 16 covers.
    moments = itertools.product(("save", "answer"), (1, 2, 3), ("before", "after"), (10, 16))
    for number, (kind, nth, side, last) in enumerate(moments):
        at = 20 * number
        leader.append(at, at + 13)
        c.crash_at(0, kind, nth, side)
        for part in (0, 1):
            rpc = leader.send("install_snapshot", **leader.chunk(at + last, part))
            c.wait_for(0.5, lambda: rpc.done or not c.server_state(0).up)  # noqa: B023  (called in this round only)
        c.restart(0)
        when = f"when S0 crashed {side} {kind} {nth} while a snapshot arrived"
        if last == 10:
            leader.expect_kept(at + 13, when)
        leader.commit_through(at + last, at + 20, when)


# Sim only: the test must send on time, which a busy machine does not always allow.
@points(5, networks=SIM)
def test_snapshot_calms(cluster: StartCluster) -> None:
    """Every chunk of a snapshot from the current leader restarts the election timer."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=10_000)
    leader = SnapshotSender(c)
    for number in (0, 1, 2):
        term = wait_for_campaign(c, leader.term if number else 0)
        leader.ask("install_snapshot", **leader.chunk(20, number))
        term = max(term, *campaign_terms(c))
        for _ in range(40):
            leader.send("install_snapshot", **leader.chunk(20, number))
            c.sleep(0.05)
        text = "expected S0 to wait while the leader of its term sends a snapshot, but S0 starts an election"
        text += f" although chunk {number + 1} of 3 keeps coming"
        c.expect(not campaign_terms(c, term), text, rules.TIMER_RESTARTS, [0])


@points(6)
def test_snapshot_terms(cluster: StartCluster) -> None:
    """S0 refuses InstallSnapshot of an older term; it adopts a newer term, and remembers it after a crash."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=6000)
    leader = SnapshotSender(c)
    for role in ("follower", "candidate", "leader"):
        if role == "candidate":
            leader.term = wait_for_campaign(c, leader.term)
        elif role == "leader":
            for scripted_server in c.scripted:
                scripted_server.answer.update(request_vote=grant, append_entries=accept)
            leader.term = wait_for_leadership(c)
            for scripted_server in c.scripted:
                scripted_server.answer.clear()
        leader.term += 10
        reply = leader.ask("install_snapshot", **leader.chunk(20, 0))
        term, leads = c.get_state(0)
        text = f"expected S0, a {role}, to adopt term {leader.term} of a leader that sends a snapshot, but it"
        c.expect(reply["term"] == leader.term, f"{text} answers in term {reply['term']}", rules.HIGHER_TERM, [0])
        c.expect(term >= leader.term, f"{text} says that it is in term {term}", rules.HIGHER_TERM, [0])
        c.expect(not leads, f"{text} leads", rules.HIGHER_TERM, [0])
        c.restart(0)
        expect_term(c, leader.term)
    for number in (0, 1):
        stale = {**leader.chunk(20, number), "term": leader.term - 1, "leader_id": 1}
        named = c.scripted_server(1).ask(0, "install_snapshot", **stale)["term"]
        text = f"expected S0 to answer a snapshot of an older term with its own term, {leader.term} or more, but it"
        c.expect(named >= leader.term, f"{text} said {named}", rules.HIGHER_TERM, [0])
    c.sleep(0.3)
    text = f"expected S0 to refuse a snapshot of the old term {leader.term - 1}, but it applied it"
    c.expect(c.committed(20)[0] == 0, text, rules.OLD_TERM, [0])


@points(5)
def test_snapshot_reply_of_a_newer_term(cluster: StartCluster) -> None:
    """A leader steps down when the answer to its snapshot comes from a newer term."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=10)
    ScriptedFollower(c, 2)
    behind = c.scripted_server(1)
    behind.answer["request_vote"] = grant
    term = wait_for_leadership(c)
    index = 0
    for number in range(25):
        index = propose_to_s0(c, f"by two {number}")
    c.wait_for(5.0, lambda: c.committed(index)[0] == 1)
    _expect_saved(c, 0)
    newer = term + 10
    # S1 has an empty log. It refuses every entry until S0 sends the snapshot with which S0's log begins.
    behind.answer["append_entries"] = lambda rpc: {"term": rpc.args["term"], "success": False}
    behind.answer["install_snapshot"] = lambda rpc: {"term": newer}
    sent = c.wait_for(CATCH_UP_LIMIT, lambda: any(rpc.method == "install_snapshot" for rpc in behind.received))
    text = f"expected S0 to send S1 a snapshot within {CATCH_UP_LIMIT:.0f} s, but it did not. S1 has an empty log"
    c.expect(sent, text, rules.CATCH_UP, [0])
    adopted = c.wait_for(ELECTION_LIMIT, lambda: c.get_state(0)[0] >= newer)
    text = f"expected S0 to adopt term {newer} from the answer to its snapshot within 5 s, but it did not"
    c.expect(adopted, text, rules.HIGHER_TERM, [0])


@points(5)
def test_chunk_ends_candidacy(cluster: StartCluster) -> None:
    """A candidate that gets a chunk from the leader of its own term follows it; late votes do not make it a leader."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=6000)
    leader = SnapshotSender(c)
    c.scripted_server(2).answer["request_vote"] = grant
    term = 0
    for _ in range(10):
        votes = c.hold("request_vote", dst=2, leg="reply")
        term = wait_for_campaign(c, term)
        c.wait_for(1.0, lambda: bool(votes.messages))  # noqa: B023  (called in this round only)
        c.scripted_server(1).ask(0, "install_snapshot", **{**leader.chunk(20, 0), "term": term, "leader_id": 1})
        votes.release()
        c.sleep(0.05)
        now, leads = c.get_state(0)
        text = f"expected S0 to follow S1, but S0 leads term {term}, too. S1 led that term when the last vote came"
        c.expect(not (leads and now == term), text, rules.ELECTION_SAFETY, [0])
        if now == term:
            return
        term = now  # S0's timer ran out just before: this round is inconclusive
    c.fail("expected S0 to wait between two elections, but it starts one after the other", rules.TIMER_RESTARTS, [0])


@points(5)
def test_other_bytes_of_the_same_index(cluster: StartCluster) -> None:
    """Two leaders' snapshots up to the same index may differ; S0 never combines chunks of one with chunks of the other."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=0, size=10_000)
    leader = SnapshotSender(c)
    for at in (20, 40):
        first = leader.chunk(at, 0)
        leader.ask("install_snapshot", **{**first, "data": bytes(CHUNK_BYTES)})
        if at == 40:
            leader.ask("install_snapshot", **{**leader.chunk(at, 1), "data": bytes(CHUNK_BYTES)})
        # Another leader sends its snapshot, but its first chunk is lost. The referee checks what S0 hands to the service.
        leader.term += 1
        for number in (1, 2):
            leader.ask("install_snapshot", **leader.chunk(at, number))
        for _ in range(4):
            leader.install(at)
            if c.wait_for(0.5, lambda at=at: c.committed(at)[0] == 1):  # type: ignore[misc]
                break
        text = f"expected S0 to apply the snapshot up to {at} once a leader has sent all of it in order, but it did not"
        c.expect(c.committed(at)[0] == 1, text, rules.CATCH_UP, [0])


@points(5)
def test_last_chunk_is_lost(cluster: StartCluster) -> None:
    """Snapshots of every size arrive, including those that fill their last chunk, even if a chunk is lost."""
    c = cluster(3)
    c.take_snapshots(every=10)
    last = c.agree("by all", 3)
    for size in (2 * CHUNK_BYTES, 4 * CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1):
        away = (c.one_leader() + 1) % 3
        c.disconnect(away)
        heading = len(f"everything up to {last - last % 10 + 20}.")
        c.take_snapshots(every=10, size=size - heading)
        c.propose_together(c.one_leader(), _commands(c, 20))
        last = c.agree(f"by two, {size}", 2)
        lost = c.hold("install_snapshot", dst=away, when=message_filters.last_chunk, most=1)
        c.connect(away)
        c.wait_for(CATCH_UP_LIMIT, lambda: bool(lost.messages) or c.committed(last)[0] == 3)  # noqa: B023
        lost.drop()
        _expect_applied(c, last, 3, f"S{away} to catch up with a snapshot of {size:,} bytes and a lost chunk")


@points(4)
def test_restored_without_a_leader(cluster: StartCluster) -> None:
    """A server that restarts hands its snapshot to the service, even if it cannot reach anybody."""
    c = cluster(3, scripted=(1, 2))
    c.take_snapshots(every=10)
    leader = SnapshotSender(c)
    leader.append(0, 10)
    leader.commit_through(10, 12, "by entries")
    _expect_saved(c, 0)
    c.restart(0)
    c.wait_for(2.0, lambda: c.committed(10)[0] == 1)
    text = "expected S0 to hand its snapshot up to 10 to the service within 2 s after a restart, but it did not"
    c.expect(c.committed(10)[0] == 1, text, rules.SNAPSHOT_FIRST, [0])
