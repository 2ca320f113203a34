"""The decorator of a suite's tests: :func:`points` says what a test is worth and which worlds it can run in.

A test is a script that drives a :class:`raftlab.harness.cluster.Cluster`. Its docstring is the title that students read.
These are tests of students' code; the framework's own tests are in ``tests/``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar

from raftlab.harness.cluster import Cluster

# The worlds that a test can run in.
BOTH = ("sim", "rpyc")
SIM = ("sim",)


class StartCluster(Protocol):
    """The ``cluster`` fixture of a test: makes the run's one cluster.

    Args:
        servers: how many, from 1 to 25.
        scripted: the servers that the test plays itself.
        start: whether to start all servers and wait until they are ready.
        members: the servers that vote at first (lab 2E). ``None``: all.
    """

    def __call__(
        self,
        servers: int,
        scripted: Collection[int] = (),
        start: bool = True,
        members: Collection[int] | None = None,
    ) -> Cluster: ...


_F = TypeVar("_F", bound=Callable[..., None])


def points(worth: int, networks: tuple[str, ...] = BOTH) -> Callable[[_F], _F]:
    """Mark a function as a suite's test.

    Args:
        worth: its points.
        networks: the worlds that it can run in, ``BOTH`` or ``SIM``.
    """

    def mark(test: _F) -> _F:
        test.lab_points = worth  # type: ignore[attr-defined]
        test.lab_networks = networks  # type: ignore[attr-defined]
        return test

    return mark
