"""RPCs between greenlets, with messages in MessagePack and delays in virtual time, but without Raft, locks or a referee.
raftlab's simulator is built from these parts, so an RPC in it costs at least this much.

    python benchmarks/bare_greenlets.py [RPCS]

Prints the number of RPCs and the CPU seconds that they took.
"""

from __future__ import annotations

import random
import sys
import time
from heapq import heappop, heappush
from typing import Any

import msgspec
from greenlet import getcurrent, greenlet

CALLERS = 4  # the followers of an idle cluster of five


class Request(msgspec.Struct):
    """The fields of AppendEntries."""

    term: int
    leader_id: int
    prev_log_index: int
    prev_log_term: int
    entries: list[int]
    leader_commit: int


class Reply(msgspec.Struct):
    term: int
    success: bool


def run(rpcs: int) -> int:
    """Let :data:`CALLERS` greenlets call a handler ``rpcs`` times in all. Each call is handled in another greenlet."""
    encode = msgspec.msgpack.Encoder().encode
    decode_request, decode_reply = msgspec.msgpack.Decoder(Request).decode, msgspec.msgpack.Decoder(Reply).decode
    rng, hub = random.Random(0), getcurrent()
    due: list[tuple[float, int, greenlet, Any]] = []
    idle: list[greenlet] = []
    now, sequence, done = 0.0, 0, 0

    def later(waiting: greenlet, what: Any) -> None:
        nonlocal sequence
        sequence += 1
        heappush(due, (now + rng.uniform(0.0005, 0.0015), sequence, waiting, what))

    def handle(call: tuple[greenlet, bytes]) -> None:
        while True:
            caller, data = call
            request = decode_request(data)
            later(caller, encode(Reply(request.term, request.prev_log_index >= 0)))
            idle.append(getcurrent())
            call = hub.switch()

    def call_again_and_again() -> None:
        nonlocal done
        while done < rpcs:
            data = encode(Request(1, 0, 5, 1, [], 5))
            later(idle.pop() if idle else greenlet(handle, hub), (getcurrent(), data))
            done += decode_reply(hub.switch()).success

    callers = [greenlet(call_again_and_again, hub) for _ in range(CALLERS)]
    for caller in callers:
        caller.switch()
    while due:
        now, _, waiting, what = heappop(due)
        waiting.switch(what)
    return done


def main() -> None:
    rpcs = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    cpu = time.process_time()
    done = run(rpcs)
    print(done, time.process_time() - cpu)


if __name__ == "__main__":
    main()
