"""Helpers for tests in which servers keep failing: commands for every possible leader, and busy clients."""

from __future__ import annotations

from raftlab.harness.cluster import Cluster


def propose_everywhere(c: Cluster, command: str) -> int | None:
    """Call ``start`` with a different command on every running server. Returns a server that accepted it, or ``None``."""
    leader = None
    for server in range(c.size):
        if c.server_state(server).up and c.propose(server, f"{command} at S{server}")[2]:
            leader = server
    return leader


def pause_briefly(c: Cluster, led: bool) -> None:
    """Sleep for 50 ms if there is no leader. If there is one (``led``), usually sleep for less time than a commit takes."""
    very_short = c.random.random() < 0.9
    c.sleep(c.random.uniform(0.0, 0.013 if very_short else 0.5) if led else 0.05)


def churn(c: Cluster) -> None:
    """Run three clients for 10 s while servers crash, restart and lose their connections. Each client proposes a value,
    waits up to 0.4 s until it is committed, and continues with the next. Once a client has seen its value
    committed, the value must stay: the referee checks that all servers apply it at its index."""
    waiting: dict[int, tuple[int, float]] = {}  # by client: the index of its value, and when to give up
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
                index, until = waiting[client]
                if not c.committed(index)[0] and c.now < until:
                    continue
                del waiting[client]
            value = f"client {client}: {time}"
            for server in c.random.sample(range(5), 5):
                index, _, is_leader = c.propose(server, value) if c.server_state(server).up else (-1, -1, False)
                if is_leader:
                    waiting[client] = (index, c.now + 0.4)
                    break
        c.sleep(0.07)
    for server in range(5):
        if not c.server_state(server).up:
            c.restart(server)
        c.connect(server)
    c.agree("last", 5, within=20.0)
