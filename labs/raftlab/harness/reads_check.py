"""The verdict on reads (lab 3B): each read shows the value at one index of the log, and no clerk goes back in time.

A clerk goes back in time if a read shows an older state than the clerk has already seen. The reply to a read names the
applied index at which the value was read. The reply to a write names the index of its entry. So the judge knows the value
at each index, whatever the service puts into the log. Only messages of the student's clerks count.

The check must accept two things. A write may reach servers several times (sent again, duplicated, forwarded); its reply may
then name the index of any of its entries, or a later index. And a service may put several writes into one entry. If a key
has such writes, or writes whose replies were lost, the values at each index are not known for certain. Such a key is checked
only if all of its writes are appends of different tokens (:func:`~raftlab.harness.clerks.token`), because then a value
shows which of them were carried out.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from raftlab.explain import rules
from raftlab.explain.failure import Rule, short
from raftlab.harness.clerks import ClientOperation
from raftlab.harness.history_check import TOKEN, tokens_in
from raftlab.harness.observations import Observation
from raftlab.harness.trace import ArriveEvent, ReplyEvent
from raftlab.messages import paper
from raftlab.participants import is_clerk, name_of
from raftlab.referee.base import Message

if TYPE_CHECKING:
    from raftlab.harness.cluster import Cluster


_WRITES = ("put", "append", "swap")


def _are_tokens(writes: Collection[Message]) -> bool:
    """Whether every write appends one token, and all tokens are different."""
    tokens = {write["value"] for write in writes if write["op"] == "append" and TOKEN.fullmatch(write["value"] or "")}
    return len(tokens) == len(writes)


def _name(request: Message) -> tuple[int, int]:
    """The session and the serial of a request, which all of its copies have in common."""
    return request["client_id"], request["serial"]


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply that has reached a clerk: the RPC's number, the time in seconds, the clerk, the server, and the fields of both
    messages."""

    id: int
    time: float
    clerk: int
    server: int
    request: Message
    reply: Message

    @property
    def index(self) -> int:
        index: int = self.reply["index"]
        return index

    def describe(self) -> str:
        """The read in one line: ``C0's session read of 'x' at S2``."""
        return (
            f"{name_of(self.clerk)}'s {self.request['read']} read of {self.request['key']!r} at {name_of(self.server)}"
        )


def answers(c: Cluster) -> list[Answer]:
    """Every reply with the status ``ok`` that has reached one of the student's clerks, in order of time."""
    real = {clerk.number for clerk in c.clerks}
    found = []
    for event in c.event_loop.trace.events:
        if not (isinstance(event, ReplyEvent) and event.server in real and event.message is not None):
            continue
        reply = paper.decode_reply(event.method, event.message)
        if reply["status"] == "ok":
            rpc = c.event_loop.rpcs_by_id[event.id]
            found.append(Answer(event.id, event.time, event.server, event.source, rpc.args, reply))
    return found


def check_reads(c: Cluster) -> None:
    """Fail the test if a read did not show the state at the index that its reply names, or if a clerk went back in time.

    Raises:
        LabFailure: a read or a clerk broke the rule.
    """
    found = answers(c)
    _check_kinds(c, found)
    _check_order(c, found)
    _Values(c, found).check()


def _check_kinds(c: Cluster, found: list[Answer]) -> None:
    """Fail the test if a clerk's get returned although no request for that kind of read was answered. Without this check, a
    clerk that always reads through the log would pass nearly every test."""
    asked = {(answer.clerk, answer.request["key"], answer.request["read"]) for answer in found}
    numbers = {clerk.name: clerk.number for clerk in c.clerks}
    for one in c.history:
        if one.op != "get" or one.read == "log" or one.outcome != "ok":
            continue
        clerk = numbers[one.clerk.partition(".")[0]]
        if (clerk, one.key, one.read) not in asked:
            text = (
                f"expected {one.describe()} to send a request with read={one.read!r}, but no such request was answered"
            )
            c.fail(text, rules.READ_COST, [clerk])


def _check_order(c: Cluster, found: list[Answer]) -> None:
    """Fail the test if a server answered a session read before it had applied the index that the request names, or if a
    clerk went back in time.

    A clerk may drop a reply that is too old and ask another server. So a clerk is judged by what its operations returned.
    """
    for answer in found:
        if answer.request["read"] == "session" and answer.request["op"] == "get":
            seen = answer.request["seen"]
            text = (
                f"expected {answer.describe()} to show the state at index {seen} or later, but it shows index "
                f"{answer.index}. The request asks for index {seen}"
            )
            c.expect(answer.index >= seen, text, rules.SESSION_READS, [answer.server])
    by_clerk: dict[str, list[Answer]] = {}
    for answer in found:
        by_clerk.setdefault(name_of(answer.clerk), []).append(answer)
    times = {name: [answer.time for answer in answers] for name, answers in by_clerk.items()}
    # By clerk and incarnation: the highest index that the clerk has certainly seen.
    seen_by: dict[str, int] = {}
    snapshot_of: dict[str, int] = {}
    for one in c.history:
        clerk = one.clerk.partition(".")[0]
        if one.outcome != "ok" or one.returned is None or clerk not in by_clerk:
            continue
        # The answers are in order of time.
        first, end = bisect_left(times[clerk], one.call), bisect_right(times[clerk], one.returned)
        fits = [answer for answer in by_clerk[clerk][first:end] if _may_be_result(answer, one)]
        if not fits:
            continue
        least = seen_by.get(one.clerk, 0) if one.read == "session" else 0
        if one.read == "snapshot":
            least = snapshot_of.get(one.clerk, 0)
        index = min((answer.index for answer in fits if answer.index >= least), default=-1)
        if index < 0:
            last = fits[-1]
            if one.read == "session":
                rule = rules.SESSION_READS
                why = f"{name_of(last.clerk)} has already seen index {least}"
            else:
                rule = rules.SNAPSHOT_READS
                why = f"The last snapshot read of {name_of(last.clerk)} showed index {least}"
            text = f"expected {last.describe()} to show the state at index {least} or later, but it shows index {last.index}"
            c.fail(f"{text}. {why}", rule, [last.clerk])
        if one.read == "snapshot":
            snapshot_of[one.clerk] = index
        seen_by[one.clerk] = max(seen_by.get(one.clerk, 0), index)


def _may_be_result(answer: Answer, operation: ClientOperation) -> bool:
    """Whether an operation may have returned because of this answer, which reached its clerk during the operation."""
    request = answer.request
    same = (request["op"], request["key"], request["read"]) == (operation.op, operation.key, operation.read)
    return same and (operation.op != "get" or answer.reply["value"] == operation.result)


class _Values:
    """The value of each key at each index, as far as the replies to writes show it."""

    def __init__(self, c: Cluster, found: list[Answer]) -> None:
        self._c = c
        self._found = found
        # How often each write reached a server. A write can arrive more than once if it was sent again, duplicated by the
        # network, or forwarded by a service.
        self._arrivals = arrivals = Counter[tuple[int, int]]()
        for event in c.event_loop.trace.events:
            if isinstance(event, ArriveEvent) and event.method == "client_request":
                arrivals[_name(c.event_loop.rpcs_by_id[event.id].args)] += 1
        # By key: the writes whose index in the log is known, with that index.
        self._writes: dict[str, list[tuple[int, Message]]] = {}
        known: set[tuple[int, int]] = set()
        for answer in found:
            request = answer.request
            if request["op"] in _WRITES and arrivals[_name(request)] == 1:
                known.add(_name(request))
                if request["op"] != "swap" or answer.reply["value"] is True:
                    self._writes.setdefault(request["key"], []).append((answer.index, request))
        asked = [
            rpc.args for rpc in c.event_loop.rpcs_by_id.values() if is_clerk(rpc.src) and rpc.args["op"] in _WRITES
        ]
        # The keys that have a write whose index is not known, or two writes in one entry.
        self._uncertain = {request["key"] for request in asked if _name(request) not in known}
        for key, writes in self._writes.items():
            if len({index for index, _ in writes}) < len(writes):
                self._uncertain.add(key)
        # The writes requested for each key, without repetitions.
        contents: dict[str, dict[tuple[int, int], Message]] = {}
        for request in asked:
            contents.setdefault(request["key"], {})[_name(request)] = request
        self._tokens_only = {key for key, requests in contents.items() if _are_tokens(requests.values())}

    def check(self) -> None:
        for answer in self._found:
            if answer.request["op"] != "get":
                continue
            if answer.request["read"] != "log":
                self._check(answer)
            elif self._arrivals[_name(answer.request)] == 1:
                self._check_log_read(answer)

    def _fail(self, text: str, rule: Rule, answer: Answer) -> NoReturn:
        self._c.fail(text, rule, [answer.server], observed=Observation(about=frozenset({answer.id})))

    def _check_log_read(self, answer: Answer) -> None:
        """Check a read through the log: it must not show a write that comes after the read's own entry.

        The clerk remembers only the index in the reply. If a read showed writes after that index, a later read might lack
        them, and the clerk would go back in time. A service may put several requests into one entry. The read may then
        come before a write in the same entry, so its value may lack that write.
        """
        key, value = answer.request["key"], answer.reply["value"]
        what = f"expected {answer.describe()} to return the value at index {answer.index}"
        named = "This is the index of the read's entry, which its reply names"
        writes = self._writes.get(key, [])
        if key not in self._uncertain:
            wanted = self._at(writes, answer.index)
            if value not in (wanted, self._at(writes, answer.index - 1)):
                text = f"{what}, {short(wanted)}, but it returned {short(value)}. {named}"
                self._fail(text, rules.SESSION_READS, answer)
        elif key in self._tokens_only:
            tokens = set(tokens_in(value if isinstance(value, str) else ""))
            for index, request in writes:
                if request["value"] in tokens and index > answer.index:
                    text = f"{what}, but it includes {request['value']!r}, the entry at index {index}. {named}"
                    self._fail(text, rules.SESSION_READS, answer)

    def _check(self, answer: Answer) -> None:
        key, value = answer.request["key"], answer.reply["value"]
        writes = self._writes.get(key, [])
        rule = rules.SNAPSHOT_READS if answer.request["read"] == "snapshot" else rules.SESSION_READS
        what = f"expected {answer.describe()} to return the value at index {answer.index}"
        named = f"The reply names index {answer.index}"
        if key not in self._uncertain:
            wanted = self._at(writes, answer.index)
            if value != wanted:
                if wanted is None and not value:
                    named = f"Nobody had written {key!r} by then"  # so the value is not that of another index
                text = f"{what}, {short(wanted)}, but it returned {short(value)}. {named}"
                self._fail(text, rule, answer)
            return
        if key not in self._tokens_only:
            return
        tokens = set(tokens_in(value if isinstance(value, str) else ""))
        for index, request in writes:
            shown = request["value"] in tokens
            if shown and index > answer.index:
                text = f"{what}, but it includes {request['value']!r}, the entry at index {index}. {named}"
                self._fail(text, rule, answer)
            if not shown and index <= answer.index:
                text = f"{what}, but it lacks {request['value']!r}, the entry at index {index}. {named}"
                self._fail(text, rule, answer)

    @staticmethod
    def _at(writes: list[tuple[int, Message]], upto: int) -> Any:
        value: str | None = None
        for index, request in sorted(writes, key=lambda write: write[0]):
            if index > upto:
                break
            value = (value or "") + (request["value"] or "") if request["op"] == "append" else request["value"]
        return value
