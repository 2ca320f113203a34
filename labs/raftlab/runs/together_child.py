"""The child process that performs a run together with its judge, for :mod:`raftlab.runs.together`."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from raftlab.host import sim_child
from raftlab.host.loader import Program
from raftlab.messages import protocol
from raftlab.messages.pipe import Pipe
from raftlab.runs.run import Implementation, Run
from raftlab.runs.together import Answer, Request
from raftlab.suites import catalogue
from raftlab.worlds.base import HostLost
from raftlab.worlds.sim_world import Progress

if TYPE_CHECKING:
    from raftlab.runs.scenario import ScenarioPlayer

# If one step has more effects than this, the run is repeated with the judge in a separate process: the pipe might not
# carry so many effects.
_MANY_EFFECTS = 10_000

_decode_request = msgspec.msgpack.Decoder(Request).decode


def run(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """Perform one run and send its record."""
    pipe = Pipe(*fds)
    request = _decode_request(pipe.receive())
    os.chdir(request.folder)
    impl = Implementation(Path(request.path))
    impl.raft = None if request.raft is None else Path(request.raft)  # `program` already contains this Raft's files
    player = _player(request.scenario) if request.scenario else None
    made = Run(
        impl, request.info, "sim", request.seed, request.schedule,
        file=None if request.file is None else Path(request.file), sim_host=partial(_Together, program),
    )  # fmt: skip
    error: Exception | None = None
    try:
        (catalogue.script_of(request.info) if player is None else player.play)(made.cluster)
    except Exception as exc:  # record() decides what the exception means
        error = exc
    record = made.record(error, None if request.trace_dir is None else Path(request.trace_dir), request.most)
    pipe.send(protocol.pack(Answer(record, 0 if player is None else player.begun, len(made.events))))


def _player(text: str) -> ScenarioPlayer:
    from raftlab.runs.scenario import ScenarioPlayer, parse  # already imported before the fork if there is a scenario

    return ScenarioPlayer(parse(text))


class _Together:
    """The servers of a run in the process that judges it: a :class:`~raftlab.worlds.sim_world.Host`.

    The process ends if the run could differ from a run whose judge is in a separate process: if that judge would not have
    accepted a frame or would have received other values, or if the host makes no progress. The run is then repeated with
    the judge in a separate process."""

    cpu_s = 0.0

    def __init__(self, program: Program, seed: int, schedule: str) -> None:
        self._host = sim_child.start(program, seed, schedule)
        self._progress = Progress()

    def step(self, request: protocol.StepRequest) -> protocol.StepResult:
        result = self._host.step(request)
        size = 0
        for _, effect in result.effects:
            if type(effect) is protocol.Save:  # faster than `isinstance`; this runs for every effect
                size += len(effect.state) + len(effect.snapshot or b"")
                if type(effect.state) is not bytes or type(effect.snapshot) not in (bytes, type(None)):
                    os._exit(1)  # the pipe would have converted the student's object to plain bytes
            elif type(effect) is protocol.Append:
                size += len(effect.data)
                if type(effect.data) is not bytes:
                    os._exit(1)
            elif type(effect) is protocol.LogLine:
                size += 4 * len(effect.text)
            else:
                size += len(getattr(effect, "payload", b""))
        if size > protocol.MAX_HOST_FRAME_BYTES // 2 or len(result.effects) > _MANY_EFFECTS:
            os._exit(1)
        try:
            self._progress.require(request, result, time.process_time)
        except HostLost:
            os._exit(1)
        return result

    def close(self) -> None: ...
