"""`python -m raftlab.tools.check`: check whether a submission meets the contract, so that it can be tested at all.

    python -m raftlab.tools.check PATH [--labs 2A,2B] [--sandbox LEVEL] [--json]

Every command that takes a submission makes this check first. It finds the file, lets a host process read and import it
(:mod:`raftlab.host.check_child`), and runs three servers in the simulator for a moment. Student code runs in the host only.

Exit codes: 0 it can be tested; 2 it cannot, and every reason was printed; 3 raftlab itself failed, which says nothing
about the submission; 75 (:data:`raftlab.command_line.MACHINE_FULL`) no process can be started on this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path

import msgspec

from raftlab import labs
from raftlab.command_line import MACHINE_FULL
from raftlab.explain.causes import FAULTS
from raftlab.explain.failure import LabFailure, shortened
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.labs import Lab
from raftlab.messages import protocol
from raftlab.messages.pipe import FrameTooLong, Pipe, PipeClosed
from raftlab.operating_system import EXHAUSTED
from raftlab.runs.run import Implementation
from raftlab.safe_text import printable
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Sandbox
from raftlab.submission.source import Submission, SubmissionError, find
from raftlab.worlds.base import HostLost, HostNotStarted
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld, await_child

# How long the trial cluster runs, in simulated seconds: long enough to find threads that fail at their first step.
TRIAL = 0.05
MAX_PROBLEMS = 50  # nobody reads more
# The kinds of failures in the trial after which the submission cannot be tested. The tests will find all other
# failures.
FATAL = ("init-exception", "init-hangs", "busy-loop", "host-hangs", "host-died", "refused-call", "deadlock")


def check(
    path: str | Path,
    wanted: list[str],
    sandbox: Sandbox = levels.NONE,
    raft: Path | None = None,
    copy: Path | None = None,
) -> list[protocol.Problem]:
    """Check a submission.

    Args:
        path: The submission's file or folder.
        wanted: The names of the labs whose methods the submission must have. If it has no kv.py, lab 3 is left out,
            provided that other labs are named.
        sandbox: How the submission's code is confined.
        raft: The Raft that runs below the submission's kv.py, if it is not the submission's own.
        copy: A folder with a copy of the submission and of ``raft``, to load instead; see
            :class:`~raftlab.runs.run.Implementation`.

    Returns:
        Why the submission cannot be tested; empty if it can.

    Raises:
        raftlab.labs.UnknownLab: There is no such lab.
        raftlab.worlds.base.HostNotStarted: The host process cannot be started, which says nothing about the submission.
        OSError: The machine has no process, memory or descriptor left.
    """
    try:
        impl = Implementation(Path(path), sandbox, raft=raft, copy=copy)
    except SubmissionError as exc:
        return [protocol.Problem(str(exc), "", "handouts/setup.md#first-run")]
    with contextlib.closing(impl):
        return check_implementation(impl, wanted)


def check_implementation(impl: Implementation, wanted: list[str]) -> list[protocol.Problem]:
    """Like :func:`check`, but in the warm host of ``impl``. Afterwards, that host can fork runs. Close ``impl`` after
    these runs."""
    chosen = [labs.find(name) for name in wanted]
    try:
        chosen = _that_it_has(find(impl.folder), chosen)
    except SubmissionError as exc:
        return [protocol.Problem(str(exc), "", "handouts/setup.md#first-run")]
    host = impl.host()
    try:
        problems = _inspect(host, [lab.name for lab in chosen])
    except HostLost as lost:
        return [protocol.Problem(f"reading your code failed: {lost.text}", "", "handouts/setup.md#first-run")]
    # At most two trials: servers of the first labs run a Raft, and those of lab 3 also run a service.
    trials = {lab.has("service"): lab.name for lab in reversed(chosen)}
    return problems or [problem for lab in trials.values() for problem in _trial(host, lab)]


def _that_it_has(submission: Submission, wanted: list[Lab]) -> list[Lab]:
    """``wanted`` without lab 3 if the submission has no kv.py. But if only lab 3 is wanted, it stays."""
    if "kv" in submission.modules:
        return wanted
    return [lab for lab in wanted if not lab.has("service")] or wanted


def _inspect(host: WarmHost, wanted: list[str]) -> list[protocol.Problem]:
    theirs_read, ours_write = os.pipe()
    ours_read, theirs_write = os.pipe()
    pipe = Pipe(ours_read, ours_write, protocol.MAX_HOST_FRAME_BYTES)
    child: int | None = None
    try:
        child = host.spawn("check", [theirs_read, theirs_write])
        names = ",".join(wanted).encode()
        pipe.send(protocol.HEADER.pack(len(names)) + names)
        await_child(host, child, ours_read)
        checked: protocol.ContractReport = protocol.decoder(protocol.ContractReport).decode(pipe.receive())
    except (PipeClosed, FrameTooLong, *protocol.MALFORMED):
        raise HostLost("host-died", "the process that imports it ended", host.stderr(child)) from None
    finally:
        pipe.close()
    return [
        protocol.Problem(shortened(each.text, 1000), shortened(each.where, 200), shortened(each.handout, 200))
        for each in checked.problems[:MAX_PROBLEMS]
    ]


def _trial(host: WarmHost, lab: str) -> list[protocol.Problem]:
    """Run three servers for a moment, and report what makes the submission untestable."""
    try:
        world = SimWorld(ForkedHost(host, 0, "none"), MIN_DELAY)
    except HostLost as lost:
        return [protocol.Problem(lost.text, "", "handouts/setup.md#first-run")]
    try:
        cluster = Cluster(world, lab, 0, 3, clerks=1 if labs.find(lab).has("service") else 0)
        cluster.start_all()
        cluster.sleep(TRIAL)
    except LabFailure as exc:
        failure = exc.failure
        if failure.kind in FATAL:
            text = failure.text
            if failure.kind in ("init-hangs", "busy-loop"):
                text = f"{text}. {FAULTS[failure.kind]}"
            return [protocol.Problem(text, failure.where, "handouts/setup.md#if-it-stops-before-the-first-test")]
    finally:
        world.close()
    return []


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m raftlab.tools.check", description="Check whether a submission can be tested."
    )
    parser.add_argument("path", metavar="PATH", help="the submission: a raft.py, or the folder that contains it")
    parser.add_argument("--labs", default="2A", metavar="LAB,...", help="check for these labs (default: 2A)")
    parser.add_argument(
        "--json", action="store_true", help="print the problems as a JSON list of {text, where, handout}"
    )
    parser.add_argument(
        "--sandbox",
        default="none",
        choices=["bwrap", "rlimits", "none"],
        help="how to confine its code (default: none)",
    )
    options = parser.parse_args()
    try:
        problems = check(options.path, options.labs.split(","), Sandbox(options.sandbox))
    except labs.UnknownLab as exc:
        parser.error(str(exc))
    except HostNotStarted as exc:
        sys.stderr.write(printable(f"{exc}\n"))
        sys.exit(3 if exc.has_read else MACHINE_FULL)
    except OSError as exc:
        if exc.errno not in EXHAUSTED:
            raise
        sys.stderr.write(printable(f"{exc}\n"))
        sys.exit(MACHINE_FULL)
    if options.json:
        sys.stdout.write(msgspec.json.encode([_as_json(problem) for problem in problems]).decode() + "\n")
    else:
        for problem in problems:
            where = f"\n  at {problem.where}" if problem.where else ""
            print(printable(f"{problem.text}{where}\n  read: {problem.handout}"))
    sys.exit(2 if problems else 0)


def _as_json(problem: protocol.Problem) -> dict[str, str]:
    return {"text": problem.text, "where": problem.where, "handout": problem.handout}


if __name__ == "__main__":
    main()
