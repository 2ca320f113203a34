"""The decorator for a suite's tests: :func:`points` sets the points of a test and the worlds in which it can run.

A test is a script that drives a :class:`raftlab.harness.cluster.Cluster`. Its docstring is the title that students read.
These are tests of students' code; the framework's own tests are in ``tests/``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeVar, Unpack

from raftlab.harness.cluster import Cluster, ServiceOptions

# The worlds that a test can run in.
BOTH = ("sim", "rpyc")
SIM = ("sim",)


class StartCluster(Protocol):
    """The ``cluster`` fixture of a test: creates the run's only cluster.

    Args:
        servers: number of servers, from 1 to 25.
        scripted: the servers that the test plays itself.
        start: whether to start all servers and wait until they are ready.
        members: the servers in the initial configuration (lab 2E); ``None`` for all.
        service: the clerks, and the arguments of ``KVServer`` (lab 3A).
    """

    def __call__(
        self,
        servers: int,
        scripted: Collection[int] = (),
        start: bool = True,
        members: Collection[int] | None = None,
        **service: Unpack[ServiceOptions],
    ) -> Cluster: ...


_F = TypeVar("_F", bound=Callable[..., None])


def points(number: int, networks: tuple[str, ...] = BOTH, schedule: str | None = None) -> Callable[[_F], _F]:
    """Mark a function as a suite's test.

    Args:
        number: the points for passing it.
        networks: the worlds that it can run in, ``BOTH`` or ``SIM``.
        schedule: how the simulator preempts threads in every run, a name from :mod:`raftlab.schedules`. Tests that measure
            virtual time need ``"none"``, because a preemption takes virtual time. ``None``: the seed decides.
    """

    def mark(test: _F) -> _F:
        test.lab_points = number  # type: ignore[attr-defined]
        test.lab_networks = networks  # type: ignore[attr-defined]
        test.lab_schedule = schedule  # type: ignore[attr-defined]
        return test

    return mark
