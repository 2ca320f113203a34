"""A fake job, which writes the records that its script (a JSON file) asks for. It imports only the standard library.

The script maps ``"test/seed"``, ``"test"`` or ``"*"`` (the most specific one counts) to what happens: ``pass``, ``fail``,
``error``, ``skip`` (no record), ``garbage`` (forged lines instead), ``die`` (the job kills itself with SIGKILL),
``die-once``, ``error-once``, ``hang``, or ``family`` (start a child and hang). ``"end": false`` leaves out the end marker.
``"trace"`` is the size, in bytes, of the events in the trace of a run that does not pass.
"""

import json
import os
import signal
import sys
import time

asked = json.loads(sys.argv[1])
with open(asked["script"]) as file:
    script = json.load(file)


def write(line):
    os.write(asked["fd"], line.encode() + b"\n")


def record(test, seed, outcome, **more):
    return {
        "schema": 1,
        "test": test,
        "lab": asked["lab"],
        "title": test,
        "network": asked["network"],
        "seed": seed,
        "points": 99,
        "outcome": outcome,
        "lab_s": 10.0 + seed,
        "wall_s": 0.25,
        "rpcs": 100 + seed,
        **more,
    }


def failure(test, seed):
    return {
        "failure": {
            "kind": "assertion",
            "text": f"expected one leader, saw none at seed {seed} \x1b[31m",
            "where": "raft.py:12",
        },
        "replay": f"raftlab replay {test} --seed {seed}",
    }


def trace(test, seed):
    os.makedirs(asked["traces"], exist_ok=True)
    path = os.path.join(asked["traces"], f"{asked['lab']}-{test}-{asked['network']}-{seed}.jsonl")
    with open(path, "w") as file:
        file.write("{}\n" + "x" * script["trace"])
    return path


written = 0
for test in asked["tests"]:
    for seed in range(*asked["seeds"]):
        word = script.get(f"{test}/{seed}", script.get(test, script.get("*", "pass")))
        print("run", test, seed, word, flush=True)
        if word == "die-once":
            flag = f"{asked['script']}.{test}.{seed}.died"
            word = "pass" if os.path.exists(flag) else "die"
            open(flag, "w").close()
        if word == "error-once":
            flag = f"{asked['script']}.{test}.{seed}.erred"
            word = "pass" if os.path.exists(flag) else "error"
            open(flag, "w").close()
        if word == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "family":
            import subprocess  # here, because this import takes a third of the time of most fake jobs

            subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(600)", asked["mark"]])
            word = "hang"
        if word == "hang":
            time.sleep(600)
        if word == "garbage":
            write('{"test": "forged", "outcome": "passed"}')
            write("\x00\x1b not json")
            write(json.dumps(record(test, seed + 1000, "passed")))
            write(json.dumps({**record(test, seed, "passed"), "lab": "9Z"}))
        if word in ("pass", "fail", "error"):
            outcome = {"pass": "passed", "fail": "failed", "error": "error"}[word]
            more = failure(test, seed) if word != "pass" else {}
            if more and "trace" in script:
                more["trace"] = trace(test, seed)
            write(json.dumps(record(test, seed, outcome, **more)))
            written += 1
if script.get("end", True):
    write(json.dumps({"end": written}))
sys.exit(script.get("exit", 0))
