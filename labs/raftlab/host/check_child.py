"""The child process that checks the contract: first the source text, then the imported class.

It creates no ``Raft``. The trial start of a cluster is an ordinary simulated run (:mod:`raftlab.tools.check`).
"""

from __future__ import annotations

import os
import sys
from types import FrameType
from typing import NoReturn

from raftlab import labs
from raftlab.host import kernel as kernels
from raftlab.host import student_frames
from raftlab.host.kernel import Incarnation, Kernel
from raftlab.host.loader import Loader, Program
from raftlab.host.output import printable
from raftlab.messages import protocol
from raftlab.messages.pipe import Pipe
from raftlab.submission import contract

# Virtual seconds that an import may sleep. An import should not sleep at all, but sleeping is not an error.
IMPORT_TIMEOUT = 60.0


def run(program: Program, spawn: protocol.StartChild, fds: list[int]) -> None:
    """Read the names of the labs, check the contract of each, and send a
    :class:`~raftlab.messages.protocol.ContractReport`."""
    pipe = Pipe(*fds)
    checked_labs = [labs.find(name) for name in pipe.receive().decode().split(",")]

    def answer(problems: list[protocol.Problem]) -> None:
        sendable = [protocol.Problem(printable(each.text), each.where, each.handout) for each in problems]
        pipe.send(protocol.pack(protocol.ContractReport(sendable)))
        os._exit(0)

    for lab in checked_labs:
        if source_problems := contract.check_source(program.submission, lab):
            answer(source_problems)
    kernel = Kernel(0)
    kernels.install(kernel)
    files = {program.filename(path) for path in program.submission.modules.values()}
    first_run = contract.FIRST_RUN

    def report_busy_loop(frame: FrameType) -> None:
        text = "importing your file never ends: a loop outside of all functions runs forever"
        answer([protocol.Problem(text, student_frames.innermost_line(frame, files), first_run)])

    kernel.on_busy = report_busy_loop
    problems: list[protocol.Problem] | None = None

    def refuse(what: str, why: str) -> NoReturn:
        where = student_frames.innermost_line(sys._getframe(1), files)
        answer([protocol.Problem(f"{what} cannot be used here: {why}", where, first_run)])
        raise AssertionError("the child has ended")

    incarnation = Incarnation(0, 0.0)
    loader = Loader(program)
    loader.begin(kernel, incarnation, 0, refuse)

    def load() -> None:
        nonlocal problems
        submission = program.submission
        wanted = [each for lab in checked_labs for each in contract.contracts(lab)]
        modules = {}
        try:
            if any(each.role == "kv" for each in wanted):
                modules["kv"] = loader.load("kv")
                if submission.name in incarnation.modules:
                    problems = [contract.kv_imports_raft(submission)]
                    return
            modules["raft"] = loader.load("raft")
        except BaseException as exc:
            problems = [contract.explain_import_error(exc, submission)]
            return
        problems = []
        for each in wanted:
            found = contract.check_module(modules[each.role], each, submission)
            problems += [problem for problem in found if problem not in problems]

    kernel.spawn(incarnation, "the import", load)
    kernel.run_ready()
    while problems is None:
        timer = kernel.next_timer()
        if timer is None or timer > IMPORT_TIMEOUT:
            text = "importing your file never ends: it waits for something that never happens"
            answer([protocol.Problem(text, "", first_run)])
            return
        kernel.now = timer
        kernel.fire_timers()
        kernel.run_ready()
    answer(problems)
