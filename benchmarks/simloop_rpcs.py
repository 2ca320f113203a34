"""The heartbeats of an idle cluster on simloop, a deterministic simulator for asyncio (https://pypi.org/project/simloop/,
Python 3.12 and later). Messages are lines of JSON over its simulated TCP. There is no Raft, no typed message and no referee.

    python benchmarks/simloop_rpcs.py [VIRTUAL_SECONDS]

Prints the number of RPCs and the CPU seconds that they took.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import simloop  # type: ignore[import-not-found, unused-ignore]

FOLLOWERS = 4
HEARTBEAT = 0.1  # seconds, as in the reference solution


async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while line := await reader.readline():
        request = json.loads(line)
        writer.write(json.dumps({"term": request["term"], "success": True}).encode() + b"\n")


async def serve() -> None:
    server = await asyncio.start_server(handle, port=1)
    async with server:
        await server.serve_forever()


async def lead(seconds: float) -> tuple[int, float]:
    loop: Any = asyncio.get_running_loop()
    done = 0

    async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal done
        request = {
            "term": 1,
            "leader_id": 0,
            "prev_log_index": 5,
            "prev_log_term": 1,
            "entries": [],
            "leader_commit": 5,
        }
        writer.write(json.dumps(request).encode() + b"\n")
        reply = json.loads(await reader.readline())
        done += reply["success"]

    links = [await asyncio.open_connection(f"s{number}", 1) for number in range(1, FOLLOWERS + 1)]
    cpu, until = time.process_time(), loop.time() + seconds
    while loop.time() < until:
        calls = [loop.create_task(call(*link)) for link in links]
        await asyncio.sleep(HEARTBEAT)
        await asyncio.gather(*calls)
    return done, time.process_time() - cpu


async def main(seconds: float) -> tuple[int, float]:
    loop: Any = asyncio.get_running_loop()
    loop.net.set_defaults(latency=(0.0005, 0.0015))
    for number in range(1, FOLLOWERS + 1):
        loop.net.host(f"s{number}").create_task(serve())
    await asyncio.sleep(1.0)
    return await loop.net.host("s0").create_task(lead(seconds))


if __name__ == "__main__":
    print(*simloop.SimLoop(seed=0).run_until_complete(main(float(sys.argv[1]) if len(sys.argv) > 1 else 100.0)))
