"""The record of one run of one test: what the suites' runner hands to whoever asked for it.

Records are JSON, one a line, so that a reader can use what arrived when the writer was killed in the middle. A
runner that finished writes ``{"end": n}`` with the number of records as its last line; a reader that does not see it
knows that runs are missing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from raftlab.explain.failure import Failure

SCHEMA = 1
Outcome = Literal["passed", "failed", "error"]


class Record(msgspec.Struct, kw_only=True, omit_defaults=False):
    """One run. ``outcome`` is ``"error"`` when the run could not be judged (our fault or the machine's): never a
    mark. ``lab_s`` is the length of the run in the lab's own time (virtual in sim), ``wall_s`` and ``cpu_s`` what it
    cost here; ``cpu_s`` covers judge and hosts. ``entries`` counts log entries the cluster agreed on."""

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
    """Read one line back. Raises ``msgspec.DecodeError`` (or its ``ValidationError``) when it is not one of ours."""
    try:
        return _decode_record(line)
    except msgspec.ValidationError:
        return _decode_end(line)
