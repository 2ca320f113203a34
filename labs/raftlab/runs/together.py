"""Simulated runs whose judge and servers share one process. They are faster, and are only for the user's own code.

A child of the prepared host, or of the warm host, performs the whole run and sends its record
(:mod:`raftlab.runs.together_child`). The student's code may prevent that: it may end the process, compute without end, or
break a rule of the pipe between judge and host. Then there is no record, and the run is repeated with the judge in this
process. So every run ends as it would with judge and host in separate processes.

This is never used for grading, because the student's code could change its own verdict.
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
from raftlab.operating_system import cpu_seconds, is_asleep
from raftlab.runs.record import Record
from raftlab.runs.run import Run
from raftlab.suites.catalogue import TestInfo
from raftlab.time_awake import LOOK_S, TimeAwake
from raftlab.worlds.base import HostLost, HostNotStarted
from raftlab.worlds.host_process import WarmHost

if TYPE_CHECKING:  # the import takes longer than a run, and most runs have no scenario
    from raftlab.runs.scenario import Scenario

# The first runs of a submission have the judge in a separate process: loading the judge's modules costs as much as
# these few runs would save.
RUNS_APART = 4
# A run is stopped after MAX_CPU_S of CPU time or MAX_AWAKE_S of real time, in seconds, and repeated with the judge in
# this process. The longest run of the correct Rafts takes two seconds of CPU time. The second limit is for runs that
# use no CPU time because they wait for something real, such as a socket. Pauses of this process (Ctrl-Z) do not count.
# A run is also repeated if it was asleep at MAX_ASLEEP_LOOKS successive looks, once a second. That is earlier than
# sim_world.HANG_ASLEEP_LOOKS, so the judge in this process reports the hang.
MAX_CPU_S = 10.0
MAX_AWAKE_S = 60.0
MAX_ASLEEP_LOOKS = 5
# The number of servers that are prepared for a run. How many servers the run needs is known only after it has begun.
_SERVERS = 5


class Request(msgspec.Struct):
    """The run to perform. ``scenario`` is the text of its scenario; empty if it has none."""

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
    """A run's record, the number of commands of its scenario that were begun, and the number of its events."""

    record: Record
    begun: int
    events: int


_decode_answer = msgspec.msgpack.Decoder(Answer).decode


def make(run: Run, scenario: Scenario | None = None, trace_dir: Path | None = None, most: int = -1) -> Answer | None:
    """Perform a run in a process of its own.

    Args:
        run: The run. Its cluster must not have been created.
        scenario: What happens in the run; ``None``: the test's function decides.
        trace_dir: As for :meth:`raftlab.runs.run.Run.record`.
        most: As for :meth:`raftlab.runs.run.Run.record`.

    Returns:
        The answer; ``None`` if the run must be performed with the judge in this process.
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
    """Wait for the answer. Returns False if the run takes too long, or waits in real time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    awake, asleep = TimeAwake(), 0
    while not poll.poll(LOOK_S * 1000):
        asleep = asleep + 1 if is_asleep(pid) else 0
        if cpu_seconds(pid) > MAX_CPU_S or awake.seconds > MAX_AWAKE_S or asleep >= MAX_ASLEEP_LOOKS:
            return False
    return True
