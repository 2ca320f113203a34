"""Lab 2F: PreVote."""

from __future__ import annotations

from raftlab.suites import Start, points


@points(5)
def test_still_elects(cluster: Start) -> None:
    """A leader that fails is replaced in time."""
    c = cluster(3)
    c.disconnect(c.one_leader())
    c.one_leader()
