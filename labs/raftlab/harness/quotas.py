"""The quotas of one run: limits on what a submission sends to the judge, and on what the judge keeps of it.

The host has limits of its own, but student code runs in the host's process and can change them. The quotas do not depend on
the host. Each quota is at least twenty times what the busiest Raft in ``tests/correct`` needs in any test.
"""

from __future__ import annotations

from collections.abc import Callable

from raftlab.explain.causes import FAULTS
from raftlab.explain.failure import Failure, LabFailure, shortened
from raftlab.messages import protocol
from raftlab.participants import name_of

# Limits for each server within one second of the lab's time. They are needed because the trace keeps every message.
_PER_SECOND = {"request": 10_000, "answer": 20_000, "entry": 250_000}
_BYTES_PER_SECOND = 64 * 1024 * 1024
_SAVES_PER_SECOND = 20_000
# Limits for a whole run.
_BYTES_KEPT = 100_000_000
_EVENT_BYTES = 400  # what the judge keeps of a message besides its payload, in the trace and in the referee's records
_LINE_BYTES = 20_000_000
_ADVICE = 20
# The maximum size of state and snapshot together, and of the result of a call, in bytes.
_SAVED_BYTES = 8_000_000
_RESULT_BYTES = 100_000
# The maximum lengths of the texts of a fault, in characters.
_KIND, _TEXT, _WHERE, _DETAIL = 40, 1000, 200, 8000


class Quotas:
    """Counts of what the servers of one run have sent so far. Its methods raise ``LabFailure`` when a quota is used up.

    Args:
        most_frequent: called with a server and a time in seconds; describes the message that the server has sent most often
            since that time.
    """

    def __init__(self, most_frequent: Callable[[int, float], str] = lambda server, since: "") -> None:
        self._most_frequent = most_frequent
        # By server and kind: the start of the second, the number of messages, the number of bytes.
        self._bursts: dict[tuple[int, str], tuple[float, int, int]] = {}
        self._kept = 0
        self._lines = 0
        self._advice = 0

    def message(self, server: int, what: str, size: int, when: float) -> None:
        """Count a message of ``server``. ``what`` is "request", "answer" or "entry"; each kind has its own count."""
        # The code of _burst and kept is repeated here for speed, because this runs for every message.
        since, number, sent = self._bursts.get((server, what), (when, 0, 0))
        if when > since + 1.0:
            since, number, sent = when, 0, 0
        self._bursts[server, what] = since, number + 1, sent + size
        if number > _PER_SECOND[what] or sent > _BYTES_PER_SECOND:
            seen = f"within a second it sent {number:,} ({sent:,} bytes)"
            text = f"expected {name_of(server)} to send a few messages, but {seen}"
            most = self._most_frequent(server, self._bursts[server, what][0]) if what == "request" else ""
            raise _flood(f"{text}: {most}" if most else text)
        self._kept += size + _EVENT_BYTES
        if self._kept > _BYTES_KEPT:
            self.kept(0)

    def save(self, server: int, size: int, when: float) -> None:
        """Count a save or an append of ``server``, after which state and snapshot together have ``size`` bytes."""
        if size > _SAVED_BYTES:
            most = f"at most {_SAVED_BYTES:,} bytes"
            text = f"expected {name_of(server)} to store {most}, but state and snapshot have {size:,}"
            raise _flood(text)
        number, _ = self._burst(server, "saves", 0, when)
        if number > _SAVES_PER_SECOND:
            raise _flood(
                f"expected {name_of(server)} to save a few times, but within a second it saved {number:,} times"
            )
        self.kept(0)

    def kept(self, size: int) -> None:
        """Count something of ``size`` bytes that the judge keeps until the end of the run, such as a service's snapshot."""
        self._kept += size + _EVENT_BYTES
        if self._kept > _BYTES_KEPT:
            raise _flood(f"expected a run of at most {_BYTES_KEPT:,} bytes of messages, but it has more")

    def result(self, server: int, method: str, payload: bytes) -> None:
        """Count the result of a call by the harness."""
        if len(payload) > _RESULT_BYTES:
            text = f"expected {name_of(server)}.{method}() to return a short value, but it has {len(payload):,} bytes"
            raise LabFailure(Failure("bad-result", text))

    def line(self, line: protocol.LogLine) -> str | None:
        """The text that goes into the trace for a logged line; ``None`` if the quota of logged text is used up."""
        if self._lines > _LINE_BYTES:
            return None
        self._lines += len(line.text) + len(line.topic) + 50
        return line.text if self._lines <= _LINE_BYTES else "(too much output: the rest is dropped)"

    def advice(self) -> bool:
        """Count a piece of advice. Returns whether it may be kept."""
        self._advice += 1
        return self._advice <= _ADVICE

    def _burst(self, server: int, what: str, size: int, when: float) -> tuple[int, int]:
        """Count a message. Returns the number of messages and of bytes that ``server`` had already sent in this second."""
        since, number, sent = self._bursts.get((server, what), (when, 0, 0))
        if when > since + 1.0:
            since, number, sent = when, 0, 0
        self._bursts[server, what] = since, number + 1, sent + size
        return number, sent


def shorten(fault: protocol.Fault | protocol.Advice) -> None:
    """Shorten the texts of ``fault`` to the maximum lengths."""
    if isinstance(fault, protocol.Fault) and fault.kind not in FAULTS:
        fault.kind = "exception"
    fault.kind, fault.where = shortened(fault.kind, _KIND), shortened(" ".join(fault.where.splitlines()), _WHERE)
    fault.text = shortened(" ".join(fault.text.splitlines()), _TEXT)
    if isinstance(fault, protocol.Fault):
        fault.detail = fault.detail[-_DETAIL:]


def _flood(text: str) -> LabFailure:
    return LabFailure(Failure("flood", text))
