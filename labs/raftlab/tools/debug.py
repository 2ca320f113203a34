"""`raftlab test --pdb` and `raftlab replay --pdb`: open a debugger in the student's code instead of deep inside raftlab.

Student code then runs in this process, without a sandbox, so that pytest's debugger can show it. After an exception in
student code, the debugger opens at the student's line; after any other failure, at the test's line. ``q`` ends the run,
even in a student's thread.
"""

from __future__ import annotations

import bdb
import linecache
import math
import os
import pdb
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from types import FrameType, TracebackType

import greenlet
import pytest

from raftlab.command_line import CANNOT, FAILED, INTERRUPTED, PASSED
from raftlab.explain import render
from raftlab.explain.failure import LabFailure
from raftlab.harness.led_there import led_there
from raftlab.harness.trace import TraceFilter
from raftlab.host.server import Server
from raftlab.runs.names import NamedRun
from raftlab.runs.run import Run
from raftlab.safe_text import printable
from raftlab.submission import source
from raftlab.suites import catalogue
from raftlab.suites.catalogue import TestInfo
from raftlab.tools.arguments import Target
from raftlab.worlds.sim_world import Breakpoint

# The number of events that are shown when the debugger opens.
_EVENTS_SHOWN = 6

# The exceptions that `q` in the debugger, or Ctrl-C, raises in the running code.
_QUIT = (bdb.BdbQuit, pytest.exit.Exception, KeyboardInterrupt)


class Debugger:
    """A pytest plugin, and a context manager around the whole session. ``failed`` is whether a test has failed."""

    def __init__(self, impl: Path) -> None:
        """
        Args:
            impl: The submission.

        Raises:
            raftlab.submission.source.SubmissionError: There is no submission.
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

        # Every exception that ends a student's thread passes through this method.
        Server.uncaught = uncaught  # type: ignore[assignment, method-assign]
        self._show_sources()
        return self

    def __exit__(self, *exc: object) -> None:
        Server.uncaught = self._original  # type: ignore[method-assign]

    def _show_sources(self) -> None:
        """Let pdb find the source. Student code is compiled with file names relative to its own folder, but pdb looks
        for these files in the current folder. So put the source into the cache of ``linecache``, in entries without a
        time stamp: ``linecache`` never compares those with a file."""
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
        """Choose what pytest's debugger prints and where it opens. Runs before the debugger opens."""
        error = call.excinfo.value if call.excinfo is not None else None
        if not isinstance(error, LabFailure):
            return
        self.failed = True
        report.longrepr = printable(render.as_text(error.failure))
        shown = self.student_error()
        if shown is None:
            shown = error
            shown.__traceback__ = _until_last(shown.__traceback__, {str(node.path)})
        call.excinfo = pytest.ExceptionInfo.from_exception(shown)

    def student_error(self) -> BaseException | None:
        """The exception in student code that ended the run. Its traceback is cut after the student's last line."""
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
        # Unless the user typed `c`, the debugger traces the next lines. Tracing must not begin sooner, because the
        # debugger would then trace its own lines.
        sys.settrace(prompt.trace_dispatch)


def _end_run(exc: BaseException) -> None:
    """Raise ``exc`` in the judge, which waits for the student's threads, before any other ready thread runs."""
    judge = greenlet.getcurrent().parent
    if judge is not None:
        judge.throw(exc if isinstance(exc, KeyboardInterrupt) else pytest.exit.Exception("Quitting debugger"))


def _until_last(trace: TracebackType | None, files: Collection[str]) -> TracebackType | None:
    """The traceback, cut after its last entry in one of ``files``, so that a debugger opens there. If there is no such
    entry, nothing is cut."""
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


# --- the commands ---


def replay(named: NamedRun, target: Target, trace_filter: TraceFilter) -> int:
    """Repeat the run in this process. A debugger opens at ``trace_filter.until`` in the code of
    ``trace_filter.servers`` (if a time is given), at every ``breakpoint()``, and where an exception ends the run.

    Returns:
        0 if the run passed, 1 if it failed, 130 if the user quit.
    """
    warm = target.implementation()
    run: Run | None = None

    def stop(frame: FrameType) -> None:
        cluster = None if run is None else run.started_cluster
        if cluster is not None:
            for line in led_there(cluster.event_loop.trace.events, count=_EVENTS_SHOWN, servers=trace_filter.servers):
                print(line)
        print(f"stopped at {trace_filter.until:.3f} s (n: next line, c: continue, q: quit)")
        open_at(frame)

    breakpoint_at = None
    if math.isfinite(trace_filter.until):
        breakpoint_at = Breakpoint(trace_filter.until, trace_filter.servers, stop)
    run = Run(
        warm, named.info, "sim", named.seed, named.schedule, in_process=True, breakpoint_at=breakpoint_at, file=named.file
    )  # fmt: skip
    with Debugger(warm.folder) as debugger:
        try:
            named.script(run.cluster)
        except LabFailure as error:
            print(printable(render.as_text(run.with_events(error))))
            raised = debugger.student_error()
            if raised is not None:
                pdb.post_mortem(raised.__traceback__)
            return FAILED
        except (pytest.exit.Exception, bdb.BdbQuit):
            print("quit before the end of the run")
            return INTERRUPTED
        finally:
            run.close()
            warm.close()
    print(f"{named.info.title} ({named.info.name}, sim, seed {named.seed}): passed")
    return PASSED


def run_tests(target: Target, tests: Sequence[TestInfo], seed: int, schedule: str | None) -> int:
    """Run the tests with student code in this process. A debugger opens at ``breakpoint()`` and at failures. Returns
    the exit code."""
    debugger = Debugger(target.implementation().folder)
    with debugger:
        code = _pytest(target, tests, seed, schedule, debugger)
    if code == pytest.ExitCode.INTERRUPTED:
        return FAILED if debugger.failed else INTERRUPTED
    return {pytest.ExitCode.OK: PASSED, pytest.ExitCode.TESTS_FAILED: FAILED}.get(code, CANNOT)


def _pytest(
    target: Target, tests: Sequence[TestInfo], seed: int, schedule: str | None, debugger: Debugger
) -> pytest.ExitCode:
    """Run the tests with pytest, whose debugger opens at failures.

    Nothing in the current folder or the environment may change the outcome. So pytest loads no plugins except
    pytest-timeout and ours, no configuration except the suites' own, and no conftest.py."""
    suite = catalogue.suite_file(tests[0].lab)
    for name in [name for name in os.environ if name.startswith("PYTEST_")]:
        del os.environ[name]  # PYTEST_ADDOPTS and the like
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    arguments = [
        *("-c", str(suite.with_name("pytest.ini")), "--rootdir", str(suite.parent), "--noconftest"),
        # -s: the user must see what breakpoint() prints. The judge itself prints nothing.
        *("-s", "-p", "pytest_timeout", "-p", "raftlab.runs.plugin", "--inside", "--pdb", "-q", "--no-header"),
        *("--no-summary", "--tb=short", "-p", "no:warnings", str(suite)),
        *(f"--impl={target.implementation().folder}", f"--lab={tests[0].lab}", f"--seeds={seed}:{seed + 1}"),
        f"--only={','.join(info.name for info in tests)}",
        *([] if schedule is None else ["--schedule", schedule]),
    ]
    return pytest.ExitCode(pytest.main(arguments, plugins=[debugger]))
