"""A submission under the race detector: what is known about the source before a run, and the kernel of each run."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Mapping
from types import ModuleType

from raftlab.host.races import rules
from raftlab.host.races.detector import Detector
from raftlab.host.races.findings import Findings
from raftlab.host.races.instrument import Instrumenter
from raftlab.host.races.substitutes import ObservedKernel
from raftlab.submission.source import Submission


class RaceProgram:
    """The data that all runs of ``submission`` share."""

    def __init__(self, submission: Submission) -> None:
        trees: dict[str, ast.Module] = {}
        for path in submission.modules.values():
            file = path.relative_to(submission.root).as_posix()
            # A module that does not compile is reported when it is imported.
            with contextlib.suppress(SyntaxError, ValueError, RecursionError, MemoryError):
                tree = ast.parse(path.read_bytes(), file)
                ast.unparse(tree)  # raises if it is nested too deeply to be instrumented
                trees[file] = tree
        self.instrumenter = Instrumenter(trees)
        self._static: list[rules.StaticFinding] = []
        with contextlib.suppress(RecursionError):
            self._static = rules.check(trees)

    def kernel(self, seed: int, schedule: str, copies: Mapping[str, ModuleType]) -> tuple[ObservedKernel, Findings]:
        """The kernel of a run that uses the library copies ``copies``, and the findings of that run."""
        kernel = ObservedKernel(seed, schedule)
        findings = Findings(self.instrumenter.lock_names)
        for found in self._static:
            findings.add(0, found.kind, found.key, found.text)
        kernel.detector = Detector(self.instrumenter, kernel, findings, copies["_threading_local"].__dict__["local"])
        return kernel, findings
