"""The child process of one simulated run. It reads steps, performs each, and answers with its effects."""

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
    host = start(program, spawn.seed, spawn.schedule)
    decode = protocol.decoder(protocol.StepRequest).decode
    while True:
        step = decode(pipe.receive())
        pipe.send(protocol.pack(host.step(step)))


def start(program: Program, seed: int, schedule: str) -> SimHost:
    """The host of this process's run. It receives everything that the process prints."""
    host = SimHost(program, seed, schedule)
    streams: Any = sys
    streams.stdout = host.stdout("print")
    streams.stderr = host.stdout("stderr")
    streams.breakpointhook = host.refuse_breakpoint
    return host
