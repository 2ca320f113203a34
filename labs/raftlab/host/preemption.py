"""Compiling student code with switch points, at which the simulator may preempt a thread.

A pass over the syntax tree puts

    if __tick__(): __switch__()

in front of every statement whose timing another thread could notice: it touches an attribute or an item, or calls
something. Every loop body starts with one too, so that a loop that never waits is noticed. Statements that use only
local names get none. Line numbers do not change.
"""

from __future__ import annotations

import ast
from types import CodeType

# Names of the two functions that the loader puts into a module's globals: :attr:`Kernel.tick` and
# :meth:`Kernel.switch_point` of :mod:`raftlab.host.kernel`.
TICK = "__tick__"
SWITCH = "__switch__"

# If a statement contains one of these nodes, other threads may notice when it is executed.
_SHARED = (
    ast.Attribute,
    ast.Subscript,
    ast.Call,
    ast.Yield,
    ast.YieldFrom,
    ast.Global,
    ast.Nonlocal,
    ast.Delete,
)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def compile_with_switch_points(source: str | bytes, filename: str) -> CodeType:
    """Compile ``source`` with switch points. Raises ``SyntaxError`` as ``compile`` does."""
    tree = ast.parse(source, filename)
    _SwitchPointInserter().visit(tree)
    return compile(tree, filename, "exec", dont_inherit=True)


def _switch_point(statement: ast.stmt) -> ast.stmt:
    call = ast.Call(ast.Name(TICK, ast.Load()), [], [])
    switch = ast.Expr(ast.Call(ast.Name(SWITCH, ast.Load()), [], []))
    point: ast.stmt = ast.If(call, [switch], [])
    for node in ast.walk(point):
        ast.copy_location(node, statement)
        # It spans only the start of the statement; otherwise a traceback would underline the whole statement.
        node.end_lineno, node.end_col_offset = statement.lineno, statement.col_offset  # type: ignore[attr-defined]
    return point


def _others_may_notice(statement: ast.stmt) -> bool:
    """Whether another thread could notice when this statement runs. Its nested bodies do not count."""
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
    return any(isinstance(node, _SHARED) for head in heads for node in ast.walk(head))


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
                result.append(self.visit(statement))
            statements[:] = result

    def _needs_point(self, statement: ast.stmt, position: int, loop_body: bool) -> bool:
        if loop_body and position == 0:
            return True
        return self._inside_function and _others_may_notice(statement)
