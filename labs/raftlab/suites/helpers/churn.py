"""What tests of changing clusters share: commands for whoever may lead, and clients that work while servers fail."""

from __future__ import annotations

from raftlab.explain import rules
from raftlab.harness.cluster import Cluster


def propose_everywhere(c: Cluster, command: str) -> int | None:
    """Start a command on every server that is up, each its own. Returns one that took it for a leader's, if any."""
    leader = None
    for server in range(c.size):
        if c.server_state(server).up and c.propose(server, f"{command} at S{server}")[2]:
            leader = server
    return leader


def pause(c: Cluster, led: bool) -> None:
    """A moment, often too short for a commit; without a leader a little longer, as there is nothing to cut short."""
    often = c.random.random() < 0.9
    c.sleep(c.random.uniform(0.0, 0.013 if often else 0.5) if led else 0.05)


def churn(c: Cluster) -> None:
    """Each client starts a value, looks whether it is committed, and goes on to the next one."""
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
        said = f"expected all servers to have {value!r} at index {index}, where a client saw it committed, but"
        c.expect(there == value and count == 5, f"{said} {count} have it", rules.SURVIVES)
