"""Checks of the arguments of ``acquire`` and ``sleep``, which refuse exactly what CPython refuses.

A timeout that CPython refuses (NaN, infinity, a negative number, a string) must raise the same exception in the simulator
as on the real network, on the same line, whether or not the lock is free. Python's own lock and ``time.sleep`` raise the
exception, so its type and text are right on every version.
"""

from __future__ import annotations

import _thread
import time as real_time
from typing import Any

# Seconds. The longest timeout that CPython accepts (about 292 years); the substitute for `_thread` shows the same number.
TIMEOUT_MAX = _thread.TIMEOUT_MAX


def check_acquire(blocking: Any, timeout: Any) -> None:
    """Raise what ``lock.acquire(blocking, timeout)`` raises in CPython, if it does.

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
    """Raise what ``time.sleep(seconds)`` raises in CPython, if it does.

    Raises:
        ValueError: The length is negative or NaN.
        OverflowError: CPython's clock cannot represent the length.
        TypeError: It is not a number.
    """
    number: Any = seconds
    if not isinstance(number, float) and hasattr(type(number), "__index__"):
        number = number.__index__()
    if isinstance(number, int | float) and 0 <= number <= TIMEOUT_MAX:
        return
    real_time.sleep(number)  # always raises: valid lengths have returned above
