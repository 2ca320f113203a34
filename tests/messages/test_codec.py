"""Tests of the encoding of messages: what can travel by value, how other values are refused, and that equal messages have
equal bytes."""

from __future__ import annotations

import enum
import subprocess
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, NamedTuple, NewType

import msgspec
import pytest

from raftlab.api import ApplyMsg
from raftlab.messages import codec as wire
from raftlab.messages.message_types import AnnotationFault

Term = NewType("Term", int)


class Mark(NamedTuple):
    index: int
    note: Any = None


@dataclass(frozen=True, slots=True)
class LogEntry:
    term: Term
    command: Any = None


@dataclass(slots=True)
class RequestVoteArgs:
    term: int
    candidate_id: int = 0
    extra: Any = None


@dataclass
class RequestVoteReply:
    term: int
    vote_granted: bool = False


@dataclass
class AppendEntriesArgs:
    term: int
    entries: list[LogEntry] = field(default_factory=list)
    members: frozenset[int] | None = None
    names: frozenset[str] = frozenset()
    mark: Mark | None = None
    pairs: tuple[tuple[int, Any], ...] = ()
    more: dict[str, LogEntry] = field(default_factory=dict)
    either: LogEntry | int | None = None
    child: AppendEntriesArgs | None = None


@dataclass
class AppendEntriesReply:
    term: int
    next_index: dict[int, int] = field(default_factory=dict)


class Raft:
    def request_vote(self, args: RequestVoteArgs) -> RequestVoteReply | None: ...
    def append_entries(self, args: AppendEntriesArgs) -> AppendEntriesReply: ...


CODEC = wire.Codec.of(Raft)


def test_everything_is_prepared_before_the_first_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the real network many threads send their first messages at once. When encoders were created on first use, one
    thread could see another's half-built encoder, and a correct Raft failed."""
    codec = wire.Codec.of(Raft)
    monkeypatch.delattr(wire, "_writer")
    monkeypatch.delattr(wire, "_reader")
    args = RequestVoteArgs(1)
    assert codec.decode_args("request_vote", codec.encode_args("request_vote", args)) == args
    reply = AppendEntriesReply(1)
    assert codec.decode_reply("append_entries", codec.encode_reply("append_entries", reply)) == reply


class Op:
    pass


@dataclass
class Wrapped:
    op: str


class Text(str):
    pass


class Color(enum.Enum):
    RED = 1


class Name(str, enum.Enum):  # noqa: UP042
    RED = "red"


def vote(extra: Any) -> bytes:
    return CODEC.encode_args("request_vote", RequestVoteArgs(1, 2, extra))


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


# --- what can travel by value ---


@pytest.mark.parametrize(
    "message",
    [
        AppendEntriesArgs(1),
        AppendEntriesArgs(3, [LogEntry(Term(1), {"op": "put", "v": [1, None, 2.5, b"x", True]}), LogEntry(Term(2))]),
        AppendEntriesArgs(3, members=frozenset({5, 1}), names=frozenset({"b", "a"})),
        AppendEntriesArgs(3, mark=Mark(1, {"a": 1}), pairs=((1, "x"), (2, [3])), more={"k": LogEntry(Term(9), "c")}),
        AppendEntriesArgs(3, either=LogEntry(Term(1), [1])),
        AppendEntriesArgs(3, either=4, child=AppendEntriesArgs(4, [LogEntry(Term(1), "deep")])),
    ],
)
def test_a_message_arrives_as_it_left(message: AppendEntriesArgs) -> None:
    data = CODEC.encode_args("append_entries", message)
    assert CODEC.decode_args("append_entries", data) == message
    assert wire.decode_plain(data)["term"] == message.term


def test_a_message_is_a_map_of_field_names_for_the_judge() -> None:
    data = CODEC.encode_args("append_entries", AppendEntriesArgs(3, [LogEntry(Term(1), "x")], frozenset({2, 1})))
    plain = wire.decode_plain(data)
    assert plain["entries"] == [{"term": 1, "command": "x"}]
    assert plain["members"] == [1, 2]


def test_a_scripted_server_may_leave_out_fields_with_defaults() -> None:
    data = msgspec.msgpack.encode({"term": 7, "of_a_later_version": 1})
    assert CODEC.decode_args("request_vote", data) == RequestVoteArgs(7)


def test_int_keys_can_travel_where_they_are_declared() -> None:
    reply = AppendEntriesReply(1, {3: 4, 1: 2})
    data = CODEC.encode_reply("append_entries", reply)
    assert CODEC.decode_reply("append_entries", data) == reply
    assert wire.decode_plain(data)["next_index"] == {3: 4, 1: 2}


@pytest.mark.parametrize("value", [Text("t"), Name.RED, 2**64 - 1, -(2**63), OrderedDict(b=1, a=2), nested(100)])
def test_values_that_equal_plain_ones_can_travel(value: Any) -> None:
    assert CODEC.decode_args("request_vote", vote(value)).extra == value


def test_a_subclass_of_the_declared_message_can_travel() -> None:
    @dataclass
    class More(RequestVoteReply):
        debug: int = 1

    data = CODEC.encode_reply("request_vote", More(1, True))
    assert CODEC.decode_reply("request_vote", data) == RequestVoteReply(1, True)


def test_equal_messages_give_equal_bytes_under_any_hash_seed() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import test_codec as t\n"
        "names = frozenset(str(i) for i in range(50))\n"
        "print(t.CODEC.encode_args('append_entries', t.AppendEntriesArgs(1, names=names)).hex())"
    )
    folder = __file__.rpartition("/")[0]
    seen = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, folder]
        env = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PYTHONDONTWRITEBYTECODE": "1"}
        seen.add(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(seen) == 1


def test_equal_dicts_give_equal_bytes_in_any_order() -> None:
    assert vote({"a": 1, "b": 2}) == vote({"b": 2, "a": 1})


# --- what is refused, and with which message ---

USE = "use numbers, strings, bytes, and lists or dicts of these"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({1}, f"RequestVoteArgs.extra: a set cannot travel by value; {USE}"),
        (threading.Lock(), f"RequestVoteArgs.extra: a lock cannot travel by value; {USE}"),
        (threading.RLock(), f"RequestVoteArgs.extra: a lock cannot travel by value; {USE}"),
        (threading.Thread(), f"RequestVoteArgs.extra: a Thread cannot travel by value; {USE}"),
        (len, f"RequestVoteArgs.extra: a function cannot travel by value; {USE}"),
        (nested, f"RequestVoteArgs.extra: a function cannot travel by value; {USE}"),
        (Op, f"RequestVoteArgs.extra: a class (Op) cannot travel by value; {USE}"),
        (Op(), f"RequestVoteArgs.extra: an Op cannot travel by value; {USE}"),
        (Color.RED, f"RequestVoteArgs.extra: a Color cannot travel by value; {USE}"),
        (bytearray(), f"RequestVoteArgs.extra: a bytearray cannot travel by value; {USE}"),
        ((1, 2), "RequestVoteArgs.extra: a tuple would arrive as a list here; send a list"),
        ([{"a": (1,)}], "RequestVoteArgs.extra[0]['a']: a tuple would arrive as a list here; send a list"),
        (
            Wrapped("x"),
            "RequestVoteArgs.extra: the Wrapped would arrive as a dict here; annotate the field as Wrapped",
        ),
        (2**64, "RequestVoteArgs.extra: this int does not fit in 64 bits"),
        ([0, -(2**63) - 1], "RequestVoteArgs.extra[1]: this int does not fit in 64 bits"),
        ({1: 2}, "RequestVoteArgs.extra: the dict key 1 is an int; only string keys can travel here"),
        ("\ud800", "RequestVoteArgs.extra: '\\ud800' is not valid Unicode text; send bytes instead"),
        (
            {"\ud800": 1},
            "RequestVoteArgs.extra: the dict key: '\\ud800' is not valid Unicode text; send bytes instead",
        ),
    ],
)
def test_a_field_that_cannot_travel_is_named(value: Any, text: str) -> None:
    with pytest.raises(wire.NotByValue) as info:
        vote(value)
    assert str(info.value) == text


def test_deep_and_circular_values_are_refused_without_recursion_errors() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for value in (circle, nested(101), nested(50_000), {"a": circle}):
        with pytest.raises(wire.NotByValue, match=r"nested more than 100 deep; does it contain itself\?$"):
            vote(value)
    chain = AppendEntriesArgs(0)
    chain.child = chain
    with pytest.raises(wire.NotByValue, match="nested more than 100 deep"):
        CODEC.encode_args("append_entries", chain)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (AppendEntriesArgs(1, None), "AppendEntriesArgs.entries must be a list[LogEntry], got None"),  # type: ignore[arg-type]
        (AppendEntriesArgs(1, [None]), "AppendEntriesArgs.entries[0] must be a LogEntry, got None"),  # type: ignore[list-item]
        (
            AppendEntriesArgs(1, [LogEntry(Term(1)), LogEntry(Term(2), {3})]),
            f"AppendEntriesArgs.entries[1].command: a set cannot travel by value; {USE}",
        ),
        (
            AppendEntriesArgs(1, more={"k": LogEntry(Term(2), (3,))}),
            "AppendEntriesArgs.more['k'].command: a tuple would arrive as a list here; send a list",
        ),
        (
            AppendEntriesArgs(1, pairs=((1, "x"), (2, {3}))),
            f"AppendEntriesArgs.pairs[1][1]: a set cannot travel by value; {USE}",
        ),
        (
            AppendEntriesArgs(1, mark=Mark(1, {3})),
            f"AppendEntriesArgs.mark[1]: a set cannot travel by value; {USE}",
        ),
        (
            AppendEntriesArgs(1, members=frozenset({1, "a"})),  # type: ignore[arg-type]
            "AppendEntriesArgs.members: a set with values of different types cannot be put in order, so it cannot be sent; "
            "use one type",
        ),
        (
            AppendEntriesArgs(threading.Lock()),  # type: ignore[arg-type]
            f"AppendEntriesArgs.term: a lock cannot travel by value; {USE}",
        ),
    ],
)
def test_a_wrong_value_deep_in_a_message_is_named(message: AppendEntriesArgs, text: str) -> None:
    with pytest.raises(wire.NotByValue) as info:
        CODEC.encode_args("append_entries", message)
    assert str(info.value) == text


def test_a_field_never_set_is_named() -> None:
    message = RequestVoteArgs(1)
    del message.extra
    with pytest.raises(wire.NotByValue) as info:
        CODEC.encode_args("request_vote", message)
    assert str(info.value) == "RequestVoteArgs.extra was never set"


def test_a_value_that_is_not_a_message_is_refused() -> None:
    with pytest.raises(wire.NotByValue) as info:
        CODEC.encode_args("request_vote", {"term": 1})
    assert str(info.value) == 'peers[i].call("request_vote", args) takes RequestVoteArgs, got dict'
    with pytest.raises(wire.NotByValue) as info:
        CODEC.encode_reply("append_entries", None)
    assert str(info.value) == "append_entries must return AppendEntriesReply, returned None"
    with pytest.raises(wire.UnknownMethod) as unknown:
        CODEC.encode_args("request_votes", None)
    assert str(unknown.value) == (
        "there is no RPC handler 'request_votes'; your code has: request_vote, append_entries"
    )


@pytest.mark.parametrize(
    ("plain", "text"),
    [
        ({"term": "x"}, "AppendEntriesArgs.term: expected int, got str"),
        ({"term": True}, "AppendEntriesArgs.term: expected int, got bool"),
        (
            {"term": 1, "entries": [{"term": None}]},
            "AppendEntriesArgs.entries[0].term: expected int, got None",
        ),
        ({"term": 1, "entries": [{}]}, "AppendEntriesArgs.entries[0]: the field term is missing"),
        ([], "AppendEntriesArgs: expected object, got array"),
    ],
)
def test_a_message_of_the_wrong_shape_is_named(plain: Any, text: str) -> None:
    with pytest.raises(wire.BadMessage) as info:
        CODEC.decode_args("append_entries", msgspec.msgpack.encode(plain))
    assert str(info.value) == text


HOSTILE = [
    b"",
    b"\xc1",
    b"\x81\xa1\xff\x01",  # text that is not UTF-8
    b"\x81\xa1a\xd6\xff\0\0\0\0",  # a timestamp
    b"\x81\xa1a\xc7\x01\x05a",  # an extension
    b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01",
    b"\x81\xa1a" + b"\x91" * 300 + b"\x01",
    b"\x81\xa1a\x81\x91\x01\x01",  # a list as a key
    b"\xdd\xff\xff\xff\xff",
]


@pytest.mark.parametrize("data", HOSTILE)
def test_hostile_bytes_end_in_decode_errors_only(data: bytes) -> None:
    for decode in (wire.decode_plain, wire.decode_value, wire.decode_apply):
        with pytest.raises(msgspec.DecodeError):
            decode(data)
    with pytest.raises(wire.BadMessage):
        CODEC.decode_args("append_entries", data)


def test_an_unfinished_handler_faults_only_when_used() -> None:
    class Sketch(Raft):
        def install_snapshot(self, args):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN201, RUF100
            pass

    codec = wire.Codec.of(Sketch)
    assert codec.decode_args("request_vote", vote(1)).extra == 1
    with pytest.raises(AnnotationFault, match="must say which dataclass it takes"):
        codec.encode_args("install_snapshot", None)


# --- commands and the apply channel ---


def test_only_json_like_commands_can_travel() -> None:
    for value in (None, True, 1, 1.5, "x", b"x", [], {"a": [{}]}):
        wire.check_command(value)
        assert wire.decode_value(wire.encode_value(value)) == value
    with pytest.raises(wire.NotByValue) as info:
        wire.check_command({"a": [1, {2}]})
    assert str(info.value) == f"command['a'][1]: a set cannot travel by value; {USE}"
    with pytest.raises(wire.NotByValue, match=r"^command: this int does not fit in 64 bits$"):
        wire.check_command(2**64)


def test_a_result_may_be_a_tuple() -> None:
    assert wire.decode_value(wire.encode_value((1, 2, True))) == [1, 2, True]
    with pytest.raises(wire.NotByValue, match=r"^value\[0\]: a tuple would arrive as a list here"):
        wire.encode_value(((1,),))


@pytest.mark.parametrize(
    "msg",
    [
        ApplyMsg(1, 2, {"op": "get"}),
        ApplyMsg(1, 2, kind="noop"),
        ApplyMsg(1, 2, kind="snapshot", snapshot=b"s"),
        ApplyMsg(1, 2, kind="configuration", members=frozenset({0, 2})),
    ],
)
def test_apply_messages_can_travel(msg: ApplyMsg) -> None:
    assert wire.decode_apply(wire.encode_apply(msg)) == msg


@pytest.mark.parametrize(
    ("msg", "text"),
    [
        ({"index": 1}, "apply_ch.put takes an ApplyMsg, got a dict"),
        (ApplyMsg("1", 1), "ApplyMsg.index must be an int, got a str"),  # type: ignore[arg-type]
        (ApplyMsg(True, 1), "ApplyMsg.index must be an int, got a bool"),
        (ApplyMsg(1, None), "ApplyMsg.term must be an int, got None"),  # type: ignore[arg-type]
        (ApplyMsg(2**70, 1), "ApplyMsg.index: this int does not fit in 64 bits"),
        (ApplyMsg(1, 1, (1,)), "ApplyMsg.command: a tuple would arrive as a list here; send a list"),
        (
            ApplyMsg(1, 1, kind="cmd"),  # type: ignore[arg-type]
            "ApplyMsg.kind must be one of command, noop, snapshot, configuration; got 'cmd'",
        ),
        (
            ApplyMsg(1, 1, kind="snapshot"),
            'ApplyMsg.snapshot must be bytes for kind "snapshot", got None',
        ),
        (
            ApplyMsg(1, 1, kind="configuration", members=[1]),  # type: ignore[arg-type]
            'ApplyMsg.members must be a frozenset of ints for kind "configuration", got [1]',
        ),
        (ApplyMsg(1, 1, members={"a"}), "ApplyMsg.members must be a frozenset of ints, got {'a'}"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_apply_message_is_named(msg: Any, text: str) -> None:
    with pytest.raises(wire.NotByValue) as info:
        wire.encode_apply(msg)
    assert str(info.value) == text


def test_the_judge_validates_apply_messages() -> None:
    for plain in ({"index": 1, "term": 1, "kind": "snapshot"}, {"index": "1", "term": 1}, {"index": 1}):
        with pytest.raises(msgspec.ValidationError):
            wire.decode_apply(msgspec.msgpack.encode(plain))
