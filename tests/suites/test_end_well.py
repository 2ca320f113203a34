"""Tests of how a run of lab 3 ends if clerks still wait for their operations (``suites/helpers/clients.py``)."""

from __future__ import annotations

import pytest

from raftlab.explain.failure import LabFailure
from raftlab.suites.helpers.clients import end_well
from tests.conftest import SOLUTION, sim_cluster


@pytest.mark.parametrize("stuck", [[0, 1], [0]], ids=["all clerks", "one clerk"])
def test_a_clerk_that_is_stuck_at_the_end_fails_the_test(stuck: list[int]) -> None:
    with sim_cluster(SOLUTION.parent, 3, lab="3A", clerks=2) as c:
        c.start_all()
        c.clerks[1].put("x", "0")
        for number in stuck:
            c.disconnect(c.clerks[number].number)
            c.clerks[number].begin("put", "x", str(number))
        with pytest.raises(LabFailure, match=r"expected C0\.put\('x', '0'\) to return within 10 s, but it has not"):
            end_well(c)


def test_an_operation_may_return_at_the_end() -> None:
    with sim_cluster(SOLUTION.parent, 3, lab="3A", clerks=1) as c:
        c.start_all()
        operation = c.clerks[0].begin("put", "x", "1")
        end_well(c)
        assert operation.outcome == "ok"
        assert c.history[-1].result == "1"
