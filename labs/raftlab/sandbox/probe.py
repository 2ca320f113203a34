"""Tries to get out of the sandbox that it was put in, and says what it could do: :func:`raftlab.sandbox.levels.probe` asks.

python -P -m raftlab.sandbox.probe LIMITS SUBMISSION NEIGHBOUR PORT PID
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
    submission, beside, port, judge = Path(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
    line, other_end = socket.socketpair()
    with line, other_end:
        restrictions.enter_host(limits)
        restrictions.enter_child(limits, "sim")
        print(json.dumps([what for what, attempt in _attempts(submission, beside, port, judge) if _works(attempt)]))


def _attempts(submission: Path, beside: Path, port: int, judge: int) -> list[tuple[str, Callable[[], object]]]:
    def processes() -> None:
        if len(list(Path("/proc").glob("[0-9]*"))) > 5:
            return
        raise OSError

    return [
        ("not read its own submission", lambda: _fails((submission / "raft.py").read_bytes)),
        ("start no thread", lambda: _fails(_thread)),
        ("read a file beside the submission", beside.read_bytes),
        ("read the environment", lambda: os.environ["RAFTLAB_PROBE"]),
        ("write beside the submission", (submission / "written").touch),
        ("be root", lambda: 1 / (os.geteuid() == 0)),
        ("see other processes", processes),
        ("fill the disk", lambda: _fill(Path("/tmp"))),
        ("write to the system", lambda: Path("/etc/raftlab-probe").touch()),
        ("reach the network", lambda: socket.create_connection(("127.0.0.1", port), 5)),
        ("start a process", _fork),
        ("signal the judge", lambda: os.kill(judge, 0)),
        ("take all memory", lambda: bytearray(4096 * MIB)),
    ]


def _works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except Exception:
        return False
    return True


def _fails(attempt: Callable[[], object]) -> None:
    if _works(attempt):
        raise OSError


def _thread() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _fill(folder: Path) -> None:
    """Write 64 MB, in files that are no larger than a file may be."""
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
