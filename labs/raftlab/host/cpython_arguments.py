"""Checks of the arguments of ``acquire`` and ``sleep``. They refuse exactly what CPython refuses.

If CPython refuses a timeout (NaN, infinity, a negative number, a string), the simulator must raise the same exception
on the same line as the real network, whether or not the lock is free. Python's own lock and ``time.sleep`` raise the
exception here, so its type and text are right on every Python version.
"""

from __future__ import annotations

import _thread
import time as real_time
from typing import Any

# The longest timeout that CPython accepts, in seconds (about 292 years). The substitute for `_thread` has the same
# value.
TIMEOUT_MAX = _thread.TIMEOUT_MAX


def check_acquire(blocking: Any, timeout: Any) -> None:
    """Raise what ``lock.acquire(blocking, timeout)`` would raise in CPython, if anything.

    Raises:
        ValueError: The timeout is negative (except -1) or NaN, or the call has a timeout but does not block.
        OverflowError: The timeout is above :data:`TIMEOUT_MAX`.
        TypeError: An argument is not a number.
    """
    if type(timeout) in (int, float) and type(blocking) in (bool, int):
        if blocking and 0 <= timeout <= TIMEOUT_MAX:
            return
        if timeout == -1:
            return
    # A new lock is free, so the call raises or returns at once.
    _thread.allocate_lock().acquire(blocking, timeout)


def check_sleep(seconds: Any) -> None:
    """Raise what ``time.sleep(seconds)`` would raise in CPython, if anything.

    Raises:
        ValueError: The length is negative or NaN.
        OverflowError: CPython's clock cannot represent the length.
        TypeError: The length is not a number.
    """
    number: Any = seconds
    if not isinstance(number, float) and hasattr(type(number), "__index__"):
        number = number.__index__()
    if isinstance(number, int | float) and 0 <= number <= TIMEOUT_MAX:
        return
    real_time.sleep(number)  # always raises: valid lengths have returned above
