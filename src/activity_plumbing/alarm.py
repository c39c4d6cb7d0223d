"""Waking up at a wall-clock instant, exactly, and at once when the clock is set or the machine resumes.

Linux ``timerfd`` on ``CLOCK_REALTIME`` with ``TFD_TIMER_CANCEL_ON_SET`` (timerfd_create(2)) does all three;
a timer on the monotonic clock would sleep through a clock step.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from activity_plumbing.clock import Instant

_CLOCK_REALTIME = 0
_TFD_NONBLOCK = os.O_NONBLOCK
_TFD_CLOEXEC = os.O_CLOEXEC
_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2
_FAR_FUTURE_US = 4_102_444_800 * 1_000_000  # 2100-01-01: an unarmed timerfd would not report clock steps


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class WallAlarm:
    """Calls `on_ring` from the running loop when the set instant has come, or when the wall clock was set.

    One instant at a time: setting it again replaces the earlier one.
    """

    def __init__(self, on_ring: Callable[[], None]) -> None:
        self._on_ring = on_ring
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None, use_errno=True)
        fd = self._libc.timerfd_create(_CLOCK_REALTIME, _TFD_NONBLOCK | _TFD_CLOEXEC)
        if fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed: activity-core needs Linux 2.6.25 or later")
        self._fd: int = fd
        self._loop.add_reader(fd, self._ring)

    def set(self, instant: Instant | None) -> None:
        """Arms the alarm; ``None`` leaves only the clock-step watch. Does nothing once closed."""
        if self._fd < 0:
            return
        when = _FAR_FUTURE_US if instant is None else max(1, instant)
        value = _Timespec(when // 1_000_000, when % 1_000_000 * 1000)
        spec = _Itimerspec(_Timespec(0, 0), value)
        flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
        while self._libc.timerfd_settime(self._fd, flags, ctypes.byref(spec), None) < 0:
            failure = ctypes.get_errno()
            if failure != errno.ECANCELED:  # the clock was set since the last look: armed all the same
                raise OSError(failure, os.strerror(failure))
            self._loop.call_soon(self._on_ring)
            break

    def close(self) -> None:
        """Lets go of the timer; safe to call twice."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _ring(self) -> None:
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            return
        except OSError as failure:
            if failure.errno != errno.ECANCELED:  # ECANCELED is the clock having been set
                raise
        self._on_ring()
