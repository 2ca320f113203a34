"""Simulated runs whose judge and servers share one process. This is faster, and only for one's own code.

A child of the prepared host, or of the warm host, makes the whole run and sends its record
(:mod:`raftlab.runs.together_child`). If something stops it (the student's code ends the process, computes without end, or
breaks a rule of the pipe between judge and host), there is no record, and the run is made again with the judge in this
process. So a run always ends as if judge and host were apart.

Never used for grading: here, student code could change its own verdict.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from raftlab import labs
from raftlab.messages import protocol
from raftlab.messages.pipe import FrameTooLong, Pipe, PipeClosed
from raftlab.operating_system import cpu_seconds
from raftlab.runs.record import Record
from raftlab.runs.run import Run
from raftlab.suites.catalogue import TestInfo
from raftlab.worlds.base import HostLost, HostNotStarted
from raftlab.worlds.host_process import WarmHost

if TYPE_CHECKING:  # to import it takes longer than a run, and most runs have no scenario
    from raftlab.runs.scenario import Scenario

# The first runs of a submission are made with the judge apart: to load the judge's modules costs as much as these few save.
RUNS_APART = 4
# A run is given up after this time, and made again with the judge apart. The longest run of the correct Rafts takes two
# seconds of CPU time. A run that waits for something real, such as a socket, uses none.
MAX_CPU_S = 10.0
MAX_WALL_S = 60.0
# Servers that are prepared for a run. How many it has is known only once it has begun.
_SERVERS = 5


class Request(msgspec.Struct):
    """The run to make. ``scenario`` is its text, if it is one."""

    folder: str
    path: str
    raft: str | None
    info: TestInfo
    scenario: str
    file: str | None
    seed: int
    schedule: str
    trace_dir: str | None
    most: int


class Answer(msgspec.Struct):
    """The record of a run, how many commands of its scenario were begun, and how many events it had."""

    record: Record
    begun: int
    events: int


_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def make(run: Run, scenario: Scenario | None = None, trace_dir: Path | None = None, most: int = -1) -> Answer | None:
    """Make a run in a process of its own.

    Args:
        run: the run, of which no cluster has been made.
        scenario: what happens in it; ``None``: what the test's function does.
        trace_dir: as for :meth:`raftlab.runs.run.Run.record`.
        most: likewise.

    Returns:
        What became of it; ``None`` if it must be made with the judge in this process.
    """
    impl = run.impl
    if not run.may_be_together or impl.simulated() < RUNS_APART:
        return None
    request = Request(
        folder=os.getcwd(),
        path=str(impl.path),
        raft=None if impl.raft is None else str(impl.raft),
        info=run.info,
        scenario="" if scenario is None else scenario.text(),
        file=None if run.file is None else str(run.file),
        seed=run.seed,
        schedule=run.schedule,
        trace_dir=None if trace_dir is None else str(trace_dir),
        most=most,
    )
    began = time.monotonic()
    try:
        answer = _ask(impl.host(), request, run.info)
    except (HostLost, HostNotStarted):
        return None
    if answer is None or answer.record.outcome == "error":
        return None
    answer.record.wall_s = round(time.monotonic() - began, 4)
    return answer


def _ask(host: WarmHost, request: Request, info: TestInfo) -> Answer | None:
    theirs_read, ours_write = os.pipe()
    ours_read, theirs_write = os.pipe()
    pipe = Pipe(ours_read, ours_write)
    child = 0
    try:
        role = "service" if labs.find(info.lab).has("service") else "raft"
        modules = ["raftlab.runs.together_child", labs.find(info.lab).module]
        if request.scenario:
            modules.append("raftlab.runs.scenario")
        child = host.spawn("run", [theirs_read, theirs_write], incarnations={role: _SERVERS}, modules=modules)
        pipe.send(protocol.pack(request))
        if _answers(host.pid(child), pipe.read_fd):
            return _decode_answer(pipe.receive())
    except (PipeClosed, FrameTooLong, *protocol.MALFORMED):
        pass
    finally:
        pipe.close()
        if child:
            host.kill(child)
    return None


def _answers(pid: int, fd: int) -> bool:
    """Wait for the answer. False if the run takes too long."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + MAX_WALL_S
    while not poll.poll(1000):
        if cpu_seconds(pid) > MAX_CPU_S or time.monotonic() > deadline:
            return False
    return True
