"""Loads a submission: compiles it once, and executes it in new modules for each incarnation of a server (simulator).

The warm host compiles the source with switch points. Each incarnation executes the code in its own modules, so
servers cannot share memory by accident. ``import`` in student code resolves to the first of these that matches: a
module of the submission, one of our virtual-time copies, a module that is refused, or the real module.
"""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from raftlab.host import preemption, stdlib
from raftlab.host.kernel import Incarnation, Kernel
from raftlab.submission.source import Submission


class Program:
    """A compiled submission, and the library copies that its modules import."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.copies = stdlib.make_copies()
        self._codes: dict[str, CodeType] = {}

    def compile_all(self) -> None:
        """Compile every module that can be compiled. Errors in the others are reported when they are imported."""
        for name in self.submission.modules:
            try:
                self.code(name)
            except (SyntaxError, ValueError, RecursionError, MemoryError):
                continue

    def code(self, name: str) -> CodeType:
        """The code of module ``name``, with switch points. Raises ``SyntaxError``."""
        code = self._codes.get(name)
        if code is None:
            path = self.submission.modules[name]
            code = self._codes[name] = preemption.compile_with_switch_points(path.read_bytes(), self.filename(path))
        return code

    def filename(self, path: Path) -> str:
        """The name of a module's file in tracebacks: relative to the submission, so that traces compare equal."""
        return path.relative_to(self.submission.root).as_posix()


class Loader:
    """The modules of one incarnation. ``seed`` seeds its ``random`` module."""

    def __init__(
        self, program: Program, kernel: Kernel, incarnation: Incarnation, seed: int, refuse: stdlib.Refuse
    ) -> None:
        self._program = program
        self._refuse = refuse
        self._modules: dict[str, ModuleType] = incarnation.modules
        self._substitutes = {
            **program.copies,
            **stdlib.make_guarded_modules(refuse),
            "random": stdlib.make_random_module(incarnation, seed, refuse),
        }
        self._builtins: dict[str, Any] = {
            **builtins.__dict__,
            "__import__": self._import,
            "input": lambda *args: refuse("input()", "there is no terminal to read from"),
        }
        importlib: Any = stdlib.copy_module(sys.modules["importlib"])
        importlib.import_module = lambda name, package=None: self._import(name, {}, {}, ("*",), 0)
        self._substitutes["importlib"] = importlib
        self._globals = {preemption.TICK: kernel.tick, preemption.SWITCH: kernel.switch_point}

    def load(self) -> ModuleType:
        """Import the submission's entry module. Exceptions from its code propagate."""
        return self._load_module(self._program.submission.name)

    def _load_module(self, name: str) -> ModuleType:
        module = self._modules.get(name)
        if module is not None:
            return module
        code = self._program.code(name)
        path = self._program.submission.modules[name]
        module = ModuleType(name)
        module.__dict__.update(self._globals)
        module.__dict__["__builtins__"] = self._builtins
        module.__file__ = self._program.filename(path)
        if path.name == "__init__.py":
            module.__path__ = []
            module.__package__ = name
        else:
            module.__package__ = name.rpartition(".")[0]
        # Registered before it runs, because dataclasses with postponed annotations look up their module by name.
        self._modules[name] = module
        sys.modules[name] = module
        try:
            exec(code, module.__dict__)
        except BaseException:
            del self._modules[name]
            sys.modules.pop(name, None)
            raise
        return module

    def _import(
        self,
        name: str,
        globals: dict[str, Any] | None = None,
        locals: dict[str, Any] | None = None,
        fromlist: tuple[str, ...] | None = (),
        level: int = 0,
    ) -> ModuleType:
        if level:
            package = (globals or {}).get("__package__") or ""
            base = package.split(".")
            if not package or level > len(base):
                raise ImportError("attempted relative import with no known parent package")
            base = base[: len(base) - level + 1]
            name = ".".join([*base, name] if name else base)
        top = name.partition(".")[0]
        own_modules = self._program.submission.modules
        if name in own_modules:
            return self._load_with_parents(name, fromlist)
        if top in own_modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in self._substitutes:
            return self._substitutes[name] if fromlist else self._substitutes[top]
        reason = stdlib.REFUSED_MODULES.get(name) or stdlib.REFUSED_MODULES.get(top)
        if reason is not None or name == "concurrent.futures.process":
            self._refuse(f"import {name}", reason or "one server is one process")
        module = builtins.__import__(name, globals, locals, fromlist or (), 0)
        # `import os.path` binds `os`, which must be the substitute.
        return module if fromlist else self._substitutes.get(top, module)

    def _load_with_parents(self, name: str, fromlist: tuple[str, ...] | None) -> ModuleType:
        """Import ``a.b.c`` and its parents from the submission, and bind each to its parent as Python does."""
        parts = name.split(".")
        modules = []
        for end in range(1, len(parts) + 1):
            modules.append(self._load_module(".".join(parts[:end])))
            if end > 1:
                setattr(modules[-2], parts[end - 1], modules[-1])
        leaf = modules[-1]
        for attribute in fromlist or ():
            submodule = f"{name}.{attribute}"
            if not hasattr(leaf, attribute) and submodule in self._program.submission.modules:
                setattr(leaf, attribute, self._load_module(submodule))
        return leaf if fromlist else modules[0]
