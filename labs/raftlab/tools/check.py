"""`python -m raftlab.tools.check`: check whether a submission keeps the contract, so that it can be tested at all.

    python -m raftlab.tools.check PATH [--labs 2A,2B] [--sandbox LEVEL] [--json]

Every command that takes a submission makes this check first. It finds the file, lets a host process read and import it
(:mod:`raftlab.host.check_child`), and runs three servers in the simulator for a moment. Student code runs in the host only.

Exit codes: 0 it can be tested; 2 it cannot, and every reason was printed; 3 raftlab itself failed, which says nothing about
the submission.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import msgspec

from raftlab import labs
from raftlab.explain.failure import LabFailure
from raftlab.harness.cluster import Cluster
from raftlab.harness.network import MIN_DELAY
from raftlab.messages import protocol
from raftlab.messages.pipe import FrameTooLong, Pipe, PipeClosed
from raftlab.sandbox import levels
from raftlab.sandbox.levels import Sandbox
from raftlab.submission.source import SubmissionError, find
from raftlab.worlds.base import HostLost, HostNotStarted
from raftlab.worlds.host_process import WarmHost
from raftlab.worlds.sim_world import ForkedHost, SimWorld, await_child

# How long the trial cluster runs, in seconds of the lab's time: long enough for threads that fail at their first step.
TRIAL = 0.05
# Failures of the trial that mean that the submission cannot be tested. The tests will find any others.
FATAL = ("init-exception", "init-hangs", "busy-loop", "host-hangs", "host-died", "refused-call", "deadlock")


def check(path: str | Path, wanted: list[str], sandbox: Sandbox = levels.NONE) -> list[protocol.Problem]:
    """Check a submission.

    Args:
        path: the submission's file or folder.
        wanted: the names of the labs whose methods it must have.
        sandbox: how its code is confined.

    Returns:
        Why it cannot be tested; empty if it can.

    Raises:
        raftlab.labs.UnknownLab: there is no such lab.
        raftlab.worlds.base.HostNotStarted: the host process cannot be started, which says nothing about the submission.
    """
    chosen = [labs.find(name) for name in wanted]
    try:
        find(path)
    except SubmissionError as exc:
        return [protocol.Problem(str(exc), "", "handouts/setup.md#first-run")]
    with WarmHost(Path(path), sandbox) as host:
        try:
            problems = _inspect(host, [lab.name for lab in chosen])
        except HostLost as lost:
            return [protocol.Problem(f"reading your code failed: {lost.text}", "", "handouts/setup.md#first-run")]
        return problems or _trial(host, chosen[0].name)


def _inspect(host: WarmHost, wanted: list[str]) -> list[protocol.Problem]:
    theirs_read, ours_write = os.pipe()
    ours_read, theirs_write = os.pipe()
    pipe = Pipe(ours_read, ours_write)
    try:
        child = host.spawn("check", [theirs_read, theirs_write])
        names = ",".join(wanted).encode()
        pipe.send(protocol.HEADER.pack(len(names)) + names)
        await_child(host, child, ours_read)
        checked: protocol.ContractReport = protocol.decoder(protocol.ContractReport).decode(pipe.receive())
    except (PipeClosed, FrameTooLong, msgspec.DecodeError):
        raise HostLost("host-died", "the process that imports it ended", host.stderr()) from None
    finally:
        pipe.close()
    return checked.problems


def _trial(host: WarmHost, lab: str) -> list[protocol.Problem]:
    """Run three servers for a moment."""
    try:
        world = SimWorld(ForkedHost(host, 0, False), MIN_DELAY)
    except HostLost as lost:
        return [protocol.Problem(lost.text, "", "handouts/setup.md#first-run")]
    try:
        cluster = Cluster(world, lab, 0, 3)
        cluster.start_all()
        cluster.sleep(TRIAL)
    except LabFailure as exc:
        failure = exc.failure
        if failure.kind in FATAL:
            return [
                protocol.Problem(failure.text, failure.where, "handouts/setup.md#if-it-stops-before-the-first-test")
            ]
    finally:
        world.close()
    return []


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m raftlab.tools.check", description="Check whether a submission can be tested."
    )
    parser.add_argument("path", metavar="PATH", help="the submission: a raft.py, or the folder with it")
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
        sys.stderr.write(f"{exc}\n")
        sys.exit(3)
    if options.json:
        sys.stdout.write(msgspec.json.encode([_as_json(problem) for problem in problems]).decode() + "\n")
    else:
        for problem in problems:
            print(problem.text + (f"\n  at {problem.where}" if problem.where else "") + f"\n  read: {problem.handout}")
    sys.exit(2 if problems else 0)


def _as_json(problem: protocol.Problem) -> dict[str, str]:
    return {"text": problem.text, "where": problem.where, "handout": problem.handout}


if __name__ == "__main__":
    main()
