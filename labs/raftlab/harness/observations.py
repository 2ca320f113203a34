"""Describes what was observed while a test waited in vain. The failure's sentence ends with this description.

Without an observation, a student would read only "expected a leader within 5 s, but there is none". The sentence would be
the same whether nobody asked for votes or everybody was refused. The functions here only read the trace: they see messages
and calls, never the student's objects, and say nothing that the trace does not show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from raftlab.harness.trace import CAMEL, CallEvent, Event, OutgoingEvent, ReplyEvent, message_of
from raftlab.participants import name_of

# A server that has sent no request for votes in the last _GIVEN_UP_S seconds has given up. Election timeouts are shorter.
_GIVEN_UP_S = 2.5
# The interval between two heartbeats of a leader is shorter than this, in seconds.
_HEARTBEAT_S = 1.0
# The simulator may suspend a thread for this many seconds, between making a message and sending it.
_PREEMPTED_S = 0.1
# The minimum number of refusals in a row that is worth mentioning. Every repair of a log begins with a few refusals.
_MANY_REFUSALS = 3

_NEVER_VOTED = "so far"

Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Observation:
    """What was observed.

    Attributes:
        text: a clause without a capital or a full stop; empty if there is nothing to say.
        about: the numbers of the RPCs that the text mentions. The failure shows them among the events that led to it.
    """

    text: str = ""
    about: frozenset[int] = frozenset()

    def after(self, sentence: str) -> str:
        """``sentence`` with this observation at its end."""
        return f"{sentence}: {self.text}" if self.text else sentence


@dataclass(slots=True)
class Call:
    """One RPC.

    Attributes:
        id: its number.
        time: when the request was sent, in seconds.
        src: the caller.
        dst: the server that is called.
        args: the fields of the request.
        answer: the fields of the reply that the handler has returned; ``None`` if it has not returned.
        reply: the fields of the reply that the caller has received; ``None`` if it has received none.
        replied_at: when the caller received it, in seconds.
    """

    id: int
    time: float
    src: int
    dst: int
    args: Message
    answer: Message | None = None
    reply: Message | None = None
    replied_at: float = math.inf

    @property
    def term(self) -> int:
        return _number(self.args, "term")


def calls(events: Iterable[Event], method: str, since: float = 0.0) -> list[Call]:
    """The RPCs of one method that were sent from ``since`` (seconds) on, in order."""
    found: dict[int, Call] = {}
    for event in events:
        if event.time < since:
            continue
        match event:
            case OutgoingEvent(kind="send") if event.method == method:
                args = message_of(event.message)
                if isinstance(args, dict):
                    found[event.id] = Call(event.id, event.time, event.server, event.to, args)
            case OutgoingEvent(kind="answer") if event.id in found:
                found[event.id].answer = _fields(event.message)
            case ReplyEvent() if event.id in found:
                found[event.id].reply = _fields(event.message)
                found[event.id].replied_at = event.time
    return list(found.values())


def _fields(data: bytes | None) -> Message | None:
    message = message_of(data)
    return message if isinstance(message, dict) else None


def _number(message: Message | None, name: str) -> int:
    value = (message or {}).get(name)
    return value if isinstance(value, int) else 0


def _upto(call: Call) -> int:
    """The index of the last entry of an AppendEntries, or its ``prev_log_index`` if it has no entries."""
    entries = call.args.get("entries")
    return _number(call.args, "prev_log_index") + (len(entries) if isinstance(entries, list) else 0)


def names(servers: Iterable[int]) -> str:
    """``S0, S1 and S2``."""
    *others, last = [name_of(server) for server in sorted(servers)]
    return f"{', '.join(others)} and {last}" if others else last


def _terms(terms: Collection[int]) -> str:
    first, last = min(terms), max(terms)
    if first == last:
        return f"term {first}"
    return f"terms {first} and {last}" if last == first + 1 else f"terms {first} to {last}"


# --- elections ---


@dataclass(slots=True)
class _Election:
    """One server's requests for votes in one term."""

    server: int
    term: int
    asked: list[Call] = field(default_factory=list)

    @property
    def granted(self) -> set[int]:
        return {
            call.dst
            for call in self.asked
            if call.reply and call.reply.get("vote_granted") is True and _number(call.reply, "term") <= self.term
        }

    @property
    def answered(self) -> list[Call]:
        return [call for call in self.asked if call.answer is not None]

    @property
    def refused(self) -> list[Call]:
        return [call for call in self.answered if not (call.answer or {}).get("vote_granted")]


def election(events: Sequence[Event], now: float, since: float, servers: Collection[int], members: int) -> Observation:
    """Why no server has led.

    Args:
        events: the run's events.
        now: the present time, in seconds.
        since: when the test began to wait.
        servers: the servers that might have been elected.
        members: how many servers vote.
    """
    asked = [call for call in calls(events, "request_vote", since) if call.src in servers]
    if not asked:
        return _nobody_asked(events, since, servers)
    elections: dict[tuple[int, int], _Election] = {}
    for call in asked:
        elections.setdefault((call.src, call.term), _Election(call.src, call.term)).asked.append(call)
    majority = members // 2 + 1
    newest = max(term for _, term in elections)
    # An election that was won long ago does not explain why nobody wins now.
    won = [each for each in elections.values() if len(each.granted) + 1 >= majority and each.term >= newest - 2]
    if won:
        return _elected(events, now, since, won, members)
    behind = _behind_its_term(asked)
    if behind is not None:
        return behind
    last = max(elections.values(), key=lambda each: each.asked[-1].time)
    mine = [each for each in elections.values() if each.server == last.server]
    terms = _terms([each.term for each in mine])
    about = frozenset(call.id for call in last.asked[-4:])
    candidate = name_of(last.server)
    if not any(each.answered for each in elections.values()):
        return Observation(f"{candidate} asked for votes in {terms}, and nobody answered", about)
    if now - last.asked[-1].time > _GIVEN_UP_S:
        return Observation(f"{candidate} asked for votes in {terms}, and then nobody asked again", about)
    others = {call.dst for call in last.asked}
    if len(others) + 1 < majority:
        return Observation(f"in term {last.term}, {candidate} asked only {names(others)} for votes", about)
    split = _split_votes(elections)
    if split:
        return Observation(split, about)
    votes = calls(events, "request_vote")
    # A refusal by servers that have never voted explains more than other refusals.
    never = (
        each
        for each in elections.values()
        if each.refused and all(_NEVER_VOTED in _why_refused(call, votes) for call in each.refused)
    )
    full = next(never, None) or next((each for each in reversed(mine) if len(each.answered) + 1 >= majority), last)
    candidate = name_of(full.server)
    terms = _terms([each.term for each in elections.values() if each.server == full.server])
    refused = sorted(full.refused, key=lambda call: call.dst)
    why: dict[str, set[int]] = {}
    for call in refused:
        why.setdefault(_why_refused(call, votes), set()).add(call.dst)
    if not why:
        return Observation(f"{candidate} asked for votes in {terms}, and got too few answers", about)
    told = ", and ".join(f"{names(who)} refused, {reason}" for reason, who in why.items())
    text = f"{candidate} asked for votes in {terms}; in term {full.term}, {told}"
    return Observation(text, frozenset(call.id for call in full.asked[-4:]))


def _nobody_asked(events: Sequence[Event], since: float, servers: Collection[int]) -> Observation:
    pre_votes = [call for call in calls(events, "pre_vote", since) if call.src in servers]
    if pre_votes:
        last = pre_votes[-1]
        mine = [call for call in pre_votes if call.src == last.src]
        about = frozenset(call.id for call in mine[-3:])
        asked = f"{name_of(last.src)} asked for pre-votes in vain"
        yes = {call.dst for call in mine if call.answer and call.answer.get("vote_granted") is True}
        no = {call.dst for call in mine if call.answer and not call.answer.get("vote_granted")}
        if no:
            return Observation(f"{asked}: {names(no)} said no", about)
        if yes:
            return Observation(f"{name_of(last.src)} got the pre-votes of {names(yes)}, and asked for no votes", about)
        return Observation(f"{asked}: nobody answered", about)
    heard = [call for call in calls(events, "append_entries", since) if call.dst in servers and call.answer is not None]
    if heard:
        last = heard[-1]
        text = f"nobody asked for votes, while {name_of(last.src)} sent AppendEntries of term {last.term}"
        return Observation(text, frozenset({last.id}))
    return Observation("nobody asked for votes")


def _elected(
    events: Sequence[Event], now: float, since: float, won: list[_Election], members: int
) -> Observation:  # fmt: skip
    """Why the test saw no leader although a server was elected."""
    led = {(call.src, call.term): call.time for call in calls(events, "append_entries", since)}
    last = max(won, key=lambda each: each.term)
    about = frozenset(call.id for call in last.asked)
    if (last.server, last.term) not in led:
        voters = {last.server, *last.granted}
        what = "every vote" if len(voters) >= members > 1 else f"the votes of {names(voters)}"
        return Observation(f"{name_of(last.server)} got {what} in term {last.term}, and sent no AppendEntries", about)
    # If several servers were elected one after the other, none of them lasted, whatever the last one still sends.
    if len(won) == 1 and now - led[last.server, last.term] < _HEARTBEAT_S:
        text = f"{name_of(last.server)} was elected in term {last.term} and sends AppendEntries of that term"
        return Observation(f"{text}, but does not say that it leads", about)
    terms = ", ".join(f"{name_of(each.server)} in term {each.term}" for each in won[-3:])
    text = f"no elected leader lasted: {terms}"
    return Observation(text, about)


def _behind_its_term(asked: list[Call]) -> Observation | None:
    """A candidate that learned of a newer term from a reply and kept asking for votes in older terms, if any."""
    for call in reversed(asked):
        mine = [each for each in asked if each.src == call.src and each.time < call.time]
        before = [each for each in mine if each.term == call.term]
        # Just after an answer arrives, another thread may still send a request that was made earlier. But a candidate that
        # asks the servers one after another makes each request only once it has the answer to the previous request.
        in_turn = len(before) > 1 and all(each.replied_at < call.time for each in before)
        since = call.time - (0 if in_turn else _PREEMPTED_S)
        told = [each for each in mine if each.replied_at < since and _number(each.reply, "term") > call.term]
        if told:
            newest = max(told, key=lambda each: _number(each.reply, "term"))
            term = _number(newest.reply, "term")
            first = min(each.replied_at for each in told)
            later = [each.term for each in asked if each.src == call.src and each.time > first and each.term < term]
            text = f"{name_of(call.src)} was answered with term {term}, and still asked for votes in {_terms(later)}"
            return Observation(text, frozenset({newest.id, call.id}))
    return None


def _split_votes(elections: dict[tuple[int, int], _Election]) -> str:
    """A clause about candidates that ask for votes in the same terms, so that each has voted for itself; empty if that
    is not why nobody won."""
    by_term: dict[int, set[int]] = {}
    for server, term in elections:
        by_term.setdefault(term, set()).add(server)
    split = [term for term, servers in by_term.items() if len(servers) > 1]
    if len(split) < 3 or len(split) < len(by_term) - 1:
        return ""
    return f"{names(by_term[split[-1]])} asked for votes at the same time in {_terms(split)}, each for itself"


def _why_refused(call: Call, votes: list[Call]) -> str:
    """Why ``call`` was refused, as far as all requests for votes so far (``votes``) show it."""
    told = _number(call.answer, "term")
    if told > call.term:
        return f"being in the newer term {told}"
    if any(each.src == call.dst and each.term == call.term and each.time <= call.time + 0.5 for each in votes):
        return "having asked for votes in that term as well"
    given = [each for each in votes if each.dst == call.dst and (each.answer or {}).get("vote_granted") is True]
    same = [each for each in given if each.term == call.term]
    if same:
        return f"having voted for {name_of(same[-1].src)}"
    last = (_number(call.args, "last_log_index"), _number(call.args, "last_log_term"))
    before = [each for each in votes if each.src == call.dst and each.term < call.term] or given
    ever = "in that term, only in earlier ones" if before else _NEVER_VOTED
    return f"having given no vote {ever} (the request names {last} as the last entry)"


def campaigns(events: Sequence[Event], since: float, server: int) -> Observation:
    """The terms in which ``server`` asked for votes at ``since`` (seconds) or later, and the answers that it ignored."""
    asked = [call for call in calls(events, "request_vote", since) if call.src == server]
    if not asked:
        return _nobody_asked(events, since, [server])
    behind = _behind_its_term(asked)
    if behind is not None:
        return behind
    text = f"{name_of(server)} asked for votes in {_terms([call.term for call in asked])} only"
    return Observation(text, frozenset(call.id for call in asked[-2:]))


def disturbed(events: Sequence[Event], since: float, server: int) -> Observation:
    """Which servers were the first to adopt a term from a vote request of ``server`` although there was a leader."""
    asked = [call for call in calls(events, "request_vote", since) if call.src == server]
    adopted = [call for call in asked if _number(call.answer, "term") >= call.term]
    if not adopted:
        return Observation()
    first = adopted[0]
    beats = [call for call in calls(events, "append_entries", since) if call.term < first.term]
    leader = beats[-1].src if beats else None
    round_ = [call for call in adopted if call.term == first.term]
    others = {call.dst for call in round_} - {leader}
    term, by = first.term, name_of(server)
    if others:
        text = f"{names(others)}, which should hear the leader, adopted term {term} from a RequestVote of {by}"
    else:
        text = f"{name_of(first.dst)}, the leader itself, adopted term {term} from a RequestVote of {by}"
    return Observation(text, frozenset(call.id for call in round_))


def transfer(events: Sequence[Event], now: float, since: float, leader: int, target: int, members: int) -> Observation:
    """Why ``target`` has not become the leader after ``leader`` began to transfer leadership to it."""
    told = [call for call in calls(events, "timeout_now", since) if call.src == leader and call.dst == target]
    if not told:
        return Observation(f"{name_of(leader)} sent no TimeoutNow")
    asked = [call for call in calls(events, "request_vote", since) if call.src == target and call.time >= told[0].time]
    if not asked:
        text = f"{name_of(leader)} sent TimeoutNow {_times(len(told))}, and {name_of(target)} asked for no votes"
        return Observation(text, frozenset({told[0].id}))
    why = election(events, now, told[0].time, [target], members)
    return Observation(f"{name_of(leader)} sent TimeoutNow; {why.text}", why.about | {told[0].id})


def marked(events: Sequence[Event], server: int, term: int, flag: str) -> Observation:
    """Whether ``server`` set ``flag`` in its vote requests of ``term``. If it did, which servers refused the requests.
    Empty if the server sent no request in this term."""
    asked = [call for call in calls(events, "request_vote") if call.src == server and call.term == term]
    about = frozenset(call.id for call in asked)
    if not asked:
        return Observation()
    if not any(call.args.get(flag) is True for call in asked):
        return Observation(f"its requests of term {term} lacked {flag}", about)
    refused = {call.dst for call in asked if call.answer is not None and not call.answer.get("vote_granted")}
    if not refused:
        return Observation()
    return Observation(f"{names(refused)} refused its request of term {term}, which had {flag} set", about)


# --- replication ---


def lagging(events: Sequence[Event], since: float, server: int, index: int, applied: int) -> Observation:
    """Why ``server`` has not applied ``index``.

    Args:
        events: the run's events.
        since: when the test began to wait.
        server: a server that is connected.
        index: the index that it should have applied.
        applied: the last index that it has applied.
    """
    appends = [call for call in calls(events, "append_entries", since) if call.dst == server]
    chunks = [call for call in calls(events, "install_snapshot", since) if call.dst == server]
    name = name_of(server)
    if not appends and not chunks:
        return Observation(f"nobody sent {name} entries or heartbeats")
    term = max(call.term for call in (*appends, *chunks))
    appends = [call for call in appends if call.term == term]
    chunks = [call for call in chunks if call.term == term]
    leader = name_of((appends or chunks)[-1].src)
    taken = [call for call in appends if (call.answer or {}).get("success") is True]
    told = [call for call in taken if min(_number(call.args, "leader_commit"), _upto(call)) >= index]
    if told:
        commit = _number(told[0].args, "leader_commit")
        how = " in heartbeats" if applied and not any(call.args.get("entries") for call in told) else ""
        text = f"{name} was told commit={commit}{how}, and has applied {_as_far_as(applied)}"
        return Observation(text, frozenset({told[0].id}))
    if chunks and (not appends or chunks[-1].time >= appends[-1].time - 1.0):
        return _chunks(name, leader, chunks)
    answered = [call for call in appends if call.answer is not None]
    if not answered:
        return Observation(f"{name} answered no AppendEntries of {leader}", frozenset(c.id for c in appends[-2:]))
    refused = list(takewhile(lambda call: (call.answer or {}).get("success") is not True, reversed(answered)))
    if len(refused) >= _MANY_REFUSALS:
        # A snapshot may have been sent before the test began to wait.
        before = [call for call in calls(events, "install_snapshot") if call.dst == server and call.term == term]
        return _refusals(name, leader, refused[::-1], before)
    stored = [call for call in taken if _upto(call) >= index]
    if stored:
        commit = max(_number(call.args, "leader_commit") for call in appends if call.time >= stored[0].time)
        text = f"{name} has stored index {index}, but {leader} sends it commit={commit}"
        return Observation(text, frozenset({stored[0].id, appends[-1].id}))
    if taken:
        upto = max(map(_upto, taken))
        text = f"{name} has taken everything that {leader} sent it, up to index {upto}"
        return Observation(text, frozenset({taken[-1].id}))
    return _refusals(name, leader, refused[::-1], chunks)


def _as_far_as(applied: int) -> str:
    return f"only index {applied} and those before" if applied else "nothing"


def _refusals(name: str, leader: str, refused: list[Call], chunks: list[Call]) -> Observation:
    previous = Counter((_number(call.args, "prev_log_index"), _number(call.args, "prev_log_term")) for call in refused)
    (prev, times), *_ = previous.most_common()
    about = frozenset(call.id for call in refused[-2:])
    newer = max(_number(call.answer, "term") for call in refused)
    if newer > refused[-1].term:
        text = f"{leader} leads term {refused[-1].term}, but {name} answered it with the newer term {newer}"
        return Observation(text, about)
    if times > len(refused) // 2:
        what = f"prev=({prev[0]},{prev[1]})" if prev != (0, 0) else "prev=(0,0), the start of every log,"
        text = f"{name} refused {leader}'s AppendEntries with {what} {_times(times)}"
        if chunks:
            last = chunks[-1]
            offset, index = _number(last.args, "offset"), _number(last.args, "last_included_index")
            sent = "all" if _is_whole(chunks, index) else f"the chunk at offset {offset}"
            text = f"{text}; before that it was sent {sent} of the snapshot up to {index}"
            about |= {last.id}
        return Observation(text, about)
    begin, end = (_number(call.args, "prev_log_index") for call in (refused[0], refused[-1]))
    text = (
        f"{name} refused {len(refused)} AppendEntries of {leader} in a row, with prev_log_index from {begin} to {end}"
    )
    return Observation(text, about)


def _is_whole(chunks: list[Call], index: int) -> bool:
    """Whether every chunk of the snapshot up to ``index`` was answered."""
    answered = [
        call for call in chunks if call.answer is not None and _number(call.args, "last_included_index") == index
    ]
    upto = 0
    for offset, size in sorted((_number(call.args, "offset"), len(call.args.get("data") or b"")) for call in answered):
        if offset > upto:
            return False
        upto = max(upto, offset + size)
    return any(call.args.get("done") is True for call in answered)


def _chunks(name: str, leader: str, chunks: list[Call]) -> Observation:
    last = chunks[-1]
    index, offset = _number(last.args, "last_included_index"), _number(last.args, "offset")
    same = [call for call in chunks if _number(call.args, "offset") == offset]
    about = frozenset(call.id for call in chunks[-2:])
    if len(same) >= _MANY_REFUSALS:
        text = (
            f"{leader} sent {name} the same chunk {_times(len(same))} (offset {offset} of the snapshot up to {index})"
        )
        return Observation(text, about)
    text = f"the last that {name} got was the chunk at offset {offset} of the snapshot up to {index} from {leader}"
    return Observation(f"{text}, the last one of it" if last.args.get("done") is True else text, about)


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number:,} times"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A call of ``start`` that returned ``is_leader = True``: the server, the time in seconds, and the result."""

    server: int
    time: float
    index: int
    term: int


def agreement(
    events: Sequence[Event], now: float, since: float, accepted: Sequence[Accepted], servers: Collection[int],
    members: int, applied: dict[int, int], scripted: Collection[int] = (),
) -> Observation:  # fmt: skip
    """Why a command was not applied by as many servers as the test expected.

    Args:
        events: the run's events.
        now: the present time, in seconds.
        since: when the test began to wait.
        accepted: the calls of ``start`` for this command that returned ``is_leader = True``, in order.
        servers: the servers that can be reached.
        members: how many servers vote.
        applied: the last index that each server has applied.
        scripted: the servers that the test plays.
    """
    if not accepted:
        sent = [call for call in calls(events, "append_entries", now - _HEARTBEAT_S) if call.src in servers]
        if sent:
            leads = f"{name_of(sent[-1].src)} sends AppendEntries of term {sent[-1].term}"
            return Observation(f"no start() said that it leads, though {leads}", frozenset({sent[-1].id}))
        why = election(events, now, since, servers, members)
        return Observation(f"no start() said that it leads; {why.text}", why.about)
    last = accepted[-1]
    leader = name_of(last.server)
    took = f"{leader} took it at index {last.index}"
    sent = [
        call
        for call in calls(events, "append_entries", last.time)
        if call.src == last.server and call.term == last.term
    ]
    if now - last.time > _GIVEN_UP_S and (not sent or now - sent[-1].time > _HEARTBEAT_S):
        why = election(events, now, last.time, servers, members)
        return Observation(f"{took}, and no start() has said since then that it leads; {why.text}", why.about)
    bring = [call for call in sent if _number(call.args, "prev_log_index") < last.index <= _upto(call)]
    copies = {call.dst for call in sent if _upto(call) >= last.index and (call.answer or {}).get("success") is True}
    others = [server for server in (*servers, *scripted) if server != last.server]
    if not bring and others and not copies:
        return Observation(f"{took}, and sent it to nobody", frozenset(call.id for call in sent[-1:]))
    late = [server for server in others if server not in copies]
    if len(copies) + 1 > members // 2 and applied.get(last.server, 0) < last.index:
        stored = (
            f"{names(copies)} {'has' if len(copies) == 1 else 'have'} stored it" if copies else "no other server votes"
        )
        commit = max((_number(call.args, "leader_commit") for call in sent), default=0)
        but = f"and {leader} sends commit={commit}, but" if commit >= last.index else f"but {leader}"
        text = f"{took}; {stored}, {but} has applied {_as_far_as(applied.get(last.server, 0))}"
        return Observation(text, frozenset(call.id for call in bring[:2]))
    if len(copies) + 1 > members // 2 or not late:
        late = [server for server in servers if server != last.server and applied.get(server, 0) < last.index]
    if not late:
        return Observation(took)
    why = lagging(events, last.time, late[0], last.index, applied.get(late[0], 0))
    return Observation(f"{took}; {why.text}", why.about)


# --- many messages ---


def most_frequent(events: Sequence[Event], server: int, since: float) -> str:
    """The kind of message that ``server`` has sent most often from ``since`` (seconds) on, with its receiver, and how often
    it was refused; empty if the server has sent none."""
    sent = Counter(
        (event.method, event.to)
        for event in events
        if isinstance(event, OutgoingEvent) and event.kind == "send" and event.server == server and event.time >= since
    )
    if not sent:
        return ""
    ((method, to), times), *_ = sent.most_common()
    text = f"{times:,} of them {CAMEL.get(method, method)} to {name_of(to)}"
    if method != "append_entries":
        return text
    mine = [call for call in calls(events, method, since) if call.src == server and call.dst == to]
    refused = [call for call in mine if call.answer is not None and call.answer.get("success") is not True]
    if len(refused) < _MANY_REFUSALS:
        return text
    prev = _number(refused[-1].args, "prev_log_index"), _number(refused[-1].args, "prev_log_term")
    return f"{text}, which refused {len(refused):,} of them, the last with prev=({prev[0]},{prev[1]})"


# --- clerks ---


def answers_to(events: Sequence[Event], clerk: int, since: float) -> Observation:
    """Which answers a clerk got from ``since`` (seconds) on."""
    asked = [call for call in calls(events, "client_request", since) if call.src == clerk]
    name = name_of(clerk)
    if not asked:
        return Observation(f"{name} sent no request")
    about = frozenset(call.id for call in asked[-2:])
    said: dict[tuple[int, str], int] = Counter(
        (call.dst, str(call.answer.get("status"))) for call in asked if call.answer is not None
    )
    silent = {call.dst for call in asked} - {server for server, _ in said}
    told = [f"{names(silent)} did not answer"] if silent else []
    # Put the answers of followers last, because they explain the least.
    in_order = sorted(said.items(), key=lambda item: (item[0][1] == "not_leader", item))
    told += [f"{name_of(server)} said {status} {_times(times)}" for (server, status), times in in_order]
    return Observation(", ".join(told), about)


def last_terms(events: Iterable[Event]) -> dict[int, int]:
    """The highest term that each server has named in ``get_state()``."""
    terms: dict[int, int] = {}
    for event in events:
        if isinstance(event, CallEvent) and event.kind == "result" and event.method == "get_state":
            state = message_of(event.message)
            if isinstance(state, list) and state and isinstance(state[0], int):
                terms[event.server] = max(terms.get(event.server, 0), state[0])
    return terms
