"""Generates the table of known bugs that the referee catches on its own. For each bug, the table names the rule, the number
of runs until the referee noticed it, and the test that catches the bug without the referee.

    python -m tests.referee.bug_table > tests/referee/bug-table.md    # about twenty minutes
    python -m tests.referee.bug_table 2A                              # one lab

For each bug in the bank (``tests/bugs``), the command runs the bug's own test, then the other tests of its lab, then random
scenarios (``raftlab fuzz``), until the referee ends a run. A failed expectation of a test does not count. Bugs that break
only liveness or the lab's contract are left out, because no rule of the referee is about them.

"Without the referee" means the same suite with a referee that only checks that servers apply the same commands in order,
like MIT 6.824's test harness.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raftgrade.proof.bug_bank import Bug
from raftlab import labs
from raftlab.explain.failure import Failure
from raftlab.harness.cluster import Cluster
from raftlab.referee.base import Invariant
from raftlab.runs import names, random_scenarios
from raftlab.runs.names import NamedRun
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from tests.known_bugs import BANK, put

OWN_SEEDS = 3  # runs of the bug's own test
FUZZ_SEEDS = 120  # number of random scenarios
# Only labs 2A to 2D are in the table.
LABS = [lab.name for lab in labs.LABS.values() if not lab.has("membership") and not lab.has("service")]


# A bug that breaks one of these is not in the table.
NOT_ABOUT_SAFETY = ("Liveness", "The lab's contract")

# Bugs for which a consequence of the mistake, not the mistake itself, breaks the rule in the table. For example, a server
# that has lost entries is noticed when it votes for a candidate that lacks them. This list is maintained by hand.
CONSEQUENCES = {
    "2B": {"rp-truncate-always", "rp-no-truncate-tail", "rp-next-underflow", "rp-accept-old-leader", "rp-heartbeats-apart",
           "rp-conflict-first-entry-only"},
    "2C": {
        "ps-no-log", "ps-entry-terms-lost", "ps-own-entry-not-saved", "ps-append-saved-before",
        "ps-leader-counts-unsynced", "ps-disk-error-acked-leader", "ps-appended-not-read", "ps-replaced-not-marked",
        "rp-keep-conflict", "ps-disk-error-ignored-in-replies",
    },
    "2D": {"sn-sets-term", "sn-purged-prev-is-conflict", "sn-last-term-lost", "sn-last-term-lost-installed"},
}  # fmt: skip


class _AppliesOnly(Invariant):
    """A referee that is told only of starts and of applied entries, not of messages."""

    def __init__(self, applies: Any) -> None:
        self.applies = applies
        self.booted = applies.booted  # type: ignore[method-assign]
        self.applied = applies.applied  # type: ignore[method-assign]


class Plain(Cluster):
    """A cluster whose referee checks only applied entries."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.event_loop.referee = _AppliesOnly(self.event_loop.referee.applies)  # type: ignore[assignment]


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        lab: the lab of the bug.
        bug: its name.
        rule: the rule that the referee named; empty if it ended no run.
        by: the test or scenario of the run that the referee ended.
        runs: the number of runs up to the one that the referee ended; if it ended none, the number of all runs.
        plain: the first test that fails without the referee, or ``"no"``.
    """

    lab: str
    bug: str
    rule: str
    by: str
    runs: int
    plain: str


def bugs(wanted: list[str]) -> list[Bug]:
    return [bug for lab in wanted for bug in BANK.of(lab) if bug.breaks not in NOT_ABOUT_SAFETY]


def order(bug: Bug) -> Iterator[NamedRun]:
    """The runs for one bug, in order."""
    own = [catalogue.find_test(catch.test) for catch in bug.catches[:1]]
    for info in own:
        for seed in range(OWN_SEEDS):
            yield NamedRun(info, "sim", seed, None)
    for info in catalogue.tests(bug.lab):
        if info not in own:
            yield NamedRun(info, "sim", 0, None)
    for seed in range(FUZZ_SEEDS):
        scenario = random_scenarios.generate(bug.lab, seed)
        yield NamedRun(names.info_of(scenario), "sim", seed, None, scenario)


def failure_of(impl: Implementation, named: NamedRun, kind: type[Cluster] = Cluster) -> Failure | None:
    return Run(impl, named.info, "sim", named.seed, named.schedule, cluster_class=kind).play(named.script)


def row(bug: Bug) -> Row:
    with tempfile.TemporaryDirectory() as folder, closing(Implementation(put(bug, Path(folder)))) as impl:
        rule, by, runs = "", "", 0
        for named in order(bug):
            runs += 1
            failure = failure_of(impl, named)
            if failure is not None and failure.kind == "invariant" and failure.rule is not None:
                rule, by = failure.rule.name, named.info.name
                break
        plain = "no"
        for named in order(bug):
            if named.scenario is not None:
                break
            if failure_of(impl, named, Plain) is not None:
                plain = named.info.name
                break
    return Row(bug.lab, bug.name, rule, by, runs, plain)


def main() -> None:
    print("# Known bugs that the referee catches on its own\n")
    print(
        "Generated by `python -m tests.referee.bug_table`. Its docstring explains the columns. Each bug is a small change "
        "to the reference. Bugs that break only liveness or the lab's contract are left out.\n"
    )
    print("| lab | bug | rule | caught in | runs | caught without the referee by |\n|---|---|---|---|---|---|")
    rows = []
    for bug in bugs(sys.argv[1:] or LABS):
        this = row(bug)
        rows.append(this)
        rule = this.rule or "(none)"
        if this.rule and bug.name in CONSEQUENCES.get(bug.lab, ()):
            rule += ", as a consequence"
        cells = (bug.lab, bug.name, rule, this.by or "-", this.runs, this.plain)
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    stopped = [each for each in rows if each.rule]
    alone = [each for each in stopped if each.plain == "no"]
    later = [each for each in stopped if each.bug in CONSEQUENCES.get(each.lab, ())]
    print(
        f"\nThe referee catches {len(stopped)} of {len(rows)} bugs, {len(stopped) - len(later)} of them by the rule that the"
    )
    print(f"mistake itself breaks. Without the referee, {len(alone)} of the bugs that it catches would pass the suite.")


if __name__ == "__main__":
    main()
