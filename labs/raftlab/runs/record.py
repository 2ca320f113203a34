"""The record of one run of one test: its outcome, its failure and its numbers.

Records are written as JSON, one per line, so a reader can use all records that arrived even if the writer was killed. When
the writer has finished, it adds the line ``{"end": n}``, where n is the number of records. If this line is missing,
records may be missing, too.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftlab.explain.failure import Failure
from raftlab.explain.races import Finding

SCHEMA = 1
Outcome = Literal["passed", "failed", "error"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=False):
    """The record of one run.

    Attributes:
        outcome: ``"error"`` means that the run could not be judged, because raftlab or the machine failed. This never
            lowers a mark.
        schedule: How threads were preempted (sim), see :mod:`raftlab.schedules`.
        servers: The number of servers in the cluster.
        scripted: The number of those servers that the test played.
        lab_s: The duration of the run in the lab's time (virtual in sim), in seconds.
        wall_s: The duration by the wall clock, in seconds.
        cpu_s: The CPU time of the judge and the hosts, in seconds.
        late_s: In rpyc, the longest delay with which the judge woke up, in seconds. A long delay means that the machine
            was too busy.
        rpcs: The number of RPCs that were sent.
        rpc_bytes: The bytes of requests and replies.
        entries: The number of log entries on which the cluster agreed.
        findings: What the race detector found, if it was on.
        trace_hash: Equal for two runs if and only if their events are equal.
        trace: The file with the trace, if it was kept.
        replay: The command that repeats the run.
    """

    schema: int = SCHEMA
    test: str
    lab: str
    title: str
    network: str
    seed: int
    points: int
    outcome: Outcome
    schedule: str = ""
    failure: Failure | None = None
    servers: int = 0
    scripted: int = 0
    lab_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    late_s: float = 0.0
    rpcs: int = 0
    rpc_bytes: int = 0
    entries: int = 0
    advice: list[str] = []
    findings: list[Finding] = []
    trace_hash: str = ""
    trace: str = ""
    replay: str = ""


class End(msgspec.Struct):
    """The last line of a complete stream of records."""

    end: int


_encode = msgspec.json.Encoder().encode
_decode_record = msgspec.json.Decoder(Record).decode
_decode_end = msgspec.json.Decoder(End).decode


def to_line(item: Record | End) -> bytes:
    return _encode(item) + b"\n"


def from_line(line: bytes) -> Record | End:
    """Read one line. Raises ``msgspec.DecodeError`` (or its subclass ``ValidationError``) if the line is neither a
    record nor an end."""
    try:
        return _decode_record(line)
    except msgspec.ValidationError:
        return _decode_end(line)
