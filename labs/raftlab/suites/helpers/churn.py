"""Helpers for tests in which servers fail again and again: commands for every possible leader, and busy clients."""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.harness.cluster import Cluster


def propose_everywhere(c: Cluster, command: str) -> int | None:
    """Call ``start`` with a different command on every server that is up. Returns a server that took it, or ``None``."""
    leader = None
    for server in range(c.size):
        if c.server_state(server).up and c.propose(server, f"{command} at S{server}")[2]:
            leader = server
    return leader


def pause_briefly(c: Cluster, led: bool) -> None:
    """Sleep for a moment: if there is a leader (``led``), often too short for a commit; if there is none, for 50 ms."""
    often = c.random.random() < 0.9
    c.sleep(c.random.uniform(0.0, 0.013 if often else 0.5) if led else 0.05)


def churn(c: Cluster) -> None:
    """Run three clients for 10 s while servers crash, restart and lose their connections. Each client starts a value, waits
    up to 0.4 s for it to be committed, and goes on to the next. What a client saw committed must stay."""
    waiting: dict[int, tuple[int, str, float]] = {}
    seen: list[tuple[int, str]] = []
    for time in range(150):
        if time % 10 == 0:
            if c.random.random() < 0.2:
                c.disconnect(c.random.randrange(5))
            server = c.random.randrange(5)
            if c.random.random() < 0.5:
                if c.server_state(server).up:
                    c.connect(server)
                else:
                    c.restart(server)
            if c.random.random() < 0.2:
                c.crash(c.random.randrange(5))
        for client in range(3):
            if client in waiting:
                index, value, until = waiting[client]
                there = c.committed(index)[1]
                if there == value:
                    seen.append((index, value))
                if there is None and c.now < until:
                    continue
                del waiting[client]
            value = f"client {client}: {time}"
            for server in c.random.sample(range(5), 5):
                index, _, is_leader = c.propose(server, value) if c.server_state(server).up else (-1, -1, False)
                if is_leader:
                    waiting[client] = (index, value, c.now + 0.4)
                    break
        c.sleep(0.07)
    for server in range(5):
        if not c.server_state(server).up:
            c.restart(server)
        c.connect(server)
    c.agree("last", 5, within=20.0)
    for index, value in seen:
        count, there = c.committed(index)
        text = f"expected all servers to have {value!r} at index {index}, where a client saw it committed, but"
        c.expect(there == value and count == 5, f"{text} {count} have it", rules.SURVIVES)
