"""The common parts of the command lines of `raftlab` and `raftgrade`: the parser, the exit codes, and the handling of errors
and signals."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn, TextIO

from raftlab.safe_text import printable

PASSED = 0
FAILED = 1
CANNOT = 2
"""Something could not be judged, or the command line or its input was wrong."""
MACHINE_FULL = 75
"""The exit code of a job, and of `python -m raftlab.tools.check`, if the machine has no process, memory or descriptor left
for it. On BSD, EX_TEMPFAIL has this number."""
INTERRUPTED = 130
"""The exit code that a shell reports for a program that was stopped with Ctrl-C."""

EXIT_CODES = (
    "exit codes: 0 everything passed; 1 something failed; 2 something could not be judged, or the command line or its "
    "input was wrong; 130 interrupted"
)


class Parser(argparse.ArgumentParser):
    """An argument parser that reports an error in one sentence, without the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(CANNOT, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def run(
    prog: str, command: Callable[[], int], refusals: Callable[[], tuple[type[Exception], ...]], cannot_write: str
) -> int:
    """Run a command. If it raises, write one sentence about the exception to stderr.

    Args:
        prog: the program's name, which begins each sentence.
        command: does the work and returns the exit code.
        refusals: returns the exceptions whose message is already a sentence for the user.
        cannot_write: the beginning of the sentence about an ``OSError``, such as ``"the report cannot be written"``. If it
            is empty, the sentence names the file that cannot be used.

    Returns:
        The command's exit code, or :data:`CANNOT`, or :data:`INTERRUPTED`.
    """
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # now: if the flush failed when Python exits, Python would print an error of its own
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit:
        raise  # before `refusals` is called, which imports many modules that --help does not need
    except refusals() as exc:
        _complain(f"{prog}: {exc}")
        return CANNOT
    except BrokenPipeError:
        _discard_output(sys.stdout)  # the program that reads our output (head, less) has ended
        return CANNOT
    except OSError as exc:
        _discard_output(sys.stdout)
        if cannot_write:
            text = f"{cannot_write}: {exc}"
        elif exc.filename is None:
            text = f"the output or a file cannot be written: {exc.strerror}"
        else:
            text = f"{exc.filename} cannot be used: {exc.strerror}"
        _complain(f"{prog}: {text}")
        return CANNOT
    except Exception:
        # Python would exit with code 1, which means here that a test failed. The traceback may quote student code, so it
        # must be made printable.
        _complain(f"{traceback.format_exc()}{prog}: this is a bug in {prog}, not in the code under test")
        return CANNOT


def _complain(text: str) -> None:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        _discard_output(sys.stderr)


def _discard_output(stream: TextIO) -> None:
    """If ``stream`` cannot be written, redirect it to the null device. Otherwise Python would print an error when it
    exits."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def prepare_streams() -> None:
    """Make the standard streams usable. Open those that are closed (``raftlab test >&-``). If the terminal cannot show a
    character, print an escape sequence instead of raising an exception."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                # Open the null device with this number, so that no file that is opened later gets the number.
                null = os.open(os.devnull, os.O_RDWR)
                if null != number:
                    os.dup2(null, number)
                    os.close(null)
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115  (never closed)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def end_on_signals() -> None:
    """Let SIGTERM, and SIGHUP from a terminal that closes, end this process with an exception, so that its temporary files
    are deleted."""

    def end(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)  # the exit code that a shell reports for a program that a signal ended

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


def redraws(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal on which a line can be drawn again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
