"""Decides, from the source alone, whether importing a module does nothing but define things.

Such a module can be imported before a run begins, once for all runs. The import calls none of the student's functions,
so a run cannot notice the difference, and nothing can pass from one run to another. Definitions are classes, functions,
constants, and objects such as ``threading.Lock()`` that are not used during the import.

The check is a list of what is allowed. It errs on one side only: if a module is not recognised, each incarnation imports
it anew, which is slower but changes nothing else. The source may be hostile, so the check must not be deceived. It follows
where each name comes from, and allows an operation only if Python's own code performs it:

- calls go to a few functions of the standard library, and none of them calls its arguments;
- no class defines a method that Python would call when it creates a class or evaluates an annotation;
- the only instances of the student's classes are the members of an ``Enum``, and an ``Enum`` may have ordinary methods only.
"""

from __future__ import annotations

import ast
import builtins
import enum
import importlib
import math
import sys
import typing
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from types import ModuleType
from typing import Any, NoReturn


class DoesMore(Exception):
    """Importing the module may do more than define things. The message is a phrase with the line: ``line 3: a call``."""


# --- the list of what is allowed --------------------------------------------------------------------------


def _names(text: str, form: str = "{}") -> frozenset[str]:
    """The names in ``text``, each put into ``form``."""
    return frozenset(form.format(name) for name in text.split())


# Modules that may be imported. Importing them does nothing but load them.
_MODULES = _names(
    """__future__ abc base64 binascii bisect collections concurrent contextlib copy dataclasses datetime decimal enum
    fractions functools hashlib heapq io itertools json logging math numbers operator os pickle pprint queue random re
    reprlib sched statistics string struct sys textwrap threading time traceback types typing uuid warnings weakref zlib"""
)
_OWN_PACKAGE = ("raftlab", "raftlab.api")

# Functions and classes that may be called with plain arguments. The result is plain, too.
_PLAIN_CALLS = _names(
    """abs all any bool bytes chr complex dict divmod enumerate float frozenset int len list max min ord pow range repr
    reversed round set slice sorted str sum tuple zip""",
    "builtins.{}",
) | {"os.environ.get", "os.getenv", *(f"math.{name}" for name in dir(math))}
# These functions may also be called with plain arguments, but the code may only store the results.
_OPAQUE_CALLS = _names(
    """builtins.object collections.Counter collections.OrderedDict collections.deque datetime.timedelta decimal.Decimal
    enum.auto fractions.Fraction itertools.count logging.getLogger operator.attrgetter operator.itemgetter queue.LifoQueue
    queue.PriorityQueue queue.Queue queue.SimpleQueue re.compile struct.Struct threading.BoundedSemaphore threading.Condition
    threading.Event threading.Lock threading.RLock threading.Semaphore"""
)
# These functions may be called with any arguments, because they only store their arguments. The code may only store the
# results.
_STORING_CALLS = _names(
    """collections.defaultdict dataclasses.field functools.partial typing.NewType typing.ParamSpec typing.TypeVar
    typing.cast"""
)
# Calls that may stand as a statement, with the keyword arguments that they may have.
_STATEMENTS: dict[str, Collection[str]] = {
    "logging.basicConfig": ("level", "format", "datefmt", "style"),  # does nothing, because a handler exists already
    "sys.setrecursionlimit": (),
}
_CLASS_DECORATORS = frozenset(
    ("dataclasses.dataclass", "enum.unique", "functools.total_ordering", "typing.final", "typing.runtime_checkable")
)
_FUNCTION_DECORATORS = _names(
    """abc.abstractmethod builtins.classmethod builtins.property builtins.staticmethod contextlib.contextmanager
    functools.cache functools.cached_property functools.lru_cache typing.final typing.no_type_check typing.overload
    typing.override"""
)
# The decorators that may be combined with `classmethod`. A classmethod around another descriptor, such as a property,
# calls the function as soon as the attribute is read, and `dataclass` reads it.
_WITH_CLASSMETHOD = frozenset(("builtins.classmethod", "abc.abstractmethod", "typing.final", "typing.override"))
_WITH_ARGUMENTS = frozenset(("dataclasses.dataclass", "functools.lru_cache"))
_MIXED_INTO_ENUMS = frozenset(("builtins.bytes", "builtins.float", "builtins.int", "builtins.str"))
_PROPERTY_METHODS = ("setter", "getter", "deleter")
# Special methods and attributes that Python does not use when it creates classes or evaluates annotations.
_SPECIAL_NAMES = _names(
    """init post_init repr str eq ne lt le gt ge hash bool len iter next contains getitem setitem delitem enter exit call
    slots match_args doc add sub""",
    "__{}__",
)
_MODULE_NAMES = frozenset(("__all__", "__author__", "__date__", "__license__", "__version__"))
_PLAIN_TYPES = (int, float, str, bytes, bool, type(None))


class Kind(Enum):
    """What is known about a value."""

    PLAIN = auto()  # built from Python's own types only: nothing in it can be called
    LIBRARY = auto()  # a module, class or function of the standard library
    OWN_MODULE = auto()
    OWN_CLASS = auto()
    OWN_ENUM = auto()
    MEMBER = auto()  # an attribute of an Enum of the student's
    PROPERTY = auto()
    OPAQUE = auto()  # anything else: it may only be stored


@dataclass(frozen=True)
class Value:
    """What is known about a value. ``path`` is the full name of a library object, or of a module or class of the
    student's."""

    kind: Kind
    path: str = ""


_PLAIN, _MEMBER, _PROPERTY, _OPAQUE = (Value(kind) for kind in (Kind.PLAIN, Kind.MEMBER, Kind.PROPERTY, Kind.OPAQUE))
Names = dict[str, Value]


def library_object(path: str) -> Any:
    """The object of the standard library with this full name; ``None`` if there is none."""
    first, *rest = path.split(".")
    found: Any = builtins if first == "builtins" else importlib.import_module(first)
    module = first
    for name in rest:
        module = f"{module}.{name}"
        following = getattr(found, name, None)
        if following is None and isinstance(found, ModuleType):
            try:
                following = importlib.import_module(module)
            except ImportError:
                return None
        found = following
    return found


class DefinitionChecker:
    """Checks the modules of one submission.

    Args:
        modules: The names of the submission's modules.
        packages: Those of ``modules`` that are packages.
        tree: Returns the syntax tree of a module as it will be executed. Its exceptions propagate from :meth:`check`.
    """

    def __init__(self, modules: Collection[str], packages: Collection[str], tree: Callable[[str], ast.Module]) -> None:
        self._modules = modules
        self._packages = packages
        self._tree = tree
        self._checked: dict[str, Names | None] = {}  # None: the check of this module has begun but not ended
        self._bound: defaultdict[str, set[Value]] = defaultdict(set)
        self._fixed: defaultdict[str, set[Value]] = defaultdict(set)

    def check(self, name: str) -> Mapping[str, Value]:
        """Check a module, and the modules of the submission that it imports.

        Returns:
            The names that the module defines.

        Raises:
            DoesMore: Importing it may do more than define things.
        """
        if name in self._checked:
            return self._checked[name] or {}
        self._checked[name] = None
        for parent in _parents(name):
            if parent in self._modules:
                self.check(parent)
        module = _Module(self, name, name in self._packages)
        names = module.check(self._tree(name))
        self._checked[name] = names
        return names

    def check_all(self, names: Iterable[str]) -> None:
        """Check several modules, and that their names do not conflict. Raises :class:`DoesMore`."""
        for name in names:
            self.check(name)
        for name, meanings in self._fixed.items():
            if len(meanings | self._bound[name]) > 1:
                raise DoesMore(f"{name} has several meanings, and annotations use it")

    def is_own(self, name: str) -> bool:
        return name in self._modules

    def bound(self, name: str, value: Value) -> None:
        """Record that a module or a class body binds ``name``."""
        self._bound[name].add(value)

    def must_mean(self, name: str, value: Value) -> None:
        """Record that ``name`` must mean ``value`` everywhere in the submission."""
        self._fixed[name].add(value)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]


@dataclass
class _Scope:
    """The names of a module or a class body.

    Attributes:
        names: What is known about the value of each name.
        outer: The names of the module, for a class body.
        path: The full name of the class; empty for a module.
        is_enum: Whether the class is an ``Enum``.
        may_be_skipped: Whether the statements that are being checked may not be executed, or not all of them.
    """

    names: Names = field(default_factory=dict)
    outer: Names | None = None
    path: str = ""
    is_enum: bool = False
    may_be_skipped: bool = False

    @property
    def in_class(self) -> bool:
        return self.outer is not None


class _Module:
    """The check of one module."""

    def __init__(self, checker: DefinitionChecker, name: str, is_package: bool) -> None:
        self._checker = checker
        self._name = name
        self._package = name if is_package else name.rpartition(".")[0]

    def check(self, tree: ast.Module) -> Names:
        scope = _Scope()
        self._statements(tree.body, scope)
        return scope.names

    # --- statements ---

    def _statements(self, body: Iterable[ast.stmt], scope: _Scope) -> None:
        for statement in body:
            self._statement(statement, scope)

    def _statements_that_may_be_skipped(self, body: Iterable[ast.stmt], scope: _Scope) -> None:
        before, scope.may_be_skipped = scope.may_be_skipped, True
        self._statements(body, scope)
        scope.may_be_skipped = before

    def _statement(self, node: ast.stmt, scope: _Scope) -> None:
        match node:
            case ast.Pass() | ast.Expr(value=ast.Constant()):
                pass
            case ast.Expr(value=ast.Call() as call):
                self._effect(call, scope)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                self._bind(node.name, self._function(node, scope), scope, node)
            case ast.ClassDef():
                self._bind(node.name, self._class(node, scope), scope, node)
            case ast.Assign():
                value = self._value(node.value, scope)
                for target in node.targets:
                    self._assign(target, value, node.value, scope)
            case ast.AnnAssign(target=ast.Name()):
                self._annotation(node.annotation, scope)
                if node.value is not None:
                    self._assign(node.target, self._value(node.value, scope), node.value, scope)
            case ast.AugAssign(target=ast.Name(id=name)):
                self._plain(node.target, scope)
                self._plain(node.value, scope)
                self._bind(name, _PLAIN, scope, node)
            case ast.Import() if not scope.in_class:
                self._import(node, scope)
            case ast.ImportFrom() if not scope.in_class:
                self._import_from(node, scope)
            case ast.If():
                self._if(node, scope)
            case ast.Try(finalbody=[]):
                for handler in node.handlers:
                    if handler.name is not None or not isinstance(handler.type, ast.Name | ast.Tuple):
                        self._refuse(handler, "except")
                    self._value(handler.type, scope)
                for body in (node.body, *(handler.body for handler in node.handlers), node.orelse):
                    self._statements_that_may_be_skipped(body, scope)
            case _:
                self._refuse(node)

    def _refuse(self, node: Any, what: str = "") -> NoReturn:
        raise DoesMore(f"{self._name}, line {node.lineno}: {what or type(node).__name__}")

    def _bind(self, name: str, value: Value, scope: _Scope, node: ast.stmt) -> None:
        """Bind a name. It may be bound again only if the same is known about the new value as about the old one."""
        special = name.startswith("__") and name.endswith("__")
        if special and name not in (_SPECIAL_NAMES if scope.in_class else _MODULE_NAMES):
            self._refuse(node, name)
        if scope.is_enum and name.startswith("_"):
            self._refuse(node, f"{name} in an Enum")
        if not scope.in_class and self._checker.is_own(f"{self._name}.{name}") and value.kind is not Kind.OWN_MODULE:
            self._refuse(node, f"{name} is also a module")  # importing that module binds the name anew
        if scope.may_be_skipped and name not in scope.names:
            otherwise = self._lookup_outside(name, scope)  # what the name means if this statement is skipped
            if otherwise not in (None, value):
                self._refuse(node, f"{name} may have another meaning")
        if scope.names.get(name, value) != value:
            self._refuse(node, f"{name} is defined twice")
        scope.names[name] = value
        self._checker.bound(name, value)

    def _assign(self, target: ast.expr, value: Value, source: ast.expr, scope: _Scope) -> None:
        statement = typing.cast(ast.stmt, target)
        if isinstance(target, ast.Name):
            if (
                scope.is_enum
                and value.kind is not Kind.PLAIN
                and self._library_path_of_call(source, scope) != "enum.auto"
            ):
                self._refuse(target)
            self._bind(target.id, value, scope, statement)
            return
        if not isinstance(target, ast.Tuple | ast.List) or scope.is_enum:
            self._refuse(target)
        for position, part in enumerate(target.elts):
            if not isinstance(part, ast.Name):
                self._refuse(part)
            if isinstance(source, ast.Tuple | ast.List) and len(source.elts) == len(target.elts):
                self._bind(part.id, self._value(source.elts[position], scope), scope, statement)
            elif value.kind is Kind.PLAIN:
                self._bind(part.id, _PLAIN, scope, statement)
            else:
                self._refuse(target)

    def _library_path_of_call(self, node: ast.expr, scope: _Scope) -> str:
        return self._library_path(node.func, scope) if isinstance(node, ast.Call) else ""

    def _effect(self, call: ast.Call, scope: _Scope) -> None:
        """Check a call whose result nobody uses."""
        path = self._library_path(call.func, scope)
        if path not in _STATEMENTS or any(keyword.arg not in _STATEMENTS[path] for keyword in call.keywords):
            self._refuse(call)
        if path == "logging.basicConfig" and call.args:
            self._refuse(call)
        for argument in (*call.args, *(keyword.value for keyword in call.keywords)):
            self._plain(argument, scope)

    def _if(self, node: ast.If, scope: _Scope) -> None:
        never = isinstance(node.test, ast.Name | ast.Attribute) and (
            self._value(node.test, scope, constants=False) == Value(Kind.LIBRARY, "typing.TYPE_CHECKING")
        )
        match node.test:
            case ast.Compare(
                left=ast.Name(id="__name__"), ops=[ast.Eq()], comparators=[ast.Constant(value="__main__")]
            ):
                never = self._name != "__main__"
        if not never:
            self._plain(node.test, scope)
            self._statements_that_may_be_skipped(node.body, scope)
        self._statements_that_may_be_skipped(node.orelse, scope)

    # --- imports ---

    def _import(self, node: ast.Import, scope: _Scope) -> None:
        for alias in node.names:
            value = self._imported(alias.name, node)
            if alias.asname is None:
                first = alias.name.partition(".")[0]
                value = Value(value.kind, first)
                self._bind(first, value, scope, node)
            else:
                self._bind(alias.asname, value, scope, node)

    def _imported(self, name: str, node: ast.stmt) -> Value:
        """The module ``name``, which this statement imports."""
        first = name.partition(".")[0]
        if self._checker.is_own(first):
            if not self._checker.is_own(name):
                self._refuse(node)
            self._checker.check(name)
            return Value(Kind.OWN_MODULE, name)
        if first not in _MODULES and name not in _OWN_PACKAGE:
            self._refuse(node, f"import {name}")
        return Value(Kind.LIBRARY, name)

    def _import_from(self, node: ast.ImportFrom, scope: _Scope) -> None:
        name = node.module or ""
        if node.level:
            base = self._package.split(".")
            if not self._package or node.level > len(base):
                self._refuse(node)
            base = base[: len(base) - node.level + 1]
            name = ".".join([*base, name] if name else base)
        module = self._imported(name, node)
        for alias in node.names:
            if alias.name == "*":
                self._refuse(node)
            self._bind(alias.asname or alias.name, self._attribute(module, alias.name, node), scope, node)

    def _attribute(self, module: Value, name: str, node: ast.stmt | ast.expr) -> Value:
        """The attribute ``name`` of a module or library object."""
        if module.kind is Kind.LIBRARY:
            path = f"{module.path}.{name}"
            if name.startswith("__") or (module.path == "raftlab" and path not in _OWN_PACKAGE):
                self._refuse(node)
            return Value(Kind.LIBRARY, path)
        full = f"{module.path}.{name}"
        found = self._checker.check(module.path).get(name)
        if found is not None:
            return found
        if self._checker.is_own(full):
            self._checker.check(full)
            return Value(Kind.OWN_MODULE, full)
        return _OPAQUE

    # --- functions and classes ---

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef, scope: _Scope) -> Value:
        if getattr(node, "type_params", []):
            self._refuse(node)
        value = _OPAQUE
        paths = []
        for decorator in node.decorator_list:
            match decorator:
                case ast.Attribute(value=ast.Name(id=name), attr=attr) if attr in _PROPERTY_METHODS:
                    if scope.names.get(name) != _PROPERTY:
                        self._refuse(decorator)
                    value = _PROPERTY
                case _:
                    paths.append(self._decorator(decorator, _FUNCTION_DECORATORS, scope))
                    value = _PROPERTY if paths[-1] == "builtins.property" else value
        if "builtins.classmethod" in paths and not _WITH_CLASSMETHOD.issuperset(paths):
            self._refuse(node, "a property of a class")
        arguments = node.args
        for default in (*arguments.defaults, *arguments.kw_defaults):
            if default is not None:
                self._value(default, scope)
        for argument in (
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ):
            if argument is not None and argument.annotation is not None:
                self._annotation(argument.annotation, scope)
        if node.returns is not None:
            self._annotation(node.returns, scope)
        return value

    def _decorator(self, node: ast.expr, allowed: Collection[str], scope: _Scope) -> str:
        """The path of a decorator. The decorator must be one of ``allowed``."""
        if isinstance(node, ast.Call):
            path = self._library_path(node.func, scope)
            if path not in _WITH_ARGUMENTS:
                self._refuse(node)
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                self._plain(argument, scope)
        else:
            path = self._library_path(node, scope)
        if path not in allowed:
            self._refuse(node, "a decorator")
        return path

    def _class(self, node: ast.ClassDef, scope: _Scope) -> Value:
        if getattr(node, "type_params", []):
            self._refuse(node)
        bases = [self._base(base, scope) for base in node.bases]
        is_enum = any(base.kind is Kind.OWN_ENUM for base in bases)
        # To create an Enum's members, the class statement calls the constructors of the Enum's other bases.
        if is_enum and any(base.kind is not Kind.OWN_ENUM and base.path not in _MIXED_INTO_ENUMS for base in bases):
            self._refuse(node, "a base of an Enum")
        for keyword in node.keywords:
            if keyword.arg != "total" or not isinstance(keyword.value, ast.Constant):
                self._refuse(node, "a keyword of a class")
        for decorator in node.decorator_list:
            self._decorator(decorator, ("enum.unique",) if is_enum else _CLASS_DECORATORS, scope)
        path = f"{scope.path or self._name}.{node.name}"
        self._statements(node.body, _Scope({}, scope.names if scope.outer is None else scope.outer, path, is_enum))
        return Value(Kind.OWN_ENUM if is_enum else Kind.OWN_CLASS, path)

    def _base(self, node: ast.expr, scope: _Scope) -> Value:
        """A base class. An ``Enum`` of the library counts as an ``Enum`` of the student's."""
        if isinstance(node, ast.Subscript):
            self._value(node, scope)
            node = node.value
        value = self._value(node, scope)
        if value.kind in (Kind.OWN_CLASS, Kind.OWN_ENUM):
            return value
        if value.kind is not Kind.LIBRARY:
            self._refuse(node, "a base class")
        found = library_object(value.path)
        if found in (typing.NamedTuple, typing.TypedDict):
            return value
        if not isinstance(found, type) or issubclass(found, type):
            self._refuse(node, "a base class")
        return Value(Kind.OWN_ENUM) if issubclass(found, enum.Enum) else value

    # --- expressions ---

    def _plain(self, node: ast.expr, scope: _Scope) -> None:
        if self._value(node, scope).kind is not Kind.PLAIN:
            self._refuse(node)

    def _library_path(self, node: ast.expr, scope: _Scope) -> str:
        """The full name of the library object that ``node`` denotes; empty if it denotes something else."""
        if isinstance(node, ast.Attribute):
            if self._value(node.value, scope, constants=False).kind not in (Kind.LIBRARY, Kind.OWN_MODULE):
                return ""
        elif not isinstance(node, ast.Name):
            return ""
        value = self._value(node, scope, constants=False)
        return value.path if value.kind is Kind.LIBRARY else ""

    def _lookup(self, name: str, scope: _Scope) -> Value:
        if name in scope.names:
            return scope.names[name]
        return self._lookup_outside(name, scope) or _OPAQUE

    def _lookup_outside(self, name: str, scope: _Scope) -> Value | None:
        """What a name means that the scope itself does not bind; ``None`` if it is unknown."""
        if scope.outer is not None and name in scope.outer:
            return scope.outer[name]
        if name in ("__name__", "__file__", "__doc__", "__package__"):
            return _PLAIN
        return Value(Kind.LIBRARY, f"builtins.{name}") if hasattr(builtins, name) else None

    def _value(self, node: ast.expr, scope: _Scope, constants: bool = True) -> Value:
        """What is known about the value of an expression that the import evaluates.

        ``constants``: whether a constant of the library counts as plain."""
        match node:
            case ast.Constant():
                return _PLAIN
            case ast.Name() | ast.Attribute():
                value = self._reference(node, scope)
                if constants and value.kind is Kind.LIBRARY:
                    found = library_object(value.path)
                    if type(found) in _PLAIN_TYPES or found is sys.version_info:
                        return _PLAIN
                return value
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return self._all_plain(parts, scope)
            case ast.Set(elts=parts):
                self._hashable(parts, scope)
                return self._all_plain(parts, scope)
            case ast.Dict(keys=keys, values=values):
                if None in keys:
                    self._refuse(node)
                self._hashable([key for key in keys if key is not None], scope)
                return self._all_plain([*keys, *values], scope)
            case ast.Starred(value=value):
                self._plain(value, scope)
                return _PLAIN
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                return self._all_plain((left, right), scope)  # the operands may be classes: `int | None`
            case ast.BinOp(left=left, right=right):
                operands = [left, right]
            case ast.UnaryOp(operand=operand):
                operands = [operand]
            case ast.BoolOp(values=operands):
                pass
            case ast.Compare(left=left, comparators=others):
                operands = [left, *others]
            case ast.JoinedStr(values=operands):
                pass
            case ast.FormattedValue(value=value, format_spec=spec):
                operands = [value] if spec is None else [value, spec]
            case ast.Slice(lower=lower, upper=upper, step=step):
                operands = [part for part in (lower, upper, step) if part is not None]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._plain(test, scope)
                return self._all_plain((body, orelse), scope)
            case ast.Subscript(value=base, slice=index):
                return self._subscript(self._value(base, scope), index, node, scope)
            case ast.Lambda(args=arguments):
                for default in (*arguments.defaults, *arguments.kw_defaults):
                    if default is not None:
                        self._value(default, scope)
                return _OPAQUE
            case ast.ListComp(elt=element) | ast.SetComp(elt=element) | ast.GeneratorExp(elt=element):
                self._plain(element, self._comprehension(node, scope))
                return _PLAIN
            case ast.DictComp(key=key, value=value):
                inner = self._comprehension(node, scope)
                self._plain(key, inner)
                self._plain(value, inner)
                return _PLAIN
            case ast.Call():
                return self._call(node, scope)
            case _:
                self._refuse(node)
        for operand in operands:
            self._plain(operand, scope)
        return _PLAIN

    def _all_plain(self, parts: Iterable[ast.expr | None], scope: _Scope) -> Value:
        values = [self._value(part, scope) for part in parts if part is not None]
        return _PLAIN if all(value.kind is Kind.PLAIN for value in values) else _OPAQUE

    def _hashable(self, parts: Iterable[ast.expr], scope: _Scope) -> None:
        for part in parts:
            if self._value(part, scope).kind not in (Kind.PLAIN, Kind.MEMBER):
                self._refuse(part)

    def _reference(self, node: ast.Name | ast.Attribute, scope: _Scope) -> Value:
        if isinstance(node, ast.Name):
            return self._lookup(node.id, scope)
        if not isinstance(node.value, ast.Name | ast.Attribute) or node.attr.startswith("__"):
            self._refuse(node)
        base = self._reference(node.value, scope)
        if base.kind in (Kind.LIBRARY, Kind.OWN_MODULE):
            return self._attribute(base, node.attr, node)
        if base.kind not in (Kind.OWN_CLASS, Kind.OWN_ENUM):
            self._refuse(node)
        return _MEMBER if base.kind is Kind.OWN_ENUM else _OPAQUE

    def _subscript(self, base: Value, index: ast.expr, node: ast.expr, scope: _Scope) -> Value:
        value = self._value(index, scope)
        if base.kind is Kind.PLAIN and value.kind in (Kind.PLAIN, Kind.MEMBER):
            return _PLAIN
        if base.kind not in (Kind.LIBRARY, Kind.OWN_CLASS):
            self._refuse(node)
        return _OPAQUE

    def _comprehension(self, node: Any, scope: _Scope) -> _Scope:
        """The scope inside a comprehension."""
        if scope.in_class:
            self._refuse(node)  # a comprehension does not see the names of the class
        inner = _Scope(dict(scope.names))
        for generator in node.generators:
            self._plain(generator.iter, inner)
            targets = generator.target.elts if isinstance(generator.target, ast.Tuple) else [generator.target]
            for target in targets:
                if not isinstance(target, ast.Name):
                    self._refuse(target)
                inner.names[target.id] = _PLAIN
            for condition in generator.ifs:
                self._plain(condition, inner)
        return inner

    def _call(self, node: ast.Call, scope: _Scope) -> Value:
        arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
        path = self._library_path(node.func, scope)
        if path in _STORING_CALLS:
            for argument in arguments:
                self._value(argument, scope)
            return _OPAQUE
        plain_method = False
        if isinstance(node.func, ast.Attribute) and not path:  # a method of a value, which must be plain
            plain_method = not node.func.attr.startswith("_")
            self._plain(node.func.value, scope)
        if not plain_method and path not in _PLAIN_CALLS and path not in _OPAQUE_CALLS:
            self._refuse(node, "a call")
        for argument in arguments:
            self._plain(argument, scope)
        return _OPAQUE if path in _OPAQUE_CALLS else _PLAIN

    # --- annotations ---

    def _annotation(self, node: ast.expr, scope: _Scope) -> None:
        """Check an annotation. It may be evaluated now, or later with the names of another scope."""
        match node:
            case ast.Constant(value=str(text)):
                try:
                    inner = ast.parse(text, mode="eval").body
                except SyntaxError:
                    self._refuse(node, "an annotation")
                for part in ast.walk(inner):
                    if isinstance(part, ast.expr):
                        ast.copy_location(part, node)
                self._annotation(inner, scope)
            case ast.Constant() | ast.Name():
                pass
            case ast.Attribute():
                if self._annotation_base(node.value, scope).kind is Kind.OPAQUE:
                    self._refuse(node, "an annotation")
                self._reference(node, scope)
            case ast.Subscript(value=base, slice=index):
                value = self._annotation_base(base, scope)
                if value.kind not in (Kind.LIBRARY, Kind.OWN_CLASS):
                    self._refuse(node, "an annotation")
                literal = value == Value(Kind.LIBRARY, "typing.Literal")
                for part in index.elts if literal and isinstance(index, ast.Tuple) else [index]:
                    if not literal or not isinstance(part, ast.Constant):
                        self._annotation(part, scope)
            case ast.BinOp(left=left, op=ast.BitOr(), right=right):
                self._annotation(left, scope)
                self._annotation(right, scope)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                for part in parts:
                    self._annotation(part, scope)
            case _:
                self._refuse(node, "an annotation")

    def _annotation_base(self, node: ast.expr, scope: _Scope) -> Value:
        """Check ``X`` in an annotation ``X[...]`` or ``X.name``. The first name in ``X`` must mean the same wherever the
        annotation is evaluated."""
        first = node
        while isinstance(first, ast.Attribute):
            first = first.value
        if not isinstance(first, ast.Name) or not isinstance(node, ast.Name | ast.Attribute):
            self._refuse(node, "an annotation")
        self._checker.must_mean(first.id, self._lookup(first.id, scope))
        return self._reference(node, scope)
