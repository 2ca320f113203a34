"""The table of known bugs: which test catches each, and on which seed first.

    python -m tests.bug_table > tests/known-bugs.md

Runs every bug of the tables of ``test_suite_2a.py`` and its like against its own test until it is caught, at most
``SEEDS`` times. Takes two minutes; what is quick enough for every day is in the tests themselves.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests import bugs, test_suite_2a, test_suite_2b, test_suite_2c, test_suite_2d, test_suite_2e, test_suite_2f

SEEDS = 20
SUITES = {
    "2A": test_suite_2a,
    "2B": test_suite_2b,
    "2C": test_suite_2c,
    "2D": test_suite_2d,
    "2E": test_suite_2e,
    "2F": test_suite_2f,
}

# Bugs of our list (its first column, priority A and B, labs 2A to 2F) that are in no table, and why.
LEFT_OUT = {
    "rp-aliasing": "cannot happen here: a message becomes bytes when call() begins, so nothing of the log is shared with it",
    "mb-progress-reset": "costs messages only; that progress is missing altogether is in the table",
    "pv-reply-own-term": "heals itself: the no to the pre-vote of the older term brings the newer one along",
    "pv-transfer-blocked": "needs leadership transfer, which no lab has",
    "sn-no-sessions": "is a bug of the service above Raft, which students do not write",
}
# And of priority C, tried or thought about.
NOT_FAULTS = {
    "ps-persist-every-tick": "wasteful but correct; a limit on saves would fail careful Rafts that save in every handler",
    "rp-wait-heartbeat": "slow but correct",
    "rp-commit-regress": "seen from inside only, and harmless as long as nothing is applied twice",
    "sn-wait-lost": "is a bug of the service above Raft",
}


def first_seed(bug: bugs.Bug) -> int | None:
    """The first seed on which the bug's own test fails as the table says."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raft.py").write_text(bugs.changed(bug))
        for seed in range(SEEDS):
            for text in bugs.failures(folder, bug.by, range(seed, seed + 1)):
                if text.startswith(bug.says):
                    return seed
    return None


def main() -> None:
    print("# Known bugs, and what catches them\n")
    print('Made by `python -m tests.bug_table`. Each bug is a small change of the reference. "Seeds" is how many runs')
    print("of that one test it took, of at most 20.\n")
    print("| lab | bug | caught by | seeds |\n|---|---|---|---|")
    caught = total = 0
    for lab, module in SUITES.items():
        for name, bug in module.BUGS.items():
            seed = first_seed(bug)
            total += 1
            caught += seed is not None
            print(f"| {lab} | {name} | {bug.by} | {'missed' if seed is None else seed + 1} |", flush=True)
    print(f"\n{caught} of {total} caught.\n\nIn no table:\n")
    for name, why in {**LEFT_OUT, **NOT_FAULTS}.items():
        print(f"- {name}: {why}.")


if __name__ == "__main__":
    main()
