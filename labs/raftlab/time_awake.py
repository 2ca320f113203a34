"""Time limits that leave out pauses: a command that was stopped with Ctrl-Z (SIGTSTP, SIGSTOP) and continued later must not
fail a run because of the time in between."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Callable
from types import FrameType

# A wait should look at the clock at least once in this many seconds.
LOOK_S = 1.0
# If more than this many seconds pass between two looks, this process was stopped in between. The value is twice LOOK_S,
# because a look may be late on a busy machine. Time that is wrongly left out only makes a limit longer.
_GAP_S = 2 * LOOK_S


class TimeAwake:
    """The time since this object was created, without pauses. Ask for :attr:`seconds` at least once every :data:`LOOK_S`
    seconds. If more than two seconds pass between two questions, only two seconds count."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()
        self._seconds = 0.0

    @property
    def seconds(self) -> float:
        now = self._clock()
        self._seconds += min(now - self._looked, _GAP_S)
        self._looked = now
        return self._seconds


def poll_awake(poller: select.poll, seconds: float) -> list[tuple[int, int]]:
    """``poller.poll()``, with a limit in seconds that leaves out pauses."""
    awake = TimeAwake()
    left_s = max(0.0, seconds)
    while not (events := poller.poll(min(left_s, LOOK_S) * 1000)):
        left_s = seconds - awake.seconds
        if left_s <= 0:
            break
    return events


class TimeLimit:
    """Calls a function in the main thread when a time limit is over. Pauses do not count. A ``with`` block cancels the
    limit when the block ends.

    This class uses the process's alarm (SIGALRM). If the caller has set an alarm of its own, such as the time limit of a
    test, :meth:`cancel` sets that alarm again.

    Args:
        seconds: the limit, above 0.
        on_end: called once, from the signal's handler. What it raises is raised in the main thread.

    Raises:
        ValueError: this is not the main thread. Only the main thread receives signals.
    """

    def __init__(self, seconds: float, on_end: Callable[[], object]) -> None:
        self._seconds = seconds
        self._on_end = on_end
        self._began = time.monotonic()
        self._awake = TimeAwake()
        self._handler = signal.signal(signal.SIGALRM, self._look)
        # The alarm repeats. However many alarms were due during a pause, only one signal arrives after it.
        look_s = min(LOOK_S, seconds)
        self._outer_s, self._outer_interval_s = signal.setitimer(signal.ITIMER_REAL, look_s, look_s)

    def _look(self, number: int, frame: FrameType | None) -> None:
        if self._awake.seconds >= self._seconds:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self._on_end()

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        self.cancel()

    def cancel(self) -> None:
        """End the limit. Has no effect the second time."""
        if self._handler is None:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._handler)
        self._handler = None
        if self._outer_s:
            left_s = max(0.001, self._outer_s - (time.monotonic() - self._began))
            signal.setitimer(signal.ITIMER_REAL, left_s, self._outer_interval_s)
