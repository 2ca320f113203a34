"""The common parts of the command lines of `raftlab` and `raftgrade`: the parser, the exit codes, and counting
processors."""

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
INTERRUPTED = 130
"""What a shell reports for a program that was stopped with Ctrl-C."""

EXIT_CODES = (
    "exit codes: 0 everything passed; 1 something failed; 2 something could not be judged, or the command line or its "
    "input was wrong; 130 interrupted"
)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one clear sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(CANNOT, f"{self.prog}: {printable(message)} (see {self.prog} --help)\n")


def run(
    prog: str, command: Callable[[], int], refusals: Callable[[], tuple[type[Exception], ...]], cannot_write: str
) -> int:
    """Run a command and turn whatever goes wrong into one sentence on stderr.

    Args:
        prog: the program's name, which begins each sentence.
        command: does the work and returns the exit code.
        refusals: returns the exceptions whose message is already a sentence for the user.
        cannot_write: begins the sentence about an ``OSError``, such as ``"the report cannot be written"``. Empty: the
            sentence names the file that cannot be used.

    Returns:
        The command's exit code, or :data:`CANNOT`, or :data:`INTERRUPTED`.
    """
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()  # here, because Python would complain about what it cannot write when it exits
    except KeyboardInterrupt:
        return INTERRUPTED
    except SystemExit:
        raise  # here, so that --help need not ask for the refusals, which imports much
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
        # Python's own exit code for this is 1, which would say that a test failed.
        # The traceback may quote student code.
        _complain(f"{traceback.format_exc()}{prog}: this is a bug in {prog}, not in the code under test")
        return CANNOT


def _complain(text: str) -> None:
    try:
        print(printable(text), file=sys.stderr, flush=True)
    except OSError:
        _discard_output(sys.stderr)


def _discard_output(stream: TextIO) -> None:
    """If an output cannot be written, let it lead nowhere: Python would complain when it exits."""
    try:
        stream.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def prepare_streams() -> None:
    """Let every output work: open those that are closed (``raftlab test >&-``), and print an escape, rather than raise,
    when the terminal cannot show a character."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                # No file that is opened later may get this number.
                null = os.open(os.devnull, os.O_RDWR)
                if null != number:
                    os.dup2(null, number)
                    os.close(null)
            setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115  (never closed)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def end_on_signals() -> None:
    """Let SIGTERM, and SIGHUP from a terminal that closes, end this process like an error: its temporary files go."""

    def end(number: int, frame: object) -> NoReturn:
        sys.exit(128 + number)  # what a shell reports for a program that a signal ended

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, end)


def redraws(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal on which a line can be drawn again."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"
