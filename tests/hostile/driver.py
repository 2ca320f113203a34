"""Run ``raftgrade`` with one test of each lab, and count the processes that it leaves behind. The variable
``RAFTLAB_DRIVER_TESTS`` names other tests, separated by commas.

    python driver.py RAFTGRADE-ARGUMENTS

The driver is the reaper of all its descendants: a process that outlives its parent becomes a child of the driver. The last
two lines of the output are the peak memory of the driver's process, in which the grader runs, in kB, and the number of
processes that have not ended within 5 s.
"""

import contextlib
import ctypes
import os
import sys
import time

from raftgrade.cli import Tools, main
from raftlab.suites import catalogue

PR_SET_CHILD_SUBREAPER = 36
TESTS = os.environ.get("RAFTLAB_DRIVER_TESTS", "initial_election,many_clerks").split(",")


def count_children() -> int:
    """The number of children that are still running. Those that have ended are reaped."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    with open(f"/proc/self/task/{os.getpid()}/children") as file:
        return len(file.read().split())


def peak_memory_kb() -> int:
    """The most memory that this process has used. ``ru_maxrss`` would include the memory of the process that started
    this one."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM:"))


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    tools = Tools(catalogue=lambda lab: [test for test in catalogue.tests(lab) if test.name in TESTS])
    code = main(sys.argv[1:], tools)
    deadline = time.monotonic() + 5
    while count_children() and time.monotonic() < deadline:
        time.sleep(0.05)
    print(peak_memory_kb())
    print(count_children())
    sys.exit(code)
