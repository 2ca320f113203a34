"""The child that is one simulated run: read a step, take it, answer."""

from __future__ import annotations

import sys
from typing import Any

from raftlab.host.loader import Program
from raftlab.host.sim_host import SimHost
from raftlab.messages import protocol
from raftlab.messages.pipe import Pipe


def run(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """Serve steps until the judge closes the pipe (``EOFError``)."""
    pipe = Pipe(*fds)
    host = SimHost(program, spawn.seed, spawn.preempt)
    streams: Any = sys
    streams.stdout = host.stdout("print")
    streams.stderr = host.stdout("stderr")
    streams.breakpointhook = host.no_breakpoint
    decode = protocol.decoder(protocol.StepRequest).decode
    while True:
        frame = decode(pipe.receive())
        pipe.send(protocol.pack(host.step(frame)))
