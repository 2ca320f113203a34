"""The contract check: whether a student's classes have the methods and messages that the tests use.

The check runs before the first test, in a child of the untrusted host, in two stages. :func:`check_source` reads the
source without running it. It reports only what is certainly wrong, because methods may be inherited, decorated or
imported. :func:`check_module` then looks at the imported class, and decides the rest. The tests pass arguments by
position, so students may name parameters as they like.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import traceback
import typing
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from raftlab.labs import Lab
from raftlab.messages import codec, message_types, paper, type_annotations
from raftlab.messages.message_types import AnnotationFault
from raftlab.messages.protocol import Problem
from raftlab.submission import source
from raftlab.submission.outline import Function, Outline, class_names, may_bind
from raftlab.submission.source import Submission

API = "handouts/lab-2a.md#the-api-on-one-screen"
MESSAGES = "handouts/lab-2a-details.md#messages"
FIRST_RUN = "handouts/setup.md#first-run"


@dataclasses.dataclass(frozen=True, slots=True)
class ClassContract:
    """What the tests of a lab need of one class of a submission.

    Attributes:
        name: The name of the class.
        role: ``"raft"`` or ``"kv"``, see :meth:`raftlab.submission.source.Submission.module_of_role`.
        methods: The methods to check, with the names of their parameters as messages show them.
        optional: Those of ``methods`` that may be missing.
        lab: The lab.
        api: The section of a handout that shows the methods.
        messages: The section of a handout that shows the messages.
    """

    name: str
    role: str
    methods: dict[str, tuple[str, ...]]
    optional: frozenset[str]
    lab: Lab
    api: str = API
    messages: str = MESSAGES

    def handlers(self) -> list[str]:
        """The methods that are RPC handlers."""
        return [method for method in self.methods if method in paper.FIELDS]


_RAFT_METHODS: dict[str, tuple[str, ...]] = {
    "__init__": ("peers", "me", "persister", "apply_ch", "members"),
    "start": ("command",),
    "get_state": (),
    "snapshot": ("index", "data"),
    "change_membership": ("members",),
    "transfer_leadership": ("target",),
    "read_index": (),
    "lease_index": (),
    "status": (),
    **dict.fromkeys(codec.RPC_METHODS, ("args",)),
}
_SERVICE_METHODS: dict[str, tuple[str, ...]] = {
    "__init__": ("raft", "applied", "stored", "me", "servers", "max_state", "max_sessions"),
    "client_request": ("args",),
}
_CLERK_METHODS: dict[str, tuple[str, ...]] = {
    "__init__": ("servers", "client_id"),
    "get": ("key",),
    "put": ("key", "value"),
    "append": ("key", "value"),
    "swap": ("key", "expected", "value"),
}
_API_3A = "handouts/lab-3a.md#the-api-on-one-screen"
_MESSAGES_3A = "handouts/lab-3a-details.md#the-messages"


def contracts(lab: Lab) -> list[ClassContract]:
    """What ``lab`` needs: a Raft, and from lab 3A on a service and a clerk."""
    methods = {method: _RAFT_METHODS[method] for method in ("__init__", *lab.methods, "status")}
    found = [ClassContract("Raft", "raft", methods, frozenset({"status", *lab.optional}), lab)]
    if lab.has("service"):
        clerk = {**_CLERK_METHODS, "get": ("key", "read")} if lab.has("reads") else _CLERK_METHODS
        for name, wanted in (("KVServer", _SERVICE_METHODS), ("Clerk", clerk)):
            found.append(ClassContract(name, "kv", wanted, frozenset(), lab, _API_3A, _MESSAGES_3A))
    return found


# The fields that lab 2E adds to entries and snapshots. From these fields, the tests read who may vote.
_CONFIGURATION_FIELDS = {"entries": ("kind", "members", "old_members"), "data": ("members", "old_members")}
# Examples of the commands that a log entry must be able to hold.
_COMMANDS: tuple[Any, ...] = (1, "x", [1], {"x": 1})


def _signature(parameters: tuple[str, ...]) -> str:
    return f"({', '.join(('self', *parameters))})"


def _wrong_parameters(contract: ClassContract, method: str, declared: str) -> str:
    wanted = _signature(contract.methods[method])
    return f"{contract.name}.{method} must take {wanted}, but is declared ({declared})"


def _no_method(contract: ClassContract, method: str) -> str:
    wanted = _signature(contract.methods[method])
    return f"{contract.name} has no method {method}{wanted}, which lab {contract.lab.name} needs"


def _is_async(contract: ClassContract, method: str) -> str:
    return f"{contract.name}.{method} is async; the labs use threads: write it with plain def"


def _is_generator(contract: ClassContract, method: str) -> str:
    return f"{contract.name}.{method} contains a yield, so calling it runs nothing: return the answer instead"


# --- stage one: the source, without importing it ---------------------------------------------------


def check_source(submission: Submission, lab: Lab) -> list[Problem]:
    """Find what is certainly wrong with the files of the contract's classes, without running these files. If nothing is
    found, the files can be imported next."""
    problems: list[Problem] = []
    for contract in contracts(lab):
        found = _check_source_of(submission, contract)
        problems += [problem for problem in found if problem not in problems]
    return problems


def _check_source_of(submission: Submission, contract: ClassContract) -> list[Problem]:
    try:
        path = submission.modules[submission.module_of_role(contract.role)]
    except source.SubmissionError as exc:
        return [Problem(f"{exc}, which lab {contract.lab.name} needs", "", contract.api)]
    shown, name = submission.show(path), contract.name
    try:
        tree = source.parse(path, shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, shown, "exec", dont_inherit=True)  # finds more errors, such as `return` outside a function
    except source.SubmissionError as exc:
        return [Problem(str(exc), shown, FIRST_RUN)]
    except SyntaxError as exc:
        return [_syntax_problem(exc, submission)]
    except (RecursionError, MemoryError, ValueError):
        return [Problem(f"{shown} is nested too deeply for Python to read", shown, FIRST_RUN)]
    definitions = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    if not definitions:
        return [] if may_bind(tree, name) else [_no_class(submission, contract, class_names(tree))]
    if len(definitions) > 1 or not _is_self_contained(tree, definitions[0]):
        return []
    return list(_check_methods(definitions[0], shown, contract))


def _syntax_problem(exc: SyntaxError, submission: Submission) -> Problem:
    """The problem for a syntax error in any file of the submission."""
    shown = submission.show(exc.filename or submission.entry)
    lines: list[str] = []
    for path in submission.modules.values():
        if submission.show(path) == shown:
            try:
                lines = source.read(path).splitlines()
            except source.SubmissionError as error:
                return Problem(str(error), shown, FIRST_RUN)
    number = exc.lineno or 0
    line = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    text = f"{shown} is not valid Python: {exc.msg}" + (f", in the line: {line[:80]}" if line else "")
    return Problem(text, f"{shown}:{number}" if number else shown, FIRST_RUN)


def _no_class(submission: Submission, contract: ClassContract, names: Sequence[str]) -> Problem:
    own, wanted = submission.module_of_role(contract.role), contract.name
    shown = submission.show(submission.modules[own])
    outline = Outline(submission)
    text = f"{shown} has no class {wanted}"
    for name in submission.modules:
        tree = outline.tree(name)
        if name != own and tree and wanted in class_names(tree):
            other = submission.show(submission.modules[name])
            text += f", but {other} has one: add `from {name} import {wanted}`"
            return Problem(text, f"{shown}:1", contract.api)
    similar = [name for name in names if difflib.SequenceMatcher(None, name.lower(), wanted.lower()).ratio() > 0.6]
    if similar:
        text += f", but one named {similar[0]}: rename it {wanted}"
    elif names:
        shown_names = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        text += f", only {shown_names}: the tests look for the name {wanted}"
    return Problem(text, f"{shown}:1", contract.api)


def _is_self_contained(tree: ast.Module, found: ast.ClassDef) -> bool:
    """Whether the class body alone shows which methods exist: none is inherited, made by a decorator, or set later."""
    bases = [base for base in found.bases if getattr(base, "id", "") != "object"]
    if bases or found.keywords or found.decorator_list:
        return False
    plain = (Function, ast.AnnAssign, ast.Assign, ast.Expr, ast.Pass, ast.ClassDef)
    if not all(isinstance(node, plain) for node in found.body):
        return False
    for node in ast.walk(tree):
        rebound = isinstance(node, ast.Name) and node.id == found.name and not isinstance(node.ctx, ast.Load)
        patched = (
            isinstance(node, ast.Attribute)
            and not isinstance(node.ctx, ast.Load)
            and getattr(node.value, "id", "") in (found.name, "cls")
        )
        hidden = isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "setattr", "globals", "exec", "vars", "locals",
        )  # fmt: skip
        if rebound or patched or hidden or (isinstance(node, ast.alias) and node.asname == found.name):
            return False
    return True


def _check_methods(found: ast.ClassDef, shown: str, contract: ClassContract) -> Iterator[Problem]:
    defined: dict[str, list[Function]] = {}
    assigned: set[str] = set()
    for node in found.body:
        if isinstance(node, Function):
            defined.setdefault(node.name, []).append(node)
        else:
            assigned |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    for method, parameters in contract.methods.items():
        if method in assigned:
            continue
        definitions = defined.get(method, [])
        if not definitions:
            if method not in contract.optional:
                yield Problem(_no_method(contract, method), f"{shown}:{found.lineno}", contract.api)
            continue
        definition = definitions[-1]
        where = f"{shown}:{definition.lineno}"
        if definition.decorator_list:
            continue
        if isinstance(definition, ast.AsyncFunctionDef):
            yield Problem(_is_async(contract, method), where, contract.api)
        elif not _accepts(definition.args, len(parameters) + 1):
            yield Problem(_wrong_parameters(contract, method, _declared(definition.args)), where, contract.api)


def _accepts(args: ast.arguments, count: int) -> bool:
    """Whether a function with these parameters can be called with ``count`` positional arguments."""
    positional = len(args.posonlyargs) + len(args.args)
    required = positional - len(args.defaults)
    keywords = any(default is None for default in args.kw_defaults)
    return required <= count and (positional >= count or args.vararg is not None) and not keywords


def _declared(args: ast.arguments) -> str:
    """The parameters as the student wrote them, without annotations."""
    bare = ast.parse(f"lambda {ast.unparse(_without_annotations(args))}: 0", mode="eval").body
    assert isinstance(bare, ast.Lambda)
    return ast.unparse(bare.args)


def _without_annotations(args: ast.arguments) -> ast.arguments:
    def bare(arg: ast.arg) -> ast.arg:
        return ast.arg(arg.arg)

    return ast.arguments(
        posonlyargs=[bare(arg) for arg in args.posonlyargs],
        args=[bare(arg) for arg in args.args],
        vararg=bare(args.vararg) if args.vararg else None,
        kwonlyargs=[bare(arg) for arg in args.kwonlyargs],
        kw_defaults=args.kw_defaults,
        kwarg=bare(args.kwarg) if args.kwarg else None,
        defaults=args.defaults,
    )


# --- stage two: the class ---------------------------------------------------------------------------------


def check_module(module: Any, contract: ClassContract, submission: Submission) -> list[Problem]:
    """Return what is wrong with the contract's class in an imported module.

    Call it while ``sys.modules`` holds the student's modules, because annotations are looked up in them.
    """
    found = getattr(module, contract.name, None)
    own = submission.module_of_role(contract.role)
    shown = submission.show(submission.modules[own])
    if found is None:
        tree = Outline(submission).tree(own)
        return [_no_class(submission, contract, class_names(tree) if tree else [])]
    if not isinstance(found, type):
        kind = type(found).__name__
        return [
            Problem(f"{contract.name} in {shown} is not a class (it is of type {kind})", f"{shown}:1", contract.api)
        ]
    outline = Outline(submission)
    problems: list[Problem] = []
    for method in contract.methods:
        text = _check_method(found, method, contract)
        if text:
            problems.append(Problem(text, outline.where_method(found, method), contract.api))
    seen: set[Any] = set()
    lab, methods = contract.lab, contract.methods
    for method in contract.handlers():
        if callable(getattr(found, method, None)):
            problems += _check_handler(found, method, contract, outline, seen)
            if "change_membership" in methods and hasattr(found, "change_membership") and not problems:
                problems += _check_configuration_fields(found, method, lab, outline)
    if "timeout_now" in methods and not problems:
        problems += _check_transfer_flag(found, lab, outline)
    return problems


def _check_method(owner: type, method: str, contract: ClassContract) -> str:
    """The problem with one method; empty if there is none."""
    static = inspect.getattr_static(owner, method, None)
    attribute = getattr(owner, method, None)
    if attribute is None or static is object.__init__:
        return "" if method in contract.optional else _no_method(contract, method)
    if isinstance(static, property):
        return f"{contract.name}.{method} is a property; the tests call it: remove @property"
    if not callable(attribute):
        return f"{contract.name}.{method} is not a method but {_kind(attribute)}"
    inner = inspect.unwrap(attribute)
    if inspect.iscoroutinefunction(attribute) or inspect.isasyncgenfunction(attribute):
        return _is_async(contract, method)
    if inspect.isgeneratorfunction(attribute) and inner is attribute:
        return _is_generator(contract, method)
    # A decorator may add or remove parameters. The tests call the outermost function, so check that one.
    try:
        signature = inspect.signature(attribute, follow_wrapped=False)
    except (TypeError, ValueError):
        return ""
    count = len(contract.methods[method])
    bound = isinstance(static, staticmethod | classmethod)
    counts = [count if bound else count + 1]
    if not inspect.isroutine(attribute):
        counts.append(count)  # a callable object does not get the instance as an argument
    if any(_binds(signature, number) for number in counts):
        return ""
    return _wrong_parameters(contract, method, _parameters(signature))


class _Ellipsis:
    """A default value that is shown as three dots."""

    def __repr__(self) -> str:
        return "..."


def _parameters(signature: inspect.Signature) -> str:
    """The parameters without annotations. Defaults whose text may differ from run to run are shown as ``...``."""
    empty, shown = inspect.Parameter.empty, []
    for parameter in signature.parameters.values():
        plain = parameter.default is empty or type(parameter.default) in type_annotations.SCALARS
        shown.append(parameter.replace(annotation=empty, default=parameter.default if plain else _Ellipsis()))
    return str(signature.replace(parameters=shown, return_annotation=inspect.Signature.empty))[1:-1]


def _binds(signature: inspect.Signature, count: int) -> bool:
    try:
        signature.bind(*[None] * count)
    except TypeError:
        return False
    return True


def _kind(value: Any) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _check_handler(
    owner: type, method: str, contract: ClassContract, outline: Outline, seen: set[Any]
) -> Iterator[Problem]:
    try:
        messages = message_types.handler_types(owner, method)
    except AnnotationFault as fault:
        yield Problem(str(fault), outline.where_method(owner, method), contract.messages)
        return
    for message, fields in zip(messages, paper.FIELDS[method], strict=True):
        if (message, *fields) not in seen:
            seen.add((message, *fields))
            yield from _check_message(message, fields, contract, outline)


def _check_message(
    message: Any, wanted: dict[str, Any], contract: ClassContract, outline: Outline
) -> Iterator[Problem]:
    known = message_types.Shapes()
    cls = typing.get_origin(message) or message
    try:
        codec.check_message(message, known)
        hints = known.fields(cls)
    except AnnotationFault as fault:
        where = outline.where_field(fault.owner or cls, fault.field)
        yield Problem(str(fault), where, contract.messages)
        return
    yield from _check_fields(cls, wanted, hints, outline, contract.messages)
    if "entries" in wanted and "entries" in hints:
        yield from _check_entries(cls, hints["entries"], known, outline)


def _check_fields(
    cls: type, wanted: dict[str, Any], hints: dict[str, Any], outline: Outline, handout: str = MESSAGES
) -> Iterator[Problem]:
    """Check that a message has the contract's fields with their types, and that every other field has a default."""
    renamed = set()
    for name, kind in wanted.items():
        if name not in hints:
            similar = next((other for other in hints if _normalized(other) == _normalized(name)), "")
            renamed.add(similar)
            named = "the paper's names in snake_case" if handout == MESSAGES else "the names in the skeleton"
            hint = f"rename its field {similar}" if similar else f"the tests use {named}"
            yield Problem(f"{cls.__name__} has no field {name}: {hint}", outline.where_class(cls), handout)
        elif kind is not list and not all(
            type_annotations.accepts(hints[name], arm) for arm in type_annotations.arms_of(kind)
        ):
            declared = type_annotations.type_name(hints[name])
            text = f"{cls.__name__}.{name} is declared {declared}; it must be {type_annotations.type_name(kind)}"
            yield Problem(text, outline.where_field(cls, name), handout)
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name not in wanted and field.name not in renamed and required:
            text = f"{cls.__name__}.{field.name} needs a default value, so that the tests can leave it out"
            yield Problem(text, outline.where_field(cls, field.name), handout)


def _check_configuration_fields(raft_class: type, method: str, lab: Lab, outline: Outline) -> Iterator[Problem]:
    """Check that entries and snapshots can carry a configuration (lab 2E), in the fields that the skeleton has."""
    message = message_types.handler_types(raft_class, method)[0]
    known = message_types.Shapes()
    cls = typing.get_origin(message) or message
    hints = known.fields(cls)
    for field, names in _CONFIGURATION_FIELDS.items():
        if field not in paper.FIELDS[method][0]:
            continue
        holder = type_annotations.element_of(hints[field]) if field == "entries" else cls
        for name in names:
            if holder is not None and name not in known.fields(holder):
                text = f"{holder.__name__} has no field {name}, in which the tests of lab {lab.name} read who votes"
                yield Problem(f"{text}: copy it from the skeleton", outline.where_class(holder), MESSAGES)


def _check_transfer_flag(raft_class: type, lab: Lab, outline: Outline) -> Iterator[Problem]:
    """Check that RequestVote has the flag for elections that a leader asked for (lab 2G)."""
    message = message_types.handler_types(raft_class, "request_vote")[0]
    cls = typing.get_origin(message) or message
    hint, name = message_types.Shapes().fields(cls).get(paper.TRANSFER_FLAG), paper.TRANSFER_FLAG
    if hint is None:
        text = f"{cls.__name__} has no field {name}, in which the tests of lab {lab.name} read whether a transfer"
        yield Problem(f"{text} began this election: copy it from the skeleton", outline.where_class(cls), MESSAGES)
    elif not type_annotations.accepts(hint, bool):
        text = f"{cls.__name__}.{name} is declared {type_annotations.type_name(hint)}; it must be bool"
        yield Problem(text, outline.where_field(cls, name), MESSAGES)


def _normalized(name: str) -> str:
    return name.replace("_", "").lower()


def _check_entries(cls: type, hint: Any, known: message_types.Shapes, outline: Outline) -> Iterator[Problem]:
    entry = type_annotations.element_of(hint)
    if entry is None:
        text = (
            f"{cls.__name__}.entries is declared {type_annotations.type_name(hint)}; it must be a list of a dataclass"
        )
        yield Problem(f"{text}, as in list[LogEntry]", outline.where_field(cls, "entries"), MESSAGES)
        return
    hints = known.fields(entry)
    yield from _check_fields(entry, {"term": int, "command": list}, hints, outline)
    if "command" in hints and not all(_converts(command, hints["command"]) for command in _COMMANDS):
        declared = type_annotations.type_name(hints["command"])
        text = f"{entry.__name__}.command is declared {declared}; commands are any JSON-like values: use Any"
        yield Problem(text, outline.where_field(entry, "command"), MESSAGES)


def _converts(value: Any, hint: Any) -> bool:
    if type_annotations.is_any(hint):
        return True
    try:
        return bool(msgspec.convert(value, hint) == value)
    except msgspec.ValidationError:
        return False


def kv_imports_raft(submission: Submission) -> Problem:
    """The problem for a kv.py that imports the submission's own Raft. A kv.py must work with any Raft that it is
    given."""
    shown = submission.show(submission.modules["kv"])
    text = f"{shown} imports {submission.name}, but a service is given its Raft, which may be another one"
    return Problem(text, f"{shown}:1", "handouts/lab-3a.md#which-files")


# --- when the import fails --------------------------------------------------------------------------------


def explain_import_error(exc: BaseException, submission: Submission) -> Problem:
    """The problem for an exception that the import of the submission raised, with the student's innermost line."""
    shown = submission.show(submission.entry)
    where = _last_line(exc, submission) or shown
    if isinstance(exc, SyntaxError):
        return _syntax_problem(exc, submission)
    if isinstance(exc, SystemExit):
        text = f"{shown} ends the program when it is imported: put that under `if __name__ == '__main__':`"
        return Problem(text, where, FIRST_RUN)
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        return Problem(_module_not_found(exc.name, where.partition(":")[0], submission), where, FIRST_RUN)
    message = _first_line(exc)
    if isinstance(exc, ImportError):
        if "relative import" in message:
            text = f"relative imports do not work beside {shown}: write `from log import ...`, without the dot"
            return Problem(text, where, FIRST_RUN)
        message = message.partition(" (")[0]  # the rest is a path on this machine
    name = type(exc).__name__
    return Problem(f"importing {shown} raised {name}{': ' if message else ''}{message}", where, FIRST_RUN)


def _module_not_found(name: str, importer: str, submission: Submission) -> str:
    top = name.partition(".")[0]
    folder = submission.root / top
    if top == "raftlab":
        return f"{importer} imports {name}, which does not exist: a submission imports from raftlab.api"
    if top not in submission.modules and folder.is_dir():
        return f"{importer} imports {name}, but the folder {top} has no __init__.py: add an empty one"
    entry = submission.entry.name
    siblings = sorted({module.partition(".")[0] for module in submission.modules} - {submission.name})
    files = f" ({', '.join(siblings[:8])}{', ...' if len(siblings) > 8 else ''})" if siblings else ""
    return (
        f"{importer} imports {name}, which is not there: "
        f"only the standard library and modules beside {entry}{files} can be imported"
    )


def _last_line(exc: BaseException, submission: Submission) -> str:
    """The innermost line of the submission in a traceback, as ``file:line``; empty if there is none."""
    files = {}
    for path in submission.modules.values():
        files[str(path)] = files[submission.show(path)] = submission.show(path)
    where = ""
    for frame, line in traceback.walk_tb(exc.__traceback__):
        shown = files.get(frame.f_code.co_filename)
        if shown:
            where = f"{shown}:{line}"
    return where


def _first_line(exc: BaseException) -> str:
    """The first line of an exception's message; empty if its ``__str__`` fails."""
    try:
        lines = str(exc).splitlines()
    except Exception:
        return ""
    return lines[0][:200] if lines else ""
