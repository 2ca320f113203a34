"""The record of a run: every event as it happened, a hash of it all, and its notation for people.

An event is kept as a tuple ``(time, kind, *fields)`` and turned into JSON only when somebody wants to read it. A trace
file is JSON lines: first a header ``{"trace": 1, ...}`` with test, seed and settings, then one object an event with
``t`` (seconds), ``e`` (the kind) and the fields that :data:`FIELDS` lists. Messages appear as plain objects with the
student's own field names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

SCHEMA = 1

Event = tuple[Any, ...]

FIELDS: dict[str, tuple[str, ...]] = {
    "boot": ("server", "incarnation"),
    "ready": ("server",),
    "crash": ("server",),
    "pause": ("server",),
    "resume": ("server",),
    "rate": ("server", "rate"),
    "net": ("text",),  # a cut, a partition, new conditions
    "note": ("text",),  # a step of the test's own script
    "send": ("server", "to", "id", "method", "message"),
    "arrive": ("server", "from", "id", "method"),
    "answer": ("server", "to", "id", "method", "message"),
    "reply": (
        "server",
        "from",
        "id",
        "method",
        "message",
    ),  # message null: the caller was told that it is lost
    "lost": ("id", "leg", "why"),
    "hold": ("id", "leg"),
    "release": ("id", "leg"),
    "save": ("server", "state_bytes", "snapshot_bytes"),
    "apply": ("server", "message"),
    "call": ("server", "id", "method", "message"),
    "result": ("server", "id", "method", "message"),
    "line": ("server", "topic", "text"),
    "advice": ("server", "kind", "text", "where"),
    "fault": ("server", "kind", "text", "where"),
}

# Kinds that a person wants to see when told what led to a failure.
TELLING = frozenset({"send", "answer", "reply", "crash", "boot", "net", "note", "lost", "apply", "pause", "resume"})

_decode = msgspec.msgpack.Decoder().decode
_pack = msgspec.msgpack.Encoder().encode
_json = msgspec.json.Encoder().encode


class Trace:
    """The events of one run, in order of time."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        # Hot: called for every event of every run.
        self.add = self.events.append

    def hash(self) -> str:
        """A hash of every event to the last message. Equal hashes: equal runs."""
        digest = hashlib.blake2b(digest_size=16)
        for start in range(0, len(self.events), 10_000):
            digest.update(_pack(self.events[start : start + 10_000]))
        return digest.hexdigest()

    def write(self, path: Path, header: dict[str, Any]) -> None:
        """Write the trace as JSON lines. Raises ``OSError``."""
        with path.open("wb") as out:
            out.write(_json({"trace": SCHEMA, **header, "hash": self.hash()}) + b"\n")
            for event in self.events:
                out.write(_json(as_object(event)) + b"\n")

    def tail(self, count: int = 12, servers: frozenset[int] | None = None) -> list[str]:
        """The last ``count`` events that matter (to ``servers``, if given), oldest first, in one-line notation."""
        picked: list[str] = []
        for event in reversed(self.events):
            if event[1] in TELLING and (servers is None or _touches(event, servers)):
                picked.append(line(event))
                if len(picked) == count:
                    break
        return picked[::-1]


def _touches(event: Event, servers: frozenset[int]) -> bool:
    names = FIELDS[event[1]]
    if names[0] != "server":
        return event[1] in ("net", "note")
    return event[2] in servers or (len(names) > 1 and names[1] in ("to", "from") and event[3] in servers)


@dataclass(frozen=True, slots=True)
class TraceFilter:
    """Which events somebody wants to see: between two times (seconds), of some servers, of one topic."""

    since: float = 0.0
    until: float = math.inf
    servers: frozenset[int] | None = None
    topic: str = ""
    """A kind of event ("crash"), a method ("request_vote"), or a topic of the student's own log lines."""

    def sees(self, event: Event) -> bool:
        if not self.since <= event[0] <= self.until:
            return False
        if self.servers is not None and not _touches(event, self.servers):
            return False
        if not self.topic or self.topic == event[1]:
            return True
        names = FIELDS[event[1]]
        return any(self.topic == event[2 + names.index(name)] for name in ("method", "topic") if name in names)


def message_of(data: bytes | None) -> Any:
    """A message's plain data (a dict with the student's field names), for reading."""
    return None if data is None else _decode(data)


def as_object(event: Event) -> dict[str, Any]:
    """One event as the trace file shows it."""
    shown: dict[str, Any] = {"t": event[0], "e": event[1]}
    for name, value in zip(FIELDS[event[1]], event[2:], strict=True):
        shown[name] = message_of(value) if name == "message" else value
    return shown


_CAMEL = {
    "request_vote": "RequestVote",
    "append_entries": "AppendEntries",
    "install_snapshot": "InstallSnapshot",
    "pre_vote": "PreVote",
}


def line(event: Event) -> str:
    """``12.345 S1→S2 AppendEntries term=3 prev=(4,2) entries=2 commit=4``"""
    time, kind, *fields = event
    start = f"{time:8.3f} "
    match kind:
        case "send":
            server, to, _, method, data = fields
            return f"{start}S{server}→S{to} {_CAMEL.get(method, method)} {_request(message_of(data))}"
        case "arrive":
            server, source, number, method = fields
            return f"{start}S{server} receives {_CAMEL.get(method, method)} #{number} of S{source}"
        case "answer":
            server, to, _, method, data = fields
            return f"{start}S{server}⇢S{to} {_CAMEL.get(method, method)} answers {_fields(message_of(data))}"
        case "reply":
            server, source, _, method, data = fields
            what = "no reply" if data is None else f"has the reply {_fields(message_of(data))}"
            return f"{start}S{server} {what} of S{source} to its {_CAMEL.get(method, method)}"
        case "lost":
            number, leg, why = fields
            return f"{start}{leg} #{number} lost: {why}"
        case "hold" | "release":
            number, leg = fields
            return f"{start}{leg} #{number} is {'held back by the test' if kind == 'hold' else 'let go'}"
        case "boot":
            return f"{start}S{fields[0]} {'starts' if fields[1] == 1 else 'restarts'}"
        case "crash" | "pause" | "resume" | "ready":
            words = {"crash": "crashes", "pause": "is paused", "resume": "goes on", "ready": "is ready"}
            return f"{start}S{fields[0]} {words[kind]}"
        case "net":
            return f"{start}network: {fields[0]}"
        case "note":
            return f"{start}test: {fields[0]}"
        case "save":
            return f"{start}S{fields[0]} saves {fields[1]} bytes" + (
                f" and a snapshot of {fields[2]}" if fields[2] else ""
            )
        case "apply":
            return f"{start}S{fields[0]} applies {_fields(message_of(fields[1]))}"
        case "call":
            return f"{start}S{fields[0]}.{fields[2]}({', '.join(map(repr, message_of(fields[3])))})"
        case "result":
            return f"{start}S{fields[0]}.{fields[2]} returns {message_of(fields[3])!r}"
        case "line":
            return f"{start}S{fields[0]} [{fields[1]}] {fields[2]}"
        case "rate":
            return f"{start}S{fields[0]}'s clock now runs at {fields[1]}"
        case "advice" | "fault":
            return f"{start}S{fields[0]} {kind}: {fields[2]}" + (f" at {fields[3]}" if fields[3] else "")
        case _:
            return f"{start}{kind} " + " ".join(map(str, fields))


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
    return " ".join([*parts, *([_fields(shown)] if shown else [])])


def _fields(message: Any) -> str:
    if not isinstance(message, dict):
        return repr(message)
    return " ".join(f"{name}={_short(value)}" for name, value in message.items())


def _short(value: Any) -> str:
    text = f"<{len(value)} bytes>" if isinstance(value, bytes) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


class BadTrace(ValueError):
    """A file that is no trace of ours, or not of this version. The message says which."""


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The header, then the events, of a trace file. Raises ``OSError`` and :class:`BadTrace`."""
    with path.open("rb") as lines:
        for number, text in enumerate(lines, 1):
            try:
                item = msgspec.json.decode(text)
            except msgspec.DecodeError:
                raise BadTrace(f"{path.name}: line {number} is not JSON: the file is cut off or no trace") from None
            if number == 1 and not (isinstance(item, dict) and "trace" in item):
                raise BadTrace(f"{path.name} is not a raftlab trace")
            if number == 1 and item["trace"] != SCHEMA:
                raise BadTrace(f"{path.name} is a trace of version {item['trace']}; this raftlab reads {SCHEMA}")
            yield item
