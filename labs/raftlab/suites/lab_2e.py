"""Lab 2E: membership."""

from __future__ import annotations

from raftlab.membership import reconfigure
from raftlab.suites import Start, points


@points(5)
def test_add_one(cluster: Start) -> None:
    """A fourth server is added to three, and counts."""
    c = cluster(4, members=range(3))
    c.agree("by three", 3)
    reconfigure(c, range(4))
    c.agree("by four", 4)


@points(5)
def test_remove_one(cluster: Start) -> None:
    """remove."""
    c = cluster(4)
    c.agree("by four", 4)
    reconfigure(c, range(3))
    c.agree("by three", 3)


@points(5)
def test_part2_swap_all(cluster: Start) -> None:
    """swap."""
    c = cluster(6, members=range(3))
    c.agree("by three", 3)
    reconfigure(c, (3, 4, 5))
    c.agree("by the new three", 3, among=(3, 4, 5))
