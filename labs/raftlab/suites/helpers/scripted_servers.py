"""Helpers for tests with one real server, S0, in which all other servers are scripted.

S0's election timer runs during such a test. S0 still obeys a scripted server whose term is far above any that S0 can have
reached by itself. If the term is lower, S0 may already be in a newer term and is right to refuse. A script for which this
matters starts over in higher terms (:func:`run_uninterrupted`).

``who`` is the number of the scripted server that sends; ``prev`` and ``last`` are (index, term) of an entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from raftlab.explain import rules
from raftlab.explain.failure import Rule
from raftlab.harness.cluster import ELECTION_LIMIT, Cluster
from raftlab.harness.rpc import Rpc
from raftlab.referee.base import Message

# The number of times that a test lets messages arrive at the same moment. A mistake in locking shows after a few attempts.
ROUNDS = 30


def entries(term: int, *commands: str) -> list[Message]:
    """Log entries of ``term``, one per command."""
    return [{"term": term, "command": command} for command in commands]


def ask_vote(c: Cluster, who: int, term: int) -> Message:
    """Like :func:`request_vote`, but wait for S0's reply and return it."""
    return c.reply_to(request_vote(c, who, term))


def request_vote(c: Cluster, who: int, term: int, last: tuple[int, int] | None = None) -> Rpc:
    """Ask for S0's vote in ``term``, for a candidate whose log ends with ``last``, by default newer than S0's can be."""
    last_index, last_term = last or (10_000, term - 1)
    return c.scripted_server(who).send(
        0, "request_vote", term=term, candidate_id=who, last_log_index=last_index, last_log_term=last_term
    )


def append(
    c: Cluster, who: int, term: int, prev: tuple[int, int] = (0, 0), entries: Sequence[Message] = (), commit: int = 0
) -> Message:
    """Like :func:`send_append`, but wait for S0's reply and return it."""
    return c.reply_to(send_append(c, who, term, prev, entries, commit))


def send_append(
    c: Cluster, who: int, term: int, prev: tuple[int, int] = (0, 0), entries: Sequence[Message] = (), commit: int = 0
) -> Rpc:
    """Send S0 an AppendEntries as the leader of ``term``: a heartbeat if there are no entries."""
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


def campaign_terms(c: Cluster, above: int = 0) -> list[int]:
    """The terms above ``above`` in which S0 has asked for votes in its current incarnation, one per request."""
    incarnation = c.server_state(0).incarnation
    requests = (
        rpc for scripted_server in c.scripted for rpc in scripted_server.received if rpc.method == "request_vote"
    )
    return sorted(
        rpc.args["term"] for rpc in requests if rpc.src_incarnation == incarnation and rpc.args["term"] > above
    )


def wait_for_campaign(c: Cluster, above: int = 0) -> int:
    """Wait until S0 asks for votes in a term above ``above``. Returns that term."""
    since = c.now
    c.wait_for(ELECTION_LIMIT, lambda: bool(campaign_terms(c, above)))
    terms = campaign_terms(c, above)
    text = "expected S0 to start an election within 5 s, but it did not"
    c.expect(bool(terms), text, rules.LIVENESS, [0], observe=lambda: c.campaigns_seen(0, since))
    return terms[-1]


def grant(rpc: Rpc) -> Message:
    """A scripted server's answer to RequestVote: yes."""
    return {"term": rpc.args["term"], "vote_granted": True}


def accept(rpc: Rpc) -> Message:
    """A scripted server's answer to AppendEntries: success."""
    return {"term": rpc.args["term"], "success": True}


def expect_term(c: Cluster, term: int) -> None:
    """Require that S0, after a restart, is in ``term`` or a newer one."""
    now, _ = c.get_state(0)
    text = f"expected S0 to be in term {term} or a newer one after its restart, but it is in {now}"
    c.expect(now >= term, text, rules.SURVIVES, [0])


def expect_entry(
    c: Cluster, who: int, term: int, last: tuple[int, int], rule: Rule = rules.SURVIVES, seen: str = ""
) -> None:
    """Require that S0, after a restart, has the entry ``last``: it must accept a heartbeat with this prev_log_index from a
    leader of ``term``, which S0 cannot have reached by itself. ``seen`` completes the sentence of the failure."""
    reply = append(c, who, term, last)
    text = f"expected S0 still to have its entry of term {last[1]} at index {last[0]} after its restart, but it is gone"
    c.expect(reply["success"], f"{text}{seen}", rule, [0])


class Interrupted(Exception):
    """S0's timer ran out during a script, so S0 is now in a newer term than the script. That is no mistake."""


class ScriptedLeader:
    """The scripted server ``who``, which leads ``term`` and which S0 follows."""

    def __init__(self, c: Cluster, term: int, who: int = 1) -> None:
        self.c, self.term, self.who = c, term, who

    def append(self, prev: int, prev_term: int, terms: list[int], commit: int = 0) -> bool:
        """Send one AppendEntries, with entries of these terms. Returns whether S0 answered with success.

        Raises:
            Interrupted: S0 is in a newer term.
        """
        sent = [{"term": term, "command": f"{term} at {index}"} for index, term in enumerate(terms, prev + 1)]
        reply = append(self.c, self.who, self.term, (prev, prev_term), sent, commit)
        if reply["term"] > self.term:
            raise Interrupted
        return bool(reply["success"])

    def s0_has(self, index: int, term: int) -> bool:
        """Whether S0's log has an entry of ``term`` at ``index``, judging by its answer to a heartbeat after that entry."""
        return self.append(index, term, [])


def run_uninterrupted(c: Cluster, script: Callable[[int], None]) -> None:
    """Run ``script(base)`` until S0 does not interrupt it, with a higher first term ``base`` in each attempt."""
    for base in range(1000, 20_000, 1000):
        try:
            script(base)
            return
        except Interrupted:
            continue
    c.fail(
        "expected S0 to follow a leader that sends messages, but it starts an election each time",
        rules.TIMER_RESTARTS,
        [0],
    )


# A log index that no test reaches.
NO_LIMIT = 1_000_000


class ScriptedFollower:
    """A scripted server that keeps a log according to Figure 2, and grants every vote.

    Attributes:
        log: its entries; the first one has index 1.
        limit: it does not answer an AppendEntries whose last entry is after this index. By default there is no limit.
        silent: whether it answers no AppendEntries at all.
    """

    def __init__(self, c: Cluster, number: int, log: list[Message] | None = None, limit: int = NO_LIMIT) -> None:
        self.log = [] if log is None else log
        self.limit = limit
        self.silent = False
        c.scripted_server(number).answer.update(request_vote=grant, append_entries=self.append)

    def append(self, rpc: Rpc) -> Message | None:
        """The answer to an AppendEntries; ``None`` for no answer."""
        args = rpc.args
        prev, entries = args["prev_log_index"], args["entries"]
        if self.silent or prev + len(entries) > self.limit:
            return None
        fits = prev == 0 or (0 < prev <= len(self.log) and self.log[prev - 1]["term"] == args["prev_log_term"])
        if fits:
            for index, entry in enumerate(entries, prev):
                if index >= len(self.log) or self.log[index]["term"] != entry["term"]:
                    self.log[index:] = entries[index - prev :]
                    break
        return {"term": args["term"], "success": fits}

    def has(self, command: Any) -> bool:
        """Whether its log has ``command``."""
        return any(entry["command"] == command for entry in self.log)


def wait_for_leadership(c: Cluster) -> int:
    """Wait until S0 leads. Returns its term."""
    since = c.now
    leads = c.wait_for(ELECTION_LIMIT, lambda: c.get_state(0)[1])
    text = "expected S0 to lead with every vote within 5 s, but it does not"
    c.expect(leads, text, rules.LIVENESS, [0], observe=lambda: c.why_no_leader(since, [0]))
    return c.get_state(0)[0]


def propose_to_s0(c: Cluster, command: str) -> int:
    """Call ``start`` on S0, which must lead. Returns the index."""
    index, _, is_leader = c.propose(0, command)
    c.expect(is_leader, "expected S0 still to lead, but start() says that it does not", rules.AGREEMENT, [0])
    return index
