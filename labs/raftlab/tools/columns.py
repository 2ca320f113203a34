"""Events in columns, one for each server, as `raftlab replay --columns` prints them."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from raftlab.harness.trace import Event, line
from raftlab.participants import name_of

_TIME_WIDTH = 9  # "  12.345 "
_NARROWEST = 18  # minimum characters per column; with many servers, lines are longer than the terminal is wide


def in_columns(events: Iterable[Event], width: int) -> Iterator[str]:
    """The events, each in the column of the server that does or receives something. Events of the network and of the
    test span all columns.

    Args:
        events: The events in order of time.
        width: The width of the terminal, in characters.

    Yields:
        A line with the names of the servers, then the lines of each event.
    """
    events = list(events)
    servers = sorted({event.server for event in events if hasattr(event, "server")})
    if not servers:
        yield from map(line, events)
        return
    column = max(_NARROWEST, (width - _TIME_WIDTH) // len(servers))
    yield (" " * _TIME_WIDTH + "".join(f"{name_of(server):<{column}}" for server in servers)).rstrip()
    for event in events:
        text = line(event)
        time, sentence = text[: _TIME_WIDTH - 1], text[_TIME_WIDTH:]
        server = getattr(event, "server", None)
        if server is None:
            yield text
            continue
        indent = column * servers.index(server)
        short = sentence.removeprefix(name_of(server)).removeprefix("'s").lstrip(" .")
        for number, part in enumerate(textwrap.wrap(short, column - 1) or [""]):
            yield f"{time if number == 0 else '':<{_TIME_WIDTH}}{'':<{indent}}{part}"
