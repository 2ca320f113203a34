"""Compiling student code with switch points, at which the simulator may preempt a thread.

A pass over the syntax tree puts

    if __tick__(): __switch__()

in front of every statement whose timing another thread could notice: any statement that touches an attribute or an item,
or calls something. Every loop body starts with a switch point too, so that the kernel notices a loop that never waits.
Statements that use only local names get no switch point. Line numbers do not change.

There are switch points within a statement too, because the processor does not execute a line in one step either:

- before each call in the middle of an expression, and before the second and later operands of ``and`` and ``or``:
  ``f(a) + g(b)`` becomes ``f(a) + (__tick__() and __switch__() or g(b))``. ``__switch__()`` returns None, so the value of
  the expression stays the same;
- between ``f()`` and ``g()`` in ``f().g()``;
- between the read and the write of an assignment to an attribute or an item: ``self.x += n`` becomes
  ``self.x += (__tick__() and __switch__() or n)``, and ``self.x = self.y + n`` becomes
  ``self.x = (self.y + n, __tick__() and __switch__())[0]``.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Container, Iterable
from types import CodeType
from typing import Any

# Names of the two functions that the loader puts into a module's globals: :attr:`Kernel.tick` and
# :meth:`Kernel.switch_point` of :mod:`raftlab.host.kernel`.
TICK = "__tick__"
SWITCH = "__switch__"

# If a statement contains one of these nodes, other threads may notice at which moment the statement runs.
_SHARED = frozenset(
    (
        ast.Attribute,
        ast.Subscript,
        ast.Call,
        ast.Yield,
        ast.YieldFrom,
        ast.Global,
        ast.Nonlocal,
        ast.Delete,
    )
)
_CALL = frozenset((ast.Call,))
_LEAVES = frozenset((ast.Name, ast.Constant, ast.Load, ast.Store))
_LOAD = ast.Load()
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def compile_with_switch_points(
    source: str | bytes, filename: str, then: Callable[[ast.Module], None] | None = None
) -> CodeType:
    """Compile ``source`` with switch points. ``then`` may change the tree after they are inserted. Raises
    ``SyntaxError`` when ``compile`` would."""
    tree = ast.parse(source, filename)
    _SwitchPointInserter().visit(tree)
    if then is not None:
        then(tree)
    return compile(tree, filename, "exec", dont_inherit=True)


def _switch_point(statement: ast.stmt) -> ast.stmt:
    # The switch point spans only the start of the statement. Otherwise a traceback would underline the whole statement.
    line, column = statement.lineno, statement.col_offset
    place = {"lineno": line, "col_offset": column, "end_lineno": line, "end_col_offset": column}
    call = ast.Call(ast.Name(TICK, _LOAD, **place), [], [], **place)
    switch = ast.Expr(ast.Call(ast.Name(SWITCH, _LOAD, **place), [], [], **place), **place)
    return ast.If(call, [switch], [], **place)


def _contains(nodes: Iterable[ast.AST], kinds: Container[type[ast.AST]]) -> bool:
    """Whether these nodes, or any below them, are of one of these kinds. ``ast.walk`` would take three times as
    long."""
    to_do = list(nodes)
    while to_do:
        node = to_do.pop()
        if type(node) in kinds:
            return True
        for child in vars(node).values():
            if isinstance(child, ast.AST):
                to_do.append(child)
            elif type(child) is list:
                to_do += [each for each in child if isinstance(each, ast.AST)]
    return False


def _others_may_notice(statement: ast.stmt) -> bool:
    """Whether another thread could notice at which moment this statement runs. Statements nested in it do not count."""
    heads: list[ast.AST]
    if isinstance(statement, _DEFINITIONS):
        return False
    if isinstance(statement, (ast.If, ast.While)):
        heads = [statement.test]
    elif isinstance(statement, ast.For):
        heads = [statement.iter, statement.target]
    elif isinstance(statement, ast.With):
        heads = list(statement.items)
    elif isinstance(statement, ast.Match):
        heads = [statement.subject]
    elif isinstance(statement, (ast.Try, ast.TryStar)):
        return False
    else:
        heads = [statement]
    return _contains(heads, _SHARED)


def _place_of(node: ast.expr) -> dict[str, Any]:
    """The arguments that give a new node the same place in the source as ``node``."""
    return {
        "lineno": node.lineno,
        "col_offset": node.col_offset,
        "end_lineno": node.end_lineno,
        "end_col_offset": node.end_col_offset,
    }


def _switch(place: dict[str, Any]) -> ast.expr:
    """``__tick__() and __switch__()``: False or None."""
    calls: list[ast.expr] = [ast.Call(ast.Name(name, _LOAD, **place), [], [], **place) for name in (TICK, SWITCH)]
    return ast.BoolOp(ast.And(), calls, **place)


def _after_switch(value: ast.expr) -> ast.expr:
    """An expression that passes a switch point, then evaluates ``value``, and yields the result."""
    place = _place_of(value)
    return ast.BoolOp(ast.Or(), [_switch(place), value], **place)


def _before_switch(value: ast.expr) -> ast.expr:
    """An expression that evaluates ``value``, then passes a switch point, and yields the result."""
    place = _place_of(value)
    pair = ast.Tuple([value, _switch(place)], _LOAD, **place)
    return ast.Subscript(pair, ast.Constant(0, **place), _LOAD, **place)


def _is_shared(expression: ast.expr) -> bool:
    """Whether another thread could change the value of ``expression``, or notice that it is evaluated."""
    return _contains((expression,), _SHARED)


def _contains_call(expression: ast.expr) -> bool:
    return _contains((expression,), _CALL)


class _InsideExpression(ast.NodeTransformer):
    """Inserts the switch points within one expression.

    Args:
        first: A call that needs no switch point before it, because its statement has one already.
    """

    def __init__(self, first: ast.expr | None) -> None:
        self._first = first

    def visit(self, node: ast.AST) -> Any:
        return node if type(node) in _LEAVES else super().visit(node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        # Does the same as `ast.NodeTransformer.generic_visit`, but faster, because no node is ever removed.
        for name in node._fields:
            value = getattr(node, name, None)
            if isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
            elif type(value) is list:
                value[:] = [self.visit(each) if isinstance(each, ast.AST) else each for each in value]
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        is_first = node is self._first
        if isinstance(node.func, ast.Attribute):
            earlier = node.func.value
            if is_first:
                self._first = earlier
            self.generic_visit(node)
            if _contains_call(earlier):
                node.func.value = _before_switch(node.func.value)
        else:
            self.generic_visit(node)
        return node if is_first else _after_switch(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        # An operand with a call gets its switch point before the call.
        needed = [_is_shared(value) and not _contains_call(value) for value in node.values[1:]]
        self.generic_visit(node)
        for number, value in enumerate(node.values[1:], 1):
            if needed[number - 1]:
                node.values[number] = _after_switch(value)
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
        node.body = _InsideExpression(None).visit(node.body)
        return node

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp) -> ast.expr:
        if _is_shared(node.generators[0].iter) and not _contains_call(node.elt):
            self.generic_visit(node)
            node.elt = _after_switch(node.elt)  # as at the start of a loop's body
        else:
            self.generic_visit(node)
        return node

    visit_ListComp = _comprehension
    visit_SetComp = _comprehension
    visit_GeneratorExp = _comprehension

    def visit_DictComp(self, node: ast.DictComp) -> ast.expr:
        needed = _is_shared(node.generators[0].iter) and not _contains_call(node.value)
        self.generic_visit(node)
        if needed:
            node.value = _after_switch(node.value)
        return node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        return node  # text for a log: no decision depends on it


def _insert_into_expressions(statement: ast.stmt) -> None:
    """Insert the switch points within ``statement``, but not into the statements nested in it."""
    for field in ("value", "test", "iter", "subject", "exc"):
        expression = getattr(statement, field, None)
        if isinstance(expression, ast.expr):
            setattr(statement, field, _InsideExpression(expression).visit(expression))
    match statement:
        case ast.With(items=items):
            for item in items:
                item.context_expr = _InsideExpression(item.context_expr).visit(item.context_expr)
        case ast.AugAssign(target=ast.Attribute() | ast.Subscript(), value=value):
            statement.value = _after_switch(value)
        case ast.Assign(targets=targets, value=value) if _reads_what_it_writes(targets, value):
            statement.value = _before_switch(value)


def _reads_what_it_writes(targets: list[ast.expr], value: ast.expr) -> bool:
    """Whether ``value`` may depend on the objects that the assignment changes."""
    changed = {
        node.id
        for target in targets
        if not isinstance(target, ast.Name)
        for node in ast.walk(target)
        if isinstance(node, ast.Name)
    }
    return bool(changed) and any(
        isinstance(node, ast.Call) or (isinstance(node, ast.Name) and node.id in changed) for node in ast.walk(value)
    )


class _SwitchPointInserter(ast.NodeTransformer):
    """Changes a syntax tree in place."""

    def __init__(self) -> None:
        self._inside_function = False

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        outer, self._inside_function = self._inside_function, True
        self._bodies(node, loop=False)
        self._inside_function = outer
        return node

    visit_FunctionDef = _function
    visit_AsyncFunctionDef = _function

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self._inside_function = self._inside_function, False
        self.generic_visit(node)
        self._inside_function = outer
        return node

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, (ast.stmt, ast.Module, ast.ExceptHandler, ast.match_case)):
            self._bodies(node, loop=isinstance(node, (ast.While, ast.For)))
        return node

    def _bodies(self, node: ast.AST, loop: bool) -> None:
        """Insert switch points into each list of statements directly below ``node``."""
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            statements = getattr(node, field, None)
            if not isinstance(statements, list):
                continue
            result: list[ast.AST] = []
            for position, statement in enumerate(statements):
                if isinstance(statement, ast.stmt) and self._needs_point(statement, position, loop and field == "body"):
                    result.append(_switch_point(statement))
                if (
                    self._inside_function
                    and isinstance(statement, ast.stmt)
                    and not isinstance(statement, _DEFINITIONS)
                ):
                    _insert_into_expressions(statement)
                result.append(self.visit(statement))
            statements[:] = result

    def _needs_point(self, statement: ast.stmt, position: int, loop_body: bool) -> bool:
        if loop_body and position == 0:
            return True
        return self._inside_function and _others_may_notice(statement)
