"""Helpers for tests in which a leader hands over its leadership (lab 2G). All times are in seconds of ``Cluster.now``."""

from __future__ import annotations

from functools import partial
from typing import Any

from raftlab.explain import rules
from raftlab.harness.cluster import Cluster
from raftlab.harness.rpc import Rpc
from raftlab.messages.paper import TRANSFER_FLAG
from raftlab.referee.base import Message
from raftlab.suites.helpers.scripted_servers import NO_LIMIT, ScriptedFollower, append, wait_for_leadership

# A target that can be reached and has nothing to catch up on leads within this time (the handout says so). The shortest
# election takes a few milliseconds. A Raft that checks only now and then whether the target has caught up takes longer.
LEADS_WITHIN = 2.0
# After a leader has begun a transfer that fails, it takes commands again within this time: 1 s (the handout), and a little
# more for a thread that checks only now and then, or that is preempted.
COMMANDS_WITHIN = 1.5
# For tests that also run on the real network, where the machine may be busy.
COMMANDS_WITHIN_AT_MOST = 4.0

_ANSWERS = rules.TRANSFER_ANSWERS


def _hint(answer: tuple[int, int, bool]) -> str:
    """A hint about the first step if ``answer`` is the skeleton's answer; else empty."""
    return "Begin with step 1 of the handout of lab 2G." if answer == (-1, -1, False) else ""


def begin(c: Cluster, leader: int, target: int) -> int:
    """Have ``leader``, which must lead, begin a transfer to ``target``. Returns its term."""
    answer = c.transfer(leader, target)
    text = f"expected the leader S{leader} to begin the transfer and answer ({target}, term, True)"
    right = (answer[0], answer[2]) == (target, True)
    c.expect(right, f"{text}, but it answered {answer}", _ANSWERS, [leader], _hint(answer))
    return answer[1]


def expect_refused(c: Cluster, leader: int, target: int, why: str) -> None:
    """Require that ``leader``, which must lead, refuses a transfer to ``target``. ``why`` is the reason, as a phrase."""
    answer = c.transfer(leader, target)
    text = f"expected the leader S{leader} to refuse a transfer to S{target} ({why}) and answer (-1, term, True)"
    right = (answer[0], answer[2]) == (-1, True)
    c.expect(right, f"{text}, but it answered {answer}", _ANSWERS, [leader], _hint(answer))


def leads_within(c: Cluster, server: int, seconds: float, after: int) -> bool:
    """Wait until ``server`` leads a term above ``after``, for at most ``seconds``. Returns whether it does.

    ``after`` is the term of the transfer: a server that led an earlier term and was deposed a moment ago may still say
    that it leads that term."""
    deadline = c.now + seconds
    while True:
        term, leads = c.states([server]).get(server, (-1, False))
        if leads and term > after:
            return True
        if c.now >= deadline:
            return False
        c.sleep(0.005)


def hand_over_at_once(c: Cluster, leader: int, target: int, when: str = "") -> float:
    """Have ``leader``, which must lead, hand over to ``target``, and require that this succeeds in time, in the next term.

    Only for the simulator: on a busy machine there may be an election at any time.

    Returns:
        How long it took.
    """
    since = c.now
    term = begin(c, leader, target)
    text = f"expected S{target} to lead within {LEADS_WITHIN:.0f} s after S{leader} began to hand over to it{when}"
    observe = partial(c.why_not_handed_over, since, leader, target)
    leads = leads_within(c, target, LEADS_WITHIN, after=term)
    c.expect(leads, f"{text}, but it does not", rules.TRANSFER, [leader, target], observe=observe)
    took = c.now - since
    now, _ = c.get_state(target)
    text = f"expected S{target} to win the election of term {term + 1} that S{leader} asked for{when}, but it won"
    observe = partial(c.marks_seen, target, term + 1, TRANSFER_FLAG)
    c.expect(now == term + 1, f"{text} only the one of term {now}", rules.TRANSFER, [leader, target], observe=observe)
    return took


def hand_over(c: Cluster, target: int, within: float = 20.0) -> None:
    """Ask the present leader to hand over to ``target``, again and again until ``target`` leads."""
    deadline = c.now + within
    while True:
        leader = c.one_leader(within=within)
        if leader == target:
            return
        answer = c.transfer(leader, target)
        if (answer[0] not in (target, -1) and answer[2]) or (_hint(answer) and c.server_state(leader).running):
            text = f"expected the leader S{leader} to begin the transfer and answer ({target}, term, True)"
            c.fail(f"{text}, but it answered {answer}", _ANSWERS, [leader], _hint(answer))
        if leads_within(c, target, LEADS_WITHIN, after=answer[1]):
            return
        text = f"expected S{target} to lead within {within:.0f} s while each leader is asked to hand over to it"
        c.expect(c.now < deadline, f"{text}, but it does not", rules.TRANSFER)


def expect_no_command(c: Cluster, leader: int) -> None:
    """Require that ``leader``, which is handing over, takes no command now."""
    index, _, leads = c.propose(leader, f"meanwhile, {c.now:.3f}")
    text = f"expected S{leader} to take no command during its transfer and answer (-1, term, True)"
    text = f"{text}, but start() returned ({index}, term, {leads})"
    c.expect((index, leads) == (-1, True), text, rules.NO_COMMANDS_MEANWHILE, [leader])


def expect_commands_again(c: Cluster, leader: int, since: float, within: float = COMMANDS_WITHIN) -> int:
    """Require that ``leader`` takes commands again at most ``within`` seconds after ``since``, the time at which it
    began a transfer that cannot succeed. Returns the index of the first command that it takes."""
    while True:
        index, _, leads = c.propose(leader, f"afterwards, {c.now:.3f}")
        if leads and index > 0:
            return index
        text = f"expected S{leader} to give up the transfer and take commands at most 1 s after it began, but after"
        text = f"{text} {c.now - since:.1f} s start() returns ({index}, term, {leads})"
        c.expect(c.now < since + within, text, rules.NO_COMMANDS_MEANWHILE, [leader])
        c.sleep(0.02)


# --- scripted servers ---


class LateFollower(ScriptedFollower):
    """A scripted server that keeps a log, and answers every heartbeat, but no message with entries after a limit.

    Attributes:
        stop: the limit, an index. By default there is none.
    """

    def __init__(self, c: Cluster, number: int) -> None:
        super().__init__(c, number)
        self.stop = NO_LIMIT

    def append(self, rpc: Rpc) -> Message | None:
        entries = rpc.args["entries"]
        if entries and rpc.args["prev_log_index"] + len(entries) > self.stop:
            return None
        return super().append(rpc)


def deny_votes(c: Cluster) -> None:
    """Let every scripted server say no to pre-votes and votes."""
    for scripted_server in c.scripted:
        scripted_server.answer.update(
            pre_vote=lambda rpc: {"term": 0, "vote_granted": False},
            request_vote=lambda rpc: {"term": rpc.args["term"], "vote_granted": False},
        )


def send_timeout_now(c: Cluster, who: int, term: int) -> Rpc:
    """Send S0 a TimeoutNow from the scripted server ``who``, as the leader of ``term``."""
    return c.scripted_server(who).send(0, "timeout_now", term=term, leader_id=who)


def lead_again(c: Cluster, who: int, above: int) -> int:
    """Have the scripted server ``who`` lead a term above ``above`` and hand over to S0 at once. S0 gets every vote. Returns
    the term that S0 then leads."""
    append(c, who, above + 10)
    send_timeout_now(c, who, above + 10)
    if not leads_within(c, 0, LEADS_WITHIN, after=above + 10):
        wait_for_leadership(c)  # other tests judge whether S0 obeys TimeoutNow; here, S0 may wait for its timer
    return c.get_state(0)[0]


def ask_for_vote_on_request(c: Cluster, who: int, term: int, last: tuple[int, int]) -> bool:
    """Ask for S0's vote in ``term`` with leadership_transfer set, for a candidate whose log ends with ``last``, which is
    (index, term). Returns whether S0 gave its vote."""
    log: dict[str, Any] = {"last_log_index": last[0], "last_log_term": last[1]}
    reply = c.scripted_server(who).ask(0, "request_vote", term=term, candidate_id=who, leadership_transfer=True, **log)
    return bool(reply["vote_granted"])


def timeouts_now(c: Cluster, number: int) -> list[Rpc]:
    """Every TimeoutNow that S0 has sent to this scripted server."""
    return [rpc for rpc in c.scripted_server(number).received if rpc.method == "timeout_now"]


def expect_timeout_now(c: Cluster, number: int, term: int, when: str = "") -> None:
    """Ask S0, the leader of ``term``, again and again to hand over to a scripted server, until a TimeoutNow arrives there.
    Require that this takes at most 5 s, and that the fields of the TimeoutNow are right."""
    seen, deadline = len(timeouts_now(c, number)), c.now + 5.0
    while not c.wait_for(0.3, lambda: len(timeouts_now(c, number)) > seen):
        text = f"expected S0 to send TimeoutNow to S{number}{when} within 5 s, but it did not"
        c.expect(c.now < deadline, text, rules.TRANSFER, [0])
        c.transfer(0, number)
    args = timeouts_now(c, number)[-1].args
    text = f"expected TimeoutNow to have term={term} and leader_id=0, but it has {args}. S0 leads term {term}"
    c.expect(args == {"term": term, "leader_id": 0}, text, rules.TRANSFER, [0])


def elections_on_request(c: Cluster) -> list[int]:
    """The terms in which S0 has asked for votes with leadership_transfer set, in its present incarnation."""
    incarnation = c.server_state(0).incarnation
    requests = (rpc for scripted_server in c.scripted for rpc in scripted_server.received)
    terms = {
        rpc.args["term"]
        for rpc in requests
        if rpc.method == "request_vote" and rpc.src_incarnation == incarnation and rpc.args.get(TRANSFER_FLAG)
    }
    return sorted(terms)
