"""The child that checks the contract: the source as it stands, then the imported class. It constructs nothing; the
trial start of a cluster is an ordinary simulated run (:mod:`raftlab.tools.check`).
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import NoReturn

from raftlab import labs
from raftlab.host import kernel as _k
from raftlab.host import student_frames
from raftlab.host.loader import Loader, Program
from raftlab.messages import protocol
from raftlab.messages.pipe import Pipe
from raftlab.submission import contract

# Virtual seconds that an import may sleep. Nobody's should, but it is no fault.
IMPORT_PATIENCE = 60.0


def run(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """Read the labs' names, answer with :class:`~raftlab.messages.protocol.ContractReport`."""
    pipe = Pipe(*fds)
    wanted = [labs.find(name) for name in pipe.receive().decode().split(",")]

    def answer(problems: list[protocol.Problem]) -> None:
        pipe.send(protocol.pack(protocol.ContractReport(problems)))
        os._exit(0)

    for lab in wanted:
        if problems := contract.check_source(program.submission, lab):
            answer(problems)
    kernel = _k.Kernel(0, preempt=False)
    _k.install(kernel)
    files = {program.filename(path) for path in program.submission.modules.values()}
    first_run = contract.FIRST_RUN

    def busy(frame: FrameType) -> None:
        text = "importing your file never ends: a loop outside of all functions runs for ever"
        answer([protocol.Problem(text, student_frames.where_frame(frame, files), first_run)])

    kernel.on_busy = busy
    found: list[protocol.Problem] | None = None

    def refuse(what: str, why: str) -> NoReturn:
        where = student_frames.where_frame(sys._getframe(1), files)
        answer([protocol.Problem(f"{what} cannot be used here: {why}", where, first_run)])
        raise AssertionError("the child has ended")

    owner = _k.Owner(0, 1, 0.0)
    loader = Loader(program, kernel, owner, 0, refuse)

    def load() -> None:
        nonlocal found
        try:
            module = loader.load()
        except BaseException as exc:
            found = [contract.explain_import_error(exc, program.submission)]
            return
        raft = module.__dict__.get("Raft")
        found = []
        for lab in wanted:
            found += [each for each in contract.check_class(raft, lab, program.submission) if each not in found]

    kernel.spawn(owner, "the import", load)
    kernel.run_ready()
    while found is None:
        timer = kernel.next_timer()
        if timer is None or timer > IMPORT_PATIENCE:
            text = "importing your file never ends: it waits for something that does not come"
            answer([protocol.Problem(text, "", first_run)])
            return
        kernel.now = timer
        kernel.fire_timers()
        kernel.run_ready()
    answer(found)
