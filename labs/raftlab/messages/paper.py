"""The messages of the paper and of the clients of lab 3: the fields and types of each RPC, and how the judge decodes and
checks the messages that a host sends.

The judge decodes a message before any rule or test reads it, and keeps only certain fields: those of the paper, those
that describe a configuration in an entry or a snapshot (lab 2E), and the flag of RequestVote for a transfer (lab 2G).
Only the host decodes fields that a student added; :func:`decode_reply` says what the judge takes from them.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from raftlab.messages import message_types, type_annotations
from raftlab.messages.message_types import Suspect

_VOTE: tuple[dict[str, type], dict[str, type]] = (
    {"term": int, "candidate_id": int, "last_log_index": int, "last_log_term": int},
    {"term": int, "vote_granted": bool},
)
# For each RPC of Raft, the paper's fields of the arguments and of the reply, with the types that the tests use.
RAFT_FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "request_vote": _VOTE,
    "pre_vote": _VOTE,
    "append_entries": (
        {
            "term": int, "leader_id": int, "prev_log_index": int, "prev_log_term": int, "entries": list,
            "leader_commit": int,
        },
        {"term": int, "success": bool},
    ),
    "install_snapshot": (
        {
            "term": int, "leader_id": int, "last_included_index": int, "last_included_term": int,
            "offset": int, "data": bytes, "done": bool,
        },
        {"term": int},
    ),
    "timeout_now": ({"term": int, "leader_id": int}, {"term": int}),
    "read_index_of": ({"term": int, "server_id": int}, {"term": int, "index": int}),
    "lease_of": ({"term": int, "server_id": int}, {"term": int, "granted": bool}),
}  # fmt: skip

# The field of RequestVote that says whether the leader told the candidate to start an election (lab 2G). A request without
# this field counts as False.
TRANSFER_FLAG = "leadership_transfer"
# The RPC that clients call (handouts/lab-3a-details.md). In a reply, `value` may also be the number of a
# session, or say whether a swap has changed the key's value.
SERVICE_FIELDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "client_request": (
        {
            "client_id": int, "serial": int, "op": str, "key": str, "value": str | None, "expected": str | None,
            "read": str, "seen": int,
        },
        {"status": str, "value": str | int | bool | None, "leader": int | None, "index": int},
    ),
}  # fmt: skip
FIELDS = RAFT_FIELDS | SERVICE_FIELDS

# The maximum length of a message that a server may send, in bytes. The length is checked before the message is decoded,
# because one byte can become an object of 56 bytes. The longest messages occur in lab 2B's test with large commands; even
# all commands of that test together stay below this limit.
MAX_BYTES = 1_000_000
# The largest term or index that a server may send. No run comes near it. If a test adds something to such a
# number, the sum still fits in a message.
MAX_INT = 2**62

_Int = Annotated[int, msgspec.Meta(ge=-MAX_INT, le=MAX_INT)]


class Entry(TypedDict):
    """The fields of a log entry that the judge reads."""

    term: _Int
    command: Any
    kind: NotRequired[Any]
    members: NotRequired[Any]
    old_members: NotRequired[Any]


class BadMessage(ValueError):
    """A message is too long, or lacks a field of the paper. The text is the rest of a sentence about the message."""


def _decoder(fields: dict[str, type]) -> msgspec.msgpack.Decoder[dict[str, Any]]:
    narrower: dict[type, Any] = {list: list[Entry], int: _Int}
    types: dict[str, Any] = {name: narrower.get(kind, kind) for name, kind in fields.items()}
    if "data" in fields:
        types |= {"members": NotRequired[Any], "old_members": NotRequired[Any]}
    if "candidate_id" in fields:
        types[TRANSFER_FLAG] = NotRequired[Any]
    return msgspec.msgpack.Decoder(TypedDict("Fields", types), ext_hook=_no_extension)  # type: ignore[operator]


def _no_extension(code: int, data: memoryview) -> Any:
    raise msgspec.ValidationError(f"MessagePack extension {code}")


@dataclasses.dataclass(frozen=True, slots=True)
class _Decoders:
    request: msgspec.msgpack.Decoder[dict[str, Any]]
    reply: msgspec.msgpack.Decoder[dict[str, Any]]


_DECODERS = {method: _Decoders(_decoder(args), _decoder(reply)) for method, (args, reply) in FIELDS.items()}


def decode_request(method: str, data: bytes) -> dict[str, Any]:
    """The paper's fields of a request. ``data`` may be hostile: this raises only :class:`BadMessage`."""
    decoders = _DECODERS.get(method)
    if decoders is None:
        raise BadMessage("is not an RPC of the labs")
    fields = _decode(decoders.request, data)
    entries = fields.get("entries")
    if entries:
        for entry in entries:
            for value in entry.values():
                if type(value) not in type_annotations.SCALARS:
                    _check_depth(entry)
                    break
    return fields


def decode_reply(method: str, data: bytes) -> dict[str, Any]:
    """The paper's fields of a reply. ``data`` may be hostile: this raises only :class:`BadMessage`.

    A success of AppendEntries also gets the field ``claimed`` if it has an integer in a field of the student's own: the
    highest one. It may be the index of the last entry that the server has (see commit_bound.py of the referee).
    """
    reply = _decode(_DECODERS[method].reply, data)
    if method == "append_entries" and reply.get("success") and (claimed := _highest_own_integer(data)):
        reply["claimed"] = claimed
    return reply


def _highest_own_integer(data: bytes) -> int:
    try:
        fields = msgspec.msgpack.decode(data)
    except (RecursionError, TypeError, ValueError, msgspec.DecodeError):
        return 0
    own = fields.items() if isinstance(fields, dict) else ()
    return max((value for name, value in own if name not in ("term", "success") and type(value) is int), default=0)


def _decode(decoder: msgspec.msgpack.Decoder[dict[str, Any]], data: bytes) -> dict[str, Any]:
    if len(data) > MAX_BYTES:
        raise BadMessage(f"has {len(data):,} bytes; a message has at most {MAX_BYTES:,}")
    try:
        return decoder.decode(data)
    except RecursionError:
        raise BadMessage("is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise BadMessage(f"does not have the required fields: {_first_line(exc)}") from None


def _check_depth(entry: dict[str, Any]) -> None:
    try:
        message_types.check_json(entry, -2, (str, int))
    except (Suspect, RecursionError) as exc:
        raise BadMessage(f"has an entry that is not JSON-like: {exc}") from None


def _first_line(exc: Exception) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0].replace("`", "")[:200]
