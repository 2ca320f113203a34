"""The record of one run of one test: its outcome, its failure and its numbers.

Records are written as JSON, one per line, so that a reader can use what arrived even if the writer was killed in the middle.
A writer that finished ends with the line ``{"end": n}``, where n is the number of records; without it, runs are missing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftlab.explain.failure import Failure

SCHEMA = 1
Outcome = Literal["passed", "failed", "error"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One run.

    Attributes:
        outcome: ``"error"`` means that the run could not be judged, because of us or the machine. It never lowers a mark.
        servers: how many servers the cluster had.
        lab_s: how long the run took in the lab's time, in seconds (virtual in sim).
        wall_s: how long it took by the wall clock, in seconds.
        cpu_s: processor time of the judge and the hosts, in seconds.
        rpcs: how many RPCs were sent.
        rpc_bytes: bytes of requests and replies.
        entries: how many log entries the cluster agreed on.
        trace_hash: equal if and only if two runs have equal events.
        trace: the file with the trace, if it was kept.
        replay: the command that makes the run again.
    """

    schema: int = SCHEMA
    test: str
    lab: str
    title: str
    network: str
    seed: int
    points: int
    outcome: Outcome
    preempt: bool = True
    failure: Failure | None = None
    servers: int = 0
    lab_s: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    rpcs: int = 0
    rpc_bytes: int = 0
    entries: int = 0
    advice: list[str] = []
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
    """Read one line. Raises ``msgspec.DecodeError`` (or its subclass ``ValidationError``) if it is neither."""
    try:
        return _decode_record(line)
    except msgspec.ValidationError:
        return _decode_end(line)
