"""Type annotations: the meaning of an annotation, independent of the notation that a student chose.

``Optional[int]``, ``int | None`` and ``Annotated[int | None, ...]`` mean the same here, and a NewType or an alias means the
type that it stands for. This module does not depend on messages; :mod:`raftlab.messages.message_types` does.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import sys
import types
import typing
from typing import Any

import msgspec

SCALARS = frozenset({type(None), bool, int, float, str, bytes})
LISTS = {
    list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence,
    collections.abc.Collection, collections.abc.Set, collections.abc.MutableSet,
}  # fmt: skip
SETS = {set, frozenset, collections.abc.Set, collections.abc.MutableSet}
DICTS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
LEAVES = SCALARS | {bytearray, None}


def is_any(hint: Any) -> bool:
    """Whether the annotation allows any value."""
    return hint is Any or hint is object or isinstance(hint, typing.TypeVar)


def is_record(kind: Any) -> bool:
    """Whether this is a dataclass, a NamedTuple or a TypedDict."""
    if typing.is_typeddict(kind) or is_dataclass(kind):
        return True
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def is_dataclass(kind: Any) -> bool:
    """Whether this is a dataclass, rather than an instance of one."""
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def bare(hint: Any) -> Any:
    """``hint`` without Annotated, Final, NewType and aliases, which do not change the values."""
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated or origin in (typing.Final, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # `type Term = int`, from Python 3.12
            hint = hint.__value__
        else:
            return hint


def arms_of(hint: Any) -> list[Any]:
    """The alternatives of a union, with nested unions flattened; ``[hint]`` if it is not a union."""
    hint = bare(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [deep for arm in typing.get_args(hint) for deep in arms_of(arm)]
    return [hint]


def arm_for(hint: Any, value: Any) -> Any:
    """The first alternative of a union that ``value`` matches; if none does, the first alternative."""
    arms = arms_of(hint)
    return next((arm for arm in arms if isinstance(value, runtime_type(arm))), arms[0])


def runtime_type(arm: Any) -> type:
    """The class that comes closest to an annotation, for use with ``isinstance``. The annotation must not be a union."""
    if is_any(arm):
        return object
    if arm is None:
        return type(None)
    arm = bare(arm)
    kind = typing.get_origin(arm) or arm
    if typing.is_typeddict(kind):
        return dict
    return kind if isinstance(kind, type) else object


def accepts(hint: Any, kind: type) -> bool:
    """Whether a field declared as ``hint`` may hold values of ``kind``."""
    return any(is_any(arm) or arm is kind or (kind is bytes and arm is bytearray) for arm in arms_of(hint))


def element_of(hint: Any) -> type | None:
    """The dataclass of a list's elements; ``None`` if ``hint`` is not a list of dataclasses."""
    hint = bare(hint)
    elements = element_types(hint)
    if (typing.get_origin(hint) or hint) not in LISTS - SETS or len(elements) != 1:
        return None
    element = bare(elements[0])
    kind: type = typing.get_origin(element) or element
    return kind if is_dataclass(kind) else None


def fits(arm: Any, value: Any) -> bool:
    """Whether ``value`` may have the declared type ``arm``. Only containers and records are checked: for any other
    type, the answer is yes."""
    kind = typing.get_origin(bare(arm)) or bare(arm)
    return not (kind in LISTS or kind in DICTS or is_record(kind)) or isinstance(value, runtime_type(arm))


def element_types(hint: Any) -> tuple[Any, ...]:
    """The element types of a list, set or tuple: one type for all elements, or for a tuple of fixed length one type for each
    position."""
    args = typing.get_args(hint)
    if not args:
        return (Any,)
    if (typing.get_origin(hint) or hint) is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return args
    return args[:1]


def dict_types(hint: Any) -> tuple[Any, Any]:
    """The types of a dict's keys and values."""
    args = typing.get_args(hint)
    return (args[0], args[1]) if (typing.get_origin(hint) or hint) in DICTS and len(args) == 2 else (str, Any)


def has_int_keys(hint: Any) -> bool:
    """Whether a dict's keys may be ints."""
    return int in {bare(arm) for arm in arms_of(dict_types(hint)[0])}


def has_encoding(hint: Any) -> bool:
    """Whether values of this type have an encoding that the judge can read. Timestamps, for example, have none."""
    refused = (msgspec.inspect.CustomType, msgspec.inspect.DateTimeType)
    try:
        return not isinstance(msgspec.inspect.type_info(hint), refused)
    except (TypeError, ValueError, RecursionError):
        return False


def is_decodable(hint: Any) -> bool:
    """Whether msgspec can decode the type at all."""
    try:
        msgspec.inspect.type_info(hint)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def records_in(hint: Any) -> set[Any]:
    """All records that an annotation mentions."""
    records = set()
    for arm in arms_of(hint):
        kind = typing.get_origin(arm) or arm
        if is_record(kind):
            records.add(kind)
        for part in typing.get_args(arm) if typing.get_origin(arm) is not typing.Literal else ():
            records |= records_in(part)
    return records


def type_name(hint: Any) -> str:
    """The type as a student would write it."""
    if hint is None or hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, args))
    if isinstance(origin, type) and args:
        return f"{type_name(origin)}[{', '.join(map(type_name, args))}]"
    name = getattr(hint, "__qualname__", None)
    if name is None or origin is not None:
        return str(hint).replace("typing.", "")
    if name in ("allocate_lock", "lock"):
        return "threading.Lock"
    module = getattr(hint, "__module__", "")
    plain = module in ("builtins", "typing") or module not in sys.stdlib_module_names
    return name if plain else f"{module}.{name}"
