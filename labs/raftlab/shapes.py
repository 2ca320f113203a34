"""The pattern drawer: reads the annotations of handlers and message classes, and says what crosses by value.

:mod:`raftlab.wire` uses it twice: once per class to prepare a quick check of the places that are not typed
(``command: Any``), where a tuple or a dataclass would silently arrive as something else; and, after something
went wrong, to find the one field to name. :mod:`raftlab.contract` judges message classes with it.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import inspect
import sys
import types
import typing
from collections.abc import Callable
from typing import Any

import msgspec

Check = Callable[[Any], None]

# Deeper than any command in earnest, shallower than every recursion limit on the way.
MAX_DEPTH = 100
_ENDLESS = "a type alias that contains itself cannot be followed; declare the field as Any"
SCALARS = frozenset({type(None), bool, int, float, str, bytes})

_LISTS = {
    list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.MutableSequence,
    collections.abc.Collection, collections.abc.Set, collections.abc.MutableSet,
}  # fmt: skip
_SETS = {set, frozenset, collections.abc.Set, collections.abc.MutableSet}
_DICTS = {dict, collections.abc.Mapping, collections.abc.MutableMapping}
_LEAVES = SCALARS | {bytearray, None}


class AnnotationFault(TypeError):
    """An annotation that messages cannot be built on. ``owner`` and ``field`` are set if it is a field's."""

    def __init__(self, text: str, owner: type | None = None, field: str = "") -> None:
        super().__init__(text)
        self.owner = owner
        self.field = field


class Suspect(Exception):
    """A quick check stumbled; the slow search says over what."""


# --- handlers ---------------------------------------------------------------------------------------------


def handler_types(raft_class: type, method: str) -> tuple[Any, Any]:
    """The declared types of a handler's argument and of its result, ``X | None`` counted as ``X``.

    Raises :class:`AnnotationFault` when one is missing, cannot be resolved, or is not a dataclass.
    """
    outer = inspect.getattr_static(raft_class, method)
    skip = 0 if isinstance(outer, staticmethod) else 1
    if isinstance(outer, staticmethod | classmethod):
        outer = outer.__func__
    handler = inspect.unwrap(outer)
    name = f"{raft_class.__name__}.{method}"
    try:
        return _declared_types(handler, method, raft_class, skip)
    except AnnotationFault as fault:
        inner = "<locals>" in getattr(handler, "__qualname__", "") and handler.__name__ != method
        if not inner:
            raise
        raise AnnotationFault(
            f"the decorator on {name} hides its annotations; put @functools.wraps(f) on its inner function"
        ) from fault


def _declared_types(handler: Any, method: str, raft_class: type, skip: int) -> tuple[Any, Any]:
    name = f"{raft_class.__name__}.{method}"
    try:
        parameters = list(inspect.signature(handler).parameters)[skip:]
    except (TypeError, ValueError) as exc:
        raise AnnotationFault(f"{name} is not a method") from exc
    raw = getattr(handler, "__annotations__", {})
    # The first that is annotated: a decorator may put others in front.
    parameter = next((known for known in parameters if known in raw), parameters[0] if parameters else "args")
    if parameter not in raw:
        raise AnnotationFault(
            f"{name} must say which dataclass it takes, as in `{parameter}: {_camel(method)}Args`"
        )
    if "return" not in raw:
        raise AnnotationFault(f"{name} must say which dataclass it returns, as in `-> {_camel(method)}Reply`")
    hints = _resolve(handler, {key: raw[key] for key in (parameter, "return")}, raft_class, name)
    return (
        _message_type(hints[parameter], f"{name} takes"),
        _message_type(hints["return"], f"{name} returns"),
    )


def _camel(method: str) -> str:
    name = "request_vote" if method == "pre_vote" else method
    return "".join(part.capitalize() for part in name.split("_"))


def _resolve(handler: Any, raw: dict[str, Any], raft_class: type, name: str) -> dict[str, Any]:
    """Evaluate just these annotations; other parameters may say what they like."""
    carrier = types.SimpleNamespace(__annotations__=raw)
    space = getattr(handler, "__globals__", {})
    try:
        return typing.get_type_hints(carrier, globalns=space)
    except NameError:
        pass  # perhaps a class defined inside Raft
    except Exception as exc:
        raise AnnotationFault(f"the annotations of {name} cannot be read: {_said(exc)}") from exc
    try:
        return typing.get_type_hints(carrier, globalns=space, localns=dict(vars(raft_class)))
    except Exception as exc:
        missing = getattr(exc, "name", None)
        what = f"{missing} is not defined" if isinstance(exc, NameError) and missing else _said(exc)
        raise AnnotationFault(
            f"the annotations of {name} cannot be read: {what} "
            "(import it for running too, not only for type checkers)"
        ) from exc


def _message_type(hint: Any, what: str) -> Any:
    arms = [arm for arm in _arms(hint) if arm is not type(None)]
    target = _bare(arms[0]) if len(arms) == 1 else hint
    if not _is_dataclass(typing.get_origin(target) or target):
        raise AnnotationFault(f"{what} {type_name(hint)}, which is not a dataclass; messages are dataclasses")
    return target


# --- quick checks -----------------------------------------------------------------------------------------


def check_json(value: Any, depth: int = 0, keys: Any = str) -> None:
    """Raise :class:`Suspect` unless ``value`` is JSON-like and arrives as it left (but for large ints)."""
    if type(value) in SCALARS:
        return
    if depth >= MAX_DEPTH:
        raise Suspect(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        # A copy: in real threads somebody may be changing it.
        for key, item in tuple(value.items()):
            if type(key) is not str and not isinstance(key, keys):
                raise Suspect("a dict key that is not a string")
            if type(item) not in SCALARS:
                check_json(item, depth + 1, keys)
    elif isinstance(value, list):
        for item in tuple(value):
            if type(item) not in SCALARS:
                check_json(item, depth + 1, keys)
    elif not isinstance(value, str | int | float | bytes):
        raise Suspect(f"a {type(value).__name__}")


class Shapes:
    """What is known of one set of message classes. Use it while ``sys.modules`` holds the student's module:
    type hints are looked up there, once."""

    def __init__(self) -> None:
        self._fields: dict[type, dict[str, Any]] = {}
        self._checks: dict[type, Check | None] = {}
        self.sets: set[type] = set()
        self.odd_keys: set[type] = set()

    def fields(self, cls: type) -> dict[str, Any]:
        """The resolved types of a record's fields. Raises :class:`AnnotationFault`."""
        known = self._fields.get(cls)
        if known is None:
            try:
                hints = typing.get_type_hints(cls, include_extras=True)
            except Exception as exc:
                missing = getattr(exc, "name", None)
                what = f"{missing} is not defined" if isinstance(exc, NameError) and missing else _said(exc)
                raise AnnotationFault(
                    f"the annotations of {cls.__name__} cannot be read: {what}", cls
                ) from exc
            if dataclasses.is_dataclass(cls):
                names = [field.name for field in dataclasses.fields(cls)]
                for name in getattr(cls, "__dataclass_fields__", {}):
                    if isinstance(hints.get(name), dataclasses.InitVar):
                        raise AnnotationFault(
                            f"{cls.__name__}.{name}: an InitVar cannot travel by value", cls, name
                        )
                hints = {name: hints[name] for name in names}
            known = self._fields[cls] = hints
        return known

    def check(self, message: Any) -> Check | None:
        """The quick check of a message class, ``None`` when its types alone say enough.

        Raises :class:`AnnotationFault` for a field whose type cannot cross by value.
        """
        root = typing.get_origin(message) or message
        return self._record(root, root)

    def _record(self, cls: type, root: type) -> Check | None:
        if cls in self._checks:
            return self._checks[cls]
        # A class may contain itself: until its check is known, look it up when called.
        self._checks[cls] = lambda value: self._run(cls, value)
        checks: list[tuple[str, Check]] = []
        try:
            for name, hint in self.fields(cls).items():
                check = self._field(hint, (cls, name), root)
                if check is not None:
                    checks.append((name, check))
        except AnnotationFault:
            del self._checks[cls]
            raise
        by_key = typing.is_typeddict(cls)

        def check_record(value: Any) -> None:
            for name, check in checks:
                check(value.get(name) if by_key else getattr(value, name))

        def check_one(value: Any, name: str = checks[0][0] if checks else "") -> None:
            item = getattr(value, name)
            if type(item) not in SCALARS:
                check_json(item)

        found: Check | None = check_record if checks else None
        if len(checks) == 1 and checks[0][1] is check_json and not by_key:
            found = check_one  # a log entry: the one check that runs thousands of times a second
        self._checks[cls] = found
        return found

    def _run(self, cls: type, value: Any) -> None:
        check = self._checks[cls]
        if check is not None:
            check(value)

    def _field(self, hint: Any, place: tuple[type, str], root: type) -> Check | None:
        try:
            return self._compile(hint, place, root)
        except RecursionError:
            raise AnnotationFault(f"{_dotted(place)}: {_ENDLESS}", *place) from None

    def _compile(self, hint: Any, place: tuple[type, str], root: type) -> Check | None:
        arms = _arms(hint)
        if len(arms) > 1:
            return self._union(arms, place, root)
        hint = _bare(hint)
        if is_any(hint):
            return check_json
        if hint in _LEAVES or typing.get_origin(hint) is typing.Literal:
            return None
        kind = typing.get_origin(hint) or hint
        if kind in _LISTS:
            return self._list(hint, kind, place, root)
        if kind in _DICTS:
            return self._dict(hint, place, root)
        if is_record(kind):
            return self._record(kind, root)
        if isinstance(kind, type) and issubclass(kind, enum.Enum) and crosses(kind):
            return None
        if isinstance(hint, typing.ForwardRef):  # what is left of an alias that names itself
            raise AnnotationFault(f"{_dotted(place)}: {_ENDLESS}", *place)
        if not crosses(hint):
            raise AnnotationFault(f"{_dotted(place)}: {type_name(hint)} cannot travel by value", *place)
        return None

    def _union(self, arms: list[Any], place: tuple[type, str], root: type) -> Check | None:
        checks = [(runtime_type(arm), self._compile(arm, place, root)) for arm in arms]
        if any(check is check_json for _, check in checks):
            return check_json  # a union with Any is Any
        if all(check is None for _, check in checks):
            return None

        def check_union(value: Any) -> None:
            if type(value) in SCALARS:
                return
            for kind, check in checks:
                if isinstance(value, kind):
                    if check is not None:
                        check(value)
                    return

        return check_union

    def _list(self, hint: Any, kind: Any, place: tuple[type, str], root: type) -> Check | None:
        if kind in _SETS:
            self.sets.add(root)
        inner = [self._compile(arg, place, root) for arg in element_types(hint)]
        if all(check is None for check in inner):
            return None
        if len(inner) == 1:
            only = inner[0]
            assert only is not None

            def check_list(value: Any) -> None:
                for item in value:
                    only(item)

            return check_list

        def check_tuple(value: Any) -> None:
            for item, check in zip(value, inner, strict=False):
                if check is not None:
                    check(item)

        return check_tuple

    def _dict(self, hint: Any, place: tuple[type, str], root: type) -> Check | None:
        key, item = dict_types(hint)
        keys = {_bare(arm) for arm in _arms(key)}
        if not keys <= {str} and not is_any(key):
            if not keys <= {str, int}:
                raise AnnotationFault(f"{_dotted(place)}: keys of dicts that travel are str or int", *place)
            self.odd_keys.add(root)
        inner = self._compile(item, place, root)
        if inner is None:
            return None
        check_item = inner

        def check_dict(value: Any) -> None:
            for item in tuple(value.values()):
                check_item(item)

        return check_dict


# --- types, and their names -------------------------------------------------------------------------------


def is_any(hint: Any) -> bool:
    return hint is Any or hint is object or isinstance(hint, typing.TypeVar)


def is_record(kind: Any) -> bool:
    """A dataclass, a NamedTuple or a TypedDict."""
    if typing.is_typeddict(kind) or _is_dataclass(kind):
        return True
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def _is_dataclass(kind: Any) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _bare(hint: Any) -> Any:
    """``hint`` without what says nothing about the value: Annotated, Final, NewType, type aliases."""
    while True:
        origin = typing.get_origin(hint)
        if origin is typing.Annotated or origin in (typing.Final, typing.Required, typing.NotRequired):
            hint = typing.get_args(hint)[0]
        elif isinstance(hint, typing.NewType):
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # `type Term = int`, Python 3.12 on
            hint = hint.__value__
        else:
            return hint


def _arms(hint: Any) -> list[Any]:
    hint = _bare(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return [deep for arm in typing.get_args(hint) for deep in _arms(arm)]
    return [hint]


def arm_for(hint: Any, value: Any) -> Any:
    """The arm of a union that ``value`` belongs to; ``hint`` itself when it is no union."""
    arms = _arms(hint)
    return next((arm for arm in arms if isinstance(value, runtime_type(arm))), arms[0])


def runtime_type(arm: Any) -> type:
    if is_any(arm):
        return object
    if arm is None:
        return type(None)
    arm = _bare(arm)
    kind = typing.get_origin(arm) or arm
    if typing.is_typeddict(kind):
        return dict
    return kind if isinstance(kind, type) else object


def accepts(hint: Any, kind: type) -> bool:
    """Whether values of ``kind`` may stand where ``hint`` is declared."""
    return any(is_any(arm) or arm is kind or (kind is bytes and arm is bytearray) for arm in _arms(hint))


def element_of(hint: Any) -> type | None:
    """The dataclass that a list is declared to hold; ``None`` when it is no such list."""
    hint = _bare(hint)
    held = element_types(hint)
    if (typing.get_origin(hint) or hint) not in _LISTS - _SETS or len(held) != 1:
        return None
    held_type = _bare(held[0])
    found: type = typing.get_origin(held_type) or held_type
    return found if _is_dataclass(found) else None


def fits(arm: Any, value: Any) -> bool:
    """Whether a scalar can be what ``arm`` declares, as far as the quick checks rely on it: no containers."""
    kind = typing.get_origin(_bare(arm)) or _bare(arm)
    return not (kind in _LISTS or kind in _DICTS or is_record(kind)) or isinstance(value, runtime_type(arm))


def element_types(hint: Any) -> tuple[Any, ...]:
    """What a list, set or tuple holds: one type for all, or one for each place of a fixed tuple."""
    args = typing.get_args(hint)
    if not args:
        return (Any,)
    if (typing.get_origin(hint) or hint) is tuple and not (len(args) == 2 and args[1] is Ellipsis):
        return args
    return args[:1]


def dict_types(hint: Any) -> tuple[Any, Any]:
    """The types of a dict's keys and values."""
    args = typing.get_args(hint)
    return (
        (args[0], args[1]) if (typing.get_origin(hint) or hint) in _DICTS and len(args) == 2 else (str, Any)
    )


def has_int_keys(hint: Any) -> bool:
    return int in {_bare(arm) for arm in _arms(dict_types(hint)[0])}


def crosses(hint: Any) -> bool:
    """Whether MessagePack has a form for values of this one type."""
    try:
        return not isinstance(msgspec.inspect.type_info(hint), msgspec.inspect.CustomType)
    except (TypeError, ValueError, RecursionError):
        return False


def type_name(hint: Any) -> str:
    """A type as a student would write it."""
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
    return f"{module}.{name}" if module != "builtins" and module in sys.stdlib_module_names else name


def _dotted(place: tuple[type, str]) -> str:
    return f"{place[0].__name__}.{place[1]}"


def _said(exc: BaseException) -> str:
    text = str(exc).splitlines()
    return f"{type(exc).__name__}: {text[0]}" if text else type(exc).__name__
