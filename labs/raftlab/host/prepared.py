"""Incarnations whose modules, message types and codecs are loaded before a run begins, so that the run need not load
them.

Loading takes most of the time of a short run. The prepared host (:mod:`raftlab.host.fork_server`) loads each
incarnation that a run may start, and then forks every run with all of them loaded. Each incarnation still has modules
of its own.

Only submissions whose import does nothing but define things are prepared (:mod:`raftlab.submission.definitions`). So
none of the student's functions runs before the run begins, and a run cannot notice the difference.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

from raftlab.host import kernel as kernels
from raftlab.host.kernel import Kernel
from raftlab.host.loader import Loader, Program
from raftlab.host.output import route_logging
from raftlab.messages import codec
from raftlab.submission.definitions import DefinitionChecker, DoesMore, Kind
from raftlab.submission.source import SubmissionError

# By role (raftlab.messages.protocol.Boot): the modules and classes that an incarnation needs and, for each class, the
# methods that messages call.
HANDLERS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "raft": (("raft", "Raft", codec.RPC_METHODS),),
    "service": (("raft", "Raft", codec.RPC_METHODS), ("kv", "KVServer", codec.SERVICE_METHODS)),
    "clerk": (("kv", "KVServer", codec.SERVICE_METHODS),),
}
# How many incarnations of a role are kept ready. A run that starts more, counting restarts, loads the others itself.
MOST = 24
# How many spare incarnations are prepared, in addition to those with which the next run begins.
MORE = 2


class Prepared(NamedTuple):
    """One incarnation that has not begun.

    Attributes:
        loader: The incarnation's modules.
        codec: The codec for the messages of the incarnation's role.
        sync_points: How often the import of each module used something that threads share (``logging.getLogger`` takes
            a lock), by module. The kernel may preempt a thread there, so the run must count these points to get the
            same schedule.
    """

    loader: Loader
    codec: codec.Codec
    sync_points: dict[str, int]


class _CountingKernel(Kernel):
    """The kernel while no run exists yet."""

    def __init__(self) -> None:
        super().__init__(0)
        self.sync_points = 0
        self.sync_tick = self._count

    def _count(self) -> bool:
        self.sync_points += 1
        return False


class Stock:
    """The prepared incarnations of a process. Each can be taken once.

    Args:
        program: The submission.
    """

    def __init__(self, program: Program) -> None:
        self._program = program
        self._ready: defaultdict[str, list[Prepared]] = defaultdict(list)
        self._problems: dict[str, str] = {}  # by role; empty text: no problem found
        self._checker = DefinitionChecker(
            program.submission.modules,
            {name for name, path in program.submission.modules.items() if path.name == "__init__.py"},
            program.tree,
        )

    def prepare_all(self, counts: Mapping[str, int]) -> str:
        """Prepare incarnations until at least these numbers are ready, and some more for restarts.

        Each call adds some, so a process that makes many runs eventually has enough incarnations ready.

        Args:
            counts: How many incarnations of each role the next run begins with, by role.

        Returns:
            Why the incarnations of a role cannot be prepared, as a phrase; empty if all can. Runs load the incarnations
            of such a role themselves.
        """
        for role, count in counts.items():
            if role not in self._problems:
                self._problems[role] = self._problem(role)
            ready = len(self._ready[role])
            missing = min(max(count, ready) + MORE, MOST) - ready
            if missing > 0 and not self._problems[role]:
                self._problems[role] = self._prepare(role, missing)
        return next(filter(None, (self._problems[role] for role in counts)), "")

    def _problem(self, role: str) -> str:
        """Why the source alone rules out preparing this role; empty if it does not."""
        submission = self._program.submission
        try:
            modules = {module: submission.module_of_role(module) for module, _, _ in HANDLERS[role]}
            self._checker.check_all(modules.values())
            for module, name, _ in HANDLERS[role]:
                defined = self._checker.check(modules[module]).get(name)
                if defined is None or defined.kind is not Kind.OWN_CLASS:
                    raise DoesMore(f"{name} is not a class")
        except (DoesMore, SubmissionError, SyntaxError, ValueError, RecursionError, MemoryError) as exc:
            return str(exc) or type(exc).__name__
        return ""

    def _prepare(self, role: str, count: int) -> str:
        """Prepare ``count`` more incarnations. Returns which exception the import raised, or an empty text."""
        own = self._program.submission.modules
        logging = self._program.copies["logging"]
        before, kernel = {name: sys.modules[name] for name in own if name in sys.modules}, kernels.active
        counting = _CountingKernel()
        kernels.install(counting)
        try:
            # Route the library's log lines as a run does, so that `logging.basicConfig` finds a handler and does
            # nothing.
            route_logging(logging, lambda topic, text: None)
            for _ in range(count):
                loader, messages, sync_points = Loader(self._program), codec.Codec(), {}
                for module, name, methods in HANDLERS[role]:
                    counting.sync_points = 0
                    messages.add(loader.load(module).__dict__[name], methods)
                    sync_points[module] = counting.sync_points
                self._ready[role].append(Prepared(loader, messages, sync_points))
        except BaseException as exc:
            return f"{type(exc).__name__} during the import"
        finally:
            logging.__dict__["root"].handlers.clear()
            kernels.install(kernel)
            for name in own:
                sys.modules.pop(name, None)
            sys.modules.update(before)
        return ""

    def take(self, role: str) -> Prepared | None:
        """Take a prepared incarnation for this run; ``None`` if none is left."""
        ready = self._ready[role]
        return ready.pop() if ready else None
