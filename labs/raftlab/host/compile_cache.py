"""A cache for source text that the standard library compiles again and again.

Every incarnation of a server executes the student's module anew, and with it every ``@dataclass``. ``dataclasses``
compiles each method that it generates from text, ``typing`` compiles each annotation that is a string, and the texts
are the same each time. Without the cache this takes a fifth of a host's CPU time.
"""

from __future__ import annotations

import dataclasses
import functools
import typing
from typing import Any

# Maximum number of texts in the cache: far more than the classes of a submission need. The limit guards against code that
# creates classes in a loop.
_MAX_TEXTS = 2048


@functools.lru_cache(_MAX_TEXTS)
def _code(text: str, name: str, mode: str) -> Any:
    return compile(text, name, mode, dont_inherit=True)


def _run(text: Any, globals: dict[str, Any] | None = None, locals: Any = None) -> None:
    exec(_code(text, "<string>", "exec") if isinstance(text, str) else text, globals, locals)


def install() -> None:
    """Make ``dataclasses`` and ``typing`` use the cache, in this process and in the children that it forks from now
    on."""
    # A module's global names take precedence over the built-in ones.
    modules: list[Any] = [dataclasses, typing]
    modules[0].exec = _run
    modules[1].compile = _code
