"""The warm_up leaves nothing behind but what Python has learnt, and that is what students' programs need."""

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
compile_cache.once()
def state():
    return api._sink, kernel.K, dict(sys.modules), threading.excepthook, logging.root.handlers, sys.stdout

warm_up.once()  # imports what it needs
before = state()
warm_up.once()
assert state() == before and "raft" not in sys.modules

known = compile_cache._code.cache_info().misses
owner = kernel.Owner(0, 1, 0.0)
Loader(program, kernel.K, owner, 0, None).load()
print(known, compile_cache._code.cache_info().misses - known)
"""


def test_it_leaves_everything_as_it_was_and_knows_the_texts_of_the_skeleton() -> None:
    command = [sys.executable, "-c", PROGRAM, str(SKELETON)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    rehearsed, new = map(int, done.stdout.split())
    assert rehearsed > 30
    # A lab's own additions to the messages are the student's: those of the skeleton are all known.
    assert new == 0


def test_everything_is_played_and_nothing_goes_wrong() -> None:
    effects = Counter(type(effect) for effect in warm_up.once())
    assert set(effects) == {
        *(protocol.Ready, protocol.Result, protocol.Send, protocol.Answer),
        *(protocol.Save, protocol.Apply, protocol.LogLine),
    }
    assert effects[protocol.Ready] == warm_up.SERVERS
    assert effects[protocol.Answer] > 50
