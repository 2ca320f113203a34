"""The schedules of the simulator: how it chooses and preempts threads in a run.

No single schedule finds all races, so each run uses one of several. The seed of the run determines which one. The trace and
the replay command name the schedule.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Schedule:
    """One way to choose and preempt threads. All times are virtual seconds.

    Attributes:
        meaning: A description of the schedule, for ``--help`` and handouts.
        point_rates: The probability of a preemption at each switch point. Each run uses one of these values, chosen at
            random. Switch points are compiled into student code, see :mod:`raftlab.host.preemption`.
        point_pause: How long such a preemption lasts, on average. Half of these preemptions last no time: they only let
            other threads that are ready at the same instant run first.
        sync_rate: The probability of a preemption at each synchronization point: a lock has just been released and the
            thread holds no other lock, a `wait` returns, a thread starts, a `call` begins or returns, a message has been put
            into `apply_ch`, or a thread that holds no lock saves.
        sync_pause: How long such a preemption lasts, on average.
        priorities: Whether each thread has a random priority. If so, the ready thread with the highest priority runs, and a
            preempted thread gets a lower priority than all others.
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
    # In a trial, these values of sync_rate and sync_pause found the most bugs of this kind: a thread checks a condition,
    # releases the lock, takes the lock again, and relies on the condition.
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
    # The pauses are longer than the delay of a message, and shorter than an election timeout.
    "pauses": Schedule(
        "a few threads pause for long, as on a machine with too much to do",
        point_rates=(1 / 20_000, 1 / 5000),
        point_pause=0.015,
        sync_rate=0.01,
        sync_pause=0.015,
    ),
}

# The maximum length of a pause, in virtual seconds. A correct Raft must not lose its leader because of one pause.
MAX_PAUSE = 0.030

# Consecutive seeds of a test use consecutive schedules of this list, so that a few seeds already use every schedule.
_TURNS = ("release", "random", "priorities", "release", "pauses", "random", "release", "none")


def of_run(seed: int, own_seed: int) -> str:
    """The schedule of a run.

    Args:
        seed: The run's seed, 0 or more.
        own_seed: A number derived from the name of the test, so that the same seed selects different schedules for different
            tests.
    """
    return _TURNS[(seed + own_seed) % len(_TURNS)]
