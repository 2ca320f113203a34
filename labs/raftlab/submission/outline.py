"""Finds the file and line where a submission defines its classes, methods and fields. It only reads the source.

The contract check shows these lines, even for definitions in another of the student's files, and for classes and
methods that are inherited, decorated or generated. If a definition is not found, the result is an empty string, never
an error.
"""

from __future__ import annotations

import ast
import inspect
from types import CodeType
from typing import Any

from raftlab.submission import source
from raftlab.submission.source import Submission

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Outline:
    """The definitions in a submission. Each module is parsed when it is first needed."""

    def __init__(self, submission: Submission) -> None:
        self._submission = submission
        self._trees: dict[str, ast.Module | None] = {}

    def tree(self, name: str) -> ast.Module | None:
        """The syntax tree of a module; ``None`` if it cannot be parsed."""
        if name not in self._trees:
            path = self._submission.modules[name]
            try:
                self._trees[name] = source.parse(path, path.name)
            except (source.SubmissionError, SyntaxError, ValueError, RecursionError, MemoryError):
                self._trees[name] = None
        return self._trees[name]

    def _line_of(self, module: str, node: ast.AST | None) -> str:
        """``file:line`` of a node of ``module``."""
        shown = self._submission.show(self._submission.modules[module])
        return f"{shown}:{getattr(node, 'lineno', 1)}"

    def where_class(self, cls: Any) -> str:
        found = self._find(cls)
        return self._line_of(*found) if found else ""

    def where_field(self, cls: type, field: str) -> str:
        """The place where a dataclass or one of its bases declares ``field``. If none does, the place where the class
        begins."""
        for base in cls.__mro__:
            found = self._find(base)
            for node in found[1].body if found else ():
                if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == field:
                    return self._line_of(found[0], node) if found else ""
        return self.where_class(cls)

    def where_method(self, cls: type, method: str) -> str:
        """The place where ``cls`` or one of its bases defines ``method``. If none does, the place where the class
        begins."""
        for base in cls.__mro__:
            if method in vars(base):
                found = self._find(base)
                for node in reversed(found[1].body if found else []):
                    if isinstance(node, Function) and node.name == method and found:
                        return self._line_of(found[0], node)
                where = self._where_code(getattr(inspect.unwrap(_function(vars(base)[method])), "__code__", None))
                return where or self.where_class(cls)
        return self.where_class(cls)

    def _where_code(self, code: CodeType | None) -> str:
        for path in self._submission.modules.values() if code else ():
            shown = self._submission.show(path)
            if code and code.co_filename in (str(path), shown):
                return f"{shown}:{code.co_firstlineno}"
        return ""

    def _find(self, cls: Any) -> tuple[str, ast.ClassDef] | None:
        """The module in which ``cls`` is defined, and the definition."""
        path = [part for part in getattr(cls, "__qualname__", "").split(".") if part != "<locals>"]
        module = getattr(cls, "__module__", "")
        if module not in self._submission.modules:
            return None
        tree = self.tree(module)
        body: list[ast.stmt] = tree.body if tree else []
        node: ast.ClassDef | None = None
        for part in path:
            node = next((item for item in _definitions(body) if getattr(item, "name", "") == part), None)
            if node is None:
                return None
            body = node.body
        return (module, node) if isinstance(node, ast.ClassDef) else None


def _definitions(body: list[ast.stmt]) -> list[Any]:
    """The classes and functions of a body, including those inside ``if`` and ``try``. The last definition comes
    first."""
    found: list[Any] = []
    for node in body:
        if isinstance(node, ast.ClassDef | Function):
            found.append(node)
        elif isinstance(node, ast.If | ast.Try | ast.With):
            for part in ("body", "orelse", "finalbody"):
                found += reversed(_definitions(getattr(node, part, [])))
            for handler in getattr(node, "handlers", ()):
                found += reversed(_definitions(handler.body))
    return found[::-1]


def _function(attribute: Any) -> Any:
    return attribute.__func__ if isinstance(attribute, staticmethod | classmethod) else attribute


def class_names(tree: ast.Module) -> list[str]:
    """The classes of a module, in order."""
    return [node.name for node in reversed(_definitions(tree.body)) if isinstance(node, ast.ClassDef)]


def may_bind(tree: ast.Module, name: str) -> bool:
    """Whether running the module could bind ``name`` in any way other than a plain top-level ``class``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
            return True
        if isinstance(node, ast.alias) and (node.asname or node.name) in (name, "*"):
            return True
        if isinstance(node, ast.ClassDef | Function) and node.name == name:
            return True
        # These can bind any name: globals()["Raft"] = ..., exec(...), setattr(module, "Raft", ...).
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "globals",
            "exec",
            "setattr",
            "vars",
        ):
            return True
        if isinstance(node, ast.MatchAs | ast.MatchStar) and node.name == name:
            return True
    return False
