"""Test that a job whose grader has ended also ends, together with the processes that it started."""

import os
import subprocess
import sys
import uuid

from tests.grader.fakes import alive, wait_until_gone

JOB = """
import subprocess, sys, threading, time
from raftgrade.engines.parent_watch import watch
threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
child = [sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", sys.argv[2]]
subprocess.Popen(child, stdout=subprocess.DEVNULL)
print("ready", flush=True)
time.sleep(600)
"""


def test_the_whole_group_ends_with_the_grader() -> None:
    read_fd, write_fd = os.pipe()
    mark = f"mark-{uuid.uuid4()}"
    with subprocess.Popen(
        [sys.executable, "-c", JOB, str(write_fd), mark],
        pass_fds=[write_fd],
        process_group=0,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as job:
        os.close(write_fd)
        assert job.stdout is not None
        assert job.stdout.readline() == b"ready\n"
        assert alive(mark)
        assert job.poll() is None
        os.close(read_fd)  # as the kernel does when the grader dies
        job.wait()
    wait_until_gone(mark)
