"""`raftlab test --pdb` and `raftlab replay --pdb`: open a debugger in the student's code instead of deep inside raftlab.

Student code then runs in this process, without a sandbox, so that pytest's debugger can show it. This module does the rest:
after a failure the debugger opens at the student's line (for an exception in their code) or at the test's line (for
anything else), and ``q`` ends the run even in a student's thread.
"""

from __future__ import annotations

import bdb
import linecache
import pdb
import sys
from collections.abc import Collection
from pathlib import Path
from types import FrameType, TracebackType

import greenlet
import pytest

from raftlab.explain import render
from raftlab.explain.failure import LabFailure
from raftlab.host.server import Server
from raftlab.submission import source

# What `q` in the debugger, or Ctrl-C, raises in the code that is running.
_QUIT = (bdb.BdbQuit, pytest.exit.Exception, KeyboardInterrupt)


class Debugger:
    """A pytest plugin, and a context manager around the whole session. ``failed`` is whether a test has failed."""

    def __init__(self, impl: Path) -> None:
        """
        Args:
            impl: the submission.

        Raises:
            raftlab.submission.source.SubmissionError: there is none.
        """
        self._submission = source.find(impl)
        self._files = {self._submission.show(path) for path in self._submission.modules.values()}
        self._raised: BaseException | None = None
        self.failed = False
        self._original = Server.uncaught

    def __enter__(self) -> Debugger:
        original = self._original

        def uncaught(server: Server, exc: BaseException, role: str) -> None:
            if isinstance(exc, _QUIT):
                _end_run(exc)
            self._raised = self._raised or exc
            original(server, exc, role)

        Server.uncaught = uncaught  # type: ignore[assignment, method-assign]  # where every exception passes
        self._show_sources()
        return self

    def __exit__(self, *exc: object) -> None:
        Server.uncaught = self._original  # type: ignore[method-assign]

    def _show_sources(self) -> None:
        """Let pdb find the source. Student code is compiled with file names relative to its own folder, but pdb looks for
        them in the current one. Entries of the cache without a time stamp are never checked against a file."""
        submission = self._submission
        for path in submission.modules.values():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
            for name in {submission.show(path), str(Path(submission.show(path)).absolute())}:
                linecache.cache[name] = (sum(map(len, lines)), None, lines, name)

    def pytest_runtest_setup(self) -> None:
        self._raised = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_exception_interact(
        self, node: pytest.Item, call: pytest.CallInfo[None], report: pytest.TestReport
    ) -> None:
        """Before pytest opens its debugger: choose what it says and where it opens."""
        error = call.excinfo.value if call.excinfo is not None else None
        if not isinstance(error, LabFailure):
            return
        self.failed = True
        report.longrepr = render.as_text(error.failure)
        shown = self.student_error()
        if shown is None:
            shown = error
            shown.__traceback__ = _until_last(shown.__traceback__, {str(node.path)})
        call.excinfo = pytest.ExceptionInfo.from_exception(shown)

    def student_error(self) -> BaseException | None:
        """The exception that ended the run in the student's code, its traceback cut after their own last line."""
        if self._raised is not None:
            self._raised.__traceback__ = _until_last(self._raised.__traceback__, self._files)
        return self._raised


def open_at(frame: FrameType) -> None:
    """Open a debugger at the line that ``frame`` is about to run. Raises ``bdb.BdbQuit`` after ``q``."""
    prompt = pdb.Pdb(nosigint=True)
    prompt.reset()
    above: FrameType | None = frame
    while above is not None:
        above.f_trace = prompt.trace_dispatch
        prompt.botframe = above
        above = above.f_back
    prompt.interaction(frame, None)
    if prompt.quitting:
        raise bdb.BdbQuit
    if prompt.stoplineno != -1 or prompt.breaks:
        # Unless the user typed `c`, the debugger traces the lines that follow. Any sooner, it would trace its own.
        sys.settrace(prompt.trace_dispatch)


def _end_run(exc: BaseException) -> None:
    """Raise in the judge, which waits for the student's threads: other threads that are ready must not run first."""
    judge = greenlet.getcurrent().parent
    if judge is not None:
        judge.throw(exc if isinstance(exc, KeyboardInterrupt) else pytest.exit.Exception("Quitting debugger"))


def _until_last(trace: TracebackType | None, files: Collection[str]) -> TracebackType | None:
    """The traceback, cut after its last entry in one of ``files``, so that a debugger opens there; all of it if there is
    no such entry."""
    entries: list[TracebackType] = []
    entry = trace
    while entry is not None:
        entries.append(entry)
        entry = entry.tb_next
    while entries and entries[-1].tb_frame.f_code.co_filename not in files:
        entries.pop()
    cut: TracebackType | None = None
    for entry in reversed(entries):
        cut = TracebackType(cut, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return cut or trace
