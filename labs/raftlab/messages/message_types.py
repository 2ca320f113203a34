"""Message types: reads the annotations of handlers and message classes, and checks what can travel by value.

:mod:`raftlab.messages.codec` uses this module in two ways. For each class, this module prepares a fast check of the untyped
fields (``command: Any``), because a tuple or a dataclass in such a field would silently arrive as something else. If msgspec
rejects a class, this module finds the field that is to blame. :mod:`raftlab.submission.contract` also uses this module, to
check message classes."""

from __future__ import annotations

import dataclasses
import enum
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

from raftlab.messages import type_annotations
from raftlab.messages.type_annotations import SCALARS

Check = Callable[[Any], None]

# The maximum depth of a nested value. It is more than any sensible command needs, and less than every recursion limit
# involved.
MAX_DEPTH = 100
_ENDLESS = "a type alias that contains itself cannot be followed; declare the field as Any"


class AnnotationFault(TypeError):
    """An annotation is missing or unsuitable for messages.

    Attributes:
        owner: the message class, if the annotation belongs to a field; else ``None``.
        field: the field's name, or empty.
    """

    def __init__(self, text: str, owner: type | None = None, field: str = "") -> None:
        super().__init__(text)
        self.owner = owner
        self.field = field


class Suspect(Exception):
    """A fast check has failed. The codec then searches for the value that cannot travel, which is slower."""


# --- handlers ---------------------------------------------------------------------------------------------


def handler_types(raft_class: type, method: str) -> tuple[Any, Any]:
    """The types of a handler's argument and of its result. For the annotation ``X | None``, the type is ``X``.

    Raises:
        AnnotationFault: an annotation is missing, cannot be resolved, or is not a dataclass.
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
        inner = "<locals>" in getattr(handler, "__qualname__", "") and getattr(handler, "__name__", "") != method
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
    # Use the first annotated parameter, because a decorator may add parameters before it.
    parameter = next((known for known in parameters if known in raw), parameters[0] if parameters else "args")
    if parameter not in raw:
        raise AnnotationFault(f"{name} must say which dataclass it takes, as in `{parameter}: {_names(method)[0]}`")
    if "return" not in raw:
        raise AnnotationFault(f"{name} must say which dataclass it returns, as in `-> {_names(method)[1]}`")
    hints = _resolve(handler, {key: raw[key] for key in (parameter, "return")}, raft_class, name)
    return (
        _message_type(hints[parameter], f"{name} takes"),
        _message_type(hints["return"], f"{name} returns"),
    )


def _names(method: str) -> tuple[str, str]:
    """What the skeleton calls the two messages of a handler."""
    if method == "client_request":
        return "ClientRequest", "ClientReply"
    name = {"pre_vote": "request_vote", "read_index_of": "read_index", "lease_of": "lease"}.get(method, method)
    camel = "".join(part.capitalize() for part in name.split("_"))
    return f"{camel}Args", f"{camel}Reply"


def _resolve(handler: Any, raw: dict[str, Any], raft_class: type, name: str) -> dict[str, Any]:
    """The types of the annotations ``raw``. The handler's other annotations may be invalid, so they are not evaluated."""
    carrier = types.SimpleNamespace(__annotations__=raw)
    space = getattr(handler, "__globals__", {})
    try:
        return typing.get_type_hints(carrier, globalns=space)
    except NameError:
        pass  # the annotation may name a class that is defined inside Raft
    except Exception as exc:
        raise AnnotationFault(f"the annotations of {name} cannot be read: {_describe(exc)}") from exc
    try:
        return typing.get_type_hints(carrier, globalns=space, localns=dict(vars(raft_class)))
    except Exception as exc:
        missing = getattr(exc, "name", None)
        what = f"{missing} is not defined" if isinstance(exc, NameError) and missing else _describe(exc)
        raise AnnotationFault(
            f"the annotations of {name} cannot be read: {what} (import it at run time, too, not only for type checkers)"
        ) from exc


def _message_type(hint: Any, what: str) -> Any:
    arms = [arm for arm in type_annotations.arms_of(hint) if arm is not type(None)]
    target = type_annotations.bare(arms[0]) if len(arms) == 1 else hint
    if not type_annotations.is_dataclass(typing.get_origin(target) or target):
        raise AnnotationFault(
            f"{what} {type_annotations.type_name(hint)}, which is not a dataclass; messages are dataclasses"
        )
    return target


# --- fast checks -----------------------------------------------------------------------------------------


def check_json(value: Any, depth: int = 0, keys: Any = str) -> None:
    """Check that a value is JSON-like. Only such a value arrives as it was sent. The encoder, not this function, checks the
    size of ints.

    Args:
        value: the value.
        depth: the depth at which the value is nested.
        keys: the types that dict keys may have.

    Raises:
        Suspect: the value is not JSON-like.
    """
    if type(value) in SCALARS:
        return
    if depth >= MAX_DEPTH:
        raise Suspect(f"nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict):
        # Iterate over a copy, because another real thread may be changing the dict.
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
    """The fields and checks of a set of message classes. Use an instance while ``sys.modules`` contains the student's
    module, because type hints are resolved in that module, once per class.

    Attributes:
        sets: the messages that contain a set.
        odd_keys: the messages that contain a dict with int keys.
    """

    def __init__(self) -> None:
        self._fields: dict[type, dict[str, Any]] = {}
        self._checks: dict[type, Check | None] = {}
        self.sets: set[type] = set()
        self.odd_keys: set[type] = set()

    def fields(self, cls: type) -> dict[str, Any]:
        """The resolved types of the fields of a dataclass, NamedTuple or TypedDict, by name. Raises
        :class:`AnnotationFault`."""
        known = self._fields.get(cls)
        if known is None:
            try:
                hints = typing.get_type_hints(cls, include_extras=True)
            except Exception as exc:
                missing = getattr(exc, "name", None)
                what = f"{missing} is not defined" if isinstance(exc, NameError) and missing else _describe(exc)
                raise AnnotationFault(f"the annotations of {cls.__name__} cannot be read: {what}", cls) from exc
            if dataclasses.is_dataclass(cls):
                names = [field.name for field in dataclasses.fields(cls)]
                for name in getattr(cls, "__dataclass_fields__", {}):
                    if isinstance(hints.get(name), dataclasses.InitVar):
                        raise AnnotationFault(f"{cls.__name__}.{name}: an InitVar cannot travel by value", cls, name)
                hints = {name: hints[name] for name in names}
            known = self._fields[cls] = hints
        return known

    def check(self, message: Any) -> Check | None:
        """The fast check of a message class; ``None`` if the class has no untyped field.

        Raises:
            AnnotationFault: the type of some field cannot travel by value.
        """
        root = typing.get_origin(message) or message
        return self._record(root, root)

    def blame(self, message: Any, complaint: str) -> AnnotationFault:
        """The fault to raise if msgspec rejects a class although each of its types can travel. It names the field to blame.

        Args:
            message: the message class.
            complaint: msgspec's message.
        """
        bad: list[tuple[type, str, Any]] = []
        for cls, fields in self._fields.items():
            bad += [(cls, name, hint) for name, hint in fields.items() if not type_annotations.is_decodable(hint)]
        owners = {cls for cls, _, _ in bad}
        root = typing.get_origin(message) or message
        for cls, name, hint in bad:
            # If the field's type contains another class that is to blame, name the field of that class instead.
            if owners.isdisjoint(type_annotations.records_in(hint)):
                text = f"{cls.__name__}.{name} is declared {type_annotations.type_name(hint)}, "
                text += "whose alternatives cannot be told apart in a message; declare it as Any"
                return AnnotationFault(
                    text if "union" in complaint else f"{cls.__name__}.{name}: {complaint}", cls, name
                )
        return AnnotationFault(f"{root.__name__}: {complaint}", root)

    def _record(self, cls: type, root: type) -> Check | None:
        if cls in self._checks:
            return self._checks[cls]
        # A class may contain itself. So until its check exists, register a function that looks up the check when called.
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

        check_all: Check | None = check_record if checks else None
        if len(checks) == 1 and checks[0][1] is check_json and not by_key:
            check_all = check_one  # faster; for log entries, this runs thousands of times per second
        self._checks[cls] = check_all
        return check_all

    def _run(self, cls: type, value: Any) -> None:
        check = self._checks[cls]
        if check is not None:
            check(value)

    def _field(self, hint: Any, place: tuple[type, str], root: type) -> Check | None:
        try:
            return self._compile(hint, place, root)
        except RecursionError:
            raise AnnotationFault(f"{_dotted(place)}: {_ENDLESS}", *place) from None
        except TypeError as exc:  # the annotation is unhashable: `entries: [LogEntry]`
            if isinstance(exc, AnnotationFault):
                raise
            text = f"{_dotted(place)}: its annotation {hint!r:.60} is not a type; a list is written list[...]"
            raise AnnotationFault(text, *place) from None

    def _compile(self, hint: Any, place: tuple[type, str], root: type) -> Check | None:
        arms = type_annotations.arms_of(hint)
        if len(arms) > 1:
            return self._union(arms, place, root)
        hint = type_annotations.bare(hint)
        if type_annotations.is_any(hint):
            return check_json
        if hint in type_annotations.LEAVES or typing.get_origin(hint) is typing.Literal:
            return None
        kind = typing.get_origin(hint) or hint
        if kind in type_annotations.LISTS:
            return self._list(hint, kind, place, root)
        if kind in type_annotations.DICTS:
            return self._dict(hint, place, root)
        if type_annotations.is_record(kind):
            return self._record(kind, root)
        if isinstance(kind, type) and issubclass(kind, enum.Enum) and type_annotations.has_encoding(kind):
            return None
        if isinstance(hint, typing.ForwardRef):  # the rest of an alias that refers to itself
            raise AnnotationFault(f"{_dotted(place)}: {_ENDLESS}", *place)
        if not type_annotations.has_encoding(hint):
            raise AnnotationFault(
                f"{_dotted(place)}: {type_annotations.type_name(hint)} cannot travel by value", *place
            )
        return None

    def _union(self, arms: list[Any], place: tuple[type, str], root: type) -> Check | None:
        checks = [(type_annotations.runtime_type(arm), self._compile(arm, place, root)) for arm in arms]
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
        if kind in type_annotations.SETS:
            self.sets.add(root)
        inner = [self._compile(arg, place, root) for arg in type_annotations.element_types(hint)]
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
        key, item = type_annotations.dict_types(hint)
        keys = {type_annotations.bare(arm) for arm in type_annotations.arms_of(key)}
        if not keys <= {str} and not type_annotations.is_any(key):
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


def _dotted(place: tuple[type, str]) -> str:
    return f"{place[0].__name__}.{place[1]}"


def _describe(exc: BaseException) -> str:
    text = str(exc).splitlines()
    return f"{type(exc).__name__}: {text[0]}" if text else type(exc).__name__
