"""The schedules of the simulator: how threads are chosen and preempted in a run.

No single way of preempting finds all races, so each run uses one of several. Its seed decides which one. The trace and
the replay command name it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """One way of preempting threads. All times are virtual seconds.

    Attributes:
        meaning: A description of the schedule, for ``--help`` and handouts.
        point_rates: The probability of a preemption at each switch point. One value is drawn per run. Switch points
            are compiled into student code, see :mod:`raftlab.host.preemption`.
        point_pause: How long such a preemption lasts, on average. Half of them last no time at all: they only let other
            threads that are ready at the same instant go first.
        sync_rate: The probability of a preemption at each operation that threads use to work together: a lock has just
            been released and the thread holds no other, a `wait` returns, a thread starts, a `call` begins or returns,
            or a message has been put into `apply_ch`.
        sync_pause: How long such a preemption lasts, on average.
        priorities: Each thread has a random priority. Of the threads that are ready, the one with the highest priority
            runs. A preempted thread falls below all others.
    """

    meaning: str
    point_rates: tuple[float, ...] = ()
    point_pause: float = 0.000_5
    sync_rate: float = 0.0
    sync_pause: float = 0.0
    priorities: bool = False


SCHEDULES: dict[str, Schedule] = {
    "none": Schedule("threads switch only where they wait"),
    "random": Schedule("any statement may be interrupted", point_rates=(1 / 2000, 1 / 300, 1 / 60)),
    # In a trial, these two numbers caught the most bugs of this kind: a thread checks something, releases the lock, takes it
    # again, and acts on the check.
    "release": Schedule(
        "threads pause after they release a lock, and around wait, start, call and put",
        point_rates=(1 / 2000,),
        sync_rate=0.1,
        sync_pause=0.003,
    ),
    # "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (Burckhardt et al., 2010). The points at
    # which priorities change are drawn one after another, because the length of a run is not known in advance.
    "priorities": Schedule(
        "the thread with the highest priority runs, and a few random points change priorities",
        point_rates=(1 / 5000, 1 / 1000),
        point_pause=0.002,
        sync_rate=0.02,
        sync_pause=0.002,
        priorities=True,
    ),
    # Longer than a message takes, shorter than an election timeout.
    "pauses": Schedule(
        "a few threads pause for long, as on a machine with too much to do",
        point_rates=(1 / 20_000, 1 / 5000),
        point_pause=0.015,
        sync_rate=0.01,
        sync_pause=0.015,
    ),
}

# No pause is longer than this many virtual seconds: a correct Raft must not lose its leader over one.
MAX_PAUSE = 0.030

# Consecutive seeds of a test take turns in this list, so that a few seeds already use every schedule.
_TURNS = ("release", "random", "priorities", "release", "pauses", "random", "release", "none")


def of_run(seed: int, own_seed: int) -> str:
    """The schedule of a run.

    Args:
        seed: The run's seed, from 0 on.
        own_seed: A number derived from the seed's test, so that the same seed of another test has another schedule.
    """
    return _TURNS[(seed + own_seed) % len(_TURNS)]
