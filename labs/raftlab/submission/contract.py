"""The contract check: whether a student's Raft class has the methods and messages that the tests use.

It runs before the first test, in a child of the untrusted host, in two stages: :func:`check_source` reads the file without
running it, and :func:`check_class` looks at the imported class. The first reports only what is certainly wrong, because
methods may be inherited, decorated or imported; then the second decides. The tests pass arguments by position, so students
may name parameters as they like.
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
from raftlab.messages import codec, message_types, type_annotations
from raftlab.messages.message_types import AnnotationFault
from raftlab.messages.protocol import Problem
from raftlab.submission import source
from raftlab.submission.outline import Function, Outline, class_names, may_bind
from raftlab.submission.source import Submission

API = "handouts/lab-2a.md#the-api-on-one-screen"
MESSAGES = "handouts/lab-2a-details.md#messages"
FIRST_RUN = "handouts/setup.md#first-run"

# The methods of the contract, with the names of their parameters as messages show them.
METHODS: dict[str, tuple[str, ...]] = {
    "__init__": ("peers", "me", "persister", "apply_ch", "members"),
    "start": ("command",),
    "get_state": (),
    "snapshot": ("index", "data"),
    "change_membership": ("members",),
    "status": (),
    **dict.fromkeys(codec.RPC_METHODS, ("args",)),
}
OPTIONAL = ("status",)

_VOTE: tuple[dict[str, type], dict[str, type]] = (
    {"term": int, "candidate_id": int, "last_log_index": int, "last_log_term": int},
    {"term": int, "vote_granted": bool},
)
# For each RPC, the paper's fields in the arguments and in the reply, with the types that the tests use.
PAPER: dict[str, tuple[dict[str, type], dict[str, type]]] = {
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
}  # fmt: skip
# The fields that lab 2E adds to entries and snapshots, in which the tests read who votes.
_CONFIGURATION_FIELDS = {"entries": ("kind", "members", "old_members"), "data": ("members", "old_members")}
# Examples of the commands that a log entry must be able to hold.
_COMMANDS: tuple[Any, ...] = (1, "x", [1], {"x": 1})


def _required_methods(lab: Lab) -> list[str]:
    return ["__init__", *lab.methods]


def _signature(method: str) -> str:
    return f"({', '.join(('self', *METHODS.get(method, ())))})"


def _wrong_parameters(method: str, declared: str) -> str:
    return f"Raft.{method} must take {_signature(method)}, but is declared ({declared})"


def _no_method(method: str, lab: Lab) -> str:
    return f"Raft has no method {method}{_signature(method)}, which lab {lab.name} needs"


def _is_async(method: str) -> str:
    return f"Raft.{method} is async; the labs use threads: write it with plain def"


def _is_generator(method: str) -> str:
    return f"Raft.{method} contains a yield, so calling it runs nothing: return the answer instead"


# --- stage one: the source, without importing it ---------------------------------------------------


def check_source(submission: Submission, lab: Lab) -> list[Problem]:
    """Return what is certainly wrong with the entry file, without running it. If nothing is, import the file next."""
    entry = submission.entry
    shown = submission.show(entry)
    try:
        tree = source.parse(entry, shown)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(tree, shown, "exec", dont_inherit=True)  # reports `return` outside a function, for example
    except source.SubmissionError as exc:
        return [Problem(str(exc), shown, FIRST_RUN)]
    except SyntaxError as exc:
        return [_syntax_problem(exc, submission)]
    except (RecursionError, MemoryError, ValueError):
        return [Problem(f"{shown} is nested too deeply for Python to read", shown, FIRST_RUN)]
    definitions = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Raft"]
    if not definitions:
        return [] if may_bind(tree, "Raft") else [_no_class(submission, class_names(tree))]
    if len(definitions) > 1 or not _is_self_contained(tree, definitions[0]):
        return []
    return list(_check_methods(definitions[0], shown, lab))


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


def _no_class(submission: Submission, names: Sequence[str]) -> Problem:
    shown = submission.show(submission.entry)
    outline = Outline(submission)
    text = f"{shown} has no class Raft"
    for name in submission.modules:
        tree = outline.tree(name)
        if name != submission.name and tree and "Raft" in class_names(tree):
            other = submission.show(submission.modules[name])
            text += f", but {other} has one: add `from {name} import Raft`"
            return Problem(text, f"{shown}:1", API)
    similar = [name for name in names if difflib.SequenceMatcher(None, name.lower(), "raft").ratio() > 0.6]
    if similar:
        text += f", but one named {similar[0]}: rename it Raft"
    elif names:
        shown_names = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        text += f", only {shown_names}: the tests look for the name Raft"
    return Problem(text, f"{shown}:1", API)


def _is_self_contained(tree: ast.Module, raft: ast.ClassDef) -> bool:
    """Whether the class body alone shows which methods exist: none is inherited, made by a decorator or set later."""
    bases = [base for base in raft.bases if getattr(base, "id", "") != "object"]
    if bases or raft.keywords or raft.decorator_list:
        return False
    plain = (Function, ast.AnnAssign, ast.Assign, ast.Expr, ast.Pass, ast.ClassDef)
    if not all(isinstance(node, plain) for node in raft.body):
        return False
    for node in ast.walk(tree):
        rebound = isinstance(node, ast.Name) and node.id == "Raft" and not isinstance(node.ctx, ast.Load)
        patched = (
            isinstance(node, ast.Attribute)
            and not isinstance(node.ctx, ast.Load)
            and getattr(node.value, "id", "") in ("Raft", "cls")
        )
        hidden = isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "setattr", "globals", "exec", "vars", "locals",
        )  # fmt: skip
        if rebound or patched or hidden or (isinstance(node, ast.alias) and node.asname == "Raft"):
            return False
    return True


def _check_methods(raft: ast.ClassDef, shown: str, lab: Lab) -> Iterator[Problem]:
    defined: dict[str, list[Function]] = {}
    assigned: set[str] = set()
    for node in raft.body:
        if isinstance(node, Function):
            defined.setdefault(node.name, []).append(node)
        else:
            assigned |= {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}
    for method in (*_required_methods(lab), *OPTIONAL):
        if method in assigned:
            continue
        definitions = defined.get(method, [])
        if not definitions:
            if method not in OPTIONAL:
                yield Problem(_no_method(method, lab), f"{shown}:{raft.lineno}", API)
            continue
        definition = definitions[-1]
        where = f"{shown}:{definition.lineno}"
        if definition.decorator_list:
            continue
        if isinstance(definition, ast.AsyncFunctionDef):
            yield Problem(_is_async(method), where, API)
        elif not _accepts(definition.args, len(METHODS.get(method, ())) + 1):
            yield Problem(_wrong_parameters(method, _declared(definition.args)), where, API)


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


def check_module(module: Any, lab: Lab, submission: Submission) -> list[Problem]:
    """Call :func:`check_class` with the ``Raft`` of the imported entry module, or with ``None``."""
    return check_class(getattr(module, "Raft", None), lab, submission)


def check_class(raft_class: Any, lab: Lab, submission: Submission) -> list[Problem]:
    """Return what is wrong with the imported ``Raft``; ``raft_class`` is ``None`` if the module has none.

    Call it while ``sys.modules`` holds the student's module: annotations are looked up there.
    """
    shown = submission.show(submission.entry)
    if raft_class is None:
        tree = Outline(submission).tree(submission.name)
        return [_no_class(submission, class_names(tree) if tree else [])]
    if not isinstance(raft_class, type):
        kind = type(raft_class).__name__
        return [Problem(f"Raft in {shown} is not a class (it is of type {kind})", f"{shown}:1", API)]
    outline = Outline(submission)
    problems: list[Problem] = []
    for method in (*_required_methods(lab), *OPTIONAL):
        text = _check_method(raft_class, method, lab)
        if text:
            problems.append(Problem(text, outline.where_method(raft_class, method), API))
    seen: set[Any] = set()
    for method in lab.methods:
        if method in PAPER and callable(getattr(raft_class, method, None)):
            problems += _check_handler(raft_class, method, outline, seen)
            if "change_membership" in lab.methods and not problems:
                problems += _check_configuration_fields(raft_class, method, lab, outline)
    return problems


def _check_method(raft_class: type, method: str, lab: Lab) -> str:
    """What is wrong with one method; empty if nothing is."""
    static = inspect.getattr_static(raft_class, method, None)
    attribute = getattr(raft_class, method, None)
    if attribute is None or static is object.__init__:
        return "" if method in OPTIONAL else _no_method(method, lab)
    if isinstance(static, property):
        return f"Raft.{method} is a property; the tests call it: remove @property"
    if not callable(attribute):
        return f"Raft.{method} is not a method but {_kind(attribute)}"
    inner = inspect.unwrap(attribute)
    if inspect.iscoroutinefunction(attribute) or inspect.isasyncgenfunction(attribute):
        return _is_async(method)
    if inspect.isgeneratorfunction(attribute) and inner is attribute:
        return _is_generator(method)
    # A decorator may add or remove arguments, so look at the outermost function: the tests call that one.
    try:
        signature = inspect.signature(attribute, follow_wrapped=False)
    except (TypeError, ValueError):
        return ""
    count = len(METHODS.get(method, ()))
    bound = isinstance(static, staticmethod | classmethod)
    counts = [count if bound else count + 1]
    if not inspect.isroutine(attribute):
        counts.append(count)  # a callable object is not bound to the instance
    if any(_binds(signature, number) for number in counts):
        return ""
    return _wrong_parameters(method, _parameters(signature))


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


def _check_handler(raft_class: type, method: str, outline: Outline, seen: set[Any]) -> Iterator[Problem]:
    try:
        messages = message_types.handler_types(raft_class, method)
    except AnnotationFault as fault:
        yield Problem(str(fault), outline.where_method(raft_class, method), MESSAGES)
        return
    for message, fields in zip(messages, PAPER[method], strict=True):
        if (message, *fields) not in seen:
            seen.add((message, *fields))
            yield from _check_message(message, fields, outline)


def _check_message(message: Any, paper: dict[str, type], outline: Outline) -> Iterator[Problem]:
    known = message_types.Shapes()
    cls = typing.get_origin(message) or message
    try:
        codec.check_message(message, known)
        hints = known.fields(cls)
    except AnnotationFault as fault:
        where = outline.where_field(fault.owner or cls, fault.field)
        yield Problem(str(fault), where, MESSAGES)
        return
    problems = list(_check_fields(cls, paper, hints, outline))
    yield from problems
    if "entries" in paper and "entries" in hints:
        yield from _check_entries(cls, hints["entries"], known, outline)


def _check_fields(cls: type, paper: dict[str, type], hints: dict[str, Any], outline: Outline) -> Iterator[Problem]:
    """Check that a message has the paper's fields with the paper's types, and that every other field has a default."""
    renamed = set()
    for name, kind in paper.items():
        if name not in hints:
            similar = next((other for other in hints if _normalized(other) == _normalized(name)), "")
            renamed.add(similar)
            hint = f"rename its field {similar}" if similar else "the tests use the paper's names in snake_case"
            yield Problem(f"{cls.__name__} has no field {name}: {hint}", outline.where_class(cls), MESSAGES)
        elif kind is not list and not type_annotations.accepts(hints[name], kind):
            declared = type_annotations.type_name(hints[name])
            text = f"{cls.__name__}.{name} is declared {declared}; it must be {kind.__name__}"
            yield Problem(text, outline.where_field(cls, name), MESSAGES)
    for field in dataclasses.fields(cls):
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if field.name not in paper and field.name not in renamed and required:
            text = f"{cls.__name__}.{field.name} needs a default value, so that the tests can leave it out"
            yield Problem(text, outline.where_field(cls, field.name), MESSAGES)


def _check_configuration_fields(raft_class: type, method: str, lab: Lab, outline: Outline) -> Iterator[Problem]:
    """Check that entries and snapshots can carry a configuration (lab 2E), in the fields that the skeleton has."""
    message = message_types.handler_types(raft_class, method)[0]
    known = message_types.Shapes()
    cls = typing.get_origin(message) or message
    hints = known.fields(cls)
    for field, names in _CONFIGURATION_FIELDS.items():
        if field not in PAPER[method][0]:
            continue
        holder = type_annotations.element_of(hints[field]) if field == "entries" else cls
        for name in names:
            if holder is not None and name not in known.fields(holder):
                text = f"{holder.__name__} has no field {name}, in which the tests of lab {lab.name} read who votes"
                yield Problem(f"{text}: copy it from the skeleton", outline.where_class(holder), MESSAGES)


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


# --- when the import fails --------------------------------------------------------------------------------


def explain_import_error(exc: BaseException, submission: Submission) -> Problem:
    """The problem for an exception that was raised while importing the submission, with the student's innermost line."""
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
