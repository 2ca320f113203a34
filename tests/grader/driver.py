"""Run ``raftgrade`` with fake tools in a process of its own, for tests that interrupt or kill it.

python driver.py MARK run PATH…
"""

import importlib
import signal
import sys
from pathlib import Path

from raftgrade.cli import main
from raftgrade.soak import runner

if __name__ == "__main__":
    # A grader ignores signals that were already ignored when it started, and the shell that runs the tests may ignore these
    # two (nohup, &).
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    runner.SEEDS["suite sim"] = 10  # small blocks, as in test_soak.py
    sys.path.insert(0, str(Path(__file__).parents[1]))
    fakes = importlib.import_module("grader.fakes")
    sys.exit(main(sys.argv[2:], fakes.tools(fakes.FakeCommands(sys.argv[1]))))
