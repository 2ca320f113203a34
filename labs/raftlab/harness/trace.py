"""The trace: every event of a run, a hash over all events, and a human-readable one-line notation.

A trace file is JSON lines: a header ``{"trace": 1, ...}`` with the test, the seed and the settings, then one object per
event with ``t`` (seconds), ``e`` (the kind) and the fields that :data:`FIELDS` lists. Messages appear as plain objects
with the student's own field names. ``handouts/trace-format.md`` describes the format to students.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from raftlab.messages.paper import TRANSFER_FLAG
from raftlab.messages.protocol import MALFORMED
from raftlab.participants import is_clerk, name_of
from raftlab.safe_text import printable

# The version of the file format. A reader refuses any other.
SCHEMA = 1


# Events are Structs because the judge creates one for nearly everything that happens, and creating a NamedTuple takes three
# times as long. The hash and the file depend on the order of the fields and on the names given in ``field(name=...)``.
class Event(msgspec.Struct, array_like=True, gc=False):
    """The base class of all events. Iterating over an event yields its values in the order of its fields."""

    time: float = msgspec.field(name="t")
    """Seconds of the lab's time."""
    kind: str = msgspec.field(name="e")
    """A key of :data:`EVENT_TYPES`."""

    def __iter__(self) -> Iterator[Any]:
        return iter(msgspec.structs.astuple(self))


class ServerEvent(Event):
    """``ready``: ``Raft()`` has returned. ``crash``, ``pause``, ``resume``: the server was crashed, paused or resumed."""

    server: int


class BootEvent(Event):
    """``boot``: a server starts its next incarnation, counted from 1."""

    server: int
    incarnation: int


class RateEvent(Event):
    """``rate``: the server's clock now runs ``rate`` times as fast as the lab's."""

    server: int
    rate: float


class TextEvent(Event):
    """``net``: the test changed the network, for example by a partition. ``note``: a step of the test's script."""

    text: str


class OutgoingEvent(Event):
    """``send``: a request leaves ``server``. ``answer``: its handler has returned a reply for ``to``."""

    server: int
    to: int
    id: int
    method: str
    message: bytes


class ArriveEvent(Event):
    """``arrive``: a request reaches ``server``."""

    server: int
    source: int = msgspec.field(name="from")
    id: int
    method: str


class ReplyEvent(Event):
    """``reply``: a call of ``server`` returns. ``message`` is ``None`` when the call returns ``None``."""

    server: int
    source: int = msgspec.field(name="from")
    id: int
    method: str
    message: bytes | None


class LostEvent(Event):
    """``lost``: the request or the reply (``leg``) of RPC ``id`` did not get through."""

    id: int
    leg: str
    why: str


class HoldEvent(Event):
    """``hold``: the test keeps a message back. ``release``: the test lets it continue."""

    id: int
    leg: str


class SaveEvent(Event):
    """``save``: ``persister.save`` or ``persister.append`` was called. ``state_bytes`` is the size of the whole state after
    that; ``snapshot_bytes`` is 0 if the snapshot did not change."""

    server: int
    state_bytes: int
    snapshot_bytes: int


class SnapshotEvent(Event):
    """``snapshot``: the student's service has called ``raft.snapshot(index, data)`` with this many bytes."""

    server: int
    index: int
    bytes: int


class ApplyEvent(Event):
    """``apply``: ``apply_ch.put`` was called."""

    server: int
    message: bytes


class CallEvent(Event):
    """``call``: the test calls a method of ``Raft`` or ``Clerk``. ``result``: what the method returned."""

    server: int
    id: int
    method: str
    message: bytes


class LogLineEvent(Event):
    """``line``: the student's code called ``log`` or ``print``, or used ``logging``."""

    server: int
    topic: str
    text: str


class FindingEvent(Event):
    """``advice``: advice on the student's code, which is not a failure. ``fault``: the fault that ended the run."""

    server: int
    finding: str = msgspec.field(name="kind")
    """A key of :data:`raftlab.explain.causes.FAULTS`, or the kind of advice."""
    text: str
    where: str


EVENT_TYPES: dict[str, type[Event]] = {
    "boot": BootEvent,
    "ready": ServerEvent,
    "crash": ServerEvent,
    "pause": ServerEvent,
    "resume": ServerEvent,
    "rate": RateEvent,
    "net": TextEvent,
    "note": TextEvent,
    "send": OutgoingEvent,
    "arrive": ArriveEvent,
    "answer": OutgoingEvent,
    "reply": ReplyEvent,
    "lost": LostEvent,
    "hold": HoldEvent,
    "release": HoldEvent,
    "save": SaveEvent,
    "apply": ApplyEvent,
    "snapshot": SnapshotEvent,
    "call": CallEvent,
    "result": CallEvent,
    "line": LogLineEvent,
    "advice": FindingEvent,
    "fault": FindingEvent,
}
"""The class of each kind of event."""

FIELDS: dict[str, tuple[str, ...]] = {
    kind: event_type.__struct_encode_fields__[2:] for kind, event_type in EVENT_TYPES.items()
}
"""The fields of each kind of event other than ``t`` and ``e``, as the trace file names them."""

# The kinds of events that are shown with a failure, as the events that led to it.
NOTABLE = frozenset({"send", "answer", "reply", "crash", "boot", "net", "note", "lost", "apply", "pause", "resume"})

_decode = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class Trace:
    """The events of one run, in order of time.

    Attributes:
        events: every event so far.
        add: appends one event. It is the list's own method for speed, because every event passes through it.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.add = self.events.append

    def hash(self) -> str:
        """A hash over every event, messages included. Equal hashes mean equal runs."""
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self.events), 10_000):
            digest.update(_pack(self.events[start : start + 10_000]))
        return digest.hexdigest()

    def write(self, path: Path, header: dict[str, Any], most: int = -1) -> None:
        """Write the trace as JSON lines.

        Args:
            path: the file to write.
            header: the fields of the first line, without the format's version and the hash.
            most: the maximum size of the file in bytes; a longer trace is deleted. A negative number means no limit.

        Raises:
            OSError: the file cannot be written.
        """
        with path.open("wb") as out:
            out.write(_json({"trace": SCHEMA, **header, "hash": self.hash()}) + b"\n")
            for event in self.events:
                out.write(json_line(event) + b"\n")
                if out.tell() > most >= 0:
                    path.unlink()
                    return


def concerns(event: Event, servers: frozenset[int]) -> bool:
    """Whether one of ``servers`` takes part in this event. The events ``net`` and ``note`` concern all servers."""
    server = getattr(event, "server", None)
    if server is None:
        return event.kind in ("net", "note")
    return server in servers or getattr(event, "to", None) in servers or getattr(event, "source", None) in servers


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Selects the events to show: those between two times (seconds), of some servers, on one topic."""

    since: float = 0.0
    until: float = math.inf
    servers: frozenset[int] | None = None
    topic: str = ""
    """A kind of event ("crash"), a method ("request_vote"), or a topic of the student's own log lines."""

    def matches(self, event: Event) -> bool:
        if not self.since <= event.time <= self.until:
            return False
        if self.servers is not None and not concerns(event, self.servers):
            return False
        topics = (event.kind, getattr(event, "method", None), getattr(event, "topic", None))
        return not self.topic or self.topic in topics


def message_of(data: bytes | None) -> Any:
    """The decoded ``message`` of an event: for an RPC, a dict with the student's field names. If the message cannot be
    decoded (a hostile host may send anything), a text that says so."""
    if data is None:
        return None
    try:
        return _decode(data)
    except MALFORMED:
        return f"({len(data)} bytes that cannot be read)"


def as_object(event: Event) -> dict[str, Any]:
    """One event as the JSON object in a trace file."""
    shown = dict(zip(event.__struct_encode_fields__, event, strict=True))
    if "message" in shown:
        shown["message"] = message_of(shown["message"])
    return shown


def json_line(event: Event) -> bytes:
    """One event as a line of a trace file, without the line end."""
    try:
        return _json(as_object(event))
    except (TypeError, ValueError, RecursionError):  # a hostile message with keys or a depth that JSON does not allow
        return _json({**as_object(msgspec.structs.replace(event, message=None)), "message": "(cannot be shown)"})


CAMEL = {
    "request_vote": "RequestVote",
    "append_entries": "AppendEntries",
    "install_snapshot": "InstallSnapshot",
    "pre_vote": "PreVote",
    "timeout_now": "TimeoutNow",
    "read_index_of": "ReadIndex",
    "lease_of": "Lease",
    "client_request": "ClientRequest",
}


# In the one-line notation, this separates the lines of a text that has several.
_NEXT_LINE = "\n" + " " * 12 + "| "


def line(event: Event) -> str:
    """One event in one-line notation, safe to print: ``12.345 S1→S2 AppendEntries term=3 prev=(4,2) entries=2 commit=4``

    If student code logged a text of several lines, the second and further lines are indented, so that none of them looks
    like another event."""
    return f"{event.time:8.3f} {printable(_sentence(event))}".replace("\n", _NEXT_LINE)


def _sentence(event: Event) -> str:
    kind = event.kind
    match event:
        case OutgoingEvent(server=server, to=to):
            method, message = CAMEL.get(event.method, event.method), message_of(event.message)
            if kind == "send":
                return f"{name_of(server)}→{name_of(to)} {method} {_request(message)}"
            return f"{name_of(server)}⇢{name_of(to)} {method} answers {_fields(message)}"
        case ArriveEvent():
            method = CAMEL.get(event.method, event.method)
            return f"{name_of(event.server)} receives {method} #{event.id} of {name_of(event.source)}"
        case ReplyEvent(message=data):
            what = "no reply" if data is None else f"has the reply {_fields(message_of(data))}"
            method = CAMEL.get(event.method, event.method)
            return f"{name_of(event.server)} {what} of {name_of(event.source)} to its {method}"
        case LostEvent():
            return f"{event.leg} #{event.id} lost: {event.why}"
        case HoldEvent():
            return f"{event.leg} #{event.id} is {'held back by the test' if kind == 'hold' else 'let go'}"
        case BootEvent():
            return f"{name_of(event.server)} {'starts' if event.incarnation == 1 else 'restarts'}"
        case ServerEvent():
            words = {"crash": "crashes", "pause": "is paused", "resume": "goes on", "ready": "is ready"}
            return f"{name_of(event.server)} {words[kind]}"
        case TextEvent():
            return f"{'network' if kind == 'net' else 'test'}: {event.text}"
        case SaveEvent(snapshot_bytes=snapshot):
            return f"{name_of(event.server)} saves {event.state_bytes} bytes" + (
                f" and a snapshot of {snapshot}" if snapshot else ""
            )
        case SnapshotEvent():
            return f"{name_of(event.server)}'s service takes a snapshot up to {event.index}, of {event.bytes} bytes"
        case ApplyEvent():
            return f"{name_of(event.server)} applies {_fields(message_of(event.message))}"
        case CallEvent(server=server, method=method):
            message = message_of(event.message)
            if kind == "call":
                return f"{name_of(server)}.{method}({', '.join(map(repr, message))})"
            if is_clerk(server) and isinstance(message, list) and len(message) == 2:
                outcomes = {"unknown": "raises Unknown", "refused": "raises ValueError"}
                return f"{name_of(server)}.{method} {outcomes.get(message[0], f'returns {message[1]!r}')}"
            return f"{name_of(server)}.{method} returns {message!r}"
        case LogLineEvent():
            return f"{name_of(event.server)} [{event.topic}] {event.text}"
        case RateEvent():
            return f"{name_of(event.server)}'s clock now runs at {event.rate}"
        case FindingEvent():
            return f"{name_of(event.server)} {kind}: {event.text}" + (f" at {event.where}" if event.where else "")
    raise TypeError(f"{type(event).__name__} has no notation")


def _request(message: Any) -> str:
    if not isinstance(message, dict):
        return repr(message)
    shown = dict(message)
    parts = []
    if "term" in shown:
        parts.append(f"term={shown.pop('term')}")
    if "prev_log_index" in shown:
        parts.append(f"prev=({shown.pop('prev_log_index')},{shown.pop('prev_log_term', '?')})")
    if "last_log_index" in shown:
        parts.append(f"last=({shown.pop('last_log_index')},{shown.pop('last_log_term', '?')})")
    if isinstance(shown.get("entries"), list):
        parts.append(f"entries={len(shown.pop('entries'))}")
    if "leader_commit" in shown:
        parts.append(f"commit={shown.pop('leader_commit')}")
    for name in ("candidate_id", "leader_id"):
        shown.pop(name, None)
    if shown.get(TRANSFER_FLAG) is False:
        del shown[TRANSFER_FLAG]  # the flag has a meaning only in lab 2G, and only if it is set
    return " ".join([*parts, *filter(None, [_fields(shown)])])


def _fields(message: Any) -> str:
    """The fields of a message, without those that are ``None``."""
    if not isinstance(message, dict):
        return repr(message)
    return " ".join(
        f"{name}={(name == 'command' and operation_of(value)) or _short(value)}"
        for name, value in message.items()
        if value is not None
    )


def operation_of(command: Any) -> str:
    """A command of lab 3 as failures name it, with its session and serial: ``put('x', '1;') client_id=4 serial=2``. Empty
    for any other command."""
    if not isinstance(command, dict) or not {"op", "key", "client_id", "serial"} <= command.keys():
        return ""
    given = [command["key"], command.get("expected"), command.get("value")]
    shown = ", ".join(_short(each) for each in given if each is not None)
    return f"{command['op']}({shown}) client_id={_short(command['client_id'])} serial={_short(command['serial'])}"


def _short(value: Any) -> str:
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class BadTrace(ValueError):
    """The file is not a raftlab trace, or it has another version. The message says which."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Read a trace file line by line.

    Yields:
        The header, then each event, as JSON objects.

    Raises:
        OSError: the file cannot be read.
        BadTrace: it is not a trace of this version.
    """
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            try:
                item = msgspec.json.decode(text)
            except msgspec.DecodeError:
                raise BadTrace(
                    f"{path.name}: line {number} is not JSON: the file is truncated or is not a trace"
                ) from None
            if number == 1 and not (isinstance(item, dict) and "trace" in item):
                raise BadTrace(f"{path.name} is not a raftlab trace")
            if number == 1 and item["trace"] != SCHEMA:
                raise BadTrace(f"{path.name} is a trace of version {item['trace']}; this raftlab reads {SCHEMA}")
            yield item
