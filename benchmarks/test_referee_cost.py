"""The cost of referee and trace: the CPU time of judge and host for the same runs, once with a referee and a trace, and
once with neither.

Without a referee, only the rule about applied entries is checked, because it tells the harness which entries are committed.
"""

from __future__ import annotations

import time
from contextlib import closing
from statistics import median
from typing import Any

import pytest

from raftlab.harness.cluster import Cluster
from raftlab.runs.run import Implementation, Run
from raftlab.suites import catalogue
from tests.conftest import SOLUTION
from tests.referee.bug_table import Plain

# Tests that send many messages and do not read the trace themselves.
TESTS = [
    "many_elections",
    "unreliable",
    "basic_agreement",
    "backup",
    "figure_8",
    "unreliable_churn",
    "snapshot_unreliable",
]
ROUNDS = 15


class Bare(Plain):
    """A cluster without a referee or a trace."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.event_loop.trace.add = lambda event: None


def cpu_of(impl: Implementation, name: str, seed: int, kind: type[Cluster]) -> float:
    run = Run(impl, catalogue.find_test(name), "sim", seed, cluster_class=kind)
    catalogue.script_of(run.info)(run.cluster)
    run.close()
    spent = run.record(None).cpu_s
    assert run.started_cluster is not None
    before = time.process_time()
    run.started_cluster.event_loop.trace.hash()  # included in the cost, because the record of every run contains this hash
    return spent + time.process_time() - before


@pytest.mark.timeout(0)
def test_cost_of_referee_and_trace() -> None:
    with closing(Implementation(SOLUTION.parent)) as impl:
        total_with = total_without = 0.0
        for name in TESTS:
            with_both, without = [], []
            for seed in range(ROUNDS):
                with_both.append(cpu_of(impl, name, seed, Cluster))
                without.append(cpu_of(impl, name, seed, Bare))
            total_with += sum(with_both)
            total_without += sum(without)
            share = 1 - sum(without) / sum(with_both)
            print(
                f"\n{name:22} {median(with_both):.3f} s with, {median(without):.3f} s without: {share:.0%} of the run",
                end="",
            )
        print(f"\nall: {1 - total_without / total_with:.1%} of {total_with:.1f} s")
