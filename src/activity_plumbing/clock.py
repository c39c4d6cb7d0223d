"""The clocks of this machine, and instants as whole numbers.

An `Instant` counts microseconds since 1970-01-01T00:00Z. Plain integers compare, subtract and store
alike everywhere, while two ``datetime`` values of one zone compare by wall time and so call the two
readings of a repeated autumn hour equal. Zone arithmetic happens only in ``activity_core.trigger``.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import NewType, Protocol

Instant = NewType("Instant", int)
"""Microseconds since the Unix epoch, UTC."""

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US
DAY_US = 24 * HOUR_US

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Clock(Protocol):
    """What the engine may ask about time; handed in at the top so that tests can own it."""

    def now(self) -> Instant:
        """The wall clock. May jump, in both directions."""

    def boottime_us(self) -> int:
        """Microseconds since boot, suspend included (``CLOCK_BOOTTIME``, clock_gettime(2)). Never jumps."""

    def monotonic_us(self) -> int:
        """Microseconds that this machine was awake (``CLOCK_MONOTONIC``). For durations."""


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> Instant:
        return Instant(time.time_ns() // 1000)

    def boottime_us(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def monotonic_us(self) -> int:
        return time.monotonic_ns() // 1000


def to_datetime(instant: Instant) -> datetime:
    """The instant as an aware datetime in UTC, exact to the microsecond.

    >>> to_datetime(Instant(1_000_000)).isoformat()
    '1970-01-01T00:00:01+00:00'
    """
    return _EPOCH + timedelta(microseconds=instant)


def from_datetime(moment: datetime) -> Instant:
    """The instant of an aware datetime of any zone. Raises ValueError for a naive one.

    >>> from_datetime(datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC))
    1000000
    """
    if moment.tzinfo is None:
        raise ValueError("a moment without a time zone is ambiguous")
    return Instant((moment - _EPOCH) // _MICROSECOND)


def format_instant(instant: Instant) -> str:
    """ISO 8601 in UTC with a ``Z``; a fraction only where there is one.

    >>> format_instant(Instant(1_500_000)), format_instant(Instant(0))
    ('1970-01-01T00:00:01.500000Z', '1970-01-01T00:00:00Z')
    """
    return to_datetime(instant).isoformat().replace("+00:00", "Z")


def parse_instant(text: str) -> Instant:
    """The instant of an ISO 8601 text; a text without an offset is read as UTC. Raises ValueError.

    >>> format_instant(parse_instant("2026-03-29T02:30+02:00"))
    '2026-03-29T00:30:00Z'
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return from_datetime(moment)
