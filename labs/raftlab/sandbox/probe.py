"""A program that tries to get out of the sandbox it runs in, for :func:`raftlab.sandbox.levels.probe`.

    python -P -m raftlab.sandbox.probe LIMITS SUBMISSION NEIGHBOUR PORT PID

``LIMITS`` is a :class:`~raftlab.sandbox.levels.Limits` as JSON, ``NEIGHBOUR`` a file beside the submission, ``PORT`` a
port that the judge listens on, and ``PID`` the judge's. The output is a JSON list of what the process could do.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec

from raftlab.sandbox import restrictions
from raftlab.sandbox.levels import MIB, Limits


def main() -> None:
    limits = msgspec.json.decode(sys.argv[1], type=Limits)
    submission, neighbour, port, judge = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    # A host has such a socket too: its connection to the judge.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        restrictions.enter_host(limits)
        restrictions.enter_child(limits, "sim")
        print(
            json.dumps([what for what, attempt in _attempts(submission, neighbour, port, judge) if _succeeds(attempt)])
        )


def _attempts(submission: Path, neighbour: Path, port: int, judge: int) -> list[tuple[str, Callable[[], object]]]:
    def see_other_processes() -> None:
        if len(list(Path("/proc").glob("[0-9]*"))) > 5:
            return
        raise OSError

    # Each name completes the sentence "a process in the sandbox could ...".
    return [
        ("not read its own submission", lambda: _fails((submission / "raft.py").read_bytes)),
        ("start no thread", lambda: _fails(_start_thread)),
        ("read a file beside the submission", neighbour.read_bytes),
        ("read the environment", lambda: os.environ["RAFTLAB_PROBE"]),
        ("write beside the submission", (submission / "written").touch),
        ("be root", lambda: 1 / (os.geteuid() == 0)),
        ("see other processes", see_other_processes),
        ("fill the disk", lambda: _fill(Path("/tmp"))),
        ("write to the system", lambda: Path("/etc/raftlab-probe").touch()),
        ("reach the network", lambda: socket.create_connection(("127.0.0.1", port), 5)),
        ("start a process", _start_process),
        ("signal the judge", lambda: os.kill(judge, 0)),
        ("take all memory", lambda: bytearray(4096 * MIB)),
    ]


def _succeeds(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:
        return False
    return True


def _fails(attempt: Callable[[], object]) -> None:
    """Raises ``OSError`` if ``attempt``, which a process in the sandbox must be able to do, succeeds."""
    if _succeeds(attempt):
        raise OSError


def _start_thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _start_process() -> None:
    if os.fork() == 0:
        os._exit(0)


def _fill(folder: Path) -> None:
    """Write 64 MiB, in files below the size limit."""
    names = [folder / f"raftlab-probe-{os.getpid()}-{number}" for number in range(8)]
    try:
        for name in names:
            name.write_bytes(bytes(8 * MIB))
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                name.unlink()


if __name__ == "__main__":
    main()
