"""A short simulated run in the warm host itself, which makes all later children faster.

Everything that ``dataclasses`` compiled in a child, and everything that Python specialised while the child ran, is lost
when the child ends. The next child would do it all again, which takes a quarter of the CPU time of a short run.
Children inherit what the warm-up has compiled and specialised. The warm-up uses raftlab's own submission
(``warm_up_submission/raft.py``), never the student's code, and its own copies of the libraries, so it leaves nothing
that a child can see.
"""

from __future__ import annotations

import sys
from pathlib import Path

from raftlab import api
from raftlab.host import kernel as kernels
from raftlab.host.loader import Program
from raftlab.host.sim_host import SimHost
from raftlab.messages import codec, protocol
from raftlab.submission import source

_SUBMISSION = Path(__file__).with_name("warm_up_submission")
SERVERS = 3
DURATION_S = 0.5  # virtual seconds: long enough for each server to call each other server a few times
NETWORK_DELAY_S = 0.001  # virtual seconds
_finished: list[SimHost] = []  # never collected: a collected greenlet would run its `finally` blocks


def run() -> list[protocol.Effect]:
    """Perform the run in this process, then restore everything that it replaced. Returns its effects."""
    sink, kernel = api._sink, kernels.active
    program = Program(source.find(_SUBMISSION))
    replaced = {name: sys.modules.get(name) for name in program.submission.modules}
    try:
        return _simulate(program)
    finally:
        api._sink = sink
        kernels.install(kernel)
        for name, module in replaced.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _simulate(program: Program) -> list[protocol.Effect]:
    host = SimHost(program, seed=0, schedule="release")
    _finished.append(host)
    decode = protocol.decoder(protocol.StepRequest).decode
    all_servers = list(range(SERVERS))
    due: list[tuple[float, protocol.Event]] = [
        (0.0, protocol.Boot(server, 1, SERVERS, all_servers, b"", b"", server)) for server in all_servers
    ]
    callers: dict[int, tuple[int, int]] = {}
    effects: list[protocol.Effect] = []
    while host.kernel.now < DURATION_S:
        stepped = host.step(decode(protocol.encode(protocol.StepRequest(DURATION_S, NETWORK_DELAY_S, due))))
        protocol.pack(stepped)
        due = due[stepped.consumed :]
        for when, effect in stepped.effects:
            effects.append(effect)
            arrival = max(when, stepped.now) + NETWORK_DELAY_S
            match effect:
                case protocol.Ready(server=server):
                    for number, (method, args) in enumerate((("start", ["x"]), ("get_state", []), ("status", []))):
                        due.append((arrival, protocol.Call(server, number, method, codec.encode_value(args))))
                case protocol.Send():
                    number = len(callers)
                    callers[number] = effect.server, effect.caller_rpc
                    due.append((arrival, protocol.Request(effect.target, number, effect.method, effect.payload)))
                case protocol.Answer():
                    due.append((arrival, protocol.Reply(*callers[effect.judge_rpc], effect.payload)))
        due.sort(key=lambda item: item[0])
    return effects
