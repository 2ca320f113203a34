"""What tests with puppets share: one real server, S0, and the test plays all others.

S0's own timer runs meanwhile. A puppet that speaks in a term far above all that S0 can have reached by itself is obeyed
even so; any other may find S0 in a term of its own, and is then refused with right. A script that cannot do with that
begins again in higher terms (:func:`undisturbed`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message


def entries(term: int, *commands: str) -> list[Message]:
    return [{"term": term, "command": command} for command in commands]


def ask_vote(c: Cluster, who: int, term: int) -> Message:
    """A candidate with a log that is newer than any of S0's asks for its vote in ``term``."""
    return c.reply_to(request_vote(c, who, term))


def request_vote(c: Cluster, who: int, term: int) -> Rpc:
    return c.scripted_server(who).send(
        0, "request_vote", term=term, candidate_id=who, last_log_index=10_000, last_log_term=term - 1
    )


def append(
    c: Cluster, who: int, term: int, prev: tuple[int, int] = (0, 0), entries: Sequence[Message] = (), commit: int = 0
) -> Message:
    """The leader of ``term`` sends entries, or a heartbeat."""
    return c.reply_to(send_append(c, who, term, prev, entries, commit))


def send_append(
    c: Cluster, who: int, term: int, prev: tuple[int, int] = (0, 0), entries: Sequence[Message] = (), commit: int = 0
) -> Rpc:
    return c.scripted_server(who).send(
        0,
        "append_entries",
        term=term,
        leader_id=who,
        prev_log_index=prev[0],
        prev_log_term=prev[1],
        entries=list(entries),
        leader_commit=commit,
    )


def asked(c: Cluster, above: int = 0) -> list[int]:
    """The terms above ``above`` in which S0 has asked for votes in its present life."""
    incarnation = c.server_state(0).incarnation
    rpcs_by_id = (
        rpc for scripted_server in c.scripted for rpc in scripted_server.received if rpc.method == "request_vote"
    )
    return sorted(
        rpc.args["term"] for rpc in rpcs_by_id if rpc.src_incarnation == incarnation and rpc.args["term"] > above
    )


def campaign(c: Cluster, above: int = 0) -> int:
    """Wait until S0 asks for votes in a term above ``above``, and return it."""
    c.wait_for(ELECTION_LIMIT, lambda: bool(asked(c, above)))
    terms = asked(c, above)
    c.expect(bool(terms), "expected S0 to start an election within 5 s, but it did not", rules.LIVENESS, [0])
    return terms[-1]


def grant(rpc: Rpc) -> Message:
    return {"term": rpc.args["term"], "vote_granted": True}


def accept(rpc: Rpc) -> Message:
    return {"term": rpc.args["term"], "success": True}


def in_term(c: Cluster, term: int) -> None:
    now, _ = c.get_state(0)
    said = f"expected S0 to be in term {term} or a newer one after its restart, but it is in {now}"
    c.expect(now >= term, said, rules.SURVIVES, [0])


def has(c: Cluster, who: int, term: int, last: tuple[int, int], rule: Rule = rules.SURVIVES) -> None:
    """A leader of a term that S0 cannot have reached by itself asks whether it has the entry at ``last``."""
    reply = append(c, who, term, last)
    said = f"expected S0 still to have its entry of term {last[1]} at index {last[0]} after its restart, but it is gone"
    c.expect(reply["success"], said, rule, [0])


class Campaigned(Exception):
    """S0's own timer ran out in the middle of a script, so that it is in a term of its own now, and right to be."""


class Leader:
    """A puppet that leads S0 in ``term``."""

    def __init__(self, c: Cluster, term: int, who: int = 1) -> None:
        self.c, self.term, self.who = c, term, who

    def append(self, prev: int, prev_term: int, terms: list[int], commit: int = 0) -> bool:
        """One AppendEntries, with entries of these terms; whether S0 said success."""
        brought = [{"term": term, "command": f"{term} at {index}"} for index, term in enumerate(terms, prev + 1)]
        reply = append(self.c, self.who, self.term, (prev, prev_term), brought, commit)
        if reply["term"] > self.term:
            raise Campaigned
        return bool(reply["success"])

    def has(self, index: int, term: int) -> bool:
        """Whether S0's log has an entry of ``term`` at ``index``: a heartbeat that asks for nothing else."""
        return self.append(index, term, [])


def undisturbed(c: Cluster, script: Callable[[int], None]) -> None:
    """Run ``script(base)`` with ever higher terms, until S0 has let it come to its end."""
    for base in range(1000, 20_000, 1000):
        try:
            script(base)
            return
        except Campaigned:
            continue
    c.fail(
        "expected S0 to follow a leader that speaks to it, but it starts an election each time",
        rules.TIMER_RESTARTS,
        [0],
    )


class Follower:
    """A puppet that keeps a log as Figure 2 says. It answers what ends at ``limit`` or before, and is silent otherwise."""

    def __init__(self, c: Cluster, number: int, log: list[Message] | None = None, limit: int = 1_000_000) -> None:
        self.log = [] if log is None else log
        self.limit = limit
        self.silent = False
        c.scripted_server(number).answer.update(request_vote=grant, append_entries=self.append)

    def append(self, rpc: Rpc) -> Message | None:
        args = rpc.args
        prev, entries = args["prev_log_index"], args["entries"]
        if self.silent or prev + len(entries) > self.limit:
            return None
        fits = prev == 0 or (prev <= len(self.log) and self.log[prev - 1]["term"] == args["prev_log_term"])
        if fits:
            for index, entry in enumerate(entries, prev):
                if index >= len(self.log) or self.log[index]["term"] != entry["term"]:
                    self.log[index:] = entries[index - prev :]
                    break
        return {"term": args["term"], "success": fits}

    def has(self, command: Any) -> bool:
        return any(entry["command"] == command for entry in self.log)


def lead(c: Cluster) -> int:
    """Wait until S0 leads; its term."""
    leads = c.wait_for(ELECTION_LIMIT, lambda: c.get_state(0)[1])
    c.expect(leads, "expected S0 to lead with every vote within 5 s, but it does not", rules.LIVENESS, [0])
    return c.get_state(0)[0]


def takes(c: Cluster, command: str) -> int:
    """``start`` on S0, which leads; the index."""
    index, _, is_leader = c.propose(0, command)
    c.expect(is_leader, "expected S0 to lead still, but start() says no", rules.AGREEMENT, [0])
    return index
