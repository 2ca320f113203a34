"""The warm host reads and compiles a submission once, then forks the processes that run it
(:mod:`raftlab.host.fork_server`).

    python -P -m raftlab.host.warm_host CONTROL_FD PATH LIMITS [races]

``CONTROL_FD`` is an inherited Unix socket to the judge. ``LIMITS`` is a :class:`raftlab.sandbox.levels.Limits` as JSON, or
``null``. With ``races``, the race detector observes the simulated runs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import os
import signal
import socket
import sys

import msgspec

from raftlab import operating_system
from raftlab.host import compile_cache
from raftlab.host.fork_server import ForkServer, uses_much
from raftlab.host.loader import Program
from raftlab.messages import protocol
from raftlab.sandbox import restrictions
from raftlab.sandbox.levels import Limits
from raftlab.submission import source

# Modules that student code often imports. They are loaded here so that no child has to load them.
_OFTEN_IMPORTED = ("base64", "bisect", "json", "pickle", "struct", "zlib")


def main() -> None:
    limits = msgspec.json.decode(sys.argv[3], type=Limits | None)
    control = socket.socket(fileno=int(sys.argv[1]))
    try:
        _serve(control, limits)
    except OSError as exc:
        if exc.errno not in operating_system.EXHAUSTED:
            raise
        # The submission has not been run in this process. So it is not to blame, unless its processes use too much.
        much = uses_much(limits, [os.getpid()])
        notice = protocol.NotStarted(0, exc.errno, os.strerror(exc.errno), much)
        operating_system.send_message(control, protocol.encode(notice))
    # The children end with this process, so no cleanup is needed.
    os._exit(0)


def _serve(control: socket.socket, limits: Limits | None) -> None:
    if limits is not None:
        sys.dont_write_bytecode = True  # outside a sandbox, the children do this (raftlab.host.fork_server)
        restrictions.enter_host(limits)
    operating_system.die_with_parent()  # after enter_host: a change of user cancels this setting
    # Ctrl-C is sent to every process of the terminal, but only the judge handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Before the judge kills a hung child, it sends SIGUSR1: the child dumps its stack to stderr, which the judge reads.
    faulthandler.register(signal.SIGUSR1, all_threads=False)
    operating_system.send_message(control, protocol.encode(protocol.HostStarted()))
    program = Program(source.find(sys.argv[2]), races="races" in sys.argv[4:])
    program.compile_all()
    compile_cache.install()
    for name in _OFTEN_IMPORTED:
        importlib.import_module(name)
    # A run creates little cyclic garbage. Infrequent collections mean fewer pauses in the lock step.
    gc.set_threshold(50_000, 20, 100)
    with contextlib.suppress(ConnectionError, BrokenPipeError):  # the judge is gone
        ForkServer(control, program, limits).serve()


if __name__ == "__main__":
    main()
