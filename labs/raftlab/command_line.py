"""What the command lines of `raftlab` and `raftgrade` share: the parser, the exit codes, and counting processors."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

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


def run(prog: str, command: Callable[[], int], refusals: tuple[type[Exception], ...], cannot_write: str) -> int:
    """Run a command and turn whatever goes wrong into one sentence on stderr.

    Args:
        prog: the program's name, which begins each sentence.
        command: does the work and returns the exit code.
        refusals: exceptions whose message is already a sentence for the user.
        cannot_write: begins the sentence about an ``OSError``, such as ``"the report cannot be written"``. Empty: the
            sentence names the file that cannot be used.

    Returns:
        The command's exit code, or :data:`CANNOT`, or :data:`INTERRUPTED`.
    """
    try:
        code = command()
        sys.stdout.flush()
        return code
    except refusals as exc:
        print(f"{prog}: {printable(str(exc))}", file=sys.stderr)
        return CANNOT
    except BrokenPipeError:
        # The reader of our output (head, less) has closed it. Without this, Python would complain when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CANNOT
    except OSError as exc:
        if cannot_write:
            text = f"{cannot_write}: {exc}"
        else:
            text = f"{exc.filename or 'a file'} cannot be used: {exc.strerror}"
        print(f"{prog}: {printable(text)}", file=sys.stderr)
        return CANNOT
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception:
        # Python's own exit code for this is 1, which would say that a test failed.
        traceback.print_exc()
        print(f"{prog}: this is a bug in {prog}, not in the code under test", file=sys.stderr)
        return CANNOT


def tolerate_narrow_terminals() -> None:
    """Print an escape, rather than raise, when the terminal cannot show a character."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def processors() -> int:
    """How many processors this process may use: fewer than the machine has when its CPU affinity is limited."""
    return len(os.sched_getaffinity(0))
