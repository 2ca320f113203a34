"""Hashes of the classes and functions of Python modules, for finding copies. Each class or function has two hashes, which do
not depend on comments, formatting and docstrings. One of them, the hash of its shape, does not depend on names either.

As a program, this module reads paths of files, one JSON string per line, and writes one line of JSON for each file. It
parses students' files, but runs none of their code. If a file makes the parser crash or use up its memory, the caller starts
another process with the remaining files. The module imports only the standard library, so that the program starts quickly.
"""

from __future__ import annotations

import ast
import hashlib
import json
import resource
import signal
import sys
import warnings
from pathlib import Path
from typing import NamedTuple

FILE_S = 5  # seconds for one file; the reference solution takes a fiftieth of that
MEMORY_BYTES = 3_000_000_000  # of address space; the largest file that may be handed in needs about a third of that
MIN_NODES = 300  # a class or function is short if its parts have fewer nodes; 300 nodes are about forty lines
MOST_SHORT = 1000  # at most this many short classes and functions are kept; the skeleton has fewer
_TYPES = ("annotation", "returns", "type_comment", "type_params")  # fields that do not change what a program does


class Statement(NamedTuple):
    """A statement at the top level of a module.

    Attributes:
        name: ``"class Raft"``; empty if it is neither a class nor a function.
        code: the hash of its code.
        shape: the hash of its shape.
        parts: for each statement in a class, or for the statement itself if it is not a class: the number of nodes of its
            syntax tree, and the hash of its own shape.
    """

    name: str
    code: str
    shape: str
    parts: list[tuple[int, str]]


def statements(text: str) -> list[Statement]:
    """The statements at the top level of a module, without imports, docstrings and ``pass``.

    The code of a statement is its syntax tree without docstrings. Its shape is the same tree, but with names replaced by
    numbers in the order of their first use, and without type annotations and the contents of strings.

    Raises:
        SyntaxError, ValueError, RecursionError, MemoryError: the module cannot be parsed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        body = ast.parse(text).body
    return [
        _statement(each) for each in body if not (isinstance(each, ast.Import | ast.ImportFrom) or _does_nothing(each))
    ]


def without_repetitions(found: list[Statement]) -> list[Statement]:
    """The statements of a file without those that make no difference to the caller, so that a file of a million statements
    does not fill the caller's memory. The caller compares only long classes and functions. Of the short ones, it needs
    to know only whether all are in the skeleton. So one of each shape is kept, and at most :data:`MOST_SHORT` of them. Equal
    parts become one."""
    kept: list[Statement] = []
    short: set[str] = set()
    for each in found:
        parts: dict[str, int] = {}
        for nodes, shape in each.parts:
            parts[shape] = parts.get(shape, 0) + nodes
        if sum(parts.values()) < MIN_NODES:
            if each.shape in short or len(short) >= MOST_SHORT:
                continue
            short.add(each.shape)
        kept.append(each._replace(parts=[(nodes, shape) for shape, nodes in parts.items()]))
    return kept


def _statement(statement: ast.stmt) -> Statement:
    nodes, code, shape = _hashes(statement)
    match statement:
        case ast.ClassDef(name=name, body=body):
            parts = [_hashes(each) for each in body if not _does_nothing(each)]
            return Statement(f"class {name}", code, shape, [(number, part) for number, _, part in parts])
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            kind = f"def {name}"
        case _:
            kind = ""
    return Statement(kind, code, shape, [(nodes, shape)])


def _hashes(statement: ast.stmt) -> tuple[int, str, str]:
    """How many nodes the statement has, and the hashes of its code and of its shape."""
    code: list[str] = []
    shape: list[str] = []
    numbers: dict[str, int] = {}
    nodes = 0
    stack: list[tuple[object, bool]] = [(statement, True)]  # each item, and whether it belongs to the shape
    while stack:
        item, in_shape = stack.pop()
        if isinstance(item, ast.AST):
            nodes += 1
            in_code = word = type(item).__name__
            if isinstance(item, ast.Constant):
                in_code = repr(item.value)
                word = "text" if isinstance(item.value, str | bytes) else in_code
            else:
                for name in reversed(item._fields):
                    stack.append((getattr(item, name, None), in_shape and name not in _TYPES))
        elif isinstance(item, list):
            kept = [each for each in item if not _does_nothing(each)]
            in_code = word = f"[{len(kept)}"
            stack += [(each, in_shape) for each in reversed(kept)]
        else:
            in_code = word = repr(item)
            if isinstance(item, str) and in_shape:
                # Each part of a dotted name gets a number of its own, as in `import a.b` and then `a.b.c`.
                word = ".".join(str(numbers.setdefault(part, len(numbers))) for part in item.split("."))
        code.append(in_code)
        if in_shape:
            shape.append(word)
    return nodes, _hash(code), _hash(shape)


def _does_nothing(item: object) -> bool:
    if isinstance(item, ast.Expr):
        return isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    return isinstance(item, ast.Pass)


def _hash(words: list[str]) -> str:
    return hashlib.sha256("\0".join(words).encode(errors="surrogatepass")).hexdigest()[:32]


def main() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    for line in sys.stdin:
        signal.alarm(FILE_S)  # ends this process
        try:
            found = statements(Path(json.loads(line)).read_text(encoding="utf-8"))
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            found = []
        print(json.dumps(without_repetitions(found)), flush=True)


if __name__ == "__main__":
    main()
