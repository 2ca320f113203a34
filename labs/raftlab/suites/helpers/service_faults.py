"""Lab 3A: helpers for tests in which servers of a service are divided, fall behind, and take turns to lead."""

from __future__ import annotations

from collections.abc import Collection

from raftlab.explain import rules
from raftlab.explain.failure import short
from raftlab.harness.clerks import ClerkHandle
from raftlab.harness.cluster import Cluster
from raftlab.harness.event_loop import Hold
from raftlab.harness.trace import ArriveEvent, OutgoingEvent
from raftlab.messages import paper
from raftlab.participants import is_clerk, name_of

# The length of a value, in bytes. A few such values force a service to take a snapshot, because it may save at most 8 times
# max_state.
FILLER_BYTES = 400


def divide(c: Cluster) -> None:
    """Divide the servers into a minority and a majority, at random. Each clerk reaches one of the two groups, or all
    servers."""
    servers = c.random.sample(range(c.size), c.size)
    smaller = c.random.randint(1, (c.size - 1) // 2)
    groups = [servers[:smaller], servers[smaller:]]
    for clerk in c.clerks:
        group = c.random.choice((0, 1, 1, None))
        if group is not None:
            groups[group].append(clerk.number)
    c.partition(*groups)


def hold_answer(c: Cluster, clerk: ClerkHandle, within: float = 5.0) -> Hold:
    """Hold the reply that says ``ok`` to the present operation of ``clerk``, and wait until it is held.

    Until then, other replies arrive as usual. If there is no ``ok`` within ``within`` seconds, the hold has no messages.
    """
    hold = c.hold("client_request", src=clerk.number, leg="reply")

    def held() -> bool:
        for rpc, data in list(hold.messages):
            if paper.decode_reply(rpc.method, data)["status"] != "ok":
                hold.messages.remove((rpc, data))
                c.event_loop.deliver(c.now, rpc, data)
        return bool(hold.messages)

    c.wait_for(within, lambda: held() or clerk.operation is None)
    return hold


def fill_log(c: Cluster, clerk: ClerkHandle, max_state: int) -> None:
    """Let a clerk put long values until every service must have taken a snapshot of all that was written before."""
    for number in range(8 * max_state // FILLER_BYTES + 2):
        clerk.put("filler", f"{number}:".ljust(FILLER_BYTES, "."))


def wait_until_equal(c: Cluster, within: float = 5.0) -> bool:
    """Wait until all servers have applied entries up to the same index. Returns whether that happened in time."""
    applied = c.event_loop.referee.applies.last_applied
    return c.wait_for(within, lambda: len({applied.get(server, 0) for server in range(c.size)}) == 1)


def lead(c: Cluster, target: int, within: float = 10.0) -> int:
    """Make ``target`` lead if possible: crash all servers except ``target`` and as many others as it needs for a
    majority, and hold those others' requests for votes. The crashed servers stay down until :meth:`Cluster.start_all`.
    Returns the leader, which can be another server if ``target`` lacks an entry.
    """
    wait_until_equal(c)
    leader = c.one_leader()
    if leader == target:
        return leader
    others = [server for server in range(c.size) if server not in (target, leader)]
    partners = others[: c.size // 2]
    for server in (leader, *others[c.size // 2 :]):
        c.crash(server)
    held = [c.hold(method, src=server) for method in ("request_vote", "pre_vote") for server in partners]
    until = c.now + within
    while c.leader_now() != target and c.now < until:
        c.sleep(0.1)
    for hold in held:
        hold.drop()
    return c.one_leader()


def expect_value(c: Cluster, clerk: ClerkHandle, key: str, wanted: str, when: str) -> None:
    """Read a key, and require the value ``wanted``. With any other value, some operation was not carried out exactly
    once."""
    value = clerk.get(key)
    text = f"expected {key!r} to be {short(wanted)} {when}, but it is {short(value)}"
    c.expect(value == wanted, text, rules.EXACTLY_ONCE)


def expect_no_promise(c: Cluster, servers: Collection[int], since: float, why: str) -> None:
    """Require that servers which can commit nothing have promised nothing to clerks whose requests came after ``since``.

    ``why`` says why these servers can commit nothing. It completes a sentence that begins with a server.
    """
    asked = set()
    for event in c.event_loop.trace.events:
        if event.time < since:
            continue
        if isinstance(event, ArriveEvent) and event.server in servers and is_clerk(event.source):
            asked.add(event.id)
        elif isinstance(event, OutgoingEvent) and event.kind == "answer" and event.id in asked:
            status = paper.decode_reply(event.method, event.message)["status"]
            args = c.event_loop.rpcs_by_id[event.id].args
            text = (
                f"expected {name_of(event.server)} to answer the {args['op']} of {name_of(event.to)} with not_leader or "
                f"try_again, but it answers {status}. {name_of(event.server)} {why}"
            )
            c.expect(status in ("not_leader", "try_again"), text, rules.STATUSES, [event.server, event.to])
