"""The rehearsal: before the warm host forks its second simulated run, a play of ours goes over the stage once.

A child starts cold. What ``dataclasses`` compiles for the first server, and what Python learns of each line by running it,
is gone with the child, and the next one pays again: a quarter of the processor time of a short run. What is learnt here,
all later children have. It is our own play (``play/raft.py``) and never the student's code, with library copies of its
own: no child sees anything of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from raftlab import api
from raftlab.host import kernel as _k
from raftlab.host.loader import Program
from raftlab.host.sim_host import SimHost
from raftlab.messages import codec, protocol
from raftlab.submission import source

PLAY = Path(__file__).with_name("warm_up_submission")
SERVERS = 3
LONG_S = 0.5  # of virtual time: each server speaks with each other a few times
HOP_S = 0.001
_kept: list[SimHost] = []  # greenlets that were collected would run what is left of them


def once() -> list[protocol.Effect]:
    """Play it in this process, and leave everything as it was but for what Python has learnt. Returns what happened."""
    sink, kernel = api._sink, _k.K
    program = Program(source.find(PLAY))
    there = {name: sys.modules.get(name) for name in program.submission.modules}
    try:
        return _play(program)
    finally:
        api._sink = sink
        _k.install(kernel)
        for name, module in there.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module


def _play(program: Program) -> list[protocol.Effect]:
    host = SimHost(program, seed=0, preempt=True)
    _kept.append(host)
    decode = protocol.decoder(protocol.StepRequest).decode
    everybody = list(range(SERVERS))
    due: list[tuple[float, protocol.Event]] = [
        (0.0, protocol.Boot(server, 1, SERVERS, everybody, b"", b"", server)) for server in everybody
    ]
    callers: dict[int, tuple[int, int]] = {}
    effects: list[protocol.Effect] = []
    while host.kernel.now < LONG_S:
        stepped = host.step(decode(protocol.encode(protocol.StepRequest(LONG_S, HOP_S, due))))
        protocol.pack(stepped)
        due = due[stepped.consumed :]
        for when, effect in stepped.effects:
            effects.append(effect)
            soon = max(when, stepped.now) + HOP_S
            match effect:
                case protocol.Ready(server=server):
                    for number, (method, args) in enumerate((("start", ["x"]), ("get_state", []), ("status", []))):
                        due.append((soon, protocol.Call(server, number, method, codec.encode_value(args))))
                case protocol.Send():
                    number = len(callers)
                    callers[number] = effect.server, effect.caller_rpc
                    due.append((soon, protocol.Request(effect.target, number, effect.method, effect.payload)))
                case protocol.Answer():
                    due.append((soon, protocol.Reply(*callers[effect.judge_rpc], effect.payload)))
        due.sort(key=lambda each: each[0])
    return effects
