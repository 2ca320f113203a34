"""Output of student code: ``log``, ``print`` and ``logging`` become lines of the trace, in both worlds."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from typing import Any

# Characters that a host process may print. The rest is dropped.
MAX_OUTPUT = 20_000_000

# Maximum length of an unfinished line, in characters. Its oldest characters are dropped, so it cannot grow without
# bound.
_MAX_UNFINISHED_LINE = 100_000

Writer = Callable[[str, str], None]  # topic, text


class Sink:
    """Passes lines on to ``write``, up to :data:`MAX_OUTPUT` characters in all. ``write`` gets only text that can be encoded
    in UTF-8."""

    def __init__(self, write: Writer) -> None:
        self._write = write
        self._printed = 0

    def log(self, topic: str, text: str) -> None:
        if self._printed > MAX_OUTPUT:
            return
        self._printed += len(text) + len(topic)
        if self._printed > MAX_OUTPUT:
            text = "(too much output: the rest is dropped)"
        self._write(printable(topic)[:40], printable(text))


class Stdout(io.TextIOBase):
    """Replaces ``sys.stdout`` or ``sys.stderr``, and passes each complete line to ``log``.

    ``current_writer`` returns a number that identifies who is writing, because a line must not mix the text of two
    writers who print at the same time."""

    encoding = "utf-8"
    errors = "backslashreplace"
    line_buffering = True

    def __init__(self, log: Writer, topic: str, current_writer: Callable[[], int]) -> None:
        self._log = log
        self._topic = topic
        self._current_writer = current_writer
        self._unfinished: dict[int, str] = {}

    @property
    def name(self) -> str:
        return "<stdout>" if self._topic == "print" else f"<{self._topic}>"

    @property
    def buffer(self) -> _Bytes:
        """For ``sys.stdout.buffer.write(b"...")``, which writes to the same lines."""
        return _Bytes(self)

    def reconfigure(self, **settings: object) -> None:
        """Accept and ignore the arguments of ``io.TextIOWrapper``. They would change nothing, because every line goes
        to the trace at once."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        key = self._current_writer()
        *lines, rest = (self._unfinished.pop(key, "") + text).split("\n")
        if rest:
            self._unfinished[key] = rest[-_MAX_UNFINISHED_LINE:]
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
    """Make ``logging`` (the module or its virtual-time copy) write to ``log``, with the level as the topic."""
    logging.root.handlers[:] = [_handler_class(logging)(log)]
    logging.root.setLevel(logging.DEBUG)


@functools.cache
def _handler_class(logging: Any) -> Any:
    """The class of the handlers that write to the trace. A process makes it once, before it forks, which saves each run
    a millisecond."""

    class ToTrace(logging.Handler):  # type: ignore[misc]
        def __init__(self, log: Writer) -> None:
            super().__init__()
            self._log = log

        def emit(self, record: Any) -> None:
            self._log(record.levelname.lower(), self.format(record))

    return ToTrace


def printable(text: str) -> str:
    """``text`` with lone surrogates, which UTF-8 cannot encode, written as ``\\udc80``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
