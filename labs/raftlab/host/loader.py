"""Loading a submission afresh for each server: same source, new modules, imports under watch (sim).

Source is compiled (with switch points) once in the warm host; each incarnation executes the code objects in new module
objects, so servers cannot share memory by accident. ``import`` inside student code finds, in this order: the
student's own modules, our virtual-time copies, a refusal, the real thing.
"""

from __future__ import annotations

import builtins
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from raftlab.host import kernel as _k
from raftlab.host import preemption, stdlib
from raftlab.submission.source import Submission


class Program:
    """A submission, compiled."""

    def __init__(self, submission: Submission) -> None:
        self.submission = submission
        self.copies = stdlib.copies()
        self._codes: dict[str, CodeType] = {}

    def compile_all(self) -> None:
        """Compile what parses; what does not is reported when (and if) it is imported."""
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
        """How a module's file is called in tracebacks: relative to the submission, so that traces compare equal."""
        return path.relative_to(self.submission.root).as_posix()


class Loader:
    """The modules of one incarnation."""

    def __init__(self, program: Program, kernel: _k.Kernel, owner: _k.Owner, seed: int, refuse: stdlib.Refuse) -> None:
        self._program = program
        self._refuse = refuse
        self._loading: dict[str, ModuleType] = owner.modules
        self._given = {
            **program.copies,
            **stdlib.guarded(refuse),
            "random": stdlib.seeded_random(owner, seed, refuse),
        }
        self._builtins: dict[str, Any] = {
            **builtins.__dict__,
            "__import__": self._import,
            "input": lambda *args: refuse("input()", "nobody is there to type"),
        }
        importlib: Any = stdlib._copy_of(sys.modules["importlib"])
        importlib.import_module = lambda name, package=None: self._import(name, {}, {}, ("*",), 0)
        self._given["importlib"] = importlib
        self._globals = {preemption.TICK: kernel.tick, preemption.SWITCH: kernel.switch_point}

    def load(self) -> ModuleType:
        """Import the submission's entry module. Whatever its code raises passes through."""
        return self._local(self._program.submission.name)

    def _local(self, name: str) -> ModuleType:
        module = self._loading.get(name)
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
        # In place before it runs: dataclasses with postponed annotations look their module up by name.
        self._loading[name] = module
        sys.modules[name] = module
        try:
            exec(code, module.__dict__)
        except BaseException:
            del self._loading[name]
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
        local = self._program.submission.modules
        if name in local:
            return self._local_tree(name, fromlist)
        if top in local:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name in self._given:
            return self._given[name] if fromlist else self._given[top]
        why = stdlib.REFUSED_MODULES.get(name) or stdlib.REFUSED_MODULES.get(top)
        if why is not None or name == "concurrent.futures.process":
            self._refuse(f"import {name}", why or "one server is one process")
        module = builtins.__import__(name, globals, locals, fromlist or (), 0)
        # `import os.path` binds `os`: it must be ours.
        return module if fromlist else self._given.get(top, module)

    def _local_tree(self, name: str, fromlist: tuple[str, ...] | None) -> ModuleType:
        """Import ``a.b.c`` with its parents, and bind each to its parent as Python does."""
        parts = name.split(".")
        modules = []
        for end in range(1, len(parts) + 1):
            modules.append(self._local(".".join(parts[:end])))
            if end > 1:
                setattr(modules[-2], parts[end - 1], modules[-1])
        leaf = modules[-1]
        for wanted in fromlist or ():
            below = f"{name}.{wanted}"
            if not hasattr(leaf, wanted) and below in self._program.submission.modules:
                setattr(leaf, wanted, self._local(below))
        return leaf if fromlist else modules[0]
