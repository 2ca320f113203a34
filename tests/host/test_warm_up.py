"""The warm-up run changes nothing in the process except that it fills the compile cache with all that the skeleton needs."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

from raftlab.host import warm_up
from raftlab.messages import protocol
from tests.conftest import SKELETON

PROGRAM = """
import logging, sys, threading
from raftlab import api
from raftlab.submission import source
from raftlab.host import compile_cache, kernel, warm_up
from raftlab.host.loader import Loader, Program

program = Program(source.find(sys.argv[1]))
compile_cache.install()
def state():
    return api._sink, kernel.active, dict(sys.modules), threading.excepthook, logging.root.handlers, sys.stdout

warm_up.run()  # imports what it needs
before = state()
warm_up.run()
assert state() == before and "raft" not in sys.modules

known = compile_cache._code.cache_info().misses
incarnation = kernel.Incarnation(0, 0.0)
loader = Loader(program)
loader.begin(kernel.active, incarnation, 0, None)
loader.load()
print(known, compile_cache._code.cache_info().misses - known)
"""


def test_warm_up_restores_the_process_and_has_compiled_all_texts_of_the_skeleton() -> None:
    command = [sys.executable, "-c", PROGRAM, str(SKELETON)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    compiled, new = map(int, done.stdout.split())
    assert compiled > 30
    assert new == 0  # nothing is compiled again for the skeleton's messages


def test_warm_up_produces_every_kind_of_effect_and_no_fault() -> None:
    effects = Counter(type(effect) for effect in warm_up.run())
    assert set(effects) == {
        *(protocol.Ready, protocol.Result, protocol.Send, protocol.Answer),
        *(protocol.Save, protocol.Append, protocol.Apply, protocol.LogLine),
    }
    assert effects[protocol.Ready] == warm_up.SERVERS
    assert effects[protocol.Answer] > 50
