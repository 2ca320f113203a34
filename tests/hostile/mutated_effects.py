"""A submission that sends slightly wrong effects never causes an error in the judge: each of its runs passes or fails.

The submission is the reference, with code that changes a field of some effects, sends some twice and drops others. The tests
take minutes, so ``pytest`` runs them only if this file is named: ``pytest tests/hostile/mutated_effects.py``.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlab import labs
from raftlab.runs.run import Implementation, Run
from raftlab.sandbox.levels import Sandbox
from raftlab.suites import catalogue
from tests.conftest import ROOT
from tests.hostile.bank import CLEAN, Entry

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

# The number of runs of each test.
SEEDS = 2
INIT = """
import raftlab.messages.codec as codec
import raftlab.messages.protocol as p
server = persister._server
if not hasattr(server, "first_emit"):
    send = server.first_emit = server.emit
    dice = random.Random(repr((me, time.monotonic(), random.random())))

    def mutated(value):
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return dice.choice([0, 1, 2, value + 1, value - 1, 1 << 31, 1 << 62, -(1 << 62), dice.randrange(20)])
        if isinstance(value, bytes):
            return dice.choice([b"", value[:-1], value + b"x"])
        if isinstance(value, str):
            return dice.choice(["", value + "x", "noop", "configuration", "command"])
        if isinstance(value, list) and value:
            place, how = dice.randrange(len(value)), dice.randrange(4)
            if how == 0:
                return [*value[:place], *value[place + 1 :]]
            return [*value, value[place]] if how == 1 else [*value[:place], mutated(value[place]), *value[place + 1 :]]
        if isinstance(value, dict) and value:
            name = dice.choice(list(value))
            return {**value, name: mutated(value[name])}
        return value

    def emit(effect):
        if dice.random() < 0.04 and hasattr(effect, "payload"):
            effect.payload = p.encode(mutated(codec.decode_plain(effect.payload)))
        rare = dice.random()
        if rare > 0.01 or type(effect) not in (p.Save, p.Append, p.Apply):
            send(effect)
        if rare > 0.99 and type(effect) in (p.Send, p.Answer, p.Save, p.Append, p.Apply):
            send(effect)

    server.emit = emit
"""


@pytest.mark.parametrize("lab", [lab.name for lab in labs.LABS.values()])
def test_the_judge_decides_about_every_run(lab: str, tmp_path: Path) -> None:
    entry = Entry("mutated", CLEAN, init=INIT, files={"kv.py": (ROOT / "solutions" / "kv.py").read_text()})
    entry.write(tmp_path)
    implementation = Implementation(tmp_path / "mutated", Sandbox("rlimits"))
    broken, failed = [], 0
    try:
        for info in catalogue.tests(lab):
            for seed in range(SEEDS):
                record = Run(implementation, info, "sim", seed).judge(catalogue.script_of(info))
                text = "" if record.failure is None else record.failure.text
                failed += record.outcome == "failed"
                if record.outcome == "error" or "cannot handle" in text:
                    broken.append((info.name, seed, text))
    finally:
        implementation.close()
    assert broken == []
    assert failed  # if no run had failed, the code would have changed no effect
