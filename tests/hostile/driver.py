"""``raftgrade`` on one test, in a process that sees what is left behind.

python driver.py RAFTGRADE-ARGUMENTS

It is made the reaper of all its descendants, so whatever process outlives its own parent becomes a child of this one. The
last line of its output is the number of those that were left a moment after grading ended.
"""

import contextlib
import ctypes
import os
import sys
import time

from raftgrade.cli import Tools, main
from raftlab.suites import catalogue

PR_SET_CHILD_SUBREAPER = 36
TESTS = ("initial_election",)


def left() -> int:
    """How many children there are still, after those that are gone were buried."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tools = Tools(catalogue=lambda lab: [test for test in catalogue.tests(lab) if test.name in TESTS])
    code = main(sys.argv[1:], tools)
    deadline = time.monotonic() + 5
    while left() and time.monotonic() < deadline:
        time.sleep(0.05)
    print(left())
    sys.exit(code)
