"""The contract check, from the judge's side: can this submission be tested at all?

    python -m raftlab.tools.check PATH [--labs 2A,2B] [--sandbox LEVEL] [--json]

Finds the file, asks a host process to read and import it (:mod:`raftlab.host.check_child`), then starts three servers in
the simulator and lets them live for a moment. Student code runs in the host only. Exit code 0: it can be tested; 2: it
cannot, and every reason was printed; 3: the lab itself failed, which says nothing about the submission.
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

# Seconds of the lab's time that the trial cluster lives: long enough for threads to fall over at their first step.
TRIAL = 0.05
# Faults of the trial that mean "cannot be tested". Others (a thread that raises later, say) are for the tests to find.
FATAL = ("init-exception", "init-hangs", "busy-loop", "host-hangs", "host-died", "refused-call", "deadlock")


def check(path: str | Path, wanted: list[str], sandbox: Sandbox = levels.NONE) -> list[protocol.Problem]:
    """What keeps the submission at ``path`` from being tested in these labs; nothing: all is well. Raises
    :class:`raftlab.labs.UnknownLab`, and :class:`~raftlab.worlds.base.HostNotStarted` when it is our trouble."""
    rungs = [labs.find(name) for name in wanted]
    try:
        find(path)
    except SubmissionError as exc:
        return [protocol.Problem(str(exc), "", "handouts/setup.md#first-run")]
    with WarmHost(Path(path), sandbox) as host:
        try:
            problems = _inspect(host, [lab.name for lab in rungs])
        except HostLost as lost:
            return [protocol.Problem(f"reading your code failed: {lost.text}", "", "handouts/setup.md#first-run")]
        return problems or _trial(host, rungs[0].name)


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
    """Start three servers, for a moment."""
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
    parser = argparse.ArgumentParser(prog="python -m raftlab.tools.check", description="Can this submission be tested?")
    parser.add_argument("path")
    parser.add_argument("--labs", default="2A", help="comma-separated")
    parser.add_argument("--json", action="store_true", help="print a JSON list of {text, where, handout}")
    parser.add_argument("--sandbox", default="none", choices=["bwrap", "rlimits", "none"], help="sandbox for the code")
    options = parser.parse_args()
    try:
        problems = check(options.path, options.labs.split(","), Sandbox(options.sandbox))
    except labs.UnknownLab as exc:
        parser.error(str(exc))
    except HostNotStarted as exc:
        sys.stderr.write(f"{exc}\n")
        sys.exit(3)
    if options.json:
        sys.stdout.write(msgspec.json.encode([_plain(problem) for problem in problems]).decode() + "\n")
    else:
        for problem in problems:
            print(problem.text + (f"\n  at {problem.where}" if problem.where else "") + f"\n  read: {problem.handout}")
    sys.exit(2 if problems else 0)


def _plain(problem: protocol.Problem) -> dict[str, str]:
    return {"text": problem.text, "where": problem.where, "handout": problem.handout}


if __name__ == "__main__":
    main()
