"""The child process of one simulated run: it reads a step, performs it and answers with its effects."""

from __future__ import annotations

import sys
from typing import Any

from raftlab.host.loader import Program
from raftlab.host.sim_host import SimHost
from raftlab.messages import protocol
from raftlab.messages.pipe import Pipe


def run(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """Perform steps until the judge closes the pipe (``EOFError``)."""
    pipe = Pipe(*fds)
    host = SimHost(program, spawn.seed, spawn.preempt)
    streams: Any = sys
    streams.stdout = host.stdout("print")
    streams.stderr = host.stdout("stderr")
    streams.breakpointhook = host.refuse_breakpoint
    decode = protocol.decoder(protocol.StepRequest).decode
    while True:
        step = decode(pipe.receive())
        pipe.send(protocol.pack(host.step(step)))
