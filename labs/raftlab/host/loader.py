"""Loads a submission: compiles it once, and executes it in new modules for each incarnation of a server (simulator).

The warm host compiles the source with switch points. Each incarnation executes the code in its own modules, so
servers cannot share memory by accident. ``import`` in student code yields the first of these that matches: a module of
the submission, a virtual-time copy of a library, a module that is refused, or the real module.
"""

from __future__ import annotations

import ast
import builtins
import importlib.util
import random
import sys
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import TYPE_CHECKING, Any, NoReturn

from raftlab.host import preemption, primitives, stdlib
from raftlab.host.kernel import Incarnation, Kernel
from raftlab.host.races import instrument, substitutes
from raftlab.host.races.program import RaceProgram
from raftlab.submission.source import Submission

if TYPE_CHECKING:
    from raftlab.host.prepared import Stock


class Program:
    """A compiled submission, and the library copies that its modules import.

    Args:
        submission: The code to load.
        races: Whether the race detector observes its runs.

    Attributes:
        copies: The library copies, by name.
        shared_locks: The locks at module level in the copies, which all servers of a run share. The search for them is
            done once, here: in a forked run, it would copy the memory of every object that it looks at.
        stock: The incarnations that are prepared for the next run, if any.
    """

    def __init__(self, submission: Submission, races: bool = False) -> None:
        self.submission = submission
        self.races = RaceProgram(submission) if races else None
        self.copies = stdlib.make_copies(substitutes.KINDS if races else primitives.KINDS)
        self.shared_locks = stdlib.shared_locks(self.copies)
        self.stock: Stock | None = None
        self._codes: dict[str, CodeType] = {}
        self._sources: dict[str, bytes] = {}

    def compile_all(self) -> None:
        """Compile every module that compiles. The errors of the others are reported when they are imported."""
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
            file = self.filename(path)
            self._sources[name] = path.read_bytes()
            code = self._codes[name] = self._compile(self._sources[name], file)
        return code

    def tree(self, name: str) -> ast.Module:
        """The syntax tree of the source that :meth:`code` has compiled. Raises what :meth:`code` raises."""
        self.code(name)
        return ast.parse(self._sources[name])

    def _compile(self, source: bytes, file: str) -> CodeType:
        if self.races is not None:
            try:
                return preemption.compile_with_switch_points(
                    source, file, partial(self.races.instrumenter.instrument, file=file)
                )
            except RecursionError:
                pass  # nested too deeply for the race detector, but perhaps not for CPython
        return preemption.compile_with_switch_points(source, file)

    def filename(self, path: Path) -> str:
        """The name of a module's file in tracebacks. It is relative to the submission, so that traces compare equal."""
        return path.relative_to(self.submission.root).as_posix()


def _refuse_before_it_begins(what: str, why: str) -> NoReturn:
    raise RuntimeError(f"{what} is used before the run: {why}")


class Loader:
    """The modules of one incarnation.

    They may be loaded before the incarnation begins if loading them does nothing but define things
    (:mod:`raftlab.host.prepared`). :meth:`begin` supplies the kernel, the clock and the random numbers.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._refuse_now: stdlib.Refuse = _refuse_before_it_begins
        self._modules: dict[str, ModuleType] = {}
        self._random = random.Random(0)
        self._substitutes = {
            **program.copies,
            **stdlib.make_guarded_modules(self._refuse),
            "random": stdlib.make_random_module(self._random, self._refuse),
        }
        self._builtins: dict[str, Any] = {
            **builtins.__dict__,
            "__import__": self._import,
            "input": lambda *args: self._refuse("input()", "there is no terminal to read from"),
        }
        importlib_copy: Any = stdlib.copy_module(importlib)
        importlib_copy.import_module = self._import_module
        self._substitutes["importlib"] = importlib_copy
        self._globals: dict[str, Any] = {preemption.TICK: None, preemption.SWITCH: None}

    def begin(self, kernel: Kernel, incarnation: Incarnation, seed: int, refuse: stdlib.Refuse) -> None:
        """From now on, the modules belong to ``incarnation``, and their random numbers come from ``seed``."""
        self._refuse_now = refuse
        self._random.seed(seed)
        incarnation.random = self._random
        incarnation.modules = self._modules
        self._globals = {preemption.TICK: kernel.tick, preemption.SWITCH: kernel.switch_point}
        if kernel.detector is not None:
            self._globals |= kernel.detector.hooks()
        for module in self._modules.values():
            module.__dict__.update(self._globals)

    def _refuse(self, what: str, why: str) -> NoReturn:
        self._refuse_now(what, why)

    def load(self, name: str = "raft") -> ModuleType:
        """Import the submission's module that the contract calls ``"raft"`` or ``"kv"``. Exceptions from its code
        propagate."""
        return self._load_module(self._program.submission.module_of_role(name))

    def _load_module(self, name: str) -> ModuleType:
        module = self._modules.get(name)
        if module is not None:
            return module
        code = self._program.code(name)
        path = self._program.submission.modules[name]
        module = ModuleType(name)
        module.__dict__.update(self._globals)
        module.__dict__["__builtins__"] = self._builtins
        if self._program.races is not None:
            module.__dict__[instrument.MODULE] = module
        module.__file__ = self._program.filename(path)
        if path.name == "__init__.py":
            module.__path__ = []
            module.__package__ = name
        else:
            module.__package__ = name.rpartition(".")[0]
        # Register the module before it runs: dataclasses with postponed annotations look up their module by name.
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
        substitute = self._substitutes.get(top)
        if fromlist or substitute is None:
            return module
        # `import importlib.util` binds the name `importlib`. The name must refer to the substitute, which must have
        # `util`.
        child = name.partition(".")[2].partition(".")[0]
        if child and not hasattr(substitute, child):
            setattr(substitute, child, getattr(module, child))
        return substitute

    def _import_module(self, name: str, package: str | None = None) -> ModuleType:
        """``importlib.import_module``. It raises what CPython raises for a relative name without a package."""
        if name.startswith("."):
            if not package:
                text = f"the 'package' argument is required to perform a relative import for {name!r}"
                raise TypeError(text)
            name = importlib.util.resolve_name(name, package)
        return self._import(name, {}, {}, ("*",), 0)

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
