"""The workbench of ``raftlab test --pdb``: a prompt where the student's code stands, not deep inside the lab.

With ``--inside`` student code runs in this very process, so pytest's debugger can show it. What is left: at a
failure, go to the student's line (for an exception in their code) or to the test's line (for anything else);
and make ``q`` end the run from within a student's thread. For your own code only: there is no sandbox.
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

# What `q` at the prompt, or Ctrl-C, raises in whatever code is running.
_LEAVING = (bdb.BdbQuit, pytest.exit.Exception, KeyboardInterrupt)


class Debugger:
    """A pytest plugin, and a context manager around the whole session."""

    def __init__(self, impl: Path) -> None:
        """Raises :class:`raftlab.submission.source.SubmissionError`."""
        self._submission = source.find(impl)
        self._files = {self._submission.show(path) for path in self._submission.modules.values()}
        self._raised: BaseException | None = None
        self.failed = False
        self._original = Server.uncaught

    def __enter__(self) -> Debugger:
        original = self._original

        def uncaught(server: Server, exc: BaseException, role: str) -> None:
            if isinstance(exc, _LEAVING):
                _leave(exc)
            self._raised = self._raised or exc
            original(server, exc, role)

        Server.uncaught = uncaught  # type: ignore[assignment, method-assign]  # where every exception passes
        self._show_sources()
        return self

    def __exit__(self, *exc: object) -> None:
        Server.uncaught = self._original  # type: ignore[method-assign]

    def _show_sources(self) -> None:
        """Student code is compiled under names relative to its folder, and pdb looks for those in the current
        one. Entries without a time stamp are taken as they are."""
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
        """Before pytest opens its prompt: choose what it says and where it stands."""
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
        """The exception that ended the run in the student's code, its traceback cut behind their own last line."""
        if self._raised is not None:
            self._raised.__traceback__ = _until_last(self._raised.__traceback__, self._files)
        return self._raised


def stand(frame: FrameType) -> None:
    """A prompt in front of the line that ``frame`` is about to run. ``q`` ends the run."""
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
        # Not "go on": the prompt wants to see the lines that follow. Any sooner, it would see its own.
        sys.settrace(prompt.trace_dispatch)


def _leave(exc: BaseException) -> None:
    """Out of the student's thread, past all others that are ready, into the judge who waits for them."""
    judge = greenlet.getcurrent().parent
    if judge is not None:
        judge.throw(exc if isinstance(exc, KeyboardInterrupt) else pytest.exit.Exception("Quitting debugger"))


def _until_last(trace: TracebackType | None, files: Collection[str]) -> TracebackType | None:
    """The traceback, cut behind its last entry in one of ``files``, so that a prompt opens there; all of it
    if there is none."""
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
