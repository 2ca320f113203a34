"""Mistakes in locking that the source alone shows: decisions that are used after the lock has been released, and waits that
can miss the event that they wait for.

No rule may report code that checks its decision again under the lock. If a rule cannot tell, it reports nothing.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

_LOCKS = frozenset(("Lock", "RLock", "Condition"))
_MESSAGES = ("RequestVoteArgs", "AppendEntriesArgs", "InstallSnapshotArgs")
_STORING = frozenset(("append", "add", "extend", "insert", "pop", "remove", "clear", "update", "discard", "setdefault"))
Function = ast.FunctionDef | ast.AsyncFunctionDef


class StaticFinding(NamedTuple):
    """``kind`` is one of :data:`raftlab.explain.races.KINDS`; findings with the same ``key`` are one mistake."""

    kind: str
    key: str
    text: str


@dataclass
class _Method:
    """The effects of one function on the fields of ``self``, including the effects of the methods that it calls."""

    node: Function
    file: str
    reads: set[str] = field(default_factory=set)
    tests: set[str] = field(default_factory=set)  # fields read in a condition
    writes: set[str] = field(default_factory=set)
    calls: set[str] = field(default_factory=set)
    calls_in_tests: set[str] = field(default_factory=set)


@dataclass
class _Source:
    """Facts that the rules need about a unit, see :func:`_units`. ``threads`` and ``called_in_loops`` cover all modules,
    because threads may be started, and methods called, from anywhere."""

    methods: dict[str, list[_Method]] = field(default_factory=dict)
    locks: dict[str, str] = field(default_factory=dict)  # by field of a lock or condition: the field of the lock taken
    conditions: set[str] = field(default_factory=set)
    threads: set[str] = field(default_factory=set)  # functions that are started as threads
    called_in_loops: set[str] = field(default_factory=set)


def check(trees: Mapping[str, ast.Module]) -> list[StaticFinding]:
    """The findings in the modules ``trees``, which are given by file name."""
    everywhere = _read_calls(trees)
    found = (finding for unit in _units(trees) for finding in _findings(_read(unit, everywhere)))
    return list(dict.fromkeys(found))  # without duplicates: a function outside the classes belongs to each unit


def _findings(source: _Source) -> Iterator[StaticFinding]:
    for methods in source.methods.values():
        for method in methods:
            yield from _stale_decisions(source, method)
            yield from _late_messages(source, method)
            yield from _late_saves(source, method)
            yield from _events_cleared_late(method)
            yield from _waits_without_loop(source, method)
    yield from _single_notifies(source)


# --- reading the source ---


def _units(trees: Mapping[str, ast.Module]) -> Iterator[dict[str, ast.Module]]:
    """Parts of the modules in which a name of a field or method means one thing: the classes that are related by
    inheritance, together with all code outside the classes. A Raft and a service may have equal names for different
    things."""
    classes = [
        (file, node) for file, tree in trees.items() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
    ]
    units: list[set[str]] = []  # of names of classes
    for _, node in classes:
        related = {node.name} | {_last_name(base) for base in node.bases} & {other.name for _, other in classes}
        joined = [unit for unit in units if unit & related]
        units = [unit for unit in units if unit not in joined] + [related.union(*joined)]
    for unit in units or [set()]:
        yield {
            file: ast.Module(
                [each for each in tree.body if not isinstance(each, ast.ClassDef)]
                + [node for own, node in classes if own == file and node.name in unit],
                [],
            )
            for file, tree in trees.items()
        }


def _read(unit: Mapping[str, ast.Module], everywhere: _Source) -> _Source:
    """The facts about ``unit``. Those that cover all modules are copied from ``everywhere``."""
    source = _Source(threads=everywhere.threads, called_in_loops=everywhere.called_in_loops)
    for file, tree in unit.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                source.methods.setdefault(node.name, []).append(_method(node, file))
            elif isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
                _read_lock(source, node)
    _close(source)
    return source


def _read_calls(trees: Mapping[str, ast.Module]) -> _Source:
    """The facts that cover all modules. They are the same for each unit."""
    source = _Source()
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                source.threads |= set(_started(node))
            elif isinstance(node, (ast.While, ast.For)):
                source.called_in_loops |= {
                    call.func.attr
                    for call in ast.walk(node)
                    if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)
                }
    return source


def _read_lock(source: _Source, node: ast.Assign | ast.AnnAssign) -> None:
    call = node.value
    assert isinstance(call, ast.Call)
    kind = _last_name(call.func)
    if kind not in _LOCKS:
        return
    for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
        name = _last_name(target)
        inner = _last_name(call.args[0]) if kind == "Condition" and call.args else ""
        source.locks[name] = source.locks.get(inner, inner) or name
        if kind == "Condition":
            source.conditions.add(name)


def _started(call: ast.Call) -> Iterator[str]:
    """The names of the functions that this call starts in a new thread."""
    name = _last_name(call.func)
    if name in ("Thread", "Timer"):
        targets = [keyword.value for keyword in call.keywords if keyword.arg in ("target", "function")] + call.args[1:2]
    elif name in ("submit", "start_new_thread", "go", "spawn"):
        targets = call.args[:1]
    else:
        return
    yield from (target.attr for target in targets if isinstance(target, ast.Attribute))


def _method(node: Function, file: str) -> _Method:
    method = _Method(node, file)
    for inner in ast.walk(node):
        if (name := _field(inner)) is not None:
            assert isinstance(inner, ast.Attribute)
            (method.reads if isinstance(inner.ctx, ast.Load) else method.writes).add(name)
        if isinstance(inner, ast.AugAssign) and (name := _field(inner.target)) is not None:
            method.reads.add(name)
        method.writes |= set(_changed(inner))
        if isinstance(inner, ast.Call) and (name := _field(inner.func)) is not None:
            method.calls.add(name)
        for test in _tests(inner):
            method.tests |= _fields(test)
            method.calls_in_tests |= _own_calls(test)
    return method


def _close(source: _Source) -> None:
    """Add to each method the effects of the methods that it calls."""
    changed = True
    while changed:
        changed = False
        for methods in source.methods.values():
            for method in methods:
                before = len(method.reads), len(method.tests), len(method.writes)
                for name in method.calls:
                    for called in source.methods.get(name, ()):
                        method.reads |= called.reads
                        method.tests |= called.tests
                        method.writes |= called.writes
                        if name in method.calls_in_tests:
                            method.tests |= called.reads
                changed = changed or before != (len(method.reads), len(method.tests), len(method.writes))


def _last_name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _field(node: ast.AST) -> str | None:
    """The name of the field, if ``node`` is a field of ``self``."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return node.attr
    return None


def _fields(node: ast.AST) -> set[str]:
    return {name for inner in ast.walk(node) if (name := _field(inner)) is not None}


def _own_calls(node: ast.AST) -> set[str]:
    """The methods of ``self`` that are called in ``node``."""
    calls = (inner.func for inner in ast.walk(node) if isinstance(inner, ast.Call))
    return {name for function in calls if (name := _field(function)) is not None}


def _changed(node: ast.AST) -> Iterator[str]:
    """The fields whose contents this node itself changes. The nodes below it do not count."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, (ast.Store, ast.Del)):
        name = _field(node.value)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _STORING:
        name = _field(node.func.value)
    else:
        return
    if name is not None:
        yield name


def _tests(node: ast.AST) -> Iterator[ast.expr]:
    """The conditions that this node itself evaluates. The nodes below it do not count."""
    if isinstance(node, (ast.If, ast.While, ast.IfExp, ast.Assert)):
        yield node.test
    elif isinstance(node, ast.comprehension):
        yield from node.ifs
    elif isinstance(node, (ast.Compare, ast.BoolOp)):
        yield node
    elif isinstance(node, ast.Match):
        yield node.subject


def _reads(source: _Source, node: ast.AST) -> set[str]:
    """The fields that ``node`` reads, directly or through methods. Names of methods and of locks are left out."""
    names = _fields(node)
    for name in _own_calls(node):
        for called in source.methods.get(name, ()):
            names |= called.reads
    return {name for name in names if name not in source.methods and name not in source.locks}


def _tested(source: _Source, node: ast.AST) -> set[str]:
    """The fields that ``node`` reads in a condition, directly or through methods."""
    names: set[str] = set()
    for inner in ast.walk(node):
        for test in _tests(inner):
            names |= _reads(source, test)
    for name in _own_calls(node):
        for called in source.methods.get(name, ()):
            names |= called.tests
    return names


def _written(source: _Source, node: ast.AST) -> set[str]:
    """The fields that ``node`` changes, directly or through methods."""
    names = {name for inner in ast.walk(node) if (name := _field(inner)) and not isinstance(_context(inner), ast.Load)}
    names |= {name for inner in ast.walk(node) for name in _changed(inner)}
    for name in _own_calls(node):
        for called in source.methods.get(name, ()):
            names |= called.writes
    return names


def _context(node: ast.AST) -> ast.expr_context:
    assert isinstance(node, ast.Attribute)
    return node.ctx


def _held(source: _Source, node: ast.AST) -> str:
    """The lock that ``node`` holds, if it is a ``with`` block of one of the locks; otherwise an empty text."""
    if not isinstance(node, ast.With):
        return ""
    for item in node.items:
        name = source.locks.get(_last_name(item.context_expr), "")
        if name:
            return name
    return ""


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    """Every list of statements in ``node``, except in functions inside it."""
    for name in ("body", "orelse", "finalbody"):
        statements = getattr(node, name, None)
        if isinstance(statements, list) and statements and isinstance(statements[0], ast.stmt):
            yield statements
            for statement in statements:
                if not isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                    yield from _blocks(statement)
    for handler in getattr(node, "handlers", ()):
        yield from _blocks(handler)


def _leaves(node: ast.AST) -> bool:
    return any(isinstance(inner, (ast.Return, ast.Continue, ast.Break, ast.Raise)) for inner in ast.walk(node))


# --- the rules: each docstring describes the mistake that the function finds ---


def _stale_decisions(source: _Source, method: _Method) -> Iterator[StaticFinding]:
    """A value is computed while a lock is held. Code that holds the lock again later relies on this value without a new
    check."""
    for block in _blocks(method.node):
        for position, first in enumerate(block):
            lock = _held(source, first)
            if not lock:
                continue
            decided = _decided(source, first)
            for second in block[position + 1 :]:
                guard = second.test if isinstance(second, ast.If) else None
                holds = [inner for inner in ast.walk(second) if _held(source, inner) == lock]
                for hold in holds[:1]:
                    yield from _judged(source, method, decided, first, hold, guard)
            if position + 1 < len(block) and _held(source, block[position + 1]) == lock:
                yield from _after_early_exit(source, method, first, block[position + 1])


def _decided(source: _Source, hold: ast.stmt) -> dict[str, set[str]]:
    """The variables that ``hold`` assigns from conditions on fields, each with these fields."""
    decided: dict[str, set[str]] = {}
    for node in ast.walk(hold):
        if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Compare, ast.BoolOp, ast.UnaryOp, ast.Call)):
            fields = _reads(source, node.value) if _is_decision(source, node.value) else set()
            for target in node.targets:
                if isinstance(target, ast.Name) and fields:
                    decided[target.id] = fields
    return decided


def _is_decision(source: _Source, value: ast.expr) -> bool:
    """Whether a value is a boolean: a comparison, a negation, or the result of a method that is declared to return bool
    and changes no field."""
    if isinstance(value, (ast.Compare, ast.BoolOp)):
        return True
    if isinstance(value, ast.UnaryOp):
        return isinstance(value.op, ast.Not)
    if isinstance(value, ast.Call) and (name := _field(value.func)) is not None:
        methods = source.methods.get(name, [])
        return bool(methods) and all(
            isinstance(each.node.returns, ast.Name) and each.node.returns.id == "bool" and not each.writes
            for each in methods
        )
    return False


def _judged(
    source: _Source,
    method: _Method,
    decided: Mapping[str, set[str]],
    first: ast.stmt,
    hold: ast.AST,
    guard: ast.expr | None,
) -> Iterator[StaticFinding]:
    looked_again = _tested(source, hold)
    conditions = [inner.test for inner in ast.walk(hold) if isinstance(inner, ast.If)]
    if guard is not None:
        conditions.append(guard)
    for name, fields in decided.items():
        used = any(isinstance(inner, ast.Name) and inner.id == name for test in conditions for inner in ast.walk(test))
        if used and not fields & looked_again and _written(source, hold):
            yield _stale(source, method, f"`{name}`", fields, first, hold)


def _after_early_exit(source: _Source, method: _Method, first: ast.stmt, hold: ast.stmt) -> Iterator[StaticFinding]:
    """A function goes on only if a field has a certain value. It then releases the lock and takes it again at once."""
    for node in ast.walk(first):
        if isinstance(node, ast.If) and _leaves(node) and isinstance(hold, ast.With):
            fields = _reads(source, node.test)
            if fields and not fields & _tested(source, hold) and _written(source, hold):
                yield _stale(source, method, "whether to go on", fields, first, hold)
                return


def _stale(
    source: _Source, method: _Method, what: str, fields: set[str], first: ast.stmt, hold: ast.AST
) -> StaticFinding:
    written = _written(source, hold)
    shown = _shown(sorted(fields, key=lambda name: (name not in written, name)))
    line: int = getattr(hold, "lineno", 0)
    text = (
        f"{method.node.name} decides {what} from {shown} while it holds the lock at {method.file}:{first.lineno}, then "
        f"releases it, and acts under the hold at {method.file}:{line} without looking again: another thread may have "
        f"changed {'it' if len(fields) == 1 else 'them'} in between"
    )
    return StaticFinding("stale-decision", f"{method.file} {method.node.name} {what}", text)


def _shown(fields: list[str]) -> str:
    return " and ".join(f"`self.{name}`" for name in fields[:3])


def _late_messages(source: _Source, method: _Method) -> Iterator[StaticFinding]:
    """A thread that was started to send a message makes the message itself, without checking that it should still be
    sent."""
    if method.node.name not in source.threads:
        return
    for hold in ast.walk(method.node):
        if not _held(source, hold) or _tested(source, hold):
            continue
        for node in ast.walk(hold):
            if isinstance(node, ast.Call) and _last_name(node.func) in _MESSAGES:
                fields = _reads(source, node) - {"me"}
                if fields and not fields & _written(source, hold):
                    message = _last_name(node.func)
                    shown = _shown(sorted(fields))
                    text = (
                        f"the thread that runs {method.node.name} makes its {message} at {method.file}:{node.lineno} from "
                        f"{shown} as they are by then, and does not check whether it still should: make the message where "
                        f"the decision to send it is made, under the same hold of the lock"
                    )
                    yield StaticFinding("late-message", f"{method.file} {method.node.name} {message}", text)


def _late_saves(source: _Source, method: _Method) -> Iterator[StaticFinding]:
    """State is read while the lock is held, and saved after the lock has been released."""
    if method.node.name in source.threads:
        return  # if one thread saves everything, it saves in order
    for block in _blocks(method.node):
        made: dict[str, ast.stmt] = {}
        for statement in block:
            if _held(source, statement):
                for node in ast.walk(statement):
                    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                        made[node.id] = statement
                continue
            for node in ast.walk(statement):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in ("save", "append")
                    and _last_name(node.func.value).endswith("persister")
                    and not any(_held(source, inner) for inner in ast.walk(statement))
                ):
                    names = [
                        n.id for each in node.args for n in ast.walk(each) if isinstance(n, ast.Name) and n.id in made
                    ]
                    for name in names[:1]:
                        text = (
                            f"{method.node.name} makes `{name}` while it holds the lock at "
                            f"{method.file}:{made[name].lineno}, and saves it at {method.file}:{node.lineno} after the lock "
                            f"was released: another thread may have saved something newer in between, which is then lost"
                        )
                        yield StaticFinding("late-save", f"{method.file} {method.node.name}", text)


def _events_cleared_late(method: _Method) -> Iterator[StaticFinding]:
    """An event is cleared after the work that it announced. If it is set during the work, that signal is lost."""
    for block in _blocks(method.node):
        waits: dict[str, tuple[int, int]] = {}
        for position, statement in enumerate(block):
            for call in ast.walk(statement):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                    continue
                event = ast.unparse(call.func.value)
                if call.func.attr == "wait":
                    waits[event] = position, call.lineno
                elif call.func.attr == "clear" and isinstance(statement, ast.Expr) and event in waits:
                    at, line = waits[event]
                    between = block[at + 1 : position]
                    if any(
                        isinstance(inner, (ast.With, ast.Attribute)) for each in between for inner in ast.walk(each)
                    ):
                        text = (
                            f"{method.node.name} waits for `{event}` at {method.file}:{line}, looks for work, and clears it "
                            f"at {method.file}:{call.lineno}: if it is set between the two, that is forgotten; clear it "
                            f"first, then look"
                        )
                        yield StaticFinding("lost-wakeup", f"{method.file} {method.node.name} {event}", text)


def _waits_without_loop(source: _Source, method: _Method) -> Iterator[StaticFinding]:
    """A thread waits for a condition once, and then assumes that the condition holds."""
    if method.node.name in source.called_in_loops or any(
        isinstance(node, (ast.While, ast.For)) for node in ast.walk(method.node)
    ):
        return
    for node in ast.walk(method.node):
        if (
            isinstance(node, ast.If)
            and _fields(node.test)
            and not node.orelse
            and isinstance(node.body[-1], ast.Expr)
            and isinstance(call := node.body[-1].value, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr == "wait"
            and not call.args
            and not call.keywords
            and _last_name(call.func.value) in source.conditions
        ):
            condition = ast.unparse(call.func.value)
            text = (
                f"{method.node.name} waits for `{condition}` at {method.file}:{call.lineno} and then goes on without "
                f"looking again: it may wake up although `{ast.unparse(node.test)}` still holds; use `while`, not `if`"
            )
            yield StaticFinding("lost-wakeup", f"{method.file} {method.node.name} {condition}", text)


def _single_notifies(source: _Source) -> Iterator[StaticFinding]:
    """Threads wait on one condition for different things, but only one thread is notified: it may be the wrong one."""
    waits: dict[str, dict[str, str]] = {}
    notifies: dict[str, str] = {}
    for methods in source.methods.values():
        for method in methods:
            for call in ast.walk(method.node):
                if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
                    continue
                name = _last_name(call.func.value)
                if name not in source.conditions:
                    continue
                place = f"{method.file}:{call.lineno}"
                if call.func.attr in ("wait", "wait_for"):
                    waits.setdefault(name, {}).setdefault(method.node.name, place)
                elif call.func.attr == "notify" and not call.args and not call.keywords:
                    notifies.setdefault(name, place)
    for name, place in notifies.items():
        if len(waits.get(name, {})) > 1:
            both = " and ".join(f"{function} ({where})" for function, where in sorted(waits[name].items())[:2])
            text = (
                f"`{name}` is notified at {place} with notify(), which wakes one thread, but {both} wait for it: the wrong "
                f"one may wake up; use notify_all()"
            )
            yield StaticFinding("lost-wakeup", name, text)
