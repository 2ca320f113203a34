"""Switch points: the AST pass that lets seeds explore preemption between a student's statements.

Every statement that could be seen by another thread (it touches an attribute or an item, or calls something) gets

    if __tick__(): __switch__()

in front of it, as does every loop's body, so that a loop that never waits is noticed. Line numbers stay the
student's own. Statements on local names alone cannot be told apart by their timing and stay as they are.
"""

from __future__ import annotations

import ast
from types import CodeType

TICK = "__tick__"
SWITCH = "__switch__"

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
_COMPOUND = (ast.If, ast.While, ast.For, ast.With, ast.Try, ast.TryStar, ast.Match)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def weave(source: str | bytes, filename: str) -> CodeType:
    """Compile ``source`` with switch points. Raises ``SyntaxError`` as ``compile`` does."""
    tree = ast.parse(source, filename)
    _Weaver().visit(tree)
    return compile(tree, filename, "exec", dont_inherit=True)


def _point(statement: ast.stmt) -> ast.stmt:
    call = ast.Call(ast.Name(TICK, ast.Load()), [], [])
    switch = ast.Expr(ast.Call(ast.Name(SWITCH, ast.Load()), [], []))
    point: ast.stmt = ast.If(call, [switch], [])
    for node in ast.walk(point):
        ast.copy_location(node, statement)
        # The point sits at the statement's first line only, or a traceback would underline the whole statement.
        node.end_lineno, node.end_col_offset = statement.lineno, statement.col_offset  # type: ignore[attr-defined]
    return point


def _seen_by_others(statement: ast.stmt) -> bool:
    """Whether another thread could notice when this statement runs (its nested bodies are judged on their own)."""
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


class _Weaver(ast.NodeTransformer):
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
        """Weave each list of statements directly below ``node``."""
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            below = getattr(node, field, None)
            if not isinstance(below, list):
                continue
            woven: list[ast.AST] = []
            for position, statement in enumerate(below):
                if isinstance(statement, ast.stmt) and self._wants_point(statement, position, loop and field == "body"):
                    woven.append(_point(statement))
                woven.append(self.visit(statement))
            below[:] = woven

    def _wants_point(self, statement: ast.stmt, position: int, loop_body: bool) -> bool:
        if loop_body and position == 0:
            return True
        return self._inside_function and _seen_by_others(statement)
