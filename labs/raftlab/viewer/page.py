"""Makes the page that shows a trace as a picture.

The page is one HTML file that needs no network, server or library: it contains the style, the scripts and the trace. The
scripts are ordinary ES modules in this folder. Each may import only from modules before it in :data:`SCRIPTS`, so that all
of them can be joined into one script. Text that students wrote reaches the page only as JSON without any ``<``, and the
page's content security policy allows only raftlab's own scripts.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec

from raftlab import participants
from raftlab.explain import render
from raftlab.explain.failure import Failure
from raftlab.harness.trace import FIELDS, BadTrace, read
from raftlab.safe_text import printable_json
from raftlab.viewer import history

# The limits of a page. A browser on a laptop shows pages up to this size without delay.
MOST_BYTES = 64_000_000
MOST_EVENTS = 300_000
MOST_SERVERS = 99  # more servers do not fit on any screen

_PACKAGE = "raftlab.viewer"
SCRIPTS = (
    "words.js",
    "model.js",
    "scene.js",
    "theme.js",
    "elements.js",
    "clerks.js",
    "draw.js",
    "timebar.js",
    "panel.js",
    "controls.js",
    "main.js",
)

_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(
        ("server", "to", "from", "id", "incarnation", "state_bytes", "snapshot_bytes", "index", "bytes"), int
    ),
    **dict.fromkeys(("method", "text", "leg", "why", "topic", "kind", "where"), str),
    "rate": (int, float),
}
_LATEST = 1e7  # seconds; no run takes months
_UP_OR_DOWN = frozenset({"boot", "crash", "pause", "resume"})
_encode = msgspec.json.Encoder().encode


def _json(value: Any) -> bytes:
    return printable_json(_encode(value))


class CannotShow(ValueError):
    """The trace is too large for a page, or the requested part of it is empty. The message says what to do."""


class BadEvent(BadTrace):
    """A line of the trace is JSON, but not an event."""


def write(trace: Path, out: Path, since: float = 0.0, until: float = math.inf) -> None:
    """Write the page of a trace. If this fails, ``out`` stays unchanged.

    Args:
        trace: the trace file.
        out: the page. Its folder is created if necessary.
        since: leave out events before this time, in seconds of the lab's time.
        until: leave out events after this time.

    Raises:
        raftlab.harness.trace.BadTrace: the file is not a trace.
        CannotShow: the trace is too large, or no event is left.
        OSError: a file cannot be read or written.
    """
    made = page(trace, since, until)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".raftlab-") as folder:
        draft = Path(folder) / out.name
        draft.write_bytes(made)
        draft.replace(out)


def page(trace: Path, since: float = 0.0, until: float = math.inf) -> bytes:
    """The page of ``trace``; see :func:`write`."""
    style = file(_PACKAGE, "style.css")
    code = script((_PACKAGE, name) for name in SCRIPTS)
    data = _data(trace, since, until).replace(b"<", b"\\u003c").decode()
    holes = {"policy": policy(code, style), "style": style, "script": code, "data": data}
    return filled(file(_PACKAGE, "page.html"), holes)


def explained(failure: object, replay: str = "") -> dict[str, Any] | None:
    """The failure in a trace's header in the form that the page shows: its sentence, and rows of (label, text) as in the
    terminal.

    The header may contain a whole :class:`raftlab.explain.failure.Failure`, only its sentence, or nothing.
    """
    if failure is None or failure == "":
        return None
    try:
        parsed = msgspec.convert(failure, Failure)
    except msgspec.ValidationError:
        text = failure.get("text") if isinstance(failure, dict) else failure
        parsed = Failure("", str(text))
    rows = [
        [part.label, line]
        for part in render.parts(parsed, replay)
        if part.label and not part.block
        for line in part.lines
    ]
    return {"kind": parsed.kind, "text": parsed.text, "rows": rows, "events": parsed.events, "detail": parsed.detail}


# --- the trace in the form that the page gets ---


def _data(trace: Path, since: float, until: float) -> bytes:
    """The trace's header, its events, and notices about the trace, as one JSON object."""
    whole = since <= 0 and until == math.inf
    size = trace.stat().st_size
    if whole and size > MOST_BYTES:
        raise CannotShow(_too_large(trace, f"{size / 1e6:.0f} MB", f"{MOST_BYTES / 1e6:.0f} MB"))
    items = read(trace)
    header = next(items, None)
    if header is None:
        raise BadTrace(f"{trace.name} is empty: a trace has at least a header")
    servers = header.get("servers")
    if type(servers) is not int or not 1 <= servers <= MOST_SERVERS:
        raise BadTrace(f"{trace.name} is not a raftlab trace: its header does not say how many servers there were")
    clerks = header.setdefault("clerks", 0)
    if type(clerks) is not int or not 0 <= clerks <= MOST_SERVERS:
        raise BadTrace(f"{trace.name} is not a raftlab trace: its header names {clerks!r} clerks")
    part = _Part(trace, {*range(servers), *map(participants.clerk, range(clerks))}, since, until)
    notices = []
    try:
        part.take(items)
    except BadEvent:
        raise
    except BadTrace:
        notices.append(f"this trace is cut off after line {part.lines}: later events are missing")
    if not whole:
        if not part.events:
            shown = f"between {since:g} and {until:g} s" if until < math.inf else f"after {since:g} s"
            end = "goes on until later" if part.more_behind else f"ends at {part.end:.3f} s"
            raise CannotShow(f"{trace.name} has nothing {shown}: the run {end}")
        first, last = part.times
        notices.append(
            f"this is only the part from {first:.3f} to {last:.3f} s: the servers' earlier state is known only in part"
        )
    failure = explained(header.get("failure"), str(header.get("replay") or ""))
    ends = not part.more_behind and not any("cut off" in notice for notice in notices)
    page_data = {
        "header": {name: value for name, value in header.items() if name != "failure"},
        "name": trace.name,
        "failure": failure,
        "ends": ends,  # whether the last event shown is the last event of the run; if the run failed, it failed there
        "notices": notices,
        "first": part.first,
        "before": list(part.before()),
        "history": history.order(map(msgspec.json.decode, part.events)) if clerks else None,
    }
    return _json(page_data)[:-1] + b',"events":[' + b",".join(part.events) + b"]}"


class _Part:
    """The encoded events between two times, and the earlier events that are needed to understand them."""

    def __init__(self, trace: Path, known: set[int], since: float, until: float) -> None:
        self._trace, self._participants, self._since, self._until = trace, known, since, until
        self.lines = 1  # the header
        self.first = 1  # the number of the first event shown; the run's first event has number 1
        self.events: list[bytes] = []
        self.times = (0.0, 0.0)
        self.end = 0.0
        self.more_behind = False
        self._bytes = 0
        self._open: dict[int, dict[str, Any]] = {}  # the requests that have no reply yet
        # By server and kind of event: the last event that tells something about the server's state, with its line.
        self._last: dict[tuple[int, str], tuple[int, dict[str, Any]]] = {}

    def take(self, items: Iterator[dict[str, Any]]) -> None:
        for item in items:
            self.lines += 1
            self._check(item)
            time = self.end = float(item["t"])
            if time > self._until:
                self.more_behind = True
                return
            if time < self._since and not self.events:
                self._remember(item)
                continue
            if not self.events:
                self.first, self.times = self.lines - 1, (time, time)
            self.times = (self.times[0], time)
            text = _json(item)
            self.events.append(text)
            self._bytes += len(text)
            if len(self.events) > MOST_EVENTS:
                raise CannotShow(_too_large(self._trace, "more", f"{MOST_EVENTS:,} events"))
            if self._bytes > MOST_BYTES:
                raise CannotShow(_too_large(self._trace, "more", f"{MOST_BYTES / 1e6:.0f} MB"))

    def before(self) -> Iterator[dict[str, Any]]:
        """The earlier events from which the page derives the servers' states at the beginning of the part."""
        kept = dict(self._last.values())
        return iter([*self._open.values(), *(kept[number] for number in sorted(kept))])

    def _remember(self, item: dict[str, Any]) -> None:
        kind = item["e"]
        if kind == "send":
            self._open[item["id"]] = item
        elif kind == "reply":
            self._open.pop(item["id"], None)
        if kind in _UP_OR_DOWN:
            self._last[item["server"], "up or down"] = (self.lines, item)
        elif kind in ("send", "apply", "answer") or (kind == "reply" and item["message"] is not None):
            self._last[item["server"], kind] = (self.lines, item)

    def _check(self, item: Any) -> None:
        """Check that ``item`` is an event with valid fields, because the page relies on that and the file may come from
        anyone."""
        good = isinstance(item, dict) and type(item.get("t")) in (int, float) and isinstance(item.get("e"), str)
        if not good or not 0 <= item["t"] < _LATEST:
            raise BadEvent(f"{self._trace.name}: line {self.lines} is not an event")
        for name in FIELDS.get(item["e"], ()):
            if name not in item or not isinstance(item[name], _TYPES.get(name, object)):
                raise BadEvent(f"{self._trace.name}: line {self.lines}: a {item['e']} event without a valid {name!r}")
            if name in ("server", "to", "from") and item[name] not in self._participants:
                raise BadEvent(f"{self._trace.name}: line {self.lines}: there is no server {item[name]}")


def _too_large(trace: Path, seen: str, most: str) -> str:
    return (
        f"{trace.name} is too large for a page: expected at most {most}, it has {seen}; "
        f"look at a part: raftlab view {shlex.quote(str(trace))} --since 0 --until 10"
    )


# --- the page itself, and parts that another page may use ---


def file(package: str, name: str) -> str:
    """The text of a file of a package."""
    return (resources.files(package) / name).read_text(encoding="utf-8")


def script(files: Iterable[tuple[str, str]]) -> str:
    """Modules joined into one script. Each is given as a package and a file name, after the modules that it imports. Each
    becomes a function that returns its exports, so that no imports are needed."""
    return "\n".join(_as_function(name, file(package, name)) for package, name in files)


def policy(code: str, style: str, more: str = "") -> str:
    """A content security policy that allows only this script, this style, and what ``more`` allows."""
    allowed = f"default-src 'none'; script-src '{_digest(code)}'; style-src '{_digest(style)}'"
    return f"{allowed}; {more}" if more else allowed


def filled(html: str, holes: dict[str, str]) -> bytes:
    """The page with its placeholders ``policy``, ``style``, ``script`` and ``data`` filled."""
    # All placeholders are replaced in one pass, so that text in the data that looks like a placeholder is kept.
    return re.sub(r"<!-- (policy|style|script|data) -->", lambda hole: holes[hole[1]], html).encode()


def _as_function(name: str, text: str) -> str:
    text = re.sub(r"^import .*?;\n", "", text, flags=re.MULTILINE | re.DOTALL)
    exports = ", ".join(re.findall(r"^export (?:const|function|class) (\w+)", text, re.MULTILINE))
    text = re.sub(r"^export ", "", text, flags=re.MULTILINE)
    return f"// --- {name}\nconst {{ {exports} }} = (() => {{\n{text}\nreturn {{ {exports} }};\n}})();"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
