"""Encodes messages between servers by value, and decodes them by the types that the handlers' annotations declare.

Messages are encoded as MessagePack maps with field names, so the judge can read them as plain dictionaries without knowing a
student's classes. Equal messages have equal bytes. Encoders, decoders and checks are prepared once per class. The fast path
is then a type test, a check of the untyped fields, and a call of msgspec. Only if the fast path fails does a slow
search look for the field that the error should name.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from raftlab.api import ApplyMsg, Status
from raftlab.messages import message_types, type_annotations
from raftlab.messages.message_types import AnnotationFault, Shapes, Suspect

__all__ = [
    "RPC_METHODS", "SERVICE_METHODS", "STATUS_FIELDS", "AnnotationFault", "BadMessage", "Codec", "NotByValue",
    "UnknownMethod", "check_command", "decode_apply", "decode_plain", "decode_value", "encode_apply", "encode_value",
]  # fmt: skip

RPC_METHODS = (
    "request_vote",
    "append_entries",
    "install_snapshot",
    "pre_vote",
    "timeout_now",
    "read_index_of",
    "lease_of",
)
SERVICE_METHODS = ("client_request",)
STATUS_FIELDS = tuple(field.name for field in dataclasses.fields(Status))


class NotByValue(TypeError):
    """Something cannot be sent by value, as a copy of its data. The message names the field: ``RequestVoteArgs.extra: a
    set cannot ...``."""


class BadMessage(msgspec.ValidationError):
    """Bytes do not match what the handler's annotations declare. The message names the field."""


class UnknownMethod(ValueError):
    """``peers[i].call`` named a handler that does not exist. The message lists the existing ones."""


# --- encoding and decoding --------------------------------------------------------------------------------


def _plain_subclass(value: Any) -> Any:
    """Convert an instance of a student's subclass of str, int, float or bytes, which msgspec does not accept."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    if isinstance(value, bytes):
        return bytes.__getitem__(value, slice(None))
    raise Suspect


def _no_extension(code: int, data: memoryview) -> Any:
    raise msgspec.ValidationError(f"MessagePack extension {code} is not part of the lab's messages")


# The deterministic encoder sorts sets, so that a message does not depend on the hash seed. It also sorts dicts, but can
# only sort dicts with string keys. So classes that declare dicts with int keys use the other encoder.
_encode = msgspec.msgpack.Encoder(enc_hook=_plain_subclass, order="deterministic").encode
_encode_unsorted = msgspec.msgpack.Encoder(enc_hook=_plain_subclass).encode
_decode_any = msgspec.msgpack.Decoder(ext_hook=_no_extension).decode
_decode_map = msgspec.msgpack.Decoder(dict[str, Any], ext_hook=_no_extension).decode
_decode_apply_msg = msgspec.msgpack.Decoder(ApplyMsg, ext_hook=_no_extension).decode

# The exceptions that the fast path can raise. RuntimeError means that another real thread changed the value meanwhile.
_ENCODING_ERRORS = (Suspect, TypeError, ValueError, OverflowError, AttributeError, RecursionError, RuntimeError)
_DECODING_ERRORS = (UnicodeDecodeError, RecursionError)


class Codec:
    """Encodes and decodes the messages of one ``Raft`` class, of one ``KVServer`` class or of both. ``methods`` are the RPC
    handlers."""

    __slots__ = ("_faults", "_read_args", "_read_reply", "_write_args", "_write_reply", "methods")

    def __init__(self) -> None:
        self.methods: tuple[str, ...] = ()
        self._faults: dict[str, AnnotationFault] = {}
        self._write_args: dict[str, Callable[[Any], bytes]] = {}
        self._write_reply: dict[str, Callable[[Any], bytes]] = {}
        self._read_args: dict[str, Callable[[bytes], Any]] = {}
        self._read_reply: dict[str, Callable[[bytes], Any]] = {}

    @classmethod
    def of(cls, handlers: type, methods: Iterable[str] = RPC_METHODS) -> Codec:
        """Prepare the messages of a class with RPC handlers; see :meth:`add`."""
        codec = cls()
        codec.add(handlers, methods)
        return codec

    def add(self, handlers: type, methods: Iterable[str]) -> None:
        """Prepare the messages of a further class.

        Unsuitable annotations of a handler do not raise here, because the handler may belong to the next lab and be
        unfinished. Using the handler raises :class:`AnnotationFault`.

        Args:
            handlers: the student's class. ``sys.modules`` must contain its module.
            methods: the handlers to look for. Handlers that the class lacks are ignored.
        """
        known = Shapes()
        for method in methods:
            if getattr(handlers, method, None) is None:
                continue
            self.methods += (method,)
            try:
                args, reply = message_types.handler_types(handlers, method)
                given = f'peers[i].call("{method}", args) takes {type_annotations.type_name(args)}, got'
                returned = f"{method} must return {type_annotations.type_name(reply)}, returned"
                write = _writer(args, known, given), _writer(reply, known, returned)
                read = _reader(args, known), _reader(reply, known)
            except AnnotationFault as fault:
                self._faults[method] = fault
                continue
            self._write_args[method], self._write_reply[method] = write
            self._read_args[method], self._read_reply[method] = read

    def encode_args(self, method: str, value: Any) -> bytes:
        """Encode a request.

        Raises:
            NotByValue: a field cannot travel by value.
            UnknownMethod: there is no such handler.
            AnnotationFault: the handler's annotations are unsuitable.
        """
        write = self._write_args.get(method)
        return write(value) if write is not None else self._unknown(method)

    def encode_reply(self, method: str, value: Any) -> bytes:
        """Encode a reply. Raises as :meth:`encode_args` does."""
        write = self._write_reply.get(method)
        return write(value) if write is not None else self._unknown(method)

    def decode_args(self, method: str, data: bytes) -> Any:
        """Decode a request. Raises :class:`BadMessage`, :class:`UnknownMethod` or :class:`AnnotationFault`."""
        read = self._read_args.get(method)
        return read(data) if read is not None else self._unknown(method)

    def decode_reply(self, method: str, data: bytes) -> Any:
        """Decode a reply. Raises as :meth:`decode_args` does."""
        read = self._read_reply.get(method)
        return read(data) if read is not None else self._unknown(method)

    def _unknown(self, method: Any) -> Any:
        fault = self._faults.get(method)
        if fault is not None:
            raise fault
        existing = ", ".join(self.methods) or "none"
        raise UnknownMethod(f"there is no RPC handler {method!r}; your code has: {existing}")


def check_message(message: Any, known: Shapes | None = None) -> None:
    """Raise :class:`AnnotationFault` unless messages of the dataclass ``message`` can travel by value."""
    known = known or Shapes()
    _writer(message, known, "")
    _reader(message, known)


def _writer(message: Any, known: Shapes, wrong: str) -> Callable[[Any], bytes]:
    check = known.check(message)
    cls = type_annotations.runtime_type(message)
    encode = _encode
    if cls in known.odd_keys:
        if cls in known.sets:
            raise AnnotationFault(f"{cls.__name__} has a set and a dict with int keys; make one of them a list", cls)
        encode = _encode_unsorted

    def write(value: Any) -> bytes:
        if type(value) is not cls and not isinstance(value, cls):
            raise NotByValue(f"{wrong} {'None' if value is None else type(value).__name__}")
        try:
            if check is not None:
                check(value)
            return encode(value)
        except _ENCODING_ERRORS as exc:
            why = _find(value, message, cls.__name__, known, 0)
            raise NotByValue(why or f"{cls.__name__} cannot travel by value: {_first_line(exc)}") from None

    return write


def _reader(message: Any, known: Shapes) -> Callable[[bytes], Any]:
    cls = type_annotations.runtime_type(message)
    try:
        decode = msgspec.msgpack.Decoder(message, ext_hook=_no_extension).decode
    except (TypeError, RecursionError) as exc:
        raise known.blame(message, _plain_words(exc)) from exc

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except msgspec.DecodeError as exc:
            raise BadMessage(_place(exc, cls.__name__)) from None
        except _DECODING_ERRORS as exc:
            raise BadMessage(f"{cls.__name__}: {_first_line(exc)}") from None

    return read


# --- commands and other JSON-like values ------------------------------------------------------------------


def check_command(value: Any, name: str = "command") -> None:
    """Check that a value is JSON-like: ``None``, bool, 64-bit int, float, str, bytes, or lists and string-keyed dicts of
    these.

    Args:
        value: the value.
        name: the name of the value in the error message.

    Raises:
        NotByValue: the value is not JSON-like.
    """
    try:
        message_types.check_json(value)
        _encode(value)
    except _ENCODING_ERRORS as exc:
        why = _find(value, Any, name, Shapes(), 0)
        raise NotByValue(why or f"{name} cannot travel by value: {_first_line(exc)}") from None


def encode_value(value: Any, name: str = "value") -> bytes:
    """Encode a JSON-like value, or a tuple of such values (as ``start`` returns). Raises :class:`NotByValue`."""
    plain = list(value) if isinstance(value, tuple) else value
    try:
        message_types.check_json(plain)
        return _encode(plain)
    except _ENCODING_ERRORS as exc:
        why = _find(plain, Any, name, Shapes(), 0)
        raise NotByValue(why or f"{name} cannot travel by value: {_first_line(exc)}") from None


def decode_value(data: bytes) -> Any:
    """Decode a JSON-like value. ``data`` may be hostile: this raises only ``msgspec.DecodeError``."""
    try:
        value = _decode_any(data)
        message_types.check_json(value)
    except (Suspect, *_DECODING_ERRORS) as exc:
        raise msgspec.ValidationError(f"not a JSON-like value: {_first_line(exc)}") from None
    return value


def decode_plain(data: bytes) -> dict[str, Any]:
    """Decode a message for the judge, as a dict from field names to JSON-like values (in which dict keys may be ints).

    ``data`` may be hostile: this raises only ``msgspec.DecodeError``. The types of fields are not checked, because only the
    student's classes declare them.
    """
    try:
        message = _decode_map(data)
        for value in message.values():
            if type(value) not in type_annotations.SCALARS:
                # Allow twice the usual depth, because a command may be nested deep in a message.
                message_types.check_json(value, -message_types.MAX_DEPTH, (str, int))
    except (Suspect, *_DECODING_ERRORS) as exc:
        raise msgspec.ValidationError(f"not a message: {_first_line(exc)}") from None
    return message


# --- the apply channel ------------------------------------------------------------------------------------

_KINDS = ("command", "noop", "snapshot", "configuration")


def encode_apply(msg: Any) -> bytes:
    """Encode an :class:`ApplyMsg`. Raises :class:`NotByValue`, whose text names the wrong field."""
    if not isinstance(msg, ApplyMsg):
        raise NotByValue(f"apply_ch.put takes an ApplyMsg, got {_a_thing(msg)}")
    for name in ("index", "term"):
        value = getattr(msg, name)
        if isinstance(value, bool) or not isinstance(value, int):
            raise NotByValue(f"ApplyMsg.{name} must be an int, got {_a_thing(value)}")
    if msg.kind not in _KINDS:
        raise NotByValue(f"ApplyMsg.kind must be one of {', '.join(_KINDS)}; got {msg.kind!r:.40}")
    problem = _wrong_field(msg)
    if problem:
        raise NotByValue(f"ApplyMsg.{problem}")
    check_command(msg.command, "ApplyMsg.command")
    try:
        return _encode(msg)
    except _ENCODING_ERRORS as exc:
        why = _find(msg, ApplyMsg, "ApplyMsg", Shapes(), 0)
        raise NotByValue(why or f"ApplyMsg cannot travel by value: {_first_line(exc)}") from None


def _wrong_field(msg: ApplyMsg) -> str:
    """What is wrong with ``msg.snapshot`` or ``msg.members``, given ``msg.kind``; empty if both are right."""
    snapshot, members = msg.snapshot, msg.members
    if not isinstance(snapshot, bytes) and not (snapshot is None and msg.kind != "snapshot"):
        need = ' for kind "snapshot"' if msg.kind == "snapshot" else ""
        return f"snapshot must be bytes{need}, got {_a_thing(snapshot)}"
    ints = isinstance(members, set | frozenset) and all(type(member) is int for member in members)
    if not ints and not (members is None and msg.kind != "configuration"):
        need = ' for kind "configuration"' if msg.kind == "configuration" else ""
        return f"members must be a frozenset of ints{need}, got {members!r:.60}"
    return ""


def decode_apply(data: bytes) -> ApplyMsg:
    """Decode an :class:`ApplyMsg`. ``data`` may be hostile: this raises only ``msgspec.DecodeError``."""
    try:
        msg = _decode_apply_msg(data)
        message_types.check_json(msg.command)
    except (Suspect, *_DECODING_ERRORS) as exc:
        raise msgspec.ValidationError(f"not an ApplyMsg: {_first_line(exc)}") from None
    problem = _wrong_field(msg)
    if problem:
        raise msgspec.ValidationError(f"ApplyMsg.{problem}")
    return msg


# --- the slow path: find what cannot travel ----------------------------------------------------------------


_USE = "use numbers, strings, bytes, and lists or dicts of these"


def _find(value: Any, hint: Any, path: str, known: Shapes, depth: int) -> str | None:
    """Find out which part of ``value`` is the first that cannot be sent.

    Args:
        value: the value or part to search.
        hint: the declared type of ``value``.
        path: the name of ``value`` in the returned sentence, such as ``RequestVoteArgs.extra[0]``.
        known: the message classes seen so far.
        depth: the depth at which ``value`` is nested.

    Returns:
        One sentence about the part that cannot travel; ``None`` if there is none.
    """
    if depth > message_types.MAX_DEPTH:
        return f"{path:.80}...: nested more than {message_types.MAX_DEPTH} deep; does it contain itself?"
    kind = type(value)
    hint = type_annotations.arm_for(hint, value)
    if isinstance(value, str | int | float | bytes) or value is None:
        if not type_annotations.fits(hint, value):
            return f"{path} must be {_an(type_annotations.type_name(hint))}, got {_a_thing(value)}"
        return _bad_scalar(value, path)
    untyped = type_annotations.is_any(hint)
    if dataclasses.is_dataclass(kind):
        if untyped:
            name = kind.__name__
            return f"{path}: the {name} would arrive as a dict here; annotate the field as {name}"
        for name, inner in known.fields(kind).items():
            if not hasattr(value, name):
                return f"{path}.{name} was never set"
            why = _find(getattr(value, name), inner, f"{path}.{name}", known, depth + 1)
            if why:
                return why
        return None
    if isinstance(value, dict):
        return _find_in_dict(value, hint, path, known, depth)
    if isinstance(value, list | tuple | set | frozenset) and not (untyped and not isinstance(value, list)):
        return _find_in_list(value, hint, path, known, depth)
    if isinstance(value, tuple):
        return f"{path}: a tuple would arrive as a list here; send a list"
    if not untyped and type_annotations.has_encoding(kind):
        return None
    return f"{path}: {_a_thing(value)} cannot travel by value; {_USE}"


def _find_in_dict(value: dict[Any, Any], hint: Any, path: str, known: Shapes, depth: int) -> str | None:
    _, inner = type_annotations.dict_types(hint)
    for key, item in tuple(value.items()):
        if not isinstance(key, str) and not type_annotations.has_int_keys(hint):
            return f"{path}: the dict key {key!r:.40} is {_a_thing(key)}; only string keys can travel here"
        why = _bad_scalar(key, f"{path}: the dict key") if isinstance(key, str) else None
        why = why or _find(item, inner, f"{path}[{key!r:.40}]", known, depth + 1)
        if why:
            return why
    return None


def _find_in_list(value: Any, hint: Any, path: str, known: Shapes, depth: int) -> str | None:
    inner = type_annotations.element_types(hint)
    ordered = not isinstance(value, set | frozenset)
    for index, item in enumerate(tuple(value)):
        place = f"{path}[{index}]" if ordered else path
        why = _find(item, inner[min(index, len(inner) - 1)] if inner else Any, place, known, depth + 1)
        if why:
            return why
    if not ordered and len({type(item) for item in value}) > 1:
        return (
            f"{path}: a set with values of different types cannot be put in order, so it cannot be sent; use one type"
        )
    return None


def _bad_scalar(value: Any, path: str) -> str | None:
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return f"{path}: this int does not fit in 64 bits"
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return f"{path}: {value!r:.40} is not valid Unicode text; send bytes instead"
    return None


def _a_thing(value: Any) -> str:
    """The kind of a value, in words: "a lock", "an int", "None"."""
    if value is None:
        return "None"
    name = type(value).__name__
    if isinstance(value, type):
        name = f"class ({value.__name__})"
    elif callable(value) and hasattr(value, "__name__"):
        name = "function"
    elif name in ("_RLock", "RLock"):
        name = "lock"
    return _an(name)


def _an(name: str) -> str:
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [type(exc).__name__])[0][:200]


def _plain_words(exc: BaseException) -> str:
    return _first_line(exc).replace("`", "")


def _place(exc: Exception, root: str) -> str:
    """Reword msgspec's "Expected `int`, got `str` - at `$.term`" as "RequestVoteArgs.term: expected int, got str"."""
    text, _, at = _plain_words(exc).partition(" - at $")
    text = re.sub(r"^Expected\b", "expected", text)
    text = re.sub(r"^Object missing required field (.*)$", r"the field \1 is missing", text)
    return f"{root}{at}: {text}"
