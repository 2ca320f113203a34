"""The events of a run that led to its failure, in about a dozen lines.

The last dozen events of a run are mostly heartbeats. What decided the run is often older: a vote in an earlier term, a
restart, or the write that a read should have seen. So each line gets a weight. The weight depends on the kind of event (a
vote weighs more than a heartbeat), on what the event has in common with the failure's sentence (servers, terms, indexes, a
client's operation), and on how near the event is to the end of the run. The heaviest lines are shown, in order of time.
The weights decide only what is shown, never a verdict.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from raftlab.harness.trace import (
    NOTABLE,
    ApplyEvent,
    BootEvent,
    CallEvent,
    Event,
    LogLineEvent,
    LostEvent,
    OutgoingEvent,
    ReplyEvent,
    SaveEvent,
    ServerEvent,
    SnapshotEvent,
    TextEvent,
    concerns,
    line,
    message_of,
    operation_of,
)
from raftlab.participants import FIRST_CLERK, is_clerk, name_of

# The number of events to search, counted back from the end of the run.
_SEARCHED = 10_000
# At most _OWN_LINES lines that the student's code logged are shown. Of these, _BESIDES are shown in addition to the other
# lines, and each further one takes the place of another line.
_OWN_LINES, _BESIDES = 5, 3
# Messages to several servers become one line if they are sent within this many seconds. A reply that arrives within this
# many seconds after the handler sent it says nothing new.
_AT_ONCE_S = 0.05
# The last line gets _LAST more weight. The bonus of each earlier line is _FADES times the bonus of the line after it.
_LAST, _FADES = 4.0, 0.85
# The last heartbeats get _HEARTBEATS more weight. A line gets _ALIKE less weight for each similar line that comes later, or
# _ALIKE_FAULTS less if it is about a crash, a start, a pause or a change of the network.
_HEARTBEATS, _ALIKE, _ALIKE_FAULTS = 3.0, 0.5, 1.0
# The last crash and the last restart get this much more weight if the sentence mentions one of them.
_NAMED_FAULT = 2.0
# A line about a range of applied entries lists at most this many operations.
_OPERATIONS = 3
# A request and its answer are shown together, except in lines that stand for this many messages or more.
_MOST_IDS = 30
# If a server applies an entry more than this many seconds after the previous one, a new line begins.
_PAUSE_S = 0.2
# Lines are merged only with lines of the same group. For messages, the group is the number of a server. The other groups
# are: lines that are never merged, applied entries, crashes and starts of servers, and calls of the test.
_NOTHING, _APPLIES, _STOPS, _CALLS = -1, -2, -3, -4
# From this weight on, a request or a command counts as part of the operation that the sentence names.
_THE_SAME = 3.0

# Patterns of words in a sentence, and what these words are about: methods of RPCs, kinds of events, and methods that a test
# calls.
_ABOUT = (
    (r"(?i)pre-?vote", ("pre_vote",)),
    (r"(?i)\bvot(?:e|es|ed|ing)\b|elect|\bleads?\b|\bleader\b", ("request_vote",)),
    (r"TimeoutNow|leadership_transfer|\bhand(?:s|ed)? over\b|\btransfer", ("timeout_now", "transfer_leadership")),
    (r"heartbeat|AppendEntries", ("append_entries",)),
    (r"(?i)snapshot|besides the", ("install_snapshot", "snapshot")),
    (r"restart|crash", ("boot", "crash")),
    (r"restart|\bsave[sd]?\b|\bterm to stay at\b|to begin with a snapshot|\bhad answered\b", ("save",)),
    (r"\bpaus", ("pause", "resume")),
    (r"\bstart\(", ("start",)),
    (r"change_membership|change of members", ("change_membership",)),
    (r"transfer_leadership", ("transfer_leadership",)),
)  # fmt: skip
_RARE_CALLS = frozenset(("change_membership", "transfer_leadership"))
_WITH_TERMS = frozenset(("request_vote", "append_entries", "install_snapshot", "timeout_now"))

Message = dict[str, Any]


def led_there(
    events: Sequence[Event], sentence: str = "", count: int = 12, servers: Collection[int] | None = None,
    about: Collection[int] = (),
) -> list[str]:  # fmt: skip
    """The events that led to a failure, in one-line notation, oldest first. One line may stand for several events: for a
    message that was sent again and again, for the same message to several servers, for heartbeats and their answers, or for
    entries that a server applied one after another.

    Args:
        events: the run's events.
        sentence: the failure's sentence. Events that have something in common with it may be shown although they are old.
        count: the maximum number of lines. Up to three lines that the student's code logged are shown in addition.
        servers: show only events that concern one of these; ``None``: all.
        about: the numbers of RPCs that the sentence is about.
    """
    subject = _Subject.of(sentence)
    lines = _merged(_folded(events, frozenset(about), subject, servers))
    clients = any(each.method == "client_request" for each in lines)
    for each in lines:
        each.weight = _weight(each, subject) - (clients and (each.method in _WITH_TERMS or each.method == "pre_vote"))
    own = [each for each in lines if isinstance(each.last, LogLineEvent)]
    others = [each for each in lines if not isinstance(each.last, LogLineEvent)]
    _weigh_by_place(others, subject)
    _raise_partners(others)
    shown = _heaviest(others, count)
    first = min((each.place for each in shown), default=0)
    own = _heaviest([each for each in own if each.place >= first], _OWN_LINES)
    shown = _heaviest(shown, count - max(0, len(own) - _BESIDES))
    return [each.text() for each in sorted([*shown, *own], key=lambda each: each.place)]


@dataclass(frozen=True, slots=True)
class _Subject:
    """What a failure's sentence mentions."""

    participants: frozenset[int]
    terms: frozenset[int]
    indexes: frozenset[int]
    sessions: frozenset[int]
    serials: frozenset[int]
    texts: frozenset[str]
    operations: frozenset[str]
    kinds: frozenset[str]

    @classmethod
    def of(cls, sentence: str) -> _Subject:
        def numbers(pattern: str) -> frozenset[int]:
            found = re.findall(rf"{pattern} (\d+)(?:(?: to| and|,) (\d+))?", sentence)
            return frozenset(int(number) for pair in found for number in pair if number and len(number) < 19)

        servers = (
            int(name[1:]) + (FIRST_CLERK if name[0] == "C" else 0) for name in re.findall(r"\b[SC]\d\d?\b", sentence)
        )
        return cls(
            participants=frozenset(servers),
            terms=numbers("terms?"),
            indexes=numbers("index(?:es)?") | numbers("up to"),
            sessions=numbers("session"),
            serials=numbers("serial"),
            texts=frozenset(re.findall(r"'([^']+)'", sentence)),
            operations=frozenset(re.findall(r"\b(?:put|get|append|swap|fly)\([^()]*\)|\bregister\b", sentence)),
            kinds=frozenset(kind for pattern, kinds in _ABOUT if re.search(pattern, sentence) for kind in kinds),
        )


@dataclass(slots=True)
class _Line:
    """A line that stands for one event, or for several."""

    place: int
    first: Event
    last: Event
    message: Any
    """The content of the last event."""
    request: Any = None
    """The content of its request, if this is a message of an RPC."""
    trivial: bool = False
    """Whether this is a heartbeat without effect, or the arrival of an answer that has a line of its own."""
    heartbeat: bool = False
    grown_from: int | None = None
    """The term that the server had before, if its answer is the first to state a higher term."""
    named: bool = False
    """Whether this is about an election, and the sentence names the term that began or ended with it."""
    unanswered: bool = False
    """Whether this is a message of an RPC that nobody answered."""
    asked: bool = False
    """Whether the failure's sentence is about this message."""
    kept: bool = False
    """Whether this is the last save before its server crashed. The server has this state after its restart."""
    times: int = 1
    others: list[int] = field(default_factory=list)
    """The other servers, if the line stands for messages to or from several servers, or for an entry that several apply."""
    ids: set[int] = field(default_factory=set)
    operations: list[str] = field(default_factory=list)
    weight: float = 0.0

    @property
    def method(self) -> str:
        return getattr(self.last, "method", self.last.kind)

    def text(self) -> str:
        event = self.last
        text = line(event)
        if isinstance(event, ApplyEvent) and isinstance(self.first, ApplyEvent) and self.times > 1:
            first, last = (message_of(each.message).get("index") for each in (self.first, event))
            text = (
                f"{event.time:8.3f} {name_of(event.server)} applies index {first} to {last}{_listed(self.operations)}"
            )
        elif isinstance(event, CallEvent) and event.method == "snapshot" and isinstance(self.message, list):
            index, data = self.message
            text = f"{event.time:8.3f} {name_of(event.server)}.snapshot({index}, <{len(data)} bytes>)"
        elif self.heartbeat:
            text += ", answered with success=True"
        text = self._with_all(text)
        if self.grown_from is not None:
            text += f" (its term was {self.grown_from})"
        if self.times > 1 and not isinstance(event, ApplyEvent):
            text += f" (the last of {self.times:,}, from {self.first.time:.3f} on)"
        return text

    def _with_all(self, text: str) -> str:
        """The text, with the names of all servers that the line stands for."""
        if not self.others:
            return text
        event, all_of = self.last, ", ".join(map(name_of, sorted({self._peer(), *self.others})))
        match event:
            case OutgoingEvent(kind="send", server=server, to=to):
                return text.replace(f" {name_of(server)}→{name_of(to)} ", f" {name_of(server)}→{all_of} ", 1)
            case OutgoingEvent(server=server, to=to):
                return text.replace(f" {name_of(server)}⇢{name_of(to)} ", f" {all_of}⇢{name_of(to)} ", 1)
            case ReplyEvent(source=source):
                before, of, after = text.rpartition(f" of {name_of(source)} to its ")
                return f"{before}{of and f' of {all_of} to its '}{after}"
            case CallEvent(server=server):
                return text.replace(f" {name_of(server)}.", f" {all_of}.", 1)
            case BootEvent() | ServerEvent():
                before, _, does = text.rpartition(f" {name_of(self._peer())} ")
                return f"{before} {all_of} {'crash' if event.kind == 'crash' else does.removesuffix('s')}"
            case ApplyEvent(server=server):
                return text.replace(f" {name_of(server)} applies ", f" {all_of} apply ", 1)
        return text

    def _peer(self) -> int:
        return _peer_of(self.last)


def _peer_of(event: Event) -> int:
    """The participant that may differ between the messages of one line: a request's receiver, or an answer's sender."""
    match event:
        case OutgoingEvent(kind="send"):
            return event.to
        case ReplyEvent():
            return event.source
        case _:
            return int(getattr(event, "server", -1))


def _listed(operations: Sequence[str]) -> str:
    """A clause about a range of applied entries: the operations in this range that the failure's sentence mentions, and how
    many entries each of them has."""
    counted: dict[str, int] = {}
    for each in operations:
        counted[each] = counted.get(each, 0) + 1
    shown = [f"{each} {times} times" if times > 1 else each for each, times in list(counted.items())[-_OPERATIONS:]]
    more = "..., " if len(counted) > _OPERATIONS else ""
    return f", with {more}{', '.join(shown)}" if shown else ""


@dataclass(slots=True)
class _Rpc:
    """One RPC: its request, its answer, and when the answer was sent."""

    request: Any = None
    answer: Any = None
    answered: float = -1.0
    caller_did: int = -1
    """How often the caller had answered a request, crashed or started by the time the answer was sent."""


class _Folding:
    """Combines events into lines. Repetitions of a message become one line, and so do entries applied one after another.

    Args:
        events: the events to look at, with their places in the run.
        about: as for :func:`led_there`.
        subject: what the failure's sentence mentions.
    """

    def __init__(self, events: Sequence[tuple[int, Event]], about: frozenset[int], subject: _Subject) -> None:
        self._about, self._subject = about, subject
        self._lines: dict[object, _Line] = {}
        self._scope = 0  # a new scope begins at each crash, start, note and change of the network; no line spans two
        self._terms: dict[int, int] = {}
        self._did: Counter[int] = Counter()  # by server: how often it answered a request, crashed or started
        self._applied: Counter[object] = Counter()
        self._range: Counter[int] = Counter()
        self._last_applied: dict[int, float] = {}
        self._real: set[int] = set()  # the servers that the test does not play
        self._saved: dict[int, _Line] = {}  # by server: the line of its last save
        self._rpcs: dict[int, _Rpc] = {}
        self._heartbeats: dict[int, object] = {}  # by RPC: the key of the heartbeat's line
        for _, event in events:
            if isinstance(event, OutgoingEvent):
                rpc = self._rpcs.setdefault(event.id, _Rpc())
                if event.kind == "send":
                    rpc.request = message_of(event.message)
                else:
                    rpc.answer = message_of(event.message)

    def lines(self) -> list[_Line]:
        """The lines so far, in order."""
        return sorted(self._lines.values(), key=lambda each: each.place)

    def follow(self, event: Event) -> int | None:
        """Take note of an event, whether or not it is shown. If the event is an answer whose term is higher than the last
        term that this server stated, return that last term."""
        server = _number(getattr(event, "server", None))
        if event.kind in ("crash", "boot", "net", "note"):
            self._scope += 1
            self._terms.pop(server, None)
        if event.kind == "crash" and server in self._saved:
            self._saved.pop(server).kept = True
        if event.kind == "ready":
            self._real.add(server)
        if event.kind in ("answer", "crash", "boot"):
            self._did[server] += 1
        if not isinstance(event, OutgoingEvent):
            return None
        rpc = self._rpcs[event.id]
        message = rpc.request
        if event.kind == "answer":
            message, rpc.answered, rpc.caller_did = rpc.answer, event.time, self._did[event.to]
        term = message.get("term") if isinstance(message, dict) else None
        before = self._terms.get(server)
        if event.method not in _WITH_TERMS or not isinstance(term, int) or (before is not None and before >= term):
            return None
        self._terms[server] = term
        return before if event.kind == "answer" and server in self._real else None

    def add(self, place: int, event: Event, grown_from: int | None) -> None:
        """Show an event, in a line of its own or as part of an earlier line."""
        new = _Line(place, event, event, None)
        key: object = place
        match event:
            case OutgoingEvent() | ReplyEvent():
                key = self._message(new, event, grown_from)
            case LostEvent():
                key, new.trivial = (self._scope, event.leg, event.why), True
            case ApplyEvent():
                key = self._apply(new, event)
            case SaveEvent(snapshot_bytes=0):
                key = (self._scope, event.kind, event.server)  # the last save before a crash is the one that counts
            case CallEvent():
                key = (self._scope, event.kind, event.server, event.method, event.message)
                new.message = message_of(event.message)
                new.ids.add(-1 - event.id)  # calls have numbers of their own
        if key is None:
            return
        known = self._lines.setdefault(key, new)
        if isinstance(event, SaveEvent):
            self._saved[event.server] = known
        if known is not new:
            known.place, known.last, known.message = place, event, new.message
            known.times += 1
            known.ids |= new.ids
            known.asked |= new.asked
            known.trivial &= new.trivial
            known.operations += new.operations

    def _message(self, new: _Line, event: OutgoingEvent | ReplyEvent, grown_from: int | None) -> object:
        rpc = self._rpcs.get(event.id, _Rpc())
        new.ids.add(event.id)
        new.asked = event.id in self._about
        new.request, new.grown_from = rpc.request, grown_from
        new.message = rpc.request if event.kind == "send" else message_of(event.message)
        new.unanswered = rpc.answer is None
        if _is_idle(event, rpc) and (event.kind == "send" or grown_from is None):
            # The request's line also mentions the answer.
            new.heartbeat = new.trivial = True
            if event.kind != "send":
                return None
            self._heartbeats[event.id] = (self._scope, event.server, _peer_of(event), _stated(rpc.request))
            return self._heartbeats[event.id]
        if grown_from is not None:
            # A heartbeat that brought a new term did have an effect, so it gets a line of its own.
            key = self._heartbeats.get(event.id)
            asked = self._lines.get(key)
            if asked is not None and asked.times == 1:
                asked.heartbeat = asked.trivial = False
                self._lines[asked.place] = self._lines.pop(key)
            return new.place
        if isinstance(event, ReplyEvent):
            # A reply says nothing new if it came soon after the answer was sent, and its receiver did nothing in between.
            new.trivial = (
                event.message is not None
                and event.time - rpc.answered <= _AT_ONCE_S
                and rpc.caller_did == self._did[event.server]
            )
        ends = (event.server, event.source if isinstance(event, ReplyEvent) else event.to)
        return (self._scope, event.kind, ends, event.method, event.message, _progress(event, rpc))

    def _apply(self, new: _Line, event: ApplyEvent) -> object:
        server, new.message = event.server, message_of(event.message)
        if not isinstance(new.message, dict):
            return new.place
        index, command = new.message.get("index"), new.message.get("command")
        snapshot = new.message.get("kind") == "snapshot"
        if snapshot or event.time - self._last_applied.get(server, 0.0) > _PAUSE_S:
            self._range[server] += 1
        self._last_applied[server] = event.time
        if snapshot or not isinstance(index, int):
            return new.place
        named = isinstance(command, dict) and _operation_in_common(command, self._subject) >= _THE_SAME
        if named:
            new.operations = [operation_of(command)]
        same = (self._scope, server, self._range[server], index in self._subject.indexes, *new.operations)
        self._applied[same] += 1
        return (*same, index - self._applied[same])  # equal for consecutive indexes


def _folded(
    events: Sequence[Event], about: frozenset[int], subject: _Subject, servers: Collection[int] | None
) -> list[_Line]:
    start = max(0, len(events) - _SEARCHED)
    looked_at = [
        *((place, event) for place, event in enumerate(events[:start])
          if isinstance(event, OutgoingEvent | ReplyEvent) and event.id in about),
        *enumerate(events[start:], start),
    ]  # fmt: skip
    chosen = None if servers is None else frozenset(servers) | subject.participants
    folding = _Folding(looked_at, about, subject)
    for place, event in looked_at:
        grown_from = folding.follow(event)
        if _is_wanted(event, subject) and (chosen is None or concerns(event, chosen)):
            folding.add(place, event, grown_from)
    return folding.lines()


def _number(value: Any) -> int:
    return value if isinstance(value, int) else -1


def _is_wanted(event: Event, subject: _Subject) -> bool:
    match event:
        case CallEvent(kind="call", method="snapshot"):
            return "snapshot" in subject.kinds
        case CallEvent():
            return event.method in _RARE_CALLS or (event.method == "start" and "start" in subject.kinds)
        case SaveEvent():
            saved = event.server in subject.participants and "save" in subject.kinds
            return saved or (event.snapshot_bytes > 0 and "snapshot" in subject.kinds)
    return event.kind in NOTABLE or event.kind in ("line", "snapshot")


def _is_idle(event: OutgoingEvent | ReplyEvent, rpc: _Rpc) -> bool:
    """Whether this message belongs to a heartbeat without effect: it has no entries, and the other server accepts it in the
    same term."""
    request, answer = rpc.request, rpc.answer
    return (
        event.method == "append_entries"
        and isinstance(request, dict)
        and isinstance(answer, dict)
        and request.get("entries") == []
        and answer.get("success") is True
        and answer.get("term") == request.get("term")
        and not (isinstance(event, ReplyEvent) and event.message is None)
    )


def _stated(message: Message) -> tuple[Any, ...]:
    return tuple(repr(message.get(name)) for name in ("term", "prev_log_index", "leader_commit"))


def _progress(event: Event, rpc: _Rpc) -> object:
    """What an answer is about. Only answers to the same question are combined into one line."""
    if event.kind == "send" or not isinstance(rpc.request, dict):
        return None
    if getattr(event, "method", "") == "client_request":
        return tuple(repr(rpc.request.get(name)) for name in ("client_id", "serial", "op", "key"))
    if isinstance(rpc.answer, dict) and rpc.answer.get("success") is not True:
        return None
    entries = rpc.request.get("entries")
    return (repr(rpc.request.get("prev_log_index")), len(entries) if isinstance(entries, list) else None)


def _merged(lines: list[_Line]) -> list[_Line]:
    """The lines, after merging the same message to several servers, and the same answer from several servers. Lines are
    merged only if their common sender or receiver did nothing else in between."""
    merged: list[_Line] = []
    opened: dict[int, dict[object, _Line]] = {}
    for each in lines:
        event = each.last
        common, key = _merge_key(each)
        group = opened.setdefault(common, {}).get(key) if key is not None else None
        if (
            group is not None
            and event.time - group.last.time <= _AT_ONCE_S
            and (group.times == 1) == (each.times == 1)
            and each.grown_from == group.grown_from
        ):
            group.others.append(_peer_of(event))
            group.ids |= each.ids
            group.asked |= each.asked
            if not isinstance(event, ApplyEvent) and each.times > 1:
                group.times += each.times
                group.first = min(group.first, each.first, key=lambda one: one.time)
            if event.kind != "send":
                group.others.append(_peer_of(group.last))
                group.place, group.last = each.place, event
            continue
        for actor in _actors(each):
            opened.pop(actor, None)
        if common != _STOPS:
            opened.pop(_STOPS, None)
        if key is not None:
            opened.setdefault(common, {})[key] = each
        merged.append(each)
    return sorted(merged, key=lambda each: each.place)


def _merge_key(each: _Line) -> tuple[int, object]:
    """The group to which a line belongs, and the key that lines of the group must share to be merged. If the key is
    ``None``, the line is never merged."""
    event = each.last
    match event:
        case OutgoingEvent(kind="send"):
            return event.server, ("send", event.method, _stated(each.message) if each.heartbeat else event.message)
        case OutgoingEvent() if not is_clerk(event.to):
            return event.to, ("answer", event.method, event.message)
        case ReplyEvent() if not is_clerk(event.server):
            return event.server, ("reply", event.method, event.message)
        case ApplyEvent():
            first = message_of(each.first.message) if isinstance(each.first, ApplyEvent) else None
            return _APPLIES, ("apply", event.message, repr(first), each.times)
        case CallEvent() if not is_clerk(event.server):
            return _CALLS, (event.kind, event.method, event.message)
        case ServerEvent(kind="crash"):
            return _STOPS, "crash"
        case BootEvent(incarnation=incarnation):
            return _STOPS, incarnation > 1
    return _NOTHING, None


def _actors(each: _Line) -> list[int]:
    """The servers for which this event changes something. What they send or receive later is not merged with what they
    sent or received before."""
    event = each.last
    match event:
        case OutgoingEvent(kind="send") | ReplyEvent():
            return []
        case OutgoingEvent():
            return [event.server, _APPLIES]
        case ApplyEvent():
            return [event.server]
        case LogLineEvent() | ServerEvent() | BootEvent() | SnapshotEvent() | SaveEvent():
            return [event.server, _APPLIES]
    return []


# --- weights ---


def _weight(each: _Line, subject: _Subject) -> float:
    event, message = each.last, each.message
    weight = _BASE.get(each.method, _BASE.get(event.kind, 1.0))
    fields = message if isinstance(message, dict) else {}
    if each.asked:
        weight += 6
    if each.method in subject.kinds or event.kind in subject.kinds:
        weight += 1.5
    match event:
        case LogLineEvent():
            named = {int(number) for number in re.findall(r"\d+", event.text) if len(number) < 19}
            return each.place / 1e9 + 1.0 * bool(named & subject.terms) + (event.server in subject.participants)
        case CallEvent() if each.method in subject.kinds:
            weight += 1
        case ApplyEvent() if fields.get("kind") == "snapshot":
            weight += 1
        case SaveEvent() if event.snapshot_bytes > 0 and "snapshot" in subject.kinds:
            weight += 1.5
        case SaveEvent():
            weight += 1.5 if each.kept else -2
        case TextEvent(kind="note") if "save" in subject.kinds and event.text.startswith("the next "):
            weight += 4
        case BootEvent(incarnation=1):
            return 0.3
        case OutgoingEvent(kind="answer") | ReplyEvent():
            if fields.get("vote_granted") is True:
                weight += 1
            if event.method == "append_entries":
                weight -= 0.5 if fields.get("success") is True else -0.5
            if isinstance(event, ReplyEvent):
                weight -= 2
        case OutgoingEvent() if each.unanswered and event.method in ("request_vote", "pre_vote"):
            weight -= 1.5
    if each.heartbeat:
        weight = 1.5 if "append_entries" in subject.kinds else 0.3
    elif each.trivial and not each.asked:
        return min(weight, 0.5)
    weight += _in_common(each, fields, subject)
    if each.grown_from is not None:
        weight += 1.5 + 2 * (each.grown_from in subject.terms)
        each.named |= each.grown_from in subject.terms
    return weight


def _in_common(each: _Line, fields: Message, subject: _Subject) -> float:
    event = each.last
    weight = 0.0
    ends = {int(getattr(event, name, -1)) for name in ("server", "to", "source")}
    weight += 0.5 * len(ends & subject.participants)
    if each.method == "client_request":
        return weight + _operation_in_common(each.request if isinstance(each.request, dict) else {}, subject)
    if isinstance(event, ApplyEvent):
        command = fields.get("command")
        if isinstance(command, dict):
            weight += _operation_in_common(command, subject) / 2
        elif isinstance(command, str) and command in subject.texts:
            weight += 2
        return weight + _among(fields.get("index"), subject.indexes)
    weight += 2.5 * _brings(each.request, subject.indexes)
    if (
        each.method == "append_entries"
        and event.kind == "send"
        and _among(fields.get("leader_commit"), subject.indexes)
    ):
        weight += 1.5
    term = fields.get("term")
    if isinstance(term, int) and subject.terms:
        # A term ends with the election for the next term.
        election = each.method in ("request_vote", "pre_vote")
        if term in subject.terms or (election and term - 1 in subject.terms):
            weight += 1.5
            each.named = election
    if each.method == "pre_vote" and isinstance(term, int) and term - 1 in subject.terms:
        weight += 0.5
    return weight


def _brings(request: Any, indexes: Collection[int]) -> bool:
    """Whether an AppendEntries contains an entry with one of these indexes."""
    before, entries = (
        (request.get(name) for name in ("prev_log_index", "entries")) if isinstance(request, dict) else (0, 0)
    )
    if not isinstance(before, int) or not isinstance(entries, list):
        return False
    return any(before < index <= before + len(entries) for index in indexes)


def _among(value: Any, named: Collection[object]) -> bool:
    """Whether a value is in ``named``. The value comes from a message, so it may be of any type."""
    return isinstance(value, int | str) and value in named


def _operation_in_common(request: Message, subject: _Subject) -> float:
    weight = 0.0
    if _among(request.get("serial"), subject.serials) and _among(request.get("client_id"), subject.sessions):
        weight += 4
    operation = operation_of(request)
    if any(operation.startswith(each) for each in subject.operations):
        weight += 3
    if not subject.operations and request.get("value") and _among(request.get("value"), subject.texts):
        weight += 3
    elif request.get("key") and _among(request.get("key"), subject.texts):
        weight += 1
    return weight


_BASE = {
    "request_vote": 2.0,
    "pre_vote": 1.2,
    "append_entries": 1.0,
    "install_snapshot": 2.0,
    "timeout_now": 4.0,
    "client_request": 2.0,
    "crash": 3.0,
    "boot": 3.0,
    "pause": 3.0,
    "resume": 2.0,
    "net": 1.5,
    "note": 2.0,
    "apply": 1.0,
    "snapshot": 2.0,
    "save": 2.0,
    "lost": 0.5,
    "start": 1.5,
    "call": 2.5,
    "result": 2.5,
}


def _heaviest(lines: list[_Line], count: int) -> list[_Line]:
    return sorted(lines, key=lambda each: (each.weight, each.place))[-count:]


def _weigh_by_place(lines: list[_Line], subject: _Subject) -> None:
    """Make lines heavier the nearer they are to the end, and lighter if similar lines come later. The last heartbeats get
    more weight, because they show whether there is a leader. If the sentence mentions a crash or a restart, the last crash
    and the last restart get more weight, too."""
    bonus, alike = _LAST, dict[object, int]()
    heartbeats = False
    faults = {"crash", "boot"} & subject.kinds
    for each in reversed(lines):
        if each.last.kind in faults:
            faults.remove(each.last.kind)
            each.weight += _NAMED_FAULT
        if each.heartbeat and not heartbeats:
            heartbeats = True
            each.weight += _HEARTBEATS
        if each.trivial:
            continue
        kind = (each.last.kind, each.method, getattr(each.last, "server", None), _peer_of(each.last))
        less = _ALIKE_FAULTS if isinstance(each.last, ServerEvent | BootEvent | TextEvent) else _ALIKE
        each.weight += bonus - (0 if each.named else less * min(alike.get(kind, 0), 8))
        alike[kind] = alike.get(kind, 0) + 1
        bonus *= _FADES


def _raise_partners(lines: list[_Line]) -> None:
    """Show a request together with its answer: the lighter of the two gets nearly the weight of the heavier."""
    best: dict[int, float] = {}
    for each in lines:
        if not each.trivial:
            for number in each.ids:
                best[number] = max(best.get(number, 0.0), each.weight)
    for each in lines:
        if (each.heartbeat or not each.trivial) and len(each.ids) < _MOST_IDS:
            each.weight = max([each.weight, *(best.get(number, 0.0) - 0.5 for number in each.ids)])
