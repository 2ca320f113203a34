"""The copying machine: source text that Python's own library compiles again and again is compiled once.

Every life of a server executes the student's module anew, and with it every ``@dataclass``: each method that
``dataclasses`` writes, and each annotation that ``typing`` reads from a string, is compiled from text. The texts are the
same each time. That was a fifth of the processor time of a host.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

# Texts kept: far more than the classes of a submission need; a student who makes classes in a loop must not fill the memory.
_MOST = 2048


@functools.lru_cache(_MOST)
def _code(text: str, name: str, mode: str) -> Any:
    return compile(text, name, mode, dont_inherit=True)


def _run(text: Any, globals: dict[str, Any] | None = None, locals: Any = None) -> None:
    exec(_code(text, "<string>", "exec") if isinstance(text, str) else text, globals, locals)


def once() -> None:
    """From now on, ``dataclasses`` and ``typing`` compile equal texts once in this process and in each of its children."""
    # Looked up there as global names, before the built-in ones.
    modules: list[Any] = [dataclasses, typing]
    modules[0].exec = _run
    modules[1].compile = _code
