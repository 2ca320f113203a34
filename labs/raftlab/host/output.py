"""What student code writes: ``log``, ``print`` and ``logging`` become lines of the trace. Both worlds use this."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

# What a run may print before the rest is dropped, in characters.
MAX_OUTPUT = 20_000_000

# A line that never ends must not grow for ever: only its last so many characters are kept.
_MAX_LINE = 100_000

Writer = Callable[[str, str], None]  # topic, text


class Sink:
    """Takes lines up to a bound. ``write`` sends one on; it is given a topic and a text that can be encoded."""

    def __init__(self, write: Writer) -> None:
        self._write = write
        self._printed = 0

    def log(self, topic: str, text: str) -> None:
        if self._printed > MAX_OUTPUT:
            return
        self._printed += len(text) + len(topic)
        if self._printed > MAX_OUTPUT:
            text = "(more output than a run may print: the rest is dropped)"
        self._write(printable(topic)[:40], printable(text))


class Stdout(io.TextIOBase):
    """Stands where ``print`` writes. ``writer`` says whose line is being written, as a dictionary's key, or
    ``None`` when it is nobody's: what two of them print at the same time must not be mixed within a line."""

    def __init__(self, log: Writer, topic: str, writer: Callable[[], int | None]) -> None:
        self._log = log
        self._topic = topic
        self._writer = writer
        self._partial: dict[int, str] = {}

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True

    @property
    def name(self) -> str:
        return "<stdout>" if self._topic == "print" else f"<{self._topic}>"

    @property
    def buffer(self) -> _Bytes:
        """Where ``sys.stdout.buffer.write(b"...")`` goes: the same lines."""
        return _Bytes(self)

    def reconfigure(self, **settings: object) -> None:
        """Accept and ignore what ``io.TextIOWrapper`` takes: every line goes to the trace at once anyway."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        key = self._writer()
        if key is None:
            return len(text)
        *lines, rest = (self._partial.pop(key, "") + text).split("\n")
        if rest:
            self._partial[key] = rest[-_MAX_LINE:]
        for line in lines:
            self._log(self._topic, line)
        return len(text)


class _Bytes(io.RawIOBase):
    """The binary side of :class:`Stdout`."""

    def __init__(self, text: Stdout) -> None:
        self._text = text

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._text.write(raw.decode("utf-8", "backslashreplace"))
        return len(raw)


def route_logging(logging: Any, log: Writer) -> None:
    """Make ``logging`` (the module, or its virtual-time copy) write to ``log``; the level is the topic."""

    class ToTrace(logging.Handler):  # type: ignore[misc]
        def emit(self, record: Any) -> None:
            log(record.levelname.lower(), self.format(record))

    logging.root.handlers[:] = [ToTrace()]
    logging.root.setLevel(logging.DEBUG)


def printable(text: str) -> str:
    """``text`` without what UTF-8 cannot carry (halves of surrogate pairs), which it shows as ``\\udc80``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
